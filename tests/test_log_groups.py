"""What a log says about its groups: positions, what is decided, and what contradicts itself."""

from __future__ import annotations

import pytest

from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.value import FIRST, chain_after, encode
from paxmux.engine.storage import Record
from paxmux.plugins.storage.record import CARRIED, HARD_STATE, OPENING, OPENS_SEGMENT, UPKEEP
from paxmux.plugins.storage.scan import Batch
from paxmux.tools.log.fault import ballot_text, chain_text
from paxmux.tools.log.group import Value
from paxmux.tools.log.groups import Groups
from tests.storage_model import (
    ACCEPT,
    DECIDED,
    FORGOTTEN,
    LEARNED,
    PROMISE,
    RELEASED,
    hard_states,
    values,
    workload,
)

A, B = 11, 12
BACKWARDS = f"ballot 4@{B}, though 5@{A} was promised before"


def batch(records: list[Record], *, opens: bool = False, moved: bool = False, at: int = 100) -> Batch:
    flags = OPENS_SEGMENT * opens | UPKEEP * moved
    return Batch(at, at + 1, 0, flags, records, list(range(at, at + len(records))))


def chained(*payloads: bytes) -> list[bytes]:
    """Values of instances 0, 1, …, each with the chain of the one before."""
    found: list[bytes] = []
    chain = FIRST
    for payload in payloads:
        found.append(encode([(1, 2, 3, 4, 5, payload)], chain))
        chain = chain_after(found[-1])
    return found


def forgotten(group: int, first: int) -> Record:
    return (FORGOTTEN, group, first, 0, 0, b"")


def learned(first: int, values: list[bytes]) -> list[Record]:
    return [(LEARNED, 0, first + index, 1, A, value) for index, value in enumerate(values)]


def checksum(payload: bytes) -> str:
    return chain_text(chain_after(chained(payload)[0]))


def carried(group: int, instance: int, promised: tuple[int, int], accepted: tuple[int, int] = NULL) -> Record:
    return (HARD_STATE, group, instance, *promised, CARRIED.pack(*accepted, 0))


def places(found: list[Value]) -> list[tuple[int, int]]:
    return [(value.group, value.instance) for value in found]


def words(groups: Groups) -> list[str]:
    return [fault.words for fault in groups.faults]


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_with_the_contract(seed: int) -> None:
    """Any records: the state is what recovery would give, what is decided is what `read` would."""
    groups = Groups()
    records: list[Record] = []
    found: dict[tuple[int, int], tuple[int, int, bytes]] = {}
    for index in range(60):
        mine = workload(seed, index)
        records += mine
        for value in groups.take(batch(mine)):
            found[value.group, value.instance] = (value.round, value.node, value.value)
            assert value.checksum == chain_after(value.value)
    states = hard_states(records)
    for index, state in states.items():
        group = groups.groups[index]
        assert (group.instance, group.promised, group.accepted) == state[:3]
        assert (group.value if group.accepted != NULL else b"") == state.value
    expected = {key: value for key, value in values(records).items() if key[1] < states[key[0]].instance}
    assert found == expected


def test_a_value_is_decided_once_its_group_has_gone_past_it() -> None:
    one, two, three = chained(b"a", b"b", b"c")
    groups = Groups()
    assert groups.take(batch([(PROMISE, 0, 0, 1, A, b""), (ACCEPT, 0, 0, 1, A, one)])) == []
    assert places(groups.take(batch([(ACCEPT, 0, 1, 1, A, two)]))) == [(0, 0)]
    assert places(groups.take(batch([(DECIDED, 0, 1, 0, 0, b"")]))) == [(0, 1)]
    assert places(groups.take(batch([(LEARNED, 0, 2, 1, B, three)]))) == [(0, 2)]
    assert groups.groups[0].instance == 3
    assert groups.faults == []
    only = groups.groups[0]
    assert (only.first_value, only.last_value, only.values) == (0, 2, 3)


def test_of_several_values_of_an_instance_the_last_one_is_decided() -> None:
    (one,), (other,) = chained(b"a"), chained(b"b")
    groups = Groups()
    records: list[Record] = [
        (ACCEPT, 0, 0, 1, A, one),
        (ACCEPT, 0, 0, 2, B, other),
        (PROMISE, 0, 1, 3, A, b""),
    ]
    (value,) = groups.take(batch(records))
    assert value == Value(0, 0, 2, B, other, chain_after(other))
    assert groups.faults == []


