"""A state machine that remembers what it executed, and where: the witness of `paxmux chaos`.

A value is an id of eight bytes, anything, and a CRC of both. The journal of a group is a row of
(instance, id) for each value, in the order of execution; its hash covers every byte of every value,
as in the yardstick's machine.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple
from zlib import crc32

from paxmux.engine.state_machine import StateMachine

ID_BYTES = 8
CRC_BYTES = 4
VALUE_MIN_BYTES = ID_BYTES + CRC_BYTES
DIGEST_BYTES = 16
ROW = struct.Struct("<QQ")
"""(instance, id)"""
_ASK = struct.Struct("<QI")
_HEAD = struct.Struct(f"<Q{DIGEST_BYTES}s")
_PLACE = struct.Struct("<QI").pack

Row = tuple[int, int]


class Page(NamedTuple):
    """What one query answers."""

    rows: int
    """Rows of the whole journal."""
    digest: str
    """Hash of all values executed, in hex."""
    page: list[Row]
    """(instance, id) of the rows that were asked for."""


class Journal(StateMachine):
    """One journal for each group, in memory: after a restart it is made again from the log."""

    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self._rows = bytearray()
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """Write a row; raises, and so stops this machine, if the value is not as it was written."""
        value_id = read_id(value)
        self._hash.update(_PLACE(instance_id, len(value)))
        self._hash.update(value)
        self._rows += ROW.pack(instance_id, value_id)
        return None

    def query(self, request: bytes) -> bytes:
        """A page of the journal; see `ask_page` and `read_page`."""
        return pack_page(self._rows, self._hash.digest(), request)


def make_value(value_id: int, padding: bytes) -> bytes:
    """The value of an id."""
    body = value_id.to_bytes(ID_BYTES, "little") + padding
    return body + crc32(body).to_bytes(CRC_BYTES, "little")


def read_id(value: bytes) -> int:
    """The id of a value; ValueError if its bytes are not those that were written."""
    if len(value) < VALUE_MIN_BYTES or crc32(value[:-CRC_BYTES]) != int.from_bytes(
        value[-CRC_BYTES:], "little"
    ):
        raise ValueError(f"a value of {len(value)} bytes that nobody wrote so")
    return int.from_bytes(value[:ID_BYTES], "little")


def ask_page(first: int, count: int) -> bytes:
    """The request for `count` rows from row `first` on; 0 rows ask for count and hash alone."""
    return _ASK.pack(first, count)


def pack_page(rows: bytes | bytearray, digest: bytes, request: bytes) -> bytes:
    """The answer to `ask_page` from a journal's rows and hash."""
    first, count = _ASK.unpack(request)
    page = rows[first * ROW.size : (first + count) * ROW.size]
    return _HEAD.pack(len(rows) // ROW.size, digest) + page


def read_page(answer: bytes) -> Page:
    """What the machine answered."""
    rows, digest = _HEAD.unpack_from(answer)
    return Page(rows, digest.hex(), list(ROW.iter_unpack(memoryview(answer)[_HEAD.size :])))
