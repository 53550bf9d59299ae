"""A group's way from one worker to another, turn by turn, without processes: let go at every moment.

Two workers of one node, each with the production turn, transit and a log in memory, in a cluster of this
one member or with two more.
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.engine.fence import FENCED, fenced
from paxmux.engine.frame import parse_header
from paxmux.engine.options import LimitOptions, ProposalOptions, TimerOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import ACCEPT, DECIDED, LEARNED, PROMISE, RELEASED, SYSTEM, Effects, Record
from paxmux.engine.paxos.master import LeaseTerms
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.system import NO_REIGN, Membership, SystemState, encode_state
from paxmux.engine.paxos.timers import MS
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import HardState, LogIdentity
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards import applier, arrival, departure, handover
from paxmux.shards.boot import MoveTold
from paxmux.shards.handover import Begin, HandoverLost, HandoverSocket, LetGo, State, Values
from paxmux.shards.pending import NEVER_NS
from paxmux.shards.requests import OF_NO_GROUP, Batch, CallKind, Reply
from paxmux.shards.slice import GroupMaker, Identity, build_turn
from paxmux.shards.transit import Transit

NODE, SEAT, INCARNATION = 5, 6, 7
MEMBERS, OTHERS = (
    encode_state(SystemState(Membership(version, {NODE: (SEAT, "")}), NO_REIGN, [])) for version in (11, 29)
)
GROUP, MOVE = 3, 1


def seat_of(node: int) -> int:
    """Each node has its own; nodes 8 and 9 are the other members where there are any."""
    return SEAT if node == NODE else SEAT + node - 7


class Counter(StateMachine):
    """Says what it has executed."""

    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self.values: list[bytes] = []
        self.contexts: list[bytes | None] = []
        self.closed = False

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        self.values.append(value)
        self.contexts.append(context)
        return b"%d" % len(self.values)

    def query(self, request: bytes) -> bytes:
        return b"%d" % len(self.values)

    def close(self) -> None:
        self.closed = True


class Kept(Counter):
    """One that keeps its state: what it has committed is there when it is built again."""

    smid = 2
    disk: tuple[list[bytes], int] = ([], -1)
    open = 0

    def __init__(self, group: int) -> None:
        super().__init__(group)
        assert not Kept.open, "two of them at a time"
        Kept.open += 1
        self.values, self.applied = list(Kept.disk[0]), Kept.disk[1]

    def commit(self, instance_id: int) -> None:
        Kept.disk = list(self.values), instance_id

    def applied_instance_id(self) -> int | None:
        return None if self.applied < 0 else self.applied

    def close(self) -> None:
        super().close()
        Kept.open -= 1


@pytest.fixture(autouse=True)
def _empty_disk() -> None:
    Kept.disk, Kept.open = ([], -1), 0


class Wire:
    """What a worker sends; a cluster of one sends nothing."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, data: bytes, *, droppable: bool) -> bool:
        self.frames.append(data)
        return True

    def send_pieces(self, pieces: Sequence[bytes], *, droppable: bool, sealed: bool) -> bool:
        """A large one."""
        return self.send(b"".join(pieces), droppable=droppable)

    def commit(self) -> bool:
        return True


class Half:
    """One worker."""

    def __init__(
        self,
        number: int,
        hosted: bool,
        *,
        log: MemoryLog | None = None,
        node: int = NODE,
        seats: dict[int, int] | None = None,
        machines: Sequence[type[StateMachine]] = (Counter, Kept),
        leases: Mapping[int, LeaseTerms] | None = None,
    ) -> None:
        self.wire = Wire()
        self.inbox: list[bytes] = []
        self.classes = machines
        self.replies: list[Reply] = []
        self.told: list[MoveTold] = []
        self.now = 10**9
        self.log = log or MemoryLog(Path(f"log {number}"), LogIdentity(1, node, seat_of(node), number))
        self.fail_build = ""
        who = Identity(1, node, seat_of(node), INCARNATION + node - NODE, number, 1)
        options = TimerOptions(), ProposalOptions(), LimitOptions()
        members, rng = Members(seats or {NODE: SEAT}), random.Random(node)
        hosting = {GROUP: {each.smid: each(GROUP) for each in machines}} if hosted else {}
        self.turn = build_turn(
            who, hosting, self.log, self.wire, self.replies,
            members=members, rng=rng, now=self.now,
            timers=options[0], proposals=options[1], limits=options[2], leases=leases or {},
        )  # fmt: skip
        maker = GroupMaker(who, self.log, self.replies, members, rng, *options, leases or {})
        self.transit = Transit(self.turn, self.log, maker, self.build, self.told.append)
        self.turn.start(self.now)

    def build(self, group: int, durable: bool) -> Mapping[int, StateMachine]:
        if self.fail_build:
            raise RuntimeError(self.fail_build)
        return {each.smid: each(group) for each in self.classes if applier.is_durable(each) == durable}

    def loop(self, *batches: Batch) -> None:
        """What the worker's loop does once."""
        self.now += MS
        if self.transit.active:
            self.transit.before_turn()
        frames, self.inbox = self.inbox, []
        self.turn.run(self.now, frames, batches)
        if self.transit.active or self.turn.calls.orders:
            self.transit.after_turn(self.now)

    def order(self, kind: CallKind, group: int = GROUP) -> None:
        self.loop(Batch([], [(0, kind, group, 0, MOVE, b"")]))

    def says(self, what: str) -> bool:
        return any(message.what == what for message in self.told)

    @property
    def machine(self) -> Counter:
        found = self.turn.appliers[GROUP].machines[1]
        assert isinstance(found, Counter)
        return found

    def records(self) -> list[Record]:
        return [record for batch in self.log.disk.batches for record in batch]


