"""What an open load came to in each interval of time, and the sum of several loads.

Decides where each request counts. What a load offered and what became of that counts in the interval in
which the request was *due*, so that a row with a long answer is that of the request that waited, however
late the answer came. `completed` alone counts when the answer came: it is the throughput. Rows before
number 0 are the warm-up; those behind the last one only take late answers.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from paxmux.engine.errors import Code
from paxmux.tools.latency import Latencies

COUNTS = (
    "offered",
    "not_sent",
    "answered",
    "refused",
    "timed_out",
    "failed",
    "completed",
    "completed_values",
)
"""What is counted in each interval, one by one."""


class Row(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One interval of one load, or of several."""

    index: int
    """Its number: it begins `index` intervals after the measured time began."""
    offered: int = 0
    """Requests that were due."""
    not_sent: int = 0
    """Of those: not sent, since as many as may be were under way."""
    answered: int = 0
    refused: int = 0
    """Turned away at the door (405): nothing was proposed."""
    timed_out: int = 0
    """No answer in time (404): unknown outcome."""
    failed: int = 0
    """Any other error."""
    errors: dict[int, int] = {}
    """Code -> count, of everything that was sent and not answered."""
    completed: int = 0
    """Answers that came within the interval, whenever they were due."""
    completed_values: int = 0
    """Of those: answers to proposals."""
    groups: dict[int, list[int]] = {}
    """Group -> [offered, answered, refused]."""
    latencies: dict[str, Any] = {}
    """`Latencies.dump()` of the proposals that were answered, once the row is closed."""
    read_latencies: dict[str, Any] = {}
    """Of the reads."""

    @property
    def settled(self) -> bool:
        """Each of its requests has an outcome."""
        return self.offered == self.not_sent + self.answered + self.refused + self.timed_out + self.failed


class OpenRow:
    """A row that still changes."""

    __slots__ = ("latencies", "read_latencies", "row")

    def __init__(self, index: int) -> None:
        self.row = Row(index=index, groups={}, errors={})
        self.latencies = Latencies()
        self.read_latencies = Latencies()

    def offer(self, group: int) -> None:
        """One more was due."""
        self.row.offered += 1
        counts = self.row.groups.get(group)
        if counts is None:
            counts = self.row.groups[group] = [0, 0, 0]
        counts[0] += 1

    def answer(self, group: int, latency_ns: int, read: bool) -> None:
        """One of them was answered."""
        self.row.answered += 1
        self.row.groups[group][1] += 1
        (self.read_latencies if read else self.latencies).add(latency_ns)

    def fail(self, group: int, code: int) -> None:
        """One of them was refused, has timed out, or failed."""
        row = self.row
        row.errors[code] = row.errors.get(code, 0) + 1
        if code == Code.OVERLOADED:
            row.refused += 1
            row.groups[group][2] += 1
        elif code == Code.TIMEOUT:
            row.timed_out += 1
        else:
            row.failed += 1

    def close(self) -> Row:
        """The row as it is now."""
        if self.latencies.count:
            self.row.latencies = self.latencies.dump()
        if self.read_latencies.count:
            self.row.read_latencies = self.read_latencies.dump()
        return self.row


class Rows:
    """The rows of one load. What is settled and past is kept in its small form."""

    def __init__(self, start_ns: int, interval_ns: int) -> None:
        """`start_ns`: when row 0 begins."""
        self._start_ns = start_ns
        self._interval_ns = interval_ns
        self._open: dict[int, OpenRow] = {}
        self._closed: list[Row] = []

    def at(self, time_ns: int) -> tuple[OpenRow, int]:
        """(the row of a moment, when that row ends). Moments far behind the latest one have none any more."""
        index = (time_ns - self._start_ns) // self._interval_ns
        row = self._open.get(index)
        if row is None:
            row = self._open[index] = OpenRow(index)
        return row, self._start_ns + (index + 1) * self._interval_ns

    def close_before(self, time_ns: int) -> None:
        """Nothing is due any more before `time_ns`: what has no request under way is over."""
        now = (time_ns - self._start_ns) // self._interval_ns
        for index in [index for index, each in self._open.items() if index < now and each.row.settled]:
            self._closed.append(self._open.pop(index).close())

    def close(self) -> list[Row]:
        """All rows, in order."""
        rows = [*self._closed, *(each.close() for each in self._open.values())]
        return sorted(rows, key=lambda row: row.index)


def merge(parts: list[list[Row]]) -> list[Row]:
    """The rows of several loads together, in order, without gaps."""
    found: dict[int, list[Row]] = {}
    for part in parts:
        for row in part:
            found.setdefault(row.index, []).append(row)
    if not found:
        return []
    return [_sum(index, found.get(index, [])) for index in range(min(found), max(found) + 1)]


def _sum(index: int, rows: list[Row]) -> Row:
    total = Row(index=index, groups={}, errors={})
    for name in COUNTS:
        setattr(total, name, sum(getattr(row, name) for row in rows))
    for row in rows:
        for code, count in row.errors.items():
            total.errors[code] = total.errors.get(code, 0) + count
        for group, counts in row.groups.items():
            kept = total.groups.setdefault(group, [0] * len(counts))
            total.groups[group] = [have + more for have, more in zip(kept, counts, strict=True)]
    total.latencies = latencies_of(rows, "latencies").dump()
    total.read_latencies = latencies_of(rows, "read_latencies").dump()
    return total


def latencies_of(rows: list[Row], *names: Literal["latencies", "read_latencies"]) -> Latencies:
    """Latencies of what was due in these rows: of proposals, of reads, or of both."""
    total = Latencies()
    for row in rows:
        for name in names:
            dump = getattr(row, name)
            if dump:
                total.take(**dump)
    return total
