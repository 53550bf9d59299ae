"""One group changes its worker while the node serves, seen from the node.

    values stream from the old worker to the new one, the group is served as ever
    near        the new worker has nearly all: requests of the group wait here from now on, and the old
                worker is told to let go
    complete    everything of the group is durable in the new worker's log, and the old one is silent
    switched    the map in the data directory names the new log: the group is the new worker's
    hosted      the new worker takes part; what waited goes there

Decides what the death of a worker means in each of these: before `complete` the group stays (the old worker,
or its successor, takes it up again); from then on it goes, whoever dies. So there is never a moment at
which two workers may vote for it: the old one has let go before the new one is asked to take it up, and a
successor of either hosts what the map says, which it is not told while the map is being written.

Nor are machines that keep their state open in two workers: the old one opens them again only when the new
one has said that it has closed them, or is dead.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Protocol

from paxmux.engine.errors import PaxmuxError, StorageFailed
from paxmux.shards.boot import MoveDone, MoveEnd, MoveIn, MoveOut, MoveTold
from paxmux.shards.exchange import Exchange
from paxmux.shards.pending import Pending
from paxmux.shards.post import Post
from paxmux.shards.requests import CallKind
from paxmux.shards.waiting_room import WAITING_ROOM

HOLD_S = 3.0
"""A new worker that is not complete so long after the old one was told to let go does not get the group."""
END_S = 5.0
"""A new worker that does not say so long after the end of a move that it has closed everything is killed."""


class MoveFailed(PaxmuxError):
    """The group stays with its worker; the message says why."""


class Routes(Protocol):
    """What a move changes about the node."""

    worker_of: list[int]
    """Where requests of each group go: a worker, or `WAITING_ROOM`."""

    def commit(self, group: int, worker: int) -> None:
        """The group goes to this worker: no worker that is started from now on hosts it before `switch`
        has returned."""
        ...

    async def switch(self) -> None:
        """Make durable what was committed.

        Raises:
            StorageFailed: it is not known whose the group is; nobody may host it.
        """
        ...

    def hold_frames(self, group: int) -> None:
        """Have frames for the group kept."""
        ...

    def reroute(self) -> None:
        """Have frames delivered as the map says."""
        ...

    def release_frames(self, worker: int) -> None:
        """Have this worker get the frames that were kept."""
        ...


class LiveMove:
    """Used in the node's event loop only."""

    def __init__(
        self,
        number: int,
        group: int,
        source: Post,
        target: Post,
        routes: Routes,
        exchange: Exchange,
        pending: Pending,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = number
        self.group = group
        self.source = source
        self.target = target
        self.phase = "copying"
        self.held_s = 0.0
        """How long requests of the group had to wait."""
        self._routes = routes
        self._exchange = exchange
        self._pending = pending
        self._clock = clock
        self._told: set[str] = set()
        self._lost: set[int] = set()
        self._failure: str | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Move it.

        Raises:
            MoveFailed: the group stays where it was.
            StorageFailed: the map cannot be written.
        """
        try:
            self._begin()
            await self._until(lambda: "near" in self._told, None)
        except MoveFailed:
            self._end()
            raise
        held_from = self._clock()
        self._hold()
        try:
            try:
                await self._until(lambda: "complete" in self._told, HOLD_S)
            except MoveFailed:
                self._end()
                await self._go_back()
                raise
            await self._go_over()
        finally:
            self.held_s = self._clock() - held_from

    def abort(self, reason: str) -> None:
        """Have the group stay, if it still can."""
        if self._failure is None:
            self._failure = reason
            self._changed.set()

    def told(self, worker: int, message: MoveTold) -> None:
        """A worker says how it goes."""
        if message.what == "hosted" and message.group == self.group:
            self._told.add(f"hosted by {worker}")
        elif message.move != self.number:
            return
        elif message.what == "ended":
            self._told.add(f"ended by {worker}")
        elif self._failure is not None:
            return
        elif message.what == "broken":
            self.abort(message.reason)
        elif worker == self.target.worker:
            self._told.add(message.what)
            if message.what == "complete":
                # At once: before anybody hears of a death, and starts a successor.
                self._routes.commit(self.group, worker)
                # What the old worker has not answered was handed over, and dies with the new one.
                self._pending.reassign(self.group, self.source.worker, worker)
        self._changed.set()

    def lost(self, worker: int) -> None:
        """A worker died."""
        if worker in (self.source.worker, self.target.worker):
            self._lost.add(worker)
            self.abort(f"worker {worker} died")
            self._changed.set()

    def bars(self, worker: int) -> bool:
        """Whether a successor of this worker must wait: the other one may have machines of the group open."""
        return worker == self.source.worker and self.phase in ("held", "closing there")

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours, theirs:
            out = MoveOut(group=self.group, move=self.number)
            into = MoveIn(group=self.group, move=self.number)
            if not (self.target.send(into, [theirs.fileno()]) and self.source.send(out, [ours.fileno()])):
                self.abort("a worker does not serve")

    def _hold(self) -> None:
        self.phase = "held"
        self._exchange.hold()
        self._routes.hold_frames(self.group)
        self._routes.worker_of[self.group] = WAITING_ROOM
        if not self._exchange.order(self.source.worker, CallKind.LET_GO, self.group, self.number):
            self.abort(f"worker {self.source.worker} is down")

    async def _go_over(self) -> None:
        """Everything is durable in the new log: from here on the group goes, whoever dies."""
        target, group = self.target.worker, self.group
        self.phase = "switching"
        try:
            await self._routes.switch()
        except StorageFailed as error:
            self._routes.worker_of[group] = target
            self._exchange.turn_away(str(error))
            self._routes.release_frames(target)
            raise
        self._routes.reroute()
        self.phase = "taking up"
        if target not in self._lost and self._exchange.order(target, CallKind.TAKE_UP, group, self.number):
            await self._until_told("hosted", target)
        self._release(target)
        self.source.send(MoveDone(group=group))
        self.phase = "done"

    async def _go_back(self) -> None:
        """The group stays: its worker takes it up again, unless it died; then its successor has it."""
        source, target = self.source.worker, self.target
        self.phase = "closing there"
        generation = target.generation
        if not await self._until_told("ended", target.worker, END_S):
            target.replace(generation, f"it does not end the move of group {self.group}")
            await self._until_told("ended", target.worker)
        self.phase = "going back"
        if source not in self._lost and self._exchange.order(
            source, CallKind.TAKE_UP, self.group, self.number
        ):
            await self._until_told("hosted", source)
        self._release(source)

    def _release(self, worker: int) -> None:
        self._routes.worker_of[self.group] = worker
        self._exchange.release(self.group, worker)
        self._routes.release_frames(worker)

    def _end(self) -> None:
        self.phase = "given up"
        for post in (self.source, self.target):
            post.send(MoveEnd(group=self.group, move=self.number))

    async def _until_told(self, what: str, worker: int, timeout_s: float | None = None) -> bool:
        """Until the worker has said so, or is dead; False if it has not in time."""
        until = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        while f"{what} by {worker}" not in self._told and worker not in self._lost:
            if not await self._change(until):
                return False
        return True

    async def _change(self, until: float | None) -> bool:
        """Until something was told; False if nothing is by then."""
        self._changed.clear()
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _until(self, condition: Callable[[], bool], timeout_s: float | None) -> None:
        until = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        while not condition():
            if self._failure is not None:
                raise MoveFailed(
                    f"group {self.group} stays with worker {self.source.worker}: {self._failure}"
                )
            if not await self._change(until):
                self.abort(f"worker {self.target.worker} did not have all of it after {timeout_s} s")