def proposals(first: int, count: int, smid: int = 1) -> Batch:
    return Batch(
        [(seq, GROUP, NEVER_NS, smid, b"v%d" % seq, b"c%d" % seq) for seq in range(first, first + count)]
    )


def begin(source: Half, target: Half) -> None:
    ours, theirs = socket.socketpair()
    target.transit.arrive(GROUP, MOVE, theirs.detach())
    source.transit.depart(GROUP, MOVE, ours.detach())


def until(condition: object, *halves: Half) -> None:
    """Turn both until it holds."""
    assert callable(condition)
    for _ in range(2000):
        if condition():
            return
        for half in halves:
            half.loop()
    raise AssertionError("it never held")


def prefilled(count: int) -> MemoryLog:
    """A log with so many decided values of another node."""
    log = MemoryLog(Path("log 0"), LogIdentity(1, NODE, SEAT, 0))
    log.recover()
    chain = values.FIRST
    for instance in range(count):
        value = values.encode([(9, 9, instance + 1, 0, 1, b"old%d" % instance)], chain)
        chain = values.chain_after(value)
        log.append([(ACCEPT, GROUP, instance, 1, NODE, value)])
    if count:
        log.append([(DECIDED, GROUP, count - 1, 0, 0, b"")])
    log.close(clean=True)
    return log.reopen()


@pytest.fixture(autouse=True)
def _slow_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "REPLAY_COUNT", 7)
    monkeypatch.setattr(departure, "SLICE_COUNT", 5)
    monkeypatch.setattr(arrival, "NEAR_COUNT", 3)
    monkeypatch.setattr(departure, "PART_COUNT", 2)


