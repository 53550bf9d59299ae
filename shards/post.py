"""A worker's post: the process that holds it now, and who follows when it dies.

Decides when a worker is started, what it inherits, and what its death means. Each life has fresh
rings, a fresh doorbell and the next generation; a successor starts only after its predecessor was
reaped. When a worker dies, everything in flight there ends with an unknown outcome (404) and is never
submitted again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import Literal

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import ExitCode, PaxmuxError, StorageFailed
from paxmux.engine.options import Options
from paxmux.shards.boot import (
    Failed,
    FromChild,
    MembersTold,
    MoveTold,
    Ready,
    StoppedMachine,
    ToChild,
    WorkerBoot,
)
from paxmux.shards.child import spawn_child
from paxmux.shards.counters import WORKER, Block, Phase
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.exchange import Exchange
from paxmux.shards.link import Link
from paxmux.shards.restarts import RestartPolicy
from paxmux.shards.ring import create_ring
from paxmux.shards.router_host import RouterHost
from paxmux.shards.standstill import STOPPED, Standstill, process_state
from paxmux.shards.watched_child import WatchedChild, exit_text
from paxmux.shards.whereabouts import SIGNAL, Place, told

State = Literal["held", "starting", "serving", "waiting", "down", "stopped"]
"""`held`: must not run now. `waiting`: for the back-off. `down`: given up. `stopped`: for good."""

STOP_GRACE_S = 3.0
"""A worker that was told to stop syncs and closes its log within this time after its drain."""
REPLACE_GRACE_S = 1.0

NOT_YET_S = 0.02
"""So soon a worker is started that must not be now."""

WORKER_MODULE = "paxmux.shards.worker"

log = logging.getLogger("paxmux")


class NotYet(PaxmuxError):
    """A worker must not be started for the moment; that is no failure of its own."""


class Post:
    """One worker index. Used in the node's event loop only."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: Options,
        worker: int,
        make_boot: Callable[[int, int], WorkerBoot],
        exchange: Exchange,
        router: RouterHost,
        lease_board: int,
        on_told: Callable[[int, MoveTold], None],
        on_members: Callable[[MembersTold], None],
        on_gone: Callable[[int], None],
    ) -> None:
        """`make_boot` takes (worker, generation), and may raise `NotYet`. `lease_board`: its descriptor.
        `on_told`: what the worker says of a move. `on_members`: what it says of members. `on_gone`: it is
        dead, before a successor is started."""
        self.worker = worker
        self.name = f"worker {worker}"
        self.state: State = "held"
        self.generation = 0
        self.reason = ""
        """Why the worker is down, held or waiting."""
        self.last_exit = ""
        self.policy = RestartPolicy(options.worker)
        self.settled: asyncio.Future[PaxmuxError | None] = loop.create_future()
        """None once the worker has served for the first time, or why it never will; cancelled by `stop`."""
        self._loop = loop
        self._limits = options.limits
        self._make_boot = make_boot
        self._exchange = exchange
        self._router = router
        self._lease_board = lease_board
        self._on_told = on_told
        self._on_members = on_members
        self._on_gone = on_gone
        self._child: WatchedChild | None = None
        self._link: Link | None = None
        self._bell: Doorbell | None = None
        self._block: Block | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failed: Failed | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._standstill = Standstill(self.name, options.worker.hang_warn_ms, options.worker.hang_kill_ms)
        self._given_up = False
        """This life was seen to hang, and is being killed."""
        self._hung: dict[tuple[int, int], str] = {}
        """State machines, as (group, id), in which workers have hung since the node was started, and why."""

    @property
    def pid(self) -> int | None:
        """The process that holds the post; None if none does."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Let a worker run from now on."""
        if self.state != "held":
            return
        if self._child is None:
            self._begin()
        else:
            self.state = "waiting"

    def hold(self, reason: str) -> None:
        """Let no worker run until `start`; one that runs is replaced, which is no death of its own."""
        if self.state in ("down", "stopped"):
            return
        self._cancel_timer()
        self.state, self.reason = "held", reason
        self._exchange.refuse(self.worker, f"{self.name} is held: {reason}")
        if self._child is not None and not self._replacing:
            self._replacing = self._loop.create_task(self._child.end(0, REPLACE_GRACE_S))

    def send(self, message: ToChild, fds: Iterable[int] = ()) -> bool:
        """Say something to the worker, if it serves; False if it does not."""
        return self.state == "serving" and self._child is not None and self._child.send(message, fds)

    def tell(self, message: ToChild) -> None:
        """Say what every life of the worker is told when it boots, and what is different now."""
        if self.state in ("starting", "serving") and self._child is not None:
            self._child.send(message)

    def replace(self, generation: int, reason: str) -> None:
        """This life of the worker cannot be talked to any more: kill it; its death is handled as any
        other."""
        if self._child is not None and generation == self.generation:
            log.error("%s is killed: %s", self.name, reason)
            self._child.kill()

    async def stop(self, drain_s: float) -> None:
        """Stop the worker and have no successor; returns once the process is gone."""
        self._cancel_timer()
        self.state = "stopped"
        if self._child is not None:
            await self._child.end(drain_s, STOP_GRACE_S)
        if self._replacing is not None:
            await asyncio.wait([self._replacing])
        if not self.settled.done():
            self.settled.cancel()

    def counters(self) -> dict[str, int] | None:
        """The worker's counters now; None if none runs."""
        return self._block.snapshot() if self._block is not None else None

    def heartbeat_age_s(self, now_ns: int) -> float | None:
        """Seconds since the worker's loop last turned, or since it was started; None if none runs."""
        if self._block is None or self._child is None:
            return None
        beat_ns = self._block.slots[self._block.index["heartbeat_ns"]]
        return max(now_ns - max(beat_ns, self._child.started_ns), 0) / 1e9

    def phase(self) -> str:
        """What the worker's loop is doing."""
        if self._block is None:
            return "none"
        number = self._block.slots[self._block.index["phase"]]
        try:
            return Phase(number).name.lower()
        except ValueError:
            return f"unknown phase {number}"

    def hung(self) -> list[str]:
        """State machines in which workers have hung since the node was started, with the reason."""
        return list(self._hung.values())

    def next_start_s(self) -> float | None:
        """Seconds until the back-off ends; None if there is none."""
        if self._timer is None or self.state != "waiting":
            return None
        return round(max(self._timer.when() - self._loop.time(), 0.0), 3)

    def check_heartbeat(self, now_ns: int) -> None:
        """Warn when the worker's loop stands still, ask it where it is, and replace it in the end."""
        age_s, child, block = self.heartbeat_age_s(now_ns), self._child, self._block
        if age_s is None or child is None or block is None or self._given_up or self.state == "stopped":
            return
        place = told(block, now_ns - int(age_s * 1e9))
        detail = f"process {child.pid}, in phase {self.phase()}"
        if place is not None:
            detail += f", {_words(place)}"
        moved_s = (now_ns - block.slots[block.index["progress_ns"]]) / 1e9
        # It says that it is ready before its loop turns for the first time.
        turns = self.state == "serving" and block.slots[block.index["heartbeat_ns"]] > 0
        look = self._standstill.check(
            now_ns, age_s, min(age_s, max(moved_s, 0.0)), child.pid, detail, boots=not turns
        )
        if look.give_up:
            self._give_up(child, look.give_up, place)
        elif look.ask and turns:
            child.kill(SIGNAL)

    def _give_up(self, child: WatchedChild, reason: str, place: Place | None) -> None:
        log.error("%s is killed: %s", self.name, reason)
        self._given_up = True
        stopped = process_state(child.pid) == STOPPED
        if place is not None and not stopped:
            self._hung[place.group, place.smid] = (
                f"state machine {place.smid} of group {place.group} is stopped since {self.name} hung in it, "
                f"at instance {place.instance}: {reason}"
            )
        self._failed = Failed(reason=reason, kind="hung")
        if stopped:
            child.kill()  # It could say nothing.
        else:
            child.abort()

    # A life

    def _begin(self) -> None:
        try:
            boot = self._make_boot(self.worker, self.generation + 1)
        except NotYet as error:
            self.state, self.reason = "waiting", f"{self.name} is being restarted: {error}"
            self._exchange.refuse(self.worker, self.reason)
            self._timer = self._loop.call_later(NOT_YET_S, self._begin)
            return
        self.generation += 1
        self.state, self._failed, self._given_up = "starting", None, False
        boot.stopped = [
            StoppedMachine(group, smid, reason)
            for (group, smid), reason in self._hung.items()
            if group in boot.groups
        ]
        try:
            self._spawn(boot)
        except (OSError, PaxmuxError) as error:
            self._discard()
            if self._child is None:
                self._after_death(f"it cannot be started: {error}", None)
            else:
                self._failed = Failed(reason=f"{self.name}: {error}", kind="cannot_boot")
                self._child.kill()

    def _spawn(self, boot: WorkerBoot) -> None:
        with contextlib.ExitStack() as stack:

            def own(fd: int) -> int:
                stack.callback(os.close, fd)
                return fd

            counters = own(Block.create(WORKER))
            size, generation = self._limits.ring_bytes, self.generation
            client_in, client_out, net_in, net_out = (
                own(create_ring(size, generation=generation)) for _ in range(4)
            )
            self._block = Block(counters, WORKER)
            bell = self._bell = Doorbell.create()
            self._link = Link(self.worker, client_in, client_out, bell, self._limits)
            self._child = WatchedChild(
                self._loop, spawn_child(WORKER_MODULE), self.name, self._on_message, self._on_exit
            )
            self._router.attach_worker(self.worker, generation, boot.groups, net_out, net_in, bell)
            bells = (bell.fileno(), self._exchange.bell.fileno(), self._router.bell.fileno())
            rings = (client_in, client_out, net_in, net_out)
            self._child.boot(boot, [counters, *rings, *bells, self._lease_board])
        log.info("%s: process %d, generation %d", self.name, self._child.pid, generation)

    def _on_message(self, message: FromChild) -> None:
        match message:
            case Ready() if self.state == "starting" and self._link is not None:
                self._exchange.attach(self._link)
                self._link = None  # the exchange closes it
                self.state = "serving"
                if not self.settled.done():
                    self.settled.set_result(None)
            case Failed():
                self._failed = message
            case MoveTold():
                self._on_told(self.worker, message)
            case MembersTold():
                self._on_members(message)
            case _:
                log.debug("%s said %s while %s", self.name, type(message).__name__, self.state)

    def _on_exit(self, code: int) -> None:
        self._child = None
        self.last_exit = exit_text(code)
        why = f"{self._failed.reason} ({self.last_exit})" if self._failed is not None else self.last_exit
        lost = self._exchange.detach(self.worker, f"{self.name} died: {why}")
        self._router.detach_worker(self.worker)
        self._discard()
        self._on_gone(self.worker)
        if self.state == "stopped":
            level = logging.INFO if code == ExitCode.OK else logging.WARNING
            log.log(level, "%s stopped: %s", self.name, why)
        elif self._replacing is not None:
            self._replacing = None
            log.warning("%s was ended (%s): %s; %d outcomes unknown", self.name, why, self.reason, lost)
            if self.state == "waiting":
                self._begin()
        else:
            loud = logging.CRITICAL if code == ExitCode.STORAGE_FAILED else logging.ERROR
            log.log(loud, "%s died: %s; %d outcomes unknown", self.name, why, lost)
            self._after_death(why, code)

    def _after_death(self, why: str, code: int | None) -> None:
        delay_s = self.policy.died(clock_ns() / 1e9)
        never_served = not self.settled.done()
        failed_as = self._failed.kind if self._failed is not None else None
        if never_served and (code in (ExitCode.CANNOT_BOOT, None) or failed_as == "cannot_boot"):
            delay_s = None
        if delay_s is None:
            self.state = "down"
            self.reason = f"{self.name} stays down until the node is started again: {why}"
            log.critical("%s", self.reason)
            if never_served:
                error = StorageFailed(why) if failed_as == "storage" else PaxmuxError(why)
                self.settled.set_result(error)
        else:
            self.state = "waiting"
            self.reason = f"{self.name} is being restarted: {why}"
            self._timer = self._loop.call_later(delay_s, self._begin)
        self._exchange.refuse(self.worker, self.reason)

    def _discard(self) -> None:
        """Let go what belonged to the last life."""
        self._standstill.forget()
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._block is not None:
            self._block.close()
            self._block = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _words(place: Place) -> str:
    return (
        f"executing state machine {place.smid} of group {place.group} at instance {place.instance}, "
        f"value {place.value}"
    )
