"""A router process: the router in a loop of its own, for servers whose handlers block.

Decides nothing that the router does not decide; it carries out what the node says on the control
socket and tells it what the router finds out. It writes the founding into the data directory itself,
whose lock the node holds. It ends with the node, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from pathlib import Path

import msgspec

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import DataDirError, ExitCode, PaxmuxError, StorageFailed
from paxmux.shards.boot import (
    AttachWorker,
    DetachWorker,
    Failed,
    Founded,
    Founding,
    FromChild,
    HoldFrames,
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
    Stop,
    ToChild,
)
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.child import ControlClosed, ControlError, Parent, ParentGone, be_child
from paxmux.shards.counters import ROUTER, Block
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.event_loop import new_loop
from paxmux.shards.identity import FoundingStore
from paxmux.shards.ring import RingCorrupt
from paxmux.shards.router import Router, left_to_peer

TICK_S = 0.1
"""Counters are published, a SIGTERM is noticed, and unsent messages are tried again so often."""

_log = logging.getLogger("paxmux.router")


class RouterProcess:
    """What the process owns. Used in its event loop only."""

    def __init__(self, boot: RouterBoot, fds: list[int], parent: Parent) -> None:
        """`fds` in the order that `RouterBoot` lists.

        Raises:
            PaxmuxError: the data directory is not that of the node, or the router cannot be built.
        """
        counters, bell = fds
        self._parent = parent
        self._limits = boot.options.limits
        self._block = Block(counters, ROUTER)
        os.close(counters)
        self._bell = Doorbell(bell)
        self._counters: dict[str, int] = {}
        self._outbox: deque[FromChild] = deque()
        self._bells: dict[int, Doorbell] = {}
        self._generations: dict[int, int] = {}
        self._end: asyncio.Future[ExitCode] = asyncio.get_running_loop().create_future()
        store = FoundingStore(Path(boot.options.data_dir))
        if (store.identity.node_id, store.identity.seat) != (boot.node_id, boot.seat):
            raise DataDirError(f"{boot.options.data_dir} changed under the running node")
        self._router = Router(
            boot.options,
            store,
            incarnation=boot.incarnation,
            bell=self._bell,
            counters=self._counters,
            on_founded=self._on_founded,
            on_failed=self._fail,
            on_broken=self._on_broken,
            on_peers=self._on_peers,
            keys=boot.keys,
        )
        self._ready = False

    async def run(self) -> ExitCode:
        """Serve until told to stop, or nobody is left to serve.

        Raises:
            OSError: the port cannot be had.
            ParentGone: the node is gone.
        """
        loop = asyncio.get_running_loop()
        await self._router.start()
        # The founding may be known already; the node hears of it after this.
        self._ready = True
        self._outbox.appendleft(Ready())
        loop.add_reader(self._parent.fileno(), self._read_control)
        try:
            while not self._end.done():
                self._tick()
                await asyncio.wait([self._end], timeout=TICK_S)
            return self._end.result()
        finally:
            loop.remove_reader(self._parent.fileno())
            await self._router.stop()
            for bell in self._bells.values():
                bell.close()

    def _tick(self) -> None:
        block, counters = self._block, self._counters
        for name in ROUTER:
            block.slots[block.index[name]] = counters.get(name, 0)
        block.slots[block.index["heartbeat_ns"]] = clock_ns()
        block.slots[block.index["dropped"]] = sum(
            count for name, count in counters.items() if name.startswith("drop_")
        )
        self._read_control()
        self._flush()

    def _read_control(self) -> None:
        try:
            while (received := self._parent.receive_one()) is not None:
                self._obey(*received)
        except (ControlClosed, ControlError, msgspec.MsgspecError) as error:
            self._fail(error)

    def _obey(self, message: ToChild, fds: list[int]) -> None:
        match message:
            case AttachWorker():
                self._attach(message, fds)
                return
            case DetachWorker():
                self._detach(message.worker)
            case SetGroups():
                self._router.set_groups(message.worker, message.generation, message.groups)
            case HoldFrames():
                self._router.hold_frames(message.group)
            case ReleaseFrames():
                self._router.release_frames(message.worker)
            case SetMembers():
                self._router.set_members(message.members)
            case SetKeys():
                self._router.set_keys(message.keys)
            case StatusAsk():
                if not self._outbox:
                    self._say(StatusReply(ask=message.ask, status=self._router.status()))
            case Stop():
                if not self._end.done():
                    self._end.set_result(ExitCode.OK)
            case _:
                _log.error("a router process does not understand %s", type(message).__name__)
        for fd in fds:
            os.close(fd)

    def _attach(self, message: AttachWorker, fds: list[int]) -> None:
        worker = message.worker
        self._detach(worker)
        from_worker, to_worker, bell_fd = fds
        bell = self._bells[worker] = Doorbell(bell_fd)
        self._generations[worker] = message.generation
        try:
            receiver = Receiver(from_worker, bell, intact=left_to_peer)
            sender = Sender(
                to_worker, bell, backlog_max_bytes=self._limits.ring_backlog_bytes, small_first=True
            )
        except RingCorrupt as error:
            self._on_broken(worker, str(error))
            return
        finally:
            os.close(from_worker)
            os.close(to_worker)
        self._router.attach_worker(worker, message.generation, message.groups, receiver, sender)

    def _detach(self, worker: int) -> None:
        self._router.detach_worker(worker)
        bell = self._bells.pop(worker, None)
        if bell is not None:
            bell.close()

    def _on_founded(self, founding: Founding) -> None:
        self._say(Founded(founding=founding))

    def _on_peers(self, peers: dict[int, str]) -> None:
        self._say(PeersTold(peers=peers))

    def _on_broken(self, worker: int, reason: str) -> None:
        self._say(RingBroken(worker=worker, generation=self._generations[worker], reason=reason))

    def _say(self, message: FromChild) -> None:
        """Tell the node; if it does not read now, a little later."""
        self._outbox.append(message)
        if self._ready:
            self._flush()

    def _flush(self) -> None:
        while self._outbox:
            try:
                self._parent.send(self._outbox[0])
            except ControlError as error:
                _log.warning("%s", error)
                if isinstance(self._outbox[0], StatusReply):
                    self._outbox.popleft()
                return
            except ControlClosed as error:
                self._fail(error)
                return
            self._outbox.popleft()

    def _fail(self, error: Exception) -> None:
        if not self._end.done():
            self._end.set_exception(error)


def main() -> None:
    """Entry of the process."""
    parent, boot, fds = be_child()
    if not isinstance(boot, RouterBoot):
        raise TypeError(f"a router cannot boot as {type(boot).__name__}")
    with asyncio.Runner(loop_factory=new_loop) as runner:
        code = runner.run(_serve(parent, boot, fds))
    raise SystemExit(code)


async def _serve(parent: Parent, boot: RouterBoot, fds: list[int]) -> ExitCode:
    try:
        return await RouterProcess(boot, fds, parent).run()
    except ParentGone:
        return ExitCode.PARENT_GONE
    except StorageFailed as error:
        _last_word(parent, Failed(reason=f"router: {error}", kind="storage"))
        return ExitCode.STORAGE_FAILED
    except (PaxmuxError, OSError) as error:
        _log.error("the router cannot run: %s", error)
        _last_word(parent, Failed(reason=f"router: {error}", kind="cannot_boot"))
        return ExitCode.CANNOT_BOOT


def _last_word(parent: Parent, word: Failed) -> None:
    # The exit code says the rest, if anybody is left to look at it.
    with contextlib.suppress(ControlClosed, ControlError):
        parent.send(word)
