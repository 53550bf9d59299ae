"""The turn: order of effects, seats, execution, answers, and bodies that are none."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paxmux.engine.errors import Code, ConfigError, Refused, StorageFailed
from paxmux.engine.frame import FrameKind, pack_frame
from paxmux.engine.frame_header import HEADER_BYTES
from paxmux.engine.options import StorageOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import DECIDED, LEARNED
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.messages import Batch as Messages
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS, NEVER
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import LogIdentity, StorageDamaged
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards.applier import REPLAY_COUNT, Applier
from paxmux.shards.codec import BodyError, decode_sections, encode_section, split, value_bytes
from paxmux.shards.outlet import Outlet
from paxmux.shards.requests import Batch, CallKind, Reply
from paxmux.shards.serving import SERVE_COUNT, SERVE_OVERHEAD_BYTES, WINDOW_COUNT, WINDOW_TURNS
from paxmux.shards.turn import MARK_BUSY_LOOKS, Turn

SEATS = {1: 11, 2: 12, 3: 13}
NOW = 5_000 * MS
LATER = NOW + 60_000 * MS


class Machine(StateMachine):
    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self.calls: list[Any] = []

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        if value == b"refuse":
            raise Refused("not this one")
        if value == b"raise":
            raise RuntimeError("broken")
        if value == b"refuse oddly":
            raise Refused("\udcff")
        if value == b"raise oddly":
            raise Unprintable
        if value == b"raise surrogate":
            raise OSError("cannot open \udcff")
        if value == b"raise at length":
            raise ValueError("x" * 5000)
        if value == b"exit":
            raise SystemExit(0)
        if value == b"cancel":
            raise asyncio.CancelledError
        if value == b"recurse":
            return self.execute(instance_id, value, context)
        if value == b"no memory":
            raise MemoryError
        if value == b"not bytes":
            return 7  # type: ignore[return-value]
        self.calls.append((instance_id, value, context))
        return b"did " + value

    def commit(self, instance_id: int) -> None:
        self.calls.append(("commit", instance_id))

    def query(self, request: bytes) -> bytes:
        if request == b"raise":
            raise ValueError("no such thing")
        return b"%d" % len(self.calls)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Other(Machine):
    smid = 2


class Events:
    """Order in which the turn touches the world."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.frames: list[bytes] = []

    def send(self, data: bytes, *, droppable: bool) -> bool:
        assert droppable
        self.order.append("send")
        self.frames.append(data)
        return True

    def send_pieces(self, pieces: Sequence[bytes], *, droppable: bool, sealed: bool) -> bool:
        """A large one."""
        return self.send(b"".join(pieces), droppable=droppable)

    def commit(self) -> bool:
        return True


class Recording(MemoryLog):
    events: Events

    def sync(self) -> None:
        self.events.order.append("sync")
        super().sync()


def make(
    seats: dict[int, int] = SEATS,
    log: MemoryLog | None = None,
    instance: int = 0,
    machines: dict[int, Machine] | None = None,
) -> tuple[Turn, Events, list[Reply], dict[int, Machine]]:
    events = Events()
    if log is None:
        log = Recording(Path(), LogIdentity(7, 1, 11, 0), segment_bytes=1 << 20)
        log.events = events
        log.recover()
    replies: list[Reply] = []
    group = Group(
        0,
        me=1,
        seat=11,
        incarnation=99,
        members=Members(seats),
        rng=random.Random(1),
        now=NOW,
        instance=instance,
    )
    if machines is None:
        machines = {1: Machine(0), 2: Other(0)}
    applier = Applier(0, machines, log, replies.append, (1, 99), 1000)
    peers = [node for node in seats if node != 1]
    outlet = Outlet(events, peers, me=1, seat=11, incarnation=99, cluster=7, worker=0, generation=1, groups=1)
    turn = Turn(
        {0: group}, {0: applier}, log, outlet, replies, serve_max_bytes=1 << 20, storage=StorageOptions()
    )
    turn.start(NOW)
    turn.run(NOW)
    events.order.clear()
    events.frames.clear()
    return turn, events, replies, machines


def single() -> tuple[Turn, list[Reply], dict[int, Machine]]:
    """A cluster of one: what is proposed is decided two turns later."""
    turn, _, replies, machines = make({1: 11})
    return turn, replies, machines


