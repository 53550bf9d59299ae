"""A cluster of production turns over a fake wire and a fake disk, driven by one random source.

Everything that can go wrong between turns is drawn from the seed: frames lost, doubled, delayed,
overtaken, or coming back long after; nodes that stand still, and nodes that crash between any two
phases of a turn and lose what was not synced; disks without room. What must hold is judged from
outside the code under test, by a witness.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from paxmux.engine.errors import Code
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import DEFAULT_BOUNDS, DEFAULT_TIMERS, MS, Bounds, Timers
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import EMPTY_STATE, LogIdentity
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards.applier import Applier
from paxmux.shards.outlet import Outlet
from paxmux.shards.requests import Batch, Proposal, Reply
from paxmux.shards.slice import chain_at
from paxmux.shards.turn import Turn
from tests.witness import Execution, Witness, same_everywhere

CLUSTER = 77
NOTICE = 2 * MS
"""As the default of `timers.notice_ms`."""
NEVER_NS = 2**63 - 1
WINDOW = 1000 * MS
TIMER_TURNS_MAX = 300
"""Turns in a window that nothing but a timer asked for: a worker that spins makes thousands."""
LATE = 1000 * MS
"""So long after its deadline a proposal has been given up, by a node that does not stand still."""
STALE_KEPT = 400
CODES = frozenset({Code.OK, Code.TIMEOUT, Code.OVERLOADED, Code.CONFLICT})
WIPED_CODES = frozenset({Code.NOT_A_MEMBER, Code.OVERLOADED})


Asked = tuple[int, int, int]
"""A proposal: (node, life, seq). Each life counts from 1, so seqs tell nothing of whose they are."""


def incarnation_of(node: int, life: int) -> int:
    """What a life of a node signs its proposals with."""
    return node * 1_000_000 + life


class Journal(StateMachine):
    """Remembers everything it executed; a durable one keeps it over restarts, as a database would."""

    smid = 1

    def __init__(self, group: int, incarnation: int, disk: Shelf | None) -> None:
        super().__init__(group)
        self.incarnation = incarnation
        self.disk = disk
        self.seen: list[tuple[int, bytes]] = list(disk.seen) if disk is not None else []
        self.judge: Execution

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        self.judge.executed(instance_id, value, context, self.incarnation)
        self.seen.append((instance_id, value))
        return (context or b"") + value

    def commit(self, instance_id: int) -> None:
        self.judge.committed(instance_id)
        if self.disk is not None:
            self.disk.seen, self.disk.applied = list(self.seen), instance_id

    def applied_instance_id(self) -> int | None:
        return self.disk.applied if self.disk is not None else None

    def query(self, request: bytes) -> bytes:
        return str(len(self.seen)).encode()


class Shelf:
    """What a durable journal leaves behind."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bytes]] = []
        self.applied: int | None = None


