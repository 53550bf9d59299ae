"""Values that a log has lost: asked from peers, written again, and what waits meanwhile."""

from __future__ import annotations

import pytest

from paxmux.engine.errors import Code
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import ACCEPT, LEARNED, PROMISE, Effects
from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards.repairs import RUN_MAX, WANTED_MAX
from paxmux.shards.requests import CallKind
from paxmux.shards.serving import Serving
from tests.repair_world import World

PAYLOADS = [b"%d" % number for number in range(10)]


def spoilt(world: World, number: int, *instances: int, index: int = 0) -> None:
    """A node comes back with values that it cannot read."""
    world.run(1000)
    world.die(number)
    for instance in instances:
        world.disks[number].spoil(index, instance)
    world.boot(number)


def votes_since(world: World, number: int, before: int) -> list[tuple[int, ...]]:
    batches = world.disks[number].batches[before:]
    return [record[:5] for batch in batches for record in batch if record[0] in (PROMISE, ACCEPT)]


@pytest.mark.parametrize("instances", [(0,), (4,), (2, 3, 4), (1, 4, 7), tuple(range(9))])
def test_lost_values_come_back_and_execution_goes_on(instances: tuple[int, ...]) -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    spoilt(world, 3, *instances)
    world.until(lambda: world.seen(3) == world.seen(1))
    log = world.turns[3].log
    assert [log.read(0, each) for each in range(10)] == [
        world.turns[1].log.read(0, each) for each in range(10)
    ]
    learned = [record[2] for batch in world.disks[3].batches for record in batch if record[0] == LEARNED]
    assert sorted(learned) == sorted(instances)
    assert world.status(3)["repairing"] is None
    world.die(3)
    assert world.disks[3].damaged, "the old records are as they were"
    world.boot(3)
    world.until(lambda: world.seen(3) == world.seen(1), ms=1000)


def test_while_nobody_can_tell_the_group_waits_says_so_and_votes() -> None:
    world = World(groups=2)
    world.decide(1, *PAYLOADS)
    world.decide(1, *PAYLOADS, index=1)
    world.cut = {3}
    spoilt(world, 3, 4)
    world.run(20_000)
    assert world.seen(3) == world.seen(1)[:4]
    assert world.seen(3, 1) == world.seen(1, 1), "the other group goes on"
    status = world.status(3)
    assert "1 lost values are asked from peers, first 4" in status["repairing"]
    assert (status["voter"], status["suspect"], status["applied"]) == (True, None, 4)
    query = world.ask(3, CallKind.QUERY)
    assert query not in world.answers
    world.cut = set()
    world.until(lambda: query in world.answers)
    assert world.answers[query][4] == b"10"
    assert world.answers[world.ask(3, CallKind.INSTANCE_VALUE, argument=4)][1] == Code.OK


def test_a_value_that_is_not_there_is_asked_for_where_somebody_wants_it() -> None:
    """As behind a gap in the records, where a machine that keeps its state has executed it."""
    world = World()
    world.decide(1, *PAYLOADS)
    log = world.turns[3].log
    assert isinstance(log, MemoryLog)
    del log._values[0][4]
    reply = world.answers[world.ask(3, CallKind.INSTANCE_VALUE, argument=4)]
    assert reply[1] == Code.SYSTEM_ERROR
    assert b"instance 4 of group 0 is decided, and not in the log" in (reply[4] or b"")
    world.until(lambda: world.status(3)["repairing"] is None)
    assert world.answers[world.ask(3, CallKind.INSTANCE_VALUE, argument=4)][1] == Code.OK


def test_who_waits_for_a_lost_value_is_told_at_his_deadline() -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    world.cut = {3}
    spoilt(world, 3, 4)
    world.run(1000)
    query = world.ask(3, CallKind.QUERY, deadline=world.now + 500_000_000)
    world.run(400)
    assert query not in world.answers
    world.run(200)
    assert world.answers[query][1] == Code.TIMEOUT


def test_who_waits_for_a_result_behind_a_lost_value_is_told_at_his_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Serving, "_mend", lambda *_: None)
    world = World()
    world.decide(1, *PAYLOADS)
    spoilt(world, 3, 4)
    world.run(1000)
    assert world.seen(3) == world.seen(1)[:4]
    seq = world.propose(3, b"mine", deadline=world.now + 500_000_000)
    world.run(400)
    assert world.seen(1)[-1] == (10, b"mine"), "it is decided"
    assert seq not in world.answers
    world.run(200)
    assert world.answers[seq][1] == Code.TIMEOUT
    world.run(5000)
    assert not world.turns[3].appliers[0]._owned


