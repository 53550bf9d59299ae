"""A worker process: the groups of one slice, their state machines and their log, in one loop.

The loop waits on an eventfd for both of its rings and on the control socket, runs a turn with
whatever came in, and goes on without sleeping while there is work. One thread, no asyncio, nothing
blocking but the sync of the log.

A worker ends with its parent, at once; on a failed write or sync it ends with an exit code of its
own and acknowledges nothing more (`ExitCode.STORAGE_FAILED`).
"""

from __future__ import annotations

import gc
import logging
import os
import random
import secrets
import select
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from paxmux.engine import plugin
from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import ConfigError, ExitCode, PaxmuxError, StorageFailed
from paxmux.engine.frame import is_intact, version_for
from paxmux.engine.groups import parse_groups
from paxmux.engine.options import Options
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS, NEVER
from paxmux.engine.state_machine import MAX_SMID, MIN_SMID, StateMachine
from paxmux.engine.storage import Log, LogIdentity, OpenLog, RecordKind, StorageDamaged
from paxmux.shards import requests, stages
from paxmux.shards.applier import close_machines, describe, is_durable
from paxmux.shards.boot import (
    Failed,
    MoveDone,
    MoveEnd,
    MoveIn,
    MoveOut,
    Ready,
    SetKeys,
    SetPeers,
    Stop,
    WorkerBoot,
)
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.child import Parent, ParentGone, be_child
from paxmux.shards.counters import WORKER, Block, Phase
from paxmux.shards.direct_way import open_direct, sockets_of
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.lease_board import LeaseBoard
from paxmux.shards.leases import LeaseWriter, lease_terms
from paxmux.shards.log_directories import make_log_directory
from paxmux.shards.log_sync import LogSync
from paxmux.shards.members_teller import MembersTeller
from paxmux.shards.requests import Reply
from paxmux.shards.slice import GroupMaker, Identity, build_turn
from paxmux.shards.sync_mark import SyncMark
from paxmux.shards.transit import Transit
from paxmux.shards.turn import Turn
from paxmux.shards.whereabouts import Whereabouts
from paxmux.shards.worker_stages import watch_worker

log = logging.getLogger("paxmux.worker")

RECEIVE_BYTES: Final = 1 << 20
"""Taken from each ring in one turn: bounds how long a turn, and so a vote, can take."""
CONTROL_EVERY: Final = 50 * MS
PUBLISH_EVERY: Final = 100 * MS
HOUSEKEEP_EVERY: Final = 100 * MS
REASON_MAX: Final = 4000
"""Characters of an error that travel to the parent."""
SLEEP_MAX: Final = 500 * MS
"""The heartbeat beats at least so often, also when there is nothing to do."""


def build_machines(
    options: Options, groups: Sequence[int], durable: bool | None = None
) -> dict[int, dict[int, StateMachine]]:
    """The state machines of each group, by id.

    Args:
        options: name the classes.
        groups: to build them for.
        durable: only those that keep their state themselves, or only those that do not; None: all.

    Raises:
        ConfigError: names the class and what is wrong with it.
    """
    built: dict[int, dict[int, StateMachine]] = {index: {} for index in groups}
    try:
        _build_into(built, options, durable)
    except BaseException:
        for index, machines in built.items():
            close_machines(index, machines.values())
        raise
    return built


def _build_into(built: dict[int, dict[int, StateMachine]], options: Options, durable: bool | None) -> None:
    for entry in options.state_machines:
        cls = plugin.load_class(entry.class_, StateMachine)
        if durable is not None and is_durable(cls) != durable:
            continue
        for index in set(parse_groups(entry.groups, options.groups)).intersection(built):
            machine = cls(index, **entry.args)
            smid = getattr(machine, "smid", None)
            if type(smid) is not int or not MIN_SMID <= smid <= MAX_SMID:
                raise ConfigError(
                    f"{entry.class_}: expected a class attribute smid of {MIN_SMID}..{MAX_SMID}, got {smid!r}"
                )
            if smid in built[index]:
                raise ConfigError(
                    f"{entry.class_}: group {index} already has a state machine with smid {smid}"
                )
            built[index][smid] = machine


