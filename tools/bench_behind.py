"""How fast a node that was away catches up while the others go on under full load.

Decides when the last node leaves and comes back, and when it has caught up: it stands where the first
node stood a moment before. The load, the cluster and the comparison of replicas are those of the yardstick.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec

from paxmux.tools.bench_machine import Chain, read_answer
from paxmux.tools.bench_run import (
    LOOK_EVERY_S,
    MACHINE,
    SLACK_S,
    TIMEOUT_S,
    BenchOptions,
    merged,
    settings,
    spec_of,
    start_cluster,
)
from paxmux.tools.cluster import DRAIN_S, START_S, Cluster
from paxmux.tools.load import LoadResult
from paxmux.tools.node_handle import NodeHandle
from paxmux.tools.progress import Steps
from paxmux.tools.replicas import compare
from paxmux.tools.surroundings import fdatasync_p50_us

CATCH_UP_S = 600.0
"""For the node to come back to where the others are."""
LOAD_S = 86_400.0
"""Nobody waits so long: the load is halted when its phase is over."""
CLOSE_S = 0.1
"""A node has caught up if it stands where the first one stood so long ago."""
SETTLE_S = 120.0


async def run_behind(options: BenchOptions, instances: int, folder: Path, steps: Steps) -> dict[str, Any]:
    """Run it in an empty folder; returns the report.

    Args:
        options: as for the yardstick; all clients are at node 1.
        instances: decided, over all groups, while the last node is away.
        folder: empty.
        steps: progress.

    Raises:
        PaxmuxError: a node did not start, died, or did not catch up within `CATCH_UP_S`.
    """
    sync_us = fdatasync_p50_us(folder)
    async with start_cluster(options, folder, steps) as cluster:
        first, last = cluster.nodes[0], cluster.nodes[-1]
        steps.step(f"{last.name} leaves; the others decide {instances:,} instances")
        left = sum(await _positions(last))
        await last.stop(DRAIN_S)
        before = await _away(first, options, instances, steps)
        steps.step(f"{last.name} comes back under load")
        during, started_s, caught_up_s, missed = await _back(cluster, options, left, steps)
        steps.step("comparing the replicas")
        verdict = await compare(
            cluster.nodes, options.groups, smid=Chain.smid, request=b"", read=read_answer, settle_s=SETTLE_S
        )
        steps.step("stopping")
        await cluster.stop()
    return {
        "behind_instances": missed,
        "started_s": round(started_s, 2),
        "caught_up_s": round(caught_up_s, 2),
        "without_it": merged([before]),
        "while_it_catches_up": merged([during]),
        "consistent": verdict.consistent,
        "differences": verdict.differences,
        "settings": {**settings(options, folder, sync_us), "machine": MACHINE},
    }


async def _away(first: NodeHandle, options: BenchOptions, instances: int, steps: Steps) -> LoadResult:
    begin = sum(await _positions(first))
    load = asyncio.create_task(_load(first, options))
    began = time.monotonic()
    while (done := sum(await _positions(first)) - begin) < instances and not load.done():
        steps.at(time.monotonic() - began, f"{done:,} of {instances:,} instances")
        await asyncio.sleep(LOOK_EVERY_S)
    await first.ask("load_halt")
    return await load


async def _back(
    cluster: Cluster, options: BenchOptions, left: int, steps: Steps
) -> tuple[LoadResult, float, float, int]:
    """(the load, seconds until the node served, seconds until it had caught up, instances that it lacked).
    `left`: those that it had when it left, over all groups."""
    first, last = cluster.nodes[0], cluster.nodes[-1]
    missed = sum(await _positions(first)) - left
    load = asyncio.create_task(_load(first, options))
    began = time.monotonic()
    await last.start()
    await last.ready(START_S)
    started_s = time.monotonic() - began
    try:
        async with asyncio.timeout(CATCH_UP_S):
            while True:
                there = await _positions(first)
                await asyncio.sleep(CLOSE_S)
                here = await _positions(last)
                if all(mine >= theirs for mine, theirs in zip(here, there, strict=True)):
                    break
                steps.at(time.monotonic() - began, f"{sum(there) - sum(here):,} instances behind")
        caught_up_s = time.monotonic() - began
    finally:
        await first.ask("load_halt")
        result = await load
    return result, started_s, caught_up_s, missed


async def _load(node: NodeHandle, options: BenchOptions) -> LoadResult:
    whole = msgspec.structs.replace(options, seconds=LOAD_S, warmup_s=0.0)
    spec = spec_of(whole, list(range(options.groups)), options.clients, 0)
    answer = await node.ask("load", within_s=LOAD_S, spec=msgspec.to_builtins(spec))
    return msgspec.convert(answer, LoadResult)


async def _positions(node: NodeHandle) -> list[int]:
    answer: list[int] = await node.ask("positions", within_s=TIMEOUT_S + SLACK_S, timeout_s=TIMEOUT_S)
    return answer
