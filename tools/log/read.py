"""One reading of one log from end to end: the walk and the groups together, with counts.

Whatever a command wants of a log it gets from here, so that all of them agree on what is damaged, what
is a tail and what is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from paxmux.plugins.storage.record import DOUBT, OPENING, RELEASED, SUSPECT
from paxmux.plugins.storage.scan import Batch
from paxmux.plugins.storage.segment_file import SegmentFile
from paxmux.tools.log.directory import LogDirectory
from paxmux.tools.log.fault import Fault
from paxmux.tools.log.group import Value
from paxmux.tools.log.groups import Groups
from paxmux.tools.log.survey import Survey
from paxmux.tools.log.walk import Begin, Damage, Event, Removed, Reserved, Tail, Used, Walk

WITHOUT_INSTANCE: Final = frozenset({OPENING, RELEASED, SUSPECT, DOUBT})
"""Records of these kinds are about no instance in particular."""


@dataclass
class SegmentUse:
    """A segment as it was read."""

    segment: SegmentFile
    used: int = 0
    """Bytes up to the end of its last good batch; 0: reserved, and not used yet."""
    batches: int = 0
    records: int = 0
    lowest: int | None = None
    highest: int | None = None
    """Instances of its records, over all groups."""


@dataclass
class Counts:
    """How much was read."""

    logs: int = 0
    segments: int = 0
    batches: int = 0
    records: int = 0
    bytes: int = 0
    """Of good batches."""
    values: int = 0
    """Decided values that are not forgotten; of each log counted at its end."""
    unchecked: int = 0
    """Values whose chain could not be checked: the one before is not there."""


@dataclass
class LogReading:
    """What a log had in it, complete once `read` has ended."""

    log: LogDirectory
    counts: Counts = field(default_factory=Counts)
    """May be shared by the readings of several logs."""
    groups: Groups = field(default_factory=Groups)
    segments: list[SegmentUse] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    tails: list[Tail] = field(default_factory=list)
    clean: bool = False
    """There is the mark of a clean stop."""

    def read(
        self,
        each: Callable[[list[Value]], None] | None = None,
        *,
        at: Callable[[Counts], None] | None = None,
    ) -> Iterator[Fault | Damage | Tail | Removed]:
        """Read it all; what is not as it should be comes out as it is found.

        Args:
            each: gets each decided value that is not forgotten once: those of a group in the order of
                instances, but for those that the log has moved. It costs a second reading, which comes first.
            at: called now and then.

        Raises:
            DataDirError: as `Walk.events`.
        """
        self.counts.logs += 1
        survey = Survey(self.log, at and partial(at, self.counts)) if each is not None else None
        with Walk(self.log) as walk:
            for event in walk.events():
                if isinstance(event, Batch):
                    values = self.groups.take(_of_groups(event, self.log.groups))
                    self._count(event)
                    if each is not None and survey is not None and (kept := survey.kept(values, event)):
                        each(kept)
                    if self.groups.faults:
                        yield from self.groups.faults
                        self.groups.faults.clear()
                    if at is not None:
                        at(self.counts)
                else:
                    yield from self._note(event)
            self.clean = walk.clean
        for group in self.groups.groups.values():
            self.counts.values += group.values
            self.counts.unchecked += group.unchecked

    def _count(self, batch: Batch) -> None:
        counts, use = self.counts, self.segments[-1]
        counts.batches += 1
        counts.records += len(batch.records)
        counts.bytes += batch.end - batch.begin
        use.batches += 1
        use.records += len(batch.records)
        instances = [record[2] for record in batch.records if record[0] not in WITHOUT_INSTANCE]
        if instances:
            low, high = min(instances), max(instances)
            use.lowest = low if use.lowest is None else min(use.lowest, low)
            use.highest = high if use.highest is None else max(use.highest, high)

    def _note(self, event: Event) -> Iterator[Damage | Tail | Removed]:
        match event:
            case Begin(segment):
                if not self.segments and segment.number:
                    self.groups.damaged()
                self.segments.append(SegmentUse(segment))
                self.counts.segments += 1
            case Used(_, end):
                self.segments[-1].used = end
            case Reserved(segment):
                self.segments.append(SegmentUse(segment))
                self.counts.segments += 1
            case Damage(words, again):
                if not again:
                    self.groups.damaged()
                self.damage.append(words)
                yield event
            case Removed():
                self.groups.skipped()
                self.removed.append(event)
                yield event
            case Tail():
                self.tails.append(event)
                yield event


def _of_groups(batch: Batch, groups: frozenset[int] | None) -> Batch:
    """A batch without the records of groups that live in other logs."""
    if groups is None or groups.issuperset([record[1] for record in batch.records]):
        return batch
    pairs = zip(batch.records, batch.positions, strict=True)
    kept = [pair for pair in pairs if pair[0][1] in groups or pair[0][0] in (OPENING, DOUBT)]
    return batch._replace(records=[pair[0] for pair in kept], positions=[pair[1] for pair in kept])
