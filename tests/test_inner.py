"""The lane of inner operations, and the lease, call by call."""

from __future__ import annotations

import random

import pytest

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import SYSTEM, Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.inner import HANDED_MAX
from paxmux.engine.paxos.master import RENEWALS, STARTS_MAX, LeaseTerms
from paxmux.engine.paxos.system import (
    BAD_MEMBERS,
    GID_NOT_SAME,
    MASTER_SMID,
    MEMBERSHIP_SMID,
    NO_TERM,
    NOT_A_MEMBER,
    VERSION_CONFLICT,
    Change,
    Reign,
    ReignOp,
    decode_reign_op,
    decode_state,
    encode_change,
    encode_reign_op,
)
from paxmux.engine.paxos.timers import MS, NEVER
from tests.core import LATER, NOW, SEATS, A, B, C, entry, incarnation, learn, make, synced

D = 4
CLUSTER = 7
LEASE = 1000 * MS
WITH_D = {A: (11, ""), B: (12, ""), C: (13, ""), D: (14, "")}
WITHOUT_A = {B: (12, ""), C: (13, "")}


def lease(origin: int, version: int, nonce: int, *, fresh: bool = False, of: int = LEASE) -> values.Entry:
    op = ReignOp(origin, incarnation(origin), version, of, fresh=fresh)
    return origin, 0, nonce, 0, MASTER_SMID, encode_reign_op(op)


def release(origin: int, version: int, heir: int = 0) -> values.Entry:
    op = ReignOp(origin, incarnation(origin), version, 0, release=True, heir=heir)
    return origin, 0, 5, 0, MASTER_SMID, encode_reign_op(op)


def change(members: dict[int, tuple[int, str]], version: int = -1, cluster: int = CLUSTER) -> values.Entry:
    return B, 0, 6, 0, MEMBERSHIP_SMID, encode_change(Change(cluster, version, members))


def decided(group: Group, *entries: values.Entry, inner: int = 1, now: int = NOW, node: int = C) -> Effects:
    """The current instance is decided elsewhere, with so many inner entries in front."""
    fx = Effects()
    data = values.encode(entries, group.chain, inner)
    group.learner.on_learned(group.instance, 3, node, data, now, fx)
    return fx


def leading(**state: object) -> Group:
    """A group whose proposer holds the ballot, at instance 1."""
    group = make(cluster=CLUSTER, **state)
    fx = Effects()
    group.propose(1, LATER, 1, b"first", None, fx)
    group.open(NOW, fx)
    after = synced(group, fx)
    group.proposer.on_prepare_reply(B, 0, 1, 0, (0, 0), b"", NOW, after)
    last = synced(group, after)
    group.proposer.on_accept_reply(B, 0, 1, (0, 0), NOW, last)
    assert group.instance == 1
    assert group.proposer.held
    return group


def masters(**state: object) -> Group:
    return make(cluster=CLUSTER, lease=LeaseTerms(True, LEASE, 10_000), **state)


# Membership


def test_a_change_holds_from_the_next_instance_on_and_is_recorded() -> None:
    """Reference, S11: who the members are says the log, never a peer."""
    group = leading()
    fx = decided(group, change(WITH_D), entry(B, 1))
    assert group.members.seats == {A: 11, B: 12, C: 13, D: 14}
    assert (group.members.since, group.members.version, group.members.majority) == (2, 1, 3)
    assert sorted(group.peers) == [B, C, D]
    assert fx.members_changed == [group]
    assert not group.proposer.held, "its majority promised it as other members"
    (record,) = [record for record in fx.records if record[0] == SYSTEM]
    assert record[:3] == (SYSTEM, 0, 2)
    assert decode_state(record[5]).membership.members == WITH_D
    kinds = [record[0] for record in fx.records]
    assert kinds.index(SYSTEM) > 0, "after the value that it follows from"


