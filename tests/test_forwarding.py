"""Proposals that go to the node that holds the ballot: who forwards, who takes, and nothing twice."""

from __future__ import annotations

import pytest

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.proposer import Phase
from paxmux.engine.paxos.timers import MS, Bounds, Timers
from tests.core import LATER, NOW, SEATS, A, B, C, entry, incarnation, learn, make, synced


def propose(group: Group, *seqs: int, now: int = NOW, deadline: int = LATER) -> Effects:
    fx = Effects()
    for seq in seqs:
        group.propose(seq, deadline, 1, b"%d" % seq, None, fx)
    group.open(now, fx)
    return fx


def behind(node: int = B, **state: object) -> Group:
    """A's group, after it promised `node` its ballot."""
    group = make(A, **state)
    group.on_prepare(node, (0, group.instance, 7), NOW, Effects())
    return group


def seqs(batch: bytes) -> list[int]:
    return [item[2] for item in values.decode(batch)]


def forwards(fx: Effects, node: int = B) -> list[list[int]]:
    return [seqs(batch) for _, _, batch in fx.now.peer(node).forwards]


def holding(me: int = B) -> Group:
    """A group that holds the ballot and has decided one instance of its own."""
    group = make(me)
    first = propose(group, 1)
    synced(group, first)
    fx = Effects()
    group.proposer.on_prepare_reply(C, 0, 1, 0, NULL, b"", NOW, fx)
    after = synced(group, fx)
    group.proposer.on_accept_reply(C, 0, 1, NULL, NOW, after)
    assert group.proposer.held
    assert group.instance == 1
    return group


def take(group: Group, *entries: values.Entry, born: int | None = None, sender: int = A) -> Effects:
    fx = Effects()
    batch = values.encode(entries)
    group.forwarder.on_forward(sender, group.instance if born is None else born, batch, NOW, fx)
    return fx


def opened(group: Group) -> list[int]:
    """What the next Accept carries."""
    fx = Effects()
    group.open(NOW, fx)
    return [item[2] for message in fx.now.all.accepts for item in values.decode(message[3])]


# Who forwards


def test_what_a_node_without_the_ballot_proposes_goes_to_its_holder() -> None:
    group = behind()
    fx = propose(group, 4, 5)
    assert forwards(fx) == [[4, 5]]
    assert group.proposer.phase is Phase.IDLE
    assert not fx.after.all.prepares
    assert list(group.own) == [4, 5], "they stay the origin's"


def test_without_a_holder_a_node_bids() -> None:
    assert propose(make(A), 4).after.all.prepares
    assert propose(behind(9), 4).after.all.prepares, "9 is no member"


def test_forwarding_can_be_switched_off() -> None:
    assert propose(behind(timers=Timers(forward=0)), 4).after.all.prepares


def test_one_forward_at_a_time_and_what_comes_meanwhile_waits_for_the_next() -> None:
    group = behind()
    propose(group, 4, 5)
    assert forwards(propose(group, 6)) == []
    learn(group, entry(A, 4), entry(A, 5))
    fx = Effects()
    group.open(NOW, fx)
    assert forwards(fx) == [[6]]


def test_a_forward_is_sent_again_with_what_is_left_of_it() -> None:
    group = behind()
    propose(group, 4, 5)
    learn(group, entry(A, 4))
    fx = Effects()
    due = group.forwarder.on_timer(NOW + 100 * MS, fx)
    (message,) = fx.now.to[B].forwards
    assert message[1] == 1, "not decided below where this node is now"
    assert seqs(message[2]) == [5]
    assert NOW + 100 * MS < due <= NOW + 200 * MS


def test_when_nothing_comes_of_it_the_node_bids_itself() -> None:
    group = behind()
    propose(group, 4)
    late = NOW + group.timers.forward
    fx = Effects()
    group.on_timer(late, fx)
    assert [message[1] for message in fx.after.all.prepares] == [0]
    assert group.proposer.round > 7


def test_its_patience_grows_while_nothing_comes_of_it_and_comes_back() -> None:
    group = behind()
    propose(group, 4)
    now = NOW + group.timers.forward
    group.on_timer(now, Effects())
    group.on_prepare(C, (0, 0, group.proposer.round + 1), now, Effects())
    fx = Effects()
    group.open(now, fx)
    assert forwards(fx, C) == [[4]]
    assert group.forwarder.until == now + 2 * group.timers.forward
    learn(group, entry(A, 4), now=now)
    propose(group, 5, now=now)
    assert group.forwarder.until == now + group.timers.forward


def test_what_expires_is_no_fresh_start() -> None:
    """Deadlines shorter than the patience: whoever holds the ballot may be dead, and nobody would bid."""
    group = behind()
    until = NOW + group.timers.forward
    propose(group, 4)
    group.own.clear()
    fx = propose(group, 5, now=NOW + 150 * MS)
    assert forwards(fx) == [[5]]
    assert group.forwarder.until == until
    group.own.clear()
    fx = propose(group, 6, now=until)
    assert forwards(fx) == []
    assert group.proposer.phase == Phase.PREPARING
    assert group.forwarder.patience == 2 * group.timers.forward