class Wire:
    """What a node hands to the network: kept until the cluster decides its fate."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, data: bytes, *, droppable: bool) -> bool:
        self.frames.append(data)
        return True

    def commit(self) -> bool:
        """Nobody sleeps here."""
        return True


class MiniNode:
    """One node: its disk survives, everything else is rebuilt at each start."""

    def __init__(
        self,
        node: int,
        seats: dict[int, int],
        groups: int,
        rng: random.Random,
        witness: Witness,
        bounds: Bounds,
        durable: bool,
        seat: int,
        timers: Timers,
    ) -> None:
        """`seat`: of its data directory, which may be another than the members know it by."""
        self.node = node
        self.seats = seats
        self.seat = seat
        self.group_count = groups
        self.rng = rng
        self.witness = witness
        self.bounds = bounds
        self.timers = timers
        self.shelves = [Shelf() if durable else None for _ in range(groups)]
        self.log = MemoryLog(Path(), LogIdentity(CLUSTER, node, seat, 0), segment_bytes=1 << 20)
        self.life = 0
        self.seq = 0
        self.up = False
        self.boot_at = 0
        self.still_until = 0
        self.inbox: list[bytes] = []
        self.requests: list[Proposal] = []
        self.wire = Wire()
        self.replies: list[Reply] = []
        self.turns = 0
        self.timer_turns = 0
        self.turn: Turn
        self.journals: dict[int, Journal]

    @property
    def incarnation(self) -> int:
        return incarnation_of(self.node, self.life)

    def boot(self, now: int) -> None:
        self.life += 1
        self.seq = 0
        self.up = True
        self.inbox, self.requests = [], []
        self.wire = Wire()
        self.replies = []
        states = self.log.recover()
        self.witness.synced(self.node, self.log.disk)
        self.journals = {
            index: Journal(index, self.incarnation, self.shelves[index]) for index in range(self.group_count)
        }
        groups: dict[int, Group] = {}
        appliers: dict[int, Applier] = {}
        for index in range(self.group_count):
            state = states.get(index, EMPTY_STATE)
            groups[index] = Group(
                index,
                me=self.node,
                seat=self.seat,
                incarnation=self.incarnation,
                members=Members(self.seats),
                rng=self.rng,
                now=now,
                instance=state.instance,
                promised=state.promised,
                accepted=state.accepted,
                value=state.value,
                chain=chain_at(self.log, index, state.instance),
                bounds=self.bounds,
                timers=self.timers,
            )
            journal = self.journals[index]
            appliers[index] = Applier(
                index,
                {1: journal},
                self.log,
                self.replies.append,
                (self.node, self.incarnation),
                1 << 20,
            )
            first = journal.applied_instance_id()
            journal.judge = self.witness.execution_of(self.node, index, 0 if first is None else first + 1)
        outlet = Outlet(
            self.wire,
            [node for node in self.seats if node != self.node],
            me=self.node,
            seat=self.seat,
            incarnation=self.incarnation,
            cluster=CLUSTER,
            worker=0,
            generation=self.life,
            groups=(1 << self.group_count) - 1,
        )
        self.turn = Turn(
            groups, appliers, self.log, outlet, self.replies, serve_max_bytes=1 << 16, notice_delay=NOTICE
        )
        self.turn.start(now)

    def crash(self, now: int) -> None:
        self.up = False
        self.boot_at = now + self.rng.randint(MS, 100 * MS)
        self.log.crash(keep_batches=self.rng.randint(0, 3))
        self.log = self.log.reopen()

    def stop(self, now: int) -> None:
        """A clean stop, and some time later a start."""
        self.turn.close()
        self.witness.synced(self.node, self.log.disk)
        self.up = False
        self.boot_at = now + self.rng.randint(MS, 1000 * MS)
        self.log.close(clean=True)
        self.log = self.log.reopen()

    def due(self, now: int) -> bool:
        """Whether a worker's loop would turn now."""
        return bool(self.inbox or self.requests or self.turn.busy or now >= self.turn.wake_at)


