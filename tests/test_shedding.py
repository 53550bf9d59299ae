"""Overload, shed by delay: what a worker is given, who is refused, and how soon all is as before."""

from __future__ import annotations

import asyncio
import random
from collections import deque

import pytest

from paxmux.engine.errors import Code, Overloaded
from paxmux.engine.options import LimitOptions
from paxmux.shards import shedding as shedding_module
from paxmux.shards.admission import Admission
from paxmux.shards.pending import Pending
from paxmux.shards.shedding import BASE_FACTOR, LEAST, REST_TICKS, TICK_S, Shedding, WorkerLoad
from tests.event_loop import in_loop, until

TARGET_MS = 100
GROUPS = 10
MS = 1_000_000


class World:
    """One worker that does `rate` requests a second in the order in which they came; its own clock."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.now_ns = 0
        limits = LimitOptions(queue_delay_ms=TARGET_MS)
        self.admission = Admission(limits, 1, GROUPS, clock=lambda: self.now_ns)
        self.shedding = self.admission.shedding
        self.admission.open_node()
        self.admission.open_worker(0)
        self.load = self.shedding.loads[0]
        self.queue: deque[tuple[int, int, int]] = deque()
        self.seq = 0
        self.done: dict[int, int] = {}
        self.refused: dict[int, int] = {}
        self.delays_ms: list[float] = []
        self.hints_s: list[float | None] = []
        self._credit = 0.0
        self._rng = random.Random(5)

    def run(self, seconds: float, offered: dict[int, float]) -> None:
        """`offered`: group -> requests a second."""
        for step in range(int(seconds * 1000)):
            for group, rate in offered.items():
                for _ in range(int(rate / 1000 + self._rng.random())):
                    self._offer(group)
            self.now_ns += MS
            self._credit = min(self._credit + self.rate / 1000, max(10.0, self.rate / 500))
            while self._credit >= 1 and self.queue:
                self._credit -= 1
                seq, group, begun = self.queue.popleft()
                self.shedding.answered(0, group, seq)
                self.admission.leave(1, 0)
                self.done[group] = self.done.get(group, 0) + 1
                self.delays_ms.append((self.now_ns - begun) / MS)
            if step % int(TICK_S * 1000) == 0:
                self.shedding.tick()

    def forget(self) -> None:
        self.done, self.refused, self.delays_ms = {}, {}, []

    def _offer(self, group: int) -> None:
        try:
            self.admission.enter(0, 0, 1, group)
        except Overloaded as error:
            self.hints_s.append(error.retry_after_s)
            self.refused[group] = self.refused.get(group, 0) + 1
            return
        self.seq += 1
        self.shedding.note(0, group, self.seq)
        self.queue.append((self.seq, group, self.now_ns))


@in_loop
async def test_no_tick_comes_while_nothing_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shedding_module, "TICK_S", 0.0005)
    ticks = 0

    class Counted(Shedding):
        def tick(self) -> None:
            nonlocal ticks
            ticks += 1
            super().tick()

    shedding = Counted(TARGET_MS, GROUPS)
    shedding.loads[0] = WorkerLoad(0)
    shedding.start(asyncio.get_running_loop())
    await until(lambda: shedding._timer is None)
    assert ticks == REST_TICKS
    shedding.note(0, 3, 1)
    await until(lambda: ticks > 3 * REST_TICKS)
    shedding.answered(0, 3, 1)
    await until(lambda: shedding._timer is None)
    before = ticks
    shedding.note(0, 4, 2)
    await until(lambda: ticks > before)
    shedding.stop()
    shedding.answered(0, 4, 2)
    shedding.note(0, 4, 3)
    assert shedding._timer is None


def test_ticks_go_on_until_a_group_turns_nobody_away_any_more() -> None:
    world = World(5000)
    locks = world.admission.locks
    locks.set_threshold(1, 1)
    locks.locks[1].begin(1, 0)
    assert not locks.rest
    locks.locks[1].end(1, 50 * MS)
    locks.tick()
    assert locks.locks[1].reject_percent
    ticks = 0
    while not locks.rest:
        locks.tick()
        ticks += 1
    assert ticks == 1
    assert locks.locks[1].reject_percent == 0


def even(rate: float) -> dict[int, float]:
    return dict.fromkeys(range(GROUPS), rate / GROUPS)


def test_nothing_is_refused_below_what_the_worker_does() -> None:
    world = World(5000)
    world.run(10, even(4000))
    assert world.refused == {}
    assert not world.load.limited


@pytest.mark.parametrize("factor", [2, 4, 10])
def test_at_many_times_the_load_the_worker_stays_busy_and_the_delay_bounded(factor: int) -> None:
    world = World(5000)
    world.run(5, even(5000 * factor))
    world.forget()
    world.run(20, even(5000 * factor))
    assert sum(world.done.values()) >= 0.95 * 5000 * 20
    assert sorted(world.delays_ms)[int(0.99 * len(world.delays_ms))] < 3 * TARGET_MS
    assert len(world.queue) < 5000
    assert all(hint is not None and 0 < hint < 10 for hint in world.hints_s)


def test_all_is_as_before_two_seconds_after_the_load_falls() -> None:
    world = World(5000)
    world.run(10, even(50_000))
    world.run(2, even(3000))
    world.forget()
    world.run(10, even(4500))
    assert world.refused == {}


def test_a_hot_group_does_not_starve_the_others() -> None:
    world = World(5000)
    offered = {0: 50_000.0, **dict.fromkeys(range(1, GROUPS), 200.0)}
    world.run(5, offered)
    world.forget()
    world.run(20, offered)
    cold = [world.done[group] for group in range(1, GROUPS)]
    assert min(cold) > 0.9 * 200 * 20
    assert world.refused[0] > 0.9 * sum(world.refused.values())
    assert world.done[0] > 0.9 * (5000 - 9 * 200) * 20


def test_a_standstill_is_no_overload() -> None:
    """A worker that is back, or a majority that is, does all that has waited."""
    world = World(0)
    world.run(3, even(1000))
    assert world.refused == {}
    world.rate = 100_000
    world.run(3, even(1000))
    assert world.refused == {}


def test_a_worker_that_does_nearly_nothing_still_shows_how_quick_it_is() -> None:
    world = World(20)
    world.run(20, even(1000))
    assert LEAST <= world.load.limit <= BASE_FACTOR * LEAST


def test_requests_move_with_their_group() -> None:
    world = World(100)
    world.admission.add_worker(1)
    world.admission.open_worker(1)
    for seq in range(1, 41):
        world.shedding.note(0, seq % 2, seq)
    world.shedding.moved(1, 0, 1, [seq for seq in range(1, 41) if seq % 2 == 1])
    world.shedding.moved(5, 0, 1, [])
    other = world.shedding.loads[1]
    assert (world.load.count, world.load.active, other.count, other.active) == (20, 1, 20, 1)
    for seq in range(1, 41):
        world.shedding.answered(seq % 2, seq % 2, seq)
    assert (world.load.count, world.load.active, other.count, other.active) == (0, 0, 0, 0)
    assert world.load.timed == other.timed == {}


@in_loop
async def test_every_way_out_is_counted() -> None:
    """Answers, deadlines, deaths of workers, moves: nothing stays under way for ever."""
    admission = Admission(LimitOptions(queue_delay_ms=TARGET_MS), 2, GROUPS)
    admission.open_node()
    pending = Pending(asyncio.get_running_loop(), admission)
    shedding = admission.shedding
    rng = random.Random(3)
    seqs: dict[int, int] = {}
    for worker in (0, 1):
        admission.open_worker(worker)
    for number in range(400):
        group = number % GROUPS
        worker = group % 2
        admission.enter(worker, 1, 1, group)
        deadline_ns = 1 if rng.random() < 0.3 else 2**62
        seq, _ = pending.add(worker, 1, deadline_ns, group)
        seqs[seq] = worker
    await asyncio.sleep(0.1)
    assert pending.owed > 50
    pending.reassign(0, 0, 1)
    answered = [seq for seq in seqs if rng.random() < 0.5]
    pending.resolve([(seq, Code.OK, 0, 0, None) for seq in answered])
    pending.fail_worker(0, "it died")
    pending.fail_all("the node stops")
    assert [(load.count, load.active, load.timed) for load in shedding.loads.values()] == [(0, 0, {})] * 2
    assert admission.count == admission.bytes == 0
    pending.close()
