"""Figures that are measured several times: the order of the runs, and what is said of them.

Decides that what is compared takes turns, each first as often as the others, so that a machine that grows
slower or faster meanwhile favours none; and that a figure is the median with the smallest and the largest
beside it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import TypeVar

import msgspec

Item = TypeVar("Item")


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure of several runs."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        found = sorted(values)
        return cls(median(found), found[0], found[-1])


def turns(items: Sequence[Item], runs: int, done: int = 0) -> list[list[Item]]:
    """`runs` rounds over all items, after `done` earlier ones. Each begins one item later than the last."""
    shifts = [run % len(items) for run in range(done, done + runs)]
    return [[*items[shift:], *items[:shift]] for shift in shifts]
