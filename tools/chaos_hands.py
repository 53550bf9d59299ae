"""The hands of `paxmux chaos`: they do to a running cluster what a plan says, and bring it back.

Decides how each action is done, and that after a plan everything is up, thawed and connected. Counts
what was done. A node that ends without having been told to is an error, not a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from paxmux.engine.address import parse_member
from paxmux.engine.errors import PaxmuxError
from paxmux.shards.router_child import ROUTER_MODULE
from paxmux.tools.chaos_faults import Action, Fault
from paxmux.tools.cluster import START_S, Cluster
from paxmux.tools.cuttable_network import write_cuts
from paxmux.tools.node_handle import NodeHandle

PATIENT = {
    "worker": {
        "crash_budget": 1_000_000,
        "restart_first_ms": 100,
        "restart_max_ms": 400,
        "hang_warn_ms": 500,
        "hang_kill_ms": 2000,
    }
}
"""Options of the nodes: workers are killed far more often here than a supervisor should put up with, and
those that stand still are given up before a plan ends."""
DAMAGES = 50
"""A position that is damaged is soon overwritten by whoever it belongs to: so it is damaged so often."""
DAMAGE_EVERY_S = 0.002
RING = "paxmux-ring"
_HEAD_AT = 128


class Hands:
    """One cluster's. Used in one event loop only."""

    def __init__(
        self,
        cluster: Cluster,
        on_start: Callable[[NodeHandle], Awaitable[None]],
        violate: Callable[[str], None],
        *,
        cuts_file: Path | None = None,
        on_kill: Callable[[NodeHandle], None] | None = None,
    ) -> None:
        """
        Args:
            cluster: with a network that reads the cuts file, if there is one.
            on_start: awaited when a node serves that was started here.
            violate: is told in words what a sound cluster would not do.
            cuts_file: see tools/cuttable_network.py.
            on_kill: told that a node was killed or stopped, and is gone.
        """
        self._cluster = cluster
        self._on_start = on_start
        self._violate = violate
        self._cuts_file = cuts_file
        self._on_kill = on_kill
        self._starts: set[asyncio.Task[None]] = set()
        self.done: Counter[Action] = Counter()
        """How often each action was done."""

    async def carry_out(self, faults: list[Fault]) -> None:
        """Do all of them, each at its time.

        Raises:
            PaxmuxError: a node died by itself.
        """
        begin = time.monotonic()
        for fault in faults:
            await asyncio.sleep(max(0.0, begin + fault.at_s - time.monotonic()))
            await self._do(fault)

    async def bring_back(self) -> None:
        """Every node serves again; what was started within the plan is waited for.

        Raises:
            PaxmuxError: a node died by itself, or does not come back.
        """
        self._cut(())
        for node in self._cluster.nodes:
            _thaw(node)
            if node.pid is None:
                await self._start(node)
        starts, self._starts = self._starts, set()
        await asyncio.gather(*starts)
        for node in self._cluster.nodes:
            await node.ready(START_S)

    def let_go(self) -> None:
        """The cluster is at its end: start nothing more."""
        for start in self._starts:
            start.cancel()

    async def _do(self, fault: Fault) -> None:
        node = self._cluster.nodes[fault.node]
        match fault.action:
            case Action.KILL_NODE:
                self._check_alive(node)
                await node.kill()
                self._gone(node)
            case Action.START_NODE:
                if node.pid is not None:
                    return
                await self._start(node)
            case Action.STOP_NODE:
                code = await node.stop(drain_s=1.0)
                self._gone(node)
                if code != 0:
                    self._violate(f"{node.name} was asked to stop and ended with exit code {code}")
            case Action.FREEZE_NODE:
                node.send_signal(signal.SIGSTOP)
            case Action.FREEZE_ROUTER:
                # Where it is no process of its own, it is the node's.
                router = next(filter(_is_router, node.children()), None)
                if router is None:
                    node.send_signal(signal.SIGSTOP)
                else:
                    _signal(router, signal.SIGSTOP)
            case Action.THAW:
                _thaw(node)
            case Action.KILL_CHILD | Action.FREEZE_CHILD:
                children = node.children()
                if not children:
                    return
                number = signal.SIGKILL if fault.action == Action.KILL_CHILD else signal.SIGSTOP
                _signal(children[fault.child % len(children)], number)
            case Action.KILL_ROUTER:
                for router in filter(_is_router, node.children()):
                    _signal(router, signal.SIGKILL)
            case Action.KILL_WORKER | Action.STOP_WORKER | Action.DAMAGE_RING:
                pid = await _worker(node, fault.child)
                if pid is None:
                    return
                if fault.action == Action.DAMAGE_RING:
                    await _damage(pid, fault.child % 4)
                else:
                    number = signal.SIGKILL if fault.action == Action.KILL_WORKER else signal.SIGSTOP
                    with contextlib.suppress(psutil.NoSuchProcess):
                        psutil.Process(pid).send_signal(number)
            case Action.CUT | Action.HEAL:
                self._cut(fault.cuts)
        self.done[fault.action] += 1

    def _cut(self, cuts: tuple[tuple[int, int], ...]) -> None:
        if self._cuts_file is not None:
            ids = [parse_member(member).node_id for member in self._cluster.members]
            write_cuts(self._cuts_file, [(ids[sender], ids[receiver]) for sender, receiver in cuts])

    def _gone(self, node: NodeHandle) -> None:
        if self._on_kill is not None:
            self._on_kill(node)

    async def _start(self, node: NodeHandle) -> None:
        """Start a node; it is given work as soon as it serves."""
        self._check_alive(node)
        await node.start()
        self._starts.add(asyncio.create_task(self._give_work(node, node.pid)))

    async def _give_work(self, node: NodeHandle, pid: int | None) -> None:
        try:
            await node.ready(START_S)
            await self._on_start(node)
        except PaxmuxError:
            if node.pid == pid or node.died is not None:
                raise
            # Killed while it was starting.

    def _check_alive(self, node: NodeHandle) -> None:
        if node.died is not None:
            raise PaxmuxError(f"{node.name} died by itself, with exit code {node.died}\n{node.log_tail()}")


async def _worker(node: NodeHandle, number: int) -> int | None:
    """The process of a worker that serves; None if none does now."""
    workers = (await node.ask("status"))["workers"]
    row = workers[number % len(workers)]
    pid: int | None = row["pid"] if row["state"] == "serving" else None
    return pid


async def _damage(pid: int, which: int) -> None:
    """Write nonsense into the head of one of a worker's four rings, until it is gone."""
    for _ in range(DAMAGES):
        try:
            # Each was inherited once, and is held a second time by its mapping.
            links = sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda link: int(link.name))
            fd = os.open([link for link in links if RING in os.readlink(link)][which], os.O_RDWR)
        except (OSError, IndexError):
            return
        try:
            os.pwrite(fd, (1 << 40).to_bytes(8, "little"), _HEAD_AT)
        finally:
            os.close(fd)
        await asyncio.sleep(DAMAGE_EVERY_S)


def _is_router(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(ROUTER_MODULE in word for word in process.cmdline())
    return False


def _thaw(node: NodeHandle) -> None:
    node.send_signal(signal.SIGCONT)
    for child in node.children():
        _signal(child, signal.SIGCONT)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
