"""Waiting requests: one outcome each, slots held until the worker has answered or died."""

from __future__ import annotations

import asyncio

import pytest

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import Code, NodeStopped, Overloaded
from paxmux.engine.options import LimitOptions
from paxmux.shards.admission import Admission
from paxmux.shards.pending import NEVER_NS, Pending
from tests.event_loop import in_loop, until


def make(workers: int = 2, **limits: int) -> tuple[Admission, Pending]:
    admission = Admission(LimitOptions(**limits), workers)
    admission.open_node()
    for worker in range(workers):
        admission.open_worker(worker)
    return admission, Pending(asyncio.get_running_loop(), admission)


def enter(
    admission: Admission, pending: Pending, worker: int = 0, size: int = 10, deadline_ns: int = NEVER_NS
):
    admission.enter(worker, size)
    return pending.add(worker, size, deadline_ns)


def in_ms(ms: int) -> int:
    return clock_ns() + ms * 1_000_000


@in_loop
async def test_replies_reach_their_callers_and_free_the_slots() -> None:
    admission, pending = make()
    (seq1, one), (seq2, two) = enter(admission, pending), enter(admission, pending, size=5)
    assert (admission.count, admission.bytes) == (2, 15)
    pending.resolve([(seq2, 0, 7, 1, b"r")])
    assert two.result() == (seq2, 0, 7, 1, b"r")
    assert not one.done()
    assert (admission.count, admission.bytes, pending.waiting) == (1, 10, 1)
    pending.resolve([(seq1, Code.CONFLICT, 0, 0, b"why")])
    assert one.result()[1] == Code.CONFLICT
    assert (admission.count, admission.bytes, pending.waiting) == (0, 0, 0)


@in_loop
async def test_a_second_or_invented_reply_is_counted_and_changes_nothing() -> None:
    admission, pending = make()
    seq, future = enter(admission, pending)
    pending.resolve([(seq, 0, 1, 0, None), (seq, 0, 2, 0, None), (99, 0, 3, 0, None)])
    assert future.result()[2] == 1
    assert pending.unmatched == 2
    assert (admission.count, admission.bytes) == (0, 0)


async def a_deadline_gives_404_and_the_slot_stays_until_the_reply() -> None:
    admission, pending = make()
    seq, future = enter(admission, pending, deadline_ns=in_ms(20))
    assert (await asyncio.wait_for(future, 10))[1] == Code.TIMEOUT
    assert (pending.waiting, pending.owed, pending.timeouts) == (0, 1, 1)
    assert (admission.count, admission.bytes) == (1, 10)
    pending.resolve([(seq, 0, 1, 0, None)])
    assert (pending.owed, admission.count, admission.bytes, pending.unmatched) == (0, 0, 0, 0)


@in_loop
async def test_deadlines_are_never_early_and_each_comes_though_mixed() -> None:
    admission, pending = make()
    futures = {}
    for ms in (300, 20, 120, 60, 20):
        deadline_ns = in_ms(ms)
        futures[enter(admission, pending, deadline_ns=deadline_ns)[1]] = deadline_ns
    forever = enter(admission, pending)[1]
    came: dict[int, int] = {}
    for future, deadline_ns in futures.items():
        future.add_done_callback(lambda _, at=deadline_ns: came.setdefault(at, clock_ns()))
    await asyncio.wait_for(asyncio.gather(*futures), 10)
    assert sorted(came) == sorted(futures.values())
    assert all(came_ns >= deadline_ns for deadline_ns, came_ns in came.items())
    assert not forever.done()
    pending.close()


@in_loop
async def test_a_deadline_in_the_past_ends_soon() -> None:
    admission, pending = make()
    _, future = enter(admission, pending, deadline_ns=1)
    assert (await asyncio.wait_for(future, 10))[1] == Code.TIMEOUT


@in_loop
async def test_a_cancelled_caller_keeps_its_slot_and_is_no_error_later() -> None:
    admission, pending = make()
    seq, future = enter(admission, pending, deadline_ns=in_ms(20))
    future.cancel()
    assert admission.count == 1
    await until(lambda: pending.owed == 1)
    assert pending.timeouts == 0, "nobody waited for it"
    pending.resolve([(seq, 0, 1, 0, None)])
    assert admission.count == 0


@in_loop
async def test_death_of_a_worker_ends_its_requests_alone() -> None:
    admission, pending = make()
    _, here = enter(admission, pending, worker=0)
    _, there = enter(admission, pending, worker=1)
    _, late = enter(admission, pending, worker=0, deadline_ns=in_ms(10))
    await until(lambda: pending.owed == 1)
    assert late.result()[1] == Code.TIMEOUT
    assert pending.fail_worker(0, "worker 0 died") == 1
    assert here.result()[1] == Code.TIMEOUT
    assert here.result()[4] == b"worker 0 died"
    assert not there.done()
    assert (admission.count, pending.owed) == (1, 0)
    assert pending.fail_all("the node stops") == 1
    assert there.result()[1] == Code.TIMEOUT
    assert (admission.count, admission.bytes) == (0, 0)


@in_loop
async def test_wait_idle_sees_the_last_outcome() -> None:
    admission, pending = make()
    assert await pending.wait_idle(0)
    seq, _ = enter(admission, pending)
    assert not await pending.wait_idle(0.01)
    asyncio.get_running_loop().call_later(0.01, pending.resolve, [(seq, 0, 1, 0, None)])
    assert await pending.wait_idle(10)


@in_loop
async def test_wait_idle_counts_a_timeout_as_an_outcome() -> None:
    admission, pending = make()
    enter(admission, pending, deadline_ns=in_ms(20))
    assert await pending.wait_idle(10)


@in_loop
async def test_the_door_counts_what_it_refuses() -> None:
    admission, pending = make(max_pending=2, max_pending_bytes=100)
    enter(admission, pending, size=60)
    with pytest.raises(Overloaded, match="max_pending_bytes"):
        admission.enter(0, 41)
    enter(admission, pending, size=40)
    with pytest.raises(Overloaded, match=r"limits\.max_pending\)"):
        admission.enter(0, 0)
    pending.fail_all("gone")
    admission.enter(0, 1000)
    admission.leave(1, 1000)
    admission.close_worker(1, "worker 1 is down")
    with pytest.raises(Overloaded, match="worker 1 is down"):
        admission.enter(1, 1)
    admission.set_ring(0, full=True, waits=True)
    with pytest.raises(Overloaded, match="backlog"):
        admission.enter(0, 1)
    admission.set_ring(0, full=False, waits=False)
    admission.close_node("the node is stopping")
    with pytest.raises(NodeStopped, match="stopping"):
        admission.enter(0, 1)
    admission.open_node()
    admission.set_memory("no memory")
    with pytest.raises(Overloaded, match="no memory; nothing was proposed"):
        admission.enter(0, 1, 1, 0)
    admission.set_memory("")
    ones = dict.fromkeys(("stopped", "count", "bytes", "worker", "ring", "memory"), 1)
    assert admission.refused == {**ones, "delay": 0, "group": 0}
    assert (admission.count, admission.bytes, admission.admitted) == (0, 0, 3)
