"""Faults that strike whole nodes, workers, disks and links: which one, whom, and for how long.

All is drawn from the run's source. At most a minority of nodes loses a disk or its seat for good; all
else heals by itself after a while, or when the faults end. Counts what was really injected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxmux.engine.paxos.timers import MS
from paxmux.tools.sim.plan import FAULTS, STRIKES
from paxmux.tools.sim.points import Doom, Point, Scope
from paxmux.tools.sim.trace import MARK_FAULT

if TYPE_CHECKING:
    from paxmux.tools.sim.cluster import Cluster
    from paxmux.tools.sim.node import SimNode
    from paxmux.tools.sim.worker import SimWorker

LASTS_MS = (5, 50, 50, 500, 500, 3000)
SKIP_MAX = 4
"""A death comes at one of the first moments of its kind."""
DOOM_TURNS = 20
NO_ROOM = "no room for the next segment"


class Faults:
    """The strikes of one run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kinds = [kind for kind in cluster.plan.faults if kind in STRIKES]
        self.ended = False
        self.ruined = False
        """More may be lost than any cluster can bear."""

    @property
    def injected(self) -> int:
        """Kinds of fault so far."""
        counts = self._cluster.counts
        return sum(1 for kind in FAULTS if counts[kind])

    def strike(self) -> None:
        """One more fault, if there is anything to strike."""
        rng, counts = self._cluster.rng, self._cluster.counts
        kinds = self._kinds
        if not kinds:
            return
        fresh = [kind for kind in kinds if not counts[kind]]
        kind = rng.choice(fresh if fresh and rng.random() < 0.5 else kinds)
        self._cluster.trace.mark(self._cluster.now, MARK_FAULT, STRIKES.index(kind), 0)
        getattr(self, f"_{kind}")()

    def end(self) -> None:
        """Heal everything that heals: nodes boot, disks have room, nobody stands still."""
        cluster = self._cluster
        self.ended = True
        cluster.trace.say("faults end")
        cluster.wire.heal()
        for node in cluster.nodes:
            for worker in node.workers:
                worker.paused_until = worker.slow_until = 0
                worker.doom = None
                worker.disk.full = None
                worker.disk.platter.disarm()
            if node.paused_until:
                node.paused_until = node.asleep_until = 0
                node.resume()
            for worker in node.workers:
                worker.resumed_at = cluster.now
                worker.poke()

    # Crashes

    def _worker_crash(self) -> None:
        self._doom("worker_crash")

    def _node_crash(self) -> None:
        self._doom("node_crash")

    def _power_cut(self) -> None:
        self._doom("power_cut", Point.APPENDED if self._cluster.rng.random() < 0.5 else None)

    def _tail_flip(self) -> None:
        self._doom("tail_flip", Point.APPENDED)

    def _wiped_disk(self) -> None:
        if any(map(self._cluster.quorums.may_lose, self._cluster.nodes)):
            self._doom("wiped_disk")

    def _doom(self, scope: Scope, point: Point | None = None) -> None:
        rng = self._cluster.rng
        worker = self._a_worker()
        if worker is None or worker.doom is not None:
            return
        self.doom(worker, scope, Point(rng.randrange(len(Point))) if point is None else point)

    def doom(self, worker: SimWorker, scope: Scope, at: Point) -> None:
        """A worker is to die at one of the next moments of a kind, unless it is to die already."""
        if worker.doom is not None:
            return
        worker.doom = Doom(scope, at, self._cluster.rng.randrange(SKIP_MAX), DOOM_TURNS)
        self._say(f"{worker.name} is to die: {scope} at {at.name.lower()}")
        if at is Point.IDLE:
            self.crash(worker, scope, at)

    def crash(self, worker: SimWorker, scope: Scope, point: Point) -> None:
        """The moment has come."""
        cluster = self._cluster
        node = worker.node
        worker.doom = None
        if scope == "wiped_disk" and not cluster.quorums.may_lose(node):
            scope = "power_cut"
        cluster.points[point.name.lower()] += 1
        self._say(f"{worker.name}: {scope} at {point.name.lower()}")
        if scope in ("worker_crash", "tail_flip"):
            worker.die(power=False)
            flipped = scope == "tail_flip" and worker.disk.flip(cluster.rng, synced=False) is not None
            cluster.counts["tail_flip" if flipped else "worker_crash"] += 1
            node.worker_died(worker)
            return
        cluster.counts[scope] += 1
        node.crash(power=scope != "node_crash")
        if scope == "wiped_disk":
            self._wipe(node)

    def replace(self, node: SimNode) -> None:
        """A node cannot start with what its disk has: it gets another, and another seat."""
        node.crash(power=True)
        self._wipe(node)

    def _wipe(self, node: SimNode) -> None:
        node.seat += 1000
        node.hurt = False
        self._cluster.witness.wiped(node.number, node.seat)
        for each in node.workers:
            each.make_disk()

    # Disks

    def _synced_flip(self) -> None:
        cluster = self._cluster
        node = cluster.rng.choice(cluster.nodes)
        if not (node.hurt or cluster.quorums.may_lose(node)):
            return
        worker = cluster.rng.choice(node.workers)
        if worker.disk.medium.notebook.spoilt:
            return  # what proved the bytes to be durable is gone: a bad one would look torn
        where = worker.disk.flip(cluster.rng, synced=True)
        if where is not None:
            node.hurt = True
            cluster.witness.damaged.add(node.number)
            cluster.counts["synced_flip"] += 1
            self._say(f"{worker.name}: a synced bit flips: {where}")

    def ruin(self) -> None:
        """Bits of any disk turn, and often its owner dies, be there a majority left without damage or not."""
        self.ruined = True
        cluster, rng = self._cluster, self._cluster.rng
        node = rng.choice([each for each in cluster.nodes if not each.failed])
        worker = rng.choice(node.workers)
        if not worker.disk.medium.notebook.spoilt:
            for _ in range(rng.randint(0, 3)):
                where = worker.disk.flip(rng, synced=True)
                if where is not None:
                    node.hurt = True
                    cluster.witness.damaged.add(node.number)
                    self._say(f"{worker.name}: a synced bit flips: {where}")
        if worker.up and worker.node.up and rng.random() < 0.8:
            if rng.random() < 0.5:
                worker.disk.spoil_index()
            self.crash(worker, rng.choice(("worker_crash", "power_cut")), Point.IDLE)

    def _lost_index(self) -> None:
        worker = self._a_worker()
        if worker is not None and worker.node.healthy and worker.disk.spoil_index():
            self._cluster.counts["lost_index"] += 1
            self._say(f"{worker.name} loses its index")
            self.crash(worker, "worker_crash", Point.IDLE)

    def _memory_flip(self) -> None:
        """A replica goes by a history that is not what its log says."""
        cluster = self._cluster
        worker = self._a_worker()
        if worker is None or not cluster.quorums.may_lose(worker.node):
            return
        group = worker.turn.groups[cluster.rng.choice(worker.groups)]
        if group.instance:
            flipped = int.from_bytes(group.chain, "little") ^ 1 << cluster.rng.randrange(32)
            group.chain = flipped.to_bytes(4, "little")
            worker.node.failed = True
            cluster.witness.damaged.add(worker.node.number)
            cluster.counts["memory_flip"] += 1
            self._say(f"{worker.name}: the chain of group {group.index} has a wrong bit")

    def _full_disk(self) -> None:
        worker = self._cluster.rng.choice(self._cluster.workers)
        if worker.disk.full is None:
            worker.disk.full = NO_ROOM
            self._cluster.counts["full_disk"] += 1
            until = self._lasting()
            self._say(f"{worker.name}: its disk is full")
            self._cluster.at(until, self._room, worker)

    def _room(self, worker: SimWorker) -> None:
        worker.disk.full = None

    def _failed_sync(self) -> None:
        worker = self._a_worker()
        if worker is not None:
            worker.disk.fail_sync(self._cluster.rng)
            self._say(f"{worker.name}: its next sync fails")

    def sync_failed(self, worker: SimWorker) -> None:
        """A worker met it."""
        self._cluster.counts["failed_sync"] += 1

    def _slow_disk(self) -> None:
        worker = self._cluster.rng.choice(self._cluster.workers)
        worker.slow_until = self._lasting()
        worker.slow_ns = self._cluster.rng.choice((5, 50, 1500)) * MS
        self._cluster.counts["slow_disk"] += 1
        self._say(f"{worker.name}: its disk is slow")

    # Standing still, clocks, clean stops

    def _worker_pause(self) -> None:
        worker = self._a_worker()
        if worker is not None:
            worker.paused_until = worker.resumed_at = self._lasting()
            self._cluster.counts["worker_pause"] += 1
            self._say(f"{worker.name} stands still")

    def _node_pause(self) -> None:
        node = self._a_node()
        if node is not None:
            node.paused_until = self._lasting()
            for worker in node.workers:
                worker.resumed_at = node.paused_until
            self._cluster.at(node.paused_until, node.resume, None)
            self._cluster.counts["node_pause"] += 1
            self._say(f"n{node.number} stands still")

    def _clock_drift(self) -> None:
        node = self._cluster.rng.choice(self._cluster.nodes)
        rate = self._cluster.rng.randint(900, 1100)
        node.set_clock(rate=rate)
        self._cluster.counts["clock_drift"] += 1
        self._say(f"n{node.number}: its clock goes at {rate} thousandths")

    def _clock_jump(self) -> None:
        rng = self._cluster.rng
        node = rng.choice(self._cluster.nodes)
        longest = 60_000 if not self._cluster.plan.lease_ms else 3 * self._cluster.plan.lease_ms
        ahead = int(rng.random() * rng.choice((100, 2000, longest)) * MS)
        self._cluster.counts["clock_jump"] += 1
        if self._cluster.plan.lease_ms:
            # To others a clock that jumped would be one that gained more than any lease allows for.
            self._say(f"n{node.number} is suspended for {ahead // MS} ms")
            node.suspend(self._cluster.now + ahead)
            return
        node.set_clock(ahead=ahead)
        self._say(f"n{node.number}: its clock jumps by {ahead // MS} ms")

    def _clean_stop(self) -> None:
        node = self._a_node()
        if node is not None and not any(worker.doom for worker in node.workers):
            self._cluster.counts["clean_stop"] += 1
            self._say(f"n{node.number} is to stop")
            node.stop()

    # Links

    def _one_way_cut(self) -> None:
        cluster = self._cluster
        a, b = cluster.rng.sample(range(1, cluster.plan.nodes + 1), 2)
        self._cut({(a, b)})
        cluster.counts["one_way_cut"] += 1
        self._say(f"cut n{a}->n{b}")

    def cut_off(self, node: SimNode, ns: int) -> None:
        """Nobody hears a node, or it hears nobody, or both, if links are cut in this run."""
        cluster = self._cluster
        if "one_way_cut" not in self._kinds:
            return
        me, others = node.number, [each.number for each in cluster.nodes if each is not node]
        ways = cluster.rng.choice(("out", "in", "in", "both"))
        links = {(me, other) for other in others if ways != "in"}
        links |= {(other, me) for other in others if ways != "out"}
        cluster.wire.cut |= links
        cluster.at(cluster.now + ns, self._mend, links)
        cluster.counts["one_way_cut"] += 1
        self._say(f"n{me} is cut off, {ways}")

    def _bridge(self) -> None:
        """Two halves that only one node hears."""
        cluster = self._cluster
        numbers = list(range(1, cluster.plan.nodes + 1))
        cluster.rng.shuffle(numbers)
        bridge, *rest = numbers
        half = len(rest) // 2
        left, right = rest[:half], rest[half:]
        self._cut({pair for a in left for b in right for pair in ((a, b), (b, a))})
        cluster.counts["bridge"] += 1
        self._say(f"n{bridge} joins {left} and {right}")

    def _cut(self, links: set[tuple[int, int]]) -> None:
        self._cluster.wire.cut |= links
        self._cluster.at(self._lasting(), self._mend, links)

    def _mend(self, links: set[tuple[int, int]]) -> None:
        self._cluster.wire.cut -= links

    # Choices

    def _lasting(self) -> int:
        rng = self._cluster.rng
        return self._cluster.now + int(rng.random() * rng.choice(LASTS_MS) * MS) + MS

    def _a_worker(self) -> SimWorker | None:
        up = [worker for worker in self._cluster.workers if worker.up and worker.node.up]
        return self._cluster.rng.choice(up) if up else None

    def _a_node(self) -> SimNode | None:
        up = [node for node in self._cluster.nodes if node.up]
        return self._cluster.rng.choice(up) if up else None

    def _say(self, text: str) -> None:
        if self._cluster.trace.wordy:
            self._cluster.trace.say(f"FAULT {text}")
