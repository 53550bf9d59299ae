"""A state machine that keeps what masters write to it, each in its own term: the witness of their reigns.

Decides the bytes of values and answers. Whoever reads it can tell whether terms ever went back, and whether
two nodes ever wrote in one term: the log is common to all, so that what it says is so for everybody.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, NamedTuple

from paxmux.engine.errors import Refused
from paxmux.engine.state_machine import StateMachine

PAGE_ROWS: Final = 50_000
DIGEST_BYTES: Final = 16
ASK_MARK: Final = b""
"""The query for count and hash of what was executed."""
_VALUE: Final = struct.Struct("<QIQ")
_ROW: Final = struct.Struct("<QQIQ")
_PAGE: Final = struct.Struct("<Q")
_MARK: Final = struct.Struct(f"<Q{DIGEST_BYTES}s")


class Row(NamedTuple):
    """One fenced write that was executed."""

    instance: int
    term: int
    writer: int
    number: int
    """The writer's first one is 1."""


class Terms(StateMachine):
    """The rows of one group, in memory."""

    smid = 2

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self._rows = bytearray()
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """Keep one more row."""
        if len(value) != _VALUE.size:
            raise Refused(f"expected {_VALUE.size} bytes, got {len(value)}")
        row = _ROW.pack(instance_id, *_VALUE.unpack(value))
        self._rows += row
        self._hash.update(row)
        return None

    def query(self, request: bytes) -> bytes:
        """The rows from the one whose number is asked for, at most `PAGE_ROWS`; for `ASK_MARK`, count and
        hash of all."""
        if request == ASK_MARK:
            return _MARK.pack(len(self._rows) // _ROW.size, self._hash.digest())
        (first,) = _PAGE.unpack(request)
        return bytes(self._rows[first * _ROW.size : (first + PAGE_ROWS) * _ROW.size])


def make_value(term: int, writer: int, number: int) -> bytes:
    """What a master writes."""
    return _VALUE.pack(term, writer, number)


def ask_rows(first: int) -> bytes:
    """The query for rows from that one on; the first is 0."""
    return _PAGE.pack(first)


def read_rows(answer: bytes) -> list[Row]:
    """The rows of a page."""
    return [Row(*row) for row in _ROW.iter_unpack(answer)]


def read_mark(answer: bytes) -> tuple[int, str]:
    """Count and hash, in hex, from the answer to `ASK_MARK`."""
    count, digest = _MARK.unpack(answer)
    return count, digest.hex()
