"""Ten times what a worker does, offered to a real node: what is bounded, who is served, and how it ends."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from paxmux.engine.errors import Code, Overloaded
from paxmux.engine.options import MachineOptions
from paxmux.shards.node import Node
from paxmux.shards.requests import Reply
from paxmux.tools.busy_machine import BusyChain
from tests.event_loop import DEADLINE_S, in_loop
from tests.node_fixtures import lone_options, running

Ports = Callable[[int], list[int]]

WORK_US = 1000
GROUPS = 10
BURST = 100
"""Offered at a time: ten times what the worker does in the pause that follows."""
PAUSE_S = 0.01
MIB = 1 << 20


class Load:
    """Offers bursts, whatever becomes of them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.codes: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.hints_s: list[float | None] = []
        self.under_way = 0
        self.most_under_way = 0

    def offer(self, group: int) -> None:
        try:
            future = self.node.submit(group, bytes(1000), BusyChain.smid, None, DEADLINE_S)
        except Overloaded as error:
            self.refused[group] += 1
            self.hints_s.append(error.retry_after_s)
            return
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

        def end(done: asyncio.Future[Reply], group: int = group) -> None:
            self.under_way -= 1
            self.codes[done.result()[1]] += 1
            self.answered[group] += 1

        future.add_done_callback(end)

    async def bursts(self, count: int, group_of: Callable[[int], int]) -> None:
        for _ in range(count):
            for number in range(BURST):
                self.offer(group_of(number))
            await asyncio.sleep(PAUSE_S)

    async def drain(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.under_way:
                await asyncio.sleep(0.01)


@in_loop
async def test_memory_and_queues_stay_flat_whatever_is_offered(tmp_path: Path, free_ports: Ports) -> None:
    machine = MachineOptions(class_="paxmux.tools.busy_machine:BusyChain", args={"work_us": WORK_US})
    options = lone_options(tmp_path / "n", free_ports(1)[0], groups=GROUPS, state_machines=[machine])
    async with running(options) as node:
        status = await node.status()
        worker = psutil.Process(status["workers"][0]["pid"])
        load = Load(node)
        # Until it is known what the worker does, more may come in.
        async with asyncio.timeout(DEADLINE_S):
            while not load.refused:
                await load.bursts(10, lambda number: number % GROUPS)
        await load.drain()
        await load.bursts(50, lambda number: number % GROUPS)
        tracemalloc.start()
        own_bytes, worker_bytes = tracemalloc.get_traced_memory()[0], worker.memory_info().rss
        load.most_under_way = load.under_way
        load.hints_s.clear()
        await load.bursts(250, lambda number: number % GROUPS)
        own_bytes = tracemalloc.get_traced_memory()[0] - own_bytes
        tracemalloc.stop()
        assert load.refused.total() > 10 * load.answered.total() / 20
        assert load.most_under_way < 5000, "of 25,000 that were offered"
        assert own_bytes < 8 * MIB
        assert worker.memory_info().rss - worker_bytes < 16 * MIB
        assert all(hint is not None and 0 < hint < DEADLINE_S for hint in load.hints_s)
        await load.drain()
        assert set(load.codes) == {Code.OK}
        for group in range(GROUPS):
            assert load.answered[group] > load.answered.total() / GROUPS / 4, "each has its share"

        # Less than it does, and all is as before.
        before = load.refused.total()
        for _ in range(100):
            load.offer(0)
            await load.drain()
        assert load.refused.total() == before


@in_loop
async def test_a_hot_group_does_not_keep_the_others_out(tmp_path: Path, free_ports: Ports) -> None:
    machine = MachineOptions(class_="paxmux.tools.busy_machine:BusyChain", args={"work_us": WORK_US})
    options = lone_options(tmp_path / "n", free_ports(1)[0], groups=GROUPS, state_machines=[machine])
    async with running(options) as node:
        load = Load(node)

        def mostly_the_first(number: int) -> int:
            return 1 + number // 50 if number in (0, 50) else 0

        async with asyncio.timeout(DEADLINE_S):
            while not load.refused or load.under_way > 200:
                await load.bursts(10, mostly_the_first)
        load.answered.clear()
        load.refused.clear()
        await load.bursts(150, mostly_the_first)
        await load.drain()
        assert load.refused[0] > 100
        for cold in (1, 2):
            assert load.answered[cold] > 3 * load.refused[cold]