def test_what_is_decided_late_shows_that_the_holder_works() -> None:
    group = behind()
    propose(group, 4)
    group.own.clear()
    learn(group, entry(B, 1), now=NOW + 180 * MS)
    assert group.forwarder.pending
    learn(group, entry(A, 4), now=NOW + 180 * MS)
    fx = propose(group, 5, now=NOW + 250 * MS)
    assert forwards(fx) == [[5]]
    assert group.forwarder.until == NOW + 250 * MS + 360 * MS


def test_it_follows_the_ballot() -> None:
    group = behind()
    propose(group, 4)
    fx = Effects()
    group.on_prepare(C, (0, 0, 8), NOW, fx)
    assert fx.ready
    group.open(NOW, fx)
    assert forwards(fx, C) == [[4]]


def test_a_rejection_tells_whose_ballot_it_is() -> None:
    group = make(A)
    synced(group, propose(group, 4))
    fx = Effects()
    group.proposer.on_prepare_reply(B, 0, 1, 9, (9, C), b"", NOW, fx)
    group.proposer.on_prepare_reply(C, 0, 1, 9, (9, C), b"", NOW, fx)
    group.open(NOW, fx)
    assert forwards(fx, C) == [[4]]
    assert not fx.after.all.prepares


def test_who_lost_the_ballot_leaves_what_it_sent_to_the_winner() -> None:
    """He finds out what became of it. Nobody waits for ever, though."""
    group = holding(A)
    propose(group, 4)
    assert group.proposer.phase is Phase.ACCEPTING
    fx = Effects()
    group.on_prepare(B, (0, 1, 7), NOW, fx)
    group.open(NOW, fx)
    assert not group.proposer.completing
    assert forwards(fx) == [[4]]
    assert group.learner.leftover_at <= NOW + group.timers.leftover


def test_a_refusal_names_another_or_makes_the_node_bid() -> None:
    group = behind()
    propose(group, 4)
    fx = Effects()
    group.forwarder.on_refusal(B, (9, C), NOW, fx)
    group.open(NOW, fx)
    assert forwards(fx, C) == [[4]]
    fx = Effects()
    group.forwarder.on_refusal(C, (9, C), NOW, fx)
    group.open(NOW, fx)
    assert not fx.now.to, "after a pause"
    group.on_timer(NOW + group.timers.backoff_max, fx)
    assert fx.after.all.prepares


def test_a_refusal_by_somebody_else_means_nothing() -> None:
    group = behind()
    propose(group, 4)
    group.forwarder.on_refusal(C, (9, C), NOW, Effects())
    assert group.forwarder.ballot == (7, B)
    assert group.proposer.seen == NULL


def test_a_deadline_passes_at_the_origin() -> None:
    group = behind()
    propose(group, 4, deadline=NOW + 50 * MS)
    fx = Effects()
    group.on_timer(NOW + 60 * MS, fx)
    assert fx.expired == [4]
    group.on_timer(NOW + 500 * MS, fx)
    assert not fx.after.all.prepares, "nothing is left to propose"


# Who takes


def test_the_holder_proposes_what_it_is_handed_with_its_own() -> None:
    group = holding()
    fx = take(group, entry(A, 4), entry(A, 5))
    group.propose(2, LATER, 1, b"own", None, fx)
    assert fx.ready
    accept = Effects()
    group.open(NOW, accept)
    (message,) = accept.now.all.accepts
    assert [item[:3] for item in values.decode(message[3])] == [
        (A, incarnation(A), 4),
        (A, incarnation(A), 5),
        (B, incarnation(B), 2),
    ]


def test_the_notice_does_not_wait_where_somebody_waits_for_it() -> None:
    group = holding()
    take(group, entry(A, 4))
    fx = Effects()
    group.open(NOW, fx)
    after = synced(group, fx)
    assert not after.eager
    group.proposer.on_accept_reply(C, 1, group.proposer.round, NULL, NOW, after)
    assert after.eager


def test_who_bids_takes_too() -> None:
    group = make(B)
    propose(group, 1)
    take(group, entry(A, 4))
    fx = Effects()
    group.proposer.own_vote_due = False
    group.proposer.on_prepare_reply(C, 0, 1, 0, NULL, b"", NOW, Effects())
    group.proposer.on_prepare_reply(A, 0, 1, 0, NULL, b"", NOW, fx)
    (message,) = fx.now.all.accepts
    assert [item[2] for item in values.decode(message[3])] == [1, 4]


def test_forwarding_is_one_hop() -> None:
    group = holding()
    group.on_prepare(C, (0, 1, 9), NOW, Effects())
    fx = take(group, entry(A, 4))
    assert fx.now.to[A].forward_refusals == [(0, 1, 9, C)]
    assert set(fx.now.to) == {A}
    assert not group.forwarder.taken


