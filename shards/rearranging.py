"""Changes of the layout while the node serves: which groups move, one after the other, and where requests go.

Keeps the layout as it is now, and the map of the data directory in step with it. One change at a time;
each group moves as shards/live_move.py says, so a change that ends half-way leaves every group whole, on
one worker or the other. A failed write of the map is final: nobody knows then whose the group is, so no
worker may run until the node is started again and reads what is there.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from paxmux.engine.errors import InvalidRequest, NodeStopped, PaxmuxError, StorageFailed
from paxmux.shards.admission import Admission
from paxmux.shards.boot import MoveTold
from paxmux.shards.exchange import Exchange
from paxmux.shards.identity import DataDir
from paxmux.shards.layout import Layout
from paxmux.shards.live_move import LiveMove
from paxmux.shards.moving import moves_between
from paxmux.shards.pending import Pending
from paxmux.shards.post import NotYet, Post
from paxmux.shards.router_host import RouterHost
from paxmux.shards.supervisor import Supervisor

REMEMBERED = 256
"""Moves whose waiting times are reported."""

log = logging.getLogger("paxmux")


class Rearranger:
    """Keeps `live_move.Routes`. Used in the node's event loop only."""

    def __init__(
        self,
        layout: Layout,
        worker_of: list[int],
        store: DataDir,
        exchange: Exchange,
        pending: Pending,
        admission: Admission,
        router: RouterHost,
        make_post: Callable[[int], Post],
    ) -> None:
        """`worker_of`: what requests are routed by; changed in place."""
        self.layout = layout
        self.worker_of = worker_of
        self.supervisor: Supervisor
        self._store = store
        self._exchange = exchange
        self._pending = pending
        self._admission = admission
        self._router = router
        self._make_post = make_post
        self._numbers = itertools.count(1)
        self._move: LiveMove | None = None
        self._switching: set[int] = set()
        """Workers that must not be started: the map is being written."""
        self._task: asyncio.Task[dict[str, Any]] | None = None
        self._held_ms: deque[float] = deque(maxlen=REMEMBERED)
        self._done = 0
        self._failed = 0
        self._stopping = False

    async def change(self, wanted: Layout) -> dict[str, Any]:
        """Bring every group to its worker in `wanted`; workers that are not there yet are started first.

        Cancelling the call cancels only the waiting.

        Returns:
            What was moved, and how long requests of the groups had to wait.

        Raises:
            InvalidRequest: another change is under way.
            MoveFailed: a group stays where it was; those before it have moved.
            StorageFailed: the map cannot be written; no worker runs any more.
            PaxmuxError: a worker cannot be started.
        """
        if self._stopping:
            raise NodeStopped("the node is stopping")
        if self._task is not None and not self._task.done():
            raise InvalidRequest(
                "the layout is being changed already; `paxmux layout show` says how far it is"
            )
        self._task = asyncio.create_task(self._change(wanted))
        # Whoever waits for it may leave before; then nobody else sees an error.
        self._task.add_done_callback(_look)
        return await asyncio.shield(self._task)

    async def stop(self, timeout_s: float | None) -> None:
        """End a change that is under way: the group that is moving stays or goes, and is whole. Once all
        workers are gone it ends by itself."""
        self._stopping = True
        if self._task is not None:
            if self._move is not None:
                self._move.abort("the node is stopping")
            await asyncio.wait([self._task], timeout=timeout_s)

    def groups_of(self, worker: int) -> list[int]:
        """What a worker that is started now hosts.

        Raises:
            NotYet: it must not be started now.
        """
        if worker in self._switching:
            raise NotYet("the map of groups is being written")
        if self._move is not None and self._move.bars(worker):
            raise NotYet(f"group {self._move.group} comes back from worker {self._move.target.worker}")
        return list(self.layout.groups_of(worker))

    def told(self, worker: int, message: MoveTold) -> None:
        """A worker says how a move goes."""
        if self._move is not None:
            self._move.told(worker, message)

    def lost(self, worker: int) -> None:
        """A worker is dead."""
        if self._move is not None:
            self._move.lost(worker)

    def picture(self) -> dict[str, Any]:
        """What is under way, and what was done since the start."""
        move = self._move
        held = sorted(self._held_ms)
        return {
            "moving": None
            if move is None
            else {
                "group": move.group,
                "from": move.source.worker,
                "to": move.target.worker,
                "phase": move.phase,
            },
            "moves": self._done,
            "failed_moves": self._failed,
            "held_ms": {"p50": held[len(held) // 2], "max": held[-1]} if held else None,
        }

    # Routes

    def commit(self, group: int, worker: int) -> None:
        """See `live_move.Routes`."""
        hosts = list(self.layout.hosts())
        self._switching = {hosts[group], worker}
        hosts[group] = worker
        cpus = {each: self.layout.cpus_of(each) for each in range(self.layout.workers)}
        self.layout = Layout.of_hosts(hosts, self.layout.workers, cpus)

    async def switch(self) -> None:
        """See `live_move.Routes`."""
        try:
            await asyncio.to_thread(self._store.switch, self.layout.hosts())
        except (PaxmuxError, OSError, RuntimeError) as error:
            # Also where it cannot be read any more, or no thread be had.
            words = f"{error}; start the node again"
            self.supervisor.hold_all(words)
            raise StorageFailed(words) from error
        self._switching = set()

    def hold_frames(self, group: int) -> None:
        """See `live_move.Routes`."""
        self._router.hold_frames(group)

    def release_frames(self, worker: int) -> None:
        """See `live_move.Routes`."""
        self._router.release_frames(worker)

    def reroute(self) -> None:
        """See `live_move.Routes`."""
        for post in self.supervisor.posts:
            groups = list(self.layout.groups_of(post.worker))
            self._router.set_groups(post.worker, post.generation, groups)

    # A change

    async def _change(self, wanted: Layout) -> dict[str, Any]:
        await self._add_workers(wanted)
        moves = moves_between(self.layout.hosts(), wanted.hosts())
        held_ms: list[float] = []
        for group, source, target in moves:
            if self._stopping:
                raise NodeStopped("the node is stopping")
            held_ms.append(await self._run(group, source, target))
        return {"groups": len(moves), "workers": self.layout.workers, "held_ms": held_ms}

    async def _run(self, group: int, source: int, target: int) -> float:
        posts = self.supervisor.posts
        move = self._move = LiveMove(
            next(self._numbers), group, posts[source], posts[target], self, self._exchange, self._pending
        )
        try:
            await move.run()
        except PaxmuxError:
            self._failed += 1
            raise
        finally:
            self._move = None
        self._done += 1
        held_ms = round(move.held_s * 1000, 3)
        self._held_ms.append(held_ms)
        log.info(
            "group %d moved from worker %d to worker %d, held for %.1f ms", group, source, target, held_ms
        )
        return held_ms

    async def _add_workers(self, wanted: Layout) -> None:
        while self.layout.workers < wanted.workers:
            if self._stopping:
                raise NodeStopped("the node is stopping")
            worker = self.layout.workers
            cpus = {each: self.layout.cpus_of(each) for each in range(worker)}
            cpus[worker] = wanted.cpus_of(worker)
            self.layout = Layout.of_hosts(self.layout.hosts(), worker + 1, cpus)
            self._admission.add_worker(worker)
            self._exchange.add_worker(worker)
            await self.supervisor.add(self._make_post(worker))


def _look(task: asyncio.Task[dict[str, Any]]) -> None:
    if not task.cancelled():
        error = task.exception()
        if error is not None:
            log.warning("the change of the layout has ended: %s", error)


def layout_with(layout: Layout, groups: Sequence[int], worker: int) -> Layout:
    """A layout in which some groups are on another worker; it may be the next one, which is started then.

    Raises:
        InvalidRequest: there can be no such worker.
    """
    most = min(layout.workers, layout.group_count - 1)
    if not 0 <= worker <= most:
        raise InvalidRequest(f"expected a worker of 0 .. {most}, got {worker}")
    hosts = list(layout.hosts())
    for group in groups:
        hosts[group] = worker
    workers = max(layout.workers, worker + 1)
    return Layout.of_hosts(hosts, workers, {each: layout.cpus_of(each) for each in range(layout.workers)})
