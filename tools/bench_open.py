"""One open-loop run of the yardstick: requests come at a given rate, whatever becomes of them.

Decides who offers what to whom, and what is measured when. Cluster, comparison of the replicas and the
figures of the nodes are those of tools/bench_run.py. The loads run inside the processes that embed the
nodes, or in processes of their own (`client_processes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic_ns
from typing import Any, Literal, NamedTuple

import msgspec
import psutil

from paxmux.engine.errors import PaxmuxError
from paxmux.tools import processes
from paxmux.tools.arrivals import NO_SURGE
from paxmux.tools.bench_machine import Chain
from paxmux.tools.bench_run import (
    SLACK_S,
    TIMEOUT_S,
    BenchOptions,
    figures,
    report_of,
    watch,
)
from paxmux.tools.cluster import Cluster
from paxmux.tools.load_gate import GateSpec
from paxmux.tools.load_process import LoadProcess
from paxmux.tools.node_figures import read_node
from paxmux.tools.node_handle import NodeHandle
from paxmux.tools.open_load import OpenResult, OpenSpec
from paxmux.tools.open_report import answers, interval_of, open_loop, series
from paxmux.tools.process_samples import ProcessSamples
from paxmux.tools.progress import Steps
from paxmux.tools.skew import UNIFORM, weights
from paxmux.tools.surroundings import ForeignCpu

START_NS = 200_000_000
"""Loads begin so long after they were told."""


class OpenOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says about an open loop, beside `BenchOptions`."""

    from_per_s: float
    to_per_s: float
    surge: tuple[float, float, float] = NO_SURGE
    """(factor, from, to): times the rate, in s of the measured time."""
    skew: float = UNIFORM
    """Exponent of Zipf's law over the groups; 0 for all alike."""
    read: float = 0.0
    """Share of the requests that are reads."""
    consistency: Literal["local", "linearizable"] = "linearizable"
    client_processes: int = 0
    """0: the loads run inside the processes that embed the nodes."""
    under_way: int = 50_000
    """Requests under way at most, for each process that has loads."""


class Target(NamedTuple):
    """What one node is offered."""

    node: int
    groups: list[int]
    weights: list[float]
    share: float
    """Of the whole load."""


def targets(options: BenchOptions, open_options: OpenOptions) -> list[Target]:
    """Who gets what, for each node that proposes (see `--proposer`)."""
    whole = weights(options.groups, open_options.skew)
    if options.proposer == "one":
        return [Target(0, list(range(options.groups)), whole, 1.0)]
    if options.proposer == "mixed":
        every = list(range(options.groups))
        return [Target(node, every, whole, 1 / options.nodes) for node in range(options.nodes)]
    owned = [list(range(node, options.groups, options.nodes)) for node in range(options.nodes)]
    return [
        Target(node, groups, [whole[group] for group in groups], sum(whole[group] for group in groups))
        for node, groups in enumerate(owned)
        if groups
    ]


