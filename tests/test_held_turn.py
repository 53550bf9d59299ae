"""A turn whose records the log has no room for waits: nothing rests on them, nothing is lost of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import Code
from paxmux.engine.options import StorageOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import ACCEPT, DECIDED, FORGOTTEN, LEARNED, RELEASED
from paxmux.engine.paxos.messages import Batch as Messages
from paxmux.engine.paxos.timers import MS, NEVER
from paxmux.engine.storage import LogIdentity, NoRoom, Record
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards.requests import Batch, CallKind
from paxmux.shards.retention import Retention
from paxmux.shards.slice import chain_at
from paxmux.shards.turn import Turn
from tests.test_turn import (
    LATER,
    NOW,
    Machine,
    accept,
    bodies,
    decide_one,
    frame,
    make,
    propose,
)


class SmallLog(MemoryLog):
    """Takes nothing in but what makes room, while it is full; says so ahead or not."""

    full = False
    tight = False
    """Not even that."""

    def append(self, records: Sequence[Record]) -> None:
        if self.full and (
            self.tight or not {record[0] for record in records} <= {DECIDED, FORGOTTEN, RELEASED}
        ):
            self.trouble = "no room at all"
            raise NoRoom(self.trouble)
        super().append(records)

    def empty(self) -> None:
        self.full = self.tight = False
        self.trouble = None


def small(seats: dict[int, int] | None = None, log: SmallLog | None = None, **more: Any) -> Any:
    if log is None:
        log = SmallLog(Path(), LogIdentity(7, 1, 11, 0), segment_bytes=1 << 20)
        log.recover()
    return make(log=log, **({"seats": seats} if seats else {}), **more)


def test_nothing_rests_on_an_accept_that_was_not_taken_in() -> None:
    turn, events, replies, _ = small()
    turn.log.full = True
    value = values.encode(())
    turn.run(NOW, [frame(accept(0, 3, value))])
    assert turn.held
    assert events.frames == []
    assert turn.log.read(0, 0) is None
    # Nothing is voted on, nobody is asked, and no caller is let in.
    prepare = Messages()
    prepare.prepares.append((0, 0, 9))
    turn.run(NOW + MS, [frame(prepare)], [Batch([(1, 0, LATER, 1, b"x", None)])])
    assert replies == [(1, Code.OVERLOADED, 0, 0, b"no room at all")]
    assert events.frames == []
    assert not turn.busy
    assert NOW + MS < turn.wake_at <= NOW + 101 * MS
    turn.log.empty()
    turn.run(NOW + 200 * MS, [frame(prepare)])
    assert not turn.held
    assert [record[0] for batch in turn.log.disk.batches for record in batch] == [ACCEPT]
    assert turn.log.disk.synced == 1
    assert [body[5] for body in bodies(events.frames)] == [[(0, 0, 3, 0, 0)]]
    assert turn.groups[0].acceptor.promised == (3, 2)


def test_room_that_is_not_enough_changes_nothing() -> None:
    turn, events, _, _ = small()
    turn.log.full = True
    turn.run(NOW, [frame(accept(0, 3, values.encode(())))])
    for again in range(1, 5):
        turn.log.trouble = None
        turn.run(NOW + again * MS)
        assert turn.held
        assert turn.log.healthy() == "no room at all"
    turn.log.empty()
    turn.run(NOW + 10 * MS)
    assert len(events.frames) == 1
    assert [len(batch) for batch in turn.log.disk.batches] == [1]


def test_an_own_value_is_sent_once_and_decided_when_there_is_room() -> None:
    """Its Accept leaves before the sync, under a promise that is durable; the own vote waits."""
    turn, events, replies, _ = small()
    decide_one(turn, events, 1)
    replies.clear()
    events.frames.clear()
    turn.log.full = True
    turn.run(NOW, [], [Batch([(2, 0, LATER, 1, b"a", None)])])
    sent = bodies(events.frames)
    assert [len(body[4]) for body in sent] == [1, 1]
    assert turn.held
    vote = Messages()
    vote.accept_replies.append((0, 1, turn.groups[0].proposer.round, 0, 0))
    turn.run(NOW + MS, [frame(vote)])
    assert len(events.frames) == 2
    assert replies == []
    turn.log.empty()
    turn.run(NOW + 2 * MS)
    turn.run(NOW + 3 * MS, [frame(vote)])
    assert [reply[:3] for reply in replies] == [(2, Code.OK, 1)]
    assert [body[4] for body in bodies(events.frames)[2:]] == [[]] * (len(events.frames) - 2)


def test_callers_wait_no_longer_than_their_deadline() -> None:
    """Whether what they proposed is only accepted, or decided and not durable."""
    turn, events, replies, _ = small()
    decide_one(turn, events, 1)
    round_ = turn.groups[0].proposer.round
    turn.run(NOW, [], [Batch([(2, 0, NOW + 50 * MS, 1, b"a", None)])])
    replies.clear()
    # The peer's vote decides instance 1; what is opened behind it finds no room.
    turn.run(NOW, [], [Batch([(3, 0, NOW + 50 * MS, 1, b"b", None)])])
    turn.log.full = True
    vote = Messages()
    vote.accept_replies.append((0, 1, round_, 0, 0))
    turn.run(NOW + MS, [frame(vote)])
    assert turn.held
    assert turn.groups[0].instance == 2
    assert replies == []
    turn.run(NOW + 60 * MS)
    assert sorted(reply[:2] for reply in replies) == [(2, Code.TIMEOUT), (3, Code.TIMEOUT)]
    replies.clear()
    turn.log.empty()
    turn.run(NOW + 200 * MS)
    turn.run(NOW + 201 * MS)
    assert replies == [], "once each"
    assert turn.appliers[0].next == 2


def test_a_stop_answers_everybody_who_waits_for_room() -> None:
    turn, events, replies, _ = small()
    decide_one(turn, events, 1)
    turn.run(NOW, [], [Batch([(2, 0, LATER, 1, b"a", None)])])
    turn.run(NOW, [], [Batch([(3, 0, LATER, 1, b"b", None)])])
    turn.log.full = True
    vote = Messages()
    vote.accept_replies.append((0, 1, turn.groups[0].proposer.round, 0, 0))
    replies.clear()
    turn.run(NOW + MS, [frame(vote)])
    assert turn.held
    turn.close()
    assert sorted(reply[:2] for reply in replies) == [(2, Code.TIMEOUT), (3, Code.TIMEOUT)]


def learned(instance: int, value: bytes) -> Messages:
    messages = Messages()
    messages.learned.append((0, instance, 4, 3, value))
    return messages


def test_what_a_held_decision_supersedes_is_neither_shown_nor_executed() -> None:
    """The log still has a value that was accepted and not chosen."""
    turn, events, replies, machines = small()
    wrong = values.encode([(2, 5, 1, 0, 1, b"wrong")])
    right = values.encode([(3, 5, 1, 0, 1, b"right")])
    turn.run(NOW, [frame(accept(0, 1, wrong))])
    turn.log.full = True
    events.frames.clear()
    ask = Messages()
    ask.asks.append((0, 0))
    turn.run(NOW, [frame(learned(0, right)), frame(ask)])
    assert turn.held
    assert turn.groups[0].instance == 1
    calls = [
        (77, CallKind.INSTANCE_VALUE, 0, NEVER, 0, b""),
        (78, CallKind.QUERY, 0, NEVER, 1, b""),
        (79, CallKind.GROUP_STATUS, 0, NEVER, 0, b""),
    ]
    turn.run(NOW + MS, [], [Batch([], calls)])
    assert [reply[0] for reply in replies] == [79]
    assert machines[1].calls == []
    assert events.frames == []
    turn.log.empty()
    turn.run(NOW + 200 * MS)
    assert sorted(reply[:2] for reply in replies) == [(77, Code.OK), (78, Code.OK), (79, Code.OK)]
    assert b"right" in (next(reply[4] for reply in replies if reply[0] == 77) or b"")
    assert [body[0] for body in bodies(events.frames) if body[0]] == [[(0, 0, 4, 3, right)]]


class Keeps(Machine):
    """Durable after each instance."""

    applied: int | None = None

    def commit(self, instance_id: int) -> None:
        self.applied = instance_id

    def applied_instance_id(self) -> int | None:
        return self.applied


def forgetful(turn: Turn) -> None:
    storage = StorageOptions(keep_instances=0, keep_for_members=False)
    turn.retention = Retention(turn.groups, turn.appliers, turn.log, storage)


def recovered(log: MemoryLog) -> int:
    """The instance at which the next process would go on; it can."""
    log.crash()
    again = log.reopen()
    state = again.recover()[0]
    chain_at(again, 0, state.instance)
    return state.instance


@pytest.mark.parametrize("held", [False, True])
def test_forgetting_goes_on_without_room_and_never_beyond_what_the_log_knows(held: bool) -> None:
    """What is forgotten must be below the last decided value that a start finds."""
    turn, _, _, machines = small({1: 11}, machines={1: Keeps(0)})
    forgetful(turn)
    propose(turn, b"a")
    for each in range(5):
        propose(turn, b"%d" % each, first=10 + each)
    assert turn.groups[0].instance == 6
    if held:
        turn.log.full = True
        turn.run(NOW, [], [Batch([(99, 0, LATER, 1, b"late", None)])])
        assert turn.held
        turn.log.tight = True
        turn.run(NOW + 150 * MS)
        assert turn.log.first(0) == 0
        turn.log.tight = False
    else:
        turn.log.trouble = "soon no room"
    turn.run(NOW + 300 * MS)
    assert turn.log.first(0) == 5
    assert turn.log.disk.synced == len(turn.log.disk.batches)
    assert machines[1].applied == 5  # type: ignore[attr-defined]
    assert recovered(turn.log) == 6


def test_a_group_further_than_its_log_forgets_by_its_log() -> None:
    turn, _, _, _ = small(machines={1: Keeps(0)})
    forgetful(turn)
    value, chain = b"", values.FIRST
    told = []
    for instance in range(6):
        value = values.encode([(3, 5, instance, instance, 1, b"x")], chain)
        chain = values.chain_after(value)
        told.append(value)
    turn.run(NOW, [frame(learned(i, told[i])) for i in range(4)])
    assert turn.appliers[0].next == 4
    turn.log.full = True
    turn.run(NOW, [frame(learned(i, told[i])) for i in (4, 5)])
    assert turn.held
    assert turn.groups[0].instance == 6
    turn.run(NOW + 300 * MS)
    assert turn.log.first(0) == 3
    assert recovered(turn.log) == 4


def test_what_comes_from_elsewhere_is_written_behind_what_waits() -> None:
    turn, _, _, _ = small()
    turn.log.full = True
    turn.fx.records.append((LEARNED, 9, 0, 1, 1, b"of a group that arrives"))
    turn.run(NOW)
    assert turn.held
    turn.fx.records.append((RELEASED, 9, 0, 0, 0, b""))
    assert turn.busy
    turn.run(NOW + MS)
    assert not turn.busy
    assert turn.log.disk.batches == []
    turn.log.empty()
    turn.run(NOW + 2 * MS)
    assert [record[0] for batch in turn.log.disk.batches for record in batch] == [LEARNED, RELEASED]
