"""The scrub: reads old segments from beginning to end, at a bounded rate, and checks every byte of them.

What is written once and never read again can rot unseen until it is needed, and until no other copy is
left. So everything but the segment in use is looked through again and again. Promises and votes need no
scrub: they are said again at the start of each segment. What is bad is searched for values (`losses.py`).
It runs in slices between turns, gives the memory for what it has read back, and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final

from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage.losses import Losses
from paxmux.plugins.storage.place import Place
from paxmux.plugins.storage.record import OFFSET_MASK, position
from paxmux.plugins.storage.scan import Batch, next_batch, read_batches, read_opening
from paxmux.plugins.storage.segment_file import HEADER_BYTES, SegmentFile

SLICE_BYTES: Final = 256 << 10
"""Read in one slice; a larger batch is read alone."""
ROUND_S = 600.0
"""A round begins so long after the last one at the soonest: a small log need not be read all the time."""
KNOWN_MAX: Final = 4096
"""Damaged places that are remembered, so that each is told of once."""

_log = logging.getLogger("paxmux")


class Scrub:
    """The scrub of one log."""

    def __init__(self, place: Place, losses: Losses, *, bytes_per_s: int, clock: Callable[[], float]) -> None:
        """
        Args:
            place: of the log, recovered.
            losses: searches what is damaged.
            bytes_per_s: at most so much is read; 0: nothing.
            clock: seconds from any start, never backwards.
        """
        self.scrubbed_bytes = 0
        self.rounds = 0
        self.damaged = 0
        self._place = place
        self._losses = losses
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._not_before = clock()
        self._round_at = clock()
        self._number = -1
        """The segment that is read, or was last."""
        self._walk: Iterator[Batch] | None = None
        self._offset = 0
        """Up to where it was."""
        self._end = 0
        """Where its batches end."""
        self._known: dict[int, None] = {}

    def slice(self, current: int) -> float | None:
        """Do one slice; `current` is the segment that is written.

        Returns the seconds until the next one, None if there is nothing to read.
        """
        if not self._bytes_per_s:
            return None
        now = self._clock()
        if now < self._not_before:
            return self._not_before - now
        if self._walk is None and not self._next(current):
            return self._wait(now, current)
        segment = self._place.segments.get(self._number)
        if segment is None:
            # It was removed meanwhile.
            self._walk = None
            return 0.0
        begin = self._offset
        try:
            self._read(segment)
        except (StorageDamaged, OSError) as error:
            self._bad(segment, self._offset, self._offset + SLICE_BYTES, str(error))
            self._go_on(segment, self._offset + SLICE_BYTES)
        read = self._offset - begin
        self._place.drop_cache(segment, begin, read)
        self.scrubbed_bytes += read
        self._not_before = now + read / self._bytes_per_s
        return self._not_before - now

    def _next(self, current: int) -> bool:
        """Begin with the next segment; False if the round is over."""
        for number, segment in self._place.segments.items():
            if self._number < number < current:
                self._number = number
                self._end = self._end_of(segment)
                self._go_on(segment, HEADER_BYTES)
                return True
        return False

    def _wait(self, now: float, current: int) -> float | None:
        if self._number >= 0:
            self.rounds += 1
            self._number = -1
            self._not_before = max(now, self._round_at + ROUND_S)
            self._round_at = self._not_before
        return self._not_before - now if min(self._place.segments) < current else None

    def _end_of(self, segment: SegmentFile) -> int:
        """Where the batches of a segment end: the next one says so when it is opened."""
        following = self._place.segments.get(segment.number + 1)
        opening = read_opening(self._place.read, following) if following is not None else None
        if opening is None or opening.synced < position(segment.number, HEADER_BYTES):
            return segment.size
        return min(opening.synced & OFFSET_MASK, segment.size)

    def _go_on(self, segment: SegmentFile, offset: int) -> None:
        if offset >= self._end:
            self._walk = None
            return
        self._offset = offset
        self._walk = read_batches(self._place.read, segment, offset, SLICE_BYTES)

    def _read(self, segment: SegmentFile) -> None:
        """Check about a slice of batches, or what is in the place of one."""
        assert self._walk is not None
        begin = self._offset
        for batch in self._walk:
            self._offset = batch.end
            if self._offset >= self._end:
                self._walk = None
                return
            if self._offset - begin >= SLICE_BYTES:
                return
        stop = min(self._offset + SLICE_BYTES, self._end)
        found = next_batch(self._place.read, segment, self._offset + 1, stop)
        bad, behind = self._offset, stop if found is None else found
        if self._end < segment.size or any(self._place.read(segment, bad, behind - bad)):
            # Where nothing says where the batches end, zeros are no damage.
            self._bad(segment, bad, behind, "no good batch")
        self._offset = behind
        self._go_on(segment, behind)

    def _bad(self, segment: SegmentFile, begin: int, end: int, reason: str) -> None:
        at = position(segment.number, begin)
        self._losses.search(at, position(segment.number, min(end, segment.size)))
        if at not in self._known:
            self.damaged += 1
            _log.error("%s, offset %d: found by the scrub: %s", segment.path, begin, reason)
            self._known[at] = None
            if len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]
