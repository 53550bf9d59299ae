"""Which few operations show that a history of one register is not linearizable.

Decides the smallest prefix that is wrong already, and within it a set of operations that is wrong by
itself, as small as it can find. Only what cannot make a good history bad is left out: reads,
and writes of values that nobody left in the set saw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from paxmux.tools.linear_operation import Operation, Value, describe
from paxmux.tools.linear_search import ANY, KEEP, linearizable, step

CHECKS_MAX = 2000
"""Attempts to leave something out."""
_SECOND_NS = 1_000_000_000


class Problem(NamedTuple):
    """A history that is not linearizable."""

    key: Hashable
    culprit: Operation
    """Until it had returned, all was well."""
    core: list[Operation]
    """Operations that already contradict each other, by the time of their calls; the culprit is one."""
    words: str
    """The same for people: some lines."""


def explain(operations: Sequence[Operation]) -> Problem:
    """The problem of a history, all of one key, that is not linearizable."""
    history = sorted(operations, key=lambda one: one.invoked_ns)
    prefix, culprit = _smallest_prefix(history)
    # Shown as they went on, also those that were not answered yet when the culprit was.
    core = [history[number] for number in _core(prefix, history.index(culprit))]
    return Problem(culprit.key, culprit, core, _words(core, culprit))


def _smallest_prefix(history: list[Operation]) -> tuple[list[Operation], Operation]:
    """What had been called when the first answer came that is wrong, and the operation it answers."""
    answers = sorted(
        (number for number, one in enumerate(history) if one.returned_ns is not None),
        key=lambda number: history[number].returned_ns or 0,
    )
    low, high = 0, len(answers) - 1
    while low < high:
        middle = (low + high) // 2
        if linearizable(_prefix(history, answers[: middle + 1])):
            low = middle + 1
        else:
            high = middle
    return _prefix(history, answers[: low + 1]), history[answers[low]]


def _prefix(history: list[Operation], answers: list[int]) -> list[Operation]:
    """The history up to the last of the answers."""
    answered = set(answers)
    until_ns = history[answers[-1]].returned_ns or 0
    return [
        one if number in answered else one._replace(result=None, returned_ns=None)
        # Those called later are the last of the history, so that numbers stay what they are.
        for number, one in enumerate(history)
        if one.invoked_ns <= until_ns
    ]


def _core(prefix: list[Operation], culprit: int) -> list[int]:
    """A part of a bad history that is bad by itself, as numbers; as small as attempts allow. The culprit
    stays in it: what it answered may be that it did not write what others saw."""
    steps = [step(one) for one in prefix]
    writers: dict[Value, list[int]] = defaultdict(list)
    for number, one in enumerate(steps):
        if one.post is not KEEP:
            writers[one.post].append(number)

    def part(roots: Iterable[int]) -> list[int]:
        """The roots, and whoever wrote what the part sees."""
        found, todo = set[int](), [culprit, *roots]
        while todo:
            number = todo.pop()
            if number not in found:
                found.add(number)
                if steps[number].pre is not ANY:
                    todo += writers[steps[number].pre]
        return sorted(found)

    def bad(roots: Iterable[int]) -> bool:
        return not linearizable(prefix[number] for number in part(roots))

    low, high = 0, len(prefix) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if bad(range(middle, len(prefix))):
            low = middle
        else:
            high = middle - 1
    roots = list(range(low, len(prefix)))
    checks, size = 0, len(roots) // 2
    while size and checks < CHECKS_MAX:
        at, before = 0, len(roots)
        while at < len(roots) and checks < CHECKS_MAX:
            fewer = roots[:at] + roots[at + size :]
            checks += 1
            if bad(fewer):
                roots = fewer
            else:
                at += size
        if size > 1 or len(roots) == before:
            size //= 2
    return part(roots)


def _words(core: list[Operation], culprit: Operation) -> str:
    begin_ns = core[0].invoked_ns
    rows = []
    for one in core:
        until = "never" if one.returned_ns is None else f"{(one.returned_ns - begin_ns) / _SECOND_NS:.6f}"
        since = f"{(one.invoked_ns - begin_ns) / _SECOND_NS:.6f}"
        mark = "  <- cannot be" if one == culprit else ""
        rows.append(f"  {since:>12} .. {until:>12} s  client {one.client}: {describe(one)}{mark}")
    return "\n".join(
        (f"key {culprit.key!r} is not linearizable: no order of these explains all of them", *rows)
    )
