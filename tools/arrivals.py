"""When the requests of an open load are due, and what each of them asks.

Decides it from a seed alone, whatever becomes of the requests: a Poisson process (gaps of an exponential
law), as many independent callers together make it. Its rate is steady, or goes linearly from one to
another over the measured time; before that, while the load warms up, it is the first of the two. For some of
the measured time it may be a multiple of that. Knows no clock: times count from the start of the warm-up.
"""

from __future__ import annotations

import random
from itertools import accumulate
from math import sqrt

Surge = tuple[float, float, float]
"""(factor, begin, end): times the rate, from `begin` to `end` in s of the measured time."""
NO_SURGE: Surge = (1.0, 0.0, 0.0)

_BLOCK = 512
_SECOND_NS = 1_000_000_000


class Arrivals:
    """A stream of (due time in ns, group, whether it is a read), in order of time."""

    __slots__ = (
        "_at",
        "_cumulative",
        "_dues",
        "_expected",
        "_factor",
        "_from",
        "_groups",
        "_picked",
        "_random",
        "_reads",
        "_share",
        "_slope",
        "_surge_s",
        "_unit",
        "_warmup_s",
    )

    def __init__(
        self,
        *,
        from_per_s: float,
        to_per_s: float,
        warmup_s: float,
        seconds: float,
        groups: list[int],
        weights: list[float],
        read_share: float,
        seed: str,
        surge: Surge = NO_SURGE,
    ) -> None:
        """`weights`: of each of the groups; `read_share`: of all requests, 0 .. 1. `surge`: of a steady
        rate."""
        self._random = random.Random(seed)
        self._from = from_per_s
        self._slope = (to_per_s - from_per_s) / seconds
        self._warmup_s = warmup_s
        self._expected = from_per_s * warmup_s + (from_per_s + to_per_s) / 2 * seconds
        """How many there are on average."""
        factor, begin_s, end_s = surge
        self._factor = factor
        self._surge_s = warmup_s + begin_s, warmup_s + end_s
        self._expected += (factor - 1) * from_per_s * (end_s - begin_s)
        self._groups = groups
        self._cumulative = list(accumulate(weights))
        self._share = read_share
        self._unit = 0.0
        """Where the process stands, on a scale on which its rate is 1."""
        self._dues: list[int] = []
        self._picked: list[int] = []
        self._reads: list[bool] = []
        self._at = 0
        self._fill()

    @property
    def next_ns(self) -> int | None:
        """When the next one is due; None if there is none."""
        return self._dues[self._at] if self._at < len(self._dues) else None

    def take(self, until_ns: int, most: int) -> list[tuple[int, int, bool]]:
        """Those that are due at `until_ns` and were not taken yet, at most `most`."""
        taken: list[tuple[int, int, bool]] = []
        while len(taken) < most and self._at < len(self._dues) and self._dues[self._at] <= until_ns:
            start, end = self._at, min(len(self._dues), self._at + most - len(taken))
            if self._dues[end - 1] > until_ns:
                end = start + 1
                while self._dues[end] <= until_ns:
                    end += 1
            taken += zip(self._dues[start:end], self._picked[start:end], self._reads[start:end], strict=True)
            self._at = end
            if end == len(self._dues):
                self._fill()
        return taken

    def _fill(self) -> None:
        """Draw the next block; an empty one is the end."""
        dues: list[int] = []
        unit, gap, expected = self._unit, self._random.expovariate, self._expected
        for _ in range(_BLOCK):
            unit += gap(1.0)
            if unit >= expected:
                break
            dues.append(int(self._time_s(unit) * _SECOND_NS))
        self._unit = unit
        self._dues, self._at = dues, 0
        self._picked = self._random.choices(self._groups, cum_weights=self._cumulative, k=len(dues))
        share, draw = self._share, self._random.random
        self._reads = [draw() < share for _ in dues] if share else [False] * len(dues)

    def _time_s(self, unit: float) -> float:
        """When the integral of the rate is `unit`."""
        if self._factor != 1:
            return self._surging_s(unit / self._from)
        past = unit - self._from * self._warmup_s
        if past < 0:
            return unit / self._from
        # This form of the root holds for a slope of 0, and loses nothing for one near it.
        root = sqrt(max(0.0, self._from**2 + 2 * self._slope * past))
        return self._warmup_s + 2 * past / (self._from + root)

    def _surging_s(self, steady_s: float) -> float:
        """When that is due which would be at `steady_s` without the surge."""
        begin_s, end_s = self._surge_s
        if steady_s <= begin_s:
            return steady_s
        within_s = (steady_s - begin_s) / self._factor
        return (
            begin_s + within_s
            if within_s <= end_s - begin_s
            else (steady_s - (self._factor - 1) * (end_s - begin_s))
        )
