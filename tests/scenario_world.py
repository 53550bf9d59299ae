"""A cluster that does what a scenario says, and nothing else: production turns, a wire that delivers
when told to, a disk that forgets when told to, and a clock that moves when told to.

Everything that a node does is noted as an `Event` at the moment when it does it, so what a scenario
prints is the real order of writing, syncing, sending, executing and answering.

Two things are judged on the side, whatever a scenario expects: no instance is ever decided with two
values, and no replica executes anything but the decided values in their order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from paxmux.engine.errors import Code, StorageFailed
from paxmux.engine.frame import pack_frame, parse_header
from paxmux.engine.frame_header import Header
from paxmux.engine.options import LimitOptions, ProposalOptions, StorageOptions, TimerOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.master import NO_LEASE, LeaseTerms
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import LogIdentity, Record, RecordKind
from paxmux.plugins.storage.memory import MemoryDisk, MemoryLog
from paxmux.shards import membership
from paxmux.shards.codec import encode_section
from paxmux.shards.requests import Batch as Requests
from paxmux.shards.requests import Call, CallKind, Proposal, Reply
from paxmux.shards.slice import Identity, build_turn
from paxmux.shards.turn import Turn
from tests.scenario_words import (
    Message,
    ballot,
    batch_of,
    entries_text,
    instance_of,
    message_text,
    messages_in,
    record_text,
    value_text,
)

CLUSTER = 7
START_NS = 1_000_000_000_000
"""The clock's first reading; scenarios count from it."""
TURNS_MAX = 5_000
"""More turns than this in one command: the cluster spins."""


class ScenarioError(Exception):
    """A command that makes no sense, or a breach of what must always hold."""


class PowerCut(Exception):
    """The power went in the midst of a sync."""


class Event(NamedTuple):
    """Something that a node did, or that befell what it sent."""

    at: int
    node: int
    verb: str
    text: str


class Register(StateMachine):
    """A key-value register: `k=v` sets k, any other value is a key too. Answers with its count."""

    smid = 1

    def __init__(self, group: int, executed: Callable[[int, int, bytes], None]) -> None:
        super().__init__(group)
        self._executed = executed
        self._values: dict[bytes, bytes] = {}
        self._count = 0

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        self._executed(self.group, instance_id, value)
        key, _, it = value.partition(b"=")
        self._values[key] = it
        self._count += 1
        return b"value %d" % self._count

    def query(self, request: bytes) -> bytes:
        return self._values.get(request, b"unset")


class TracedLog(MemoryLog):
    """A log in memory that tells of each write and sync."""

    note: Callable[[str, str], None]
    power_fails = False
    """The next sync does not return: the power goes before it has."""

    def append(self, records: Sequence[Record]) -> None:
        super().append(records)
        for record in records:
            self.note("writes", record_text(record))

    def sync(self) -> None:
        if self.power_fails:
            raise PowerCut
        if self.disk.synced < len(self.disk.batches):
            super().sync()
            self.note("syncs", "")


class Packet:
    """A frame on its way, as bytes and as messages."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.header: Header = parse_header(frame)
        self.messages = messages_in(frame)

    @property
    def src(self) -> int:
        return self.header.sender

    @property
    def dst(self) -> int:
        return self.header.dest

    def only(self, messages: list[tuple[str, Message]]) -> Packet:
        """The same frame with some of its messages."""
        h = self.header
        body = encode_section(batch_of(messages))
        return Packet(
            pack_frame(
                h.kind, body, cluster=h.cluster, sender=h.sender, seat=h.seat, incarnation=h.incarnation,
                dest=h.dest, groups=h.groups, log=h.log, generation=h.generation,
            )
        )  # fmt: skip

    def texts(self) -> list[str]:
        return [message_text(kind, self.src, self.dst, message) for kind, message in self.messages]


class Sink:
    """What one node's outlet sends, handed on when it says that all is said."""

    def __init__(self, hand_on: Callable[[list[bytes]], None]) -> None:
        self._hand_on = hand_on
        self._frames: list[bytes] = []

    def send(self, data: bytes, *, droppable: bool) -> bool:
        self._frames.append(data)
        return True

    def send_pieces(self, pieces: Sequence[bytes], *, droppable: bool, sealed: bool) -> bool:
        """A large one."""
        return self.send(b"".join(pieces), droppable=droppable)

    def commit(self) -> bool:
        frames, self._frames = self._frames, []
        self._hand_on(frames)
        return True