class Worker:
    """Everything that a worker process owns."""

    def __init__(self, boot: WorkerBoot, fds: Sequence[int], parent: Parent) -> None:
        """`fds` in the order that `WorkerBoot` lists."""
        options = boot.options
        if boot.cpus:
            # First of all: threads that the log starts inherit it.
            os.sched_setaffinity(0, boot.cpus)
        self._parent = parent
        counters, client_in, client_out, net_in, net_out, own_bell, node_bell, router_bell, leases = fds
        self._block = Block(counters, WORKER)
        self._leases = LeaseWriter(LeaseBoard(leases, options.groups), boot.worker)
        self._bell = Doorbell(own_bell)
        node, router = Doorbell(node_bell), Doorbell(router_bell)
        backlog = options.limits.ring_backlog_bytes
        self._requests = Receiver(client_in, node)
        self._answers = Sender(client_out, node, backlog_max_bytes=backlog)
        self._frames = Receiver(net_in, router, intact=is_intact)
        self._wire = Sender(net_out, router, backlog_max_bytes=backlog, small_first=True)
        self._replies: list[Reply] = []
        self._machines = build_machines(options, boot.groups)
        self._path = make_log_directory(Path(options.data_dir), boot.worker)
        self._log = self._open_log(boot)
        self._node_id = boot.node_id
        self._direct = open_direct(boot)
        self._turn = self._build_turn(boot)
        self._turn.calls.set_cleaning(boot.cleaning)
        self._whereabouts = Whereabouts(self._block)
        self._stop: Stop | None = None
        self._stop_by = NEVER
        self._slot = self._block.index
        self._control_at = self._publish_at = 0
        self._housekeep_at = 0
        self._busy_since = clock_ns()
        self._busy = self._turns = self._sync_time = self._in = self._calls = self._proposals = 0

    def _open_log(self, boot: WorkerBoot) -> Log:
        storage = boot.options.storage
        open_log: OpenLog = plugin.load(storage.plugin)
        return open_log(
            self._path,
            _log_identity(boot),
            segment_bytes=storage.segment_bytes,
            create=boot.create_log,
            max_bytes=storage.max_bytes,
            clean_bytes_per_s=storage.clean_bytes_per_s,
            scrub_bytes_per_s=storage.scrub_bytes_per_s,
        )

    def _build_turn(self, boot: WorkerBoot) -> Turn:
        options = boot.options
        log_sync = LogSync(
            self._log,
            SyncMark(self._path, _log_identity(boot)),
            options.storage,
            boot.groups,
            boot.log_sync,
        )
        identity = Identity(
            boot.founding.cluster, boot.node_id, boot.seat, boot.incarnation, boot.worker, boot.generation
        )
        members, rng = Members(boot.founding.seats), random.Random(secrets.randbits(64))
        leases = lease_terms(options, boot.leases_ms)
        strays: list[int] = []
        turn = build_turn(
            identity,
            self._machines,
            self._log,
            self._wire,
            self._replies,
            members=members,
            rng=rng,
            now=clock_ns(),
            timers=options.timers,
            proposals=options.proposals,
            limits=options.limits,
            strays=strays,
            storage=options.storage,
            log_sync=log_sync,
            direct=self._direct,
            version=version_for(options.groups),
            clock=clock_ns,
            leases=leases,
        )
        turn.calls.masters.clock, turn.calls.masters.leases = clock_ns, leases
        if options.worker.slow_warn_ms:
            turn.pace.start(clock_ns, options.worker.slow_warn_ms * MS)
        for hung in boot.stopped:
            turn.appliers[hung.group].stopped[hung.smid] = hung.reason
            log.error("group %d: %s", hung.group, hung.reason)
        # They live in other logs, for good: what is here was left behind, or is a copy that was cut off.
        turn.fx.records += [(RecordKind.RELEASED, group, 0, 0, 0, b"") for group in strays]
        maker = GroupMaker(
            identity,
            self._log,
            self._replies,
            members,
            rng,
            options.timers,
            options.proposals,
            options.limits,
            leases,
        )

        def build(group: int, durable: bool) -> dict[int, StateMachine]:
            return build_machines(options, [group], durable)[group]

        self._transit = Transit(turn, self._log, maker, build, self._parent.send)
        self._members = MembersTeller(turn, self._parent.send)
        return turn

    def watch_stages(self) -> None:
        """Measure where the time of this process goes; see `stages.py`."""
        watch_worker(type(self), self._block, self._log, self._direct)

    def tell_members(self) -> None:
        """Tell the node who the members of all groups are; what it does not read now is told again."""
        self._members.tell()

    # The loop

    def run(self) -> ExitCode:
        """Turn until told to stop. Raises StorageFailed, and ParentGone when nobody is left to serve."""
        try:
            return self._loop()
        except StorageFailed:
            self._turn.log_sync.lose()
            raise

    def _loop(self) -> ExitCode:
        poll = select.epoll()
        poll.register(self._bell.fileno(), select.EPOLLIN)
        poll.register(self._parent.fileno(), select.EPOLLIN)
        transit = self._transit
        transit.watch(poll)
        slots, slot = self._block.slots, self._slot
        phase = slot["phase"]
        turn, replies = self._turn, self._replies
        turn.start(clock_ns())
        self._leases.write(turn.master_changed, turn.groups)
        while True:
            slots[phase] = Phase.DRAIN
            frames = self._frames.receive(RECEIVE_BYTES)
            batches = [requests.decode_batch(data) for data in self._requests.receive(RECEIVE_BYTES)]
            now = clock_ns()
            if now >= self._control_at:
                self._control_at = now + CONTROL_EVERY
                self._control()
                if self._members.waiting:
                    self._members.tell()
            if now >= self._publish_at:
                self._publish(now)
            if transit.active and not turn.held:
                transit.before_turn()
            if (
                not frames
                and not batches
                and not turn.busy
                and now < turn.wake_at
                and (turn.held or not transit.settle_if_idle(now))
            ):
                if now >= self._housekeep_at:
                    slots[phase] = Phase.HOUSEKEEP
                    self._housekeep(now)
                    continue
                if self._stop is not None and (now >= self._stop_by or self._drained()):
                    return self._end()
                self._sleep(poll, now)
                continue
            self._turns += 1
            self._in += len(frames)
            for batch in batches:
                self._proposals += len(batch.proposals)
                self._calls += len(batch.calls)
            slots[phase] = Phase.STEP
            turn.step(now, frames, batches)
            slots[phase] = Phase.SEND
            turn.send_now()
            if turn.fx.records:
                slots[phase] = Phase.SYNC
                start = clock_ns()
                turn.persist()
                self._sync_time += clock_ns() - start
                # What is left to do may have been for much later.
                if self._housekeep_at > now + HOUSEKEEP_EVERY:
                    self._housekeep_at = now + HOUSEKEEP_EVERY
            slots[phase] = Phase.APPLY
            turn.finish(now)
            if (transit.active or turn.calls.orders) and not turn.held:
                transit.after_turn(now)
                self._leases.leave(turn.groups)
            if turn.master_changed:
                self._leases.write(turn.master_changed, turn.groups)
            if self._members.waiting:
                self._members.tell()
            if replies:
                self._send_replies()
            self._answers.commit()
            self._wire.commit()
            if now >= self._housekeep_at:
                slots[phase] = Phase.HOUSEKEEP
                self._housekeep(now)
            if now >= self._stop_by:
                return self._end()

    def _send_replies(self) -> None:
        for message in requests.encode_replies(self._replies):
            self._answers.send(message, droppable=False)
        self._replies.clear()

    def _sleep(self, poll: select.epoll, now: int) -> None:
        """Wait for a doorbell, the control socket or the next timer."""
        self._answers.commit()
        self._wire.commit()
        if self._frames.prepare_sleep() and self._requests.prepare_sleep():
            until = min(self._turn.wake_at, self._housekeep_at, self._stop_by, now + SLEEP_MAX)
            self._busy += now - self._busy_since
            slots = self._block.slots
            slots[self._slot["heartbeat_ns"]] = now
            slots[self._slot["phase"]] = Phase.SLEEP
            # epoll's resolution is a millisecond: round up, or the last one is spent spinning.
            events = poll.poll(max(0, until - now) / 1e9 + 0.0005 if until > now else 0)
            self._busy_since = clock_ns()
            for fd, _ in events:
                if fd == self._bell.fileno():
                    self._bell.clear()
                elif fd == self._parent.fileno():
                    self._control()
        self._frames.wake()
        self._requests.wake()

    def _housekeep(self, now: int) -> None:
        unsynced = self._turn.log_sync.upkeep(now)
        if unsynced:
            self._housekeep_at = now + min(unsynced, HOUSEKEEP_EVERY)
            return
        pause = self._turn.housekeep(now)
        self._housekeep_at = NEVER if pause is None else now + max(int(pause * 1e9), MS)

    def _control(self) -> None:
        for message, fds in self._parent.receive_with_fds():
            match message:
                case Stop():
                    if self._stop is None:
                        self._stop = message
                        self._stop_by = clock_ns() + int(message.drain_s * 1e9)
                case SetPeers(peers=peers):
                    if self._direct is not None:
                        self._direct.set_peers(sockets_of(peers, self._node_id))
                case SetKeys(keys=keys):
                    if self._direct is not None:
                        self._direct.set_keys(keys)
                case MoveOut(group=group, move=move):
                    self._transit.depart(group, move, fds.pop())
                case MoveIn(group=group, move=move):
                    self._transit.arrive(group, move, fds.pop())
                case MoveEnd(group=group, move=move):
                    self._transit.end(group, move)
                case MoveDone(group=group):
                    self._transit.leave(group)
                case _:
                    log.error("a worker does not understand %s", type(message).__name__)
            for fd in fds:
                os.close(fd)

    def _drained(self) -> bool:
        return not any(group.own for group in self._turn.groups.values())

    def _end(self) -> ExitCode:
        """A clean stop: everything known is on disk, with the mark that says so."""
        self._block.slots[self._slot["phase"]] = Phase.STOP
        self._turn.close()
        self._transit.close()
        for index in self._turn.appliers:
            self._turn.appliers[index].close()
        if self._replies:
            self._send_replies()
        self._answers.commit()
        self._wire.commit()
        if self._direct is not None:
            self._direct.close()
        self._turn.log_sync.close()
        self._log.close(clean=True)
        self._publish(clock_ns())
        return ExitCode.OK

    def _publish(self, now: int) -> None:
        self._publish_at = now + PUBLISH_EVERY
        turn, slots, slot = self._turn, self._block.slots, self._slot
        stats = self._log.stats()
        outlet = turn.outlet
        slots[slot["heartbeat_ns"]] = now
        for name, value in (
            ("turns", self._turns),
            ("busy_ns", self._busy),
            ("frames_in", self._in),
            ("frames_out", outlet.sent),
            ("frames_direct", outlet.sent_direct),
            ("frames_dropped", outlet.dropped + turn.intake.bad_frames),
            ("messages_in", turn.intake.messages),
            ("proposals", self._proposals),
            ("calls", self._calls),
            ("instances_decided", turn.decided),
            ("values_decided", turn.entries),
            ("values_applied", sum(applier.executed for applier in turn.appliers.values())),
            ("syncs", stats["syncs"]),
            ("sync_ns", self._sync_time),
            ("records", stats["records"]),
            ("log_bytes", stats["bytes_written"]),
            ("disk_bytes", stats["disk_bytes"]),
            ("live_bytes", stats["live_bytes"]),
            ("removed_segments", stats["removed_segments"]),
            ("damaged_records", stats["damaged_records"]),
            ("mended_values", turn.repairs.mended),
            ("scrubbed_bytes", stats["scrubbed_bytes"]),
            ("scrub_rounds", stats["scrub_rounds"]),
            ("segments", stats["segments"]),
            ("no_room", int(turn.held or self._log.healthy() is not None)),
            ("prepares", turn.prepares),
            ("rejects", turn.rejects),
            ("resends", turn.resends),
            ("learned", turn.intake.learned),
            ("replies", self._answers.messages),
            ("slow_turns", turn.pace.slow_turns),
            ("machine_failures", sum(len(applier.stopped) for applier in turn.appliers.values())),
        ):
            slots[slot[name]] = value


