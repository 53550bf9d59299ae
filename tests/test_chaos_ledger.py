"""The judge of `paxmux chaos`: each kind of violation is found, and nothing else is one."""

from __future__ import annotations

import pytest

from paxmux.engine.errors import Code, ConfigError
from paxmux.tools.chaos_faults import Action, Faults
from paxmux.tools.chaos_ledger import EXAMPLES_MAX, Ledger
from paxmux.tools.journal_machine import Journal, ask_page, make_value, read_id, read_page
from paxmux.tools.writers import Outcome, make_id, split_id

A, B, C = (make_id(0, number) for number in (1, 2, 3))


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger(2)
    assert made.new_clients(4) == 0
    return made


def acknowledged(value_id: int, group: int, instance: int) -> Outcome:
    return Outcome(value_id, instance, group, Code.OK, False)


def refused(value_id: int) -> Outcome:
    return Outcome(value_id, 0, 0, Code.OVERLOADED, True)


def unknown(value_id: int) -> Outcome:
    return Outcome(value_id, 0, 0, Code.TIMEOUT, False)


def test_what_may_happen_is_no_violation(ledger: Ledger) -> None:
    ledger.take_outcomes([acknowledged(A, 0, 5), unknown(B), refused(make_id(1, 9))])
    ledger.take_rows(0, [(5, A), (6, B)])
    # Its writer was killed before it could tell of it.
    ledger.take_rows(1, [(0, C)])
    ledger.settle()
    assert (ledger.violations, ledger.examples) == (0, [])
    assert (ledger.rows, ledger.executed) == ([2, 1], 3)
    assert ledger.outcomes == {Code.OK: 1, Code.TIMEOUT: 1, Code.OVERLOADED: 1}


def test_an_unknown_outcome_may_be_executed_later(ledger: Ledger) -> None:
    ledger.take_outcomes([unknown(A)])
    ledger.settle()
    ledger.take_rows(0, [(7, A)])
    ledger.settle()
    assert ledger.violations == 0


def test_an_acknowledged_value_that_is_not_there_is_lost(ledger: Ledger) -> None:
    ledger.take_outcomes([acknowledged(A, 1, 3)])
    ledger.take_rows(1, [(3, B)])
    ledger.settle()
    assert ledger.examples == ["value 1 of client 0 was acknowledged for group 1, instance 3, and is lost"]


@pytest.mark.parametrize(("group", "instance"), [(0, 4), (1, 3)])
def test_an_acknowledged_value_must_be_where_it_was_acknowledged(
    ledger: Ledger, group: int, instance: int
) -> None:
    ledger.take_outcomes([acknowledged(A, 0, 3)])
    ledger.take_rows(group, [(instance, A)])
    ledger.settle()
    assert ledger.violations == 1
    assert "acknowledged for group 0, instance 3" in ledger.examples[0]


def test_a_value_executed_twice_is_found_also_much_later(ledger: Ledger) -> None:
    ledger.take_outcomes([acknowledged(A, 0, 3)])
    ledger.take_rows(0, [(3, A)])
    ledger.settle()
    ledger.take_rows(1, [(9, A)])
    assert ledger.examples == [
        "value 1 of client 0 was executed twice, the second time in group 1, instance 9"
    ]


def test_what_was_refused_must_not_be_executed_before_or_after(ledger: Ledger) -> None:
    ledger.take_outcomes([refused(A)])
    ledger.take_rows(0, [(3, A), (4, B)])
    ledger.take_outcomes([refused(B)])
    assert [words.split(" was ")[0] for words in ledger.examples] == [
        "value 1 of client 0",
        "value 2 of client 0",
    ]


def test_a_value_that_nobody_wrote_is_found(ledger: Ledger) -> None:
    ledger.take_rows(0, [(0, make_id(4, 1))])
    assert ledger.examples == ["value 1 of client 4 was executed in group 0, instance 0, and nobody wrote it"]


@pytest.mark.parametrize("code", [Code.EXECUTE_FAILED, Code.SYSTEM_ERROR, Code.STORAGE_FAILED, 999])
def test_an_outcome_that_nothing_should_cause_is_found(ledger: Ledger, code: int) -> None:
    ledger.take_outcomes([Outcome(A, 0, 0, code, False)])
    assert ledger.violations == 1


def test_violations_are_counted_beyond_the_examples(ledger: Ledger) -> None:
    for _ in range(EXAMPLES_MAX + 5):
        ledger.violate("x")
    assert (ledger.violations, len(ledger.examples)) == (EXAMPLES_MAX + 5, EXAMPLES_MAX)


def test_an_id_says_who_wrote_it() -> None:
    assert split_id(make_id(7, 123_456)) == (7, 123_456)


def test_the_same_seed_makes_the_same_plans() -> None:
    first, second, other = Faults(1, 3), Faults(1, 3), Faults(2, 3)
    plans = [first.next() for _ in range(30)]
    assert plans == [second.next() for _ in range(30)]
    assert plans != [other.next() for _ in range(30)]


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_of_fault_comes_and_every_time_is_in_order(seed: int) -> None:
    faults = Faults(seed, 3)
    plans = [faults.next() for _ in range(13)]
    assert len({plan.name for plan in plans}) == 13
    assert {fault.action for plan in plans for fault in plan.faults} >= {
        Action.KILL_CHILD,
        Action.KILL_NODE,
        Action.START_NODE,
        Action.STOP_NODE,
        Action.THAW,
        Action.KILL_WORKER,
        Action.STOP_WORKER,
        Action.DAMAGE_RING,
    }
    for plan in plans:
        times = [fault.at_s for fault in plan.faults]
        assert times == sorted(times)
        assert all(0 <= fault.node < 3 for fault in plan.faults)
    killed = {plan.name: {f.node for f in plan.faults if f.action == Action.KILL_NODE} for plan in plans}
    assert len(killed["two nodes killed"]) == 2
    assert killed["all nodes killed"] == {0, 1, 2}


def test_kinds_of_faults_can_be_chosen() -> None:
    faults = Faults(1, 3, only=("crash loop", "ring"))
    names = {faults.next().name for _ in range(6)}
    assert names == {"a worker in a crash loop", "a ring damaged"}
    routers = Faults(1, 3, router_process=True, only=("router",))
    assert {routers.next().name for _ in range(3)} == {"a router killed"}
    with pytest.raises(ConfigError, match=r"expected words from .*a ring damaged.*got 'rocks'"):
        Faults(1, 3, only=("ring", "rocks"))


def test_the_journal_tells_what_it_executed() -> None:
    journal, twin, other = Journal(0), Journal(0), Journal(0)
    for machine in (journal, twin):
        for number in range(5):
            assert machine.execute(number // 2, make_value(number, b"x" * number), None) is None
    rows = [(number // 2, number) for number in range(5)]
    whole = read_page(journal.query(ask_page(0, 100)))
    assert (whole.rows, whole.page) == (5, rows)
    assert read_page(journal.query(ask_page(2, 2))).page == rows[2:4]
    assert read_page(twin.query(ask_page(0, 0))) == (5, whole.digest, [])
    other.execute(0, make_value(0, b"y"), None)
    assert read_page(other.query(ask_page(0, 0))).digest != read_page(Journal(0).query(ask_page(0, 0))).digest


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" + make_value(1, b"abc")[1:]])
def test_a_damaged_value_is_not_executed(damage: bytes) -> None:
    assert read_id(make_value(1, b"abc")) == 1
    with pytest.raises(ValueError, match="nobody wrote"):
        Journal(0).execute(0, damage, None)
