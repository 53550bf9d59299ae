"""Finds the records of one instance without reading the whole log.

Each segment begins with where every group stands. So most segments are ruled out by their first batch:
the records of an instance are between the last segment that begins before it and the first one that
begins behind it. Where that finds no value (it may have been moved), the whole log is read. What is still
known of the group, and what of it is forgotten, is said by the last segment that was begun.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from paxmux.engine.storage import Record
from paxmux.plugins.storage.record import (
    ACCEPT,
    HARD_STATE,
    LEARNED,
    OFFSET_BITS,
    OFFSET_MASK,
    OPENS_SEGMENT,
    RELEASED,
    UPKEEP,
)
from paxmux.plugins.storage.scan import Batch
from paxmux.tools.log.directory import DataDirectory, LogDirectory
from paxmux.tools.log.group import GroupLog
from paxmux.tools.log.groups import Groups
from paxmux.tools.log.walk import Damage, Removed, Walk


class FoundValue(NamedTuple):
    """A record with a value."""

    log: int
    segment: int
    offset: int
    kind: int
    copied: bool
    """It repeats an older one at the start of a segment."""
    moved: bool
    """It was appended again, since the segment that it was in was to be removed."""
    round: int
    node: int
    value: bytes


@dataclass
class Found:
    """What a data directory has of one instance."""

    values: list[FoundValue] = field(default_factory=list)
    """In the order of the log: the last one is the value if the instance is decided."""
    stands_at: int | None = None
    """Current instance of the group as far as that was read; None: nothing of the group was found."""
    first: int = 0
    """All instances of the group below are forgotten."""
    decided: bool = False
    damage: list[str] = field(default_factory=list)


class _Span(NamedTuple):
    """The segments that matter; None: no bound."""

    first: int | None
    last: int | None
    newest: int | None
    """The last one that was begun."""


def find_instance(directory: DataDirectory, group: int, instance: int) -> Found:
    """Look for an instance.

    Raises:
        DataDirError: a file cannot be read.
    """
    found = Found()
    for log in directory.logs:
        if log.groups is not None and group not in log.groups:
            continue
        mine = _find(log, group, instance)
        found.values += mine.values
        found.damage += mine.damage
        found.decided |= mine.decided
        found.first = max(found.first, mine.first)
        if mine.stands_at is not None:
            found.stands_at = max(found.stands_at or 0, mine.stands_at)
    return found


def _find(log: LogDirectory, group: int, instance: int) -> Found:
    span = _span(log, group, instance)
    found = Found()
    state = _read(log, group, instance, span.first, span.last, found)
    if not found.values and (span.first, span.last) != (None, None):
        found = Found()
        state = _read(log, group, instance, None, None, found)
    elif span.last is not None:
        newest = Found()
        state = _read(log, group, instance, span.newest, None, newest)
        found.damage += [words for words in newest.damage if words not in found.damage]
    if state is None:
        # Whatever was read is of a time before the group left.
        found.values.clear()
        return found
    found.stands_at = state.instance
    found.decided = state.instance > instance
    found.first = state.first
    if instance < state.first:
        found.values.clear()
    return found


def _span(log: LogDirectory, group: int, instance: int) -> _Span:
    """The segments that the instance's records can be in."""
    first: int | None = None
    last: int | None = None
    newest: int | None = None
    with Walk(log) as walk:
        numbers = walk.listed()
        for number in reversed(numbers):
            opening = walk.opening(number)
            walk.close(number)
            if opening is None:
                continue
            newest = number if newest is None else newest
            stands_at = _stands_at(opening, group)
            if stands_at is None or stands_at < instance:
                # If it was not in the log then, what is older is of another life.
                first = number if number != numbers[0] else None
                break
            if stands_at > instance:
                # This one too: its first batch says that the instance is decided.
                last = number
    return _Span(first, last, newest)


def _stands_at(opening: Batch, group: int) -> int | None:
    return next((r[2] for r in opening.records if r[0] == HARD_STATE and r[1] == group), None)


def _read(
    log: LogDirectory, group: int, instance: int, first: int | None, last: int | None, found: Found
) -> GroupLog | None:
    """Read these segments; returns the group as they end."""
    groups = Groups(from_start=False)
    with Walk(log) as walk:
        for event in walk.events(first, last):
            if isinstance(event, Damage):
                if not event.again:
                    groups.damaged()
                found.damage.append(event.words)
            elif isinstance(event, Removed):
                groups.skipped()
            elif isinstance(event, Batch):
                mine = _of_group(event, group)
                groups.take(mine)
                for record, at in zip(mine.records, mine.positions, strict=True):
                    kind, _, its_instance, round_, node, value = record
                    if kind == RELEASED:
                        found.values.clear()
                    elif its_instance == instance and kind in (ACCEPT, LEARNED):
                        place = (log.identity.log, at >> OFFSET_BITS, at & OFFSET_MASK)
                        copied, moved = bool(event.flags & OPENS_SEGMENT), bool(event.flags & UPKEEP)
                        found.values.append(FoundValue(*place, kind, copied, moved, round_, node, value))
    return groups.groups.get(group)


def _of_group(batch: Batch, group: int) -> Batch:
    """A batch with the records of one group alone."""
    records: list[Record] = []
    positions: list[int] = []
    for record, at in zip(batch.records, batch.positions, strict=True):
        if record[1] == group:
            records.append(record)
            positions.append(at)
    return batch._replace(records=records, positions=positions)