class Node:
    """One node: the disk outlives it, everything else is built at each start."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.seat = 10 + number
        self.life = 0
        self.seq = 0
        self.up = False
        self.judged = True
        """Whether it must have the same history as the others."""
        self.disk = self._new_disk()
        self.inbox: list[Packet] = []
        self.proposals: list[Proposal] = []
        self.calls: list[Call] = []
        self.labels: dict[int, str] = {}
        """Request -> how the scenario knows it."""
        self.asked = 0
        self.phase = 0
        """Phases of the current turn that are done."""
        self._noted: dict[int, int] = {}
        self._fenced: set[int] = set()
        self._executing: list[bytes] = []
        """What the last event of this node says that it executed."""
        self.log: TracedLog
        self.turn: Turn

    def _new_disk(self) -> MemoryDisk:
        return MemoryDisk(LogIdentity(CLUSTER, self.number, self.seat, 0))

    def lose_data(self) -> None:
        """A new data directory: a new seat, and no log."""
        self.seat += 80
        self.disk = self._new_disk()

    def start(self) -> None:
        """Build everything from what the disk holds."""
        world = self.world
        self.life += 1
        self.seq = 0
        self.phase = 0
        self.inbox, self.proposals, self.calls, self.labels = [], [], [], {}
        self.replies: list[Reply] = []
        self._noted = {}
        self._fenced = set()
        self.log = TracedLog(Path("disk"), self.disk.identity, disk=self.disk)
        self.log.note = self.note
        self.turn = build_turn(
            Identity(CLUSTER, self.number, self.seat, self.number * 1000 + self.life, 0, self.life),
            {g: {Register.smid: Register(g, self._executed)} for g in range(world.groups)},
            self.log,
            Sink(self._leave),
            self.replies,
            members=Members(world.seats),
            rng=random.Random(self.number * 1000 + self.life),
            now=world.now,
            timers=world.timers,
            proposals=world.proposals,
            limits=world.limits,
            storage=StorageOptions(),
            leases=dict.fromkeys(range(world.groups), world.lease),
        )
        self.up = True
        world.executed = {key: told for key, told in world.executed.items() if key[0] != self.number}
        for g, group in self.turn.groups.items():
            self._noted[g] = group.instance
            if self.life > 1:
                it = group.acceptor
                held = f" {value_text(it.value)}" if it.accepted[0] else ""
                self.note(
                    "recovers",
                    f"g{g} at i{group.instance}, promised {ballot(*it.promised)}, "
                    f"accepted {ballot(*it.accepted)}{held}",
                )
        self.turn.start(world.now)

    def rewrite(self, instance: int, payload: bytes) -> None:
        """Give the disk another history: group 0 has decided `payload` at `instance`. What this node
        executes from now on is no longer compared with the others."""
        self.judged = False

        def forged(record: Record) -> Record:
            kind, group, at, round, node, value = record
            if group == 0 and at == instance and value:
                value = values.encode([(node, 1, 1, 0, Register.smid, payload)], values.chain_in(value))
            return kind, group, at, round, node, value

        self.disk.batches = [tuple(forged(record) for record in batch) for batch in self.disk.batches]

    def go_down(self) -> None:
        self.up = False
        self.inbox, self.proposals, self.calls = [], [], []

    # Input

    def propose(self, payload: bytes, group: int, timeout_ms: int) -> None:
        self.seq += 1
        self.labels[self.seq] = f"[{payload.decode()}]"
        deadline = self.world.now + timeout_ms * MS
        self.proposals.append((self.seq, group, deadline, Register.smid, payload, None))

    def read(self, kind: CallKind, key: str, group: int, timeout_ms: int) -> None:
        self.seq += 1
        self.labels[self.seq] = f"read {key}"
        deadline = self.world.now + timeout_ms * MS
        self.calls.append((self.seq, kind, group, deadline, Register.smid, key.encode()))

    def change_members(self, members: Iterable[int], group: int, timeout_ms: int) -> None:
        """Have these nodes, in the seats that they have now, decide from then on."""
        self.seq += 1
        self.labels[self.seq] = f"members {' '.join(map(str, members))}"
        places = {number: (self.world.nodes[number].seat, "") for number in members}
        version = self.turn.groups[group].members.version
        wanted = membership.encode(membership.Membership(CLUSTER, version, places))
        deadline = self.world.now + timeout_ms * MS
        self.calls.append((self.seq, CallKind.CHANGE_MEMBERS, group, deadline, 0, wanted))

    # The turn, phase by phase

    def step(self) -> None:
        self._enter(0, "step")
        packets, self.inbox = self.inbox, []
        for packet in packets:
            for text in packet.texts():
                self.note("receives", f"{packet.src}->{self.number} {text}")
        batches = [Requests(self.proposals, self.calls)] if self.proposals or self.calls else []
        self.proposals, self.calls = [], []
        self.turn.step(self.world.now, [packet.frame for packet in packets], batches)
        self._note_decisions()
        self._note_fences()
        self._answer()

    def send_now(self) -> None:
        self._enter(1, "send-now")
        self.turn.send_now()

    def persist(self) -> None:
        self._enter(2, "persist")
        try:
            self.turn.persist()
        except StorageFailed as error:
            self.note("stops", f"storage failed: {error}")
            self.log.close(clean=False)
            self.go_down()

    def finish(self) -> None:
        self._enter(3, "finish")
        self.phase = 0
        self.turn.finish(self.world.now)
        self._note_decisions()
        self._note_fences()
        self._answer()

    def run(self) -> None:
        """The rest of the turn, and the turns that wait for nothing after it."""
        for _ in range(TURNS_MAX):
            for number, phase in enumerate((self.step, self.send_now, self.persist, self.finish)):
                if self.up and number >= self.phase:
                    phase()
            if not self.up or not (self.turn.busy or self.inbox or self.proposals or self.calls):
                return
        raise ScenarioError(f"node {self.number} spins")

    def close(self) -> None:
        """A clean stop."""
        self.turn.close()
        self._answer()
        self.log.close(clean=True)
        self.go_down()

    @property
    def waiting(self) -> bool:
        return self.up and bool(self.inbox or self.proposals or self.calls or self.turn.busy or self.phase)

    def _enter(self, phase: int, name: str) -> None:
        if self.phase != phase:
            raise ScenarioError(
                f"node {self.number} cannot {name} now: {self.phase} phases of its turn are done"
            )
        self.phase = phase + 1

    # What it does, as it does it

    def note(self, verb: str, text: str) -> None:
        self.world.events.append(Event(self.world.now, self.number, verb, text))

    def _leave(self, frames: list[bytes]) -> None:
        self._note_decisions()
        said: dict[tuple[str, str], list[int]] = {}
        for frame in frames:
            packet = Packet(frame)
            cut = (packet.src, packet.dst) in self.world.cut
            if not cut:
                self.world.wire.append(packet)
            for text in packet.texts():
                said.setdefault(("loses" if cut else "sends", text), []).append(packet.dst)
        for (verb, text), peers in said.items():
            to = dict.fromkeys(peers)
            again = f", {len(peers) // len(to)} times" if len(peers) > len(to) else ""
            self.note(verb, f"{self.number}->{','.join(map(str, to))} {text}{again}")

    def _executed(self, group: int, instance: int, payload: bytes) -> None:
        self._note_decisions()
        head, payloads = f"g{group} i{instance} ", [payload]
        last = self.world.events[-1] if self.world.events else None
        if (
            self._executing
            and last is not None
            and last[1:] == (self.number, "executes", head + entries_text(self._executing))
        ):
            self.world.events.pop()
            payloads = [*self._executing, payload]
        self._executing = payloads
        self.note("executes", head + entries_text(payloads))
        if self.judged:
            self.world.judge_execution(self.number, group, instance, payload)

    def _answer(self) -> None:
        for seq, code, instance, place, result in self.replies:
            # Checksums say nothing to a reader, and depend on the bytes of every value.
            words = result.decode().split(": chain ")[0] if result is not None else ""
            it = self.labels.pop(seq)
            if code == Code.OK and it.startswith("members"):
                self.note("answers", f"{it} from i{instance + 1} on")
            elif code != Code.OK:
                self.note("answers", f"{it} {Code(code).name}: {words}")
            elif it.startswith("read"):
                self.note("answers", f"{it}: {words}")
            else:
                self.note("answers", f"{it} done at i{instance}, place {place}: {words}")
        self.replies.clear()

    def _note_decisions(self) -> None:
        for g, group in self.turn.groups.items():
            while self._noted[g] < group.instance:
                instance = self._noted[g]
                self._noted[g] += 1
                value = self._decided_value(g, instance)
                self.note("decides", f"g{g} i{instance} {value_text(value)}")
                if self.judged:
                    self.world.judge_decision(g, instance, value)

    def _note_fences(self) -> None:
        for g, group in self.turn.groups.items():
            if group.inquiry.fenced is not None and g not in self._fenced:
                self._fenced.add(g)
                self.note("fences", f"g{g} i{group.instance}: {group.inquiry.fenced.split(': chain ')[0]}")

    def _decided_value(self, group: int, instance: int) -> bytes:
        with_value = (RecordKind.ACCEPT, RecordKind.LEARNED)
        for record in reversed(self.turn.fx.records):
            if record[0] in with_value and record[1] == group and record[2] == instance:
                return record[5]
        stored = self.log.read(group, instance)
        if stored is None:
            raise ScenarioError(f"node {self.number} decided g{group} i{instance} without a value in its log")
        return stored[2]


class World:
    """Nodes 1..n, the wire between them, and the clock."""

    def __init__(
        self,
        nodes: int,
        groups: int,
        timers: TimerOptions,
        proposals: ProposalOptions,
        limits: LimitOptions,
        learners: int = 0,
        lease: LeaseTerms = NO_LEASE,
    ) -> None:
        self.now = START_NS
        self.lease = lease
        self.groups = groups
        self.timers = timers
        self.proposals = proposals
        self.limits = limits
        self.seats = {node: 10 + node for node in range(1, nodes + 1)}
        self.events: list[Event] = []
        self.wire: list[Packet] = []
        self.cut: set[tuple[int, int]] = set()
        self.decided: dict[tuple[int, int], bytes] = {}
        self.executed: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
        self.sequence: dict[int, list[tuple[int, bytes]]] = {}
        """Group -> what is executed there, in order, as far as any replica is."""
        """The founders."""
        self.nodes = {number: Node(self, number) for number in range(1, nodes + learners + 1)}

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    # Wire

    def on_wire(
        self, links: Iterable[tuple[int, int]], kind: str | None = None, instance: int | None = None
    ) -> list[Packet]:
        """Take packets off the wire: all messages on these links, or those of a kind or an instance."""
        wanted = set(links)
        taken: list[Packet] = []
        left: list[Packet] = []
        for packet in self.wire:
            mine = [
                item
                for item in packet.messages
                if (packet.src, packet.dst) in wanted
                and kind in (None, item[0])
                and instance in (None, instance_of(*item))
            ]
            if not mine:
                left.append(packet)
            elif len(mine) == len(packet.messages):
                taken.append(packet)
            else:
                taken.append(packet.only(mine))
                left.append(packet.only([item for item in packet.messages if item not in mine]))
        self.wire = left
        return taken

    def arrive(self, packets: Sequence[Packet]) -> list[Node]:
        """Put packets into the inboxes of their nodes; returns the nodes that have got something."""
        reached: dict[int, Node] = {}
        for packet in packets:
            node = self.nodes[packet.dst]
            if node.up:
                node.inbox.append(packet)
                reached[node.number] = node
            else:
                self._lose(packet, f"node {node.number} is down")
        return [reached[number] for number in sorted(reached)]

    def drop(self, packets: Sequence[Packet]) -> None:
        for packet in packets:
            self._lose(packet, "")

    def _lose(self, packet: Packet, why: str) -> None:
        for text in packet.texts():
            words = f"{packet.src}->{packet.dst} {text}" + (f" ({why})" if why else "")
            self.events.append(Event(self.now, 0, "lost", words))

    # Time

    def advance(self, until: int, *, deliver: bool = False) -> None:
        """Let time pass: nodes turn when a timer of theirs is due, in the order of their numbers."""
        for _ in range(TURNS_MAX):
            while deliver and self.deliver_round():
                pass
            up = [node for node in self.nodes.values() if node.up]
            due = min((node.turn.wake_at for node in up), default=until + 1)
            if due > until:
                self.now = max(self.now, until)
                return
            self.now = max(self.now, due)
            for node in up:
                if node.turn.wake_at <= self.now:
                    node.run()
        raise ScenarioError("the cluster spins")

    def deliver_round(self) -> bool:
        """Deliver what is on the wire now, and let every node that has input turn; False if there is none."""
        packets, self.wire = self.wire, []
        self.arrive(packets)
        waiting = [node for node in self.nodes.values() if node.waiting]
        for node in waiting:
            node.run()
        return bool(packets or waiting)

    def settle(self) -> None:
        """Deliver until nothing is on its way; time moves only as far as a held notice needs."""
        for _ in range(TURNS_MAX):
            if self.deliver_round():
                continue
            held = [
                node.turn.notice_at
                for node in self.nodes.values()
                if node.up and node.turn.notice_at <= self.now + self.timers.notice_ms * MS
            ]
            if not held:
                return
            self.advance(min(held))
        raise ScenarioError("the cluster does not settle")

    # What must hold in every scenario

    def judge_decision(self, group: int, instance: int, value: bytes) -> None:
        if self.decided.setdefault((group, instance), value) != value:
            raise ScenarioError(f"two values decided at g{group} i{instance}")

    def judge_execution(self, node: int, group: int, instance: int, payload: bytes) -> None:
        mine = self.executed.setdefault((node, group), [])
        mine.append((instance, payload))
        whole = self.sequence.setdefault(group, [])
        if len(mine) > len(whole):
            whole.append(mine[-1])
        if whole[len(mine) - 1] != mine[-1]:
            raise ScenarioError(f"node {node} executes {mine[-1]}, another one {whole[len(mine) - 1]}")
