"""The clock of a node: the one that counts a suspended machine, and everywhere the same."""

from __future__ import annotations

import re
import time
from pathlib import Path

from paxmux.engine.clock import clock_ns

ROOT = Path(__file__).resolve().parent.parent


def test_the_clock_counts_the_time_that_the_machine_was_suspended():
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    now = clock_ns()
    assert before <= now <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_no_process_of_a_node_reads_another_clock_in_nanoseconds():
    """A deadline of one clock, compared with another one's time, is wrong by what the machine slept."""
    sources = [path for folder in ("engine", "shards") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(sources) > 100
    others = re.compile(r"\b(monotonic_ns|time_ns|perf_counter_ns|CLOCK_MONOTONIC)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources
        if path.name != "clock.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if others.search(line)
    ]
    assert found == []
