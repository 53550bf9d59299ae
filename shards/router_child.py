"""The router in a process of its own (`router: process`), seen from the node.

Decides what its death means: network rings have one life, so all workers end and begin again with the
next router process, which gets the same port, doorbell and incarnation. What was in flight then ends
with an unknown outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import PaxmuxError, StorageFailed
from paxmux.engine.options import WorkerOptions
from paxmux.engine.secret_file import Keys
from paxmux.shards.boot import (
    AttachWorker,
    DetachWorker,
    Failed,
    Founded,
    Founding,
    FromChild,
    HoldFrames,
    MemberPlace,
    PeersTold,
    Ready,
    ReleaseFrames,
    RingBroken,
    RouterBoot,
    SetGroups,
    SetKeys,
    SetMembers,
    StatusAsk,
    StatusReply,
)
from paxmux.shards.child import ControlError, spawn_child
from paxmux.shards.counters import ROUTER, Block
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.restarts import RestartPolicy
from paxmux.shards.router_host import OnBroken, OnPeers
from paxmux.shards.standstill import WATCH_S, Standstill
from paxmux.shards.watched_child import WatchedChild, exit_text

ROUTER_MODULE = "paxmux.shards.router_process"
STOP_GRACE_S = 2.0

log = logging.getLogger("paxmux")


class RouterChild:
    """Keeps `RouterHost`. Used in the node's event loop only."""

    def __init__(
        self,
        options: WorkerOptions,
        make_boot: Callable[[], RouterBoot],
        on_lost: Callable[[str], None],
        on_back: Callable[[], None],
        on_broken: OnBroken,
        on_peers: OnPeers,
    ) -> None:
        """
        Args:
            options: back-off and crash budget, as for workers.
            make_boot: the boot message, made anew for each life.
            on_lost: the process died, with the reason; no worker can run now.
            on_back: its successor serves.
            on_broken, on_peers: see there.
        """
        self.bell = Doorbell.create()
        self.generation = 0
        self._make_boot = make_boot
        self._on_lost = on_lost
        self._on_back = on_back
        self._on_broken = on_broken
        self._on_peers = on_peers
        self._members: dict[int, MemberPlace] | None = None
        """What every life of the process is told, once anybody knows it."""
        self._loop = asyncio.get_running_loop()
        self._policy = RestartPolicy(options)
        self._ready: asyncio.Future[PaxmuxError | None] = self._loop.create_future()
        self._founded: asyncio.Future[Founding] = self._loop.create_future()
        self._child: WatchedChild | None = None
        self._block: Block | None = None
        self._failed: Failed | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._standstill = Standstill("the router process", options.hang_warn_ms, options.hang_kill_ms)
        self._given_up = False
        """This life was seen to hang, and is being killed."""
        self._watch = self._loop.call_later(WATCH_S, self._look)
        self._asks = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._stopping = False

    async def start(self) -> None:
        """See `RouterHost`."""
        self._begin()
        error = await asyncio.shield(self._ready)
        if error is not None:
            raise error

    async def founded(self) -> Founding:
        """See `RouterHost`."""
        return await asyncio.shield(self._founded)

    def attach_worker(
        self,
        worker: int,
        generation: int,
        groups: list[int],
        from_worker: int,
        to_worker: int,
        bell: Doorbell,
    ) -> None:
        """See `RouterHost`."""
        if self._child is not None:
            self._child.send(
                AttachWorker(worker=worker, generation=generation, groups=groups),
                [from_worker, to_worker, bell.fileno()],
            )

    def set_groups(self, worker: int, generation: int, groups: list[int]) -> None:
        """See `RouterHost`."""
        if self._child is not None:
            self._child.send(SetGroups(worker=worker, generation=generation, groups=groups))

    def hold_frames(self, group: int) -> None:
        """See `RouterHost`."""
        if self._child is not None:
            self._child.send(HoldFrames(group=group))

    def release_frames(self, worker: int) -> None:
        """See `RouterHost`."""
        if self._child is not None:
            self._child.send(ReleaseFrames(worker=worker))

    def set_members(self, members: Mapping[int, MemberPlace]) -> None:
        """See `RouterHost`."""
        self._members = dict(members)
        self._tell_members()

    def detach_worker(self, worker: int) -> None:
        """See `RouterHost`."""
        if self._child is not None:
            self._child.send(DetachWorker(worker=worker))

    def set_keys(self, keys: Sequence[Keys]) -> bool:
        """See `RouterHost`. Who is not there is told when it boots."""
        return self._child is None or self._child.send(SetKeys(keys=list(keys)))

    def describe(self) -> dict[str, Any]:
        """See `RouterHost`."""
        age_s = self._heartbeat_age_s(clock_ns())
        return {
            "mode": "process",
            "pid": self._child.pid if self._child is not None else None,
            "generation": self.generation,
            "restarts": self._policy.restarts,
            "heartbeat_age_s": None if age_s is None else round(age_s, 3),
            "counters": self._block.snapshot() if self._block is not None else None,
        }

    async def status(self, timeout_s: float) -> dict[str, Any] | None:
        """See `RouterHost`."""
        if self._child is None:
            return None
        ask = next(self._asks)
        answer = self._asked[ask] = self._loop.create_future()
        try:
            if not self._child.send(StatusAsk(ask=ask)):
                return None
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            return None
        finally:
            del self._asked[ask]

    async def stop(self) -> None:
        """See `RouterHost`."""
        self._stopping = True
        self._watch.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._child is not None:
            await self._child.end(0, STOP_GRACE_S)
        if not self._founded.cancel():
            # Whoever waited for it may have left before; then nobody has seen the error.
            self._founded.exception()
        self._ready.cancel()
        self.bell.close()

    def _begin(self) -> None:
        self.generation += 1
        self._failed, self._given_up = None, False
        with contextlib.ExitStack() as stack:
            try:
                counters = Block.create(ROUTER)
                stack.callback(os.close, counters)
                self._block = Block(counters, ROUTER)
                child = spawn_child(ROUTER_MODULE)
            except (OSError, PaxmuxError) as error:
                self._close_block()
                self._after_death(f"it cannot be started: {error}")
                return
            self._child = WatchedChild(
                self._loop, child, "the router process", self._on_message, self._on_exit
            )
            try:
                self._child.boot(self._make_boot(), [counters, self.bell.fileno()])
            except ControlError as error:
                self._failed = Failed(reason=str(error), kind="cannot_boot")
                self._child.kill()

    def _on_message(self, message: FromChild) -> None:
        match message:
            case Ready():
                self._tell_members()
                if self._ready.done():
                    log.warning("the router process serves again")
                    self._on_back()
                else:
                    self._ready.set_result(None)
            case Founded() if not self._founded.done():
                self._founded.set_result(message.founding)
            case PeersTold():
                self._on_peers(message.peers)
            case RingBroken():
                self._on_broken(message.worker, message.generation, message.reason)
            case Failed():
                self._failed = message
            case StatusReply():
                answer = self._asked.get(message.ask)
                if answer is not None and not answer.done():
                    answer.set_result(message.status)
            case _:
                log.debug("the router process said %s", type(message).__name__)

    def _tell_members(self) -> None:
        if self._child is not None and self._members is not None:
            self._child.send(SetMembers(members=self._members))

    def _on_exit(self, code: int) -> None:
        self._child = None
        self._close_block()
        why = exit_text(code)
        if self._failed is not None:
            why = f"{self._failed.reason} ({why})"
        if self._stopping:
            log.info("the router process stopped: %s", why)
        else:
            log.error("the router process died: %s", why)
            self._after_death(why)

    def _look(self) -> None:
        now_ns = clock_ns()
        age_s = self._heartbeat_age_s(now_ns)
        child = self._child
        if age_s is not None and child is not None and not self._given_up:
            detail = f"process {child.pid}"
            look = self._standstill.check(now_ns, age_s, age_s, child.pid, detail, boots=not self._turns())
            if look.give_up:
                log.error("the router process is killed: %s", look.give_up)
                self._given_up = True
                self._failed = Failed(reason=look.give_up, kind="hung")
                child.kill()
        self._watch = self._loop.call_later(WATCH_S, self._look)

    def _heartbeat_age_s(self, now_ns: int) -> float | None:
        if self._block is None or self._child is None:
            return None
        beat_ns = self._block.slots[self._block.index["heartbeat_ns"]]
        return max(now_ns - max(beat_ns, self._child.started_ns), 0) / 1e9

    def _turns(self) -> bool:
        """Whether its loop has ever turned."""
        return self._block is not None and self._block.slots[self._block.index["heartbeat_ns"]] > 0

    def _close_block(self) -> None:
        self._standstill.forget()
        if self._block is not None:
            self._block.close()
            self._block = None

    def _after_death(self, why: str) -> None:
        error = PaxmuxError(f"the router process died: {why}")
        if self._failed is not None and self._failed.kind == "storage":
            error = StorageFailed(str(error))
        if not self._ready.done():
            self._ready.set_result(error)
            return
        if not self._founded.done():
            self._founded.set_exception(error)
            return
        self._on_lost(f"the router process died: {why}")
        delay_s = self._policy.died(clock_ns() / 1e9)
        if delay_s is None:
            log.critical("the router process stays down until the node is started again: %s", why)
        else:
            self._timer = self._loop.call_later(delay_s, self._begin)
