"""One test for each rule of safety that lives in the pure core: one state, one call, all effects."""

from __future__ import annotations

import random

import pytest

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import MAX_LEAP, NULL
from paxmux.engine.paxos.effects import ACCEPT, LEARNED, PROMISE, Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.proposer import Phase
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS, NEVER, Timers

A, B, C = 1, 2, 3
SEATS = {A: 11, B: 12, C: 13}
NOW = 10_000 * MS
LATER = NOW + 60_000 * MS
ALONE = Timers(forward=0)
"""Each node bids for itself; what forwarding changes is in `test_forwarding.py`."""
NOOP = values.encode(())
V = values.encode([(C, 7, 1, 0, 1, b"v")])
"""A value for a group's first instance, and for any that a test begins with."""


def noop(group: Group) -> bytes:
    """A value for its current instance."""
    return values.encode((), group.chain)


def make(me: int = A, seats: dict[int, int] = SEATS, **state: object) -> Group:
    return Group(
        0,
        me=me,
        seat=SEATS[me],
        incarnation=900 + me,
        members=Members(seats),
        rng=random.Random(5),
        now=NOW,
        timers=ALONE,
        **state,  # type: ignore[arg-type]
    )


def propose(group: Group, *payloads: bytes, seq: int = 1) -> Effects:
    fx = Effects()
    for number, payload in enumerate(payloads):
        group.propose(seq + number, LATER, 1, payload, None, fx)
    group.open(NOW, fx)
    return fx


def synced(group: Group, fx: Effects) -> Effects:
    """What the turn does after the sync of `fx`."""
    after = Effects()
    for it in fx.synced:
        it.proposer.on_synced(NOW, after)
    return after


def prepared(group: Group, *payloads: bytes) -> Effects:
    """Propose and win the Prepare with B's promise; returns the effects of that promise."""
    first = propose(group, *payloads)
    synced(group, first)
    fx = Effects()
    group.proposer.on_prepare_reply(B, group.instance, group.proposer.round, 0, NULL, b"", NOW, fx)
    return fx


def decided(group: Group, *payloads: bytes) -> Effects:
    """Propose and get it decided with B's votes."""
    fx = prepared(group, *payloads)
    after = synced(group, fx)
    group.proposer.on_accept_reply(B, group.instance, group.proposer.round, NULL, NOW, after)
    return after


def payloads(fx: Effects) -> list[bytes]:
    return [entry[5] for _, _, entries, _ in fx.decided for entry in entries]


# Rule 1


def test_rule_1_prepare_leaves_after_the_sync_of_its_own_promise() -> None:
    group = make()
    fx = propose(group, b"x")
    assert fx.records == [(PROMISE, 0, 0, 1, A, b"")]
    assert not fx.now
    assert fx.after.all.prepares == [(0, 0, 1)]


def test_rule_1_accept_may_leave_before_its_record_is_synced() -> None:
    group = make()
    fx = prepared(group, b"x")
    value = values.encode([(A, 901, 1, 0, 1, b"x")])
    assert fx.now.all.accepts == [(0, 0, 1, value)]
    assert fx.records == [(ACCEPT, 0, 0, 1, A, value)]


def test_rule_1_no_accept_before_the_own_promise_is_synced() -> None:
    group = make()
    propose(group, b"x")
    fx = Effects()
    group.proposer.on_prepare_reply(B, 0, 1, 0, NULL, b"", NOW, fx)
    group.proposer.on_prepare_reply(C, 0, 1, 0, NULL, b"", NOW, fx)
    assert not fx.now
    assert group.proposer.phase is Phase.PREPARING


def test_rule_1_own_vote_counts_only_after_its_sync() -> None:
    group = make(seats={A: 11})
    fx = propose(group, b"x")
    assert group.proposer.phase is Phase.PREPARING
    after = synced(group, fx)
    assert group.instance == 0, "the accept is not durable yet"
    assert after.records[0][0] == ACCEPT
    assert payloads(synced(group, after)) == [b"x"]


