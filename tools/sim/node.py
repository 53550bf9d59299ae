"""One simulated node: a router, its workers, the callers inside it, and the machine's clock.

The router is modelled, but what it believes is decided by the production check of frames. All workers
of a node share its incarnation and its numbering of requests, as they do in production; each life of a
worker has a generation of its own. Decides nothing about faults: they are done to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxmux.engine.fence import FENCED, fenced
from paxmux.engine.frame import FrameKind, parse_route
from paxmux.engine.frame_header import FrameError
from paxmux.engine.paxos.timers import MS
from paxmux.shards.requests import CallKind
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.clock import Clock
from paxmux.tools.sim.ledger import CONTEXT, RegisterCall, Request
from paxmux.tools.sim.records import CLUSTER
from paxmux.tools.sim.worker import SimWorker, State

if TYPE_CHECKING:
    from paxmux.tools.sim.cluster import Cluster

NEVER_NS = 2**63 - 1
"""The deadline of a request that waits for ever."""
RESTART_MAX = 200 * MS
"""How long a supervisor, or an operator, takes."""
CLOCK_STARTS = (0, 10**9, 10**12, 10**15)


class SimNode:
    """One member of the cluster."""

    def __init__(self, cluster: Cluster, number: int, seat: int) -> None:
        self.cluster = cluster
        self.number = number
        self.seat = seat
        self.up = False
        self.failed = False
        """Its disk lost something for good: from now on it counts as gone, though it may still run."""
        self.hurt = False
        """Bits of its disk have turned: it has to find that out, and get well again with the others' help."""
        self.life = 0
        self.incarnation = 0
        self.rate = cluster.plan.drift[number - 1]
        self.clock = self._new_clock()
        self.paused_until = 0
        self.asleep_until = 0
        self.seq = 0
        self._arrived: list[tuple[bytes, bool]] = []
        """Frames that wait in the kernel while the node stands still."""
        layout = cluster.plan.layouts[number - 1]
        self.workers = [SimWorker(self, index, groups) for index, groups in enumerate(layout)]
        self._worker_of = {group: worker for worker in self.workers for group in worker.groups}

    @property
    def healthy(self) -> bool:
        """Whether it has everything that it ever promised."""
        return not self.failed

    @property
    def votes(self) -> bool:
        """Whether it counts towards a majority, in some group."""
        return any(map(self.seated, range(self.cluster.plan.groups)))

    def seated(self, group: int) -> bool:
        """Whether it counts towards a majority of a group's last members that are known."""
        seats = self.cluster.witness.constitution(group).eras[-1].seats
        return not self.failed and seats.get(self.number) == self.seat

    def worker_of(self, group: int) -> SimWorker:
        """Who hosts a group here."""
        return self._worker_of[group]

    # Life

    def boot(self) -> None:
        """The node starts, with all workers."""
        cluster = self.cluster
        self.up = True
        self.life += 1
        cluster.leases.ended(self)
        self.incarnation = cluster.rng.getrandbits(64) | 1
        self.seq = 0
        self._arrived.clear()
        cluster.trace.say(f"n{self.number} starts, life {self.life}")
        for worker in self.workers:
            if worker.state is not State.REFUSED:
                worker.boot()

    def crash(self, *, power: bool) -> None:
        """All processes are gone; with the power, what was not synced and the clock are, too."""
        self.up = False
        self.paused_until = self.asleep_until = 0
        self.cluster.leases.ended(self)
        for worker in self.workers:
            worker.die(power=power)
            worker.paused_until = worker.slow_until = 0
        if power:
            self.clock = self._new_clock()
            self.cluster.counts["clock_restart"] += 1
        self.cluster.at(self.cluster.now + self._pause(), self._start, None)

    def stop(self) -> None:
        """A clean stop of all workers; some time later a start."""
        self.up = False
        for worker in self.workers:
            if worker.up:
                worker.stop()
        self._if_stopped()

    def worker_died(self, worker: SimWorker) -> None:
        """A worker is gone: another takes its place, unless the node stops."""
        if self.up:
            self.cluster.at(self.cluster.now + self._pause(), self._restart, worker)
        else:
            self._if_stopped()

    def _if_stopped(self) -> None:
        if not any(worker.up for worker in self.workers):
            self.cluster.at(self.cluster.now + self._pause(), self._start, None)

    def _start(self, _: object) -> None:
        if not self.up and not any(worker.up for worker in self.workers):
            self.boot()

    def _restart(self, worker: SimWorker) -> None:
        if self.up and worker.state is State.DOWN:
            worker.boot()

    def _pause(self) -> int:
        return int(self.cluster.rng.random() * RESTART_MAX) + MS

    def _new_clock(self) -> Clock:
        rng = self.cluster.rng
        start = rng.choice(CLOCK_STARTS)
        return Clock(self.cluster.now, start + int(rng.random() * start), self.rate)

    # Standing still, and other times

    def suspend(self, until: int) -> None:
        """The whole machine sleeps, but for its clock; what is sent to it is lost."""
        if self.up:
            self.paused_until = self.asleep_until = until
            for worker in self.workers:
                worker.resumed_at = until
            self.cluster.at(until, self.resume, None)

    def resume(self, _: object = None) -> None:
        """After a pause everything comes at once."""
        if self.cluster.now >= self.paused_until:
            self.paused_until = 0
            arrived, self._arrived = self._arrived, []
            for frame, corrupted in arrived:
                self.receive(frame, corrupted)
            for worker in self.workers:
                worker.resumed_at = self.cluster.now
                worker.poke()

    def set_clock(self, *, ahead: int = 0, rate: int | None = None) -> None:
        """The clock jumps, or goes at another rate."""
        if rate is not None:
            self.rate = rate
            self.clock.retune(self.cluster.now, rate)
        self.clock.jump(ahead)
        for worker in self.workers:
            worker.resumed_at = self.cluster.now
            worker.retime()

    # From the wire, and from callers

    def receive(self, frame: bytes, corrupted: bool) -> None:
        """A frame arrives at the node's port."""
        if not self.up:
            return
        if self.asleep_until > self.cluster.now:
            return
        if self.paused_until > self.cluster.now:
            self._arrived.append((frame, corrupted))
            return
        try:
            kind, cluster, _, dest, asked = parse_route(frame)
        except FrameError as error:
            if not corrupted:
                raise Breach("frames are whole", f"node {self.number}: {error}") from error
            return
        if corrupted:
            raise Breach("corruption is noticed", f"node {self.number} believes a corrupted frame")
        if (kind, cluster, dest) != (FrameKind.PAXOS, CLUSTER, self.number):
            raise Breach("frames are whole", f"node {self.number} gets a frame for {(kind, cluster, dest)}")
        groups = int.from_bytes(asked, "little")
        for worker in self.workers:
            if worker.mask & groups and worker.up:
                worker.inbox.append(frame)
                worker.poke()

    def takes(self, group: int) -> bool:
        """Whether a caller's request would reach a worker now."""
        return self.up and self.paused_until <= self.cluster.now and self._worker_of[group].up

    def ask(
        self,
        kind: CallKind | None,
        group: int,
        smid: int,
        payload: bytes,
        timeout_ms: float | None,
        register: RegisterCall | None = None,
        burst: int = 0,
        term: int | None = None,
    ) -> Request:
        """Hand a request to the group's worker, which must be up; `kind` None is a proposal. `term`: the only
        one in which it may be executed."""
        cluster, worker = self.cluster, self._worker_of[group]
        self.seq += 1
        if term is not None:
            smid, payload = smid + FENCED, fenced(term, payload)
        deadline = NEVER_NS
        if timeout_ms is not None:
            deadline = self.clock.at(cluster.now) + int(timeout_ms * MS)
        request = Request(
            self.number, (self.number, self.incarnation, self.seq), kind, group, smid, payload, deadline,
            register, burst,
        )  # fmt: skip
        cluster.ledger.called(request)
        worker.open[self.seq] = request
        if kind is None:
            worker.batch.proposals.append((self.seq, group, deadline, smid, payload, CONTEXT))
        else:
            worker.batch.calls.append((self.seq, kind, group, deadline, smid, payload))
        if cluster.trace.wordy:
            cluster.trace.say(f"n{self.number} asks: {request.words()}, {len(payload)} B, {timeout_ms} ms")
        worker.poke()
        return request
