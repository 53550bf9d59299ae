"""What an opened log does before anyone may use it: read the tail, judge its end, cut what is torn.

Where the good batches end there is the end of the log, with a torn tail behind it, or a *gap*: damage. It
is a gap if anything proves that more was durable: a batch or segment behind it, the index, the mark of a
clean stop, a segment that is missing or cut short. A tail is overwritten with zeros, so that its bytes can
never again be taken for batches; and what survives without proof that it was durable is written once more
and synced before it is reported, for it may exist in the page cache alone.

Behind a gap recovery goes on with the next good batch. What was in it is lost: values, which others can be
asked for, and promises, unless a segment is opened behind it, which says them all again. If none is, the
log is in doubt. What is damaged stays as it is; the log goes on in a new segment, which says so.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, NamedTuple

from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage.flusher import Flusher
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.place import IndexUnusable, Place, StoredIndex
from paxmux.plugins.storage.record import OFFSET_BITS, OFFSET_MASK, OPENS_SEGMENT, position
from paxmux.plugins.storage.scan import Batch, Rest, next_batch, read_batches, read_opening, read_rest
from paxmux.plugins.storage.segment_file import (
    HEADER_BYTES,
    PIECE_BYTES,
    ZEROS,
    SegmentFile,
    segment_path,
)

REBUILD_CHUNKS: Final = 4096
"""Waiting chunks at which a long recovery stores what it has, so that memory stays bounded."""
SECTOR_BYTES: Final = 4096
"""What a disk cannot read is left out in pieces of this size."""
WORDS_MAX: Final = 20
"""Gaps that are named in the log of events."""

_log = logging.getLogger("paxmux")


class Recovered(NamedTuple):
    """Where the log goes on."""

    segment: SegmentFile
    offset: int
    reserved: SegmentFile | None
    """The next segment, if an earlier life has made it."""
    records: int
    cut_bytes: int
    gaps: int
    """Places at which something durable is missing."""
    doubt: str | None
    """Why promises may be lost: the log must go on in a new segment that says so, before anything else."""


class Recovery:
    """One recovery of one log."""

    def __init__(
        self, place: Place, table: GroupTable, index: StoredIndex, flusher: Flusher, proven: int = 0
    ) -> None:
        """
        Args:
            place: of the log; has at least one segment, and loses those that are torn.
            table: takes in what is found.
            index: open; says where to start.
            flusher: of `table` into `index`.
            proven: the log was durable up to here, as somebody said who can be asked no more.
        """
        self._place = place
        self._segments = place.segments
        self._table = table
        self._index = index
        self._flusher = flusher
        self._oldest = next(iter(place.segments))
        self._folder = place.segments[self._oldest].path.parent
        self._proven = max(index.proven, place.mark or 0, proven)
        self._records = 0
        self._gaps = 0
        self._doubt: str | None = None
        """Of the first gap since a segment was opened."""
        self._rests: dict[int, Rest] = {}

    def run(self) -> Recovered:
        """Do it.

        Raises:
            StorageDamaged: the log says nothing of what it has promised; nothing has been changed.
            IndexUnusable: nothing but a look at the whole log will do.
            OSError: the disk failed under a write.
        """
        try:
            number, offset = self._scan()
            if self._table.gap:
                # No batch behind it tells what was in it.
                self._table.lose_systems()
            self._table.systems = max(0, self._table.systems)
            if self._table.oldest < self._oldest:
                self._lose(position(self._table.oldest, 0), "missing, and needed", values_only=True)
            clean = self._clean(number, offset)
            cut = 0 if clean else self._settle_end(number, offset)
            segment = self._segments.get(number)
            if segment is None:
                segment = SegmentFile(self._path(number), number, 0, 0)
            reserved = self._segments.get(number + 1)
            return Recovered(segment, offset, reserved, self._records, cut, self._gaps, self._doubt)
        finally:
            self._place.release()

    def _scan(self) -> tuple[int, int]:
        """Take in all good batches from the indexed position on; (segment, offset) where they end."""
        start = self._index.position
        if start is None:
            start = position(self._first(), HEADER_BYTES)
        elif start >> OFFSET_BITS < self._oldest:
            # Older than what is there: the segments say themselves whether one is missing.
            raise IndexUnusable(f"it goes up to segment {start >> OFFSET_BITS}, the oldest is {self._oldest}")
        number, offset = start >> OFFSET_BITS, start & OFFSET_MASK
        while True:
            segment = self._segments.get(number)
            if segment is not None:
                for batch in read_batches(self._read, segment, offset):
                    self._take(batch, number)
                    offset = batch.end
            if self._continues(number, offset):
                number, offset = number + 1, HEADER_BYTES
                continue
            behind = self._behind_gap(number, offset)
            if behind is None:
                return number, offset
            number, offset = behind

    def _clean(self, number: int, offset: int) -> bool:
        """Whether the last process has left the log just so."""
        return position(number, offset) == self._place.mark and number in self._segments and not self._gaps

    def _first(self) -> int:
        """The segment where a look at the whole log begins; one that is missing if the first that is there
        cannot be all that there was."""
        first = min([self._oldest, *self._place.lost])
        if first and first in self._segments and read_opening(self._read, self._segments[first]) is None:
            return first - 1
        return first

    def _take(self, batch: Batch, number: int) -> None:
        self._proven = max(self._proven, batch.synced)
        if batch.flags & OPENS_SEGMENT:
            # It says again what every group had promised.
            self._doubt = None
        begin = position(number, batch.begin)
        if (
            self._table.waiting_chunks >= REBUILD_CHUNKS
            and self._proven >= begin
            # The index must never cover what is not known to be durable, nor a gap that nobody has told of.
            and self._doubt is None
        ):
            self._flusher.finish(begin)
        self._table.begin(batch.systems, opens=bool(batch.flags & OPENS_SEGMENT))
        self._table.note(batch.records, batch.positions)
        self._records += len(batch.records)

    def _continues(self, number: int, offset: int) -> bool:
        """Does the next segment go on from here?"""
        following = self._segments.get(number + 1)
        if following is None:
            return False
        opening = read_opening(self._read, following)
        # A segment is synced as a whole before the next one is opened.
        return opening is not None and opening.synced == position(number, offset)

    # Gaps

    def _behind_gap(self, number: int, offset: int) -> tuple[int, int] | None:
        """Where to go on if this is not the end of the log; None if it is."""
        if self._clean(number, offset):
            return None
        here = position(number, offset)
        limit = self._limit(number, offset)
        if limit < here or (limit == here and number in self._segments and number not in self._place.lost):
            return None
        if limit == here and self._doubt is not None:
            # What is missing is known to be; nothing is behind it.
            return None
        self._lose(here, self._reason(number, limit))
        if limit == here:
            return None
        last, end = limit >> OFFSET_BITS, limit & OFFSET_MASK
        # Not the very place again: there is no batch, but there may be the header of one.
        offset += 1
        while number <= last:
            segment = self._segments.get(number)
            found = next_batch(self._read, segment, offset) if segment is not None else None
            if found is not None and position(number, found) <= limit:
                return number, found
            number, offset = number + 1, HEADER_BYTES
        return last, end

    def _limit(self, number: int, offset: int) -> int:
        """Up to where the log was durable, as anything here or behind it says."""
        limit = self._proven
        lost = [each for each in self._place.lost if each >= number]
        later = [each for each in self._segments.values() if each.number > number]
        for each in later:
            opening = read_opening(self._read, each)
            if opening is not None:
                return max(limit, opening.synced)
        segment = self._segments.get(number)
        if segment is None or lost:
            limit = max(limit, position(max([number, *lost]), HEADER_BYTES), position(number, offset))
        if later and number + 1 not in self._segments:
            # The one behind it was made when this one was opened.
            limit = max(limit, position(number + 1, HEADER_BYTES))
        limit = max(limit, self._rest(segment, offset).proven if segment is not None else 0)
        return max([limit, *[self._rest(each, HEADER_BYTES).proven for each in later]])

    def _reason(self, number: int, limit: int) -> str:
        """What is wrong from segment `number` on, in words."""
        words = ["no good batch, though the log went on"]
        for each in range(number, (limit >> OFFSET_BITS) + 1):
            if each in self._place.lost:
                words.append(self._place.lost[each])
            elif each not in self._segments:
                words.append(f"{self._path(each)}: missing")
        return "; ".join(words[:WORDS_MAX])

    def _lose(self, where: int, reason: str, *, values_only: bool = False) -> None:
        """Something durable is missing from a position on.

        Raises:
            IndexUnusable: the index has states that are newer than the position that it goes up to: which of
                their values are the newest ones is known only after a look at the whole log.
        """
        if self._index.position is not None and not values_only:
            # Before what it proves goes with it.
            self._place.write_mark(self._proven)
            raise IndexUnusable("the log behind it is damaged")
        words = f"{self._path(where >> OFFSET_BITS)}, offset {where & OFFSET_MASK}: {reason}"
        self._gaps += 1
        if self._gaps <= WORDS_MAX:
            _log.error("%s", words)
        if not values_only:
            self._table.skip()
            self._doubt = self._doubt or words

    # The end

    def _settle_end(self, number: int, offset: int) -> int:
        """Make the log durable up to here, and cut what is behind; bytes cut."""
        segment = self._segments.get(number)
        rest = self._rest(segment, offset) if segment is not None else Rest(offset, 0)
        torn: list[SegmentFile] = []
        cut = rest.end - offset
        for each in self._segments.values():
            if each.number > number:
                end = self._rest(each, HEADER_BYTES).end
                if end > HEADER_BYTES or each.number > number + 1 or self._doubt is not None:
                    torn.append(each)
                    cut += end - HEADER_BYTES
        if torn:
            # Durable before the log goes on: with it, the segment would no longer fit its neighbour.
            self._place.remove(torn)
        if segment is not None:
            self._rewrite(segment, max(HEADER_BYTES, self._proven - position(number, 0)), offset)
            if self._doubt is None:
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

    # Bytes

    def _rest(self, segment: SegmentFile, offset: int) -> Rest:
        """`read_rest`, once for each segment: the end of the log is looked for from one place alone."""
        found = self._rests.get(segment.number)
        if found is None or found.end < offset:
            found = self._rests[segment.number] = read_rest(self._read, segment, offset)
        return found

    def _read(self, segment: SegmentFile, offset: int, length: int) -> bytes:
        """Bytes of a segment; zeros for what the disk cannot read."""
        try:
            return self._place.read(segment, offset, length)
        except StorageDamaged as error:
            if length <= SECTOR_BYTES:
                _log.error("%s", error)
                return ZEROS[: min(length, segment.size - offset)]
        end = min(offset + length, segment.size)
        return b"".join(
            [self._read(segment, at, min(SECTOR_BYTES, end - at)) for at in range(offset, end, SECTOR_BYTES)]
        )

    def _path(self, number: int) -> Path:
        return segment_path(self._folder, number)