def test_rule_1_positive_replies_wait_for_the_sync() -> None:
    group = make(B)
    fx = Effects()
    group.on_prepare(A, (0, 0, 4), NOW, fx)
    group.on_accept(A, (0, 0, 4, V), NOW, fx)
    assert not fx.now
    assert fx.after.to[A].prepare_replies == [(0, 0, 4, 0, 0, 0, b"")]
    assert fx.after.to[A].accept_replies == [(0, 0, 4, 0, 0)]
    assert [record[0] for record in fx.records] == [PROMISE, ACCEPT]


def test_rule_1_a_duplicate_is_answered_after_the_sync_too() -> None:
    group = make(B)
    fx = Effects()
    group.on_accept(A, (0, 0, 4, V), NOW, fx)
    group.on_accept(A, (0, 0, 4, V), NOW, fx)
    assert len(fx.records) == 1
    assert not fx.now
    assert len(fx.after.to[A].accept_replies) == 2


def test_a_decided_value_of_another_instance_changes_nothing() -> None:
    group = make(instance=5)
    fx = Effects()
    for instance in (0, 4, 6, 1 << 40):
        group.learner.on_learned(instance, 3, B, NOOP, NOW, fx)
    assert (group.instance, fx.records, fx.decided) == (5, [], [])


# Rule 2


def test_rule_2_a_learned_value_leaves_the_promise_alone() -> None:
    group = make(B)
    fx = Effects()
    group.on_prepare(C, (0, 0, 9), NOW, fx)
    fx = Effects()
    group.learner.on_learned(0, 3, A, NOOP, NOW, fx)
    assert fx.records == [(LEARNED, 0, 0, 3, A, NOOP)]
    assert group.acceptor.promised == (9, C)


def test_rule_2_a_prepare_below_the_promise_is_told_so() -> None:
    group = make(B)
    group.on_prepare(C, (0, 0, 9), NOW, Effects())
    for ballot in ((8, C), (9, A)):
        fx = Effects()
        group.on_prepare(ballot[1], (0, 0, ballot[0]), NOW, fx)
        assert fx.records == []
        assert fx.after.to[ballot[1]].prepare_replies == [(0, 0, ballot[0], 9, 9, C, b"")]


def test_rule_2_a_promise_carries_over_instances() -> None:
    group = make(B)
    fx = Effects()
    group.on_prepare(C, (0, 0, 9), NOW, fx)
    group.learner.on_learned(0, 3, A, NOOP, NOW, fx)
    fx = Effects()
    group.on_accept(A, (0, 1, 8, noop(group)), NOW, fx)
    assert fx.after.to[A].accept_replies == [(0, 1, 8, 9, C)]
    assert fx.records == []


# Rule 3


def test_rule_3_one_value_for_an_instance_and_ballot_at_the_acceptor() -> None:
    group = make(B)
    fx = Effects()
    group.on_accept(A, (0, 0, 4, V), NOW, fx)
    group.on_accept(A, (0, 0, 4, NOOP), NOW, fx)
    assert group.acceptor.value == V
    assert fx.after.to[A].accept_replies == [(0, 0, 4, 0, 0), (0, 0, 4, 4, A)]


def test_rule_3_a_resend_repeats_the_very_value() -> None:
    group = make()
    sent = prepared(group, b"x").now.all.accepts[0]
    fx = Effects()
    group.propose(50, LATER, 1, b"came later", None, fx)
    group.on_timer(group.proposer.resend_at, fx)
    assert fx.now.to[B].accepts == [sent]
    assert fx.now.to[C].accepts == [sent]


def test_rule_3_own_decisions_keep_the_ballot_and_skip_prepare() -> None:
    group = make()
    decided(group, b"x")
    fx = propose(group, b"y", seq=2)
    assert [message[:3] for message in fx.now.all.accepts] == [(0, 1, 1)]
    assert fx.after.all.prepares == []


def lose_by_promise(group: Group) -> None:
    group.on_prepare(C, (0, group.instance, 7), NOW, Effects())