def _log_identity(boot: WorkerBoot) -> LogIdentity:
    return LogIdentity(boot.founding.cluster, boot.node_id, boot.seat, boot.worker)


def main() -> None:
    """Entry of the process."""
    parent, boot, fds = be_child()
    raise SystemExit(_serve(parent, boot, fds))


def _serve(parent: Parent, boot: object, fds: Sequence[int]) -> ExitCode:
    if not isinstance(boot, WorkerBoot):
        raise TypeError(f"a worker cannot boot as {type(boot).__name__}")
    try:
        try:
            worker = Worker(boot, fds, parent)
        except (Exception, SystemExit) as error:
            # Machines are built in there: their constructors may raise anything.
            log.exception("worker %d cannot boot", boot.worker)
            storage = isinstance(error, StorageFailed | StorageDamaged)
            parent.send(_failed(boot.worker, error, "storage" if storage else "cannot_boot"))
            return ExitCode.CANNOT_BOOT
        worker.tell_members()
        parent.send(Ready())
        if stages.wanted():
            worker.watch_stages()
        # What lives now lives for good; young garbage is rare, since messages are plain tuples.
        gc.collect()
        gc.freeze()
        return worker.run()
    except (StorageFailed, StorageDamaged) as error:
        log.exception("worker %d: the log failed", boot.worker)
        parent.send(_failed(boot.worker, error, "storage"))
        return ExitCode.STORAGE_FAILED
    except ParentGone:
        return ExitCode.PARENT_GONE


def _failed(worker: int, error: BaseException, kind: Literal["cannot_boot", "storage"]) -> Failed:
    words = str(error) if isinstance(error, PaxmuxError | StorageDamaged) else describe(error)
    # Text of a user's exception may be long, and hold what JSON has no code for.
    words = words[:REASON_MAX].encode("utf-8", "backslashreplace").decode()
    return Failed(reason=f"worker {worker}: {words}", kind=kind)
