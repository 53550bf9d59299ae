"""Linearizable reads (ARCHITECTURE.md, rule 18): rounds, majorities, targets, leftovers."""

from __future__ import annotations

import random

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.proposer import Phase
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS
from tests.core import LATER, NOW, SEATS, A, B, C, entry, learn, make, synced


def read(group: Group, *seqs: int, deadline: int = LATER) -> Effects:
    fx = Effects()
    for seq in seqs:
        group.reader.join(seq, deadline, fx)
    group.open(NOW, fx)
    return fx


def answer(group: Group, voter: int, top: int, number: int | None = None, since: int = 0) -> Effects:
    fx = Effects()
    number = group.reader.number if number is None else number
    group.reader.on_top_reply(voter, number, top, since, NOW, fx)
    return fx


def test_one_question_for_all_that_wait() -> None:
    group = make(instance=5)
    fx = read(group, 1, 2, 3)
    assert fx.now.all.top_asks == [(0, group.reader.number)]
    assert fx.readable == []
    assert answer(group, B, 4).readable == [(0, 4, [1, 2, 3])]


def test_a_majority_is_enough_and_a_minority_is_not() -> None:
    seats = dict.fromkeys((A, B, C, 4, 5), 11)
    group = make(seats=seats, instance=5)
    read(group, 1)
    assert answer(group, B, 4).readable == []
    assert answer(group, B, 4).readable == [], "the same voter counts once"
    assert answer(group, 9, 4).readable == [], "who is no member does not"
    assert answer(group, C, 4).readable == [(0, 4, [1])]


def test_a_cluster_of_one_asks_nobody() -> None:
    group = make(seats={A: 11}, instance=5)
    assert read(group, 1).readable == [(0, 4, [1])]


def test_a_read_joins_only_rounds_not_yet_sent() -> None:
    group = make(instance=5)
    read(group, 1)
    first = group.reader.number
    assert read(group, 2).now.all.top_asks == []
    fx = answer(group, B, 4)
    assert fx.readable == [(0, 4, [1])]
    group.open(NOW, fx)
    assert fx.now.all.top_asks == [(0, first + 1)]
    assert answer(group, B, 9, number=first).readable == [], "an answer to an earlier question"
    assert answer(group, B, 4).readable == [(0, 4, [2])]


def test_answers_match_the_life_of_the_worker() -> None:
    """A restarted one must not take an answer that was given to its earlier life, under the same
    incarnation: it may be older than what was acknowledged since (found by simulation)."""
    first, second = make(instance=5), make(instance=5, rng=random.Random(6))
    read(first, 1)
    read(second, 1)
    assert answer(second, B, 4, number=first.reader.number).readable == []


def test_an_accepted_value_counts_and_a_promise_does_not() -> None:
    group = make(B, instance=5)
    group.on_prepare(A, (0, 5, 7), NOW, Effects())
    assert group.top() == 4
    fx = Effects()
    group.on_accept(A, (0, 5, 7, values.encode((), group.chain)), NOW, fx)
    group.on_top_ask(C, 77, fx)
    assert fx.now.to[C].top_replies == [(0, 77, 5, 0)]


def test_the_largest_answer_of_a_majority_is_waited_for() -> None:
    group = make(instance=5)
    read(group, 1)
    fx = answer(group, B, 6)
    assert fx.readable == []
    assert fx.now.to[B].asks == [(0, 5)], "it lags: it asks whoever knows more"
    assert learn(group).readable == []
    assert learn(group).readable == [(0, 6, [1])]


def test_a_late_notice_is_asked_for() -> None:
    """The reader has missed the Accept and the notice of the last instance: nobody else would tell it."""
    group = make(instance=5)
    read(group, 1)
    assert not answer(group, B, 5).now.to, "as a rule it comes by itself"
    fx = Effects()
    group.on_timer(NOW + 20 * MS, fx)
    assert fx.now.to[B].asks == [(0, 5)]


def test_who_claims_too_much_does_not_stall_reads_while_others_answer() -> None:
    group = make(instance=5)
    read(group, 1)
    assert answer(group, B, 1 << 60).readable == []
    assert answer(group, C, 4).readable == [(0, 4, [1])]


