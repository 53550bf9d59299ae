"""The lease board: who is master of each group, in shared memory, so that asking costs no call to a worker.

It decides how rows lie in memory and when one may be believed. One memfd, made by the node and handed to each
worker at boot, little-endian, in words of 64 bits:

    words 0 .. 255   for each worker, how often it has changed what somebody may wait for
    row of group g   sequence | node | version | term | until | lease | check | 0

A row has one writer, the worker that hosts the group; the node writes it while no worker does. The sequence
is odd while a row is being written and even afterwards. `check` is a CRC-32 over the words before it, begun
with the group. A reader copies a row, and believes the copy if its sequence is even and still the same
afterwards, and the check fits: so a torn row, one that a killed worker has left half written, and one that
something else has overwritten are all alike nobody's. So is a row whose lease ends later than any could.

`until` is on `engine.clock`. Whoever reads compares it with the time now: the rows of a worker that is dead,
stopped or slow run out by themselves.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from struct import Struct
from typing import Final, NamedTuple

from paxmux.engine.checksum import crc32
from paxmux.engine.errors import PaxmuxError

WORKERS_MAX: Final = 256
LEASE_MAX_NS: Final = 3_600_000_000_000
"""No lease is longer; see `engine.bounds`."""
READ_TRIES: Final = 16
"""A row is written within microseconds; one that stays torn for so many looks has lost its writer."""

_WORDS: Final = 8
_ROW_BYTES: Final = 8 * _WORDS
_HEAD_BYTES: Final = 8 * WORKERS_MAX
_CHECKED_BYTES: Final = 48
_ROW: Final = Struct("<8Q")
_BODY: Final = Struct("<6Q")
_U64: Final = (1 << 64) - 1
_BLANK: Final = bytes(_ROW_BYTES)
_NONE: Final = _U64
"""Stands for -1."""


class LeaseRow(NamedTuple):
    """What is known here of a group's master."""

    node: int
    """The master that is recorded, 0 for none; its lease may be over."""
    version: int
    """Instance of the operation that said so last; -1 before the first."""
    term: int
    """Instance of the first operation of its unbroken reign; -1 for none."""
    until_ns: int
    """The lease is believed up to here. The owner's own end is earlier than the one that others wait for."""
    lease_ns: int
    """Its length."""


NOBODY: Final = LeaseRow(0, -1, -1, 0, 0)


class LeaseBoard:
    """One process's view of the board."""

    def __init__(self, fd: int, groups: int) -> None:
        """Map the board behind `fd`, which stays the caller's.

        Raises:
            PaxmuxError: it is no board of so many groups.
        """
        size = _HEAD_BYTES + _ROW_BYTES * groups
        if os.fstat(fd).st_size != size:
            raise PaxmuxError(
                f"a lease board of {groups} groups has {size} bytes, not {os.fstat(fd).st_size}"
            )
        self.groups = groups
        self._closed = False
        self._map = mmap.mmap(fd, size)
        self._bytes = memoryview(self._map)
        self._slots = self._bytes.cast("Q")

    @staticmethod
    def create(groups: int) -> int:
        """A new board on which nobody is master; returns its descriptor, to be closed by the caller."""
        fd = os.memfd_create("paxmux-leases", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _HEAD_BYTES + _ROW_BYTES * groups)
            # A mapping of what is no longer there would end the process that reads it.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def read(self, group: int) -> LeaseRow:
        """The row of a group; `NOBODY` if it cannot be believed."""
        return self.look(group) or NOBODY

    def look(self, group: int) -> LeaseRow | None:
        """The row of a group; None if it cannot be believed, or the board is closed."""
        try:
            return self._look(group)
        except ValueError:
            # Whoever asks may be another thread than the one that closes.
            if self._closed:
                return None
            raise

    def _look(self, group: int) -> LeaseRow | None:
        begin = _HEAD_BYTES + _ROW_BYTES * group
        slots, word = self._slots, begin >> 3
        for _ in range(READ_TRIES):
            copy = bytes(self._bytes[begin : begin + _ROW_BYTES])
            sequence, node, version, term, until, lease, check, _ = _ROW.unpack(copy)
            if not sequence & 1 and slots[word] == sequence:
                if check != crc32(copy[:_CHECKED_BYTES], group):
                    # So is a row that was never written.
                    if copy == _BLANK:
                        return NOBODY
                    continue
                return LeaseRow(node, _signed(version), _signed(term), until, lease)
        return None

    def held(self, group: int, now_ns: int) -> LeaseRow:
        """The row of a group whose lease is believed now; else `NOBODY`."""
        row = self.read(group)
        return row if now_ns < row.until_ns <= now_ns + LEASE_MAX_NS else NOBODY

    def write(self, group: int, row: LeaseRow, worker: int) -> None:
        """Only for the one process that hosts the group. `worker`: its number."""
        before = self.read(group)
        begin = _HEAD_BYTES + _ROW_BYTES * group
        slots, word = self._slots, begin >> 3
        # A writer before may have died between the two.
        sequence = slots[word] | 1
        slots[word] = sequence
        sequence = (sequence + 1) & _U64
        node, version, term, until, lease = row
        body = _BODY.pack(sequence, node, version & _U64, term & _U64, until, lease)
        self._bytes[begin + 8 : begin + _CHECKED_BYTES] = body[8:]
        slots[word + 6] = crc32(body, group)
        slots[word] = sequence
        if before.node != node or before.term != term or until < before.until_ns:
            slots[worker] = (slots[worker] + 1) & _U64

    def expire(self, group: int, worker: int) -> None:
        """The group's lease is no longer to be believed here; who had it stays recorded. Only for a process
        that may write the row."""
        self.write(group, self.read(group)._replace(until_ns=0), worker)

    def changes(self) -> bytes:
        """Differs from what it was if some master, some term or the end of some lease has changed, but for
        leases that were made longer."""
        return bytes(self._bytes[:_HEAD_BYTES])

    def close(self) -> None:
        """Unmap; from here on nobody is master."""
        self._closed = True
        self._slots.release()
        self._bytes.release()
        self._map.close()


def _signed(word: int) -> int:
    return -1 if word == _NONE else word
