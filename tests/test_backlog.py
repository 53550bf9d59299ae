"""Execution that takes long: a pass is bounded in time, nobody starves, and what is held is bounded too."""

from __future__ import annotations

import random
from pathlib import Path

from paxmux.engine.errors import Code
from paxmux.engine.frame import FrameKind, pack_frame
from paxmux.engine.options import LimitOptions, ProposalOptions, TimerOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.messages import Batch as Messages
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards.backlog import ENTRY_BYTES, HOLD_BYTES, HOLD_COUNT, SLICE_NS
from paxmux.shards.codec import encode_section
from paxmux.shards.requests import Batch, CallKind, Reply
from paxmux.shards.slice import Identity, build_turn

NOW = 5_000 * MS
LATER = NOW + 600_000 * MS


class Clock:
    """Time passes only while something is executed."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


class Slow(StateMachine):
    """Takes so long for each value."""

    smid = 1

    def __init__(self, group: int, clock: Clock, cost_ns: int, done: list[tuple[int, bytes]]) -> None:
        super().__init__(group)
        self.group = group
        self.clock = clock
        self.cost_ns = cost_ns
        self.done = done

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        self.clock.ns += self.cost_ns
        self.done.append((self.group, value))
        return context

    def query(self, request: bytes) -> bytes:
        return b"%d" % len(self.done)


class Sink:
    def send(self, data: bytes, *, droppable: bool) -> bool:
        return True

    def commit(self) -> bool:
        return True


class World:
    """One worker of three; the others' word decides as many instances as a test wants in one pass."""

    def __init__(self, groups: int, cost_ns: int, log: MemoryLog | None = None) -> None:
        self.clock = Clock()
        self.done: list[tuple[int, bytes]] = []
        self.replies: list[Reply] = []
        self.log = log or MemoryLog(Path(), LogIdentity(7, 1, 11, 0), segment_bytes=1 << 20)
        self.machines = {index: {1: Slow(index, self.clock, cost_ns, self.done)} for index in range(groups)}
        self.turn = build_turn(
            Identity(7, 1, 11, 99, 0, 1),
            self.machines,
            self.log,
            Sink(),
            self.replies,
            members=Members({1: 11, 2: 12, 3: 13}),
            rng=random.Random(1),
            now=NOW,
            timers=TimerOptions(),
            proposals=ProposalOptions(),
            limits=LimitOptions(),
            clock=self.clock,
        )
        self.turn.start(NOW)
        self.backlog = self.turn.backlog
        self.seq = 0
        self.chains: dict[int, bytes] = dict.fromkeys(range(groups), values.FIRST)
        self.instances: dict[int, int] = dict.fromkeys(range(groups), 0)

    def decide(self, *proposals: tuple[int, bytes]) -> int:
        """Have each (group, value) proposed here, and decided in an instance of its own, all in one pass; how
        long that pass executed."""
        asked, learned = [], Messages()
        for group, payload in proposals:
            self.seq += 1
            asked.append((self.seq, group, LATER, 1, payload, payload))
            value = values.encode([(1, 99, self.seq, 0, 1, payload)], self.chains[group])
            self.chains[group] = values.chain_after(value)
            learned.learned.append((group, self.instances[group], 9, 2, value))
            self.instances[group] += 1
        for at in range(0, len(asked), 1000):
            self.turn._propose(asked[at : at + 1000], self.turn.fx)
        self.turn.fx.ready.clear()
        return self.pass_(learned)

    def pass_(self, *messages: Messages) -> int:
        """One pass; how long it executed."""
        begun = self.clock.ns
        frames = [
            pack_frame(
                FrameKind.PAXOS,
                encode_section(each),
                cluster=7,
                sender=2,
                seat=12,
                incarnation=5,
                dest=1,
                groups=1,
            )
            for each in messages
        ]
        self.turn.run(NOW, frames)
        return self.clock.ns - begun

    def drain(self) -> int:
        """Pass until nothing is left to do; the longest pass."""
        longest = 0
        while self.turn.busy:
            longest = max(longest, self.pass_())
        return longest

    def answered(self) -> list[int]:
        assert {reply[1] for reply in self.replies} <= {Code.OK}
        return sorted(reply[0] for reply in self.replies)


def numbers(group: int, count: int) -> list[tuple[int, bytes]]:
    return [(group, b"%d" % number) for number in range(count)]