@pytest.mark.parametrize(
    ("records", "fault"),
    [
        (
            [(PROMISE, 0, 0, 5, A, b""), (PROMISE, 0, 0, 4, B, b"")],
            BACKWARDS,
        ),
        (
            [(PROMISE, 0, 0, 5, A, b""), (PROMISE, 0, 3, 4, B, b"")],
            BACKWARDS,
        ),
        (
            [(PROMISE, 0, 0, 5, A, b""), (ACCEPT, 0, 0, 4, B, chained(b"x")[0])],
            BACKWARDS,
        ),
        ([(PROMISE, 0, 3, 5, A, b""), (PROMISE, 0, 2, 6, A, b"")], "a vote, while it stood at instance 3"),
        (
            [(ACCEPT, 0, 0, 1, A, chained(b"x")[0]), (ACCEPT, 0, 0, 1, A, chained(b"y")[0])],
            f"a second value under ballot 1@{A}",
        ),
        (
            [(LEARNED, 0, 0, 1, A, chained(b"x")[0]), (LEARNED, 0, 0, 1, A, chained(b"y")[0])],
            f"its checksum is {checksum(b'y')}, and {checksum(b'x')} elsewhere in the log",
        ),
        ([(10, 0, 0, 1, A, b"")], "record of unknown kind 10"),
        (
            [(LEARNED, 0, 0, 1, A, b"short"), (LEARNED, 0, 1, 1, A, b"short")],
            "its chain is -, the checksum before it 00000000",
        ),
    ],
)
def test_contradictions_are_faults(records: list[Record], fault: str) -> None:
    groups = Groups()
    groups.take(batch(records))
    assert fault in words(groups)


def test_a_broken_chain_is_a_fault_with_its_place() -> None:
    one, two = chained(b"a", b"b")
    groups = Groups()
    groups.take(
        batch([(ACCEPT, 7, 0, 1, A, one), (ACCEPT, 7, 1, 1, A, chained(b"z", b"b")[1])], at=(2 << 32) + 50)
    )
    (fault,) = groups.faults
    assert two != chained(b"z", b"b")[1]
    before, claimed = chain_text(chain_after(one)), chain_text(chain_after(chained(b"z")[0]))
    assert fault.text() == (
        f"group 7, instance 1: its chain is {claimed}, the checksum before it {before} (segment 2, offset 51)"
    )


def test_the_chain_of_an_open_instance_is_checked_too_and_the_first_one_is_zero() -> None:
    groups = Groups()
    groups.take(batch([(ACCEPT, 0, 0, 1, A, encode([], b"\1\0\0\0"))]))
    assert words(groups) == ["its chain is 00000001, the checksum before it 00000000"]


def test_a_segment_that_begins_as_the_last_one_ended_is_no_fault() -> None:
    one, two = chained(b"a", b"b")
    groups = Groups()
    groups.take(batch([(LEARNED, 0, 0, 1, A, one), (ACCEPT, 0, 1, 1, A, two), (PROMISE, 0, 1, 3, B, b"")]))
    found = groups.take(
        batch(
            [(OPENING, 0, 0, 0, 0, b""), (ACCEPT, 0, 1, 1, A, two), carried(0, 1, (3, B), (1, A))], opens=True
        )
    )
    assert found == []
    assert groups.faults == []
    assert places(groups.take(batch([(DECIDED, 0, 1, 0, 0, b"")]))) == [(0, 1)]


@pytest.mark.parametrize(
    ("opening", "fault"),
    [
        ([carried(0, 1, (2, A))], "the segment begins with promise 2@11"),
        ([carried(0, 0, (3, B))], "the segment begins with promise 3@12"),
        ([carried(0, 2, (3, B))], "the segment begins with promise 3@12"),
        ([carried(0, 1, (4, B))], "the segment begins with promise 4@12"),
        ([], "the segment begins without it"),
        (
            [carried(0, 1, (3, B)), carried(5, 1, (3, B))],
            "the segment begins with a group",
        ),
        (
            [(ACCEPT, 0, 1, 1, A, chained(b"a", b"c")[1]), carried(0, 1, (3, B))],
            "the segment begins with another value than was accepted",
        ),
        ([(HARD_STATE, 0, 1, 3, B, b"short")], "a hard state that is none"),
    ],
)
def test_a_segment_that_begins_otherwise_is_a_fault(opening: list[Record], fault: str) -> None:
    one, two = chained(b"a", b"b")
    groups = Groups()
    groups.take(batch([(LEARNED, 0, 0, 1, A, one), (ACCEPT, 0, 1, 1, A, two), (PROMISE, 0, 1, 3, B, b"")]))
    groups.take(batch([(OPENING, 0, 0, 0, 0, b""), *opening], opens=True))
    assert any(text.startswith(fault) for text in words(groups))


