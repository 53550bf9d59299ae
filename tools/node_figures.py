"""What the processes of a cluster's nodes have used, and counted, between two moments.

Decides how a node's status and the system's own figures become one reading, and what two readings
make. Only reads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psutil

from paxmux.engine.errors import PaxmuxError
from paxmux.tools.node_handle import NodeHandle
from paxmux.tools.surroundings import cpu_s


class Reading(NamedTuple):
    """One node at one moment."""

    processes: dict[str, psutil.Process]
    """`host`, `router` if it is a process of its own, `worker0`, …"""
    cpu_s: dict[str, float]
    rss_bytes: dict[str, int]
    syncs: int
    """fdatasync calls of all its workers."""
    values: int
    """Values that they have executed."""
    written_bytes: int
    """What its workers have written: their logs, and next to it little. Not `write_bytes`, which counts a
    whole folio of the page cache, up to megabytes, for each byte that is changed in it."""


async def read_node(node: NodeHandle) -> Reading:
    """A reading of a node that serves.

    Raises:
        PaxmuxError: it does not, or one of its workers is down.
    """
    status: dict[str, Any] = await node.ask("status")
    pids: dict[str, int | None] = {"host": status["node"]["pid"]}
    if status["router"]["mode"] == "process":
        pids["router"] = status["router"]["pid"]
    pids |= {f"worker{worker['worker']}": worker["pid"] for worker in status["workers"]}
    down = [name for name, pid in pids.items() if pid is None]
    if down or any(worker["counters"] is None for worker in status["workers"]):
        raise PaxmuxError(f"{node.name}: {', '.join(down)} does not run\n{node.log_tail()}")
    try:
        processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        rss = {name: process.memory_info().rss for name, process in processes.items()}
        written = sum(
            process.io_counters().write_chars
            for name, process in processes.items()
            if name.startswith("worker")
        )
    except psutil.Error as error:
        raise PaxmuxError(f"{node.name}: a process has ended: {error}\n{node.log_tail()}") from None
    return Reading(
        processes,
        {name: cpu_s(process) for name, process in processes.items()},
        rss,
        sum(worker["counters"]["syncs"] for worker in status["workers"]),
        sum(worker["counters"]["values_applied"] for worker in status["workers"]),
        written,
    )


def used_cpu_s(begin: Reading, end: Reading) -> dict[str, float]:
    """CPU seconds by process; what was restarted meanwhile counts from its own start."""
    return {
        name: round(total - (begin.cpu_s[name] if begin.processes.get(name) == end.processes[name] else 0), 3)
        for name, total in end.cpu_s.items()
    }


def values_for_each_sync(begin: Reading, end: Reading) -> float:
    """Values executed per fdatasync; 0 if there was none."""
    syncs = end.syncs - begin.syncs
    return round((end.values - begin.values) / syncs, 2) if syncs else 0.0


def written_for_each_value(begin: Reading, end: Reading) -> float:
    """Bytes that the node's workers wrote, per value executed; 0 if there was none."""
    values = end.values - begin.values
    return round((end.written_bytes - begin.written_bytes) / values, 1) if values else 0.0
