"""Marks a test as the proof of a row in the table of faults (`docs/faults.md`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])

ATTRIBUTE = "fault_rows"


class Row(NamedTuple):
    """One row of the table, without its test."""

    fault: str
    """What happens, in the words of the table."""
    where: str
    """What it happens to: log, index, identity, and so on."""
    outcome: str
    """What becomes of it."""


def fault(what: str, where: str, outcome: str) -> Callable[[Test], Test]:
    """The decorated test shows what becomes of a fault. A test may have several."""

    def mark(test: Test) -> Test:
        rows = getattr(test, ATTRIBUTE, ())
        setattr(test, ATTRIBUTE, (Row(what, where, outcome), *rows))
        return test

    return mark