def test_what_waits_for_a_value_costs_a_question_now_and_then() -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    world.cut = {3}
    spoilt(world, 3, 4)
    world.run(1000)
    turn = world.turns[3]
    asked = 0
    for _ in range(2000):
        world.now += 10_000_000
        turn.step(world.now, (), ())
        asked += sum(len(box.mend_asks) for box in turn.fx.now.to.values())
        turn.send_now()
        turn.persist()
        turn.finish(world.now)
        assert not turn.busy
    assert 2 <= asked <= 10


def test_a_value_that_does_not_fit_its_neighbours_is_not_taken() -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    spoilt(world, 3, 4)
    turn = world.turns[3]
    good = world.turns[1].log.read(0, 4)
    assert good is not None
    entries = values.decode(good[2])
    forged = [
        values.encode(entries, b"\1\2\3\4"),
        values.encode([(*entries[0][:5], b"another")], values.chain_in(good[2])),
        values.encode((), values.chain_in(good[2])),
        b"",
    ]
    turn.repairs.want(0, 4, "damaged", world.now)
    for value in forged:
        fx = Effects()
        turn.repairs.on_learned(0, 4, 1, 1, value, world.now, fx)
        assert fx.records == []
    fx = Effects()
    turn.repairs.on_learned(0, 3, 1, 1, good[2], world.now, fx)
    assert fx.records == [], "nobody asked for that one"
    for _ in range(2):
        turn.repairs.on_learned(0, 4, *good, world.now, fx)
    assert fx.records == [(LEARNED, 0, 4, *good)], "and it is written once"


def test_the_newest_of_all_must_fit_the_chain_in_memory() -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    repairs, group = world.turns[3].repairs, world.group(3)
    world.run(1000)
    good = world.turns[1].log.read(0, 9)
    assert good is not None
    repairs.want(0, 9, "damaged", world.now)
    forged = values.encode((), values.chain_in(good[2]))
    fx = Effects()
    repairs.on_learned(0, 9, 1, 1, forged, world.now, fx)
    assert fx.records == []
    repairs.on_learned(0, 9, *good, world.now, fx)
    assert len(fx.records) == 1
    assert group.instance == 10


def test_what_is_remembered_as_lost_is_bounded() -> None:
    world = World()
    world.decide(1, b"x")
    world.run(1000)
    group, repairs = world.group(1), world.turns[1].repairs
    group.instance = 10 * WANTED_MAX
    for instance in range(1, 2 * WANTED_MAX):
        assert repairs.want(0, instance, "damaged", world.now)
    assert len(repairs.lost[0].wanted) <= WANTED_MAX + RUN_MAX
    assert repairs.want(0, group.instance, "open", world.now)
    assert group.instance not in repairs.lost[0].wanted, "what is not decided is not asked for"


@pytest.mark.parametrize("instances", [(9,), (7, 8, 9), tuple(range(10))])
def test_without_the_value_before_it_no_instance_is_voted_in(instances: tuple[int, ...]) -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    world.cut = {3}
    spoilt(world, 3, *instances)
    before = len(world.disks[3].batches)
    group = world.group(3)
    assert group.instance == instances[0]
    assert not group.voter
    assert "no votes before instance 10" in world.status(3)["repairing"]
    world.run(5000)
    assert world.answers[world.propose(3, b"mine")][1] == Code.OVERLOADED
    world.cut = {2}
    fx = Effects()
    group.on_prepare(1, (0, group.instance, 50), world.now, fx)
    group.on_accept(1, (0, group.instance, 50, values.encode((), group.chain)), world.now, fx)
    assert (fx.records, bool(fx.after)) == ([], False)
    world.until(lambda: world.group(3).voter)
    assert votes_since(world, 3, before) == []
    assert world.group(3).instance == 10
    world.decide(1, b"again")
    world.until(lambda: world.seen(3) == world.seen(1))
    assert votes_since(world, 3, before) != []