def lose_by_report(group: Group) -> None:
    propose(group, b"lost", seq=70)
    group.proposer.on_accept_reply(C, group.instance, group.proposer.round, (7, C), NOW, Effects())


def lose_by_late_report(group: Group) -> None:
    group.proposer.on_accept_reply(C, group.instance - 1, group.proposer.round, (7, C), NOW, Effects())


def lose_by_foreign_decision(group: Group) -> None:
    group.learner.on_learned(group.instance, 7, C, noop(group), NOW, Effects())


def lose_by_foreign_notice(group: Group) -> None:
    group.on_accept(C, (0, group.instance, 7, noop(group)), NOW, Effects())
    group.on_chosen(C, group.instance, 7, NOW, Effects())


@pytest.mark.parametrize(
    "lose",
    [lose_by_promise, lose_by_report, lose_by_late_report, lose_by_foreign_decision, lose_by_foreign_notice],
)
def test_rule_3_a_lost_ballot_is_followed_by_a_full_prepare_above_everything_seen(lose: object) -> None:
    group = make()
    decided(group, b"x")
    used = group.proposer.round
    lose(group)  # type: ignore[operator]
    assert not group.proposer.held
    group.proposer.phase = Phase.IDLE
    group.proposer.backoff_until = 0
    fx = propose(group, b"y", seq=2)
    assert not fx.now.all.accepts
    (prepare,) = fx.after.all.prepares
    assert prepare[2] > used
    if lose is not lose_by_foreign_decision:
        assert prepare[2] > 7
    assert fx.records[0][:5] == (PROMISE, 0, group.instance, prepare[2], A)


def test_rule_3_a_restart_never_reuses_a_ballot() -> None:
    group = make(instance=4, promised=(6, A), accepted=(6, A), value=NOOP)
    fx = propose(group, b"x")
    assert fx.after.all.prepares == [(0, 4, 7)]
    assert not fx.now.all.accepts


def test_rule_3_a_timed_out_phase_goes_on_under_a_higher_ballot() -> None:
    group = make()
    prepared(group, b"x")
    fx = Effects()
    group.on_timer(group.proposer.phase_until, fx)
    assert fx.after.all.prepares == [(0, 0, 2)]


# Majorities and values


def test_the_value_of_the_highest_accepted_ballot_is_adopted() -> None:
    seats = {node: 10 + node for node in (A, B, C, 4, 5)}
    group = make(seats=seats)
    synced(group, propose(group, b"mine"))
    theirs = values.encode([(B, 1, 1, 0, 1, b"theirs")])
    older = values.encode([(C, 1, 1, 0, 1, b"older")])
    group.proposer.round = 9
    fx = Effects()
    group.acceptor.promised = (9, A)
    group.proposer.on_prepare_reply(B, 0, 9, 0, (5, B), theirs, NOW, fx)
    group.proposer.on_prepare_reply(C, 0, 9, 0, (3, C), older, NOW, fx)
    assert fx.now.all.accepts == [(0, 0, 9, theirs)]


def test_a_value_without_entries_is_adopted_like_any_other() -> None:
    """It may be chosen."""
    group = make(promised=(4, C))
    synced(group, propose(group, b"mine"))
    fx = Effects()
    group.proposer.on_prepare_reply(B, 0, 5, 0, (3, C), NOOP, NOW, fx)
    assert fx.now.all.accepts == [(0, 0, 5, NOOP)]


def test_an_own_accepted_value_counts_like_any_other() -> None:
    left = values.encode([(B, 1, 1, 0, 1, b"left over")])
    group = make(instance=3, promised=(4, B), accepted=(4, B), value=left)
    synced(group, propose(group, b"mine"))
    fx = Effects()
    group.proposer.on_prepare_reply(B, 3, 5, 0, NULL, b"", NOW, fx)
    assert fx.now.all.accepts == [(0, 3, 5, left)]


