"""How evenly a closed loop served its callers: the longest wait of any, and the answers of the slowest.

Percentiles over all requests do not show a caller that is forgotten: it asks for nothing meanwhile. Here a
wait goes from when a caller asked until it had its answer, over all attempts that failed between, and a wait
that the end of the measurement cuts counts as well. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TypedDict

import msgspec


class Caller(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One caller of a load."""

    answers: int
    """Within the window."""
    longest_wait_ns: int
    """Of those that ended in it, or were cut by its end."""


class Evenness(TypedDict):
    """What is reported."""

    count: int
    answers_min: int
    """Of the slowest caller."""
    answers_median: float
    longest_wait_ms: float
    """Of any caller."""
    longest_wait_median_ms: float
    """Of each caller's longest, the median."""
    longest_wait_by_p50: float | None
    """How many times the p50 of all requests; None if nothing was answered."""


def evenness(callers: Sequence[Caller], p50_ns: int) -> Evenness:
    """Of at least one caller; `p50_ns`: of all requests, 0 if there were none."""
    waits = [caller.longest_wait_ns for caller in callers]
    answers = [caller.answers for caller in callers]
    return {
        "count": len(callers),
        "answers_min": min(answers),
        "answers_median": median(answers),
        "longest_wait_ms": round(max(waits) / 1e6, 4),
        "longest_wait_median_ms": round(median(waits) / 1e6, 4),
        "longest_wait_by_p50": round(max(waits) / p50_ns, 2) if p50_ns else None,
    }


def told(found: Evenness) -> str:
    """In words."""
    times = found["longest_wait_by_p50"]
    ratio = f", {times:.1f} times the p50" if times is not None else ""
    return (
        f"longest wait of any of {found['count']:,} callers {found['longest_wait_ms']:.1f} ms{ratio}; the "
        f"slowest had {found['answers_min']:,} answers, the median {found['answers_median']:,.0f}"
    )