@pytest.mark.parametrize("old", [0, 1, 40])
@pytest.mark.parametrize("turns", range(9))
def test_let_go_at_every_moment(old: int, turns: int) -> None:
    """Each proposal is executed once, with its context, and answered once, by one worker or the other."""
    source, target = Half(0, True, log=prefilled(old)), Half(1, False)
    begin(source, target)
    if turns % 2:
        until(lambda: target.says("near"), source, target)
    source.loop(proposals(1, 3))
    source.loop(proposals(4, 3, smid=2))
    for _ in range(turns // 2):
        source.loop()
    source.loop(proposals(7, 2))
    kinds = {20: CallKind.LINEARIZABLE_QUERY, 21: CallKind.QUERY}
    late = Batch([], [(seq, kind, GROUP, NEVER_NS, 1, b"") for seq, kind in kinds.items()])
    source.loop(late)
    source.order(CallKind.LET_GO)
    assert GROUP not in source.turn.groups
    until(lambda: target.says("complete"), source, target)
    answered = len(source.replies)
    assert GROUP not in target.turn.groups, "not before the node says so"
    # The power goes: what the target was complete with is all there.
    assert target.log.disk.synced == len(target.log.disk.batches)
    target.order(CallKind.TAKE_UP)
    source.transit.leave(GROUP)
    until(lambda: len(source.replies) + len(target.replies) == 10, source, target)
    for _ in range(5):
        source.loop()
        target.loop()
    assert len(source.replies) == answered, "it answers for a group that it let go"
    everything = source.replies + target.replies
    assert sorted(reply[0] for reply in everything) == [1, 2, 3, 4, 5, 6, 7, 8, 20, 21]
    assert {reply[1] for reply in everything} == {Code.OK}
    mine = [b"v%d" % seq for seq in (1, 2, 3, 7, 8)]
    assert target.machine.values == [b"old%d" % n for n in range(old)] + mine
    assert Kept.disk[0] == [b"v4", b"v5", b"v6"]
    answers = {reply[0]: reply[4] for reply in everything}
    assert [answers[seq] for seq in (1, 2, 3, 7, 8)] == [b"%d" % (old + n) for n in range(1, 6)]
    here = target.machine.contexts[old:]
    assert all(context in (None, b"c%d" % seq) for seq, context in zip((1, 2, 3, 7, 8), here, strict=True))
    told_there = {reply[0] for reply in target.replies}
    assert all((b"c%d" % seq in here) == (seq in told_there) for seq in (1, 2, 3, 7, 8))
    assert source.records()[-1][:2] == (RELEASED, GROUP)
    assert Kept.open == 1


class Three:
    """A node of two workers and two more nodes; a frame takes one round, and may be kept for longer."""

    def __init__(self, seed: int = 0) -> None:
        seats = {NODE: SEAT, 8: SEAT + 1, 9: SEAT + 2}
        self.source = Half(0, True, seats=seats, machines=(Counter,))
        self.target = Half(1, False, seats=seats, machines=(Counter,))
        self.peers = [Half(0, True, node=node, seats=seats, machines=(Counter,)) for node in (8, 9)]
        self.rng = random.Random(seed)

    def round(self, *batches: Batch, at: Half | None = None) -> None:
        everybody = (self.source, self.target, *self.peers)
        for half in everybody:
            half.loop(*(batches if half is at else ()))
        for half in everybody:
            kept = []
            for frame in half.wire.frames:
                if self.rng.random() < 0.3:
                    kept.append(frame)
                    continue
                dest = parse_header(frame).dest
                for other in everybody:
                    if dest == (NODE if other in (self.source, self.target) else 8 + self.peers.index(other)):
                        other.inbox.append(frame)
            half.wire.frames[:] = kept

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(5000):
            if condition():
                return
            self.round()
        raise AssertionError("it never held")


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_let_go_in_the_middle_of_instances_with_three_members(seed: int, back: bool) -> None:
    """Prepared, accepted, half voted, decided and not executed: whatever is under way goes along."""
    for rounds in range(14):
        let_go_after(rounds, Three(seed * 100 + rounds), back)


def let_go_after(rounds: int, world: Three, back: bool) -> None:
    source, target, peer = world.source, world.target, world.peers[0]
    begin(source, target)
    world.until(lambda: target.says("near"))
    world.round(proposals(1, 2), at=source)
    world.round(proposals(101, 2), at=peer)
    for _ in range(rounds):
        world.round()
    world.round(proposals(3, 2), at=source)
    world.round(Batch([], [(0, CallKind.LET_GO, GROUP, 0, MOVE, b"")]), at=source)
    world.until(lambda: target.says("complete"))
    winner = source if back else target
    known = source.transit._gone[GROUP].group.forwarder
    knew = known.known_from, dict(known.marks), dict(known.taken)
    if back:
        target.transit.end(GROUP, MOVE)
    else:
        source.transit.leave(GROUP)
    winner.order(CallKind.TAKE_UP)
    knows = winner.turn.groups[GROUP].forwarder
    assert (knows.known_from, knows.marks, knows.taken) == knew
    world.round(proposals(5, 1), at=winner)
    world.until(lambda: len(source.replies) + len(target.replies) == 5 and len(peer.replies) == 2)
    assert sorted(reply[0] for reply in source.replies + target.replies) == [1, 2, 3, 4, 5]
    assert all(reply[1] == Code.OK for reply in source.replies + target.replies + peer.replies)
    world.until(lambda: all(len(half.machine.values) == 7 for half in (winner, *world.peers)))
    assert sorted(winner.machine.values) == sorted(b"v%d" % seq for seq in (1, 2, 3, 4, 5, 101, 102))
    assert all(half.machine.values == winner.machine.values for half in world.peers)


@pytest.mark.parametrize("begin_late", [False, True])
def test_fenced_values_mean_the_same_to_the_worker_that_gets_the_group(begin_late: bool) -> None:
    """It executes them before it hosts the group, in the terms of then. Its own reign is a new one."""
    leases = {GROUP: LeaseTerms(True, 1000 * MS, 0)}
    source, target = Half(0, True, leases=leases), Half(1, False, leases=leases)

    def lead(half: Half) -> int:
        group = half.turn.groups[GROUP]
        until(lambda: group.master.holds(half.now), half)
        return group.master.term

    def write(half: Half, seq: int, term: int) -> None:
        smid = 1 + seq % 2
        half.loop(Batch([(seq, GROUP, NEVER_NS, smid | FENCED, fenced(term, b"v%d" % seq), None)]))
        until(lambda: any(reply[0] == seq for reply in half.replies), half)

    if not begin_late:
        begin(source, target)
    first = lead(source)
    for seq in range(1, 7):
        write(source, seq, first if seq < 5 else first + 1)
    source.turn.groups[GROUP].master.drop(source.now, source.turn.fx)
    source.now += 2000 * MS
    second = lead(source)
    assert second > first
    for seq in range(7, 11):
        write(source, seq, first if seq < 9 else second)
    if begin_late:
        begin(source, target)
    until(lambda: target.says("near"), source, target)
    write(source, 11, second)
    source.order(CallKind.LET_GO)
    until(lambda: target.says("complete"), source, target)
    source.transit.leave(GROUP)
    target.order(CallKind.TAKE_UP)
    target.now = max(source.now, target.now)
    third = lead(target)
    assert third > second, "nobody else may have bid meanwhile, but nobody knows that here"
    write(target, 12, second)
    write(target, 13, third)
    codes = {reply[0]: reply[1] for reply in source.replies + target.replies}
    fresh = {1, 2, 3, 4, 9, 10, 11, 13}
    assert {seq for seq, code in codes.items() if code == Code.OK} == fresh
    assert {codes[seq] for seq in codes.keys() - fresh} == {Code.STALE_TERM}
    assert target.machine.values == [b"v%d" % seq for seq in sorted(fresh) if seq % 2 == 0]
    assert Kept.disk[0] == [b"v%d" % seq for seq in sorted(fresh) if seq % 2]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_nothing_of_a_group_that_was_let_go_is_done_any_more(turns: int, again: bool) -> None:
    """Also where it was let go in the very turn in which it opened an instance, or was taken up."""
    source, target = Half(0, True), Half(1, False)
    begin(source, target)
    until(lambda: target.says("near"), source, target)
    let_go, take_up = ((0, kind, GROUP, 0, MOVE, b"") for kind in (CallKind.LET_GO, CallKind.TAKE_UP))
    batch = proposals(1, 3)
    for _ in range(turns):
        source.loop(batch)
        batch = Batch()
    batch.calls += [let_go, take_up, let_go] if again else [let_go]
    source.loop(batch)
    at = source.transit._gone[GROUP].state
    answered = len(source.replies)
    until(lambda: not source.turn.busy, source)
    assert (source.turn.groups, len(source.replies)) == ({}, answered)
    source.log.crash()
    left = source.log.reopen().recover()[GROUP]
    assert left.promised == at.promised
    # That the last instance is decided need not be written down.
    assert left.instance < at.instance or left == at


def test_a_target_is_complete_with_the_last_word_alone() -> None:
    target = Half(1, False)
    one, two = socket.socketpair()
    end = HandoverSocket(one.detach())
    target.transit.arrive(GROUP, MOVE, two.detach())
    last = [handover.Forwards(0, {}, {}), State(0, (4, 9), (0, 0), b"", 0)]
    for message in (Values([], 0), LetGo(0), *last):
        end.send(message)
        end.flush()
        for _ in range(5):
            target.loop()
        assert target.says("complete") == (message is last[-1])
    end.close()
    target.transit.close()


def test_only_what_is_executed_is_sent_ahead() -> None:
    """The other worker's machines must not pass a value whose proposer here has yet to be answered."""
    source, target = Half(0, True, log=prefilled(40)), Half(1, False)
    begin(source, target)
    for _ in range(20):
        source.loop()
        source.transit.after_turn(source.now)
        target.loop()
        sent = [record for record in target.records() if record[0] == LEARNED]
        assert len(sent) <= source.turn.appliers[GROUP].next
    until(lambda: target.says("near"), source, target)


def test_what_is_handed_over_is_durable_before() -> None:
    source, target = Half(0, True), Half(1, False)
    begin(source, target)
    until(lambda: target.says("near"), source, target)
    source.turn.groups[GROUP].acceptor.promise(0, (11, 9), source.turn.fx)
    source.transit._let_go(GROUP, MOVE)
    going = source.transit._departures[GROUP]
    source.transit.after_turn(source.now)
    assert not going.handed_over, "the promise waits for the next turn"
    source.loop()
    assert going.handed_over
    source.log.crash()
    assert source.log.reopen().recover() == {GROUP: HardState(0, (11, 9), (0, 0), b"")}


def test_the_target_has_the_votes_of_the_source() -> None:
    """An accepted value of which nobody knows whether it is decided, under a promise that is higher."""
    log = prefilled(2)
    log.recover()
    chain = values.chain_after(log.read(GROUP, 1)[2])  # type: ignore[index]
    value = values.encode([(9, 9, 77, 0, 1, b"open")], chain)
    log.append([(ACCEPT, GROUP, 2, 4, NODE, value), (PROMISE, GROUP, 2, 8, 9, b"")])
    log.close(clean=True)
    source, target = Half(0, True, log=log.reopen()), Half(1, False)
    begin(source, target)
    until(lambda: target.says("near"), source, target)
    # As a peer's Prepare of this moment would: promised, and not synced when the group is let go.
    source.turn.groups[GROUP].acceptor.promise(2, (11, 9), source.turn.fx)
    gone = HardState(2, (11, 9), (4, NODE), value)
    source.transit._let_go(GROUP, MOVE)
    until(lambda: target.says("complete"), source, target)
    assert source.log.disk.synced == len(source.log.disk.batches)
    for half in (source, target):
        half.log.crash()
        again = half.log.reopen()
        assert again.recover() == {GROUP: gone}
        assert again.read(GROUP, 2) == (4, NODE, value)


@pytest.mark.parametrize("handed_over", [False, True])
def test_a_group_that_was_let_go_is_taken_up_again(handed_over: bool) -> None:
    source, target = Half(0, True), Half(1, False)
    begin(source, target)
    source.loop(proposals(1, 3))
    source.loop(proposals(4, 1, smid=2))
    source.loop()
    source.loop(proposals(5, 3))
    source.order(CallKind.LET_GO)
    if handed_over:
        until(lambda: target.says("complete"), source, target)
    target.transit.end(GROUP, MOVE)
    target.loop()
    source.order(CallKind.TAKE_UP)
    assert source.says("hosted")
    until(lambda: len(source.replies) == 7, source, target)
    assert target.replies == []
    assert source.machine.values == [b"v1", b"v2", b"v3", b"v5", b"v6", b"v7"]
    assert Kept.disk[0] == [b"v4"]
    assert Kept.open == 1
    assert not target.transit.active
    target.log.close(clean=True)
    assert target.log.reopen().recover() == {}, "what had come is released"
    source.loop(proposals(8, 1))
    until(lambda: len(source.replies) == 8, source)


def test_the_target_dies_before_it_is_complete() -> None:
    """Nothing becomes of it: the source stays as it is, and says nothing: who closed its end has."""
    source, target = Half(0, True, log=prefilled(30)), Half(1, False)
    begin(source, target)
    until(lambda: len(target.records()) > 5, source, target)
    target.transit.close()
    until(lambda: not source.transit.active, source)
    assert source.told == []
    source.loop(proposals(1, 1))
    until(lambda: len(source.replies) == 1, source)


def test_the_source_dies_before_the_target_is_complete() -> None:
    source, target = Half(0, True, log=prefilled(30)), Half(1, False)
    begin(source, target)
    until(lambda: len(target.records()) > 5, source, target)
    source.transit.close()
    until(lambda: not target.transit.active, target)
    assert GROUP not in target.turn.groups
    assert target.told == []
    target.loop()
    target.log.close(clean=True)
    assert target.log.reopen().recover() == {}


def test_machines_that_cannot_be_built_break_the_move_alone() -> None:
    source, target = Half(0, True, log=prefilled(3)), Half(1, False)
    target.fail_build = "no such file"
    begin(source, target)
    assert target.says("broken")
    assert "RuntimeError: no such file" in target.told[0].reason
    target.fail_build = ""
    until(lambda: not source.transit.active, source)
    begin(source, target)
    until(lambda: target.says("near"), source, target)
    target.fail_build = "later"
    source.order(CallKind.LET_GO)
    until(lambda: [each.what for each in target.told].count("broken") == 2, source, target)
    source.order(CallKind.TAKE_UP)
    assert source.says("hosted")


def test_a_log_without_room_takes_nothing_in() -> None:
    source, target = Half(0, True, log=prefilled(30)), Half(1, False)
    target.log.trouble = "no room for the next segment"
    begin(source, target)
    until(lambda: target.says("broken"), source, target)
    assert target.told[-1].reason == "no room for the next segment"


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("written", [False, True])
def test_the_state_of_inner_machines_goes_along(stays: bool, written: bool) -> None:
    source, target = Half(0, True, log=prefilled(30)), Half(1, False)
    source.turn.fx.records.append((SYSTEM, GROUP, 12, 0, 0, MEMBERS))
    begin(source, target)
    until(lambda: target.says("near"), source, target)
    source.turn.fx.records.append((SYSTEM, GROUP, 30, 0, 0, OTHERS))
    if written:
        source.loop()
    source.transit._let_go(GROUP, MOVE)
    assert source.transit._gone[GROUP].state[6:] == (OTHERS, 30, False)
    if stays:
        source.order(CallKind.TAKE_UP)
        half = source
    else:
        until(lambda: target.says("complete"), source, target)
        target.order(CallKind.TAKE_UP)
        half = target
    assert half.log.system(GROUP) == (30, OTHERS)
    half.log.crash()
    state = half.log.reopen().recover()[GROUP]
    assert (state.system, state.system_from, state.system_lost) == (OTHERS, 30, False)


class Hurt:
    """A worker of a node with two more members, whose log has 30 values, and another worker."""

    def __init__(self, *damaged: int) -> None:
        """`damaged`: the instances whose values are."""
        seats = {NODE: SEAT, 8: SEAT + 1, 9: SEAT + 2}
        log = prefilled(30)
        for instance in damaged:
            log.disk.spoil(GROUP, instance)
        self.source = Half(0, True, log=log, seats=seats, machines=(Counter,))
        self.target = Half(1, False, seats=seats, machines=(Counter,))

    def broken(self) -> str:
        """A move begins, and breaks: what the node is told."""
        begin(self.source, self.target)
        until(lambda: self.source.says("broken"), self.source, self.target)
        assert not self.source.transit.active
        assert GROUP in self.source.turn.groups
        return self.source.told.pop().reason


def test_a_group_in_doubt_stays_until_it_votes_again() -> None:
    hurt = Hurt()
    hurt.source.log.close(clean=True)
    hurt.source.log.disk.forget("a bad batch", 1)
    hurt.source = source = Half(
        0, True, log=hurt.source.log.reopen(), seats={NODE: SEAT, 8: SEAT + 1, 9: SEAT + 2}
    )
    assert "gives no votes for now, and can move once it does: promises may be lost" in hurt.broken()
    doubt = source.turn.groups[GROUP].doubt
    for peer in (8, 9):
        doubt.on_reply(peer, doubt.nonce, (3, 8), 0, source.now, source.turn.fx)
    source.loop()
    known = source.log._systems.pop(GROUP)
    source.log._systems[GROUP] = None
    assert "once it knows its members and master again" in hurt.broken()
    source.log._systems[GROUP] = known
    hurt.target = target = Half(1, False, seats={NODE: SEAT, 8: SEAT + 1, 9: SEAT + 2})
    begin(source, target)
    source.order(CallKind.LET_GO)
    until(lambda: target.says("complete"), source, target)
    target.order(CallKind.TAKE_UP)
    assert target.turn.groups[GROUP].voter
    target.log.crash()
    assert not target.log.reopen().recover()[GROUP].suspect


def test_a_group_without_its_last_value_stays_until_it_has_it() -> None:
    assert "can move once it does: what it has accepted or learned is damaged" in Hurt(29).broken()


def test_a_group_that_asks_for_lost_values_stays_until_it_has_them() -> None:
    hurt = Hurt(3)
    until(lambda: hurt.source.turn.repairs.lost, hurt.source)
    assert "can move once it has all its values again: 1 lost values" in hurt.broken()


@pytest.mark.parametrize("let_go", [False, True])
def test_damage_that_is_found_on_the_way_breaks_the_move_and_is_repaired(let_go: bool) -> None:
    hurt = Hurt()
    source, target = hurt.source, hurt.target
    until(lambda: source.turn.appliers[GROUP].next == 30, source)
    begin(source, target)
    source.log._damaged |= {(GROUP, 20), (GROUP, 29)}
    if let_go:
        source.order(CallKind.LET_GO)
    until(lambda: source.says("broken"), source, target)
    assert "instance 20: damaged" in source.told[-1].reason
    if let_go:
        source.order(CallKind.TAKE_UP)
        assert source.says("hosted")
        group = source.turn.groups[GROUP]
        assert (group.instance, group.doubt.floor, group.voter) == (29, 30, False)
    else:
        assert list(source.turn.repairs.lost[GROUP].wanted) == [20]
    until(lambda: not target.transit.active, target)
    target.loop()
    target.log.close(clean=True)
    assert target.log.reopen().recover() == {}


def test_a_sound_group_stays_sound_in_a_log_that_has_lost_something() -> None:
    hurt = Hurt()
    hurt.target.log.close(clean=True)
    hurt.target.log.disk.forget("a bad batch", 0)
    seats = {NODE: SEAT, 8: SEAT + 1, 9: SEAT + 2}
    source, target = hurt.source, Half(1, False, log=hurt.target.log.reopen(), seats=seats)
    begin(source, target)
    until(lambda: target.says("near"), source, target)
    source.order(CallKind.LET_GO)
    until(lambda: target.says("complete"), source, target)
    target.order(CallKind.TAKE_UP)
    assert target.turn.groups[GROUP].voter
    target.log.crash()
    again = target.log.reopen()
    assert not again.recover()[GROUP].suspect
    assert again.doubt() == "a bad batch"


def test_a_group_that_has_come_to_lack_something_is_not_let_go() -> None:
    hurt = Hurt(3)
    turn = hurt.source.turn
    until(lambda: turn.repairs.lost, hurt.source)
    hurt.source.order(CallKind.LET_GO)
    assert hurt.source.says("broken")
    assert "once it has all its values again" in hurt.source.told[-1].reason
    assert GROUP in turn.groups
    assert list(turn.repairs.lost) == [GROUP]


def test_orders_that_make_no_sense_are_refused() -> None:
    source, target = Half(0, True), Half(1, False)
    ours, theirs = socket.socketpair()
    target.transit.depart(GROUP, MOVE, ours.detach())
    source.transit.arrive(GROUP, MOVE, theirs.detach())
    assert target.says("broken")
    assert source.says("broken")
    with pytest.raises(PaxmuxError, match="is to be taken up, and is not here"):
        target.order(CallKind.TAKE_UP)
    target.transit.leave(GROUP)
    target.order(CallKind.LET_GO)
    source.order(CallKind.TAKE_UP)
    assert source.says("hosted"), "it is hosted already"


def test_the_loop_is_woken_for_what_is_on_its_way() -> None:
    source, target = Half(0, True, log=prefilled(3000)), Half(1, False)
    with select.epoll() as poll:
        target.transit.watch(poll)
        begin(source, target)
        assert poll.poll(0) == [], "nothing has come"
        target.loop()
        source.loop()
        until(lambda: source.turn.appliers[GROUP].next > 10, source)
        assert poll.poll(1), "the first values"
        until(lambda: target.says("near"), source, target)
        target.transit.end(GROUP, MOVE)
        assert poll.poll(0) == []


def test_a_fenced_group_stays() -> None:
    """It would begin again there as if nothing had been found out."""
    source, target = Half(0, True), Half(1, False)
    begin(source, target)
    until(lambda: target.says("near"), source, target)
    source.turn.groups[GROUP].inquiry.fenced = "a majority has another history"
    source.order(CallKind.LET_GO)
    assert "is fenced here" in source.told[-1].reason
    until(lambda: not target.transit.active, source, target)
    source.order(CallKind.TAKE_UP)
    assert source.told[-1].what == "hosted"
    assert source.turn.groups[GROUP].inquiry.fenced == "a majority has another history"
    begin(source, target)
    assert source.told[-1].what == "broken"


def test_the_end_of_a_move_is_said_when_everything_is_closed() -> None:
    source, target = Half(0, True), Half(1, False)
    begin(source, target)
    source.loop(proposals(1, 1, smid=2))
    until(lambda: target.says("near"), source, target)
    source.order(CallKind.LET_GO)
    until(lambda: target.says("complete"), source, target)
    assert Kept.open == 1

    def told(message: MoveTold) -> None:
        assert (message.what, Kept.open) == ("ended", 0)
        target.told.append(message)

    target.transit._tell = told
    target.transit.end(GROUP, MOVE)
    target.transit.end(GROUP, MOVE)
    assert [message.what for message in target.told][-2:] == ["ended", "ended"]


def test_what_is_about_the_whole_worker_goes_with_no_group() -> None:
    calls = Half(0, True).turn.calls
    whole = [(seq, kind, 0, NEVER_NS, 0, b"") for seq, kind in enumerate(OF_NO_GROUP)]
    mine = (7, CallKind.QUERY, 0, NEVER_NS, 0, b"")
    calls.take([*whole, mine], 0, Effects())
    assert calls.take_out(0) == [mine]
    assert len(calls._calls) == len(OF_NO_GROUP)


class Worked:
    """In place of an applier: each instance takes some time."""

    def __init__(self, each: int) -> None:
        self.machines = {1: None}
        self.each = each
        self.now = self.next = 0
        self.slices: list[int] = []

    def replay(self, end: int) -> bool:
        self.slices.append(end - self.next)
        self.now += (end - self.next) * self.each
        self.next = end
        return False


@pytest.mark.parametrize(("each", "expected"), [(10 * MS, 1), (MS, 4), (1000, 256)])
def test_other_groups_wait_for_short_slices_alone(each: int, expected: int) -> None:
    work = Worked(each)
    applied: Any = work
    pace = arrival.Pace(lambda: work.now)
    for _ in range(5):
        assert not pace.replay(applied, 0)
    while pace.replay(applied, 2000):
        continue
    assert work.next == 2000
    assert max(work.slices) == expected
    assert work.slices[5:8] == [min(count, expected) for count in (1, 2, 4)]


def test_when_a_group_is_near() -> None:
    """Few values to come, and little time to execute; or it has not come nearer for long."""
    target = Half(1, False)
    clock = [0]
    pace_ms = 5
    one, two = (HandoverSocket(end.detach()) for end in socket.socketpair())
    coming = arrival.Arrival(GROUP, MOVE, one, target.log, target.transit._build, lambda: clock[0])
    coming._pace.each = pace_ms * MS
    assert not coming._is_near(0), "nobody has said how much there is"
    coming._left = 1
    assert coming._is_near(2)
    assert not coming._is_near(3)
    coming._pace.each = 11 * MS
    assert not coming._is_near(2)
    coming._pace.each = pace_ms * MS
    coming._left = 4
    assert not coming._is_near(0)
    coming._nearest = -1
    for behind in range(300, 199, -1):
        clock[0] += arrival.PATIENCE_NS // 2
        assert not coming._is_near(behind), "it comes nearer"
    clock[0] += arrival.PATIENCE_NS + 1
    assert coming._is_near(200)
    with pytest.raises(HandoverLost, match=r"no nearer than 204 instances of 5\.0 ms"):
        coming._is_near(201)
    coming.close(machines=True)
    two.close()


# The socket


def pair() -> tuple[HandoverSocket, HandoverSocket]:
    one, two = socket.socketpair()
    return HandoverSocket(one.detach()), HandoverSocket(two.detach())


def test_messages_pass_whole_and_in_order() -> None:
    one, two = pair()
    sent: list[handover.Message] = [
        Begin(),
        Values([(0, 1, 2, b"x" * 3_000_000), (1, 1, 2, b"")], 9),
        LetGo(4),
        handover.Owned(-1, [(8, (0, NEVER_NS, 1, b"p", None)), (9, (3, 5, 0, b"", b"c"))]),
        handover.Waiting([(1, 2, 3, 4, 5, b"q")]),
        handover.Forwards(3, {7: [1, 2, 3]}, {7: [(7, 8, 9, 1, 1, b"f")]}),
        State(5, (1, 2), (0, 0), b"", 0),
    ]
    for message in sent:
        one.send(message)
    got: list[handover.Message] = []
    while len(got) < len(sent):
        one.flush()
        got += two.receive()
    assert got == sent
    assert one.backlog == 0
    one.close()
    with pytest.raises(HandoverLost, match="closed its end"):
        two.receive()
    two.send(Begin())
    with pytest.raises(HandoverLost, match="is gone"):
        two.flush()
    two.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xff\xff\xff", "a message of 4294967295 bytes"),
        (b"\x01\x00\x00\x00\xc1", "a message that is none"),
        (b"\x02\x00\x00\x00\x91\x09", "a message that is none"),
    ],
)
def test_what_makes_no_sense_ends_it(data: bytes, words: str) -> None:
    one, two = socket.socketpair()
    with one:
        end = HandoverSocket(two.detach())
        one.send(data)
        with pytest.raises(HandoverLost, match=words):
            end.receive()
        end.close()


@pytest.mark.parametrize(
    "messages",
    [
        [Begin()],
        [Values([(0, 1, 1, b"x"), (2, 1, 1, b"x")], 0)],
        [Values([(1, 1, 1, b"x")], 0), Values([(1, 1, 1, b"x")], 0)],
        [LetGo(1)],
        [State(0, (0, 0), (0, 0), b"", 0)],
        [LetGo(0), handover.Forwards(0, {}, {}), State(1, (0, 0), (0, 0), b"", 0)],
        [LetGo(0), State(0, (0, 0), (0, 0), b"", 0)],
    ],
)
def test_a_target_believes_nothing_that_does_not_fit(messages: list[handover.Message]) -> None:
    target = Half(1, False)
    one, two = socket.socketpair()
    end = HandoverSocket(one.detach())
    target.transit.arrive(GROUP, MOVE, two.detach())
    for message in messages:
        end.send(message)
    end.flush()
    until(lambda: target.says("broken"), target)
    assert not target.says("complete")
    end.close()
