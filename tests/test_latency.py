"""Latencies: percentiles within the promised error, whatever the load, and exact sums."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxmux.tools.latency import PERCENTILES, Latencies

HOUR_NS = 3_600_000_000_000
some_ns = st.lists(st.integers(0, HOUR_NS) | st.integers(0, 3000), min_size=1, max_size=300)


def counted(values: list[int]) -> Latencies:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    return latencies


@given(some_ns, st.sampled_from(sorted(PERCENTILES.values())))
def test_a_percentile_is_within_a_hundredth_of_the_exact_one(values: list[int], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values) - 1e-9)) - 1]
    found = counted(values).percentile_ns(share)
    assert exact <= found <= exact + exact / 120


@given(some_ns)
def test_sum_maximum_and_count_are_exact(values: list[int]) -> None:
    latencies = counted(values)
    assert (latencies.sum_ns, latencies.max_ns, latencies.count) == (sum(values), max(values), len(values))
    assert latencies.percentile_ns(1.0) == max(values)


@given(some_ns, some_ns)
def test_merging_is_counting_together(mine: list[int], theirs: list[int]) -> None:
    merged = counted(mine)
    merged.take(**json.loads(json.dumps(counted(theirs).dump())))
    assert merged.dump() == counted(mine + theirs).dump()


def test_the_summary_is_in_milliseconds() -> None:
    values = [1_000_000] * 98 + [2_000_000, 10_000_000]
    assert counted(values).summary_ms() == {
        "avg": 1.1,
        "p50": pytest.approx(1.0, rel=0.01),
        "p90": pytest.approx(1.0, rel=0.01),
        "p99": pytest.approx(2.0, rel=0.01),
        "p999": 10.0,
        "max": 10.0,
    }


def test_nothing_counted_is_zero() -> None:
    assert set(Latencies().summary_ms().values()) == {0.0}


def test_what_lasts_longer_than_all_buckets_still_counts() -> None:
    latencies = counted([1, 10**18])
    assert (latencies.count, latencies.max_ns) == (2, 10**18)
    assert latencies.percentile_ns(0.999) > HOUR_NS