def test_a_copied_value_that_nobody_accepted_is_a_fault() -> None:
    groups = Groups()
    groups.take(batch([(PROMISE, 0, 0, 3, B, b"")]))
    groups.take(batch([(ACCEPT, 0, 0, 1, A, chained(b"a")[0]), carried(0, 0, (3, B), (1, A))], opens=True))
    assert words(groups) == ["the segment begins with a value that was never accepted"]


def test_a_log_whose_first_segments_are_gone_begins_where_it_says() -> None:
    _, two, three = chained(b"a", b"b", b"c")
    groups = Groups(from_start=False)
    groups.take(batch([(ACCEPT, 0, 1, 1, A, two), carried(0, 1, (3, B), (1, A))], opens=True))
    assert groups.faults == []
    assert groups.groups[0].unchecked == 1
    assert places(groups.take(batch([(ACCEPT, 0, 2, 3, B, three)]))) == [(0, 1)]
    assert (groups.faults, groups.groups[0].unchecked) == ([], 1)
    # Instance 0 was not forgotten.
    assert groups.groups[0].missing == 1
    groups.take(batch([forgotten(0, 1)]))
    assert groups.groups[0].missing == 0


def test_after_damage_the_next_chain_confirms_what_was_held() -> None:
    one, two = chained(b"a", b"b")
    groups = Groups()
    groups.take(batch([(ACCEPT, 0, 0, 1, A, one)]))
    groups.damaged()
    assert groups.take(batch([(PROMISE, 0, 1, 2, A, b"")])) == []
    assert places(groups.take(batch([(ACCEPT, 0, 1, 2, A, two)]))) == [(0, 0)]
    assert groups.groups[0].missing == 0
    assert groups.faults == []


def test_after_damage_the_next_chain_refutes_what_was_held() -> None:
    """A newer value of the instance was in what is lost."""
    stale = chained(b"stale")[0]
    _, two, three = chained(b"a", b"b", b"c")
    groups = Groups()
    groups.take(batch([(ACCEPT, 0, 0, 1, A, stale)]))
    groups.damaged()
    assert groups.take(batch([(ACCEPT, 0, 1, 2, A, two)])) == []
    assert places(groups.take(batch([(ACCEPT, 0, 2, 2, A, three)]))) == [(0, 1)]
    assert groups.groups[0].missing == 1
    assert groups.faults == []


def test_after_damage_a_newer_value_is_as_good_as_any() -> None:
    groups = Groups()
    groups.take(batch([(ACCEPT, 0, 0, 1, A, chained(b"stale")[0])]))
    groups.damaged()
    (one,) = chained(b"a")
    groups.take(batch([(ACCEPT, 0, 0, 2, A, one)]))
    (value,) = groups.take(batch([(DECIDED, 0, 0, 0, 0, b"")]))
    assert value.value == one


def test_lost_instances_are_counted() -> None:
    one, two = chained(b"a", b"b")
    groups = Groups()
    groups.take(batch([(LEARNED, 0, 0, 1, A, one), (ACCEPT, 0, 1, 1, A, two)]))
    groups.damaged()
    assert groups.take(batch([(PROMISE, 0, 5, 2, A, b"")])) == []
    assert groups.groups[0].missing == 4
    groups.damaged()
    groups.take(batch([(ACCEPT, 0, 5, 2, A, encode([]))]))
    groups.damaged()
    groups.take(batch([(PROMISE, 0, 6, 3, A, b"")]))
    assert groups.groups[0].missing == 5
    groups.take(batch([(PROMISE, 0, 7, 3, A, b"")]))
    assert groups.groups[0].missing == 6