def propose(
    turn: Turn, *payloads: bytes, smid: int = 1, first: int = 1, context: bytes | None = None
) -> None:
    batch = Batch([(first + n, 0, LATER, smid, payload, context) for n, payload in enumerate(payloads)])
    turn.run(NOW, [], [batch])
    while turn.busy:
        turn.run(NOW)


def call(turn: Turn, kind: int, argument: int = 0, payload: bytes = b"", group: int = 0) -> Reply:
    turn.run(NOW, [], [Batch([], [(77, kind, group, NEVER, argument, payload)])])
    return turn.replies.pop()


def frame(messages: Messages, sender: int = 2, seat: int = 12) -> bytes:
    return pack_frame(
        FrameKind.PAXOS,
        encode_section(messages),
        cluster=7,
        sender=sender,
        seat=seat,
        incarnation=5,
        dest=1,
        groups=1,
    )


def bodies(frames: list[bytes]) -> list[Any]:
    return [body for data in frames for body in decode_sections(data, HEADER_BYTES)]


def accept(instance: int, round: int, value: bytes) -> Messages:
    messages = Messages()
    messages.accepts.append((0, instance, round, value))
    return messages


def test_prepare_is_sent_after_the_sync() -> None:
    turn, events, _, _ = make()
    turn.run(NOW, [], [Batch([(1, 0, LATER, 1, b"x", None)])])
    assert events.order == ["sync", "send", "send"]
    assert [body[2] for body in bodies(events.frames)] == [[(0, 0, 1)], [(0, 0, 1)]]


def test_accept_is_sent_before_the_sync_and_its_reply_after() -> None:
    turn, events, _, _ = make()
    turn.run(NOW, [], [Batch([(1, 0, LATER, 1, b"x", None)])])
    events.order.clear()
    events.frames.clear()
    promise = Messages()
    promise.prepare_replies.append((0, 0, 1, 0, 0, 0, b""))
    turn.run(NOW, [frame(promise)])
    assert events.order == ["send", "send", "sync"]

    turn, events, _, _ = make()
    turn.run(NOW, [frame(accept(0, 3, values.encode(())))])
    assert events.order == ["sync", "send"]
    assert bodies(events.frames)[0][5] == [(0, 0, 3, 0, 0)]


def test_a_failed_sync_lets_nothing_follow() -> None:
    turn, events, replies, machines = make()

    def fail() -> None:
        raise StorageFailed("fdatasync: Input/output error")

    turn.log.sync = fail  # type: ignore[method-assign]
    with pytest.raises(StorageFailed):
        turn.run(NOW, [frame(accept(0, 3, values.encode(())))])
    assert events.order == []
    assert replies == []
    assert machines[1].calls == []


def test_one_sync_serves_every_message_of_a_turn() -> None:
    turn, events, _, _ = make()
    chosen = Messages()
    chosen.chosen.append((0, 0, 3))
    frames = [frame(accept(0, 3, values.encode(()))), frame(chosen), frame(accept(1, 3, values.encode(())))]
    turn.run(NOW, frames)
    assert events.order.count("sync") == 1
    assert turn.groups[0].instance == 1


def test_an_own_vote_counts_once_where_two_rounds_share_a_sync() -> None:
    """A cluster of one that stood still for a phase: the promise that is durable now must not pass for
    the Accept that is not."""
    turn, replies, _ = single()
    turn.run(NOW, [], [Batch([(1, 0, LATER, 1, b"x", None)])])
    turn.run(NOW + 10_000 * MS)
    assert replies == []
    assert turn.groups[0].instance == 0
    while turn.busy:
        turn.run(NOW + 10_000 * MS)
    assert replies == [(1, 0, 0, 0, b"did x")]


def test_a_reply_never_waits_for_the_next_message() -> None:
    """An early Prepare that is refused as its instance begins leaves no record, only an answer."""
    turn, events, _, _ = make()
    turn.run(NOW, [], [Batch([(1, 0, LATER, 1, b"x", None)])])
    early, promise, accepted = Messages(), Messages(), Messages()
    early.prepares.append((0, 1, 0))
    promise.prepare_replies.append((0, 0, 1, 0, 0, 0, b""))
    accepted.accept_replies.append((0, 0, 1, 0, 0))
    # The own vote comes last, so that the instance is decided after the sync.
    turn.run(NOW, [frame(early), frame(promise), frame(accepted)])
    assert turn.groups[0].instance == 1
    events.frames.clear()
    assert turn.busy
    turn.run(NOW)
    assert [body[3] for body in bodies(events.frames) if body[3]] == [[(0, 1, 0, 1, 1, 1, b"")]]
    assert not turn.busy


