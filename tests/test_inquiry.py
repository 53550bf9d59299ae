"""Histories that differ (ARCHITECTURE.md, rule 16): what is dropped, who is asked, and who is fenced."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from paxmux.engine.errors import Code
from paxmux.engine.options import LimitOptions, ProposalOptions, StorageOptions, TimerOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import FORGOTTEN, LEARNED, Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS, Timers
from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards.requests import Batch, CallKind, Reply
from paxmux.shards.slice import Identity, build_turn
from paxmux.shards.turn import Turn
from tests.core import LATER, NOW, SEATS, A, B, C, entry, learn, make

OTHER = b"\1\2\3\4"


def suspected(group: Group) -> Effects:
    """B has another history."""
    fx = Effects()
    group.on_accept(B, (0, group.instance, 9, values.encode((), OTHER)), NOW, fx)
    return fx


@pytest.mark.parametrize("seen", ["accept", "learned", "promise", "position"])
def test_rule_16_a_message_from_another_history_is_dropped_and_asked_about(seen: str) -> None:
    group = make(A, promised=(4, C), timers=Timers(forward=0))
    learn(group, entry(B, 1))
    group.propose(1, LATER, 1, b"x", None, Effects())
    foreign = values.encode([entry(B, 2)], OTHER)
    fx = Effects()
    if seen == "accept":
        group.on_accept(B, (0, 1, 9, foreign), NOW, fx)
    elif seen == "learned":
        group.learner.on_learned(1, 9, B, foreign, NOW, fx)
    elif seen == "promise":
        group.proposer.complete(NOW, Effects())
        group.proposer.on_prepare_reply(B, 1, group.proposer.round, 0, (1, C), foreign, NOW, fx)
        assert not group.proposer.votes
    else:
        group.learner.on_position(B, 1, OTHER, NOW, fx)
    assert (group.instance, fx.records, fx.decided) == (1, [], [])
    assert group.acceptor.accepted == NULL
    assert fx.suspects == [group]
    assert fx.now.all.chain_asks == [group.position()]
    assert group.voter, "who is wrong nobody knows yet"


def test_rule_16_a_sick_peer_costs_a_question_now_and_then() -> None:
    group = make(A)
    assert suspected(group).now.all.chain_asks
    for _ in range(50):
        assert not suspected(group).now.all.chain_asks
    assert group.inquiry.mismatches == 51


def test_rule_16_a_node_fences_itself_where_a_majority_agrees_on_another_history() -> None:
    group = make(A)
    learn(group, entry(B, 1))
    group.propose(1, LATER, 1, b"x", None, Effects())
    group.reader.join(2, LATER, Effects())
    suspected(group)
    fx = Effects()
    group.inquiry.on_reply(B, 1, OTHER, NOW, fx)
    group.inquiry.on_reply(B, 1, OTHER, NOW, fx)
    assert group.voter, "one peer, however often it says so"
    group.inquiry.on_reply(C, 1, OTHER, NOW, fx)
    assert not group.voter
    assert "majority has another history below instance 1" in (group.inquiry.fenced or "")
    assert sorted(fx.abandoned) == [1, 2]
    assert fx.fenced == [group]


def test_rule_16_who_is_asked_compares_too() -> None:
    group = make(A)
    learn(group, entry(B, 1))
    fx = Effects()
    group.inquiry.on_ask(B, 1, group.chain, NOW, fx)
    assert not fx.suspects
    group.inquiry.on_ask(B, 1, OTHER, NOW, fx)
    assert fx.suspects == [group]
    assert len(fx.now.to[B].chain_replies) == 2


def test_rule_16_without_a_majority_nobody_is_fenced() -> None:
    group = make(A)
    suspected(group)
    fx = Effects()
    group.inquiry.on_reply(B, 0, OTHER, NOW, fx)
    group.inquiry.on_reply(C, 0, values.FIRST, NOW, fx)
    group.inquiry.on_reply(99, 0, OTHER, NOW, fx)
    group.inquiry.on_reply(C, 3, OTHER, NOW, fx)
    assert group.voter
    assert group.inquiry.fenced is None


def test_rule_16_answers_nobody_asked_for_fence_nobody() -> None:
    group = make(A)
    for sender in (B, C):
        group.inquiry.on_reply(sender, 0, OTHER, NOW, Effects())
    assert group.voter


def test_rule_16_a_fenced_group_takes_no_part() -> None:
    group = make(A)
    learn(group, entry(B, 1))
    group.inquiry.fence("as asked", Effects())
    fx = Effects()
    group.on_prepare(B, (0, 1, 9), NOW, fx)
    group.on_accept(B, (0, 1, 9, values.encode((), group.chain)), NOW, fx)
    group.learner.on_learned(1, 9, B, values.encode((), group.chain), NOW, fx)
    group.learner.on_ask(B, 0, NOW, fx)
    group.on_top_ask(B, 7, fx)
    group.inquiry.on_ask(B, 1, OTHER, NOW, fx)
    group.learner.on_position(B, 9, OTHER, NOW, fx)
    group.on_chosen(B, 1, 9, NOW, fx)
    assert not fx.records
    assert not any(batch.asks for batch in fx.now.to.values()), "it would drop what comes"
    assert not fx.after
    assert not fx.serve
    assert not fx.chain_reads
    assert not any(batch.top_replies or batch.chain_replies for batch in fx.now.to.values())
    assert group.instance == 1


# With a log


def turn_of(
    log: MemoryLog, replies: list[Reply], sink: Sink, *, groups: int = 1, seats: dict[int, int] = SEATS
) -> Turn:
    identity = Identity(7, A, SEATS[A], 99, 0, 1)
    turn = build_turn(
        identity,
        {index: {} for index in range(groups)},
        log,
        sink,
        replies,
        members=Members(seats),
        rng=random.Random(1),
        now=NOW,
        timers=TimerOptions(),
        proposals=ProposalOptions(),
        limits=LimitOptions(),
        storage=StorageOptions(),
    )
    turn.start(NOW)
    turn.run(NOW)
    return turn


class Sink:
    def send(self, data: bytes, *, droppable: bool) -> bool:
        return True

    def send_pieces(self, pieces: Sequence[bytes], *, droppable: bool, sealed: bool) -> bool:
        """A large one."""
        return self.send(b"".join(pieces), droppable=droppable)

    def commit(self) -> bool:
        return True


def history(count: int) -> list[bytes]:
    chain, found = values.FIRST, []
    for number in range(count):
        found.append(values.encode([entry(B, number + 1)], chain))
        chain = values.chain_after(found[-1])
    return found


def written(decided: list[bytes]) -> MemoryLog:
    identity = LogIdentity(7, A, SEATS[A], 0)
    log = MemoryLog(Path(), identity)
    log.recover()
    log.append([(LEARNED, 0, number, 1, B, value) for number, value in enumerate(decided)])
    log.sync()
    log.close(clean=True)
    return log.reopen()


def test_the_chain_comes_back_from_the_log() -> None:
    decided = history(20)
    turn = turn_of(written(decided), [], Sink())
    assert turn.groups[0].instance == 20
    assert turn.groups[0].chain == values.chain_after(decided[-1])


def test_rule_16_a_log_that_holds_together_fences_nobody() -> None:
    turn = turn_of(written(history(20)), [], Sink())
    group = turn.groups[0]
    group.inquiry.suspect(NOW, turn.fx)
    turn.run(NOW + MS)
    assert group.inquiry.fenced is None


def test_rule_16_a_log_that_contradicts_itself_fences_its_group() -> None:
    decided = history(20)
    decided[7] = values.encode([entry(B, 999)], values.chain_in(decided[7]))
    replies: list[Reply] = []
    turn = turn_of(written(decided), replies, Sink())
    group = turn.groups[0]
    assert group.voter, "nothing has shown it yet"
    group.inquiry.suspect(NOW, turn.fx)
    turn.run(NOW + MS)
    assert "does not fit together at instance 8" in (group.inquiry.fenced or "")
    read = (2, CallKind.LINEARIZABLE_QUERY, 0, LATER, 1, b"")
    turn.run(NOW + MS, [], [Batch([(1, 0, LATER, 0, b"x", None)], [read])])
    assert sorted(reply[:2] for reply in replies) == [(1, Code.SYSTEM_ERROR), (2, Code.SYSTEM_ERROR)]
    assert all(b"fenced" in (reply[4] or b"") for reply in replies)


def test_rule_16_what_is_left_of_a_log_is_checked_too() -> None:
    decided = history(20)
    decided[17] = values.encode([entry(B, 999)], values.chain_in(decided[17]))
    log = written(decided)
    log.recover()
    log.append([(FORGOTTEN, 0, 10, 0, 0, b"")])
    log.close(clean=True)
    turn = turn_of(log.reopen(), [], Sink())
    group = turn.groups[0]
    group.inquiry.suspect(NOW, turn.fx)
    turn.run(NOW + MS)
    assert "does not fit together at instance 18" in (group.inquiry.fenced or "")


def test_rule_16_one_group_is_checked_in_a_turn() -> None:
    """A peer whose every group differs must not hold up the votes of all."""
    turn = turn_of(written(history(20)), [], Sink(), groups=5)
    for group in turn.groups.values():
        group.inquiry.suspect(NOW, turn.fx)
        group.chain = OTHER
    for left in (True, True, True, True, False):
        turn.run(NOW + MS)
        assert turn.serving.waiting == left
    fenced = [index for index, group in turn.groups.items() if group.inquiry.fenced is not None]
    assert fenced == [0], "the others have nothing in their logs that could contradict them"


def test_rule_7_a_node_without_its_seat_has_no_say_in_its_own_linearizable_read() -> None:
    replies: list[Reply] = []
    turn = turn_of(written([]), replies, Sink(), seats={**SEATS, A: 999})
    turn.run(NOW + MS, [], [Batch([], [(2, CallKind.LINEARIZABLE_QUERY, 0, LATER, 1, b"")])])
    (asked,) = turn.groups[0].reader.rounds.values()
    assert not replies
    assert not asked.tops, "its promises are forgotten: it does not know what it has voted in"


def test_rule_16_memory_that_contradicts_the_log_fences_its_group() -> None:
    turn = turn_of(written(history(20)), [], Sink())
    group = turn.groups[0]
    group.chain = OTHER
    group.inquiry.suspect(NOW, turn.fx)
    turn.run(NOW + MS)
    assert "does not say what it goes by" in (group.inquiry.fenced or "")
