"""What a start knows of a group's members: from the last record, from the values since, or not at all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import ACCEPT, FORGOTTEN, LEARNED, SYSTEM, Effects
from paxmux.engine.paxos.quorum import members_of
from paxmux.engine.paxos.system import (
    MASTER_SMID,
    MEMBERSHIP_SMID,
    NO_REIGN,
    Change,
    Membership,
    Reign,
    ReignOp,
    SystemState,
    decode_state,
    encode_change,
    encode_reign_op,
    encode_state,
)
from paxmux.engine.storage import EMPTY_STATE, HardState, LogIdentity, Record, StorageDamaged
from paxmux.plugins.storage.memory import MemoryDisk, MemoryLog
from paxmux.shards.inner_state import inner_state
from tests.core import NOW, SEATS, A, B, C, entry, make

CLUSTER = 7
TWO = {A: (11, ""), B: (12, "")}
FOUR = {A: (11, ""), B: (12, ""), C: (13, ""), 4: (14, "")}


def history() -> list[Record]:
    """Ten values: a change in 2, a lease in 4, another change in 7."""
    inner = {
        2: (MEMBERSHIP_SMID, encode_change(Change(CLUSTER, -1, FOUR))),
        4: (MASTER_SMID, encode_reign_op(ReignOp(B, 902, -1, 10**9))),
        7: (MEMBERSHIP_SMID, encode_change(Change(CLUSTER, 2, TWO))),
    }
    found: list[Record] = []
    for instance in range(10):
        entries = [entry(A, 1 + instance)]
        if instance in inner:
            entries.insert(0, (A, 0, 77, 0, *inner[instance]))
        found.append((LEARNED, 0, instance, 1, A, values.encode(entries, inner=len(entries) - 1)))
    return found


def log_of(records: list[Record]) -> tuple[MemoryLog, HardState]:
    log = MemoryLog(
        Path("log"), LogIdentity(CLUSTER, A, 11, 0), disk=MemoryDisk(LogIdentity(CLUSTER, A, 11, 0))
    )
    log.recover()
    log.append(records)
    log.sync()
    log.close(clean=True)
    again = log.reopen()
    return again, again.recover().get(0, EMPTY_STATE)


def test_as_founded_without_a_record() -> None:
    log, state = log_of(history()[:2])
    found, at, lost = inner_state(log, 0, state, SEATS, CLUSTER)
    assert (at, lost) == (2, False)
    assert found == SystemState(
        Membership(-1, {node: (seat, "") for node, seat in SEATS.items()}), NO_REIGN, []
    )


def test_the_record_says_it() -> None:
    said = SystemState(Membership(7, TWO), NO_REIGN, [(5, 4)])
    log, state = log_of([*history(), (SYSTEM, 0, 8, 0, 0, encode_state(said))])
    assert inner_state(log, 0, state, SEATS, CLUSTER) == (said, 10, False)


@pytest.mark.parametrize("first", [0, 3, 5, 8])
def test_what_is_lost_is_told_by_the_values_since(first: int) -> None:
    log, whole = log_of(history())
    expected, _, _ = inner_state(log, 0, whole._replace(system_lost=True), SEATS, CLUSTER)
    assert expected.membership == Membership(7, TWO)
    assert (expected.reign.node, expected.reign.term, expected.terms) == (B, 4, [(5, 4)])
    before, _, lost = inner_state(log, 0, whole._replace(system_lost=True, instance=first), SEATS, CLUSTER)
    assert not lost
    state = whole._replace(system_lost=True, system_from=first, system=encode_state(before))
    assert inner_state(log, 0, state, SEATS, CLUSTER) == (expected, 10, False)


def test_where_values_are_lost_too_it_goes_back_to_the_first_of_them() -> None:
    log, state = log_of([*history()[:5], *history()[6:]])
    found, at, lost = inner_state(log, 0, state._replace(system_lost=True), SEATS, CLUSTER)
    assert (at, lost) == (5, False), "from there on it learns again what it knew"
    assert found.membership == Membership(2, FOUR)


def test_where_values_are_forgotten_nobody_here_knows() -> None:
    log, state = log_of([*history(), (FORGOTTEN, 0, 6, 0, 0, b"")])
    found, at, lost = inner_state(log, 0, state._replace(system_lost=True), SEATS, CLUSTER)
    assert (at, lost) == (10, True)
    assert found.membership == Membership(-1, {node: (seat, "") for node, seat in SEATS.items()})


def test_bytes_that_make_no_sense_are_damage() -> None:
    log, state = log_of(history())
    with pytest.raises(StorageDamaged, match="members that cannot be"):
        inner_state(log, 0, state._replace(system=b"no state"), SEATS, CLUSTER)


def told(membership: Membership, instance: int = 12, reign: Reign = NO_REIGN) -> tuple[int, bytes]:
    return instance, encode_state(SystemState(membership, reign, [(5, 4)]))


SINCE_2 = Membership(2, FOUR)


def test_who_does_not_know_its_members_asks_and_gives_no_vote() -> None:
    group = make(suspect="", members_lost=True, instance=10)
    assert not group.voter
    assert "who its members are" in (group.doubt.words() or "")
    fx = Effects()
    group.start(NOW, fx)
    group.on_timer(NOW, fx)
    assert {node for node, box in fx.now.to.items() if box.recall_asks} == {B, C}
    for node in (B, C):
        group.doubt.on_reply(node, group.doubt.nonce, (0, 0), 0, NOW, fx)
    assert not group.voter, "whoever they are who have answered"
    group.on_accept(B, (0, 10, 5, values.encode([entry(B, 1)])), NOW, fx)
    assert ACCEPT not in [record[0] for record in fx.records]
    assert group.master.term_at(3) is None


def test_a_majority_of_the_members_that_they_name_tell_them() -> None:
    group = make(members_lost=True, instance=10)
    fx = Effects()
    group.recall.on_reply(B, 12, *told(SINCE_2), NOW, fx)
    group.recall.on_reply(B, 12, *told(SINCE_2), NOW, fx)
    group.recall.on_reply(C, 13, *told(SINCE_2), NOW, fx)
    assert group.recall.lost
    group.recall.on_reply(4, 14, *told(SINCE_2), NOW, fx)
    assert not group.recall.lost
    assert group.voter
    assert group.members.seats == {A: 11, B: 12, C: 13, 4: 14}
    assert group.master.term_at(5) == 4
    (record,) = [record for record in fx.records if record[0] == SYSTEM]
    assert record[2] == 10


@pytest.mark.parametrize(
    ("seat", "it"),
    [
        (99, told(SINCE_2)),
        (12, told(Membership(2, {C: (13, ""), 4: (14, "")}))),
        (12, told(Membership(10, FOUR))),
        (12, told(SINCE_2, 9)),
        (12, told(SINCE_2, reign=Reign(B, 902, 11, 11, 10**9))),
        (12, (12, b"no state")),
    ],
    ids=["another seat", "no member itself", "later", "behind", "a later reign", "no state"],
)
def test_what_does_not_hold_here_does_not_count(seat: int, it: tuple[int, bytes]) -> None:
    group = make(members_lost=True, instance=10)
    fx = Effects()
    group.recall.on_reply(C, 13, *told(SINCE_2), NOW, fx)
    group.recall.on_reply(4, 14, *told(SINCE_2), NOW, fx)
    group.recall.on_reply(B, seat, *it, NOW, fx)
    assert group.recall.lost


def test_operations_that_are_decided_meanwhile_are_not_followed() -> None:
    group = make(members_lost=True, instance=10, cluster=CLUSTER)
    fx = Effects()
    op = (B, 0, 6, 0, MEMBERSHIP_SMID, encode_change(Change(CLUSTER, -1, TWO)))
    group.learner.on_learned(10, 3, C, values.encode([op], group.chain, 1), NOW, fx)
    assert group.instance == 11
    assert group.members.seats == SEATS


def test_whoever_knows_tells_after_the_sync() -> None:
    group = make(instance=10)
    fx = Effects()
    group.recall.on_ask(B, fx)
    ((index, instance, state),) = fx.after.to[B].recall_replies
    assert (index, instance) == (0, 10)
    assert decode_state(state).membership == group.members.membership()


def test_what_is_learned_again_is_told_to_the_log_as_what_it_is() -> None:
    group = make(say_again=True, instance=5, decided=8, floor=8)
    fx = Effects()
    group.start(NOW, fx)
    assert SYSTEM not in [record[0] for record in fx.records]
    told: list[tuple[int, int]] = []
    for instance in (5, 6, 7):
        change = Change(group.cluster, group.members.version, {**TWO, C: (13, f"c:{instance}")})
        inner = [(A, 0, instance, 0, MEMBERSHIP_SMID, encode_change(change))] if instance < 7 else []
        value = values.encode(inner, group.chain, len(inner))
        fx = Effects()
        group.learner.on_learned(instance, 1, A, value, NOW, fx)
        told += [(record[2], record[3]) for record in fx.records if record[0] == SYSTEM]
    assert told == [(6, 1), (7, 1), (8, 0)], "later ones are lost until all is learned that was decided"
    assert group.voter


def test_what_was_found_again_is_said_again() -> None:
    group = make(say_again=True, instance=10, rng=random.Random(1))
    group.members = members_of(Membership(7, {**TWO, C: (13, "")}))
    fx = Effects()
    group.start(NOW, fx)
    (record,) = [record for record in fx.records if record[0] == SYSTEM]
    assert record[2] == 10
    assert decode_state(record[5]).membership.version == 7
