"""Everything that a running node is made of, put together and taken apart in order.

Decides the order: the data directory and its lock first, then groups move to the logs that the options
want them in, then the router, which finds out whether the cluster is founded, then the workers, and the
door opens last. Taking apart goes the other way,
is bounded in time with or without a quorum, and leaves no child, descriptor or socket behind, also
when the start fails half-way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from paxmux.engine import plugin
from paxmux.engine.address import node_text
from paxmux.engine.clock import clock_ns
from paxmux.engine.compiled import COMPILED
from paxmux.engine.errors import ConfigError, InvalidRequest, NodeStopped, PaxmuxError, StorageFailed
from paxmux.engine.groups import parse_groups
from paxmux.engine.options import Options
from paxmux.engine.secret_file import Keys, SecretFile
from paxmux.shards.admission import Admission
from paxmux.shards.boot import Founding, MoverBoot, RouterBoot, SetPeers, WorkerBoot
from paxmux.shards.child import absolute
from paxmux.shards.control import ControlServer, Handler
from paxmux.shards.exchange import Exchange
from paxmux.shards.heard import Heard, heard_of
from paxmux.shards.identity import DataDir, Identity, open_data_dir
from paxmux.shards.inline_router import InlineRouter
from paxmux.shards.key_watch import KeyWatch, key_picture
from paxmux.shards.lag import LagWatch
from paxmux.shards.layout import Layout
from paxmux.shards.lease_board import LeaseBoard
from paxmux.shards.log_directories import remove, set_unused_aside
from paxmux.shards.master_control import MasterControl
from paxmux.shards.masters import Masters
from paxmux.shards.member_changes import MemberChanges
from paxmux.shards.member_control import MemberControl
from paxmux.shards.memberships import Memberships
from paxmux.shards.memory_watch import MemoryWatch
from paxmux.shards.mover import MoverChild
from paxmux.shards.moving import moves_between
from paxmux.shards.outcomes import error_of
from paxmux.shards.pending import Pending
from paxmux.shards.post import Post
from paxmux.shards.rearranging import Rearranger, layout_with
from paxmux.shards.rejoin import Rejoin
from paxmux.shards.requests import CallKind, Reply
from paxmux.shards.router_child import RouterChild
from paxmux.shards.router_host import RouterHost
from paxmux.shards.status import group_rows, layout_picture, loop_picture, pending_picture
from paxmux.shards.supervisor import Supervisor

FOUNDING_LOG_S = 5.0
STATUS_S = 1.0
"""How long a status waits for workers and router."""

log = logging.getLogger("paxmux")


class Assembly:
    """The parts of one node, from its start to its stop. Used in the node's event loop only."""

    def __init__(
        self,
        options: Options,
        layout: Layout,
        admission: Admission,
        worker_of: list[int],
        memberships: Memberships,
        masters: Masters,
    ) -> None:
        """`options`: validated, with an absolute `data_dir`. `worker_of`: where requests of each group go;
        changed in place. `memberships`: filled. `masters`: opened and closed."""
        loop = asyncio.get_running_loop()
        self.admission = admission
        self.pending = Pending(loop, admission)
        self._loop = loop
        self._options = options
        self._layout = layout
        """As the options want it at the start; `_rearranger` has it as it is."""
        self._worker_of = worker_of
        self._rearranger: Rearranger
        self._own = options.own_member()
        self._seeds = {member.node_id: member.address for member in options.seed_members()}
        self._peers = self._seeds
        """Where the members are dialled."""
        self._secret_file: SecretFile | None = None
        self._incarnation = secrets.randbits(64) or 1
        self._founding: Founding | None = None
        self._store: DataDir
        self._masters = masters
        self._board: LeaseBoard
        self._board_fd = -1
        self._mover: MoverChild | None = None
        self._seat = 0
        self._sys_path = absolute(sys.path)
        self._router: RouterHost
        self._supervisor: Supervisor
        self._lag = LagWatch(loop, inline_router=options.router == "inline")
        self.exchange = Exchange(loop, admission, self.pending, layout.workers, self._on_broken)
        self._memberships = memberships
        self.member_changes = MemberChanges(self._ask, self._heard, memberships)
        self.cleaning = True
        """Whether the workers forget, and make room: those that start from now on too."""
        self.log_sync: dict[int, bool] = {}
        """What `Node.set_log_sync` last said of groups: a worker that follows another one goes by it."""
        self.serving = False
        """Between the end of the start and the begin of the end."""
        self._stack = AsyncExitStack()
        self._stack.callback(self.exchange.close)
        self._drain_until_s = 0.0
        self._started_s = loop.time()
        self._waiting_for = "its data directory"

    async def start(self) -> None:
        """Come up; returns once every worker serves.

        Raises:
            PaxmuxError: with the reason; `stop` must be called all the same.
            OSError: the port is taken.
        """
        options, stack = self._options, self._stack
        if options.network.secret_file is not None:
            self._secret_file = SecretFile(Path(options.network.secret_file))
        store = open_data_dir(
            Path(options.data_dir),
            node_id=self._own.node_id,
            groups=options.groups,
            hosts=self._layout.hosts(),
            bootstrap=options.bootstrap,
        )
        stack.callback(store.close)
        self._store = store
        self._board_fd = LeaseBoard.create(options.groups)
        stack.callback(os.close, self._board_fd)
        self._board = LeaseBoard(self._board_fd, options.groups)
        stack.callback(self._board.close)
        self._masters.open(self._board, self.exchange, self.admission, self._worker_of)
        stack.callback(self._masters.close)
        control = ControlServer(Path(options.data_dir), self._operations())
        control.start()
        stack.push_async_callback(control.stop)
        await self._move_groups(store)
        self._seat, self._founding = store.identity.seat, store.identity.founding
        if options.router == "inline":
            self._router = InlineRouter(
                options, store, self._incarnation, self._on_broken, self._on_peers, self._keys()
            )
        else:
            self._router = RouterChild(
                options.worker,
                self._router_boot,
                self._on_router_lost,
                self._on_router_back,
                self._on_broken,
                self._on_peers,
            )
        stack.push_async_callback(self._router.stop)
        self._memberships.on_places = self._router.set_members
        self._rearranger = Rearranger(
            self._layout,
            self._worker_of,
            store,
            self.exchange,
            self.pending,
            self.admission,
            self._router,
            self._post,
        )
        posts = [self._post(worker) for worker in range(self._layout.workers)]
        self._supervisor = self._rearranger.supervisor = Supervisor(self._loop, posts)
        stack.callback(self._end_requests)
        stack.push_async_callback(self._rearranger.stop, None)
        stack.push_async_callback(self._stop_workers)
        if self._secret_file is not None:
            key_watch = KeyWatch(self._loop, self._secret_file, self._router, self._supervisor.posts)
            key_watch.start()
            stack.callback(key_watch.stop)
        self._waiting_for = "its router"
        await self._router.start()
        self._founding = await self._wait_founded()
        self._waiting_for = "its workers"
        await self._supervisor.start()
        store.record_logs()
        self._lag.start()
        stack.callback(self._lag.stop)
        self.admission.shedding.lag_s = self._lag.recent_s
        self.admission.shedding.start(self._loop)
        stack.callback(self.admission.shedding.stop)
        if options.limits.memory_percent < 100:
            memory = MemoryWatch(options.limits.memory_percent, self.admission.set_memory)
            memory.start(self._loop)
            stack.callback(memory.stop)
        if options.rejoin == "auto":
            rejoin = Rejoin(self._own.node_id, self.member_changes, self._heard, self._memberships)
            seating = asyncio.create_task(rejoin.run())
            stack.push_async_callback(_ended, seating)
        self.admission.open_node()
        self.serving = True
        log.info(
            "node %s serves %d groups on %d workers",
            node_text(self._own.node_id),
            options.groups,
            self._layout.workers,
        )

    @property
    def founded(self) -> bool:
        """Whether the founding of the cluster is known here."""
        return self._founding is not None

    @property
    def waiting_for(self) -> str:
        """What `start` waits for, in words for the operator."""
        mover = self._mover
        return self._waiting_for if mover is None or mover.seconds is not None else mover.words()

    async def _move_groups(self, store: DataDir) -> None:
        """Bring each group to the log of the worker that is to host it.

        Raises:
            PaxmuxError: it cannot be done; nothing has changed.
        """
        identity, wanted = store.identity, self._layout.hosts()
        moves = moves_between(identity.hosts or wanted, wanted)
        if moves:
            assert identity.founding is not None, "without a founding the map is what the options say"
            log.info(
                "the layout has changed: %d groups move to other logs, from %d workers to %d",
                len(moves),
                len(set(identity.hosts or ())),
                self._layout.workers,
            )
            mover = self._mover = MoverChild(self._mover_boot(identity, identity.founding))
            self._stack.push_async_callback(mover.stop)
            await mover.run()
            store.switch(wanted)
            log.info("groups have moved between logs: %s", mover.picture())
        if store.identity.hosts != wanted:
            raise PaxmuxError(f"the map has {store.identity.hosts}, the layout {wanted}")
        try:
            unused = set_unused_aside(store.directory, set(wanted))
        except OSError as error:
            raise StorageFailed(f"cannot rename a log that hosts no group any more: {error}") from error
        if unused:
            await asyncio.to_thread(remove, unused)

    def _mover_boot(self, identity: Identity, founding: Founding) -> MoverBoot:
        return MoverBoot(
            options=self._options,
            node_id=identity.node_id,
            seat=identity.seat,
            founding=founding,
            hosts=list(identity.hosts or ()),
            wanted=list(self._layout.hosts()),
            logs_made=identity.logs,
            sys_path=self._sys_path,
        )

    async def stop(self, drain_s: float) -> None:
        """Refuse new work, wait for open requests within `drain_s`, take everything apart."""
        leases = self._masters.give_back() if self.serving else {}
        self.admission.close_node("the node is stopping, or stopped")
        self._drain_until_s = self._loop.time() + drain_s
        if leases:
            await self._masters.given_back(leases, drain_s)
        if self.serving:
            await self._rearranger.stop(drain_s)
        left_s = max(self._drain_until_s - self._loop.time(), 0.0)
        if not await self.pending.wait_idle(left_s):
            log.warning("%d requests have no answer after a drain of %.1f s", self.pending.waiting, drain_s)
        self.serving = False
        await self._stack.aclose()

    async def status(self) -> dict[str, Any]:
        """The whole picture; JSON-able."""
        options, own = self._options, self._own
        deadline_ns = clock_ns() + int(STATUS_S * 1e9)
        (groups, silent), router = await asyncio.gather(
            group_rows(self.exchange, self.admission, self._rearranger.layout.workers, deadline_ns),
            self._router.status(STATUS_S),
        )
        router = router or {}
        client = self.exchange.status()
        return {
            "node": {
                "node_id": own.node_id,
                "address": own.address,
                "seat": f"{self._seat:#018x}",
                "incarnation": f"{self._incarnation:#018x}",
                "cluster": f"{self._founding.cluster:#018x}" if self._founding is not None else None,
                "data_dir": options.data_dir,
                "pid": os.getpid(),
                "uptime_s": round(self._loop.time() - self._started_s, 3),
                "compiled": COMPILED,
            },
            "layout": self._layout_picture(),
            "groups": [{**row, "master": self._masters.picture(row["group"])} for row in groups],
            "groups_unknown_of_workers": silent,
            "workers": self._supervisor.status(),
            "rings": {
                "client": {str(worker): rings for worker, rings in enumerate(client)},
                "network": router.pop("workers", None),
            },
            "peers": router.pop("peers", None),
            "router": {**self._router.describe(), "answered": bool(router), **router},
            "secrets": key_picture(self._secret_file),
            "cleaning": self.cleaning,
            "log_max_bytes": options.storage.max_bytes or None,
            "loop": loop_picture(self._lag),
            "pending": pending_picture(self.admission, self.pending),
        }

    async def set_cleaning(self, on: bool) -> None:
        """Tell every worker; one that is down hears it when it starts.

        Raises:
            Overloaded: not all could be told.
        """
        self.cleaning = on
        deadline_ns = clock_ns() + int(STATUS_S * 1e9)
        told = []
        for worker in range(self._rearranger.layout.workers):
            if not self.admission.down(worker):
                self.admission.enter(worker, 0)
                told.append(self.exchange.call(worker, CallKind.SET_CLEANING, 0, int(on), b"", deadline_ns))
        await asyncio.gather(*told)

    async def _on_cleaning(self, request: dict[str, Any]) -> dict[str, Any]:
        on = request.get("on")
        if type(on) is not bool:
            raise InvalidRequest(f'expected true or false as "on", got {on!r}')
        await self.set_cleaning(on)
        return {"cleaning": on}

    async def change_layout(self, wanted: Layout) -> dict[str, Any]:
        """Move groups while the node serves; see `Rearranger.change`."""
        if not self.serving:
            raise NodeStopped("the node is not started, or stopped")
        return await self._rearranger.change(wanted)

    def _layout_picture(self) -> dict[str, Any]:
        rearranger = self._rearranger
        picture = layout_picture(rearranger.layout, self._store.identity.epoch, self._mover)
        return {**picture, **rearranger.picture()}

    def _operations(self) -> dict[str, Handler]:
        members = MemberControl(
            self.member_changes, self._memberships, self._options.groups, self._require_serving
        )
        return {
            **members.operations(),
            **MasterControl(self._masters, self._options.groups, self._require_serving).operations(),
            "status": self._on_status,
            "cleaning": self._on_cleaning,
            "layout": self._on_layout,
            "layout_move": self._on_layout_move,
        }

    async def _on_layout(self, _: dict[str, Any]) -> dict[str, Any]:
        self._require_serving()
        return self._layout_picture()

    async def _on_layout_move(self, request: dict[str, Any]) -> dict[str, Any]:
        self._require_serving()
        groups, worker = request.get("groups"), request.get("to")
        if not isinstance(groups, str) or type(worker) is not int:
            raise InvalidRequest('expected "groups" (such as "0-3,7") and "to" (a worker)')
        try:
            chosen = parse_groups(groups, self._options.groups)
        except ConfigError as error:
            raise InvalidRequest(str(error)) from error
        return await self.change_layout(layout_with(self._rearranger.layout, chosen, worker))

    def _require_serving(self) -> None:
        if not self.serving:
            raise NodeStopped(f"it does not serve now: it waits for {self.waiting_for}, or it stops")

    async def _on_status(self, _: dict[str, Any]) -> dict[str, Any]:
        self._require_serving()
        return await self.status()

    async def _wait_founded(self) -> Founding:
        self._waiting_for = "the founding of its cluster"
        while True:
            try:
                return await asyncio.wait_for(self._router.founded(), FOUNDING_LOG_S)
            except TimeoutError:
                status = await self._router.status(STATUS_S)
                words = status["founding"]["waiting_for"] if status is not None else "the router is silent"
                self._waiting_for = f"the founding of its cluster: {words}"
                log.warning("this node waits for %s", self.waiting_for)

    def _post(self, worker: int) -> Post:
        return Post(
            self._loop,
            self._options,
            worker,
            self._worker_boot,
            self.exchange,
            self._router,
            self._board_fd,
            self._rearranger.told,
            self._memberships.take,
            self._on_gone,
        )

    def _on_gone(self, worker: int) -> None:
        # Nobody renews what it had, and what it left behind may be half written.
        for group in self._rearranger.layout.groups_of(worker):
            self._board.expire(group, worker)
        self._rearranger.lost(worker)

    def _worker_boot(self, worker: int, generation: int) -> WorkerBoot:
        if self._founding is None:
            raise PaxmuxError("no worker can start before the cluster is founded")
        groups = self._rearranger.groups_of(worker)
        return WorkerBoot(
            options=self._options,
            worker=worker,
            generation=generation,
            groups=groups,
            node_id=self._own.node_id,
            seat=self._seat,
            incarnation=self._incarnation,
            founding=self._founding,
            # A log that has no group by the map holds nothing that must not be missed.
            create_log=not self._store.identity.logs or worker not in (self._store.identity.hosts or ()),
            cleaning=self.cleaning,
            log_sync={group: on for group, on in self.log_sync.items() if group in groups},
            leases_ms=self._masters.leases_ms,
            cpus=list(self._rearranger.layout.cpus_of(worker)),
            peers=self._peers,
            direct=getattr(plugin.load(self._options.network.plugin), "direct", None),
            keys=self._keys(),
            sys_path=self._sys_path,
        )

    def _router_boot(self) -> RouterBoot:
        return RouterBoot(
            options=self._options,
            node_id=self._own.node_id,
            seat=self._seat,
            incarnation=self._incarnation,
            workers=self._layout.workers,
            founding=self._founding,
            keys=self._keys(),
            sys_path=self._sys_path,
        )

    async def _ask(self, kind: CallKind, group: int, payload: bytes, deadline_ns: int) -> Reply:
        """Ask the worker of a group. Raises what its reply says, or why it cannot be asked."""
        worker = self._worker_of[group]
        self.admission.enter(worker, len(payload))
        reply = await self.exchange.call(worker, kind, group, 0, payload, deadline_ns)
        if reply[1]:
            raise error_of(reply)
        return reply

    async def _heard(self) -> dict[int, Heard]:
        return heard_of(await self._router.status(STATUS_S))

    def _keys(self) -> list[Keys]:
        return list(self._secret_file.keys) if self._secret_file is not None else []

    def _on_broken(self, worker: int, generation: int, reason: str) -> None:
        self._supervisor.replace(worker, generation, reason)

    def _on_peers(self, peers: dict[int, str]) -> None:
        self._peers = peers
        self._supervisor.tell(SetPeers(peers=peers))

    def _on_router_lost(self, reason: str) -> None:
        self._supervisor.hold_all(reason)
        # Its successor begins with the options again.
        self._peers = self._seeds

    def _on_router_back(self) -> None:
        self._supervisor.resume_all()

    async def _stop_workers(self) -> None:
        await self._supervisor.stop(max(self._drain_until_s - self._loop.time(), 0.0))

    def _end_requests(self) -> None:
        self.pending.fail_all("the node stopped: it is not known whether this took effect")
        self.pending.close()


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