def test_a_pass_executes_for_one_slice_or_one_instance() -> None:
    world = World(20, SLICE_NS // 4)
    longest = world.decide(*[each for group in range(20) for each in numbers(group, 3)])
    longest = max(longest, world.drain())
    assert len(world.done) == 60
    # One share for what is decided now, and half of one for what has waited.
    assert SLICE_NS <= longest <= 2 * SLICE_NS

    world = World(2, 10 * SLICE_NS)
    assert world.decide(*numbers(0, 5)) == 20 * SLICE_NS, "one decided now, one that has waited"
    assert world.drain() == 10 * SLICE_NS


def test_without_time_nothing_waits() -> None:
    world = World(2, 0)
    assert world.decide(*numbers(0, 500), *numbers(1, 500)) == 0
    assert len(world.done) == 1000
    assert not world.turn.busy


def test_each_group_is_executed_in_order_and_everybody_is_answered() -> None:
    world = World(7, SLICE_NS // 3)
    rng = random.Random(4)
    asked: dict[int, list[bytes]] = {group: [] for group in range(7)}
    for number in range(60):
        group = min(rng.randrange(7), rng.randrange(7))
        batch = [(group, b"%d.%d" % (number, each)) for each in range(rng.randrange(9))]
        asked[group] += [value for _, value in batch]
        world.decide(*batch)
    world.drain()
    for group, wanted in asked.items():
        assert [value for index, value in world.done if index == group] == wanted
    assert world.answered() == list(range(1, world.seq + 1))
    assert (world.backlog.held_count, world.backlog.held_bytes) == (0, 0)


def test_a_hot_slow_group_does_not_keep_others_from_being_executed() -> None:
    world = World(3, SLICE_NS)
    world.decide(*numbers(0, 50))
    world.decide((1, b"cold"), (2, b"cold"))
    for _ in range(2):
        world.pass_()
    assert {(1, b"cold"), (2, b"cold")} <= set(world.done)
    assert len(world.done) < 15, "most of the hot group still waits"
    world.drain()
    assert len(world.done) == 52


def test_what_is_held_is_bounded_and_the_rest_comes_from_the_log() -> None:
    world = World(2, 10 * SLICE_NS)
    many = numbers(0, 3 * HOLD_COUNT)
    world.decide(*many[: 2 * HOLD_COUNT])
    assert HOLD_COUNT - 3 < world.backlog.held_count <= HOLD_COUNT
    world.decide(*many[2 * HOLD_COUNT :], (1, b"other"))
    assert world.backlog.held_count <= HOLD_COUNT
    world.machines[0][1].cost_ns = world.machines[1][1].cost_ns = 0
    world.drain()
    assert [each for each in world.done if not each[0]] == many
    assert world.answered() == list(range(1, world.seq + 1))
    assert (world.backlog.held_count, world.backlog.held_bytes) == (0, 0)
    assert not world.turn.appliers[0].owned


def test_large_values_are_held_up_to_a_bound_of_bytes() -> None:
    world = World(1, 10 * SLICE_NS)
    size = HOLD_BYTES // 8
    large = [(0, bytes([number]) * size) for number in range(20)]
    world.decide(*large[:5])
    for at in range(5, 20, 5):
        world.decide(*large[at : at + 5])
        assert world.backlog.held_bytes <= HOLD_BYTES + size + ENTRY_BYTES
    assert world.backlog.held_bytes > HOLD_BYTES - 3 * size
    world.drain()
    assert world.done == large
    assert world.backlog.held_bytes == 0


def test_a_local_read_waits_for_what_was_decided_when_it_came_and_no_longer() -> None:
    world = World(1, SLICE_NS)
    world.decide(*numbers(0, 20))
    world.turn.run(NOW, [], [Batch([], [(777, CallKind.QUERY, 0, LATER, 1, b"")])])
    passes = 0
    answers: list[Reply] = []
    while not answers:
        # It is never executed to the end.
        world.decide((0, b"more"), (0, b"and more"))
        answers = [reply for reply in world.replies if reply[0] == 777]
        passes += 1
    assert answers[0][1] == Code.OK
    assert 20 <= int(answers[0][4] or b"") < world.seq
    assert world.turn.busy
    assert passes < 30
    assert not world.turn.calls._after


def test_a_group_that_is_let_go_still_knows_who_waits_for_it() -> None:
    world = World(2, SLICE_NS)
    world.decide(*numbers(0, 20))
    _group, applier, _calls = world.turn.let_go(0)
    waiting = [seq for owned in applier.owned.values() for seq in owned]
    assert len(waiting) == 20 - len(world.done) > 10
    assert sorted(waiting + world.answered()) == list(range(1, 21))
    assert not world.backlog.behind
    assert (world.backlog.held_count, world.backlog.held_bytes) == (0, 0)


def test_a_restart_with_values_that_waited_executes_each_of_them_once() -> None:
    world = World(2, SLICE_NS)
    world.decide(*numbers(0, 30))
    assert 0 < len(world.done) < 30
    world.log.close(clean=False)
    log = MemoryLog(Path(), LogIdentity(7, 1, 11, 0), segment_bytes=1 << 20, disk=world.log.disk)
    again = World(2, SLICE_NS // 8, log)
    assert again.backlog.waiting() == {0}, "what it showed before it must show again first"
    assert again.drain() <= 2 * SLICE_NS
    assert again.done == numbers(0, 30)
    assert not again.backlog.waiting()