def test_results_carry_instance_position_and_context() -> None:
    turn, replies, machines = single()
    propose(turn, b"a", b"b", context=b"c")
    propose(turn, b"d", first=9)
    assert replies == [(1, 0, 0, 0, b"did a"), (2, 0, 0, 1, b"did b"), (9, 0, 1, 0, b"did d")]
    assert machines[1].calls == [
        (0, b"a", b"c"),
        (0, b"b", b"c"),
        ("commit", 0),
        (1, b"d", None),
        ("commit", 1),
    ]


def test_several_machines_share_a_group() -> None:
    turn, replies, machines = single()
    propose(turn, b"one", smid=1)
    propose(turn, b"two", smid=2, first=2)
    propose(turn, b"none", smid=0, first=3)
    assert [call[1] for call in machines[1].calls if call[0] != "commit"] == [b"one"]
    assert [call[1] for call in machines[2].calls if call[0] != "commit"] == [b"two"]
    assert replies[-1] == (3, 0, 2, 0, None)


def test_refused_is_a_result_and_the_machine_goes_on() -> None:
    turn, replies, _ = single()
    propose(turn, b"refuse", b"fine")
    assert replies == [(1, Code.REFUSED, 0, 0, b"not this one"), (2, 0, 0, 1, b"did fine")]


POISON = (
    b"raise",
    b"not bytes",
    b"raise oddly",
    b"raise surrogate",
    b"raise at length",
    b"exit",
    b"cancel",
    b"recurse",
    b"no memory",
)


@pytest.fixture
def unlogged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged holds text that cannot be encoded, which the tests' own processes do not survive."""
    monkeypatch.setattr(logging.getLogger("paxmux"), "disabled", True)


@pytest.mark.usefixtures("unlogged")
@pytest.mark.parametrize("poison", POISON)
def test_an_exception_stops_that_machine_alone(poison: bytes) -> None:
    """Design, rule 17; reference, L5 and L6: the group is not wedged."""
    turn, replies, _ = single()
    propose(turn, poison)
    propose(turn, b"after", first=2)
    propose(turn, b"other machine", smid=2, first=3)
    assert [reply[1] for reply in replies] == [Code.EXECUTE_FAILED, Code.EXECUTE_FAILED, Code.OK]
    assert replies[0][4] is not None
    assert b"instance 0" in replies[0][4]
    assert call(turn, CallKind.QUERY, 1)[1] == Code.EXECUTE_FAILED
    assert call(turn, CallKind.QUERY, 2)[1] == Code.OK
    (row,) = msgspec.json.decode(call(turn, CallKind.GROUP_STATUS)[4] or b"")
    assert "stopped at instance 0" in row["stopped"]["1"]


def test_a_refusal_without_proper_words_is_one_all_the_same() -> None:
    turn, replies, _ = single()
    propose(turn, b"refuse oddly")
    assert [reply[1] for reply in replies] == [Code.REFUSED]


def test_an_instance_of_refusals_is_committed_too() -> None:
    """A durable machine would refuse them again after a restart, and never be up to date."""
    turn, _, machines = single()
    propose(turn, b"refuse")
    assert machines[1].calls == [("commit", 0)]


def test_a_query_may_fail_in_any_way() -> None:
    turn, _, machines = single()

    def give_up(request: bytes) -> bytes:
        raise SystemExit(3)

    machines[1].query = give_up  # type: ignore[method-assign]
    assert call(turn, CallKind.QUERY, 1)[1] == Code.QUERY_FAILED


class Durable(Machine):
    """Says that it has executed everything up to an instance."""

    applied = 5

    def applied_instance_id(self) -> int | None:
        return self.applied


def test_a_machine_ahead_of_the_log_answers_and_executes_nothing_twice() -> None:
    """Its group must not be wedged, and nobody must be told that a value took effect which did not."""
    turn, _, replies, _ = make({1: 11}, machines={1: Durable(0)})
    for number in range(8):
        propose(turn, b"%d" % number, first=number)
    assert [reply[:3] for reply in replies] == [(n, Code.EXECUTE_FAILED, n) for n in range(6)] + [
        (n, Code.OK, n) for n in (6, 7)
    ]
    assert turn.appliers[0].next == 8
    machine = turn.appliers[0].machines[1]
    assert isinstance(machine, Durable)
    assert [item[1] for item in machine.calls if item[0] != "commit"] == [b"6", b"7"]


