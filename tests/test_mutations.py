"""Deliberate mistakes, one at a time: each is found as its record says, or a check is missing."""

from __future__ import annotations

import pytest

from tests.mutation_harness import SEEDS, Check, Mutation, find, label
from tests.mutation_table import ELSEWHERE, invariants, pages, read_record
from tests.mutations import MUTATIONS

CHECKS = {label(each.check): each.check for each in MUTATIONS if each.check is not None}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name.replace(" ", "_"))
@pytest.mark.plain("it changes the code of functions")
def test_a_mistake_is_found(mutation: Mutation) -> None:
    recorded = read_record()[mutation.name]
    if find(mutation, [recorded.seed]) is not None:
        return
    assert mutation.check is None, "the test that it names does not find it any more"
    found = find(mutation)
    assert found is not None, f"no seed of {SEEDS[0]}..{SEEDS[-1]} finds it: a check or a fault is missing"
    pytest.fail(
        f"seed {recorded.seed} does not find it any more, {found.seed} does:"
        f' python -m tests.mutations --write "{mutation.name}"'
    )


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_named_test_finds_nothing_in_the_code_as_it_is(check: Check) -> None:
    check()


def test_the_record_has_every_mistake_once() -> None:
    names = [each.name for each in MUTATIONS]
    assert list(read_record()) == names
    assert len(set(names)) == len(names)


def test_the_pages_are_made_of_the_record() -> None:
    for path, text in pages(MUTATIONS, read_record()).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python -m tests.mutations --write"


def test_each_invariant_has_a_mistake_that_breaks_it() -> None:
    guarded = {number for each in MUTATIONS for number in each.guards.split()}
    assert guarded | ELSEWHERE.keys() == set(invariants())
    assert not guarded & ELSEWHERE.keys()


def test_the_simulator_finds_at_least_sixty() -> None:
    assert sum(find.seed > 0 for find in read_record().values()) >= 60


def test_who_is_not_found_by_a_seed_says_why() -> None:
    assert [each.name for each in MUTATIONS if (each.check is None) == bool(each.why)] == []
