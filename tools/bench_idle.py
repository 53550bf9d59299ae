"""What a cluster costs that has nothing to do: CPU time of each process, and memory of each group.

Decides what is read when: nothing is asked of a node within the window, which would wake it. Memory is that
of the process alone (RssAnon), against a cluster with one group for each worker; groups have decided nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import structs
from rich.console import Console
from rich.table import Table

from paxmux.tools.bench_run import BenchOptions, report_of, start_cluster, watch
from paxmux.tools.cluster import Cluster
from paxmux.tools.node_figures import Reading, read_node
from paxmux.tools.process_samples import own_bytes, used_cpu_ns
from paxmux.tools.progress import Steps
from paxmux.tools.surroundings import ForeignCpu

FEWEST = "fewest-groups"
"""Folder of the cluster that the other is compared with."""
SETTLE_S = 5.0
"""What follows a start, as the last ticks of what watches the load, is over then."""


async def run_idle(options: BenchOptions, folder: Path, steps: Steps) -> dict[str, Any]:
    """Run it in an empty folder; returns the report.

    Raises:
        PaxmuxError: a node did not start, or died.
    """
    fewest = folder / FEWEST
    fewest.mkdir()
    few = structs.replace(options, groups=options.workers, work_us=0)
    async with start_cluster(few, fewest, steps) as cluster:
        steps.step("letting it settle", SETTLE_S)
        await watch([], SETTLE_S, steps)
        before = [_own_bytes(await read_node(node)) for node in cluster.nodes]
        await cluster.stop()
    return await report_of(options, folder, steps, lambda cluster: _measure(cluster, options, before, steps))


async def _measure(
    cluster: Cluster, options: BenchOptions, before: list[dict[str, int]], steps: Steps
) -> dict[str, Any]:
    settle_s = max(SETTLE_S, options.warmup_s)
    steps.step("letting it settle", settle_s)
    await watch([], settle_s, steps)
    readings = [await read_node(node) for node in cluster.nodes]
    foreign = ForeignCpu([process for one in readings for process in one.processes.values()])
    steps.step("measuring", options.seconds)
    begin = [_used_ns(one) for one in readings]
    await watch([], options.seconds, steps)
    used = [
        {name: ns - first[name] for name, ns in _used_ns(one).items()}
        for one, first in zip(readings, begin, strict=True)
    ]
    foreign_percent = foreign.percent()
    own = [_own_bytes(one) for one in readings]
    more = options.groups - options.workers
    return {
        "idle": {
            "cpu_percent": {
                node.name: {name: round(ns / options.seconds / 1e7, 3) for name, ns in one.items()}
                for node, one in zip(cluster.nodes, used, strict=True)
            },
            "own_bytes": {node.name: one for node, one in zip(cluster.nodes, own, strict=True)},
            "rss_bytes": {
                node.name: one.rss_bytes for node, one in zip(cluster.nodes, readings, strict=True)
            },
            "own_bytes_per_group": {
                kind: round(_mean(own, kind) - _mean(before, kind)) // more for kind in ("host", "worker")
            }
            if more
            else None,
        },
        "foreign_cpu_percent": round(foreign_percent, 1),
    }


def _used_ns(reading: Reading) -> dict[str, int]:
    return {name: used_cpu_ns(process.pid) for name, process in reading.processes.items()}


def _own_bytes(reading: Reading) -> dict[str, int]:
    return {name: own_bytes(process.pid) for name, process in reading.processes.items()}


def _mean(nodes: list[dict[str, int]], kind: str) -> float:
    """Of all nodes, what their processes of a kind have together."""
    return sum(size for node in nodes for name, size in node.items() if name.startswith(kind)) / len(nodes)


def show_idle(report: dict[str, Any]) -> None:
    """The table, and what a group takes."""
    console = Console(highlight=False)
    idle, settings = report["idle"], report["settings"]
    table = Table(title=f"idle, {settings['groups']:,} groups", title_justify="left")
    for name in ("node", "% of a core", "all", "own MB", "RSS MB"):
        table.add_column(name, justify="left" if name == "node" else "right")
    for node, used in idle["cpu_percent"].items():
        table.add_row(
            node,
            ", ".join(f"{name} {percent:.2f}" for name, percent in used.items()),
            f"{sum(used.values()):.2f}",
            *(
                ", ".join(f"{name} {size / 1e6:.1f}" for name, size in idle[kind][node].items())
                for kind in ("own_bytes", "rss_bytes")
            ),
        )
    console.print(table)
    each = idle["own_bytes_per_group"]
    if each is not None:
        console.print(
            f"each group that has decided nothing takes {each['worker'] / 1e3:.1f} kB in its worker "
            f"and {each['host'] / 1e3:.1f} kB in the embedding process"
        )
    for reason in report["invalid_because"]:
        console.print(f"not a valid measurement: {reason}", markup=False)
