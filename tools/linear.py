"""Whether a history of registers could have happened one operation at a time: linearizability.

A register holds a value or None, None at first, and each key has one of its own. The history is
linearizable if every operation can be given one moment between its call and its answer so that a
register that did them in that order would have answered the same. Keys are judged one by one, since
the whole is linearizable if and only if each key is.

tools/linear_search.py decides, tools/linear_explain.py finds the few operations that contradict each
other. Nothing here knows where a history comes from.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from paxmux.tools.linear_explain import Problem, explain
from paxmux.tools.linear_operation import Kind, Operation, Value
from paxmux.tools.linear_search import linearizable

__all__ = ["Kind", "Operation", "Problem", "Value", "by_key", "check"]


def by_key(history: Iterable[Operation]) -> dict[Hashable, list[Operation]]:
    """The operations of each key, in the order given."""
    keys: dict[Hashable, list[Operation]] = {}
    for operation in history:
        keys.setdefault(operation.key, []).append(operation)
    return keys


def check(history: Iterable[Operation]) -> Problem | None:
    """None if the history is linearizable, else the problem whose culprit returned first.

    Args:
        history: operations in any order, each client's one after the other or not.

    Raises:
        ValueError: an operation returned before it was called, or has an argument of another kind.
    """
    problems = [explain(run) for run in by_key(history).values() if not linearizable(run)]
    return min(problems, key=lambda problem: problem.culprit.returned_ns or 0, default=None)