def test_a_leftover_is_completed_after_an_accept_timeout() -> None:
    """Its proposer may be dead, and nobody else has a reason to decide anything."""
    group = make(instance=5, promised=(4, C))
    read(group, 1)
    answer(group, B, 5)
    group.on_timer(NOW + group.timers.accept_first - MS, Effects())
    assert group.proposer.phase is Phase.IDLE
    fx = Effects()
    group.on_timer(NOW + group.timers.accept_first, fx)
    (prepare,) = fx.after.all.prepares
    assert prepare[1] == 5
    synced(group, fx)
    fx = Effects()
    left = values.encode([entry(C, 3)], group.chain)
    group.proposer.on_prepare_reply(B, 5, prepare[2], 0, (3, C), left, NOW, fx)
    assert [message[3] for message in fx.now.all.accepts] == [left]
    after = synced(group, fx)
    group.proposer.on_accept_reply(B, 5, prepare[2], NULL, NOW, after)
    assert after.readable == [(0, 5, [1])]


def test_where_nothing_was_accepted_a_no_op_decides() -> None:
    """The voter that has the value is gone: what it had was not chosen, and now never will be."""
    group = make(instance=5)
    read(group, 1)
    answer(group, B, 5)
    fx = Effects()
    group.on_timer(NOW + group.timers.accept_first, fx)
    synced(group, fx)
    fx = Effects()
    group.proposer.on_prepare_reply(C, 5, group.proposer.round, 0, NULL, b"", NOW, fx)
    (accept,) = fx.now.all.accepts
    assert values.decode(accept[3]) == []
    after = synced(group, fx)
    group.proposer.on_accept_reply(C, 5, group.proposer.round, NULL, NOW, after)
    assert after.readable == [(0, 5, [1])]
    assert after.decided[0][2] == []


def test_a_full_prepare_also_where_the_ballot_is_held() -> None:
    group = make()
    fx = Effects()
    group.propose(1, LATER, 1, b"x", None, fx)
    group.open(NOW, fx)
    synced(group, fx)
    fx = Effects()
    group.proposer.on_prepare_reply(B, 0, 1, 0, NULL, b"", NOW, fx)
    after = synced(group, fx)
    group.proposer.on_accept_reply(B, 0, 1, NULL, NOW, after)
    assert group.proposer.held
    fx = Effects()
    group.proposer.complete(NOW, fx, fill=True)
    assert fx.after.all.prepares == [(0, 1, 2)]


def test_questions_are_asked_again_of_who_has_not_answered() -> None:
    seats = dict.fromkeys((A, B, C, 4, 5), 11)
    group = make(seats=seats, instance=5)
    read(group, 1)
    answer(group, B, 4)
    fx = Effects()
    group.on_timer(NOW + group.timers.resend_first, fx)
    assert sorted(node for node, batch in fx.now.to.items() if batch.top_asks) == [C, 4, 5]


def test_a_deadline_ends_a_read_whatever_it_waits_for() -> None:
    group = make(instance=5)
    read(group, 1, deadline=NOW + 50 * MS)
    read(group, 2, deadline=NOW + 60 * MS)
    fx = Effects()
    group.on_timer(NOW + 50 * MS, fx)
    group.on_timer(NOW + 80 * MS, fx)
    assert fx.expired == [1, 2]
    assert not group.reader.rounds
    assert answer(group, B, 4).readable == []


def test_what_waits_for_decisions_does_not_pile_up_as_rounds() -> None:
    group = make(instance=5)
    for seq in range(100):
        read(group, seq)
        answer(group, B, 5)
    assert len(group.reader.rounds) == 8
    fx = learn(group)
    group.open(NOW, fx)
    assert sorted(seq for _, _, reads in fx.readable for seq in reads) == list(range(8))
    ((_, _, reads),) = answer(group, B, 5).readable
    assert len(reads) == 92, "all that waited share one question"


def test_an_answer_under_other_members_is_none_and_makes_the_reader_ask_again() -> None:
    """Weakness S11 of the reference."""
    group = make(instance=5)
    read(group, 1)
    assert answer(group, B, 4, since=3).readable == []
    group.members = Members(SEATS, since=5)
    fx = answer(group, B, 4)
    assert fx.readable == [], "the members of the next instance are not those that were asked"
    first = group.reader.number
    group.open(NOW, fx)
    assert fx.now.all.top_asks == [(0, first + 1)]
    assert answer(group, B, 4, since=5).readable == [(0, 4, [1])]
