"""Groups whose log may have lost promises: what they must not do, and when they may again (I27)."""

from __future__ import annotations

import pytest

from paxmux.engine.errors import Code
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import MAX_LEAP, NULL
from paxmux.engine.paxos.effects import ACCEPT, CLEARED, PROMISE, Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.storage import StorageDamaged
from paxmux.shards.requests import CallKind
from tests.core import NOW, A, B, C, learn, make
from tests.repair_world import World

WHY = "a bad batch"


def suspect(**state: object) -> Group:
    return make(A, suspect=WHY, **state)


def answer(group: Group, sender: int, ballot: tuple[int, int] = NULL, free: int = 0, **how: int) -> Effects:
    fx = Effects()
    group.doubt.on_reply(sender, how.get("nonce", group.doubt.nonce), ballot, free, NOW, fx)
    return fx


def test_a_suspect_group_neither_votes_nor_proposes_nor_counts_for_reads() -> None:
    group = suspect(promised=(4, C))
    fx = Effects()
    group.on_prepare(B, (0, 0, 9), NOW, fx)
    group.on_accept(B, (0, 0, 9, values.encode(())), NOW, fx)
    group.on_top_ask(B, 1, fx)
    group.doubt.on_ask(B, 7, fx)
    group.proposer.complete(NOW, fx, fill=True)
    group.forwarder.on_forward(B, 0, values.encode([(B, 1, 1, 0, 1, b"x")]), NOW, fx)
    assert fx.records == []
    assert not fx.after
    assert [kind for box in fx.now.to.values() for kind in box.body() if kind] == [[(0, 0, 4, C)]], (
        "a refusal"
    )
    assert not fx.now.all


def test_a_suspect_group_learns() -> None:
    group = suspect()
    fx = learn(group)
    assert (group.instance, len(fx.records), len(fx.decided)) == (1, 1, 1)
    assert not group.voter


def test_all_others_are_asked_until_they_have_answered() -> None:
    group = suspect()
    fx = Effects()
    due = group.doubt.on_timer(NOW, fx)
    assert {node: box.vow_asks for node, box in fx.now.to.items()} == {
        B: [(0, group.doubt.nonce)],
        C: [(0, group.doubt.nonce)],
    }
    answer(group, B)
    fx = Effects()
    assert group.doubt.on_timer(due - 1, fx) == due
    assert not fx.now
    later = group.doubt.on_timer(due, fx)
    assert list(fx.now.to) == [C]
    assert later - due > due - NOW, "less and less often"
    for _ in range(20):
        later, before = group.doubt.on_timer(later, Effects()), later
    assert later - before == group.timers.phase_max


def test_only_once_all_have_answered_it_promises_the_highest_and_votes() -> None:
    group = suspect(promised=(4, C))
    assert answer(group, B, (9, B)).records == []
    assert not group.voter, "a majority is not enough"
    fx = answer(group, C, (7, C))
    assert fx.records == [(CLEARED, 0, 0, 9, B, b"")]
    assert fx.sound == [group]
    assert group.acceptor.promised == (9, B)
    assert group.voter
    assert group.doubt.words() is None
    fx = Effects()
    group.on_prepare(C, (0, 0, 8), NOW, fx)
    assert fx.after.to[C].prepare_replies == [(0, 0, 8, 9, 9, B, b"")]
    group.proposer.complete(NOW, fx, fill=True)
    assert group.proposer.round == 10, "above whatever it may have used"


def test_its_own_promise_counts_where_it_is_the_highest() -> None:
    group = suspect(promised=(40, C))
    answer(group, B, (9, B))
    assert answer(group, C).records == [(CLEARED, 0, 0, 40, C, b"")]


def test_it_votes_in_no_instance_that_others_have_voted_in() -> None:
    group = suspect()
    answer(group, B, (9, B), 2)
    answer(group, C, (9, B), 1)
    assert not group.voter
    assert "no votes before instance 2" in (group.doubt.words() or "")
    assert learn(group).records[-1][0] != CLEARED
    assert not group.voter
    fx = learn(group)
    assert fx.records[-1] == (CLEARED, 0, 2, 9, B, b"")
    assert group.voter


def test_answers_of_another_life_strangers_and_liars_are_none() -> None:
    group = suspect()
    answer(group, B)
    answer(group, C, nonce=group.doubt.nonce + 1)
    answer(group, C, (2 * MAX_LEAP, C))
    answer(group, C, (3, 0))
    assert list(group.doubt.answers) == [B]
    assert not group.voter
    answer(group, B, (9, B), 5)
    assert group.doubt.answers[B] == (NULL, 0), "the first answer of a life stands"
    answer(group, C)
    assert group.voter
    assert answer(group, C, (50, C)).records == []
    assert group.acceptor.promised == NULL


def test_each_life_has_a_nonce_of_its_own() -> None:
    import random

    first, second = (make(A, suspect=WHY, rng=random.Random(seed)) for seed in (1, 2))
    assert first.doubt.nonce != second.doubt.nonce