@pytest.mark.parametrize("applied", [-1, -5, 1 << 63, "7", 2.0, True])
def test_an_applied_instance_that_is_none_is_refused_at_the_start(applied: object) -> None:
    machine = Durable(0)
    machine.applied = applied  # type: ignore[assignment]
    log = MemoryLog(Path(), LogIdentity(7, 1, 11, 0), segment_bytes=1 << 20)
    with pytest.raises(ConfigError, match=r"Durable\.applied_instance_id"):
        Applier(0, {1: machine}, log, print, (1, 99), 1000)


def test_a_group_without_machines_has_nothing_to_replay() -> None:
    log = MemoryLog(Path(), LogIdentity(7, 1, 11, 0), segment_bytes=1 << 20)
    log.recover()
    log.append([(LEARNED, 0, instance, 1, 2, values.encode(())) for instance in range(1000)])
    log.sync()
    turn, _, replies, _ = make({1: 11}, log, 1000, machines={})
    assert not turn.busy
    propose(turn, b"x", smid=0)
    assert replies == [(1, Code.OK, 1000, 0, None)]


def test_an_unknown_machine_is_refused_when_proposed_and_harmless_when_it_arrives() -> None:
    turn, replies, _ = single()
    propose(turn, b"x", smid=5)
    assert replies.pop()[1] == Code.UNKNOWN_STATE_MACHINE

    turn, _, replies, _ = make()
    learned = Messages()
    learned.learned.append((0, 0, 1, 2, values.encode([(2, 5, 1, 0, 55, b"?")])))
    turn.run(NOW, [frame(learned)])
    assert turn.appliers[0].next == 1


def test_a_result_too_large_is_told() -> None:
    turn, replies, _ = single()
    propose(turn, bytes(2000))
    assert replies[0][1] == Code.RESULT_TOO_LARGE


def test_queries_and_positions() -> None:
    turn, _, _ = single()
    propose(turn, b"a")
    turn.replies.clear()
    assert call(turn, CallKind.QUERY, 1)[4] == b"2"
    assert call(turn, CallKind.QUERY, 1, b"raise")[1] == Code.QUERY_FAILED
    assert call(turn, CallKind.QUERY, 9)[1] == Code.UNKNOWN_STATE_MACHINE
    assert call(turn, CallKind.QUERY, 1, group=4)[1] == Code.GROUP_WRONG
    assert call(turn, CallKind.NOW_INSTANCE)[2] == 1
    assert call(turn, CallKind.INSTANCE_VALUE, 1)[1] == Code.INSTANCE_NOT_CHOSEN
    found = call(turn, CallKind.INSTANCE_VALUE, 0)
    assert msgspec.msgpack.decode(found[4] or b"", type=list[tuple[bytes, int]]) == [(b"a", 1)]
    assert call(turn, 99)[1] == Code.SYSTEM_ERROR


def test_a_superseded_accept_is_never_served_nor_shown() -> None:
    """The log holds the losing value until this turn's records are in it."""
    turn, events, _, _ = make()
    loser, winner = values.encode([(2, 5, 1, 0, 1, b"lost")]), values.encode([(3, 5, 1, 0, 1, b"won")])
    turn.run(NOW, [frame(accept(0, 3, loser))])
    events.frames.clear()
    learned, ask = Messages(), Messages()
    learned.learned.append((0, 0, 9, 3, winner))
    ask.asks.append((0, 0))
    turn.run(NOW, [frame(learned), frame(ask)], [Batch([], [(5, CallKind.INSTANCE_VALUE, 0, NEVER, 0, b"")])])
    assert served(events) == [(0, 0, 9, 3, winner)]
    shown = msgspec.msgpack.decode(turn.replies[-1][4] or b"", type=list[tuple[bytes, int]])
    assert shown == [(b"won", 1)]


