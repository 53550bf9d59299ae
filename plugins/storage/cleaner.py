"""Makes room: removes the oldest segments as soon as nobody needs anything in them.

A segment is needed while a value in it is not forgotten, or is the open vote of its group. Usually all
groups move on together and the oldest segment is simply behind them. Where some are slow, what is left of
them is appended again, and only if the log is much larger than what lives in it: more than twice as large,
and three segments (`passes.py`).

It decides what goes; the log appends, syncs and states in a record of its own which segment is the oldest
that it needs. Only behind that record, durable, and behind an index that needs no older one is a segment
removed. It runs in slices between turns and never says what a group may forget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from paxmux.engine.storage import Record
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.losses import Losses
from paxmux.plugins.storage.passes import Passes
from paxmux.plugins.storage.place import Place
from paxmux.plugins.storage.record import (
    ACCEPT,
    HARD_STATE,
    LEARNED,
    OFFSET_BITS,
    OFFSET_MASK,
    OPENING,
    RECORD_BYTES,
    position,
)
from paxmux.plugins.storage.scan import Batch, next_batch, read_batches, read_opening
from paxmux.plugins.storage.segment_file import HEADER_BYTES, MAX_SEGMENT_BYTES

WALK_RECORDS: Final = 1024
"""Records looked at in one slice,"""
MOVE_BYTES: Final = 256 << 10
"""and bytes appended again: a single larger value goes alone."""
DAMAGE_WAIT_S: Final = 10.0
"""How long a segment waits for what was damaged in it to be somewhere else, before another look."""

_WITH_VALUE: Final = frozenset({ACCEPT, LEARNED})


class Slice(NamedTuple):
    """What a slice asks for."""

    records: list[Record]
    """To be appended and synced before the next slice."""
    pause_s: float | None
    """Until the next slice; None: not before something is appended."""


class Cleaner:
    """The cleaner of one log."""

    def __init__(
        self,
        place: Place,
        table: GroupTable,
        *,
        losses: Losses,
        segment_bytes: int,
        bytes_per_s: int,
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            place: of the log, recovered.
            table: of the log.
            losses: searches what is damaged.
            segment_bytes: how large its segments grow.
            bytes_per_s: at most so much is appended again or removed.
            clock: seconds from any start, never backwards.
        """
        self.on = True
        self.removed_segments = 0
        self.removed_bytes = 0
        self.trouble: str | None = None
        """Why nothing is cleaned any more: what should be moved cannot be read."""
        self._place = place
        self._table = table
        self._losses = losses
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._not_before = 0.0
        self._number = max(min(place.segments, default=0), table.oldest)
        """Nothing in the segments below is needed."""
        self._walk: Iterator[Batch] | None = None
        """Over segment `_number`, while what lives in it is moved,"""
        self._slow: frozenset[int] = frozenset()
        """which belongs to these groups,"""
        self._walked = 0
        """up to this offset."""
        self._moving = self._number
        """The segment of the last slice."""
        self._opened = -1
        self._instances: dict[int, int] = {}
        """How far each group was when the segment behind this one was opened,"""
        self._end = 0
        """and where this one ended: an offset."""
        self._passes = Passes(segment_bytes)

    def slice(self, current: int, indexed: int | None, *, taken_bytes: int, may_move: bool) -> Slice:
        """Do one slice; everything appended so far is durable.

        Args:
            current: the segment that is written.
            indexed: position up to which the index has the log.
            taken_bytes: what the log was given since it was opened, beside what was asked for here.
            may_move: there is room to append something again.

        Raises:
            StorageDamaged: what has to be moved cannot be read; nothing is cleaned any more.
            IndexUnusable: likewise.
        """
        if not self.on or self.trouble is not None:
            return Slice([], None)
        now = self._clock()
        if now < self._not_before:
            return Slice([], self._not_before - now)
        oldest = min(self._place.segments)
        if oldest < self._table.oldest:
            self._remove(oldest, now)
            return Slice([], self._not_before - now)
        if self._walk is not None:
            return self._move(now) if may_move else Slice([], None)
        self._number = max(self._number, oldest)
        last = min(current, indexed >> OFFSET_BITS) if indexed is not None else 0
        pause: float | None = None
        if self._number < last:
            self._slow = self._slow_groups(self._number)
            if not self._slow or self._number not in self._place.segments:
                self._number += 1
                return Slice([], 0.0)
            if may_move:
                pause = self._wait_s(taken_bytes, now)
                if pause == 0.0:
                    self._begin_walk(taken_bytes, now)
                    return Slice([], 0.0)
        self._moving = self._number
        if self._number > self._table.oldest:
            return Slice([(OPENING, 0, self._number, 0, 0, b"")], 0.0)
        return Slice([], pause)

    def repeat(self) -> None:
        """What the last slice asked for was not appended: look through its segment again."""
        self._walk = None
        self._number = self._moving

    def _remove(self, number: int, now: float) -> None:
        segment = self._place.segments[number]
        self._place.discard(segment)
        self.removed_segments += 1  # reach: segment-removed
        self.removed_bytes += segment.size
        self._spend(segment.size, now)

    def _spend(self, size: int, now: float) -> None:
        self._not_before = now + size / self._bytes_per_s

    def _slow_groups(self, number: int) -> frozenset[int]:
        """Groups that may have something in a segment that is not forgotten: those that had not come
        further, when the next one began, than what they keep."""
        if self._opened != number:
            segment = self._place.segments.get(number + 1)
            opening = read_opening(self._place.read, segment) if segment is not None else None
            if opening is None:
                # Damaged or missing. They have come further since; so more of them seem slow, none fewer.
                self._instances = {group: state.instance for group, state in self._table.groups.items()}
                self._end = MAX_SEGMENT_BYTES
            else:
                records = opening.records
                self._instances = {record[1]: record[2] for record in records if record[0] == HARD_STATE}
                self._end = opening.synced & OFFSET_MASK
            self._opened = number
        groups = self._table.groups
        return frozenset(
            [
                group
                for group, instance in self._instances.items()
                if group in groups and groups[group].first <= instance
            ]
        )

    def _wait_s(self, taken_bytes: int, now: float) -> float | None:
        total_bytes = sum(
            [each.size for each in self._place.segments.values() if each.number >= self._number]
        )
        return self._passes.wait_s(self._number, total_bytes, self._table.live_bytes, taken_bytes, now)

    def _begin_walk(self, taken_bytes: int, now: float) -> None:
        segment = self._place.segments[self._number]
        self._walk = read_batches(self._place.read, segment, HEADER_BYTES)
        self._walked = HEADER_BYTES
        self._passes.begin(max(self._place.segments), self._table.live_bytes, taken_bytes, now)

    def _move(self, now: float) -> Slice:
        """Go on through the segment, and collect what lives."""
        assert self._walk is not None
        self._moving = self._number
        records: list[Record] = []
        seen = size = 0
        through = True
        for batch in self._walk:
            self._walked = batch.end
            seen += len(batch.records)
            size += self._collect(batch, records)
            if seen >= WALK_RECORDS or size >= MOVE_BYTES:
                through = False
                break
        self._passes.moved(size)
        self._spend(size, now)
        if through:
            self._skip(now)
        return Slice(records, self._not_before - now)

    def _skip(self, now: float) -> None:
        """No batch follows: the segment is through, or damaged. It is kept while anything in the damage is
        needed: that is asked for from others, and then it is somewhere else."""
        segment = self._place.segments[self._number]
        end = min(self._end, segment.size)
        self._walk = None
        if self._walked >= end:
            self._number += 1
            return
        found = next_batch(self._place.read, segment, self._walked + 1, end)
        behind = end if found is None else found
        bad = position(segment.number, self._walked), position(segment.number, behind)
        if self._losses.holds_nothing(*bad):
            self._walked = behind
            self._walk = read_batches(self._place.read, segment, behind)
        else:
            self._losses.search(*bad)
            self._not_before = now + DAMAGE_WAIT_S

    def _collect(self, batch: Batch, records: list[Record]) -> int:
        table, slow = self._table, self._slow
        size = 0
        for (kind, group, instance, round_, node, value), at in zip(
            batch.records, batch.positions, strict=True
        ):
            if kind in _WITH_VALUE and group in slow and table.find(group, instance) == at:
                # A vote stays a vote; what is below the open instance is decided.
                kept = ACCEPT if at == table.groups[group].accepted_at else LEARNED
                records.append((kept, group, instance, round_, node, value))  # reach: value-moved
                size += RECORD_BYTES + len(value)
        return size
