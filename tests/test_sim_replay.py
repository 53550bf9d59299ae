"""A seed means one run: the same in every process, with words or without, whatever ran before."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.campaign import run_slice
from paxmux.tools.sim.plan import FAULTS, Asked, expand, planned, possible
from paxmux.tools.sim.run import run
from paxmux.tools.sim.trace import Trace


@pytest.mark.parametrize("seed", [3, 8])
def test_a_seed_is_the_same_run_in_every_process(seed: int) -> None:
    here = run(seed)
    assert run(seed, trace=Trace(keep=50)).digest == here.digest
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "paxmux", "sim", "--seed", str(seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert re.findall(r"^digest (\w+)$", done.stdout, re.MULTILINE) == [here.digest]


def test_seeds_differ() -> None:
    assert len({run(seed).digest for seed in range(20, 25)}) == 5


def test_counting_marks_changes_nothing() -> None:
    counted, plain = run_slice(range(4, 6), Asked()), run_slice(range(4, 6), Asked(), reach=False)
    assert counted.digest == plain.digest
    assert counted.failures == plain.failures == []


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_keeps_its_bounds(seed: int) -> None:
    plan = planned(seed, Asked())
    assert 1 <= plan.nodes <= 7
    assert len(plan.faults) >= plan.kinds_min
    assert set(plan.faults) <= set(possible(plan.nodes))
    assert len(plan.layouts) == plan.nodes
    for layout in plan.layouts:
        assert 1 <= len(layout) <= 3
        assert sorted(group for groups in layout for group in groups) == list(range(plan.groups))


def test_every_size_of_cluster_has_faults_enough() -> None:
    assert [len(possible(nodes)) for nodes in (1, 2, 3, 7)] == [13, 20, len(FAULTS), len(FAULTS)]


def test_the_command_line_overrides_the_seed() -> None:
    asked = Asked(nodes=5, groups=2, proposals=30, faults=expand(["loss", "crash"]))
    plan = planned(1, asked)
    assert (plan.nodes, plan.groups, plan.values) == (5, 2, 30)
    assert plan.faults == ("loss", "worker_crash", "node_crash", "power_cut")
    assert (
        asked.words() == "--nodes 5 --groups 2 --proposals 30 --faults loss,worker_crash,node_crash,power_cut"
    )
    report = run(1, asked)
    assert set(report.faults) <= {*plan.faults, "lost_write", "cut_tail", "clock_restart"}
    assert report.decided >= 30


def test_unknown_faults_are_named() -> None:
    with pytest.raises(ValueError, match=r"expected kinds of fault .*, got 'rain'"):
        expand(["loss", "rain"])


def test_a_breach_survives_its_way_between_processes() -> None:
    made, arguments = Breach("a rule", "what broke it").__reduce__()
    again = made(*arguments)
    assert str(again) == "a rule: what broke it"
    assert again.checker == "a rule"