@pytest.mark.parametrize(("members", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_a_majority_is_more_than_half(members: int, needed: int) -> None:
    assert Members(dict.fromkeys(range(members), 1)).majority == needed


def test_votes_count_once_for_each_voter_instance_and_ballot() -> None:
    seats = {node: 10 + node for node in (A, B, C, 4, 5)}
    group = make(seats=seats)
    synced(group, propose(group, b"x"))
    fx = Effects()
    for _ in range(3):
        group.proposer.on_prepare_reply(B, 0, 1, 0, NULL, b"", NOW, fx)
        group.proposer.on_prepare_reply(C, 0, 99, 0, NULL, b"", NOW, fx)
        group.proposer.on_prepare_reply(4, 1, 1, 0, NULL, b"", NOW, fx)
    assert group.proposer.phase is Phase.PREPARING
    group.proposer.on_prepare_reply(C, 0, 1, 0, NULL, b"", NOW, fx)
    assert group.proposer.phase is Phase.ACCEPTING


def test_accepts_of_another_round_or_instance_are_no_votes() -> None:
    group = make()
    after = synced(group, prepared(group, b"x"))
    for instance, round in ((0, 0), (0, 2), (1, 1)):
        group.proposer.on_accept_reply(B, instance, round, NULL, NOW, after)
    assert group.instance == 0
    group.proposer.on_accept_reply(B, 0, 1, NULL, NOW, after)
    assert group.instance == 1


def test_a_promise_that_claims_an_accept_above_its_own_ballot_is_dropped() -> None:
    group = make()
    synced(group, propose(group, b"x"))
    fx = Effects()
    group.proposer.on_prepare_reply(B, 0, 1, 0, (2, C), b"forged", NOW, fx)
    assert group.proposer.phase is Phase.PREPARING
    assert not fx.now


# Rules 5 and 6


def test_rule_5_votes_only_at_the_current_instance() -> None:
    group = make(B, instance=5)
    fx = Effects()
    for instance in (0, 4, 6, 1 << 40):
        group.on_prepare(A, (0, instance, 3), NOW, fx)
        group.on_accept(A, (0, instance, 3, V), NOW, fx)
    assert fx.records == []
    assert not fx.after
    assert fx.now.to[A].positions == [(0, 5, 0)] * 4
    assert group.instance == 5


def test_rule_5_an_early_message_is_handled_when_its_instance_begins() -> None:
    group = make(B)
    fx = Effects()
    group.on_accept(A, (0, 0, 3, NOOP), NOW, fx)
    group.on_accept(A, (0, 1, 3, values.encode((), values.chain_after(NOOP))), NOW, fx)
    group.on_chosen(A, 0, 3, NOW, fx)
    assert fx.ready == [group]
    group.open(NOW, fx)
    assert group.acceptor.accepted == (3, A)
    assert group.acceptor.value == noop(group)


def test_rule_6_a_notice_counts_only_for_the_very_ballot_accepted() -> None:
    group = make(B)
    fx = Effects()
    group.on_accept(A, (0, 0, 3, NOOP), NOW, fx)
    group.on_chosen(C, 0, 3, NOW, fx)
    group.on_chosen(A, 0, 4, NOW, fx)
    assert fx.decided == []
    assert fx.now.to[C].asks == [(0, 0)]
    group.on_chosen(A, 0, 3, NOW, fx)
    assert [item[:2] for item in fx.decided] == [(0, 0)]


def test_rule_6_a_notice_of_the_next_instance_is_no_proof_for_this_one() -> None:
    group = make(B)
    fx = Effects()
    group.on_accept(A, (0, 0, 3, NOOP), NOW, fx)
    group.on_chosen(A, 1, 3, NOW, fx)
    assert fx.decided == []
    assert fx.now.to[A].asks == [(0, 0)]


def test_rule_6_the_next_instance_is_no_proof_for_this_one() -> None:
    """Reference, S2: an Accept for instance 1 under the ballot accepted in 0 proves nothing about 0."""
    group = make(B)
    fx = Effects()
    group.on_accept(A, (0, 0, 3, NOOP), NOW, fx)
    group.on_accept(A, (0, 1, 3, NOOP), NOW, fx)
    group.on_prepare(A, (0, 1, 3), NOW, fx)
    assert fx.decided == []
    assert group.instance == 0


def test_rule_6_a_hint_only_asks() -> None:
    group = make(B)
    fx = Effects()
    group.learner.on_position(A, 1 << 61, values.FIRST, NOW, fx)
    assert group.instance == 0
    assert fx.now.to[A].asks == [(0, 0)]
    assert propose(group, b"x").after.all.prepares, "a bogus hint must not stop proposing (reference, L3)"


def test_a_question_left_unanswered_goes_to_another_peer_next() -> None:
    """A peer that only claims to be ahead must not keep this node from asking one that is."""
    group = make(A)
    retry = group.timers.ask_retry
    fx = Effects()
    for tick in range(0, 100):
        now = NOW + tick * retry // 10
        group.learner.on_position(C, 1 << 40, values.FIRST, now, fx)
        if tick % 7 == 0:
            group.learner.on_position(B, 3, values.FIRST, now, fx)
    assert len(fx.now.to[B].asks) >= 2
    assert len(fx.now.to[B].asks) + len(fx.now.to[C].asks) <= 11


# Rules 7 to 9


def test_rule_7_a_node_in_another_seat_neither_votes_nor_proposes() -> None:
    group = make(B, seats={A: 11, B: 999, C: 13})
    fx = Effects()
    group.on_prepare(A, (0, 0, 3), NOW, fx)
    group.on_accept(A, (0, 0, 3, V), NOW, fx)
    group.on_top_ask(A, 1, fx)
    group.propose(1, LATER, 1, b"x", None, fx)
    group.open(NOW, fx)
    assert fx.records == []
    assert not fx.after
    assert not fx.now


def test_rule_8_mine_is_decided_by_identity_not_by_equal_bytes() -> None:
    """Reference, S6."""
    group = make()
    propose(group, b"same bytes")
    foreign = values.encode([(B, 902, 1, 0, 1, b"same bytes"), (A, 12345, 1, 0, 1, b"same bytes")])
    fx = Effects()
    group.learner.on_learned(0, 1, B, foreign, NOW, fx)
    assert fx.decided[0][3] is None
    assert list(group.own) == [1]


def test_rule_8_a_value_completed_by_another_node_is_still_mine() -> None:
    group = make()
    value = prepared(group, b"x").now.all.accepts[0][3]
    fx = Effects()
    group.learner.on_learned(0, 9, C, value, NOW, fx)
    owned = fx.decided[0][3]
    assert owned is not None
    assert list(owned) == [1]
    assert group.own == {}


def test_rule_9_a_conflict_proposes_again_in_the_next_instance_with_its_birth() -> None:
    group = make()
    prepared(group, b"x", b"y")
    fx = Effects()
    group.learner.on_learned(0, 9, C, NOOP, NOW, fx)
    group.proposer.backoff_until = 0
    group.open(NOW, fx)
    synced(group, fx)
    fx = Effects()
    group.proposer.on_prepare_reply(B, 1, group.proposer.round, 0, NULL, b"", NOW, fx)
    entries = values.decode(fx.now.all.accepts[0][3])
    assert [(entry[2], entry[3], entry[5]) for entry in entries] == [(1, 0, b"x"), (2, 0, b"y")]


def test_rule_9_what_is_decided_is_not_proposed_again() -> None:
    group = make()
    decided(group, b"x")
    fx = Effects()
    group.open(NOW, fx)
    assert not fx.now
    assert not fx.after


# Rule 15


def test_rule_15_rounds_far_above_the_known_ones_are_dropped() -> None:
    for too_high in (MAX_LEAP + 1, 1 << 62):
        group = make(B)
        fx = Effects()
        group.on_prepare(A, (0, 0, too_high), NOW, fx)
        assert group.proposer.seen == (MAX_LEAP, 0)
        group = make(B)
        group.on_accept(A, (0, 0, too_high, V), NOW, fx)
        assert group.proposer.seen == (MAX_LEAP, 0)
        assert fx.records == []
        assert not fx.after
    group = make(B)
    group.on_prepare(A, (0, 0, MAX_LEAP), NOW, fx)
    assert len(fx.records) == 1


def test_rule_15_a_reported_round_far_above_the_known_ones_is_not_believed() -> None:
    group = make()
    prepared(group, b"x")
    group.proposer.on_accept_reply(B, 0, 1, (MAX_LEAP + 2, C), NOW, Effects())
    assert group.proposer.seen == (MAX_LEAP + 1, 0)


@pytest.mark.parametrize("proposer", [A, B])
def test_rule_15_a_node_that_missed_great_leaps_catches_up(proposer: int) -> None:
    """A liar took one acceptor up leap by leap, then died: the other two must find together."""
    high, low = make(A), make(B)
    for leaps in (1, 2, 3):
        high.on_prepare(C, (0, 0, leaps * MAX_LEAP), NOW, Effects())
    group, other = (high, low) if proposer == A else (low, high)
    now = NOW
    group.propose(1, LATER, 1, b"x", None, Effects())
    for _ in range(20):
        now += 8_000 * MS
        fx = Effects()
        group.on_timer(now, fx)
        for _, instance, round in [*fx.after.all.prepares, *fx.after.peer(other.me).prepares]:
            answer = Effects()
            other.on_prepare(group.me, (0, instance, round), now, answer)
            for reply in answer.after.peer(group.me).prepare_replies:
                group.proposer.on_synced(now, Effects())
                _, instance, round, rejected_by, at_round, at_node, value = reply
                accepted = (at_round, at_node)
                group.proposer.on_prepare_reply(
                    other.me, instance, round, rejected_by, accepted, value, now, Effects()
                )
    assert other.acceptor.promised == (group.proposer.round, group.me)
    assert group.proposer.phase is Phase.ACCEPTING


# Rule 18


def test_rule_18_top_is_the_current_instance_only_with_an_accept() -> None:
    group = make(B, instance=5)
    fx = Effects()
    group.on_top_ask(A, 1, fx)
    group.on_prepare(A, (0, 5, 3), NOW, fx)
    group.on_top_ask(A, 2, fx)
    group.on_accept(A, (0, 5, 3, V), NOW, fx)
    group.on_top_ask(A, 3, fx)
    assert fx.now.to[A].top_replies == [(0, 1, 4, 0), (0, 2, 4, 0), (0, 3, 5, 0)]


# Liveness


def test_proposals_that_arrive_together_share_an_instance() -> None:
    group = make()
    after = decided(group, b"a", b"b", b"c")
    assert payloads(after) == [b"a", b"b", b"c"]
    assert group.instance == 1


def test_rejects_by_a_majority_end_the_round_and_back_off() -> None:
    group = make()
    prepared(group, b"x")
    fx = Effects()
    group.proposer.on_accept_reply(B, 0, 1, (5, C), NOW, fx)
    group.proposer.on_accept_reply(C, 0, 1, (6, B), NOW, fx)
    assert group.proposer.phase is Phase.IDLE
    assert NOW + 10 * MS <= group.proposer.backoff_until <= NOW + 40 * MS
    fx = Effects()
    group.on_timer(group.proposer.backoff_until, fx)
    assert fx.after.all.prepares == [(0, 0, 7)]


def test_each_loss_doubles_the_pause_and_each_decision_takes_one_back() -> None:
    """Where a round takes longer than the first pause, equal pauses would be a duel without end."""
    group = make()
    now = NOW
    pauses = []
    for number in range(12):
        propose(group, b"x%d" % number, seq=10 * number)
        group.proposer.backoff_until = 0
        group.open(now, Effects())
        group.on_prepare(C, (0, group.instance, group.proposer.round + 1), now, Effects())
        pauses.append(group.proposer.backoff_until - now)
    assert all(10 * MS << n <= pause <= 40 * MS << n for n, pause in enumerate(pauses[:7]))
    assert max(pauses) == group.timers.phase_max
    for instance in range(12):
        group.learner.on_learned(instance, 99, C, noop(group), now, Effects())
    assert group.proposer.losses == 0


def test_a_busy_peer_cannot_keep_others_waiting() -> None:
    """Its decisions come faster than a pause lasts: one pause must be enough, and a bid goes on."""
    group = make()
    propose(group, b"x")
    group.proposer.phase = Phase.IDLE
    now = NOW
    for instance in range(50):
        fx = Effects()
        group.learner.on_learned(instance, 7, C, noop(group), now, fx)
        group.open(now, fx)
        if group.proposer.phase is Phase.PREPARING:
            break
        now += MS
    assert group.proposer.phase is Phase.PREPARING
    assert now <= NOW + 41 * MS
    fx = Effects()
    group.learner.on_learned(group.instance, 7, C, noop(group), now, fx)
    group.open(now, fx)
    assert [message[1] for message in fx.after.all.prepares] == [group.instance]


def test_an_accepted_value_that_nobody_decides_is_completed() -> None:
    group = make(B)
    fx = Effects()
    group.on_accept(A, (0, 0, 3, V), NOW, fx)
    fx = Effects()
    group.on_timer(group.learner.leftover_at, fx)
    assert fx.now.all.positions == [(0, 0, 0)]
    group.on_timer(group.learner.leftover_at, fx)
    assert fx.after.all.prepares == [(0, 0, 4)]


def test_a_proposal_without_a_deadline_keeps_no_other_from_expiring() -> None:
    group = make()
    fx = Effects()
    group.propose(1, NEVER, 1, b"patient", None, fx)
    group.propose(2, NOW + 50 * MS, 1, b"later", None, fx)
    group.propose(3, NOW + 5 * MS, 1, b"soon", None, fx)
    assert group.on_timer(NOW + 1 * MS, fx) <= NOW + 5 * MS
    assert group.on_timer(NOW + 6 * MS, fx) <= NOW + 50 * MS
    assert fx.expired == [3]
    group.on_timer(NOW + 51 * MS, fx)
    assert group.on_timer(NOW + 51 * MS, fx) > NOW + 51 * MS
    assert fx.expired == [3, 2]
    assert list(group.own) == [1]


def test_expired_proposals_are_not_proposed_any_more() -> None:
    group = make()
    group.propose(1, LATER, 1, b"first", None, Effects())
    group.propose(2, NOW + 5 * MS, 1, b"second", None, Effects())
    fx = Effects()
    value = group.take_batch(NOW + 6 * MS, fx)
    assert [entry[2] for entry in values.decode(value)] == [1]
    assert fx.expired == [2]


def test_expired_proposals_are_given_up() -> None:
    group = make()
    fx = Effects()
    group.propose(1, NOW + 5 * MS, 1, b"x", None, fx)
    assert group.due <= NOW + 5 * MS
    assert fx.timers == [group]
    group.on_timer(NOW + 6 * MS, fx)
    assert fx.expired == [1]
    assert group.own == {}


def test_a_lagging_peer_is_told_where_we_are_and_served() -> None:
    group = make(B, instance=9)
    fx = Effects()
    group.learner.on_position(A, 4, values.FIRST, NOW, fx)
    group.learner.on_ask(A, 4, NOW, fx)
    assert fx.now.to[A].positions == [(0, 9, 0)]
    assert fx.serve == [(A, 0, 4)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\x02" + bytes(7),
        b"\x01\x00\x00\x00\xff\xff\xff\xff",
        NOOP + b"!",
        NOOP[:-1],
    ],
)
def test_bytes_that_are_no_value_decode_to_nothing(data: bytes) -> None:
    assert values.decode(data) == []


def test_a_value_round_trips() -> None:
    entries = [(1, 2, 3, 4, 5, b"payload"), (2**64 - 1, 0, 2**63, 0, 99_999_999, b"")]
    assert values.decode(values.encode(entries)) == entries
