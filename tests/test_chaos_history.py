"""The history that `paxmux chaos --linearizable` checks: what goes into it, and how it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from paxmux.engine.errors import Code, ConfigError
from paxmux.tools.chaos_faults import Action, Faults
from paxmux.tools.chaos_history import (
    History,
    longest_silence_s,
    read_history,
    unknown,
    write_history,
)
from paxmux.tools.linear import Operation, check
from paxmux.tools.linear_operation import Kind
from paxmux.tools.register_clients import Called, read_value, written_value


class Recorded:
    """A history, and what it complained about."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.history = History(self.words.append)
        assert self.history.new_clients(3) == 0

    def call(
        self,
        client: int,
        number: int,
        kind: Kind,
        *,
        found: str | None = None,
        code: int = Code.OK,
        no_effect: bool = False,
    ) -> Called:
        value = None if kind == "get" else written_value(client, number)
        moment = self.last_ns(client) + 10
        called = Called(client, number, kind, "0/0", None, value, found, moment, moment + 5, code, no_effect)
        self.history.take(called)
        return called

    def last_ns(self, client: int) -> int:
        """When a client's last call ended, or when it began."""
        return self.history._lives[client].told_ns


def test_calls_become_operations_with_what_is_known_of_them() -> None:
    recorded = Recorded()
    put = recorded.call(0, 1, "put")
    got = recorded.call(1, 1, "get", found="0.1")
    lost = recorded.call(0, 2, "put", code=Code.TIMEOUT)
    tried = recorded.call(2, 1, "cas", found="0.1")
    recorded.call(2, 2, "put", code=Code.OVERLOADED, no_effect=True)
    recorded.call(1, 2, "get", code=Code.TIMEOUT, no_effect=True)
    assert recorded.history.operations == [
        Operation(0, "put", "0/0", "0.1", None, put.invoked_ns, put.returned_ns),
        Operation(1, "get", "0/0", None, "0.1", got.invoked_ns, got.returned_ns),
        Operation(0, "put", "0/0", "0.2", None, lost.invoked_ns, None),
        Operation(2, "cas", "0/0", (None, "2.1"), "0.1", tried.invoked_ns, tried.returned_ns),
    ]
    assert recorded.history.outcomes == {Code.OK: 3, Code.TIMEOUT: 2, Code.OVERLOADED: 1}
    assert (recorded.history.refused, unknown(recorded.history.operations)) == (2, 1)
    assert recorded.words == []


@pytest.mark.parametrize("code", [Code.EXECUTE_FAILED, Code.QUERY_FAILED, Code.SYSTEM_ERROR])
def test_an_outcome_that_nothing_should_cause_is_told(code: int) -> None:
    recorded = Recorded()
    recorded.call(0, 1, "put", code=code)
    assert recorded.words == [f"a put on 0/0 ended with code {code}, which nothing should cause"]


def test_what_a_killed_client_wrote_last_is_added_if_somebody_saw_it() -> None:
    recorded = Recorded()
    told = recorded.call(0, 1, "put")
    recorded.history.gone(0, 1)
    recorded.call(1, 1, "get", found="0.2")
    assert check(recorded.history.operations) is not None, "nobody has told of 0.2"
    assert recorded.history.complete() == 1
    assert recorded.history.operations[-1] == Operation(0, "put", "0/0", "0.2", None, told.returned_ns, None)
    assert check(recorded.history.operations) is None


@pytest.mark.parametrize(
    "found",
    [
        "1.9",  # a client that lives tells of all its calls
        "0.1",  # it told of this call, which was refused
        "7.1",  # there is no such client
        "nonsense",
    ],
)
def test_a_value_that_nobody_can_have_written_is_not_explained_away(found: str) -> None:
    recorded = Recorded()
    recorded.call(0, 1, "put", code=Code.OVERLOADED, no_effect=True)
    recorded.history.gone(0, 1)
    recorded.call(2, 1, "get", found=found)
    assert recorded.history.complete() == 0
    assert check(recorded.history.operations) is not None


def test_a_value_names_its_client_and_call() -> None:
    assert read_value(written_value(12, 345)) == (12, 345)


def test_the_longest_silence_is_between_successes() -> None:
    second = 1_000_000_000
    times = [(0, 1), (1, 2), (2, None), (3, 9), (9, 10)]
    operations = [
        Operation(0, "put", "k", f"0.{number}", None, begin * second, None if end is None else end * second)
        for number, (begin, end) in enumerate(times)
    ]
    assert longest_silence_s(operations) == 7.0
    assert longest_silence_s([]) == 0.0


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    operations = [
        Operation(0, "put", "0/0", "0.1", None, 5, None),
        Operation(-1, "get", "0/1", None, None, 7, 8),
        Operation(1, "cas", "0/0", (None, "1.1"), "0.1", 9, 20),
        Operation(1, "cas", "0/0", ("a", "b"), None, 30, 40),
    ]
    write_history(tmp_path / "h", operations[::-1])
    assert list(read_history(tmp_path / "h")) == operations


@pytest.mark.parametrize("line", ["{", '{"client": 1}', '{"client": "x"}', "[]", '"\\ud800"', "\xff"])
def test_a_line_that_is_no_operation_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "h"
    write_history(file, [Operation(0, "put", "k", "a", None, 1, 2)])
    with open(file, "a", encoding="latin-1") as out:
        out.write(line + "\n")
    with pytest.raises(ConfigError, match=r"h:2: expected an operation: "):
        list(read_history(file))


def test_a_history_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="h: expected a history: No such file"):
        list(read_history(tmp_path / "h"))


@pytest.mark.parametrize("nodes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(10))
def test_every_cut_is_between_two_nodes_and_ends(seed: int, nodes: int) -> None:
    faults = Faults(seed, nodes, cuts=True)
    plans = {plan.name: plan.faults for plan in (faults.next() for _ in range(21))}
    assert len(plans) == 21
    cut = {name for name, done in plans.items() if any(fault.action == Action.CUT for fault in done)}
    assert len(cut) == 7
    for name, done in plans.items():
        assert [fault.at_s for fault in done] == sorted(fault.at_s for fault in done)
        directions = [cut for fault in done for cut in fault.cuts]
        assert all(0 <= a < nodes and 0 <= b < nodes and a != b for a, b in directions)
        assert bool(directions) == (name in cut)
        if name in cut:
            last = [fault for fault in done if fault.action in (Action.CUT, Action.HEAL)][-1]
            assert last.action == Action.HEAL
    (off, *_) = (fault for fault in plans["a node cut off"] if fault.action == Action.CUT)
    assert len(off.cuts) == 2 * (nodes - 1)
    assert len({frozenset(pair) for pair in off.cuts}) == nodes - 1
    (one_way, *_) = (fault for fault in plans["one direction cut"] if fault.action == Action.CUT)
    assert len(one_way.cuts) == 1


def test_plans_without_cuts_have_none() -> None:
    faults = Faults(1, 3)
    actions = {fault.action for _ in range(40) for fault in faults.next().faults}
    assert not actions & {Action.CUT, Action.HEAL, Action.FREEZE_ROUTER}
