"""A cluster of production turns over a fake wire and a fake disk, driven by one random source.

Everything that can go wrong between turns is drawn from the seed: frames lost, doubled, delayed,
overtaken; nodes that crash between any two phases of a turn, and lose what was not synced. What
must hold is checked after every step, from outside the code under test.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from paxmux.engine.errors import Code
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import EMPTY_STATE, LogIdentity
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards.applier import Applier
from paxmux.shards.outlet import Outlet
from paxmux.shards.requests import Batch, Reply
from paxmux.shards.turn import Turn

CLUSTER = 77


class Journal(StateMachine):
    """Remembers everything it executed."""

    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self.seen: list[tuple[int, bytes]] = []

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        self.seen.append((instance_id, value))
        return (context or b"") + value

    def query(self, request: bytes) -> bytes:
        return str(len(self.seen)).encode()


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

    def __init__(self, node: int, seats: dict[int, int], groups: int, rng: random.Random) -> None:
        self.node = node
        self.seats = seats
        self.group_count = groups
        self.rng = rng
        self.log = MemoryLog(Path(), LogIdentity(CLUSTER, node, seats[node], 0), segment_bytes=1 << 20)
        self.life = 0
        self.up = False
        self.wire = Wire()
        self.replies: list[Reply] = []
        self.turn: Turn
        self.journals: dict[int, Journal]
        self.promised: dict[int, tuple[int, int]] = {}

    @property
    def incarnation(self) -> int:
        return self.node * 1_000_000 + self.life

    def boot(self, now: int) -> None:
        self.life += 1
        self.up = True
        self.wire = Wire()
        self.replies = []
        states = self.log.recover()
        self.journals = {index: Journal(index) for index in range(self.group_count)}
        groups: dict[int, Group] = {}
        appliers: dict[int, Applier] = {}
        for index in range(self.group_count):
            state = states.get(index, EMPTY_STATE)
            assert state.promised >= self.promised.get(index, (0, 0)), "a durable promise was lost"
            groups[index] = Group(
                index,
                me=self.node,
                seat=self.seats[self.node],
                incarnation=self.incarnation,
                members=Members(self.seats),
                rng=self.rng,
                now=now,
                instance=state.instance,
                promised=state.promised,
                accepted=state.accepted,
                value=state.value,
            )
            appliers[index] = Applier(
                index,
                {1: self.journals[index]},
                self.log,
                self.replies.append,
                (self.node, self.incarnation),
                1 << 20,
            )
        outlet = Outlet(
            self.wire,
            [node for node in self.seats if node != self.node],
            me=self.node,
            seat=self.seats[self.node],
            incarnation=self.incarnation,
            cluster=CLUSTER,
            worker=0,
            generation=self.life,
            groups=(1 << self.group_count) - 1,
        )
        self.turn = Turn(groups, appliers, self.log, outlet, self.replies, serve_max_bytes=1 << 16)
        self.turn.start(now)

    def crash(self) -> None:
        self.up = False
        self.log.crash(keep_batches=self.rng.randint(0, 3))
        self.log = self.log.reopen()


class MiniCluster:
    """Nodes 1..n, one clock, one seed."""

    def __init__(self, seed: int, nodes: int = 3, groups: int = 2) -> None:
        self.rng = random.Random(seed)
        self.now = 1_000_000_000
        seats = {node: 1000 + node for node in range(1, nodes + 1)}
        self.nodes = {node: MiniNode(node, seats, groups, self.rng) for node in seats}
        self.groups = groups
        self.flying: list[tuple[int, int, bytes]] = []
        """(due, dest, frame)"""
        self.loss = 0.0
        self.duplication = 0.0
        self.delay_ms = 2
        self.cut: set[tuple[int, int]] = set()
        self.seq = 0
        self.chosen: dict[tuple[int, int], bytes] = {}
        self.acked: dict[tuple[int, int, int], tuple[int, bytes]] = {}
        """(node, life, seq) -> (group, value) of proposals that ended with OK."""
        self.asked: dict[tuple[int, int, int], tuple[int, bytes]] = {}
        self.outcomes: dict[int, int] = {}
        for node in self.nodes.values():
            node.boot(self.now)

    def propose(self, node: int, group: int, value: bytes, timeout_ms: int = 5000) -> int:
        self.seq += 1
        deadline = self.now + timeout_ms * MS
        self.asked[(node, self.nodes[node].life, self.seq)] = (group, value)
        self.run_turn(node, [], [Batch([(self.seq, group, deadline, 1, value, b"ctx:")])])
        return self.seq

    def run_turn(
        self, node: int, frames: Sequence[bytes], batches: Sequence[Batch], crash_at: int | None = None
    ) -> None:
        """One turn; `crash_at` 0..3: crash after that phase."""
        it = self.nodes[node]
        turn = it.turn
        phases = (
            lambda: turn.step(self.now, frames, batches),
            turn.send_now,
            turn.persist,
            lambda: turn.finish(self.now),
        )
        for number, phase in enumerate(phases):
            phase()
            if number == 2:
                for index, group in turn.groups.items():
                    it.promised[index] = max(it.promised.get(index, (0, 0)), group.acceptor.promised)
            self._launch(it)
            if crash_at == number:
                self.check_replies(it)
                it.crash()
                return
        self.check_replies(it)
        self.check(it)

    def _launch(self, it: MiniNode) -> None:
        for frame in it.wire.frames:
            dest = int.from_bytes(frame[56:64], "little")
            copies = 1 + (self.rng.random() < self.duplication)
            for _ in range(copies):
                if self.rng.random() < self.loss or (it.node, dest) in self.cut:
                    continue
                self.flying.append((self.now + self.rng.randint(0, self.delay_ms * MS), dest, frame))
        it.wire.frames.clear()

    def check_replies(self, it: MiniNode) -> None:
        for seq, code, _instance, _position, result in it.replies:
            self.outcomes[seq] = code
            if code == Code.OK:
                key = (it.node, it.life, seq)
                group, value = self.asked[key]
                assert result == b"ctx:" + value
                assert key not in self.acked, "answered twice"
                self.acked[key] = (group, value)
        it.replies.clear()

    def check(self, it: MiniNode) -> None:
        """Agreement: what this node executed last is what everybody executed there."""
        for index, journal in it.journals.items():
            by_instance: dict[int, list[bytes]] = {}
            for instance, value in journal.seen[-8:]:
                by_instance.setdefault(instance, []).append(value)
            for instance in list(by_instance)[1:]:
                joined = b"|".join(by_instance[instance])
                known = self.chosen.setdefault((index, instance), joined)
                assert known == joined, f"group {index} instance {instance}: {known!r} and {joined!r}"

    def advance(self, ms: float, crash: float = 0.0) -> None:
        """Let time pass in steps, delivering what is due, firing timers, crashing now and then."""
        until = self.now + int(ms * MS)
        while self.now < until:
            self.now += self.rng.randint(MS // 10, MS)
            due = [item for item in self.flying if item[0] <= self.now]
            self.flying = [item for item in self.flying if item[0] > self.now]
            inbox: dict[int, list[bytes]] = {}
            self.rng.shuffle(due)
            for _, dest, frame in due:
                inbox.setdefault(dest, []).append(frame)
            for number, node in self.nodes.items():
                if not node.up:
                    if self.rng.random() < 0.02:
                        node.boot(self.now)
                    continue
                frames = inbox.get(number, [])
                if frames or node.turn.busy or self.now >= node.turn.wake_at:
                    at = self.rng.randint(0, 3) if self.rng.random() < crash else None
                    self.run_turn(number, frames, [], at)

    def settle(self, ms: float = 30_000) -> None:
        """Heal everything and let the cluster converge."""
        self.loss = self.duplication = 0.0
        self.cut.clear()
        for node in self.nodes.values():
            if not node.up:
                node.boot(self.now)
        self.advance(ms)

    def check_final(self) -> None:
        """Same sequence everywhere, nothing acknowledged lost, nothing executed twice."""
        for index in range(self.groups):
            sequences = [node.journals[index].seen for node in self.nodes.values()]
            assert all(sequence == sequences[0] for sequence in sequences), f"group {index} differs"
            values = [value for _, value in sequences[0]]
            assert len(values) == len(set(values)), f"group {index}: executed twice"
            for group, value in self.acked.values():
                assert group != index or value in values, f"group {index}: {value!r} lost"
