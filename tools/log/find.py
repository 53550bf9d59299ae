"""Finds the records of one instance without reading the whole log.

Each segment begins with where every group stands. So most segments are ruled out by their first batch:
the records of an instance are between the last segment that begins before it and the first one that
begins behind it. Where that finds no value, the whole log is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from paxmux.engine.storage import Record
from paxmux.plugins.storage.record import ACCEPT, HARD_STATE, LEARNED, OFFSET_BITS, OFFSET_MASK, OPENS_SEGMENT
from paxmux.plugins.storage.scan import Batch
from paxmux.tools.log.directory import DataDirectory, LogDirectory
from paxmux.tools.log.groups import Groups
from paxmux.tools.log.walk import Damage, Walk


class FoundValue(NamedTuple):
    """A record with a value."""

    log: int
    segment: int
    offset: int
    kind: int
    copied: bool
    """It repeats an older one at the start of a segment."""
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
    decided: bool = False
    damage: list[str] = field(default_factory=list)


def find_instance(directory: DataDirectory, group: int, instance: int) -> Found:
    """Look for an instance.

    Raises:
        DataDirError: a file cannot be read.
    """
    found = Found()
    for log in directory.logs:
        if log.groups is not None and group not in log.groups:
            continue
        mine = Found()
        first, last = _span(log, group, instance)
        _read(log, group, instance, first, last, mine)
        if not mine.values and (first, last) != (None, None):
            mine = Found()
            _read(log, group, instance, None, None, mine)
        found.values += mine.values
        found.damage += mine.damage
        found.decided |= mine.decided
        if mine.stands_at is not None:
            found.stands_at = max(found.stands_at or 0, mine.stands_at)
    return found


def _span(log: LogDirectory, group: int, instance: int) -> tuple[int | None, int | None]:
    """First and last segment that the instance's records can be in; None: no bound."""
    first: int | None = None
    with Walk(log) as walk:
        for number in walk.listed():
            opening = walk.opening(number)
            walk.close(number)
            stands_at = _stands_at(opening, group) if opening is not None else None
            if stands_at is None:
                continue
            if stands_at > instance:
                # This one too: its first batch says that the instance is decided.
                return first, number
            if stands_at < instance:
                first = number
    return first, None


def _stands_at(opening: Batch, group: int) -> int | None:
    return next((r[2] for r in opening.records if r[0] == HARD_STATE and r[1] == group), None)


def _read(
    log: LogDirectory, group: int, instance: int, first: int | None, last: int | None, found: Found
) -> None:
    groups = Groups(from_start=False)
    with Walk(log) as walk:
        for event in walk.events(first, last):
            if isinstance(event, Damage):
                groups.damaged()
                found.damage.append(event.words)
            elif isinstance(event, Batch):
                mine = _of_group(event, group)
                groups.take(mine)
                for record, at in zip(mine.records, mine.positions, strict=True):
                    kind, _, its_instance, round_, node, value = record
                    if its_instance == instance and kind in (ACCEPT, LEARNED):
                        place = (log.identity.log, at >> OFFSET_BITS, at & OFFSET_MASK)
                        copied = bool(event.flags & OPENS_SEGMENT)
                        found.values.append(FoundValue(*place, kind, copied, round_, node, value))
    state = groups.groups.get(group)
    if state is not None:
        found.stands_at = state.instance
        found.decided = state.instance > instance


def _of_group(batch: Batch, group: int) -> Batch:
    """A batch with the records of one group alone."""
    records: list[Record] = []
    positions: list[int] = []
    for record, at in zip(batch.records, batch.positions, strict=True):
        if record[1] == group:
            records.append(record)
            positions.append(at)
    return batch._replace(records=records, positions=positions)
