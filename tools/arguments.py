"""Types of command line arguments that several commands share: numbers within bounds.

A wrong one ends in a usage error that says what was expected.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole(low: int, high: int) -> Callable[[str], int]:
    """An integer of `low` .. `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number of {low} .. {high}, got {text!r}")
        return value

    return parse


def wholes(low: int, high: int) -> Callable[[str], list[int]]:
    """Integers of `low` .. `high`, with commas between them."""
    one = whole(low, high)
    return lambda text: [one(word) for word in text.split(",")]


def seconds(low: float, high: float) -> Callable[[str], float]:
    """A number of seconds of `low` .. `high`."""
    return number(low, high, "seconds")


def number(low: float, high: float, what: str = "a number") -> Callable[[str], float]:
    """A number of `low` .. `high`; `what` it is called."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {what} of {low:g} .. {high:g}, got {text!r}")
        return value

    return parse
