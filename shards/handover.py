"""What two workers say to each other while a group moves from one to the other, and through what.

The node makes a pair of stream sockets for each move and gives an end to each worker. Towards the
worker that has the group goes one `Begin`; from it come `Values`, and, once the node has told it to let
go, what else the group is: `LetGo`, `Owned`, `Waiting`, `Forwards`, the last `Values`, and `State` as the
last word. `Terms` come before the values that they are about.
Each message is `u32 length | msgpack`. Nothing here blocks; how much waits in a sender is its user's to
bound, by `backlog`.
"""

from __future__ import annotations

import socket
from struct import Struct

import msgspec

from paxmux.engine.paxos.group import Owned as Proposal
from paxmux.engine.paxos.value import Entry
from paxmux.shards.requests import Call

RECEIVE_BYTES = 1 << 20
"""Taken from the socket at a time."""
MESSAGE_MAX_BYTES = 1 << 30
"""What a length can be: a single value may have 100 MiB, with its context twice as much."""
_LENGTH = Struct("<I")


class Begin(msgspec.Struct, tag=1, array_like=True, forbid_unknown_fields=True):
    """Send decided values from the first one on that there is."""


class Values(msgspec.Struct, tag=2, array_like=True, forbid_unknown_fields=True):
    """The next decided values: (instance, round, node, value)."""

    items: list[tuple[int, int, int, bytes]]
    left: int
    """How many more are decided, as far as the sender knows."""


class LetGo(msgspec.Struct, tag=3, array_like=True, forbid_unknown_fields=True):
    """The sender takes no part any more. It has executed all instances below `applied`, whose values are
    sent, and answered whom they concern; machines that keep their state are closed there."""

    applied: int


class Owned(msgspec.Struct, tag=4, array_like=True, forbid_unknown_fields=True):
    """Proposals of this node, by seq: of a decided `instance` that is not executed, or (-1) not decided."""

    instance: int
    proposals: list[tuple[int, Proposal]]


class Waiting(msgspec.Struct, tag=5, array_like=True, forbid_unknown_fields=True):
    """Requests without an answer that are no proposals."""

    calls: list[Call]


class Forwards(msgspec.Struct, tag=7, array_like=True, forbid_unknown_fields=True):
    """What the sender knew of proposals that other nodes handed on; see `engine.paxos.forwarder`."""

    known_from: int
    marks: dict[int, list[int]]
    taken: dict[int, list[Entry]]


class Terms(msgspec.Struct, tag=8, array_like=True, forbid_unknown_fields=True):
    """In which instances fenced values are executed that come from here on: each (first instance, term). What
    came before that is not affected. Before `unclear_before` nobody knows."""

    terms: list[tuple[int, int]]
    unclear_before: int


class State(msgspec.Struct, tag=6, array_like=True, forbid_unknown_fields=True):
    """Where the group stands, as `HardState` says it: all of it is durable at the sender."""

    instance: int
    promised: tuple[int, int]
    accepted: tuple[int, int]
    value: bytes
    first: int
    """The first instance whose value the sender still has."""
    system_from: int = 0
    system: bytes = b""
    """State of the inner state machines, from that instance on."""


Message = Begin | Values | LetGo | Owned | Waiting | Forwards | Terms | State

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class HandoverLost(Exception):
    """Nothing can become of it: what came makes no sense, or cannot be taken in or sent."""


class HandoverClosed(HandoverLost):
    """The other end is closed. Whoever closed it has told the node why, or is dead, which the node sees."""


class HandoverSocket:
    """One end of it, for a worker's loop."""

    def __init__(self, fd: int) -> None:
        """Own `fd`."""
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._out = bytearray()
        self._in = bytearray()

    def fileno(self) -> int:
        """To be waited on."""
        return self._socket.fileno()

    @property
    def backlog(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._out)

    def send(self, message: Message) -> None:
        """Append a message to what `flush` sends."""
        data = _encode(message)
        self._out += _LENGTH.pack(len(data))
        self._out += data

    def flush(self) -> None:
        """Send as much as the other end takes now. Raises HandoverLost."""
        while self._out:
            try:
                sent = self._socket.send(self._out)
            except BlockingIOError:
                return
            except OSError as error:
                raise HandoverClosed(f"the other worker is gone: {error}") from error
            del self._out[:sent]

    def receive(self) -> list[Message]:
        """Messages that are there, of about `RECEIVE_BYTES` at most. Raises HandoverLost."""
        try:
            part = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise HandoverClosed(f"the other worker is gone: {error}") from error
        if not part:
            raise HandoverClosed("the other worker has closed its end")
        self._in += part
        messages: list[Message] = []
        at = 0
        while len(self._in) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._in, at)
            if length > MESSAGE_MAX_BYTES:
                raise HandoverLost(f"a message of {length} bytes")
            end = at + _LENGTH.size + length
            if len(self._in) < end:
                break
            try:
                messages.append(_decode(memoryview(self._in)[at + _LENGTH.size : end]))
            except msgspec.MsgspecError as error:
                raise HandoverLost(f"a message that is none: {error}") from error
            at = end
        del self._in[:at]
        return messages

    def close(self) -> None:
        """Close this end; the other one notices."""
        self._socket.close()