def test_a_restarted_group_replays_its_log_before_it_answers() -> None:
    log = MemoryLog(Path(), LogIdentity(7, 1, 11, 0), segment_bytes=1 << 20)
    log.recover()
    for instance in range(600):
        value = values.encode([(2, 5, instance, 0, 1, b"%d" % instance)])
        log.append([(LEARNED, 0, instance, 1, 2, value)])
    log.sync()
    turn, _, replies, machines = make(log=log, instance=600)
    assert turn.busy
    turn.run(NOW, [], [Batch([], [(5, CallKind.QUERY, 0, NEVER, 1, b"")])])
    assert replies == [], "half a replay must not be visible"
    while turn.busy:
        turn.run(NOW)
    turn.run(NOW)
    assert replies == [(5, 0, 600, 0, b"1200")]
    executed = [item[1] for item in machines[1].calls if item[0] != "commit"]
    assert executed == [b"%d" % n for n in range(600)]


class Groups(MemoryLog):
    """The same decided values in each of several groups; may refuse to be read."""

    damaged: int | None = None

    def read_range(
        self, group: int, first: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, int, int, bytes]]:
        if group == self.damaged:
            raise StorageDamaged("segment 3, offset 4711: wrong CRC")
        return super().read_range(group, first, max_count, max_bytes)


def several(groups: int, instances: int) -> tuple[Turn, Events, Groups]:
    """A turn with several groups, each with so many decided instances to replay."""
    log = Groups(Path(), LogIdentity(7, 1, 11, 0), segment_bytes=1 << 20)
    log.recover()
    for index in range(groups):
        log.append([(LEARNED, index, instance, 1, 2, values.encode(())) for instance in range(instances)])
    log.sync()
    events = Events()
    replies: list[Reply] = []
    members = Members(SEATS)
    made = {
        index: Group(
            index, me=1, seat=11, incarnation=99, members=members, rng=random.Random(1), now=NOW,
            instance=instances,
        )
        for index in range(groups)
    }  # fmt: skip
    appliers = {
        index: Applier(index, {1: Machine(index)}, log, replies.append, (1, 99), 1000) for index in made
    }
    outlet = Outlet(
        events, [2, 3], me=1, seat=11, incarnation=99, cluster=7, worker=0, generation=1, groups=1
    )
    turn = Turn(made, appliers, log, outlet, replies, serve_max_bytes=1 << 20, storage=StorageOptions())
    turn.start(NOW)
    return turn, events, log


def test_a_proposal_decided_during_a_replay_is_answered_once_it_is_executed() -> None:
    log = MemoryLog(Path(), LogIdentity(7, 1, 11, 0), segment_bytes=1 << 20)
    log.recover()
    log.append([(LEARNED, 0, instance, 1, 2, values.encode(())) for instance in range(2000)])
    log.sync()
    turn, _, replies, machines = make({1: 11}, log, 2000)
    turn.run(NOW, [], [Batch([(1, 0, LATER, 1, b"x", b"c")])])
    for _ in range(3):
        turn.run(NOW)
    assert turn.groups[0].instance == 2001
    assert replies == []
    while turn.busy:
        turn.run(NOW)
    assert replies == [(1, 0, 2000, 0, b"did x")]
    assert machines[1].calls == [(2000, b"x", b"c"), ("commit", 2000)]
    assert not turn.appliers[0]._owned


def test_a_turn_replays_one_slice_whatever_the_number_of_groups() -> None:
    turn, _, _ = several(groups=20, instances=1000)
    turn.run(NOW)
    assert sum(applier.next for applier in turn.appliers.values()) == REPLAY_COUNT
    turns = 1
    while turn.busy:
        turn.run(NOW)
        turns += 1
    assert all(applier.next == 1000 for applier in turn.appliers.values())
    assert turns == 20 * 4


def test_a_group_that_replays_does_not_keep_the_others_from_answering() -> None:
    turn, _, _ = several(groups=3, instances=600)
    while 0 in turn.backlog.behind:
        turn.run(NOW)
    assert turn.busy
    calls = [
        (5, CallKind.QUERY, 0, NEVER, 1, b""),
        (6, CallKind.QUERY, 2, NEVER, 1, b""),
        (7, CallKind.GROUP_STATUS, 2, NEVER, 0, b""),
    ]
    turn.run(NOW, [], [Batch([], calls)])
    assert [reply[0] for reply in turn.replies] == [5, 7]
    while turn.busy:
        turn.run(NOW)
    assert [reply[0] for reply in turn.replies] == [5, 7, 6]


def asks(*questions: tuple[int, int]) -> Messages:
    messages = Messages()
    messages.asks += questions
    return messages


