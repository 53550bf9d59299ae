"""What must come true once the faults have ended, and what must be true at any moment in between.

Liveness: everybody answers, all healthy replicas have executed the same, every healthy node can get
something decided within a bounded time, and then the cluster is nearly silent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from paxmux.engine.errors import Code
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.master import RENEWALS
from paxmux.engine.paxos.timers import MS
from paxmux.shards.requests import CallKind
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.changes import Changes
from paxmux.tools.sim.cluster import Cluster
from paxmux.tools.sim.ledger import Request
from paxmux.tools.sim.load import Load
from paxmux.tools.sim.machines import JOURNAL
from paxmux.tools.sim.node import SimNode
from paxmux.tools.sim.worker import SimWorker, State

WINDOW = 1000 * MS
TIMER_TURNS_MAX = 400
"""Turns in a window that nothing but a timer asked for: a worker that spins makes thousands."""
EVENTS_MAX = 1_000_000
"""Events of a whole run; a heavy one has a tenth."""
LATE = 1000 * MS
"""So long after its deadline a request has been given up, by a worker that can turn."""
RESTORE_MAX = 120_000 * MS
SETTLE_MAX = 120_000 * MS
PROGRESS_MAX = 30_000 * MS
DUEL_MAX = 120_000 * MS
"""Until when everybody has had something decided; where nobody forwards, and all outbid each other over a
slow network, pauses double up to 8 s before one gets through."""
LEASES_MAX = 3
"""A group has a master within two leases, as the slowest clock has them, and what it takes to decide."""
RENEWAL_TURNS = 3
RENEWAL_FRAMES = 4
"""For each node, of one renewal."""
ROUND_TRIPS = 3
"""Of the slowest kind, for each instance of a backlog."""
LOOK = 250 * MS
IDLE = 10_000 * MS
IDLE_EVENTS_PER_S = 5
"""Turns and frames, for each group and node."""


class Windows:
    """Looks in from time to time: nobody spins, nobody rests with work left, nobody forgets a caller."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._until = cluster.now + WINDOW

    def look(self) -> None:
        """Judge the window that has passed, if one has."""
        cluster = self._cluster
        if cluster.trace.events > EVENTS_MAX:
            raise Breach("nobody spins", f"{cluster.trace.events} events: {cluster.busiest()}")
        if cluster.now < self._until:
            return
        passed = max(1, (cluster.now - self._until) // WINDOW + 1)
        self._until = cluster.now + WINDOW
        for worker in cluster.workers:
            if worker.timer_turns > TIMER_TURNS_MAX * passed:
                raise Breach("nobody spins", f"{worker.name}: {worker.timer_turns} turns for timers alone")
            worker.timer_turns = 0
            if worker.state is State.IDLE and cluster.now >= worker.still_until:
                self._worker(worker)

    def _worker(self, worker: SimWorker) -> None:
        cluster = self._cluster
        local = worker.node.clock.at(cluster.now)
        if not worker.due(local) and not worker.turn.fx.records:
            for index, applier in worker.turn.appliers.items():
                waits = worker.turn.repairs.lacks(index, applier.next)
                if applier.next < worker.turn.groups[index].instance and not waits:
                    raise Breach("nothing rests", f"{worker.name}: decided in {index}, not executed")
        if cluster.now - worker.resumed_at < 2 * LATE:
            return
        for request in worker.open.values():
            if local - request.deadline > LATE:
                raise Breach("deadlines are kept", f"{worker.name}: {request.words()} is not given up")


class Rest:
    """The liveness phase of one run; the faults have ended."""

    def __init__(self, cluster: Cluster, windows: Windows) -> None:
        self._cluster = cluster
        self._windows = windows

    def restore(self, changes: Changes) -> None:
        """Every group gets members that are there."""
        self._wait(RESTORE_MAX, changes.restored, "has members that are all there")

    def masters(self) -> None:
        """Every group has a master within two leases, whatever became of the last one."""
        plan = self._cluster.plan
        limit = LEASES_MAX * plan.lease_ms + plan.timers.prepare_first_ms
        self._wait(limit * MS, self._mastered, "has a master in every group")

    def _mastered(self) -> bool:
        cluster = self._cluster
        return all(len(cluster.leases.holders(group)) == 1 for group in range(cluster.plan.groups))

    def settle(self) -> None:
        """Let the cluster come to rest."""
        self._wait(SETTLE_MAX, self._settled, "comes to rest")
        # What flew, such as an Accept of a life long past, has landed after another moment.
        self.advance(500 * MS)
        self._wait(SETTLE_MAX, self._settled, "comes to rest")

    def progress(self, load: Load) -> None:
        """Every healthy node gets something decided, and read, in every group."""
        cluster = self._cluster
        places = [
            (node, group)
            for node in cluster.nodes
            for group in range(cluster.plan.groups)
            if node.seated(group) and node.takes(group) and node.worker_of(group).turn.groups[group].voter
        ]
        if not places:
            raise Breach("progress", "no healthy node is up after the faults")
        limit = PROGRESS_MAX if cluster.plan.proposals.forward else DUEL_MAX
        limit += self._backlog()
        until = cluster.now + limit
        kind = CallKind.LINEARIZABLE_QUERY
        reads = [(load.read(kind, *place, limit / MS), place) for place in places]
        self._wait(limit + LATE, partial(_ended, reads), "ends a read")
        ends = Counter("never" if read.code is None else Code(read.code).name for read, _ in reads)
        if set(ends) != {Code.OK.name}:
            raise Breach("progress", f"reads after the faults ended: {dict(ends)}")
        while places:
            asked = [(load.journal(*place, limit / MS), place) for place in places]
            self._wait(limit + LATE, partial(_ended, asked), "ends a proposal")
            # Who may try only so often may lose so often: then its caller tries again.
            places = [place for request, place in asked if request.code == Code.CONFLICT]
            codes = Counter(request.code for request, _ in asked)
            if not codes.keys() <= {Code.OK, Code.CONFLICT} or (places and cluster.now > until):
                raise Breach("progress", f"after the faults ended: {dict(codes)}")

    def _backlog(self) -> int:
        """How long what waits already may take: some round trips for each instance that it fills."""
        cluster = self._cluster
        plan = cluster.plan
        instances = [
            sum(
                len(node.worker_of(group).turn.groups[group].own)
                for node in cluster.nodes
                if node.takes(group)
            )
            // plan.limits.batch_max_count
            for group in range(plan.groups)
        ]
        return max(instances) * ROUND_TRIPS * 2 * plan.latency_us[1] * MS // 1000

    def idle(self) -> None:
        """With nothing to do, nodes do next to nothing."""
        cluster = self._cluster
        self.advance(2000 * MS)
        turns = {worker.name: worker.turns for worker in cluster.workers}
        launched = cluster.wire.launched
        terms = self._terms()
        self.advance(IDLE)
        if self._terms() != terms:
            raise Breach("masters stay", f"{terms} were the terms, now they are {self._terms()}")
        # Somebody may have asked for a lease of half the length.
        renewals = 2 * RENEWALS * IDLE // (cluster.plan.lease_ms * MS) if cluster.plan.lease_ms else 0
        for worker in cluster.workers:
            done = worker.turns - turns[worker.name]
            bound = IDLE // 10**9 * IDLE_EVENTS_PER_S * (1 + len(worker.groups) * cluster.plan.nodes)
            bound += RENEWAL_TURNS * renewals * cluster.plan.groups * cluster.plan.nodes
            if done > bound:
                raise Breach("idle", f"{worker.name}: {done} turns in 10 s with nothing to do")
        sent = cluster.wire.launched - launched
        bound = IDLE // 10**9 * IDLE_EVENTS_PER_S * (1 + cluster.plan.groups * cluster.plan.nodes)
        bound += RENEWAL_FRAMES * renewals * cluster.plan.groups * cluster.plan.nodes
        if sent > bound:
            raise Breach("idle", f"{sent} frames in 10 s with nothing to do")

    def _terms(self) -> list[int]:
        """The present term of each group, as the log has it."""
        groups = range(self._cluster.plan.groups)
        return [self._cluster.witness.constitution(group).leases[-1].term for group in groups]

    def check_replicas(self) -> None:
        """All healthy nodes have executed the same, everything acknowledged, nothing twice."""
        cluster = self._cluster
        healthy = [node for node in cluster.nodes if node.healthy]
        for group in range(cluster.plan.groups):
            first, *others = [node.worker_of(group) for node in healthy]
            for worker in (first, *others):
                fenced = worker.turn.groups[group].inquiry.fenced
                if fenced is not None:
                    raise Breach("nobody healthy is fenced", f"{worker.name}, group {group}: {fenced}")
            seen = first.journals[group].seen
            for worker in others:
                if worker.journals[group].seen != seen:
                    raise Breach("replicas agree", f"group {group}: {first.name} and {worker.name} differ")
                if worker.registers[group].values != first.registers[group].values:
                    raise Breach("replicas agree", f"group {group}: {first.name} and {worker.name} differ")
            by_value = {value: instance for instance, value in seen}
            if len(by_value) != len(seen):
                raise Breach("executed once", f"group {group}: a value was executed twice")
            for worker in (first, *others):
                if worker.turn.groups[group].own:
                    raise Breach("nothing is kept", f"{worker.name} keeps proposals of group {group}")
            for request in cluster.ledger.requests:
                place = request.place
                if place is None or place[0] != group or request.machine != JOURNAL:
                    continue
                if by_value.get(request.value) != place[1]:
                    raise Breach("acknowledged is kept", f"{request.words()} was acknowledged, and is gone")

    def advance(self, ns: int) -> None:
        """Let time pass, and look in."""
        cluster = self._cluster
        until = cluster.now + ns
        while cluster.now < until:
            cluster.run(min(until, cluster.now + WINDOW))
            self._windows.look()

    def _wait(self, ns: int, done: Callable[[], bool], what: str) -> None:
        cluster = self._cluster
        until = cluster.now + ns
        while not done():
            if cluster.now >= until:
                raise Breach("liveness", f"never {what}: {self._state()}")
            self.advance(LOOK)

    def _settled(self) -> bool:
        """Whether everybody has answered, stands at the same place and has nothing left over."""
        cluster, leases = self._cluster, self._cluster.plan.lease_ms
        healthy = [node for node in cluster.nodes if node.healthy]
        if any(not worker.up or worker.open for node in healthy for worker in node.workers):
            return False
        for group in range(cluster.plan.groups):
            busy_to = cluster.witness.busy_to.get(group, 0)
            instances = set()
            for node in healthy:
                turn = node.worker_of(group).turn
                here = turn.groups[group]
                if turn.appliers[group].next < (busy_to if leases else here.instance):
                    return False
                # What a suspect has accepted waits for whoever may vote.
                if here.acceptor.accepted != NULL and here.voter and not leases:
                    return False
                if not here.voter and node.seated(group) and self._curable(node, group):
                    return False
                instances.add(here.instance)
            # Leases go on being renewed, and are nowhere waited for.
            if min(instances) < busy_to if leases else len(instances) != 1:
                return False
        return True

    def _curable(self, node: SimNode, group: int) -> bool:
        """Whether all others can vouch for what a group has promised."""
        cluster = self._cluster
        members = cluster.witness.constitution(group).eras[-1].seats
        others = [other for other in cluster.nodes if other is not node and other.number in members]
        return all(
            other.seated(group) and other.worker_of(group).turn.groups[group].doubt.suspect is None
            for other in others
        )

    def _state(self) -> str:
        parts = []
        for node in self._cluster.nodes:
            for worker in node.workers:
                if not worker.up:
                    parts.append(f"{worker.name} {worker.state.value}")
                    continue
                groups = {
                    index: (
                        group.instance,
                        group.acceptor.accepted,
                        group.proposer.phase.name,
                        "votes" if group.voter else group.doubt.words() or "no member",
                    )
                    for index, group in worker.turn.groups.items()
                }
                waits = [
                    request.words() for request in worker.open.values() if request.kind is not CallKind.QUERY
                ]
                parts.append(f"{worker.name} {groups} owes {waits[:3]}")
        return "; ".join(parts)


def _ended(asked: Sequence[tuple[Request, object]]) -> bool:
    return all(request.returned for request, _ in asked)
