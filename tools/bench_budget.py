"""The budget of a value: where its CPU time goes in the running system (`paxmux bench --profile`).

Decides what is read of each node when, and how two readings become µs and bytes for each value. The nodes
measure themselves (`shards/stages.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from paxmux.shards import counters
from paxmux.tools import host_stages
from paxmux.tools.node_handle import NodeHandle
from paxmux.tools.process_samples import used_cpu_ns

MEANS = {
    "host": {
        "callers": "callers, `propose`, the event loop",
        "requests": "requests of a turn into one document",
        "ring": "rings to and from the workers",
        "replies": "replies out of their documents",
        "resolve": "futures of the callers",
        "router": "frames: checks, where to",
        "receive": "frames from the network",
        "send": "frames to the network",
    },
    "worker": {
        "loop": "the loop between the stages, and what sleeps and wakes",
        "ring": "rings from and to node and router",
        "decode": "requests and frames out of their documents",
        "step": "the protocol: messages, proposals, instances opened",
        "encode": "messages into frames",
        "send": "small frames to the network",
        "append": "records into the log",
        "sync": "fdatasync (its CPU time alone)",
        "finish": "the protocol: own votes, decisions",
        "apply": "state machines, results",
        "replies": "results into one document",
        "upkeep": "index, cleaning, counters",
    },
}
"""What belongs to each stage."""

_RATIOS = (
    "values_per_turn",
    "values_per_instance",
    "frames_in_per_turn",
    "frames_out_per_turn",
    "turn_us",
    "sync_wall_us",
)
"""Shown beside the flows."""


class NodeStages(NamedTuple):
    """One node at one moment."""

    cpu_ns: dict[str, int]
    """Process -> CPU time."""
    stage_ns: dict[str, dict[str, int]]
    """`host` and `worker` (all of them together) -> stage -> CPU time."""
    flow_bytes: dict[str, int]
    counts: dict[str, int]
    """Of all workers together."""


async def read_stages(nodes: Sequence[NodeHandle]) -> list[NodeStages]:
    """All nodes now."""
    return list(await asyncio.gather(*map(_read, nodes)))


async def _read(node: NodeHandle) -> NodeStages:
    status, host = await asyncio.gather(node.ask("status"), node.ask("stages"))
    workers: list[dict[str, Any]] = status["workers"]
    pids = {"host": status["node"]["pid"], **{f"worker{one['worker']}": one["pid"] for one in workers}}
    if status["router"]["mode"] == "process":
        pids["router"] = status["router"]["pid"]
    counts = {name: sum(one["counters"][name] for one in workers) for name in workers[0]["counters"]}
    return NodeStages(
        {name: used_cpu_ns(pid) for name, pid in pids.items()},
        {
            "host": dict(zip(host_stages.STAGES, host, strict=True)),
            "worker": {stage: counts[f"{stage}_cpu_ns"] for stage in counters.STAGES},
        },
        _flows(status, counts),
        counts,
    )


def _flows(status: dict[str, Any], counts: dict[str, int]) -> dict[str, int]:
    """Bytes so far: rings are named as the worker sees them, the wire as the node does."""
    rings, router = status["rings"], status["router"]
    client = [one for one in rings["client"].values() if one is not None]
    network = list((rings["network"] or {}).values())
    wire = router.get("counters") or {}
    return {
        "client_ring_in": sum(one["to_worker"]["bytes"] for one in client),
        "client_ring_out": sum(one["from_worker"]["bytes"] for one in client),
        "network_ring_in": sum(one["to_worker"]["bytes"] for one in network),
        "network_ring_out": sum(one["from_worker"]["bytes"] for one in network),
        "wire_in": wire.get("bytes_in", 0),
        "router_out": wire.get("bytes_out", 0),
        "log": counts["log_bytes"],
    }


def budget(begin: Sequence[NodeStages], end: Sequence[NodeStages]) -> dict[str, Any]:
    """What each value cost between two readings, by node."""
    values = end[0].counts["values_applied"] - begin[0].counts["values_applied"]
    return {
        "values": values,
        "nodes": {
            f"node{number}": _node(before, after, max(values, 1))
            for number, (before, after) in enumerate(zip(begin, end, strict=True), 1)
        },
    }


def _node(before: NodeStages, after: NodeStages, values: int) -> dict[str, Any]:
    counted = {name: count - before.counts[name] for name, count in after.counts.items()}
    turns = max(counted["turns"], 1)
    return {
        "cpu_us": {name: _each(ns - before.cpu_ns[name], values) for name, ns in after.cpu_ns.items()},
        "stages_us": {
            process: {
                stage: _each(ns - before.stage_ns[process][stage], values) for stage, ns in made.items()
            }
            for process, made in after.stage_ns.items()
        },
        "bytes": {
            name: round((count - before.flow_bytes[name]) / values, 1)
            for name, count in after.flow_bytes.items()
        },
        "sync_wall_us": _each(counted["sync_ns"], values),
        "values_per_turn": round(values / turns, 1),
        "values_per_instance": round(values / max(counted["instances_decided"], 1), 2),
        "frames_in_per_turn": round(counted["frames_in"] / turns, 2),
        "frames_out_per_turn": round(counted["frames_out"] / turns, 2),
        "turn_us": _each(
            sum(after.stage_ns["worker"].values()) - sum(before.stage_ns["worker"].values()), turns
        ),
    }


def _each(ns: int, count: int) -> float:
    return round(ns / 1000 / count, 3)


def show_budget(console: Console, report: dict[str, Any]) -> None:
    """The table: µs of CPU for each value."""
    nodes = report["nodes"]
    table = Table(title="budget: µs of CPU for each value", title_justify="left")
    for name in ("process", "stage"):
        table.add_column(name)
    for name in nodes:
        table.add_column(name, justify="right")
    table.add_column("what", overflow="fold")
    for process, made in MEANS.items():
        for stage, means in made.items():
            costs = [node["stages_us"][process][stage] for node in nodes.values()]
            table.add_row(process, stage, *(f"{cost:.2f}" for cost in costs), means)
        table.add_section()
    for process in next(iter(nodes.values()))["cpu_us"]:
        costs = [node["cpu_us"][process] for node in nodes.values()]
        table.add_row(process, "all", *(f"{cost:.2f}" for cost in costs), "CPU time of the process")
    console.print(table)
    flows = Table(title="what flows, for each value and for each turn of a worker", title_justify="left")
    flows.add_column("")
    for name in nodes:
        flows.add_column(name, justify="right")
    for name in next(iter(nodes.values()))["bytes"]:
        flows.add_row(
            f"{name.replace('_', ' ')}, bytes", *(f"{node['bytes'][name]:.0f}" for node in nodes.values())
        )
    for name in _RATIOS:
        flows.add_row(name.replace("_", " "), *(f"{node[name]:.1f}" for node in nodes.values()))
    console.print(flows)
