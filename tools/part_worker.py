"""`paxmux bench worker`: one worker process alone, with real rings and a real log.

This process stands for everything else: the node that asks, the router, and the two other members of a
cluster of three, which agree at once and keep nothing. So the worker is measured in both of its parts:
as the one that proposes, and as one that accepts what another one proposes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import Code, PaxmuxError
from paxmux.engine.frame import FrameKind, pack_frame, parse_header, version_for
from paxmux.engine.options import LayoutOptions, MachineOptions, Options, StorageOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.messages import Batch as Messages
from paxmux.shards import requests
from paxmux.shards.boot import Founding, Ready, WorkerBoot
from paxmux.shards.child import absolute, spawn_child
from paxmux.shards.cluster import make_founding
from paxmux.shards.codec import decode_sections, encode_section
from paxmux.shards.counters import WORKER, Block
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.lease_board import LeaseBoard
from paxmux.tools.bench_machine import Chain
from paxmux.tools.part_rig import Children, Gauge, Pair, PartOptions, Progress, close_all, rest, wait_for

MACHINE = "paxmux.tools.bench_machine:Chain"
ME, PEERS = 1, (2, 3)
SEATS = {1: 11, 2: 12, 3: 13}
INCARNATION = 5
FRAMES_AHEAD = 2
"""That a proposer elsewhere has under way."""
WARMUP_SHARE = 0.2
TIMEOUT_NS = 60_000_000_000
_LOOK_S = 0.05


class WorkerRig:
    """A worker's other ends."""

    def __init__(self, options: PartOptions, folder: Path, children: Children) -> None:
        self.groups = options.groups
        self.founding: Founding = make_founding(SEATS, options.groups)
        self.bell, self.worker_bell = Doorbell.create(), Doorbell.create()
        self.client, self.net = Pair(self.worker_bell), Pair(self.worker_bell)
        counters = Block.create(WORKER)
        self.block = Block(counters, WORKER)
        child = children.add(spawn_child("paxmux.shards.worker"))
        self.pid = child.popen.pid
        boot = WorkerBoot(
            options=Options(
                node="127.0.0.1:1",
                node_id=ME,
                members=[f"{node}@127.0.0.1:{node}" for node in SEATS],
                data_dir=str(folder),
                groups=options.groups,
                layout=LayoutOptions(workers=1),
                storage=StorageOptions(plugin=options.storage),
                state_machines=[MachineOptions(class_=MACHINE)],
            ),
            worker=0,
            generation=1,
            groups=list(range(options.groups)),
            node_id=ME,
            seat=SEATS[ME],
            incarnation=INCARNATION,
            founding=self.founding,
            cleaning=True,
            create_log=True,
            cpus=[],
            peers={},
            direct=None,
            sys_path=absolute(sys.path),
        )
        bells = [self.worker_bell.fileno(), self.bell.fileno(), self.bell.fileno()]
        leases = LeaseBoard.create(options.groups)
        child.send(boot, [counters, *self.client.fds, *self.net.fds, *bells, leases])
        os.close(counters)
        os.close(leases)
        wait_for(child, Ready, "the worker")

    def frame(self, sender: int, messages: Messages) -> bytes:
        """One from another member."""
        return pack_frame(
            FrameKind.PAXOS,
            encode_section(messages),
            cluster=self.founding.cluster,
            sender=sender,
            seat=SEATS[sender],
            incarnation=INCARNATION,
            dest=ME,
            groups=(1 << self.groups) - 1,
            version=version_for(self.groups),
        )

    def close(self) -> None:
        """What this process has of it."""
        close_all((self.client, self.net), (self.bell, self.worker_bell))
        self.block.close()


def run_worker(options: PartOptions, folder: Path) -> list[dict[str, Any]]:
    """A row for each of a worker's two parts."""
    rows = []
    for name, drive in (("proposes", Asking), ("accepts", Leading)):
        place = folder / name
        place.mkdir()
        with Children() as children:
            rig = WorkerRig(options, place, children)
            try:
                rows.append({"part": name, **_measure(rig, drive(rig, options), options)})
            finally:
                rig.close()
    return rows