def test_what_is_told_is_durable_where_it_is_told() -> None:
    group = make(B, promised=(4, C), accepted=(3, C), value=values.encode(()))
    fx = Effects()
    group.doubt.on_ask(A, 77, fx)
    assert not fx.now
    assert fx.after.to[A].vow_replies == [(0, 77, 4, C, 1)]


@pytest.mark.parametrize("accepted", [False, True])
def test_what_is_told_is_the_first_instance_without_a_vote(accepted: bool) -> None:
    group = make(B)
    for _ in range(3):
        learn(group)
    if accepted:
        group.on_accept(C, (0, 3, 9, values.encode((), group.chain)), NOW, Effects())
    assert group.doubt.free() == 3 + accepted


def test_who_is_fenced_or_has_lost_its_seat_tells_nothing() -> None:
    fenced, seatless = make(B), make(B, {A: 11, B: 99, C: 13})
    fenced.inquiry.fence("another history", Effects())
    for group in (fenced, seatless):
        fx = Effects()
        group.doubt.on_ask(A, 77, fx)
        assert not fx.after
        assert not fx.now


def test_a_fenced_group_does_not_vote_when_its_doubt_ends() -> None:
    group = suspect()
    group.inquiry.fence("another history", Effects())
    answer(group, B)
    answer(group, C)
    assert not group.voter


def forgetful(world: World, number: int, batches: int = 1) -> None:
    """A node comes back without the last batches of its log, and knows that."""
    world.die(number)
    world.disks[number].forget(WHY, batches)
    world.boot(number)


def test_a_node_in_a_cluster_is_cured_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    world = World(groups=2)
    world.decide(1, b"a", b"b", b"c")
    world.run(1000)
    world.cut = {2}
    forgetful(world, 3, batches=2)
    before = len(world.disks[3].batches)
    world.run(5000)
    status = world.status(3)
    assert f"promises may be lost ({WHY}); 1 of 2 others have answered" in status["suspect"]
    assert (status["voter"], status["repairing"]) == (False, None)
    assert not world.group(3, 1).voter, "of a group without any record nothing is known either"
    assert world.answers[world.propose(3, b"mine")][1] == Code.OVERLOADED
    records = [record for batch in world.disks[3].batches[before:] for record in batch]
    assert not {record[0] for record in records} & {PROMISE, ACCEPT, CLEARED}
    world.cut = set()
    world.until(lambda: world.group(3).voter and world.group(3, 1).voter)
    assert world.group(3).acceptor.promised == world.group(1).acceptor.promised
    assert world.status(3)["suspect"] is None
    text = caplog.text
    assert text.count("group 0 gives no votes for now") == text.count("group 0 votes again") == 1
    world.decide(3, b"mine")
    assert world.seen(3) == world.seen(1)[: len(world.seen(3))]


def test_a_read_at_a_suspect_node_is_answered_by_the_others() -> None:
    world = World()
    world.decide(1, b"a", b"b", b"c")
    world.run(1000)
    forgetful(world, 3)
    world.group(3).doubt.answers.clear()
    read = world.ask(3, CallKind.LINEARIZABLE_QUERY)
    world.until(lambda: read in world.answers)
    assert world.answers[read][1:] == (Code.OK, 3, 0, b"3")


def test_the_doubt_outlives_a_restart_and_its_end_too() -> None:
    world = World()
    world.decide(1, b"a")
    world.run(1000)
    world.cut = {3}
    forgetful(world, 3)
    world.run(1000)
    world.die(3)
    world.boot(3)
    assert not world.group(3).voter
    world.cut = set()
    world.until(lambda: world.group(3).voter)
    world.die(3)
    world.cut = {3}
    world.boot(3)
    assert world.group(3).voter


def test_two_suspects_cannot_vouch_for_each_other() -> None:
    world = World(nodes=5)
    world.decide(1, b"a")
    world.run(1000)
    for number in (4, 5):
        forgetful(world, number)
    world.run(60_000)
    assert [world.group(number).voter for number in (4, 5)] == [False, False]
    world.decide(1, b"the other three go on")


def test_a_node_alone_refuses_to_start() -> None:
    world = World(nodes=1)
    world.decide(1, b"a")
    world.die(1)
    world.disks[1].forget(WHY, 1)
    with pytest.raises(StorageDamaged, match=f"no other member to ask: {WHY}"):
        world.boot(1)


def test_a_ballot_of_a_node_that_is_no_member_any_more_counts() -> None:
    group = suspect()
    answer(group, B, (9, 77))
    assert answer(group, C).records == [(CLEARED, 0, 0, 9, 77, b"")]


def test_who_has_become_the_only_member_asks_nobody_and_votes_no_more() -> None:
    group = suspect()
    group.members = Members({A: 11}, 1)
    group.change_members(NOW, Effects())
    learn(group)
    assert not group.voter


def test_who_is_no_member_any_more_has_not_answered() -> None:
    group = suspect()
    answer(group, B)
    group.members = Members({A: 11, C: 13}, 1)
    group.change_members(NOW, Effects())
    learn(group)
    assert not group.voter
    answer(group, C)
    assert group.voter
