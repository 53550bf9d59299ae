"""What an opened log does before anyone may use it: read the tail, judge its end, cut what is torn.

The end of the good batches is either the end of the log, with a torn tail behind it, or damage. It
is damage if anything proves that more was durable: a later batch's header, the index, the mark of
a clean stop. Nothing is then changed. A tail is overwritten with zeros, so that its bytes can never
again be taken for batches; and what survives without proof that it was durable is written once more
and synced before it is reported, for it may exist in the page cache alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage.flusher import Flusher
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.place import IndexUnusable, Place, StoredIndex
from paxmux.plugins.storage.record import (
    OFFSET_BITS,
    OFFSET_MASK,
    OPENING,
    OPENS_SEGMENT,
    position,
)
from paxmux.plugins.storage.scan import Batch, read_batches, read_opening, read_rest
from paxmux.plugins.storage.segment_file import (
    HEADER_BYTES,
    PIECE_BYTES,
    ZEROS,
    SegmentFile,
    segment_name,
)

REBUILD_CHUNKS: Final = 4096
"""Waiting chunks at which a long recovery stores what it has, so that memory stays bounded."""


class Recovered(NamedTuple):
    """Where the log goes on."""

    segment: SegmentFile
    offset: int
    reserved: SegmentFile | None
    """The next segment, if an earlier life has made it."""
    records: int
    cut_bytes: int


class Recovery:
    """One recovery of one log."""

    def __init__(
        self,
        place: Place,
        table: GroupTable,
        index: StoredIndex,
        flusher: Flusher,
    ) -> None:
        """
        Args:
            place: of the log; has at least one segment, and loses those that are torn.
            table: takes in what is found.
            index: open; says where to start.
            flusher: of `table` into `index`.
        """
        self._place = place
        self._segments = place.segments
        self._table = table
        self._index = index
        self._flusher = flusher
        self._oldest = next(iter(place.segments))
        self._proven = max(index.proven, place.mark or 0)
        self._records = 0

    def run(self) -> Recovered:
        """Do it.

        Raises:
            StorageDamaged: something that was durable is missing or bad; nothing has been changed.
            OSError: the disk failed under a write.
        """
        try:
            number, offset = self._scan()
            clean = position(number, offset) == self._place.mark
            cut = 0 if clean else self._settle_end(number, offset)
            self._check_oldest(number)
            return Recovered(
                self._segments[number], offset, self._segments.get(number + 1), self._records, cut
            )
        finally:
            self._place.release()

    def _scan(self) -> tuple[int, int]:
        """Take in all good batches from the indexed position on; (segment, offset) where they end."""
        start = self._index.position
        if start is None:
            start = position(self._oldest, HEADER_BYTES)
        number, offset = start >> OFFSET_BITS, start & OFFSET_MASK
        if number not in self._segments:
            if number < self._oldest:
                # Older than what is there: the segments say themselves whether one is missing.
                raise IndexUnusable(f"it goes up to segment {number}, the oldest one is {self._oldest}")
            raise StorageDamaged(f"{self._missing(number)}: missing, though the index covers it")
        while True:
            for batch in read_batches(self._place.read, self._segments[number], offset):
                self._take(batch, number)
                offset = batch.end
            if not self._continues(number, offset):
                return number, offset
            number, offset = number + 1, HEADER_BYTES

    def _take(self, batch: Batch, number: int) -> None:
        self._proven = max(self._proven, batch.synced)
        begin = position(number, batch.begin)
        if self._table.waiting_chunks >= REBUILD_CHUNKS and self._proven >= begin:
            # The index must never cover what is not known to be durable.
            self._flusher.finish(begin)
        self._table.note(batch.records, batch.positions)
        self._records += len(batch.records)

    def _continues(self, number: int, offset: int) -> bool:
        """Does the next segment go on from here?"""
        following = self._segments.get(number + 1)
        if following is None:
            return False
        opening = read_opening(self._place.read, following)
        if opening is None:
            return False
        # A segment is synced as a whole before the next one is opened.
        if not opening.flags & OPENS_SEGMENT or opening.synced != position(number, offset):
            raise self._damage(number, offset, opening.synced)
        return True

    def _settle_end(self, number: int, offset: int) -> int:
        """Make sure that the log ends here, make it durable, and cut what is behind; bytes cut."""
        segment = self._segments[number]
        rest = read_rest(self._place.read, segment, offset)
        proven = max(self._proven, rest.proven)
        later = [each for each in self._segments.values() if each.number > number]
        torn: list[SegmentFile] = []
        cut = rest.end - offset
        for each in later:
            beyond = read_rest(self._place.read, each, HEADER_BYTES)
            proven = max(proven, beyond.proven)
            if beyond.end > HEADER_BYTES or each.number > number + 1:
                torn.append(each)
                cut += beyond.end - HEADER_BYTES
        if proven > position(number, offset):
            raise self._damage(number, offset, proven)
        if torn:
            # Durable before the log goes on: with it, the segment would no longer fit its neighbour.
            self._place.remove(torn)
        self._rewrite(segment, max(HEADER_BYTES, proven - position(number, 0)), offset)
        self._zero(segment, offset, rest.end)
        self._place.sync(segment)
        return cut

    def _rewrite(self, segment: SegmentFile, begin: int, end: int) -> None:
        """Write the same bytes again: after a failed sync the page cache may call them clean."""
        place = self._place
        for offset in range(begin, end, PIECE_BYTES):
            place.write(segment, offset, place.read(segment, offset, min(PIECE_BYTES, end - offset)))

    def _zero(self, segment: SegmentFile, begin: int, end: int) -> None:
        for offset in range(begin, end, PIECE_BYTES):
            self._place.write(segment, offset, ZEROS[: min(PIECE_BYTES, end - offset)])

    def _check_oldest(self, number: int) -> None:
        """The log says, at the start of the segment in use or later, which is the oldest one that it
        needs; it must be there."""
        segment = self._segments[number]
        opening = read_opening(self._place.read, segment)
        if opening is None:
            if number == 0:
                return
            raise StorageDamaged(f"{segment.path}, offset {HEADER_BYTES}: the segment has no start")
        if not opening.records or opening.records[0][0] != OPENING:
            raise StorageDamaged(f"{segment.path}, offset {HEADER_BYTES}: not the start of a segment")
        needed = max(self._table.oldest, opening.records[0][2])
        if self._oldest > needed:
            raise StorageDamaged(f"{self._missing(needed)}: missing, though it is needed")

    def _missing(self, number: int) -> Path:
        return self._segments[self._oldest].path.with_name(segment_name(number))

    def _damage(self, number: int, offset: int, proven: int) -> StorageDamaged:
        return StorageDamaged(
            f"{self._segments[number].path}, offset {offset}: no good batch, though the log was durable"
            f" up to segment {proven >> OFFSET_BITS}, offset {proven & OFFSET_MASK}"
        )