def specs(options: BenchOptions, open_options: OpenOptions) -> list[list[OpenSpec]]:
    """For each process that has loads (at least one), its loads: one for each target."""
    count = max(1, open_options.client_processes)
    found = targets(options, open_options)
    # Within a node there is one load alone.
    loads_each = len(found) if open_options.client_processes else 1
    return [
        [
            OpenSpec(
                groups=target.groups,
                weights=target.weights,
                from_per_s=open_options.from_per_s * target.share / count,
                to_per_s=open_options.to_per_s * target.share / count,
                surge=open_options.surge,
                seconds=options.seconds,
                warmup_s=options.warmup_s,
                interval_s=interval_of(options.seconds),
                size=options.size,
                read_share=open_options.read,
                gate=GateSpec(smid=Chain.smid, timeout_s=TIMEOUT_S, consistency=open_options.consistency),
                under_way_max=max(1, open_options.under_way // loads_each),
                seed=f"{options.seed}/{process}/{target.node}",
                number=process * options.nodes + target.node,
            )
            for target in found
        ]
        for process in range(count)
    ]


async def run_open(
    options: BenchOptions, open_options: OpenOptions, folder: Path, steps: Steps
) -> dict[str, Any]:
    """Run it in an empty folder; returns the report.

    Raises:
        PaxmuxError: a node or a process of loads did not start, or died.
    """
    return await report_of(
        options,
        folder,
        steps,
        lambda cluster: _measure(cluster, options, open_options, steps),
        open_loop=msgspec.to_builtins(open_options),
    )


async def _measure(
    cluster: Cluster, options: BenchOptions, open_options: OpenOptions, steps: Steps
) -> dict[str, Any]:
    nodes = cluster.nodes
    found = targets(options, open_options)
    loaded = [nodes[target.node] for target in found]
    within_s = options.warmup_s + options.seconds + TIMEOUT_S + SLACK_S
    interval_s = interval_of(options.seconds)
    async with _loads(cluster, options, open_options, steps) as clients:
        start_ns = monotonic_ns() + START_NS
        loads: list[asyncio.Task[list[OpenResult]]] = []
        window_ns = start_ns + int(options.warmup_s * 1e9)
        samples = ProcessSamples(lambda: _processes(nodes, clients), window_ns, interval_s)
        async with asyncio.TaskGroup() as tasks:
            if clients:
                loads += [tasks.create_task(client.run(start_ns, within_s)) for client in clients]
            else:
                (inside,) = specs(options, open_options)
                loads += [
                    tasks.create_task(_inside(node, spec, start_ns, within_s))
                    for node, spec in zip(loaded, inside, strict=True)
                ]
            sampling = tasks.create_task(samples.run())
            steps.step("warming up", options.warmup_s)
            await watch(loaded, (window_ns - monotonic_ns()) / 1e9, steps)
            begin = [await read_node(node) for node in nodes]
            foreign = ForeignCpu([*processes.marked(cluster.mark), psutil.Process()])
            steps.step("measuring", options.seconds)
            await watch(loaded, options.seconds, steps)
            foreign_percent = foreign.percent()
            end = [await read_node(node) for node in nodes]
            steps.step("waiting for the last answers")
            await asyncio.gather(*loads)
            sampling.cancel()
    results = [result for load in loads for result in load.result()]
    status = await nodes[0].ask("status")
    whole = weights(options.groups, open_options.skew)
    return {
        **answers(results, interval_s, options.seconds),
        **figures(nodes, begin, end),
        "open_loop": open_loop(results, options.seconds, status["layout"]["hosts"], whole),
        "series": series(results, samples.by_interval, interval_s),
        "foreign_cpu_percent": round(foreign_percent, 1),
    }


async def _inside(node: NodeHandle, spec: OpenSpec, start_ns: int, within_s: float) -> list[OpenResult]:
    answer = await node.ask("open_load", within_s=within_s, spec=msgspec.to_builtins(spec), start_ns=start_ns)
    return [msgspec.convert(answer, OpenResult)]


@asynccontextmanager
async def _loads(
    cluster: Cluster, options: BenchOptions, open_options: OpenOptions, steps: Steps
) -> AsyncIterator[list[LoadProcess]]:
    """The processes of loads, connected; none if the loads run inside the nodes' processes."""
    count = open_options.client_processes
    clients = [LoadProcess(f"client{number}", cluster.folder, cluster.mark) for number in range(1, count + 1)]
    try:
        if clients:
            steps.step(f"starting {count} processes of clients")
            sockets = {
                target.node: await cluster.nodes[target.node].ask("serve_loads")
                for target in targets(options, open_options)
            }
            wanted = [
                [
                    {"socket": name, "spec": msgspec.to_builtins(spec)}
                    for name, spec in zip(sockets.values(), each, strict=True)
                ]
                for each in specs(options, open_options)
            ]
            await asyncio.gather(*(client.start(each) for client, each in zip(clients, wanted, strict=True)))
        yield clients
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def _processes(nodes: list[NodeHandle], clients: list[LoadProcess]) -> dict[str, psutil.Process]:
    """All processes of a run, by name."""
    found = {"bench": psutil.Process(os.getpid())}
    for node in nodes:
        # A worker that is being restarted is found the next time.
        with contextlib.suppress(PaxmuxError):
            reading = await read_node(node)
            found |= {f"{node.name} {name}": process for name, process in reading.processes.items()}
    for client in clients:
        # Whoever waits for it hears of its death.
        with contextlib.suppress(psutil.NoSuchProcess):
            found[client.name] = psutil.Process(client.pid)
    return found