def test_values_that_are_moved_come_out_once() -> None:
    found = chained(*[b"%d" % i for i in range(6)])
    groups = Groups()
    assert places(groups.take(batch(learned(0, found)))) == [(0, i) for i in range(6)]
    for _ in range(2):
        assert groups.take(batch(learned(0, found), moved=True)) == []
    only = groups.groups[0]
    assert (only.moved, only.values, only.missing, only.unchecked) == (12, 6, 0, 0)
    assert groups.faults == []


def middle(found: list[bytes], instance: int, first: int = 0) -> Groups:
    """A group of which the first segment that is left says that it stands at an instance, and forgot."""
    groups = Groups(from_start=False)
    stated = [carried(0, instance, (1, A)), *([forgotten(0, first)] if first else [])]
    groups.take(batch([(OPENING, 0, 3, 0, 0, b""), *stated], opens=True))
    assert groups.groups[0].missing == instance - first
    groups.take(batch(learned(instance, found[instance:])))
    return groups


def test_values_whose_segment_is_gone_come_out_where_they_were_moved_to() -> None:
    found = chained(*[b"%d" % i for i in range(12)])
    groups = middle(found, 8, 2)
    only = groups.groups[0]
    assert (only.values, only.missing, only.unchecked, only.first_value) == (4, 6, 1, 8)
    assert places(groups.take(batch(learned(5, found[5:8]), moved=True))) == [(0, 5), (0, 6), (0, 7)]
    assert (only.values, only.missing, only.unchecked, only.first_value) == (7, 3, 1, 5)
    # What is forgotten is not shown, though it is there.
    assert places(groups.take(batch(learned(1, found[1:5]), moved=True))) == [(0, 2), (0, 3), (0, 4)]
    assert (only.values, only.missing, only.forgotten, only.moved) == (10, 0, 1, 7)
    assert (only.unchecked, only.first_value, only.last_value) == (0, 2, 11)
    assert groups.faults == []


@pytest.mark.parametrize(("instance", "later"), [(7, 8), (5, 5), (5, 6)])
def test_a_moved_value_must_fit_both_its_neighbours(instance: int, later: int) -> None:
    found = chained(*[b"%d" % i for i in range(12)])
    groups = middle(found, 8)
    groups.take(batch(learned(4, found[4:5]), moved=True))
    groups.take(batch(learned(6, found[6:7]), moved=True))
    if instance == later:
        # Another history up to here: it does not fit the one before.
        other = chained(*[b"x%d" % i for i in range(12)])[instance]
    else:
        other = encode([(1, 2, 3, 4, 5, b"other")], chain_after(found[instance - 1]))
    groups.take(batch(learned(instance, [other]), moved=True))
    places_of = {fault.instance for fault in groups.faults}
    assert later in places_of
    assert all(": its chain is " in fault.text() for fault in groups.faults)


def test_a_moved_value_that_is_not_what_it_was_is_a_fault() -> None:
    found = chained(*[b"%d" % i for i in range(6)])
    groups = Groups()
    groups.take(batch(learned(0, found)))
    other = encode([(1, 2, 3, 4, 5, b"other")], chain_after(found[2]))
    groups.take(batch(learned(2, [found[2], other, found[4]]), moved=True))
    assert [fault.instance for fault in groups.faults] == [4]
    other = encode([(1, 2, 3, 4, 5, b"other")], chain_after(found[4]))
    groups.take(batch(learned(5, [other]), moved=True))
    assert "elsewhere in the log" in groups.faults[1].words


def test_an_open_vote_that_is_moved_is_no_new_vote() -> None:
    """A higher ballot may have been promised since; its value may have been in a segment that is gone."""
    one, two, other = *chained(b"a", b"b"), chained(b"a", b"other")[1]
    known = Groups()
    known.take(batch([(LEARNED, 0, 0, 1, A, one), (ACCEPT, 0, 1, 1, A, two), (PROMISE, 0, 1, 5, B, b"")]))
    gone = Groups(from_start=False)
    gone.take(batch([carried(0, 1, (5, B), (1, A)), forgotten(0, 0)], opens=True))
    for groups in (known, gone):
        assert groups.take(batch([(ACCEPT, 0, 1, 1, A, two)], moved=True)) == []
        assert groups.faults == []
        assert groups.groups[0].value == two
        assert (groups.groups[0].promised, groups.groups[0].accepted) == ((5, B), (1, A))
        groups.take(batch([(ACCEPT, 0, 1, 1, A, other)], moved=True))
        assert words(groups) == ["what was moved is another value than was accepted"]
        assert places(groups.take(batch([(DECIDED, 0, 1, 0, 0, b"")]))) == [(0, 1)]


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ((ACCEPT, 0, 1, 2, B, chained(b"a", b"b")[1]), "what was moved is a value that was never accepted"),
        ((ACCEPT, 0, 4, 1, A, chained(b"a", b"b")[1]), "what was moved is a value that was never accepted"),
        ((LEARNED, 0, 1, 1, A, chained(b"a", b"b")[1]), "moved as decided, while it stood at 1"),
    ],
)
def test_what_was_never_there_cannot_be_moved(record: Record, fault: str) -> None:
    groups = Groups()
    groups.take(batch(learned(0, chained(b"a"))))
    groups.take(batch([record], moved=True))
    assert fault in words(groups)


