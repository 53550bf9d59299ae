"""A node of one member on a free port, over fake or real workers, and what it must not leave behind."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from paxmux.engine.errors import PaxmuxError
from paxmux.engine.options import LayoutOptions, Options, WorkerOptions
from paxmux.shards.node import Node
from tests.event_loop import DEADLINE_S

QUICK_RESTARTS = WorkerOptions(restart_first_ms=1, restart_max_ms=20, hang_warn_ms=300)


def lone_options(data_dir: Path, port: int, *, workers: int = 1, groups: int = 4, **more: Any) -> Options:
    """Options of a cluster of one."""
    address = f"127.0.0.1:{port}"
    more.setdefault("worker", QUICK_RESTARTS)
    return Options(
        node=address,
        members=[address],
        data_dir=str(data_dir),
        groups=groups,
        bootstrap=True,
        layout=LayoutOptions(workers=workers),
        **more,
    )


def member_options(folder: Path, ports: Sequence[int], number: int, **more: Any) -> Options:
    """Options of the node that has `ports[number]`."""
    return Options(
        node=f"127.0.0.1:{ports[number]}",
        members=[f"127.0.0.1:{port}" for port in ports],
        data_dir=str(folder / f"node{number}"),
        bootstrap=True,
        **more,
    )


@asynccontextmanager
async def running(options: Options) -> AsyncIterator[Node]:
    """A started node; afterwards it is stopped, and nothing of it is left."""
    before = traces()
    node = Node(options)
    await node.start(30)
    try:
        yield node
    finally:
        await node.stop(1)
    check_traces(before)


def traces() -> dict[str, Any]:
    """What a node could leave behind: descriptors, children, shared memory."""
    gc.collect()
    return {
        "fds": sorted(_fds()),
        "children": sorted(child.pid for child in psutil.Process().children(recursive=True)),
        "shared memory": sorted(os.listdir("/dev/shm")),
    }


def check_traces(before: dict[str, Any]) -> None:
    """Nothing is there that was not there before."""
    after = traces()
    for kind in ("fds", "children"):
        left = set(after[kind]) - set(before[kind])
        assert not left, f"{kind} left behind: {left}"
    named = {name for name in after["shared memory"] if "paxmux" in name}
    assert not named - set(before["shared memory"])


def _fds() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{fd} -> {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


async def started(options: Options) -> Node:
    """A node, as soon as the processes of the one before are gone: they die with it, a moment later."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        node = Node(options)
        try:
            await node.start(30)
        except PaxmuxError as error:
            if "in use by the process" not in str(error) or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return node
