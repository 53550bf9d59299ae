"""The checker of linearizability: it finds what is wrong, and nothing else, also by force of comparison."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxmux.tools.linear import Operation, Problem, Value, by_key, check
from paxmux.tools.linear_explain import explain
from paxmux.tools.linear_operation import describe
from paxmux.tools.linear_search import linearizable
from tests.linear_histories import by_force, history, simulated

GOOD = {
    "nothing": "",
    "one after the other": """
        A: [put a] [get a] [put b] [get b] [delete] [get -]""",
    "a read beside a write sees either": """
        A: [put a] [   put b           ]
        B:            [get a] [get b]""",
    "reads that overlap": """
        A: [put a]  [put b              ]
        B:            [get b ]
        C:              [get a        ]""",
    "writes that overlap, in the order in which they are seen": """
        A: [put a        ]
        B: [put b        ]
        C:      [get b] [get a]
        D:                     [get a]""",
    "cas done and not done": """
        A: [put a] [cas a b = a] [cas a c = b] [get b]""",
    "cas on an empty register": """
        A: [cas - a = -] [cas - b = a] [get a]""",
    "an unknown write that took effect": """
        A: [put a] [put b ?
        B:              [get a] [get b]""",
    "an unknown write that took effect late": """
        A: [put a] [put b ?
        B:            [get a] [put c] [get c] [get b]""",
    "an unknown write that never took effect": """
        A: [put a] [put b ?
        B:            [get a] [put c] [get c] [get c]""",
    "writes that build on each other in a row, all at once": """
        A: [put a              ]
        B: [cas a b = a        ]
        C: [cas b c = b        ]
        D: [get b              ]
        E: [put d              ]  [get d]""",
    "an unknown cas between two writes": """
        A: [put a]  [cas a b ?
        B:                [get a] [get b]  [cas b c = b]""",
    "unknown operations that build on each other": """
        A: [put a ?
        B:   [cas a b ?
        C:     [cas b c ?
        D:           [get -] [get c]""",
    "an unknown write that only an unknown cas saw, told in any order": """
        A: [cas a b ?
        B: [put a ?
        C:            [get b]""",
    "an unknown delete": """
        A: [put a] [delete ?
        B:            [get a] [get -] [put c] [get c]""",
    "two unknown deletes, each seen": """
        A: [put a] [delete ?    [put b]
        B:            [delete ?
        C:                  [get -]      [get b]  [get -]""",
    "an unknown read": """
        A: [put a] [get ?
        B:            [put b] [get b]""",
    "a value written twice": """
        A: [put a] [put b] [put a] [get a]""",
    "touching ends count as overlapping": """
        A: [put a]
        B:       [get -]""",
}

BAD = {
    "a stale read": """
        A: [put a] [put b]
        B:                 [get a]""",
    "two reads that go back": """
        A: [put a] [put b            ]
        B:           [get b] [get a]""",
    "two readers that go back": """
        A: [put a] [put b            ]
        B:           [get b]
        C:                   [get a]""",
    "a lost update": """
        A: [put a] [cas a b = a]
        B:         [cas a c = a]""",
    "a lost update of a write that is still under way": """
        A: [put a          ]
        B: [cas a b = a    ]
        C: [cas a c = a    ]""",
    "an acknowledged write that nobody sees": """
        A: [put a]
        B:         [get -]""",
    "a read of what nobody wrote": """
        A: [put a] [get b]""",
    "a read from the future": """
        A: [get a]  [put a]""",
    "a read from the future, of a write of unknown outcome": """
        A: [get a]
        B:          [put a ?
        C:                    [get a]""",
    "readers that disagree on the order of two writes": """
        A: [put a                    ]
        B: [put b                    ]
        C:   [get a] [get b]
        D:   [get b] [get a]""",
    "an unknown write that takes effect twice": """
        A: [put a] [put b ?
        B:                 [get b] [put c] [get c] [get b]""",
    "an unknown delete that takes effect twice": """
        A: [put a] [delete ?    [put b]
        B:                [get -]      [get b]  [get -]""",
    "an unknown cas whose value was gone": """
        A: [put a] [put c] [cas a b ?
        B:                           [get b]""",
    "two cas that build on each other in a ring": """
        A: [cas a b = a]
        B: [cas b a = b]""",
    "a cas that found what was not there": """
        A: [put a] [cas b c = b]""",
    "a cas that did not, and should have": """
        A: [put a] [cas a c = -]""",
    "a deleted value": """
        A: [put a] [delete] [get a]""",
    "a value written twice, read between": """
        A: [put a] [put b] [put a]
        B:                  [get b] [get b]
        C:                                  [get b]""",
}


@pytest.mark.parametrize("drawing", GOOD.values(), ids=GOOD)
def test_what_could_have_happened_is_good(drawing: str) -> None:
    operations = history(drawing)
    assert by_force(operations)
    assert check(operations) is None


@pytest.mark.parametrize("drawing", BAD.values(), ids=BAD)
def test_what_could_not_have_happened_is_found(drawing: str) -> None:
    operations = history(drawing)
    assert not by_force(operations)
    problem = check(operations)
    assert problem is not None
    assert_holds(problem, operations)


def assert_holds(problem: Problem, operations: list[Operation]) -> None:
    """The problem is one, and as small as it says."""
    mine = [one for one in operations if one.key == problem.key]
    assert set(problem.core) <= set(mine)
    assert problem.culprit in problem.core
    assert not linearizable(problem.core)
    end = problem.culprit.returned_ns
    assert end is not None
    before = [
        one if one.returned_ns is not None and one.returned_ns < end else one._replace(returned_ns=None)
        for one in mine
        if one.invoked_ns <= end
    ]
    assert linearizable(before)
    assert f"{describe(problem.culprit)}  <- cannot be" in problem.words
    assert all(describe(one) in problem.words for one in problem.core)


def test_each_key_is_judged_alone() -> None:
    good, bad = history(GOOD["one after the other"]), history(BAD["a stale read"])
    bad = [one._replace(key=("g", 1)) for one in bad]
    assert by_key(good + bad) == {"k": good, ("g", 1): bad}
    problem = check(good + bad)
    assert problem is not None
    assert problem.key == ("g", 1)


def test_the_first_problem_is_told() -> None:
    late = [one._replace(key="late", invoked_ns=one.invoked_ns + 50) for one in history(BAD["a stale read"])]
    late = [one._replace(returned_ns=(one.returned_ns or 0) + 50) for one in late]
    problem = check(late + history(BAD["a deleted value"]))
    assert problem is not None
    assert problem.key == "k"


def test_the_words_are_few_and_say_it() -> None:
    operations = history(BAD["a stale read"])
    noise = simulated(random.Random(1), 300)
    shift = 1 + max(one.returned_ns or one.invoked_ns for one in noise)
    operations = noise + [
        one._replace(invoked_ns=one.invoked_ns + shift, returned_ns=(one.returned_ns or 0) + shift)
        for one in operations
    ]
    problem = check(operations)
    assert problem is not None
    assert problem.words.splitlines() == [
        "key 'k' is not linearizable: no order of these explains all of them",
        "      0.000000 ..     0.000000 s  client 0: put 'a': done",
        "      0.000000 ..     0.000000 s  client 0: put 'b': done",
        "      0.000000 ..     0.000000 s  client 1: get: found 'a'  <- cannot be",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        Operation(0, "get", "k", None, None, 5, 4),
        Operation(0, "cas", "k", "a", None, 1, 2),
        Operation(0, "cas", "k", ("a", "b", "c"), None, 1, 2),
        Operation(0, "swap", "k", "a", None, 1, 2),  # type: ignore[arg-type]
    ],
)
def test_an_operation_that_makes_no_sense_is_refused(wrong: Operation) -> None:
    with pytest.raises(ValueError, match=r"returned before it was called|no operation of a register"):
        check([wrong])


# Against brute force

VALUES = st.sampled_from([None, "a", "b", "c"])


@st.composite
def small_histories(draw: st.DrawFn, unique: bool) -> list[Operation]:
    """Anything at all that few clients could have seen, most of it wrong."""
    operations = []
    for number in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(["get", "put", "cas", "delete"]))
        new: Value = f"v{number}" if unique else draw(VALUES)
        old: Value = draw(st.sampled_from([None, *(f"v{i}" for i in range(7))])) if unique else draw(VALUES)
        begin = draw(st.integers(0, 20))
        end = draw(st.none() | st.integers(begin, begin + 12))
        found: Value = old if draw(st.booleans()) else draw(VALUES)
        match kind:
            case "get":
                made = Operation(number, "get", "k", None, old, begin, end)
            case "put":
                made = Operation(number, "put", "k", new, None, begin, end)
            case "delete":
                made = Operation(number, "delete", "k", None, None, begin, end)
            case _:
                made = Operation(number, "cas", "k", (old, new), found, begin, end)
        operations.append(made if end is not None else made._replace(result=None))
    return operations


@settings(max_examples=500, deadline=None)
@given(small_histories(unique=False))
def test_any_values_are_judged_as_by_force(operations: list[Operation]) -> None:
    assert linearizable(operations) == by_force(operations)


@settings(max_examples=500, deadline=None)
@given(small_histories(unique=True))
def test_values_written_once_are_judged_as_by_force(operations: list[Operation]) -> None:
    assert linearizable(operations) == by_force(operations)


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_simulated_histories_and_damaged_ones_are_judged_as_by_force(seed: int, unique: bool) -> None:
    """Nearer to the edge than histories drawn blindly: one answer of a good history is exchanged."""
    rng = random.Random(f"damage {seed} {unique}")
    judged = [0, 0]
    for _ in range(150):
        operations = simulated(
            rng, 8, clients=rng.randint(2, 5), unknown=0.25, late=0.1, unique=unique, deletes=0.1
        )
        assert linearizable(operations)
        assert by_force(operations)
        damaged = damage(rng, operations)
        good = by_force(damaged)
        judged[good] += 1
        assert linearizable(damaged) == good, damaged
        if not good:
            assert_holds(explain(damaged), damaged)
    assert min(judged) > 10


def damage(rng: random.Random, operations: list[Operation]) -> list[Operation]:
    """The same with another answer to one of them."""
    answers = [n for n, one in enumerate(operations) if one.kind in ("get", "cas") and one.returned_ns]
    if not answers:
        return operations
    number = rng.choice(answers)
    others = [one.argument for one in operations if one.kind == "put"] + [None, "nobody's"]
    damaged = list(operations)
    damaged[number] = damaged[number]._replace(result=rng.choice(others))
    return damaged


# Long histories

LONG = 8000


@pytest.mark.parametrize(
    ("clients", "unknown", "late"),
    [(3, 0.0, 0.0), (12, 0.02, 0.5), (30, 0.1, 0.9), (5, 0.5, 1.0), (100, 0.3, 0.5)],
)
def test_a_long_good_history_is_good(clients: int, unknown: float, late: float) -> None:
    rng = random.Random(f"long {clients} {unknown}")
    operations = simulated(rng, LONG, clients=clients, unknown=unknown, late=late)
    assert len(operations) == LONG
    assert check(operations) is None


def test_many_unknown_deletes_do_not_explode() -> None:
    operations = simulated(random.Random(7), 3000, clients=5, unknown=0.1, deletes=0.2)
    unknown = [one for one in operations if one.kind == "delete" and one.returned_ns is None]
    assert len(unknown) > 40
    assert check(operations) is None


@pytest.mark.parametrize("seed", range(6))
def test_one_stale_answer_in_a_long_history_is_found(seed: int) -> None:
    """A read gets an answer that was overwritten, and seen to be, before it was called."""
    rng = random.Random(f"stale {seed}")
    operations = simulated(rng, LONG, clients=8, unknown=0.05)
    operations.sort(key=lambda one: one.invoked_ns)
    reads = [n for n, one in enumerate(operations) if one.kind == "get" and one.returned_ns]
    late = rng.choice(reads[len(reads) // 2 :])
    stale = next(
        operations[n].result
        for n in reversed(reads)
        if (operations[n].returned_ns or 0) < operations[late].invoked_ns - 1000
        and operations[n].result != operations[late].result
    )
    operations[late] = operations[late]._replace(result=stale)
    problem = check(operations)
    assert problem is not None
    assert_holds(problem, operations)
    assert len(problem.core) <= 6
    # Either it shows with this answer, or with an earlier one that this one makes impossible: never.
    assert problem.culprit == operations[late]


@pytest.mark.parametrize("seed", range(4))
def test_an_acknowledged_write_that_is_lost_in_a_long_history_is_found(seed: int) -> None:
    """The register forgets one write: what came before it is seen again."""
    rng = random.Random(f"lost {seed}")
    operations: list[Operation] = []
    now, value = 0, None
    forget_at = rng.randrange(1000, LONG)
    for number in range(LONG + 10):
        now += 10
        if number % 2:
            operations.append(Operation(1, "get", "k", None, value, now, now + 5))
        else:
            operations.append(Operation(0, "put", "k", f"v{number}", None, now, now + 5))
            if number != forget_at - forget_at % 2:
                value = f"v{number}"
    problem = check(operations)
    assert problem is not None
    assert_holds(problem, operations)
    assert len(problem.core) <= 5
    assert problem.culprit.invoked_ns >= 10 * forget_at
