"""How a load is spread over groups: evenly, or by Zipf's law, as keys of real services are.

Decides the weight of each group. Group 0 is the hottest one, so that a report, and an option that names
groups, can say which ones are hot. Draws nothing: see tools/arrivals.py.
"""

from __future__ import annotations

import argparse

UNIFORM = 0.0
"""The exponent under which all groups are alike."""
DEFAULT_EXPONENT = 0.99
MAX_EXPONENT = 5.0


def skew(text: str) -> float:
    """The exponent that a command line names: `uniform`, `zipf` or `zipf:S`."""
    name, colon, exponent = text.partition(":")
    if name == "uniform" and not colon:
        return UNIFORM
    try:
        value = float(exponent) if colon else DEFAULT_EXPONENT
    except ValueError:
        value = float("nan")
    if name != "zipf" or not 0 < value <= MAX_EXPONENT:
        raise argparse.ArgumentTypeError(
            f"expected `uniform`, `zipf` or `zipf:S` with S above 0 and up to {MAX_EXPONENT:g}, got {text!r}"
        )
    return value


def weights(groups: int, exponent: float) -> list[float]:
    """Share of each group in the load; their sum is 1. Group g is in proportion to 1 / (g + 1)^exponent."""
    raw = [(group + 1) ** -exponent for group in range(groups)]
    total = sum(raw)
    return [weight / total for weight in raw]