def test_what_is_forgotten_is_neither_missing_nor_shown() -> None:
    found = chained(*[b"%d" % i for i in range(6)])
    groups = Groups()
    groups.take(batch([*learned(0, found), forgotten(0, 4), forgotten(0, 2)]))
    only = groups.groups[0]
    assert (only.first, only.first_value, only.values, only.missing, only.forgotten) == (4, 4, 2, 0, 4)
    assert groups.faults == []
    groups.take(batch([forgotten(0, 7)]))
    assert words(groups) == ["what is below is forgotten, while it stood at 6"]


def test_of_a_group_that_was_released_nothing_is_left() -> None:
    found = chained(*[b"%d" % i for i in range(6)])
    groups = Groups()
    records = [*learned(0, found[:3]), (ACCEPT, 3, 0, 1, A, found[0]), (RELEASED, 0, 0, 0, 0, b"")]
    assert groups.take(batch(records)) == []
    assert groups.groups.keys() == {3}
    groups.take(batch([(OPENING, 0, 0, 0, 0, b""), carried(3, 0, (1, A), (1, A))], opens=True))
    # It comes back: first its values, then what it forgot.
    out = groups.take(batch([*learned(4, found[4:]), (PROMISE, 0, 6, 2, A, b""), forgotten(0, 4)]))
    assert places(out) == [(0, 4), (0, 5)]
    only = groups.groups[0]
    assert (only.instance, only.first, only.values, only.missing, only.records) == (6, 4, 2, 0, 4)
    assert groups.faults == []


def test_a_group_that_was_released_in_segments_that_are_gone_is_gone() -> None:
    found = chained(b"a")
    groups = Groups()
    groups.take(batch([*learned(0, found), (PROMISE, 3, 0, 1, A, b"")]))
    groups.skipped()
    groups.take(batch([(OPENING, 0, 0, 0, 0, b""), carried(3, 0, (1, A))], opens=True))
    assert groups.groups.keys() == {3}
    assert groups.faults == []


def test_a_value_that_was_lost_comes_out_when_it_is_there_again() -> None:
    """Moved, or told by a peer."""
    found = chained(*[b"%d" % i for i in range(6)])
    for moved in (False, True):
        groups = Groups()
        groups.take(batch(learned(0, found[:2])))
        groups.damaged()
        groups.take(batch(learned(4, found[4:])))
        assert groups.groups[0].missing == 2
        assert places(groups.take(batch(learned(2, found[2:4]), moved=moved))) == [(0, 2), (0, 3)]
        assert (groups.groups[0].missing, groups.groups[0].unchecked, groups.faults) == (0, 0, [])


def test_what_is_held_is_outvoted_by_what_was_moved() -> None:
    stale = chained(b"stale")[0]
    one, two = chained(b"a", b"b")
    groups = Groups()
    groups.take(batch([(ACCEPT, 0, 0, 1, A, stale)]))
    groups.damaged()
    assert groups.take(batch([(PROMISE, 0, 1, 2, A, b"")])) == []
    assert [v.value for v in groups.take(batch([(LEARNED, 0, 0, 2, A, one)], moved=True))] == [one]
    assert groups.take(batch([(ACCEPT, 0, 1, 2, A, two)])) == []
    assert (groups.faults, groups.groups[0].unchecked) == ([], 0)


def test_how_ballots_and_chains_are_written() -> None:
    assert ballot_text(NULL) == "-"
    assert ballot_text((3, 72058139498775529)) == "3@127.0.0.1:1001"
    assert chain_text(b"\x01\x02\x03\x04") == "04030201"
    assert chain_text(b"") == "-"
