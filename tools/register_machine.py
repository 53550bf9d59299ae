"""A state machine of named registers, for histories that are checked for linearizability.

Decides the bytes of commands and answers. A command is msgpack: `["put", key, value]`, `["delete", key]`
or `["cas", key, expected, new]`; a query is the key alone. An answer says what the register held
before. What is no command is refused, alike on every replica.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import msgspec

from paxmux.engine.errors import Refused
from paxmux.engine.state_machine import StateMachine

DIGEST_BYTES = 16
ASK_MARK = b""
"""The query for count and hash of what was executed."""
_MARK = struct.Struct(f"<Q{DIGEST_BYTES}s")
_PLACE = struct.Struct("<QI").pack

_encode = msgspec.msgpack.Encoder().encode
_command = msgspec.msgpack.Decoder(list[str | None]).decode
_answer: Callable[[bytes], str | None] = msgspec.msgpack.Decoder(str | None).decode


class Registers(StateMachine):
    """The registers of one group, in memory: after a restart they are made again from the log."""

    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self._values: dict[str, str] = {}
        self._count = 0
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """Carry out a command; what the register held before is the result."""
        self._count += 1
        self._hash.update(_PLACE(instance_id, len(value)))
        self._hash.update(value)
        try:
            words = _command(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Refused(f"no command of a register: {error}") from None
        match words:
            case ["put", str(key), str(new)]:
                found = self._values.get(key)
                self._values[key] = new
            case ["delete", str(key)]:
                found = self._values.pop(key, None)
            case ["cas", str(key), expected, str(new)]:
                found = self._values.get(key)
                if found == expected:
                    self._values[key] = new
            case _:
                raise Refused(f"no command of a register: {words!r:.100}")
        return _encode(found)

    def query(self, request: bytes) -> bytes:
        """What a register holds; for `ASK_MARK`, count and hash of all values executed."""
        if request == ASK_MARK:
            return _MARK.pack(self._count, self._hash.digest())
        return _encode(self._values.get(request.decode()))


def put(key: str, value: str) -> bytes:
    """The command that writes a value."""
    return _encode(["put", key, value])


def delete(key: str) -> bytes:
    """The command that empties a register."""
    return _encode(["delete", key])


def cas(key: str, expected: str | None, new: str) -> bytes:
    """The command that writes `new` if the register holds `expected`; None: if it is empty."""
    return _encode(["cas", key, expected, new])


def get(key: str) -> bytes:
    """The query for one register."""
    return key.encode()


def read_found(answer: bytes) -> str | None:
    """What the register held before a command, or holds at a query."""
    return _answer(answer)


def read_mark(answer: bytes) -> tuple[int, str]:
    """Count and hash, in hex, from the answer to `ASK_MARK`."""
    count, digest = _MARK.unpack(answer)
    return count, digest.hex()