def test_a_lost_accept_is_not_voted_over_until_it_is_decided() -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    world.run(1000)
    world.die(3)
    world.disks[3].batches.append(((ACCEPT, 0, 10, 1, 1, values.encode((), world.group(1).chain)),))
    world.disks[3].synced += 1
    world.disks[3].spoil(0, 10)
    world.cut = {3}
    before = len(world.disks[3].batches)
    world.boot(3)
    group = world.group(3)
    assert (group.instance, group.acceptor.accepted, group.acceptor.promised) == (10, NULL, (1, 1))
    assert group.doubt.free() == 11, "it has voted there"
    assert "no votes before instance 11" in world.status(3)["repairing"]
    fx = Effects()
    group.on_prepare(1, (0, 10, 50), world.now, fx)
    group.on_accept(1, (0, 10, 50, values.encode((), group.chain)), world.now, fx)
    group.on_top_ask(1, 5, fx)
    group.proposer.complete(world.now, fx, fill=True)
    assert (fx.records, bool(fx.after), bool(fx.now)) == ([], False, False)
    world.cut = set()
    world.decide(1, b"decided by the others")
    world.until(lambda: world.group(3).voter)
    assert votes_since(world, 3, before) == []
    world.decide(1, b"again")
    world.until(lambda: world.seen(3) == world.seen(1))
    assert votes_since(world, 3, before) != []


def test_an_accept_behind_a_lost_value_is_put_back_when_the_group_gets_there() -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    world.run(1000)
    open_value = values.encode((), world.group(1).chain)
    world.die(3)
    world.disks[3].batches.append(((ACCEPT, 0, 10, 40, 2, open_value),))
    world.disks[3].synced += 1
    world.disks[3].spoil(0, 9)
    world.cut = {1, 2, 3}
    world.boot(3)
    group = world.group(3)
    assert (group.instance, group.acceptor.accepted, group.voter) == (9, NULL, False)
    assert group.doubt.free() == 11
    world.cut = set()
    world.turns[1].run(world.now)
    world.until(lambda: world.group(3).instance >= 10)
    assert world.group(3).voter
    world.until(lambda: world.group(3).instance == 11 and world.group(1).instance == 11)
    assert [record[2] for record in [world.turns[1].log.read(0, 10)] if record] == [open_value], (
        "it was the only vote, and was completed"
    )


def test_a_group_that_stands_lower_than_its_log_stood_shows_nothing() -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    world.run(1000)
    world.die(3)
    world.disks[3].spoil(0, 9)
    world.cut = {1, 2, 3}
    world.boot(3)
    assert (world.group(3).instance, world.group(3).doubt.decided) == (9, 10)
    asked = [world.ask(3, kind) for kind in (CallKind.QUERY, CallKind.NOW_INSTANCE)]
    world.run(1000)
    assert not world.answers.keys() & set(asked), "it would take back what was shown before"
    world.cut = set()
    world.until(lambda: world.answers.keys() >= set(asked))
    assert [world.answers[seq][1] for seq in asked] == [Code.OK, Code.OK]
    assert world.answers[asked[1]][2] >= 10


@pytest.mark.parametrize("instance", [9, 10])
def test_a_node_alone_refuses_what_nobody_can_tell_it(instance: int) -> None:
    world = World(nodes=1)
    world.decide(1, *PAYLOADS)
    world.die(1)
    world.disks[1].batches.append(((ACCEPT, 0, 10, 40, 1, values.encode((), b"\0\0\0\0")),))
    world.disks[1].spoil(0, instance)
    with pytest.raises(StorageDamaged, match=f"instance {instance}"):
        world.boot(1)


def test_a_node_alone_ends_with_a_value_that_it_cannot_execute() -> None:
    world = World(nodes=1)
    world.decide(1, *PAYLOADS)
    world.die(1)
    world.disks[1].spoil(0, 4)
    world.boot(1)
    with pytest.raises(StorageDamaged, match="instance 4"):
        world.run(1000)


def test_peers_do_not_get_a_lost_value_and_get_it_when_it_is_back() -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    world.run(1000)
    world.die(2)
    world.disks[2].batches.clear()
    world.disks[2].synced = 0
    for number in (1, 3):
        world.die(number)
        world.disks[number].spoil(0, 3 if number == 1 else 6)
        world.boot(number)
    world.run(1000)
    world.boot(2)
    world.until(lambda: world.seen(2) == [(number, payload) for number, payload in enumerate(PAYLOADS)])
    assert world.status(1)["repairing"] is world.status(3)["repairing"] is None


def test_a_question_for_lost_values_is_bounded() -> None:
    world = World()
    world.decide(1, *PAYLOADS)
    group = world.group(1)
    fx = Effects()
    group.learner.on_mend_ask(2, 3, 1 << 62, fx)
    group.learner.on_mend_ask(2, group.instance, 1, fx)
    group.learner.on_mend_ask(2, 1 << 62, 1 << 62, fx)
    assert fx.mends == [(2, 0, 3, group.instance - 3)]
