"""Where CPU time goes: stages add up to the whole, and are measured only if somebody asks."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from paxmux.engine.errors import ExitCode
from paxmux.shards import counters, stages
from paxmux.tools import bench_budget, host_stages
from tests.command import run_command


class Clock:
    """The CPU time of the thread: it passes where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000
        monkeypatch.setattr(stages, "thread_time_ns", lambda: self.now)


class Part:
    """Something with a stage, and one within it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def outer(self, *, fails: bool = False) -> str:
        self.clock.now += 10
        self.inner()
        self.clock.now += 1
        if fails:
            raise ValueError("as asked")
        return "done"

    def inner(self) -> None:
        self.clock.now += 100


def test_what_is_within_a_stage_counts_for_the_inner_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(Part, "outer", Part.outer)
    monkeypatch.setattr(Part, "inner", Part.inner)
    slots = [7, 0, 0]
    clock.now = 2000
    watched = stages.Stages(slots, {"rest": 0, "outer": 1, "inner": 2}, "rest")
    watched.watch(((Part, "outer", "outer"), (Part, "inner", "inner")))
    part = Part(clock)
    clock.now += 3
    assert part.outer() == "done"
    clock.now += 2
    part.inner()
    assert slots == [7 + 5, 11, 200]
    with pytest.raises(ValueError, match="as asked"):
        part.outer(fails=True)
    clock.now += 4
    part.inner()
    assert slots == [7 + 9, 22, 400], "what fails has cost as much, and its stage is over"
    assert sum(slots) == 7 + clock.now - 2000


@pytest.mark.parametrize(("text", "expected"), [(None, False), ("", False), ("0", False), ("1", True)])
@pytest.mark.plain("stages are measured by replacing functions")
def test_only_who_asks_is_measured(monkeypatch: pytest.MonkeyPatch, text: str | None, expected: bool) -> None:
    if text is None:
        monkeypatch.delenv(stages.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(stages.VARIABLE, text)
    assert stages.wanted() is expected


def test_every_stage_says_what_it_is() -> None:
    assert tuple(bench_budget.MEANS["worker"]) == counters.STAGES
    assert tuple(bench_budget.MEANS["host"]) == host_stages.STAGES


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("router", ["inline", "process"])
@pytest.mark.plain("stages are measured by replacing functions")
def test_the_stages_of_a_cluster_add_up_to_its_cpu_time(tmp_path: Path, router: str) -> None:
    words = ("--groups", 4, "--clients", 8, "--seconds", 1.5, "--warmup-s", 0.3, "--router", router)
    done = run_command("bench", *words, "--profile", "--json", "-", folder=tmp_path)
    assert done.returncode == ExitCode.OK, done.stderr
    found = orjson.loads(done.stdout)["budget"]
    assert found["values"] > 0
    assert list(found["nodes"]) == ["node1", "node2", "node3"]
    for node in found["nodes"].values():
        assert ("router" in node["cpu_us"]) == (router == "process")
        for process, name in (("host", "host"), ("worker", "worker0")):
            made = sum(node["stages_us"][process].values())
            # A reading takes a moment, and goes on in the processes that it reads.
            assert 0.7 * node["cpu_us"][name] < made < 1.3 * node["cpu_us"][name], (process, node)
        for stage in ("step", "append", "sync", "apply", "ring"):
            assert node["stages_us"]["worker"][stage] > 0, stage
        assert node["bytes"]["log"] > 100
        assert node["bytes"]["wire_in"] > 0
    assert found["nodes"]["node1"]["stages_us"]["worker"]["replies"] > 0
    assert found["nodes"]["node1"]["bytes"]["client_ring_in"] > 100


@pytest.mark.xdist_group("cluster")
def test_without_it_no_stage_is_measured(tmp_path: Path) -> None:
    words = ("--groups", 4, "--clients", 8, "--seconds", 0.5, "--warmup-s", 0)
    done = run_command("bench", *words, "--json", "-", folder=tmp_path)
    assert done.returncode == ExitCode.OK, done.stderr
    assert "budget" not in orjson.loads(done.stdout)