def served(events: Events) -> list[Any]:
    items = [item for body in bodies(events.frames) for item in body[0]]
    events.frames.clear()
    return items


def test_what_a_turn_serves_is_bounded_and_the_rest_waits() -> None:
    """Bounded in values too: those without bytes would never use up a budget of bytes."""
    turn, events, _ = several(groups=50, instances=1000)
    while turn.busy:
        turn.run(NOW)
    events.frames.clear()
    turn.serving.max_bytes = 100_000
    turn.run(NOW, [frame(asks(*[(index, 0) for index in range(50)] * 20))])
    assert 0 < len(served(events)) <= SERVE_COUNT
    turn.run(NOW, [frame(asks(*[(index, 0) for index in range(50)]), sender=3, seat=13)])
    while turn.busy:
        assert len(served(events)) <= SERVE_COUNT
        turn.run(NOW)
    assert not turn.serving.waiting
    events.frames.clear()
    turn.run(NOW)
    assert served(events) == [], "a question is answered once"


def test_decided_values_stream_until_the_window_is_full_and_each_question_moves_it() -> None:
    turn, events, _ = several(groups=1, instances=5 * WINDOW_COUNT)
    while turn.busy:
        turn.run(NOW)
    events.frames.clear()
    turn.run(NOW, [frame(asks((0, 100)))])
    while turn.busy:
        turn.run(NOW)
    first = [item[1] for item in served(events)]
    assert first == list(range(100, 100 + WINDOW_COUNT))
    turn.run(NOW, [frame(asks((0, 100 + SERVE_COUNT)))])
    while turn.busy:
        turn.run(NOW)
    more = [item[1] for item in served(events)]
    assert more == list(range(100 + WINDOW_COUNT, 100 + WINDOW_COUNT + SERVE_COUNT)), (
        "what was read is replaced"
    )
    turn.run(NOW, [frame(asks((0, 100 + SERVE_COUNT)))])
    again = [item[1] for item in served(events)]
    assert again[0] == 100 + SERVE_COUNT, "the same question again: something was lost"


def test_the_window_is_one_of_bytes_too() -> None:
    turn, events, _ = several(groups=1, instances=1000)
    while turn.busy:
        turn.run(NOW)
    events.frames.clear()
    turn.serving.max_bytes = 10 * SERVE_OVERHEAD_BYTES
    turn.run(NOW, [frame(asks((0, 0)))])
    while turn.busy:
        turn.run(NOW)
    assert len(served(events)) <= 11 * WINDOW_TURNS
    turn.run(NOW, [frame(asks((0, 20)))])
    assert served(events)


def test_every_group_of_a_lagging_peer_is_served_in_its_turn() -> None:
    turn, events, _ = several(groups=50, instances=100)
    while turn.busy:
        turn.run(NOW)
    events.frames.clear()
    turn.serving.max_bytes = 20_000
    turn.run(NOW, [frame(asks(*[(index, 90) for index in range(50)]))])
    items = served(events)
    while turn.busy:
        turn.run(NOW)
        items += served(events)
    assert sorted(item[:2] for item in items) == [(g, i) for g in range(50) for i in range(90, 100)]


def test_a_damaged_record_is_not_served_and_harms_nobody_else() -> None:
    turn, events, log = several(groups=2, instances=10)
    while turn.busy:
        turn.run(NOW)
    events.frames.clear()
    log.damaged = 0
    turn.run(NOW, [frame(asks((0, 3), (1, 3)))])
    assert [item[:2] for item in served(events)] == [(1, instance) for instance in range(3, 10)]


@pytest.mark.parametrize("seat", [0, 13, 99])
def test_a_wrong_seat_may_ask_and_teach(seat: int) -> None:
    turn, events, _, _ = make(instance=0)
    turn.run(NOW, [frame(accept(0, 3, values.encode(())))])
    chosen = Messages()
    chosen.chosen.append((0, 0, 3))
    learned = Messages()
    learned.learned.append((0, 0, 5, 2, values.encode(())))
    prepare = Messages()
    prepare.prepares.append((0, 0, 50))
    for messages in (chosen, prepare, accept(0, 60, b"v")):
        turn.run(NOW, [frame(messages, seat=seat)])
    assert turn.groups[0].instance == 0
    assert turn.groups[0].acceptor.promised == (3, 2)
    turn.run(NOW, [frame(learned, seat=seat)])
    assert turn.groups[0].instance == 1, "a decided value is a proof, whoever sends it"
    events.frames.clear()
    ask = Messages()
    ask.asks.append((0, 0))
    turn.run(NOW, [frame(ask, seat=seat)])
    assert [item for body in bodies(events.frames) for item in body[0]] == [(0, 0, 5, 2, values.encode(()))]


