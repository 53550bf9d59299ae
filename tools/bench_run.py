"""One run of the yardstick: a real cluster, a load, and whether all replicas applied the same.

Decides what is measured when, and what the report says (the keys are part of the command's
contract). The clients run inside the processes that embed the nodes, as a server's callers do; this
process only watches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

import paxmux
from paxmux.engine.compiled import COMPILED
from paxmux.engine.errors import PaxmuxError
from paxmux.engine.groups import parse_groups
from paxmux.engine.options import StorageOptions
from paxmux.shards import stages
from paxmux.tools import processes
from paxmux.tools.bench_budget import budget, read_stages
from paxmux.tools.bench_machine import Chain, read_answer
from paxmux.tools.callers import Caller, evenness
from paxmux.tools.cluster import Cluster
from paxmux.tools.event_loop import loop_name
from paxmux.tools.latency import Latencies
from paxmux.tools.load import LoadResult, LoadSpec
from paxmux.tools.node_figures import (
    Reading,
    read_node,
    used_cpu_s,
    values_for_each_sync,
    written_for_each_value,
)
from paxmux.tools.node_handle import NodeHandle
from paxmux.tools.progress import Steps
from paxmux.tools.replicas import compare
from paxmux.tools.surroundings import (
    FOREIGN_CPU_MAX_PERCENT,
    MEMORY_FILE_SYSTEMS,
    ForeignCpu,
    fdatasync_p50_us,
    file_system,
)

MACHINE = "paxmux.tools.bench_machine:Chain"
BUSY_MACHINE = "paxmux.tools.busy_machine:BusyChain"
TIMEOUT_S = 10.0
"""Of each request."""
SLACK_S = 30.0
LOOK_EVERY_S = 0.5
RATE_EVERY_S = 1.0


class BenchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    nodes: int = 3
    workers: int = 1
    groups: int = 100
    clients: int = 100
    size: int = 100
    seconds: float = 10.0
    warmup_s: float = 2.0
    mode: Literal["propose", "batch"] = "propose"
    batch: int = 20
    proposer: Literal["one", "all", "mixed"] = "one"
    apart: bool = False
    """Each client has groups of its own."""
    router: Literal["inline", "process"] = "inline"
    secret: bool = False
    """The nodes authenticate each other."""
    storage: str = StorageOptions().plugin
    seed: int = 0
    work_us: int = 0
    """CPU time that the state machine burns on each value."""
    work_on: str = "all"
    """The groups whose machine does."""
    profile: bool = False
    """Measure where the CPU time of each process goes."""


def shares(options: BenchOptions) -> list[tuple[list[int], int]]:
    """(groups, number of clients) of each node's proposals.

    With proposer `all` each group is proposed to by one node, group mod nodes, and the clients are
    shared evenly among the nodes that have groups. With `mixed` all nodes propose in all groups.
    """
    if options.proposer == "one":
        return [(list(range(options.groups)), options.clients)] + [([], 0)] * (options.nodes - 1)
    if options.proposer == "mixed":
        owned = [list(range(options.groups))] * options.nodes
    else:
        owned = [list(range(node, options.groups, options.nodes)) for node in range(options.nodes)]
    busy = sum(1 for groups in owned if groups)
    each, rest = divmod(options.clients, busy)
    return [
        (groups, each + (1 if node < rest else 0)) if groups else ([], 0) for node, groups in enumerate(owned)
    ]


def doubts(file_system_type: str, foreign_cpu_percent: float) -> list[str]:
    """Why a measurement is not valid; empty if it is."""
    reasons = []
    if file_system_type in MEMORY_FILE_SYSTEMS:
        reasons.append(f"the data are on a file system in memory ({file_system_type}): choose a --data-dir")
    if foreign_cpu_percent > FOREIGN_CPU_MAX_PERCENT:
        reasons.append(f"other processes used {foreign_cpu_percent} % of the CPUs")
    return reasons


async def run_bench(options: BenchOptions, folder: Path, steps: Steps) -> dict[str, Any]:
    """Run it in an empty folder; returns the report.

    Raises:
        PaxmuxError: a node did not start, or died.
    """
    return await report_of(options, folder, steps, lambda cluster: _measure(cluster, options, steps))


async def report_of(
    options: BenchOptions,
    folder: Path,
    steps: Steps,
    measure: Callable[[Cluster], Awaitable[dict[str, Any]]],
    **more_settings: Any,
) -> dict[str, Any]:
    """What `measure` says of a cluster in an empty folder, whether its replicas agree, and the settings.

    Raises:
        PaxmuxError: a node did not start, or died.
    """
    sync_us = fdatasync_p50_us(folder)
    async with start_cluster(options, folder, steps) as cluster:
        measured = await measure(cluster)
        steps.step("comparing the replicas")
        verdict = await compare(cluster.nodes, options.groups, smid=Chain.smid, request=b"", read=read_answer)
        steps.step("stopping")
        await cluster.stop()
    foreign = measured.pop("foreign_cpu_percent")
    reasons = doubts(file_system(folder), foreign)
    return {
        **measured,
        "consistent": verdict.consistent,
        "differences": verdict.differences,
        "valid": not reasons,
        "invalid_because": reasons,
        "settings": {
            **settings(options, folder, sync_us),
            **more_settings,
            "foreign_cpu_percent": foreign,
        },
    }


def start_cluster(options: BenchOptions, folder: Path, steps: Steps) -> Cluster:
    """The nodes of a run, for `async with`."""
    steps.step(f"starting {options.nodes} nodes, {options.workers} workers each")
    return Cluster(
        folder,
        workers=[options.workers] * options.nodes,
        groups=options.groups,
        machines=[],
        router=options.router,
        options={"storage": {"plugin": options.storage}, "state_machines": machines(options)},
        environment={stages.VARIABLE: "1"} if options.profile else None,
        secret=options.secret,
    )


def machines(options: BenchOptions) -> list[dict[str, Any]]:
    """The state machines of the nodes' configs: each group has one.

    Raises:
        ConfigError: `work_on` names no groups.
    """
    busy = parse_groups(options.work_on, options.groups) if options.work_us else ()
    rest = [group for group in range(options.groups) if group not in busy]
    made: list[dict[str, Any]] = []
    if busy:
        made.append({"class": BUSY_MACHINE, "groups": _listed(busy), "args": {"work_us": options.work_us}})
    if rest:
        made.append({"class": MACHINE, "groups": _listed(rest)})
    return made


def _listed(groups: Iterable[int]) -> str:
    return ",".join(map(str, groups))


def settings(options: BenchOptions, folder: Path, sync_us: float) -> dict[str, Any]:
    """What a report says about its run and the machine under it."""
    return {
        **msgspec.to_builtins(options),
        "timeout_s": TIMEOUT_S,
        "file_system": file_system(folder),
        "fdatasync_p50_us": round(sync_us, 1),
        "cpus": psutil.cpu_count(),
        "event_loop": loop_name(),
        "version": paxmux.__version__,
        "compiled": COMPILED,
    }


async def _measure(cluster: Cluster, options: BenchOptions, steps: Steps) -> dict[str, Any]:
    nodes = cluster.nodes
    first = 0
    async with asyncio.TaskGroup() as tasks:
        loads: list[asyncio.Task[LoadResult]] = []
        loaded: list[NodeHandle] = []
        for node, (groups, clients) in zip(nodes, shares(options), strict=True):
            if clients:
                loads.append(tasks.create_task(_load(node, options, groups, clients, first)))
                loaded.append(node)
                first += clients
        steps.step("warming up", options.warmup_s)
        await watch(loaded, options.warmup_s, steps)
        begin = [await read_node(node) for node in nodes]
        stages_begin = await read_stages(nodes) if options.profile else []
        foreign = ForeignCpu([*processes.marked(cluster.mark), psutil.Process()])
        steps.step("measuring", options.seconds)
        await watch(loaded, options.seconds, steps)
        foreign_percent = foreign.percent()
        end = [await read_node(node) for node in nodes]
        stages_end = await read_stages(nodes) if options.profile else []
    measured = {
        **merged([load.result() for load in loads]),
        **figures(nodes, begin, end),
        "foreign_cpu_percent": round(foreign_percent, 1),
    }
    if options.profile:
        measured["budget"] = budget(stages_begin, stages_end)
    return measured


async def _load(
    node: NodeHandle, options: BenchOptions, groups: list[int], clients: int, first: int
) -> LoadResult:
    spec = spec_of(options, groups, clients, first)
    within_s = options.warmup_s + options.seconds + TIMEOUT_S + SLACK_S
    answer = await node.ask("load", within_s=within_s, spec=msgspec.to_builtins(spec))
    return msgspec.convert(answer, LoadResult)


def spec_of(options: BenchOptions, groups: list[int], clients: int, first: int) -> LoadSpec:
    """What `clients` clients of one node do; `first` is the number of the first one."""
    return LoadSpec(
        clients=clients,
        groups=groups,
        size=options.size,
        seconds=options.seconds,
        warmup_s=options.warmup_s,
        mode=options.mode,
        batch=options.batch,
        smid=Chain.smid,
        timeout_s=TIMEOUT_S,
        seed=options.seed,
        first_client=first,
        apart=options.apart,
    )


async def watch(loaded: list[NodeHandle], total_s: float, steps: Steps) -> None:
    """Let the time pass, and show how it goes."""
    start = time.monotonic()
    last_s, last_values, note = 0.0, await _values(loaded), ""
    while (left_s := total_s - (time.monotonic() - start)) > 0:
        await asyncio.sleep(min(LOOK_EVERY_S, left_s))
        now_s = time.monotonic() - start
        if now_s - last_s >= RATE_EVERY_S:
            values = await _values(loaded)
            if values:
                note = f"{(values - last_values) / (now_s - last_s):,.0f} values/s"
            last_s, last_values = now_s, values
        steps.at(now_s, note)


async def _values(loaded: list[NodeHandle]) -> int:
    answers = await asyncio.gather(*(node.ask("load_progress") for node in loaded))
    return sum(answer["values"] for answer in answers if answer is not None)


def merged(results: list[LoadResult]) -> dict[str, Any]:
    """What all clients together got."""
    if not results:
        raise PaxmuxError("no node had clients")
    latencies = Latencies()
    errors: dict[str, int] = {}
    callers: list[Caller] = []
    for result in results:
        callers += result.callers
        latencies.take(**result.latencies)
        for code, count in result.errors.items():
            errors[str(code)] = errors.get(str(code), 0) + count
    ok = sum(result.ok for result in results)
    return {
        "qps": round(sum(result.ok / result.window_s for result in results), 1),
        "values_per_s": round(sum(result.values / result.window_s for result in results), 1),
        "ok": ok,
        "errors": errors,
        "latency_ms": latencies.summary_ms(),
        "callers": evenness(callers, latencies.percentile_ns(0.5)),
    }


def figures(nodes: list[NodeHandle], begin: list[Reading], end: list[Reading]) -> dict[str, Any]:
    """What the nodes used and counted within the window."""
    pairs = {node.name: pair for node, *pair in zip(nodes, begin, end, strict=True)}
    return {
        "cpu_s": {name: used_cpu_s(first, last) for name, (first, last) in pairs.items()},
        "rss_bytes": {name: last.rss_bytes for name, (_, last) in pairs.items()},
        "fdatasync": {name: last.syncs - first.syncs for name, (first, last) in pairs.items()},
        "values_per_fdatasync": {
            name: values_for_each_sync(first, last) for name, (first, last) in pairs.items()
        },
        "written_bytes_per_value": {
            name: written_for_each_value(first, last) for name, (first, last) in pairs.items()
        },
    }