@pytest.mark.parametrize(
    ("wrong", "members"),
    [("version", WITH_D), ("cluster", WITH_D), ("members", {}), ("bytes", WITH_D)],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_a_change_that_may_not_be_changes_nothing(wrong: str, members: dict[int, tuple[int, str]]) -> None:
    group = leading()
    op = change(
        members, version=0 if wrong == "version" else -1, cluster=8 if wrong == "cluster" else CLUSTER
    )
    if wrong == "bytes":
        op = (*op[:5], op[5][:-1])
    fx = decided(group, op)
    assert group.instance == 2
    assert group.members.since == 0
    assert not fx.members_changed
    assert SYSTEM not in [record[0] for record in fx.records]


def test_two_changes_in_one_instance_the_first_counts() -> None:
    group = leading()
    decided(group, change(WITH_D), change(WITHOUT_A), inner=2)
    assert group.members.seats == {A: 11, B: 12, C: 13, D: 14}


def test_entries_behind_the_counted_ones_are_no_operations() -> None:
    group = leading()
    decided(group, lease(B, -1, 9), change(WITH_D), inner=1)
    assert group.members.since == 0
    assert group.master.node == B


def test_who_is_removed_gives_up_what_it_proposed_and_bids_no_more() -> None:
    group = leading()
    fx = Effects()
    group.propose(2, LATER, 1, b"later", None, fx)
    fx = decided(group, change(WITHOUT_A))
    assert fx.unseated == [2]
    assert not group.own
    assert not group.voter
    assert not group.seated
    again = Effects()
    group.open(NOW, again)
    assert not again.records
    group.on_prepare(B, (0, 2, 50), NOW, again)
    assert not again.after, "it has no vote"
    assert group.doubt.floor == 0


def test_what_came_early_from_a_member_that_was_is_forgotten() -> None:
    group = leading()
    fx = Effects()
    group.on_accept(C, (0, 2, 9, values.encode([entry(C, 1)])), NOW, fx)
    group.on_prepare(C, (0, 2, 9), NOW, fx)
    assert group.early_accept is not None
    fx = decided(group, change({A: (11, ""), B: (12, "")}))
    group.open(NOW, fx)
    assert group.acceptor.promised == (1, A)
    assert group.acceptor.accepted == (0, 0)


def submit(
    group: Group, members: dict[int, tuple[int, str]], version: int = -1, cluster: int = CLUSTER
) -> Effects:
    fx = Effects()
    group.inner.submit_change(9, LATER, Change(cluster, version, members), NOW, fx)
    return fx


def test_a_change_waits_until_who_is_new_has_caught_up_in_its_seat() -> None:
    group = leading()
    for _ in range(100):
        learn(group, entry(C, group.instance, life=group.instance))
    fx = submit(group, WITH_D)
    assert not group.inner.count
    assert group.due <= NOW, "it is asked where it stands"
    group.on_timer(NOW, fx)
    assert fx.now.to[D].positions == [group.position()]
    group.learner.sits(D, 14)
    group.learner.on_position(D, group.instance - 65, b"", NOW, fx)
    assert not group.inner.count
    group.learner.sits(D, 99)
    group.learner.on_position(D, group.instance, group.chain, NOW, fx)
    assert not group.inner.count, "it is another directory that has caught up"
    group.learner.sits(D, 14)
    assert D not in group.learner.heard, "what was heard was heard of the other one"
    group.learner.on_position(D, group.instance - 64, b"", NOW, fx)
    assert group.inner.count == 1
    assert group in fx.ready


@pytest.mark.parametrize(
    ("members", "version", "cluster", "code"),
    [
        (WITH_D, 0, CLUSTER, VERSION_CONFLICT),
        (WITH_D, -1, 8, GID_NOT_SAME),
        ({}, -1, CLUSTER, BAD_MEMBERS),
    ],
)
def test_what_cannot_be_is_said_at_once(
    members: dict[int, tuple[int, str]], version: int, cluster: int, code: int
) -> None:
    fx = submit(leading(), members, version, cluster)
    assert [answer[:2] for answer in fx.answered] == [(9, code)]


def test_who_has_no_vote_changes_no_members() -> None:
    group = make(seats={**SEATS, A: 99}, cluster=CLUSTER)
    assert [answer[:2] for answer in submit(group, WITH_D).answered] == [(9, NOT_A_MEMBER)]


def test_the_outcome_is_that_of_the_operation_itself() -> None:
    group = leading()
    fx = submit(group, WITHOUT_A)
    group.open(NOW, fx)
    ((_, instance, round, value),) = fx.now.all.accepts
    later = synced(group, fx)
    group.proposer.on_accept_reply(B, instance, round, (0, 0), NOW, later)
    assert later.answered == [(9, 0, 1, None)]
    assert value[1] == 1
    assert not group.inner.own


def test_a_change_that_another_one_has_overtaken_is_answered() -> None:
    group = leading()
    submit(group, WITHOUT_A)
    fx = decided(group, change(WITH_D))
    assert [answer[:2] for answer in fx.answered] == [(9, VERSION_CONFLICT)]
    assert not group.inner.own


def test_a_change_whose_deadline_passes_has_no_known_outcome() -> None:
    group = leading()
    submit(group, WITH_D)
    fx = Effects()
    group.on_timer(LATER, fx)
    assert fx.expired == [9]
    assert not group.inner.own


# On the way


def follower_of(holder: int, **state: object) -> Group:
    """A group whose node has promised another one's ballot."""
    return make(cluster=CLUSTER, promised=(5, holder), **state)


def test_an_operation_goes_to_who_holds_the_ballot_a_few_times_and_then_this_node_bids() -> None:
    group = follower_of(B)
    fx = submit(group, WITHOUT_A)
    now = NOW
    for _ in range(HANDED_MAX):
        fx = Effects()
        group.open(now, fx)
        ((index, batch),) = fx.now.to[B].inner_forwards
        assert index == 0
        assert len(values.decode(batch)) == batch[1] == 1
        assert not fx.records
        now += group.timers.forward
    fx = Effects()
    group.open(now, fx)
    assert fx.after.all.prepares, "it bids"


def test_bids_that_are_made_anew_do_not_wait_for_a_dead_holder_for_ever() -> None:
    """The master was the holder, gave its lease back and is gone; each bid for a short lease is given up
    before it was handed on as often as one may be."""
    group = masters()
    group.acceptor.promise(0, (5, C), Effects())
    decided(group, lease(C, -1, 9))
    decided(group, release(C, 0))
    now = group.master.bid_at
    for _ in range(2000):
        fx = Effects()
        group.on_timer(now, fx)
        group.open(now, fx)
        if group.proposer.phase:
            break
        now += 10 * MS
    assert group.proposer.phase, "it left its bids to a holder that never answered"


def test_whoever_leads_takes_operations_along_once() -> None:
    """Reference, L14: in front of all that waits."""
    group = leading()
    fx = Effects()
    op = lease(B, -1, 9)
    group.inner.on_forward(B, values.encode([op], inner=1), fx)
    assert group.inner.count == 1
    group.propose(2, LATER, 1, b"own", None, fx)
    group.open(NOW, fx)
    ((_, _, _, value),) = fx.now.all.accepts
    assert values.decode(value)[0] == op
    assert value[1] == 1
    assert not group.inner.taken


@pytest.mark.parametrize(
    "batch",
    [
        b"",
        values.encode([]),
        values.encode([lease(C, -1, 9)], inner=1),
        values.encode([lease(B, -1, 9)], inner=0),
        values.encode([(B, 5, 9, 0, MASTER_SMID, b"")], inner=1),
        values.encode([(B, 0, 9, 0, 1, b"")], inner=1),
        values.encode([lease(B, -1, n) for n in range(5)], inner=5),
        values.encode([(B, 0, 9, 0, MASTER_SMID, bytes(1 << 15) + b"x")], inner=1),
    ],
    ids=["nothing", "none", "another's", "no inner", "an incarnation", "a user's", "too many", "too large"],
)
def test_what_is_no_operation_of_the_sender_is_not_taken(batch: bytes) -> None:
    group = leading()
    group.inner.on_forward(B, batch, Effects())
    assert not group.inner.taken


def test_who_does_not_lead_takes_nothing() -> None:
    group = follower_of(C)
    group.inner.on_forward(B, values.encode([lease(B, -1, 9)], inner=1), Effects())
    assert not group.inner.taken


# Leases


def bid(group: Group, now: int) -> tuple[int, ReignOp]:
    """(nonce, operation) that the group wants decided."""
    fx = Effects()
    assert group.master.on_timer(now, fx) > now
    ((nonce, operation),) = group.inner.own.items()
    op = decode_reign_op(operation.payload)
    assert op is not None
    return nonce, op


def test_the_owner_counts_from_its_start_and_shorter_than_everybody_else() -> None:
    group = masters()
    nonce, op = bid(group, NOW)
    assert op == ReignOp(A, incarnation(A), -1, LEASE, fresh=True)
    decided(group, (A, 0, nonce, 0, MASTER_SMID, encode_reign_op(op)), now=NOW + 300 * MS)
    assert group.master.until == NOW + LEASE - LEASE // 100
    assert group.master.holds(NOW + 900 * MS)
    assert not group.master.holds(NOW + LEASE - LEASE // 100)

    other = masters(me=B)
    decided(other, (A, 0, nonce, 0, MASTER_SMID, encode_reign_op(op)), now=NOW + 300 * MS)
    assert other.master.until == NOW + 300 * MS + LEASE
    assert other.master.believed(NOW) == A
    assert not other.master.holds(NOW)
    assert other.master.bid_at >= other.master.until


def test_an_operation_of_an_earlier_life_gives_nobody_a_lease() -> None:
    group = masters()
    fx = decided(group, lease(A, -1, 1234))
    assert group.master.node == A
    assert not group.master.holds(NOW)
    assert fx.master_changed == [group]


def test_an_equal_operation_with_another_number_is_not_the_own_one() -> None:
    """Reference, S10: whose an operation is must not depend on who has it decided, nor on its bytes."""
    group = masters()
    nonce, op = bid(group, NOW)
    decided(group, (A, 0, nonce ^ 1, 0, MASTER_SMID, encode_reign_op(op)))
    assert not group.master.holds(NOW)


def test_each_start_has_its_own_number() -> None:
    group = masters()
    first, op = bid(group, NOW)
    second, later = bid(group, NOW + LEASE)
    assert first != second
    assert op == later
    decided(group, (A, 0, first, 0, MASTER_SMID, encode_reign_op(op)), now=NOW + LEASE)
    assert not group.master.holds(NOW + LEASE), "it counts from the start of the one that was decided"


def test_after_a_restart_a_foreign_lease_is_waited_for_and_the_own_one_is_gone() -> None:
    reign = Reign(B, incarnation(B), 5, 3, LEASE)
    group = masters(reign=reign, instance=6)
    assert group.master.believed(NOW) == B
    assert group.master.bid_at >= NOW + LEASE
    own = masters(reign=Reign(A, incarnation(A), 5, 3, LEASE), instance=6)
    assert not own.master.holds(NOW)
    _, op = bid(own, NOW)
    assert op.fresh, "the reign before has ended with its process"


def test_a_lease_is_renewed_on_a_grid_that_groups_share() -> None:
    dues = set()
    for at in (NOW, NOW + 7 * MS, NOW + 99 * MS):
        group = masters()
        nonce, op = bid(group, at)
        decided(group, (A, 0, nonce, 0, MASTER_SMID, encode_reign_op(op)), now=at + MS)
        dues.add(group.master.bid_at)
    (due,) = dues
    assert due % (LEASE // RENEWALS) == 0


def test_a_lease_that_goes_on_keeps_its_term_and_one_that_ended_does_not() -> None:
    group = masters()
    nonce, op = bid(group, NOW)
    decided(group, (A, 0, nonce, 0, MASTER_SMID, encode_reign_op(op)))
    nonce, op = bid(group, NOW + LEASE // RENEWALS)
    assert not op.fresh
    decided(group, (A, 0, nonce, 0, MASTER_SMID, encode_reign_op(op)), now=NOW + LEASE // RENEWALS)
    assert (group.master.version, group.master.term) == (1, 0)
    nonce, op = bid(group, NOW + 3 * LEASE)
    assert op.fresh
    decided(group, (A, 0, nonce, 0, MASTER_SMID, encode_reign_op(op)), now=NOW + 3 * LEASE)
    assert (group.master.version, group.master.term) == (2, 2)
    assert [group.master.term_at(instance) for instance in range(5)] == [NO_TERM, 0, 0, 2, 2]


def test_a_master_that_gives_back_counts_on_nothing_from_then_on() -> None:
    group = masters()
    nonce, op = bid(group, NOW)
    decided(group, (A, 0, nonce, 0, MASTER_SMID, encode_reign_op(op)))
    fx = Effects()
    assert group.master.drop(NOW, fx, B)
    assert not group.master.holds(NOW)
    assert group.master.bid_at >= NOW + 2 * LEASE
    (operation,) = group.inner.own.values()
    assert decode_reign_op(operation.payload) == ReignOp(A, incarnation(A), 0, 0, release=True, heir=B)
    assert not group.master.drop(NOW, fx)


def test_the_heir_goes_first_and_the_others_let_it() -> None:
    dues = {}
    for me in (B, C):
        group = masters(me=me)
        decided(group, lease(A, -1, 1))
        decided(group, release(A, 0, heir=C))
        assert group.master.believed(NOW) == 0
        dues[me] = group.master.bid_at
    assert dues[C] == NOW
    assert dues[B] > NOW + LEASE // 2


def test_masters_are_spread_also_where_one_is_missing() -> None:
    first = dict.fromkeys(SEATS, 0)
    second = dict.fromkeys((B, C), 0)
    for index in range(300):
        ranks = {}
        for me in SEATS:
            group = make(me=me)
            group.index = index
            ranks[me] = group.master.rank()
        assert sorted(ranks.values()) == [0, 1, 2]
        winner = min(ranks, key=lambda node: ranks[node])
        first[winner] += 1
        if winner == A:
            second[min((B, C), key=lambda node: ranks[node])] += 1
    assert set(first.values()) == {100}
    assert min(second.values()) > 25


def test_of_many_starts_the_last_ones_are_remembered() -> None:
    group = masters()
    for n in range(3 * STARTS_MAX):
        bid(group, NOW + n * LEASE)
    assert len(group.master.starts) == STARTS_MAX
    assert min(group.master.starts.values()) == NOW + 2 * STARTS_MAX * LEASE


def test_a_node_that_is_no_member_gets_no_lease() -> None:
    group = leading()
    decided(group, change({A: (11, ""), B: (12, "")}))
    fx = decided(group, lease(C, -1, 9))
    assert group.master.node == 0
    assert not fx.master_changed


def test_who_has_no_vote_bids_for_no_lease() -> None:
    group = masters(seats={**SEATS, A: 99})
    fx = Effects()
    for n in range(20):
        group.master.on_timer(NOW + n * LEASE, fx)
    assert not group.inner.own


def test_where_leases_are_off_nobody_bids_but_everybody_knows() -> None:
    group = make(cluster=CLUSTER)
    assert group.master.on_timer(LATER, Effects()) == NEVER
    decided(group, lease(B, -1, 9))
    assert group.master.believed(NOW) == B


def test_a_renewal_that_names_an_old_version_is_made_anew_at_once() -> None:
    group = masters()
    nonce, op = bid(group, NOW)
    first = (A, 0, nonce, 0, MASTER_SMID, encode_reign_op(op))
    bid(group, NOW + LEASE // 4)
    decided(group, first, now=NOW + LEASE // 4)
    assert group.master.holds(NOW + LEASE // 4)
    assert not group.inner.own, "it can change nothing any more"
    assert group.master.bid_at == NOW + LEASE // 4


@pytest.mark.parametrize("seed", range(20))
def test_no_two_masters_by_any_order_of_operations(seed: int) -> None:
    """Three replicas learn the same random operations at random times; each asks its own clock."""
    rng = random.Random(seed)
    groups = {me: masters(me=me) for me in SEATS}
    now = NOW
    waiting: dict[int, list[values.Entry]] = {me: [] for me in SEATS}
    log: list[values.Entry] = []
    reigns = 0
    for _ in range(600):
        now += rng.randrange(1, 120) * MS
        me = rng.choice(list(SEATS))
        group = groups[me]
        for op in log[group.instance :][: rng.randrange(4)]:
            decided(group, op, now=now)
        if now >= group.master.bid_at:
            fx = Effects()
            group.master.on_timer(now, fx)
            waiting[me] = [
                (me, 0, nonce, 0, MASTER_SMID, operation.payload)
                for nonce, operation in group.inner.own.items()
            ]
        origin = rng.choice(list(SEATS))
        if waiting[origin] and rng.random() < 0.6:
            log.append(rng.choice(waiting[origin]))
        holders = [node for node, it in groups.items() if it.master.holds(now)]
        assert len(holders) <= 1
        reigns += bool(holders)
    assert reigns > 20
