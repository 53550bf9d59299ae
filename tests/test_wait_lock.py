"""Bounds that a caller sets on the proposals of a group: who waits, how long others took, and how it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from paxmux.engine.errors import Code, GroupWrong, InvalidRequest, Overloaded
from paxmux.engine.options import LimitOptions, ProposalOptions
from paxmux.shards import post
from paxmux.shards.admission import Admission
from paxmux.shards.memory_watch import MemoryWatch, used_percent
from paxmux.shards.node import Node
from paxmux.shards.shedding import TICK_S
from paxmux.shards.wait_lock import MOST_PERCENT, STEP_PERCENT, UNBOUNDED, WaitLocks
from tests.event_loop import in_loop
from tests.node_fixtures import lone_options, running

Ports = Callable[[int], list[int]]

MS = 1_000_000
GROUPS = 3


def locks(**proposals: int) -> WaitLocks:
    return WaitLocks(ProposalOptions(**proposals), GROUPS, random.Random(2).random)


def test_there_is_no_lock_where_none_was_asked_for() -> None:
    each = locks()
    assert each.locks == {}
    assert each.refusal(0, 10**6) is None
    each.set_max_waiting(1, 5)
    each.set_threshold(1, 7)
    each.set_max_waiting(1, UNBOUNDED)
    assert list(each.locks) == [1]
    each.set_threshold(None, 0)
    assert each.locks == {}


@pytest.mark.parametrize("most", [0, 1, 5])
def test_so_many_wait_beside_the_one_that_is_being_decided(most: int) -> None:
    each = locks(max_waiting=most)
    assert [each.refusal(2, count) is None for count in range(8)] == [count <= most for count in range(8)]
    each.set_max_waiting(2, 7)
    assert each.refusal(2, 7) is None
    assert each.refusal(1, 7) is not None


def wait(each: WaitLocks, took_ms: int, count: int = 1) -> None:
    """So many proposals of group 0 are answered within a tick."""
    lock = each.locks[0]
    for seq in range(count):
        lock.begin(seq, 0)
    for seq in range(count):
        lock.end(seq, took_ms * MS)
    each.tick()


def test_a_growing_share_is_refused_while_proposals_take_too_long() -> None:
    each = locks(wait_time_threshold_ms=100)
    lock = each.locks[0]
    for _ in range(50):
        wait(each, 101)
    assert lock.reject_percent == MOST_PERCENT
    refusals = [each.refusal(0, 1) for _ in range(10_000)]
    refused = [refusal for refusal in refusals if refusal is not None]
    assert 0.97 < len(refused) / len(refusals) < 0.99
    assert refused[0][1] == pytest.approx(0.101)
    assert each.refusal(1, 1) is None, "another group takes no longer"


@pytest.mark.parametrize("calls_a_tick", [0, 1, 1000])
def test_the_share_is_gone_within_two_seconds_however_many_come(calls_a_tick: int) -> None:
    each = locks(wait_time_threshold_ms=100)
    for _ in range(50):
        wait(each, 500)
    ticks = 0
    while each.locks[0].reject_percent:
        wait(each, 10, calls_a_tick)
        ticks += 1
    assert ticks * TICK_S <= 2.0
    assert ticks == -(-MOST_PERCENT // STEP_PERCENT)


def test_a_standstill_that_lasts_keeps_the_share() -> None:
    """What is under way still waits: that none is answered does not mean that all is well."""
    each = locks(wait_time_threshold_ms=100)
    for _ in range(10):
        wait(each, 500)
    each.locks[0].begin(77, 0)
    before = each.locks[0].reject_percent
    each.tick()
    assert each.locks[0].reject_percent == before + STEP_PERCENT


def test_a_request_from_before_the_lock_is_not_counted() -> None:
    each = locks(wait_time_threshold_ms=100)
    each.locks[0].end(4, 10**12)
    each.tick()
    assert each.locks[0].average_ns == 0


def test_the_door_refuses_by_the_lock_and_counts_it() -> None:
    admission = Admission(LimitOptions(), 1, GROUPS, ProposalOptions(max_waiting=0))
    admission.open_node()
    admission.open_worker(0)
    admission.pass_lock(0)
    admission.shedding.note(0, 0, 1)
    with pytest.raises(Overloaded, match=r"group 0 are under way \(proposals.max_waiting\)") as caught:
        admission.pass_lock(0)
    assert caught.value.code == Code.OVERLOADED
    assert admission.refused["group"] == 1
    admission.pass_lock(1)
    admission.shedding.answered(0, 0, 1)
    admission.pass_lock(0)


def refusals(node: Node, group: int, count: int) -> list[Overloaded]:
    """Of so many proposals that come at once."""
    found = []
    for _ in range(count):
        try:
            node.submit(group, b"x", 0, None, 30)
        except Overloaded as error:
            found.append(error)
    return found


@in_loop
async def test_a_server_sets_them_for_one_group_or_for_all(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post, "WORKER_MODULE", "tests.fake_worker")
    options = lone_options(tmp_path / "n", free_ports(1)[0], proposals=ProposalOptions(max_waiting=5))
    async with running(options) as node:
        refused = refusals(node, 0, 10)
        assert len(refused) == 10 - 6, "five wait, beside the one that is being decided"
        assert {error.code for error in refused} == {Code.OVERLOADED}
        with pytest.raises(Overloaded):
            await node.propose_many(0, [b"x"])
        with pytest.raises(Overloaded):
            await node.batch_propose(0, b"x")
        assert await node.query(0, b"x", timeout_s=30) is not None, "reads do not wait for proposals"
        node.set_max_waiting(1, 2)
        assert len(refusals(node, 1, 10)) == 7
        node.set_max_waiting(None, -1)
        node.set_wait_time_threshold(None, 1000)
        assert refusals(node, 1, 10) == []
        status = await node.status()
        assert status["pending"]["groups"]["1"]["threshold_ms"] == 1000
        assert status["pending"]["refused"]["group"] == 4 + 2 + 7
        for wrong in (-2, 1.5, None, 2**40):
            with pytest.raises(InvalidRequest):
                node.set_max_waiting(0, wrong)  # type: ignore[arg-type]
            with pytest.raises(InvalidRequest):
                node.set_wait_time_threshold(0, wrong)  # type: ignore[arg-type]
        with pytest.raises(GroupWrong):
            node.set_max_waiting(99, 1)
        with pytest.raises(GroupWrong):
            node.set_wait_time_threshold(99, 1)


def test_memory_that_runs_out_closes_the_door_until_there_is_some() -> None:
    told: list[str] = []
    percents = iter([50.0, 97.0, 97.1, 90.0])
    watch = MemoryWatch(97, told.append, lambda: next(percents))
    for _ in range(4):
        watch.look()
    assert [bool(words) for words in told] == [False, False, True, False]
    assert "97.1 %" in told[2]
    assert "limits.memory_percent" in told[2]
    assert 0 < used_percent() < 100


@in_loop
async def test_memory_is_looked_at_again_and_again() -> None:
    told: list[str] = []
    watch = MemoryWatch(1, told.append)
    watch.start(asyncio.get_running_loop())
    try:
        async with asyncio.timeout(60):
            while len(told) < 2:
                await asyncio.sleep(0.01)
    finally:
        watch.stop()
    assert all("limits.memory_percent" in words for words in told)
