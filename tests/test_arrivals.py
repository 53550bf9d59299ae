"""Arrivals of open loads: the process that was promised, from fixed seeds, however it is taken."""

from __future__ import annotations

import argparse
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxmux.tools.arrivals import Arrivals
from paxmux.tools.skew import DEFAULT_EXPONENT, UNIFORM, skew, weights

SECOND_NS = 1_000_000_000


def arrivals(**changed: Any) -> Arrivals:
    wanted: dict[str, Any] = {
        "from_per_s": 1000.0,
        "to_per_s": 1000.0,
        "warmup_s": 0.0,
        "seconds": 20.0,
        "groups": [0, 1, 2, 3],
        "weights": [0.25] * 4,
        "read_share": 0.0,
        "seed": "7",
    }
    return Arrivals(**{**wanted, **changed})


def all_of(stream: Arrivals) -> list[tuple[int, int, bool]]:
    found = stream.take(10**15, 10**9)
    assert stream.next_ns is None
    assert stream.take(10**15, 1) == []
    return found


@pytest.mark.parametrize("factor", [0.25, 10.0])
def test_a_surge_is_so_many_times_the_rate_and_the_rest_is_as_without_it(factor: float) -> None:
    dues = [due for due, _, _ in all_of(arrivals(warmup_s=3.0, surge=(factor, 5.0, 9.0)))]
    assert dues == sorted(dues)
    assert dues[-1] < 23 * SECOND_NS
    for begin, end, rate in ((0, 8, 1000), (8, 12, 1000 * factor), (12, 23, 1000)):
        expected = rate * (end - begin)
        found = sum(begin * SECOND_NS <= due < end * SECOND_NS for due in dues)
        assert abs(found - expected) < 4 * expected**0.5
    without = [due for due, _, _ in all_of(arrivals(warmup_s=3.0))]
    assert [due for due in dues if due < 8 * SECOND_NS] == [due for due in without if due < 8 * SECOND_NS]


def test_a_steady_rate_is_a_poisson_process() -> None:
    dues = [due for due, _, _ in all_of(arrivals())]
    assert dues == sorted(dues)
    assert dues[0] >= 0
    assert dues[-1] < 20 * SECOND_NS
    # 20,000 on average; the deviation is their root.
    assert abs(len(dues) - 20_000) < 4 * 20_000**0.5
    gaps = [after - before for before, after in pairwise(dues)]
    # Of an exponential law: the deviation is as large as the mean, and 1/e of the gaps are longer than it.
    mean = fmean(gaps)
    assert mean == pytest.approx(1_000_000, rel=0.03)
    assert pstdev(gaps) == pytest.approx(mean, rel=0.04)
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.3679, abs=0.015)
    # Of a Poisson law: counts vary as much as they are large.
    counts = [0] * 2000
    for due in dues:
        counts[due // (SECOND_NS // 100)] += 1
    assert pstdev(counts) ** 2 == pytest.approx(fmean(counts), rel=0.12)


@pytest.mark.parametrize(("first", "last"), [(100.0, 1900.0), (1900.0, 100.0), (0.0, 2000.0), (2000.0, 0.0)])
def test_a_ramp_is_linear(first: float, last: float) -> None:
    dues = [due for due, _, _ in all_of(arrivals(from_per_s=first, to_per_s=last))]
    assert dues == sorted(dues)
    assert dues[-1] < 20 * SECOND_NS
    for quarter in range(4):
        low, high = quarter * 5 * SECOND_NS, (quarter + 1) * 5 * SECOND_NS
        middle = first + (last - first) * (quarter + 0.5) / 4
        count = sum(low <= due < high for due in dues)
        assert abs(count - middle * 5) < 5 * (middle * 5) ** 0.5


def test_it_warms_up_at_the_first_rate() -> None:
    dues = [due for due, _, _ in all_of(arrivals(from_per_s=500.0, to_per_s=1500.0, warmup_s=4.0))]
    warm = sum(due < 4 * SECOND_NS for due in dues)
    assert abs(warm - 2000) < 4 * 2000**0.5
    assert abs(len(dues) - warm - 20_000) < 4 * 20_000**0.5
    cold = [due for due, _, _ in all_of(arrivals(from_per_s=0.0, to_per_s=1000.0, warmup_s=4.0))]
    assert cold[0] >= 4 * SECOND_NS


def test_the_seed_alone_decides() -> None:
    assert all_of(arrivals(seed="a")) == all_of(arrivals(seed="a"))
    assert all_of(arrivals(seed="a")) != all_of(arrivals(seed="b"))


@given(
    steps=st.lists(st.tuples(st.integers(0, 40_000_000), st.integers(1, 900)), max_size=60),
    seed=st.text(max_size=3),
)
def test_how_it_is_taken_changes_nothing(steps: list[tuple[int, int]], seed: str) -> None:
    whole = all_of(arrivals(seconds=1.0, seed=seed))
    stream, taken, now = arrivals(seconds=1.0, seed=seed), [], 0
    for step_ns, most in steps:
        now += step_ns
        batch = stream.take(now, most)
        assert len(batch) <= most
        taken += batch
        assert all(due <= now for due, _, _ in batch)
        if len(batch) < most:
            assert stream.next_ns is None or stream.next_ns > now
    assert taken + all_of(stream) == whole


def test_reads_have_their_share() -> None:
    found = all_of(arrivals(read_share=0.3))
    assert sum(read for _, _, read in found) / len(found) == pytest.approx(0.3, abs=0.02)
    assert not any(read for _, _, read in all_of(arrivals()))


def test_zipf_makes_some_groups_hot() -> None:
    shares = weights(50, DEFAULT_EXPONENT)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] / shares[9] == pytest.approx(10**DEFAULT_EXPONENT)
    assert weights(4, UNIFORM) == [0.25] * 4
    found = all_of(arrivals(groups=list(range(50)), weights=shares))
    counts = [0] * 50
    for _, group, _ in found:
        counts[group] += 1
    # Chi-squared with 49 degrees of freedom: above 85.4 once in a thousand.
    expected = [share * len(found) for share in shares]
    assert sum((have - want) ** 2 / want for have, want in zip(counts, expected, strict=True)) < 85.4
    # And it tells: the same counts are far from an even law.
    even = len(found) / 50
    assert sum((have - even) ** 2 / even for have in counts) > 1000


@pytest.mark.parametrize(
    ("text", "exponent"), [("uniform", 0.0), ("zipf", 0.99), ("zipf:1.2", 1.2), ("zipf:5", 5.0)]
)
def test_a_skew_is_named(text: str, exponent: float) -> None:
    assert skew(text) == exponent


@pytest.mark.parametrize("text", ["", "zip", "uniform:1", "zipf:", "zipf:0", "zipf:-1", "zipf:6", "zipf:nan"])
def test_a_wrong_skew_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected `uniform`, `zipf` or `zipf:S`"):
        skew(text)
