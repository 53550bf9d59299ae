"""The show of `paxmux demo`: three nodes, an echo, a load, a node and a worker killed under it.

Decides what is shown in which order, and what the figures at the end are taken from. The nodes are
processes that embed a node; clients are tasks inside two of them.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from paxmux.engine.errors import PaxmuxError
from paxmux.tools.bench_machine import Chain, read_answer
from paxmux.tools.cluster import START_S, Cluster
from paxmux.tools.latency import Latencies, LatencyMs
from paxmux.tools.leftovers import Leftovers
from paxmux.tools.load import LoadResult, LoadSpec
from paxmux.tools.node_figures import read_node, values_for_each_sync
from paxmux.tools.node_handle import NodeHandle
from paxmux.tools.progress import Steps
from paxmux.tools.replicas import Comparison, compare

GROUPS = 100
WORKERS = 2
CLIENTS = 100
SIZE = 100
ECHO = "paxmux.plugins.machines.echo:Echo"
ECHO_SMID = 1
CHAIN = "paxmux.tools.bench_machine:Chain"
TIMEOUT_S = 5.0
STEADY_S = 4.0
DOWN_S = 3.0
AFTER_S = 3.0
LOAD_MAX_S = 45.0
LOOK_EVERY_S = 0.5


class Phase(NamedTuple):
    """A stretch of the load."""

    name: str
    values_per_s: float


class Demo(NamedTuple):
    """What is reported."""

    phases: list[Phase]
    latency_ms: LatencyMs
    ok: int
    errors: dict[int, int]
    values_per_sync: dict[str, float]
    """By node, before anything was killed."""
    applied: dict[str, int]
    """Values executed by node, in all groups."""
    comparison: Comparison
    left_behind: list[str]


class Show:
    """One demo. Used in one event loop only."""

    def __init__(self, folder: Path, steps: Steps, *, secret: bool = False) -> None:
        """`secret`: the nodes authenticate each other."""
        self._steps = steps
        self._cluster = Cluster(
            folder, workers=[WORKERS] * 3, groups=GROUPS, machines=[ECHO, CHAIN], secret=secret
        )
        self._phases: list[Phase] = []

    async def run(self) -> Demo:
        """Run it.

        Raises:
            PaxmuxError: a node did not start, or died.
        """
        steps, cluster = self._steps, self._cluster
        leftovers = Leftovers()
        steps.step(f"starting three nodes with {GROUPS} groups on {WORKERS} workers each")
        async with cluster:
            first, second, third = cluster.nodes
            steps.say("three nodes serve: the cluster is founded")
            await self._echo()
            async with asyncio.TaskGroup() as tasks:
                loads = [
                    tasks.create_task(self._load(node, half)) for half, node in enumerate((first, third))
                ]
                per_sync = await self._steady()
                await self._kill_node(second)
                await self._kill_worker(third)
                await asyncio.gather(*(node.ask("load_halt") for node in (first, third)))
            steps.step("comparing the replicas")
            verdict = await compare(cluster.nodes, GROUPS, smid=Chain.smid, request=b"", read=read_answer)
            applied = {node.name: await self._applied(node) for node in cluster.nodes}
            steps.step("stopping the nodes")
            await cluster.stop()
        return _summary(
            self._phases,
            [load.result() for load in loads],
            per_sync,
            applied,
            verdict,
            await leftovers.found(cluster.mark),
        )

    async def _echo(self) -> None:
        for number, node in enumerate(self._cluster.nodes):
            text = f"hello from {node.name}"
            instance, result = await node.ask(
                "propose", group=number, value=text.encode(), smid=ECHO_SMID, timeout_s=TIMEOUT_S
            )
            if result != text.encode():
                raise PaxmuxError(f"{node.name} proposed {text!r} and got {result!r}")
            self._steps.say(f"echo, group {number}, instance {instance}: {result.decode()}")

    async def _load(self, node: NodeHandle, half: int) -> LoadResult:
        """Clients at one of two nodes; each group is proposed to by one of them."""
        spec = LoadSpec(
            clients=CLIENTS // 2,
            groups=list(range(half * GROUPS // 2, (half + 1) * GROUPS // 2)),
            size=SIZE,
            seconds=LOAD_MAX_S,
            smid=Chain.smid,
            timeout_s=TIMEOUT_S,
            first_client=half * CLIENTS,
        )
        within_s = LOAD_MAX_S + TIMEOUT_S + START_S
        answer = await node.ask("load", within_s=within_s, spec=msgspec.to_builtins(spec))
        return msgspec.convert(answer, LoadResult)

    async def _steady(self) -> dict[str, float]:
        await self._phase("getting up to speed", 1.0, told=False)
        nodes = self._cluster.nodes
        begin = [await read_node(node) for node in nodes]
        await self._phase(f"load: {CLIENTS} clients, {SIZE} bytes", STEADY_S)
        end = [await read_node(node) for node in nodes]
        return {
            node.name: values_for_each_sync(first, last)
            for node, first, last in zip(nodes, begin, end, strict=True)
        }

    async def _kill_node(self, node: NodeHandle) -> None:
        self._steps.say(f"kill -9 of {node.name} under load")
        await node.kill()
        await self._phase(f"without {node.name}", DOWN_S)
        start = time.monotonic()
        await node.start()
        await node.ready(START_S)
        self._steps.say(f"{node.name} is back after {time.monotonic() - start:.1f} s and catches up")
        await self._phase(f"{node.name} back", AFTER_S)

    async def _kill_worker(self, node: NodeHandle) -> None:
        worker = (await node.ask("status"))["workers"][0]
        self._steps.say(f"kill -9 of worker 0 of {node.name}: its supervisor starts another one")
        for child in node.children():
            if child.pid == worker["pid"]:
                child.kill()
        await self._phase(f"worker 0 of {node.name} killed", AFTER_S)
        status = await node.ask("status")
        state = status["workers"][0]
        if state["generation"] <= worker["generation"] or state["state"] != "serving":
            raise PaxmuxError(f"{node.name}: worker 0 was killed and is {state['state']}: {state['reason']}")

    async def _phase(self, name: str, total_s: float, *, told: bool = True) -> None:
        """Let the load run for a while, and note its speed."""
        self._steps.step(name, total_s)
        start = time.monotonic()
        before = await self._values()
        while (done_s := time.monotonic() - start) < total_s:
            await asyncio.sleep(min(LOOK_EVERY_S, total_s - done_s))
            now_s = time.monotonic() - start
            self._steps.at(now_s, f"{(await self._values() - before) / now_s:,.0f} values/s")
        if told:
            rate = (await self._values() - before) / (time.monotonic() - start)
            self._phases.append(Phase(name, rate))
            self._steps.say(f"{name}: {rate:,.0f} values/s")

    async def _values(self) -> int:
        first, _, third = self._cluster.nodes
        answers = await asyncio.gather(*(node.ask("load_progress") for node in (first, third)))
        return sum(answer["values"] for answer in answers if answer is not None)

    async def _applied(self, node: NodeHandle) -> int:
        answers: list[bytes] = await node.ask(
            "query", groups=list(range(GROUPS)), request=b"", smid=Chain.smid, timeout_s=TIMEOUT_S
        )
        return sum(read_answer(answer)[0] for answer in answers)


def _summary(
    phases: list[Phase],
    loads: list[LoadResult],
    per_sync: dict[str, float],
    applied: dict[str, int],
    verdict: Comparison,
    left_behind: list[str],
) -> Demo:
    latencies = Latencies()
    errors: dict[int, int] = {}
    for load in loads:
        latencies.take(**load.latencies)
        for code, count in load.errors.items():
            errors[code] = errors.get(code, 0) + count
    ok = sum(load.ok for load in loads)
    return Demo(phases, latencies.summary_ms(), ok, errors, per_sync, applied, verdict, left_behind)


def as_json(demo: Demo) -> dict[str, Any]:
    """The report as JSON can say it."""
    return {
        "phases": [phase._asdict() for phase in demo.phases],
        "latency_ms": demo.latency_ms,
        "ok": demo.ok,
        "errors": {str(code): count for code, count in demo.errors.items()},
        "values_per_fdatasync": demo.values_per_sync,
        "applied": demo.applied,
        "consistent": demo.comparison.consistent,
        "differences": demo.comparison.differences,
        "left_behind": demo.left_behind,
    }