class MiniCluster:
    """Nodes 1..n, one clock, one seed."""

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        groups: int = 2,
        bounds: Bounds = DEFAULT_BOUNDS,
        durable: bool = False,
        wiped: int = 0,
        timers: Timers = DEFAULT_TIMERS,
    ) -> None:
        """`wiped`: a node that has lost its data directory, and with it its seat."""
        self.rng = random.Random(seed)
        self.now = 1_000_000_000
        seats = {node: 1000 + node for node in range(1, nodes + 1)}
        self.wiped = wiped
        self.witness = Witness(seats, Journal.smid, wiped)
        self.nodes = {
            node: MiniNode(
                node,
                seats,
                groups,
                self.rng,
                self.witness,
                bounds,
                durable,
                9999 if node == wiped else seat,
                timers,
            )
            for node, seat in seats.items()
        }
        self.groups = groups
        self.flying: list[tuple[int, int, int, bytes]] = []
        """Heap of (due, number, dest, frame)."""
        self.launched = 0
        self.loss = 0.0
        self.duplication = 0.0
        self.stale = 0.0
        """For each frame, the chance that an old one, of any life, comes once more."""
        self.delay_ms = 2
        self.delay_min_ms = 0
        self.still = 0.0
        """For each turn, the chance that the node then stands still for up to `still_ms`."""
        self.still_ms = 3000
        self.cut: set[tuple[int, int]] = set()
        self.asked: dict[Asked, tuple[int, bytes, int]] = {}
        """-> (group, value, deadline)"""
        self.outcomes: dict[Asked, int] = {}
        self.acked: dict[Asked, tuple[int, int, bytes]] = {}
        """-> (group, instance, value) of proposals that ended with OK."""
        self.on_frame: Callable[[int, int, bytes], None] | None = None
        """Sees (node, dest, frame) of everything that leaves; for nodes that do not behave."""
        self._old: list[tuple[int, bytes]] = []
        self._window_until = self.now + WINDOW
        for node in self.nodes.values():
            node.boot(self.now)

    # Proposing

    def propose(self, node: int, group: int, value: bytes, timeout_ms: float | None = 5000) -> Asked:
        """Hand a proposal to a node that is up; it takes it in its next turn."""
        it = self.nodes[node]
        it.seq += 1
        asked = (node, it.life, it.seq)
        deadline = NEVER_NS if timeout_ms is None else self.now + int(timeout_ms * MS)
        self.asked[asked] = (group, value, deadline)
        it.requests.append((it.seq, group, deadline, 1, value, b"ctx:"))
        return asked

    # Time

    def advance(self, ms: float, crash: float = 0.0) -> None:
        """Let time pass: deliver what is due, fire timers, crash now and then."""
        until = self.now + int(ms * MS)
        while self.now < until:
            self.now = min(max(self.now + self.rng.randint(MS // 10, MS), self._next_event()), until)
            self._deliver()
            for number, node in self.nodes.items():
                if not node.up:
                    if self.now >= node.boot_at:
                        node.boot(self.now)
                elif self.now >= node.still_until and node.due(self.now):
                    self._run(number, self.rng.randint(0, 3) if self.rng.random() < crash else None)
            if self.now >= self._window_until:
                self._check_windows()

    def _next_event(self) -> int:
        """Nothing happens before: time may jump."""
        at = self.flying[0][0] if self.flying else NEVER_NS
        for node in self.nodes.values():
            if not node.up:
                at = min(at, node.boot_at)
            elif node.inbox or node.requests or node.turn.busy:
                at = min(at, node.still_until)
            else:
                at = min(at, max(node.turn.wake_at, node.still_until))
        return at

    def _deliver(self) -> None:
        due: list[tuple[int, bytes]] = []
        while self.flying and self.flying[0][0] <= self.now:
            _, _, dest, frame = heapq.heappop(self.flying)
            due.append((dest, frame))
        self.rng.shuffle(due)
        for dest, frame in due:
            if self.nodes[dest].up:
                self.nodes[dest].inbox.append(frame)

    def _run(self, number: int, crash_at: int | None) -> None:
        """One turn; `crash_at` 0..3: crash after that phase."""
        it = self.nodes[number]
        frames, requests = it.inbox, it.requests
        it.inbox, it.requests = [], []
        it.turns += 1
        it.timer_turns += not (frames or requests or it.turn.busy)
        turn = it.turn
        batches = [Batch(requests)] if requests else []
        phases = (
            lambda: turn.step(self.now, frames, batches),
            turn.send_now,
            turn.persist,
            lambda: turn.finish(self.now),
        )
        for phase_number, phase in enumerate(phases):
            phase()
            if phase_number == 2:
                self.witness.synced(number, it.log.disk)
            self._launch(it)
            if crash_at == phase_number:
                # Answers of a finish are in the ring by then: they outlive their worker.
                self._take_replies(it)
                it.crash(self.now)
                return
        self._take_replies(it)
        if self.still and self.rng.random() < self.still:
            it.still_until = self.now + self.rng.randint(0, self.still_ms * MS)

    def _launch(self, it: MiniNode) -> None:
        for frame in it.wire.frames:
            self.witness.leaves(frame)
            dest = int.from_bytes(frame[56:64], "little")
            if self.on_frame is not None:
                self.on_frame(it.node, dest, frame)
            copies = 1 + (self.rng.random() < self.duplication)
            for _ in range(copies):
                if self.rng.random() < self.loss or (it.node, dest) in self.cut:
                    continue
                self.fly(dest, frame, self.rng.randint(self.delay_min_ms * MS, self.delay_ms * MS))
            if self.stale:
                self._old.append((dest, frame))
                if len(self._old) > STALE_KEPT:
                    self._old[self.rng.randrange(STALE_KEPT)] = self._old.pop()
                if self.rng.random() < self.stale:
                    self.fly(*self.rng.choice(self._old), self.delay_ms * MS)
        it.wire.frames.clear()

    def fly(self, dest: int, frame: bytes, delay: int) -> None:
        """A frame arrives at `dest` after `delay` ns."""
        self.launched += 1
        heapq.heappush(self.flying, (self.now + delay, self.launched, dest, frame))

    def stop(self, node: int) -> None:
        """Stop a node cleanly, if it is up; it comes back by itself."""
        it = self.nodes[node]
        if it.up:
            it.stop(self.now)
            self._take_replies(it)

    # What must hold

    def _take_replies(self, it: MiniNode) -> None:
        for reply in it.replies:
            seq, code, instance, _, result = reply
            asked = (it.node, it.life, seq)
            assert asked in self.asked, f"{asked} is answered by another node or life"
            assert asked not in self.outcomes, f"{asked} is answered twice"
            group, value, _ = self.asked[asked]
            self.outcomes[asked] = code
            self.witness.answered(it.node, it.incarnation, reply, group)
            if code == Code.OK:
                assert result == b"ctx:" + value
                self.acked[asked] = (group, instance, value)
            allowed = WIPED_CODES if it.node == self.wiped else CODES
            assert code in allowed, f"node {it.node} answers {code}"
        it.replies.clear()

    def _check_windows(self) -> None:
        self._window_until = self.now + WINDOW
        for node in self.nodes.values():
            assert node.timer_turns <= TIMER_TURNS_MAX, f"node {node.node} spins: {node.timer_turns} turns"
            node.timer_turns = 0
            if node.up and self.now >= node.still_until and not node.due(self.now):
                for index, applier in node.turn.appliers.items():
                    rests = applier.next >= node.turn.groups[index].instance
                    assert rests, f"node {node.node} rests with values to execute in group {index}"
        for asked in self.unanswered():
            node = self.nodes[asked[0]]
            late = self.now - self.asked[asked][2] > LATE
            assert not late or self.now < node.still_until + LATE, f"{asked} has not been given up"

    def unanswered(self) -> list[Asked]:
        """Proposals that a node still owes an answer: those of its present life."""
        return [
            asked
            for asked in self.asked.keys() - self.outcomes.keys()
            if self.nodes[asked[0]].up and self.nodes[asked[0]].life == asked[1]
        ]

    def heal(self) -> None:
        """End every fault."""
        self.loss = self.duplication = self.stale = self.still = 0.0
        self.cut.clear()
        for node in self.nodes.values():
            node.still_until = 0
            node.log.trouble = None
            if not node.up:
                node.boot(self.now)

    def settle(self, ms: float = 60_000) -> None:
        """Heal everything and let the cluster converge, in at most so long."""
        self.heal()
        until = self.now + ms * MS
        quiet = 0
        while quiet < 2:
            assert self.now < until, "does not come to rest"
            self.advance(1000)
            # Twice: what flew, such as an Accept of a life long past, has landed then.
            quiet = quiet + 1 if self._settled() else 0

    def _settled(self) -> bool:
        """Whether everybody has answered, stands at the same place and has nothing left over."""
        groups = [[node.turn.groups[index] for node in self.nodes.values()] for index in range(self.groups)]
        return not self.unanswered() and all(
            len({group.instance for group in each}) == 1
            and all(group.acceptor.accepted == NULL for group in each)
            for each in groups
        )

    def check_final(self) -> None:
        """Same sequence everywhere, nothing acknowledged lost, nothing executed twice, nothing kept."""
        self.witness.check_order()
        late = self.unanswered()
        assert not late, f"never answered: {late}"
        for asked, code in self.outcomes.items():
            node, life, seq = asked
            decided = (node, incarnation_of(node, life), seq) in self.witness.decided_as
            assert not decided or code in (Code.OK, Code.TIMEOUT), f"{asked}: {code}, but decided"
        for index in range(self.groups):
            sequences = {number: node.journals[index].seen for number, node in self.nodes.items()}
            assert same_everywhere(sequences), f"group {index} differs"
            executed = sequences[1]
            by_value = {value: instance for instance, value in executed}
            assert len(by_value) == len(executed), f"group {index}: executed twice"
            for group, instance, value in self.acked.values():
                assert group != index or by_value.get(value) == instance, f"group {index}: {value!r} lost"
            for node in self.nodes.values():
                group_here, applier = node.turn.groups[index], node.turn.appliers[index]
                assert not group_here.own, f"node {node.node} keeps {list(group_here.own)}"
                assert applier.next == group_here.instance, f"node {node.node} has not executed everything"

    def check_progress(self, ms: float = 20_000) -> None:
        """After the faults every node can get a value decided in every group."""
        asked = [
            self.propose(node, group, b"progress-%d-%d-%d" % (self.now, node, group), timeout_ms=ms)
            for node in self.nodes
            for group in range(self.groups)
            if node != self.wiped
        ]
        until = self.now + ms * MS
        while self.now < until and not all(each in self.outcomes for each in asked):
            self.advance(100)
        codes = Counter(self.outcomes.get(each) for each in asked)
        assert codes == {Code.OK: len(asked)}, f"no progress after the faults ended: {codes}"

    def check_idle(self, ms: float = 10_000) -> None:
        """With nothing to do, nodes do next to nothing."""
        self.advance(2000)
        before = {number: node.turns for number, node in self.nodes.items()}
        launched = self.launched
        self.advance(ms)
        bound = ms / 1000 * 5 * (1 + self.groups * len(self.nodes))
        for number, node in self.nodes.items():
            turns = node.turns - before[number]
            assert turns <= bound, f"node {number}: {turns} turns in {ms} ms with nothing to do"
        assert self.launched - launched <= bound, f"{self.launched - launched} frames in {ms} ms"
