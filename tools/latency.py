"""Latencies of many requests in little memory.

Decides how they are counted: in buckets whose width is a fixed share of their value, so that every
percentile is exact to within 0.8 %, whatever the load and however long it lasts; sum and maximum are
kept exactly. Knows no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

_BITS = 8
"""Bits of a value that are kept: 128 buckets for each power of two."""
_HALF = 1 << (_BITS - 1)
_WIDEST_BITS = 42
"""Longer than an hour, in ns: all such latencies share the last bucket."""
_BUCKETS = ((_WIDEST_BITS - _BITS) * _HALF) + 2 * _HALF

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "p999": 0.999}


class LatencyMs(TypedDict):
    """What is reported, in milliseconds."""

    avg: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


class Latencies:
    """Counts of latencies, in ns."""

    __slots__ = ("buckets", "count", "max_ns", "sum_ns")

    def __init__(self) -> None:
        self.buckets = [0] * _BUCKETS
        self.count = 0
        self.sum_ns = 0
        self.max_ns = 0

    def add(self, ns: int) -> None:
        """Count one latency."""
        shift = ns.bit_length() - _BITS
        index = (shift << (_BITS - 1)) + (ns >> shift) if shift > 0 else max(ns, 0)
        self.buckets[index if index < _BUCKETS else -1] += 1
        self.count += 1
        self.sum_ns += ns
        if ns > self.max_ns:
            self.max_ns = ns

    def percentile_ns(self, share: float) -> int:
        """The latency that `share` (0 .. 1) of all requests did not exceed; 0 if there were none."""
        if not self.count:
            return 0
        # The smallest rank that covers the share, counted from 1; the slack is for the product's error.
        rank = max(1, -int(-(share * self.count - 1e-9) // 1))
        seen = 0
        for index, count in enumerate(self.buckets):
            seen += count
            if seen >= rank:
                return min(_upper_ns(index), self.max_ns)
        return self.max_ns

    def summary_ms(self) -> LatencyMs:
        """Average, percentiles and maximum."""

        def at(name: str) -> float:
            return round(self.percentile_ns(PERCENTILES[name]) / 1e6, 4)

        return {
            "avg": round(self.sum_ns / self.count / 1e6, 4) if self.count else 0.0,
            "p50": at("p50"),
            "p90": at("p90"),
            "p99": at("p99"),
            "p999": at("p999"),
            "max": round(self.max_ns / 1e6, 4),
        }

    def bars(self) -> list[tuple[int, int]]:
        """(largest latency in ns, count) of each bucket that counts anything, in order."""
        return [(_upper_ns(index), count) for index, count in enumerate(self.buckets) if count]

    def dump(self) -> dict[str, Any]:
        """As JSON can say it; only buckets that count anything."""
        return {
            "buckets": [[index, count] for index, count in enumerate(self.buckets) if count],
            "sum_ns": self.sum_ns,
            "max_ns": self.max_ns,
        }

    def take(self, buckets: Iterable[tuple[int, int]], sum_ns: int, max_ns: int) -> None:
        """Take the counts of a dump in."""
        for index, count in buckets:
            self.buckets[index] += count
            self.count += count
        self.sum_ns += sum_ns
        self.max_ns = max(self.max_ns, max_ns)


def _upper_ns(index: int) -> int:
    """The largest latency of a bucket."""
    if index < 2 * _HALF:
        return index
    shift = index // _HALF - 1
    return ((index - shift * _HALF + 1) << shift) - 1
