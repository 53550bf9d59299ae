"""Histories for the checker's tests: written by hand, drawn from a simulated register, judged by force."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence

from paxmux.tools.linear import Operation
from paxmux.tools.linear_operation import Value


def history(text: str) -> list[Operation]:
    """A history as a drawing. A line is one client, each column a moment:

        A: [put a    ]   [get b]
        B:      [put b ]         [cas b c = b ?

    `]` is the answer; `?` ends a call without one. `-` is None; `cas` has `= FOUND` unless unknown.
    """
    operations = []
    for client, line in enumerate(filter(str.strip, text.splitlines())):
        at = line.index(":") + 1
        while (begin := line.find("[", at)) >= 0:
            end = min(place for mark in "]?" if (place := line.find(mark, begin)) > 0)
            known = line[end] == "]"
            words = [None if word == "-" else word for word in line[begin + 1 : end].split()]
            operations.append(_read(client, words, begin, end if known else None))
            at = end + 1
    return operations


def _read(client: int, words: list[str | None], begin: int, end: int | None) -> Operation:
    kind, *rest = words
    match kind:
        case "get":
            return Operation(client, "get", "k", None, rest[0] if end else None, begin, end)
        case "put":
            return Operation(client, "put", "k", rest[0], None, begin, end)
        case "delete":
            return Operation(client, "delete", "k", None, None, begin, end)
        case "cas":
            found = rest[3] if end else None
            return Operation(client, "cas", "k", (rest[0], rest[1]), found, begin, end)
    raise ValueError(f"not drawn well: {words}")


def simulated(
    rng: random.Random,
    count: int,
    *,
    clients: int = 4,
    unknown: float = 0.0,
    late: float = 0.5,
    unique: bool = True,
    deletes: float = 0.0,
    key: str = "k",
) -> list[Operation]:
    """What clients of one atomic register saw. A part `unknown` of the calls has no answer; of these
    some took effect at a random later time, `late` of them much later, and some never did."""
    value: Value = None
    numbers = itertools.count(1)
    seen: list[Value] = [None] * clients
    operations: list[Operation] = []
    # (moment, tie, client, what): each call takes effect at one moment between its two ends.
    todo = [(rng.randrange(100), tie, tie, None) for tie in range(clients)]
    ties = itertools.count(clients)
    queue: list[tuple[int, int, int, tuple[str, Value, int, bool] | None]] = list(todo)
    heapq.heapify(queue)
    called = 0
    while queue:
        now, _, client, call = heapq.heappop(queue)
        if call is None:
            if called == count:
                continue
            called += 1
            new: Value = f"v{next(numbers)}" if unique else rng.choice("abc")
            draw = rng.random()
            argument: Value = None
            if draw < deletes:
                kind = "delete"
            elif draw < 0.5:
                kind = "get"
            elif draw < 0.8:
                kind, argument = "put", new
            else:
                kind, argument = "cas", (seen[client], new)
            answered = rng.random() >= unknown
            delay = rng.randrange(1, 100)
            if not answered and rng.random() < late:
                delay *= 200
            if answered or rng.random() < 0.7:
                heapq.heappush(queue, (now + delay, next(ties), client, (kind, argument, now, answered)))
            else:
                operations.append(_made(client, kind, key, argument, None, now, None))
            if not answered:
                heapq.heappush(queue, (now + rng.randrange(1, 100), next(ties), client, None))
            continue
        kind, argument, began, answered = call
        found = value
        if kind == "put":
            value = argument
        elif kind == "delete":
            value = None
        elif kind == "cas" and isinstance(argument, tuple) and found == argument[0]:
            value = argument[1]
        end = now + rng.randrange(1, 100)
        if answered:
            result = found if kind in ("get", "cas") else None
            seen[client] = found if kind in ("get", "cas") else argument
            operations.append(_made(client, kind, key, argument, result, began, end))
            heapq.heappush(queue, (end + rng.randrange(1, 50), next(ties), client, None))
        else:
            operations.append(_made(client, kind, key, argument, None, began, None))
    return operations


def _made(
    client: int, kind: str, key: str, argument: Value, result: Value, began: int, end: int | None
) -> Operation:
    match kind:
        case "get" | "put" | "delete" | "cas":
            return Operation(client, kind, key, argument, result, began, end)
    raise ValueError(kind)


def by_force(operations: Sequence[Operation]) -> bool:
    """Whether any order fits, by trying them all."""
    known = frozenset(n for n, one in enumerate(operations) if one.returned_ns is not None)

    def search(value: Value, left: frozenset[int]) -> bool:
        if not left & known:
            return True
        # Nothing may come after an operation that was called after its answer.
        ends = [operations[n].returned_ns for n in left & known]
        first_end = min(end for end in ends if end is not None)
        for number in left:
            one = operations[number]
            if one.invoked_ns > first_end:
                continue
            after = _after(one, value)
            if after is not None and search(after[0], left - {number}):
                return True
        return False

    return search(None, frozenset(range(len(operations))))


def _after(one: Operation, value: Value) -> tuple[Value] | None:
    """The value after an operation; None if it cannot have happened on this value."""
    known = one.returned_ns is not None
    match one.kind:
        case "put":
            return (one.argument,)
        case "delete":
            return (None,)
        case "get":
            return (value,) if not known or one.result == value else None
        case "cas":
            assert isinstance(one.argument, tuple)
            if known and one.result != value:
                return None
            return (one.argument[1] if value == one.argument[0] else value,)
