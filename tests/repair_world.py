"""A few nodes with real turns over logs in memory that can lose something; frames arrive at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from paxmux.engine.errors import Code
from paxmux.engine.options import LimitOptions, ProposalOptions, TimerOptions
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.memory import MemoryDisk, MemoryLog
from paxmux.shards.requests import Batch, CallKind, Reply
from paxmux.shards.slice import Identity, build_turn
from paxmux.shards.turn import Turn

STEP = 10 * MS
DEADLINE = 1 << 62


class Journal(StateMachine):
    """Keeps what it executed."""

    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self.seen: list[tuple[int, bytes]] = []

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        self.seen.append((instance_id, value))
        return value

    def query(self, request: bytes) -> bytes:
        return b"%d" % len(self.seen)


class Sink:
    """Takes a node's frames to the others."""

    def __init__(self, world: World) -> None:
        self._world = world

    def send(self, data: bytes, *, droppable: bool) -> bool:
        self._world.carry(int.from_bytes(data[56:64], "little"), data)
        return True

    def send_pieces(self, pieces: Sequence[bytes], *, droppable: bool, sealed: bool) -> bool:
        """A large one."""
        return self.send(b"".join(pieces), droppable=droppable)

    def commit(self) -> bool:
        return True


class World:
    """Nodes 1 to `nodes`, in their seats."""

    def __init__(self, nodes: int = 3, groups: int = 1, plain: bool = True) -> None:
        """`plain`: proposals are not handed on."""
        self.seats = {number: 10 + number for number in range(1, nodes + 1)}
        self.groups = groups
        self.forward = not plain
        self.now = 1000 * MS
        self.disks = {number: MemoryDisk(LogIdentity(7, number, 10 + number, 0)) for number in self.seats}
        self.turns: dict[int, Turn] = {}
        self.journals: dict[tuple[int, int], Journal] = {}
        self.replies: dict[int, list[Reply]] = {}
        self.answers: dict[int, Reply] = {}
        self.cut: set[int] = set()
        """Nodes that nobody hears, and that hear nobody."""
        self._inboxes: dict[int, list[bytes]] = {number: [] for number in self.seats}
        self._seq = 0
        self._lives = 0
        for number in self.seats:
            self.boot(number)

    def boot(self, number: int) -> Turn:
        """A new life of a node on what its disk has."""
        self._lives += 1
        self._inboxes[number] = []
        log = MemoryLog(Path(), self.disks[number].identity, disk=self.disks[number])
        machines = {}
        for group in range(self.groups):
            journal = self.journals[number, group] = Journal(group)
            machines[group] = {1: journal}
        replies = self.replies[number] = []
        try:
            turn = build_turn(
                Identity(7, number, self.seats[number], 900 + self._lives, 0, 1),
                machines,
                log,
                Sink(self),
                replies,
                members=Members(self.seats),
                rng=random.Random(self._lives),
                now=self.now,
                timers=TimerOptions(notice_ms=0),
                proposals=ProposalOptions(forward=self.forward),
                limits=LimitOptions(),
            )
        except BaseException:
            log.close(clean=False)
            raise
        self.turns[number] = turn
        turn.start(self.now)
        return turn

    def die(self, number: int) -> None:
        """Its process is killed."""
        turn = self.turns.pop(number)
        turn.log.close(clean=False)

    def group(self, number: int, index: int = 0) -> Group:
        return self.turns[number].groups[index]

    def carry(self, dest: int, data: bytes) -> None:
        """A frame leaves for a node."""
        sender = int.from_bytes(data[32:40], "little")
        if not {sender, dest} & self.cut and dest in self.turns:
            self._inboxes[dest].append(data)

    def run(self, ms: int) -> None:
        """Let time pass."""
        end = self.now + ms * MS
        while self.now < end:
            self.now += STEP
            self.settle()

    def settle(self) -> None:
        """Everybody turns until nobody has anything to do now."""
        for _ in range(1000):
            idle = True
            for number, turn in list(self.turns.items()):
                frames, self._inboxes[number] = self._inboxes[number], []
                if frames or turn.busy or self.now >= turn.wake_at:
                    idle = False
                    turn.run(self.now, frames)
                    self._gather(number)
            if idle:
                return
        raise AssertionError("somebody spins")

    def propose(self, number: int, payload: bytes, index: int = 0, deadline: int = DEADLINE) -> int:
        """Propose something; the number of the request."""
        self._seq += 1
        self.turns[number].run(self.now, (), [Batch([(self._seq, index, deadline, 1, payload, None)], [])])
        self._gather(number)
        return self._seq

    def decide(self, number: int, *payloads: bytes, index: int = 0) -> None:
        """Propose, one after the other, and let each be decided."""
        for payload in payloads:
            seq = self.propose(number, payload, index)
            self.until(lambda seq=seq: seq in self.answers)  # type: ignore[misc]
            assert self.answers[seq][1] == Code.OK, self.answers[seq]

    def until(self, done: Any, ms: int = 60_000) -> None:
        """Let time pass until something is true."""
        end = self.now + ms * MS
        while not done():
            assert self.now < end, "it never comes true"
            self.run(10)

    def ask(
        self, number: int, kind: CallKind, index: int = 0, argument: int = 1, deadline: int = DEADLINE
    ) -> int:
        """Ask something; the number of the request."""
        self._seq += 1
        call = (self._seq, kind, index, deadline, argument, b"")
        self.turns[number].run(self.now, (), [Batch([], [call])])
        self._gather(number)
        return self._seq

    def status(self, number: int, index: int = 0) -> dict[str, Any]:
        """What a node says about a group."""
        reply = self.answers[self.ask(number, CallKind.GROUP_STATUS)]
        rows: list[dict[str, Any]] = msgspec.json.decode(reply[4] or b"[]")
        return rows[index]

    def seen(self, number: int, index: int = 0) -> list[tuple[int, bytes]]:
        """What a node has executed."""
        return self.journals[number, index].seen

    def _gather(self, number: int) -> None:
        for reply in self.replies[number]:
            self.answers[reply[0]] = reply
        self.replies[number].clear()
