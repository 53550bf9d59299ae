"""A state machine that remembers what it executed, and where: the witness of `paxmux chaos`.

A value's first eight bytes are its id. The journal of a group is a row of (instance, id), in the
order of execution; its hash covers every byte of every value, as in the yardstick's machine.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from paxmux.engine.errors import Refused
from paxmux.engine.state_machine import StateMachine

ID_BYTES = 8
ROW = struct.Struct("<QQ")
"""(instance, id)"""
_ASK = struct.Struct("<QI")
_HEAD = struct.Struct("<Q16s")
_PLACE = struct.Struct("<QI").pack


class Page(NamedTuple):
    """What one query answers."""

    rows: int
    """Rows of the whole journal."""
    digest: str
    """Hash of all values executed, in hex."""
    page: list[tuple[int, int]]
    """(instance, id) of the rows that were asked for."""


class Journal(StateMachine):
    """One journal for each group, in memory: after a restart it is made again from the log."""

    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self._rows = bytearray()
        self._hash = hashlib.blake2b(digest_size=16)

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """Write a row; answers how many rows there are."""
        if len(value) < ID_BYTES:
            raise Refused(f"a value of {len(value)} bytes holds no id of {ID_BYTES}")
        self._hash.update(_PLACE(instance_id, len(value)))
        self._hash.update(value)
        self._rows += ROW.pack(instance_id, int.from_bytes(value[:ID_BYTES], "little"))
        return (len(self._rows) // ROW.size).to_bytes(8, "little")

    def query(self, request: bytes) -> bytes:
        """A page of the journal; see `ask_page` and `read_page`."""
        first, count = _ASK.unpack(request)
        page = self._rows[first * ROW.size : (first + count) * ROW.size]
        return _HEAD.pack(len(self._rows) // ROW.size, self._hash.digest()) + page


def ask_page(first: int, count: int) -> bytes:
    """The request for `count` rows from row `first` on; 0 rows ask for count and hash alone."""
    return _ASK.pack(first, count)


def read_page(answer: bytes) -> Page:
    """What the machine answered."""
    rows, digest = _HEAD.unpack_from(answer)
    return Page(rows, digest.hex(), list(ROW.iter_unpack(memoryview(answer)[_HEAD.size :])))