def test_what_was_taken_goes_with_the_ballot() -> None:
    group = holding()
    take(group, entry(A, 4))
    group.on_prepare(C, (0, 1, 9), NOW, Effects())
    assert not group.forwarder.taken
    fx = Effects()
    group.open(NOW, fx)
    assert not fx.after.all.prepares


def test_everybody_has_his_share() -> None:
    group = holding()
    group.bounds = Bounds(4, 1 << 20)
    take(group, *[entry(A, seq) for seq in range(10, 20)])
    take(group, *[entry(C, seq) for seq in range(30, 40)], sender=C)
    for seq in range(50, 60):
        group.propose(seq, LATER, 1, b"own", None, Effects())
    assert {seq // 10 for seq in opened(group)} == {1, 3, 5}


def test_large_values_go_first_in_turn() -> None:
    group = holding()
    group.bounds = Bounds(100, 2000)
    large = bytes(3000)
    take(group, entry(A, 10, large))
    take(group, entry(C, 30, large), sender=C)
    group.propose(50, LATER, 1, large, None, Effects())
    seen = []
    for _ in range(3):
        fx = Effects()
        group.open(NOW, fx)
        (message,) = fx.now.all.accepts
        seen += seqs(message[3])
        after = synced(group, fx)
        group.proposer.on_accept_reply(C, group.instance, group.proposer.round, NULL, NOW, after)
    assert sorted(seen) == [10, 30, 50]


# Nothing twice (rule 9)


def test_rule_9_what_is_decided_is_not_taken_again() -> None:
    group = holding()
    take(group, entry(A, 4), entry(A, 5))
    learn(group, entry(A, 4))
    assert [item[2] for item in group.forwarder.taken[A]] == [5]
    fx = take(group, entry(A, 4))
    assert fx.now.to[A].positions, "it does not know yet that it is decided"
    assert [item[2] for item in group.forwarder.taken[A]] == [5]


def test_rule_9_what_may_have_been_decided_before_this_node_knew_is_not_taken() -> None:
    group = make(B, instance=8, promised=(3, B))
    assert not take(group, entry(A, 4), born=7).ready
    assert not group.forwarder.taken
    assert take(group, entry(A, 4), born=8).ready
    assert group.forwarder.taken


def test_rule_9_an_old_forward_of_an_earlier_life_is_not_taken() -> None:
    """Only the last life of each origin is remembered: what was born before that life began is unknown."""
    group = make(B, promised=(3, B))
    learn(group, entry(A, 4))
    learn(group, entry(A, 1, life=1))
    assert group.instance == 2
    for born in (0, 1):
        take(group, entry(A, 4), born=born)
        assert not group.forwarder.taken
        take(group, entry(A, 1, life=1), born=born)
        assert not group.forwarder.taken
    take(group, entry(A, 2, life=1), born=2)
    assert [item[2] for item in group.forwarder.taken[A]] == [2]


def test_rule_9_two_lives_in_one_value() -> None:
    group = make(B, promised=(3, B))
    learn(group, entry(A, 4), entry(A, 1, life=1))
    take(group, entry(A, 4), born=0)
    take(group, entry(A, 5), born=0)
    assert not group.forwarder.taken


def test_rule_9_a_node_that_lags_behind_the_origin_takes_nothing() -> None:
    group = holding()
    fx = take(group, entry(A, 4), born=5)
    assert not group.forwarder.taken
    assert fx.now.to[A].asks == [(0, 1)]
    assert fx.now.to[A].forward_refusals == [(0, 1, 1, B)]


@pytest.mark.parametrize(
    "entries",
    [
        [entry(C, 4)],
        [entry(A, 4), entry(C, 5)],
        [entry(A, 4), entry(A, 4)],
        [entry(A, 5), entry(A, 4)],
        [entry(A, 0)],
        [entry(A, 4), entry(A, 5, life=1)],
    ],
    ids=["another's", "partly another's", "twice", "wrong order", "no number", "two lives"],
)
def test_rule_15_a_forward_in_which_anything_is_wrong_is_dropped_whole(entries: list[values.Entry]) -> None:
    group = holding()
    take(group, *entries)
    assert not group.forwarder.taken


def test_rule_15_a_forward_is_no_larger_than_two_instances() -> None:
    group = holding()
    group.bounds = Bounds(512, 1000)
    take(group, *[entry(A, seq, bytes(500)) for seq in range(1, 6)])
    assert not group.forwarder.taken
    take(group, entry(A, 1, bytes(5000)))
    assert group.forwarder.taken, "a single value may be larger than a batch"


def test_only_members_are_remembered() -> None:
    group = make(B)
    learn(group, (99, 5, 1, 0, 1, b"?"))
    assert group.forwarder.marks == {}
    assert set(SEATS) == {A, B, C}
