"""Layouts: every group on exactly one worker, whatever the strategy; what is impossible is named."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxmux.engine.errors import ConfigError
from paxmux.engine.groups import parse_groups
from paxmux.engine.options import LayoutOptions
from paxmux.shards.cpus import allowed_cpus, cpu_quota, parallel_cpus
from paxmux.shards.layout import Layout


def layout(group_count: int, **options: Any) -> Layout:
    return Layout.build(LayoutOptions(**options), group_count, cpus=range(4), parallel=4)


def test_spread_puts_neighbours_on_different_workers() -> None:
    built = layout(7, workers=3, strategy="spread")
    assert [built.groups_of(worker) for worker in range(3)] == [(0, 3, 6), (1, 4), (2, 5)]


def test_range_keeps_neighbours_together_in_equal_runs() -> None:
    built = layout(7, workers=3, strategy="range")
    assert [built.groups_of(worker) for worker in range(3)] == [(0, 1), (2, 3), (4, 5, 6)]


def test_explicit_is_as_written() -> None:
    built = layout(6, strategy="explicit", groups={1: "0-2,5", 0: "3-4"})
    assert built.workers == 2
    assert [built.groups_of(worker) for worker in range(2)] == [(3, 4), (0, 1, 2, 5)]
    assert [built.worker_of(group) for group in range(6)] == [1, 1, 1, 0, 0, 1]


@given(st.integers(1, 256), st.integers(1, 256), st.sampled_from(["spread", "range"]))
def test_each_group_is_on_exactly_one_worker_and_shares_are_even(
    groups: int, workers: int, strategy: str
) -> None:
    workers = min(groups, workers)
    built = layout(groups, workers=workers, strategy=strategy)
    sizes = [len(built.groups_of(worker)) for worker in range(workers)]
    assert (built.workers, built.group_count) == (workers, groups)
    assert sum(sizes) == groups
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1
    for worker in range(workers):
        assert all(built.worker_of(group) == worker for group in built.groups_of(worker))
    assert sorted(chain(*map(built.groups_of, range(workers)))) == list(range(groups))


def test_no_worker_hosts_a_group_that_does_not_exist() -> None:
    built = layout(3, workers=1)
    for group in (3, -1):
        with pytest.raises(IndexError):
            built.worker_of(group)


def test_auto_is_one_worker_per_cpu_and_at_most_one_per_group() -> None:
    assert layout(100).workers == 4
    assert layout(3).workers == 3
    assert Layout.build(LayoutOptions(), 256).workers == parallel_cpus() <= len(allowed_cpus())


def test_pinned_workers_know_their_cpus_and_others_float() -> None:
    built = layout(4, workers=2, pin={1: [3, 0]})
    assert built.cpus_of(0) == ()
    assert built.cpus_of(1) == (0, 3)


def test_fingerprint_tells_who_hosts_what_and_nothing_else() -> None:
    spread = layout(10, workers=2)
    assert spread.fingerprint() == layout(10, workers=2, pin={0: [1]}).fingerprint()
    same = layout(10, strategy="explicit", groups={0: "0,2,4,6,8", 1: "1,3,5,7,9"})
    assert spread.fingerprint() == same.fingerprint()
    others = [layout(10, workers=3), layout(10, workers=2, strategy="range"), layout(11, workers=2)]
    assert spread.fingerprint() not in {other.fingerprint() for other in others}


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        ({"groups": {0: "0-3", 1: "3-5"}}, "layout.groups.1", "group 3 on worker 0 and on worker 1"),
        ({"groups": {0: "0-2", 1: "4-5"}}, "layout.groups", "group 3 on none"),
        ({"groups": {}}, "layout.groups", "group 0 on none"),
        ({"groups": {0: "0-2", 2: "3-5"}}, "layout.groups.2", "workers of 0 .. 1, got worker 2"),
        ({"groups": {0: "0-5"}, "workers": 2}, "layout.groups", "groups for worker 1, got none"),
        ({"groups": {0: "0-6"}}, "layout.groups.0", "groups of 0 .. 5, got '0-6'"),
        ({"groups": {0: "0-2,x"}}, "layout.groups.0", "groups and ranges such as"),
        ({"strategy": "range", "groups": {0: "all"}}, "layout.groups", "no groups with strategy `range`"),
        ({"strategy": "spread", "workers": 7}, "layout.workers", "one worker per group (6), got 7"),
        ({"strategy": "spread", "pin": {0: [9]}}, "layout.pin.0", "may use (0, 1, 2, 3), got CPU 9"),
        ({"strategy": "spread", "pin": {4: [0]}}, "layout.pin.4", "workers of 0 .. 3"),
        ({"strategy": "spread", "workers": 2, "pin": {2: [0]}}, "layout.pin.2", "workers from 0 .. 1"),
        ({"strategy": "spread", "pin": {-1: [0]}}, "layout.pin.-1", "workers from 0"),
        ({"strategy": "spread", "pin": {0: []}}, "layout.pin.0", "at least one CPU"),
        ({"strategy": "spread", "pin": {0: [1, 1]}}, "layout.pin.0", "each once"),
    ],
)
def test_an_impossible_layout_is_refused_by_key(options: dict[str, Any], key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        layout(6, **({"strategy": "explicit"} | options))
    line = next(line for line in str(caught.value).splitlines() if expected in line)
    assert line.startswith(f"options: {key}: expected ")


@pytest.mark.parametrize(
    ("text", "groups"),
    [("all", (0, 1, 2, 3)), ("2", (2,)), ("3,0-1", (0, 1, 3)), (" 0 , 2-3 ", (0, 2, 3)), ("1-1", (1,))],
)
def test_sets_of_groups(text: str, groups: tuple[int, ...]) -> None:
    assert parse_groups(text, 4) == groups


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "such as"),
        ("1,", "such as"),
        ("-1", "such as"),
        ("1-", "such as"),
        ("1--2", "such as"),
        ("All", "such as"),
        ("\u0661", "such as"),
        ("1" * 5000, "such as"),
        ("3-2", "upwards"),
        ("4", "groups of 0 .. 3"),
        ("2-4", "groups of 0 .. 3"),
        ("0-2,1", "group 1 twice"),
    ],
)
def test_what_is_no_set_of_groups_is_refused(text: str, expected: str) -> None:
    """Weakness B9 of the reference."""
    with pytest.raises(ConfigError, match=r"^expected") as caught:
        parse_groups(text, 4)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4.0),
        ("0::/a\n", {}, None),
        ("odd\n4:cpu,cpuacct:/j\n1:name=x:/\n", {"cpu/j/cpu.cfs_quota_us": "-1"}, None),
        (
            "4:cpu,cpuacct:/j\n0::/\n",
            {"cpu/j/cpu.cfs_quota_us": "50000\n", "cpu/j/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
    ],
)
def test_the_quota_of_control_groups_is_found_at_any_level(
    tmp_path: Path, own: str, files: dict[str, str], quota: float | None
) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="ascii")
    (tmp_path / "own").write_text(own, encoding="ascii")
    assert cpu_quota(root, tmp_path / "own") == quota


def test_a_machine_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "missing") is None
