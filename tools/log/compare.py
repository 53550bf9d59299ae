"""Compares the decided values of two replicas by their checksums, instance by instance.

Only what both have is compared: a replica that lags, or whose log begins later, is no different for
that. Four bytes are kept for each decided instance of the first replica; of the others nothing is.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from paxmux.engine.paxos.value import Chain
from paxmux.tools.log.group import Value


class Difference(NamedTuple):
    """The first instance of a group for which two replicas have different values."""

    group: int
    instance: int
    ours: Chain
    theirs: Chain


class _Run:
    """Checksums of consecutive instances."""

    __slots__ = ("checksums", "first")

    def __init__(self, first: int) -> None:
        self.first = first
        self.checksums = array("I")


class Checksums:
    """Of every decided value of one replica."""

    def __init__(self) -> None:
        self._runs: dict[int, list[_Run]] = {}

    def add(self, values: Iterable[Value]) -> None:
        """Each instance of a group once, in any order; in their own they take least."""
        for value in values:
            runs = self._runs.setdefault(value.group, [])
            at = len(runs)
            if at and runs[-1].first > value.instance:
                at = bisect_right(runs, value.instance, key=lambda run: run.first)
            if not at or runs[at - 1].first + len(runs[at - 1].checksums) != value.instance:
                runs.insert(at, _Run(value.instance))
                at += 1
            runs[at - 1].checksums.append(int.from_bytes(value.checksum, "little"))

    def get(self, group: int, instance: int) -> Chain | None:
        """The checksum at an instance; None if there is none."""
        runs = self._runs.get(group)
        if runs is None:
            return None
        run = runs[-1] if instance >= runs[-1].first else None
        if run is None:
            at = bisect_right(runs, instance, key=lambda run: run.first)
            if not at:
                return None
            run = runs[at - 1]
        index = instance - run.first
        return run.checksums[index].to_bytes(4, "little") if index < len(run.checksums) else None


class Comparison:
    """Of one replica with the first one."""

    def __init__(self, first: Checksums) -> None:
        self.compared = 0
        """Instances that both have."""
        self.only_here = 0
        """Instances of this replica that the first one does not have (yet)."""
        self.differences: dict[int, Difference] = {}
        """By group, the first one of each."""
        self._first = first

    def take(self, values: Iterable[Value]) -> None:
        """Compare decided values of this replica."""
        for value in values:
            ours = self._first.get(value.group, value.instance)
            if ours is None:
                self.only_here += 1
                continue
            self.compared += 1
            if ours != value.checksum:
                known = self.differences.get(value.group)
                if known is None or value.instance < known.instance:
                    difference = Difference(value.group, value.instance, ours, value.checksum)
                    self.differences[value.group] = difference