def test_what_is_decided_is_marked_in_the_log_once_things_are_quiet() -> None:
    turn, _, _ = single()
    propose(turn, b"a", b"b")
    until_marked(turn)
    turn.log.crash()
    assert turn.log.reopen().recover()[0].instance == 1

    turn, _, _ = single()
    propose(turn, b"a", b"b")
    until_marked(turn)
    records: list[Any] = []
    turn.log.append = records.extend  # type: ignore[method-assign]
    propose(turn, b"c", first=3)
    until_marked(turn)
    assert records[-1][:3] == (DECIDED, 0, 1)


def test_a_group_that_goes_on_deciding_is_marked_now_and_then() -> None:
    turn, _, _ = single()
    marks: list[int] = []
    append = turn.log.append

    def watched(records: list[Any]) -> None:
        marks.extend(record[2] for record in records if record[0] == DECIDED)
        append(records)

    turn.log.append = watched  # type: ignore[method-assign]
    looks = 2 * MARK_BUSY_LOOKS
    propose(turn, b"x", first=1)
    for look in range(looks):
        propose(turn, b"x", first=2 + look)
        turn.run(turn.mark_at)
    assert marks == [MARK_BUSY_LOOKS, looks], "its next record says as much as a mark"
    assert turn.mark_at == NEVER


def until_marked(turn: Turn) -> None:
    """Let pass what a group must decide nothing for."""
    looks = 0
    while turn.mark_at != NEVER:
        turn.run(turn.mark_at)
        looks += 1
    assert looks == 2


def test_a_closing_turn_answers_who_waits_for_what_is_decided_and_not_executed() -> None:
    turn, _, replies, _ = make()
    turn.appliers[0].wait(5, {7: (0, LATER, 1, b"x", None), 8: (0, LATER, 1, b"y", None)})
    turn.close()
    assert [(reply[0], reply[1]) for reply in replies] == [(7, Code.TIMEOUT), (8, Code.TIMEOUT)]
    assert turn.appliers[0].owned == {}


def test_a_closing_turn_answers_whoever_still_waits() -> None:
    turn, _, replies, _ = make()
    turn.run(NOW, [], [Batch([(1, 0, LATER, 1, b"x", None)])])
    turn.close()
    assert [(reply[0], reply[1]) for reply in replies] == [(1, Code.TIMEOUT)]


def test_random_bodies_are_counted_and_dropped() -> None:
    turn, _, _, _ = make()
    rng = random.Random(4)
    good = encode_section(accept(0, 3, b"some value"))
    bad = 0
    for _ in range(5000):
        data = bytearray(good)
        if rng.random() < 0.5:
            data = bytearray(rng.randbytes(rng.randint(0, 60)))
        else:
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        body = bytes(data)
        try:
            decode_sections(body, 0)
        except BodyError:
            bad += 1
        turn.run(
            NOW,
            [
                pack_frame(
                    FrameKind.PAXOS, body, cluster=7, sender=2, seat=12, incarnation=1, dest=1, groups=1
                )
            ],
        )
    assert turn.intake.bad_frames == bad
    assert bad > 2000


@pytest.mark.parametrize("field", [-1, 1 << 63, (1 << 64) - 1])
def test_numbers_out_of_range_are_no_message(field: int) -> None:
    messages = Messages()
    messages.accepts.append((0, field, 1, b""))
    with pytest.raises(BodyError):
        decode_sections(encode_section(messages), 0)


def test_large_batches_are_split_without_loss() -> None:
    messages = Messages()
    for number in range(30):
        messages.accepts.append((number, 0, 1, bytes(1000)))
        messages.chosen.append((number, 0, 1))
    messages.accepts.append((99, 0, 1, bytes(9000)))
    sections = [encode_section(part) for part in split(messages, 4000)]
    assert len(sections) > 5
    decoded = [body for section in sections for body in decode_sections(section, 0)]
    assert [item[0] for body in decoded for item in body[4]] == [*range(30), 99]
    assert sum(len(body[1]) for body in decoded) == 30
    assert value_bytes(messages) == 39_000