def _measure(rig: WorkerRig, drive: Asking | Leading, options: PartOptions) -> dict[str, Any]:
    seconds = options.seconds / 2
    drive.begin()
    _turn_until(rig, drive, time.monotonic() + WARMUP_SHARE * seconds)
    gauge, done, before = Gauge({"worker": rig.pid}), drive.done, rig.block.snapshot()
    _turn_until(rig, drive, time.monotonic() + seconds)
    used, count, after = gauge.read(), drive.done - done, rig.block.snapshot()
    counted = {name: after[name] - before[name] for name in after}
    syncs = max(counted["syncs"], 1)
    return {
        "values": count,
        "per_s": round(count / used.wall_s),
        **used.per(count),
        "busy": round(used.cpu_ns["worker"] / 1e9 / used.wall_s, 3),
        "values_per_sync": round(count / syncs, 1),
        "sync_us": round(counted["sync_ns"] / 1000 / syncs, 1),
    }


def _turn_until(rig: WorkerRig, drive: Asking | Leading, until: float) -> None:
    progress = Progress("the worker")
    while time.monotonic() < until:
        done = drive.done
        drive.turn()
        rig.client.out.commit()
        rig.net.out.commit()
        if drive.done != done:
            progress.made()
            continue
        progress.check()
        rest(rig.bell, [rig.client.inbox, rig.net.inbox], _LOOK_S)


class Asking:
    """Proposals come from here, and the other two members agree to everything."""

    def __init__(self, rig: WorkerRig, options: PartOptions) -> None:
        self._rig = rig
        self._groups = options.groups
        self._clients = options.clients
        self._payload = bytes(options.size)
        self._seq = 0
        self.done = 0
        """Values decided."""

    def begin(self) -> None:
        """The first requests."""
        self._ask(self._clients)

    def turn(self) -> None:
        """Answer what has come: the worker's questions, and each result with another request."""
        for frame in self._rig.net.inbox.receive():
            self._agree(frame)
        answered = 0
        for data in self._rig.client.inbox.receive():
            for _, code, *_ in requests.decode_replies(data).replies:
                if code != Code.OK:
                    raise PaxmuxError(f"the worker answers with code {code}")
                answered += 1
        self.done += answered
        if answered:
            self._ask(answered)

    def _ask(self, count: int) -> None:
        first, self._seq = self._seq + 1, self._seq + count
        deadline = clock_ns() + TIMEOUT_NS
        batch = requests.Batch(
            [
                (seq, seq % self._groups, deadline, Chain.smid, self._payload, None)
                for seq in range(first, first + count)
            ]
        )
        self._rig.client.out.send(requests.encode(batch), droppable=False)

    def _agree(self, frame: bytes) -> None:
        header = parse_header(frame)
        answer = Messages()
        for body in decode_sections(frame, header.start):
            answer.prepare_replies += [(*prepare, 0, 0, 0, b"") for prepare in body[2]]
            answer.accept_replies += [(*accept[:3], 0, 0) for accept in body[4]]
        if answer:
            self._rig.net.out.send(self._rig.frame(header.dest, answer), droppable=False)


class Leading:
    """Another member proposes: an Accept for each group, with the notice of the one before."""

    def __init__(self, rig: WorkerRig, options: PartOptions) -> None:
        self._rig = rig
        self._groups = options.groups
        self._each = min(options.clients, options.groups)
        self._payload = bytes(options.size)
        self._chains = [values.FIRST] * options.groups
        self._instances = [0] * options.groups
        self._next = 0
        self.done = 0
        """Values accepted."""

    def begin(self) -> None:
        """The first frames."""
        for _ in range(FRAMES_AHEAD):
            self._lead()

    def turn(self) -> None:
        """A further frame for each that is accepted."""
        for frame in self._rig.net.inbox.receive():
            header = parse_header(frame)
            accepted = sum(len(body[5]) for body in decode_sections(frame, header.start))
            self.done += accepted
            if accepted:
                self._lead()

    def _lead(self) -> None:
        leader, messages = PEERS[0], Messages()
        for _ in range(self._each):
            group = self._next
            self._next = (group + 1) % self._groups
            instance = self._instances[group]
            entry = (leader, INCARNATION, instance + 1, instance, Chain.smid, self._payload)
            value = values.encode((entry,), self._chains[group])
            if instance:
                messages.chosen.append((group, instance - 1, 1))
            messages.accepts.append((group, instance, 1, value))
            self._chains[group] = values.chain_after(value)
            self._instances[group] = instance + 1
        self._rig.net.out.send(self._rig.frame(leader, messages), droppable=False)
