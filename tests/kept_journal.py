"""A journal that a killed worker keeps: so that its successor need not execute the whole log again.

The rows of a group lie in a file, one write for each instance. What the kernel has taken outlives the
process, and a write that was cut off is cut away: the last row of each instance has a mark.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from paxmux.engine.state_machine import StateMachine
from paxmux.tools.journal_machine import ROW, pack_page, read_id
from paxmux.tools.processes import MARK

_LAST = 1 << 63


class KeptJournal(StateMachine):
    """`Journal`, kept. A node's own folder is named by its mark."""

    smid = 1

    def __init__(self, group: int, folder: str) -> None:
        super().__init__(group)
        place = Path(folder) / os.environ[MARK].rpartition("/")[2]
        place.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(place / f"{group}.rows", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._rows = bytearray(os.pread(self._fd, os.fstat(self._fd).st_size, 0))
        self._open: list[int] = []
        del self._rows[len(self._rows) // ROW.size * ROW.size :]
        while self._rows and not self._last()[0] & _LAST:
            del self._rows[-ROW.size :]
        os.ftruncate(self._fd, len(self._rows))

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> None:
        self._open.append(read_id(value))

    def commit(self, instance_id: int) -> None:
        rows = [(instance_id, value_id) for value_id in self._open]
        rows[-1] = (instance_id | _LAST, self._open[-1])
        self._open = []
        data = b"".join([ROW.pack(*row) for row in rows])
        if os.write(self._fd, data) != len(data):
            raise OSError("a short write")
        self._rows += data

    def applied_instance_id(self) -> int | None:
        return self._last()[0] & ~_LAST if self._rows else None

    def query(self, request: bytes) -> bytes:
        return pack_page(self._rows, hashlib.blake2b(self._rows, digest_size=16).digest(), request)

    def close(self) -> None:
        os.close(self._fd)

    def _last(self) -> tuple[int, int]:
        instance, value_id = ROW.unpack_from(self._rows, len(self._rows) - ROW.size)
        return instance, value_id