def test_a_disk_without_room_refuses_proposals_and_votes_until_it_has_some() -> None:
    """Design, rule 11."""
    turn, events, replies, _ = make()
    turn.log.healthy = lambda: "no space for the next segment"  # type: ignore[method-assign]
    turn.run(NOW, [frame(accept(0, 3, values.encode(())))], [Batch([(1, 0, LATER, 1, b"x", None)])])
    assert replies == [(1, Code.OVERLOADED, 0, 0, b"no space for the next segment")]
    assert events.order == []
    assert turn.groups[0].acceptor.promised == (0, 0)
    turn.log.healthy = lambda: None  # type: ignore[method-assign]
    turn.run(NOW, [frame(accept(0, 3, values.encode(())))])
    assert events.order == ["sync", "send"]


def test_a_disk_without_room_does_not_make_the_loop_spin() -> None:
    turn, _, _ = single()
    propose(turn, b"a")
    turn.log.healthy = lambda: "no space for the next segment"  # type: ignore[method-assign]
    now = turn.mark_at
    turn.run(now)
    assert not turn.busy
    assert turn.wake_at > now


def decide_one(turn: Turn, events: Events, seq: int) -> None:
    """Get a proposal decided with the votes of node 2."""
    group = turn.groups[0]
    turn.run(NOW, [], [Batch([(seq, 0, LATER, 0, b"x", None)])])
    if not group.proposer.held:
        promise = Messages()
        promise.prepare_replies.append((0, group.instance, group.proposer.round, 0, 0, 0, b""))
        turn.run(NOW, [frame(promise)])
    events.frames.clear()
    vote = Messages()
    vote.accept_replies.append((0, group.instance, group.proposer.round, 0, 0))
    turn.run(NOW, [frame(vote)])


def test_a_notice_alone_waits_a_moment_and_no_longer() -> None:
    turn, events, replies, _ = make()
    turn.notice_delay = 2 * MS
    decide_one(turn, events, 1)
    assert [reply[:2] for reply in replies] == [(1, Code.OK)], "the answer waits for nothing"
    assert events.frames == []
    assert turn.wake_at == NOW + 2 * MS
    turn.run(NOW + MS)
    assert events.frames == []
    turn.run(NOW + 2 * MS)
    assert [body[1] for body in bodies(events.frames)] == [[(0, 0, 1)], [(0, 0, 1)]]
    assert turn.wake_at > NOW + 2 * MS


def test_a_notice_travels_with_the_next_accept() -> None:
    turn, events, _, _ = make()
    turn.notice_delay = 2 * MS
    decide_one(turn, events, 1)
    turn.run(NOW + MS, [], [Batch([(2, 0, LATER, 0, b"y", None)])])
    for body in bodies(events.frames):
        assert body[1] == [(0, 0, 1)]
        assert [accept[:3] for accept in body[4]] == [(0, 1, 1)]
    assert len(events.frames) == 2


def test_held_notices_leave_when_the_disk_is_full_and_when_the_worker_stops() -> None:
    turn, events, _, _ = make()
    turn.notice_delay = 2 * MS
    decide_one(turn, events, 1)
    turn.log.healthy = lambda: "full"  # type: ignore[method-assign]
    turn.run(NOW + 2 * MS)
    assert [body[1] for body in bodies(events.frames)] == [[(0, 0, 1)]] * 2
    assert turn.wake_at > NOW + 2 * MS
    turn.log.healthy = lambda: None  # type: ignore[method-assign]
    decide_one(turn, events, 2)
    turn.close()
    assert [body[1] for body in bodies(events.frames)] == [[(0, 1, 1)]] * 2


def test_notices_of_much_work_leave_at_once() -> None:
    turn, events, _, _ = make()
    turn.notice_delay = 2 * MS
    proposals = [(seq, 0, LATER, 0, b"x", None) for seq in range(300)]
    turn.run(NOW, [], [Batch(proposals)])
    promise = Messages()
    promise.prepare_replies.append((0, 0, 1, 0, 0, 0, b""))
    turn.run(NOW, [frame(promise)])
    events.frames.clear()
    vote = Messages()
    vote.accept_replies.append((0, 0, 1, 0, 0))
    turn.run(NOW, [frame(vote)])
    assert [body[1] for body in bodies(events.frames)] == [[(0, 0, 1)]] * 2
