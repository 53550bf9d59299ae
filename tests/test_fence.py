"""Fenced values: executed in the term that they name, and in no other, whoever decided them and whenever."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxmux.engine import pack
from paxmux.engine.errors import Code, StaleTerm
from paxmux.engine.fence import FENCED, NOWHERE, TERM_MAX, fenced, split
from paxmux.engine.pack import PACK
from paxmux.engine.paxos.system import MASTER_SMID, MEMBERSHIP_SMID
from paxmux.engine.paxos.value import Entry
from paxmux.engine.state_machine import MAX_SMID, StateMachine
from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.shards.applier import Applier
from paxmux.shards.outcomes import error_of
from paxmux.shards.requests import Reply

ME, LIFE = 9, 3
TERM = 40


class Journal(StateMachine):
    """Keeps what it executes."""

    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self.values: list[bytes] = []
        self.commits: list[int] = []

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        self.values.append(value)
        return value + (context or b"")

    def commit(self, instance_id: int) -> None:
        self.commits.append(instance_id)


def rig(terms: dict[int, int | None]) -> tuple[Applier, Journal, list[Reply]]:
    """`terms`: by instance."""
    replies: list[Reply] = []
    journal = Journal(0)
    log = MemoryLog(Path(), LogIdentity(7, 1, 11, 0))
    return (
        Applier(0, {1: journal}, log, replies.append, (ME, LIFE), 1000, terms.__getitem__),
        journal,
        replies,
    )


def run(applier: Applier, instance: int, *entries: Entry) -> None:
    owned = {entry[2]: (0, 0, entry[4], entry[5], b"!") for entry in entries if entry[:2] == (ME, LIFE)}
    applier.apply(instance, list(entries), owned)


def entry(seq: int, payload: bytes, smid: int = 1, incarnation: int = LIFE) -> Entry:
    return (ME, incarnation, seq, 0, smid, payload)


def write(seq: int, term: int, value: bytes, smid: int = 1) -> Entry:
    return entry(seq, fenced(term, value), smid | FENCED)


@given(st.integers(0, TERM_MAX), st.binary())
def test_term_and_value_come_apart_again(term: int, value: bytes) -> None:
    assert split(fenced(term, value)) == (term, value)


@given(st.binary(max_size=7))
def test_what_is_too_short_names_no_term(payload: bytes) -> None:
    assert split(payload) == (NOWHERE, b"")


def test_the_bits_are_none_of_a_state_machines() -> None:
    assert MAX_SMID < MEMBERSHIP_SMID < FENCED < PACK
    assert MASTER_SMID < FENCED


def test_only_the_term_of_the_instance_executes() -> None:
    applier, journal, replies = rig({0: TERM, 1: TERM + 1, 2: -1})
    run(applier, 0, write(1, TERM, b"a"), write(2, TERM - 1, b"b"), write(3, TERM + 1, b"c"), entry(4, b"d"))
    run(applier, 1, write(5, TERM, b"e"), write(6, TERM + 1, b"f"))
    run(applier, 2, write(7, TERM + 1, b"g"), entry(8, b"h"))
    assert journal.values == [b"a", b"d", b"f", b"h"]
    assert [(reply[0], reply[1]) for reply in replies] == [
        (1, Code.OK),
        (2, Code.STALE_TERM),
        (3, Code.STALE_TERM),
        (4, Code.OK),
        (5, Code.STALE_TERM),
        (6, Code.OK),
        (7, Code.STALE_TERM),
        (8, Code.OK),
    ]
    assert replies[0][4] == b"a!", "the context is the proposer's as ever"
    assert [reply[3] for reply in replies[:4]] == [0, 1, 2, 3], "places count what was not executed too"
    assert applier.executed == 8
    stale = error_of(replies[1])
    assert isinstance(stale, StaleTerm)
    assert str(stale) == "not executed: the term was 40 in instance 0 of group 0"
    assert not stale.retryable
    assert str(error_of(replies[6])) == "not executed: nobody was master in instance 2 of group 0"


def test_a_stale_value_is_nothing_to_commit() -> None:
    applier, journal, _ = rig({0: TERM, 1: TERM})
    run(applier, 0, write(1, TERM - 1, b"a"))
    run(applier, 1, write(2, TERM, b"b"))
    assert journal.commits == [1]


@pytest.mark.parametrize(("term", "code"), [(TERM, Code.OK), (TERM - 1, Code.STALE_TERM)])
def test_a_pack_is_fenced_as_a_whole(term: int, code: int) -> None:
    applier, journal, replies = rig({0: TERM})
    values = [b"a", b"b", b"c"]
    many = entry(1, fenced(term, pack.encode(values)), 1 | PACK | FENCED)
    applier.apply(0, [many, entry(2, b"d")], {1: (0, 0, 0, b"", None), 2: (0, 0, 0, b"", None)})
    assert journal.values == ([*values, b"d"] if code == Code.OK else [b"d"])
    assert [reply[1] for reply in replies] == [code, Code.OK]
    assert [reply[3] for reply in replies] == [0, 3], "its values have their places all the same"
    assert applier.executed == 4


def test_a_fenced_value_of_no_machine_is_stale_too() -> None:
    applier, _, replies = rig({0: TERM})
    run(applier, 0, write(1, TERM - 1, b"", smid=0), write(2, TERM, b"", smid=0))
    assert [reply[1] for reply in replies] == [Code.STALE_TERM, Code.OK]


def test_a_payload_without_a_term_is_stale_in_any() -> None:
    """Also where there is none: -1 stands for that."""
    applier, journal, replies = rig({0: TERM, 1: -1})
    for instance in (0, 1):
        run(applier, instance, entry(instance, b"1234567", 1 | FENCED))
    assert journal.values == []
    assert [reply[1] for reply in replies] == [Code.STALE_TERM] * 2


def test_a_term_that_nobody_remembers_stops_the_machine() -> None:
    """Replicas must not differ: neither executing nor skipping would be right."""
    applier, journal, replies = rig({0: None, 1: TERM})
    run(applier, 0, entry(1, b"a"), write(2, TERM, b"b"), write(3, TERM, b"c"))
    run(applier, 1, write(4, TERM, b"d"))
    assert journal.values == [b"a"]
    assert [reply[1] for reply in replies] == [Code.OK] + [Code.EXECUTE_FAILED] * 3
    assert "too many elections" in applier.stopped[1]


def test_inner_operations_are_none_of_the_machines_business() -> None:
    applier, journal, replies = rig({0: TERM})
    inner = [entry(7, b"\0" * 41, MASTER_SMID, incarnation=0), entry(8, b"x", MEMBERSHIP_SMID, incarnation=0)]
    run(applier, 0, *inner, write(1, TERM, b"a"))
    assert journal.values == [b"a"]
    assert [reply[3] for reply in replies] == [0], "they have no place among the values"
    assert applier.executed == 1


def test_who_reads_an_instance_sees_the_values_alone() -> None:
    entries = [
        write(1, TERM, b"a"),
        entry(2, fenced(TERM, pack.encode([b"b", b"c"])), 1 | PACK | FENCED),
        entry(3, pack.encode([b"d"]), 1 | PACK),
        entry(4, b"e"),
    ]
    seen = [(each[4], each[5]) for each in pack.expand(entries)]
    assert seen == [(1, value) for value in (b"a", b"b", b"c", b"d", b"e")]
    assert [pack.count_in(each[4], each[5]) for each in entries] == [1, 2, 1, 1]
