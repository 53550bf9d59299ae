"""Which instances of a group have a value, and whether neighbours agree: runs without a gap.

A group whose values come in order is one run; values that come late fill the gaps, in any order. Of each
run only its ends are kept, so it takes memory for each gap and none for each value.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from paxmux.engine.paxos.value import FIRST, Chain


class Broken(NamedTuple):
    """Two neighbours that do not belong together."""

    instance: int
    """Of the later one."""
    chain: Chain
    """What it says that the checksum before it is,"""
    checksum: Chain
    """and what it is."""


class _Run:
    """Consecutive instances."""

    __slots__ = ("chain", "checksum", "first", "last")

    def __init__(self, instance: int, chain: Chain, checksum: Chain) -> None:
        self.first = self.last = instance
        self.chain = chain
        """Of the first value."""
        self.checksum = checksum
        """Of the last value."""


class Runs:
    """Of one group."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        """In order, with at least one instance between two of them."""

    def add(self, instance: int, chain: Chain, checksum: Chain) -> Sequence[Broken]:
        """A value of an instance that has none yet; says where it does not fit its neighbours."""
        runs = self._runs
        if runs and runs[-1].last + 1 == instance and runs[-1].checksum == chain:
            runs[-1].last, runs[-1].checksum = instance, checksum
            return ()
        at = len(runs) if runs and runs[-1].first <= instance else self._at(instance)
        before = runs[at - 1] if at and runs[at - 1].last + 1 == instance else None
        after = runs[at] if at < len(runs) and runs[at].first == instance + 1 else None
        broken: list[Broken] = []
        if before is not None and before.checksum != chain:
            broken.append(Broken(instance, chain, before.checksum))
        if not instance and chain != FIRST:
            broken.append(Broken(instance, chain, FIRST))
        if after is not None and after.chain != checksum:
            broken.append(Broken(instance + 1, after.chain, checksum))
        if before is None and after is None:
            runs.insert(at, _Run(instance, chain, checksum))
        elif before is None and after is not None:
            after.first, after.chain = instance, chain
        elif before is not None:
            before.last, before.checksum = instance, checksum
            if after is not None:
                before.last, before.checksum = after.last, after.checksum
                del runs[at]
        return broken

    def __contains__(self, instance: int) -> bool:
        at = self._at(instance)
        return at > 0 and instance <= self._runs[at - 1].last

    def checksum(self, instance: int) -> Chain | None:
        """Of the value of an instance, if it is the last one of its run; None if it is not."""
        at = self._at(instance)
        return self._runs[at - 1].checksum if at and self._runs[at - 1].last == instance else None

    def count(self, low: int, high: int) -> int:
        """Instances of [low, high) that have a value."""
        return sum([max(0, min(run.last + 1, high) - max(run.first, low)) for run in self._runs])

    def beginnings(self, low: int) -> int:
        """Instances from `low` on that have a value, while the one before them has none; but for 0."""
        return sum([run.first >= low and run.first > 0 for run in self._runs])

    def lowest(self, low: int) -> int | None:
        """The lowest instance from `low` on that has a value."""
        return next((max(run.first, low) for run in self._runs if run.last >= low), None)

    def highest(self) -> int | None:
        """The highest instance that has a value."""
        return self._runs[-1].last if self._runs else None

    def _at(self, instance: int) -> int:
        """How many runs begin at or before an instance."""
        return bisect_right(self._runs, instance, key=lambda run: run.first)
