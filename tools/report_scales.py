"""Scales of charts: where a value lies on an axis, which ticks the axis has, and how numbers read.

Pure arithmetic; knows nothing of what is drawn.
"""

from __future__ import annotations

from math import ceil, floor, log10
from typing import NamedTuple, Protocol

_STEPS = (1, 2, 5, 10)
_LABELED_DECADES = 2
"""A logarithmic axis of so many decades or fewer has ticks at 1, 2 and 5, else at 1 alone."""


class Scale(Protocol):
    """An axis."""

    def share(self, value: float) -> float:
        """Where a value lies: 0 at the low end, 1 at the high end."""

    def ticks(self) -> list[float]:
        """Values to be labeled, in order."""


class Linear(NamedTuple):
    """From `low` to `high`, evenly."""

    low: float
    high: float
    step: float
    """Between ticks."""

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        first, last = ceil(self.low / self.step - 1e-9), floor(self.high / self.step + 1e-9)
        return [round(number * self.step, 9) for number in range(first, last + 1)]


class Log(NamedTuple):
    """From `low` to `high`, both above 0; equal factors are equal lengths."""

    low: float
    high: float

    def share(self, value: float) -> float:
        return (log10(max(value, self.low)) - log10(self.low)) / (log10(self.high) - log10(self.low))

    def ticks(self) -> list[float]:
        first, last = floor(log10(self.low) + 1e-9), ceil(log10(self.high) - 1e-9)
        factors = _STEPS[:3] if last - first <= _LABELED_DECADES else _STEPS[:1]
        found = [factor * 10.0**decade for decade in range(first, last + 1) for factor in factors]
        return [tick for tick in found if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]


def linear(low: float, high: float, ticks: int = 5) -> Linear:
    """A scale for exactly `low` to `high`, with about so many ticks."""
    if high <= low:
        high = low + 1
    return Linear(low, high, _nice((high - low) / ticks))


def linear_from_zero(high: float, ticks: int = 5) -> Linear:
    """A scale from 0 to the first tick that is not below `high`."""
    high = high if high > 0 else 1.0
    step = _nice(high / ticks)
    return Linear(0, ceil(high / step - 1e-9) * step, step)


def log(values: list[float]) -> Log:
    """A logarithmic scale around what is positive of the values, over at least a decade."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = _log_floor(min(positive)), _log_ceiling(max(positive))
    return Log(low, max(high, low * 10))


def read(value: float) -> str:
    """A number for people: `0.25`, `12`, `40,000`."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def _nice(step: float) -> float:
    """The next of 1, 2, 5, 10, 20, …"""
    decade: float = 10.0 ** floor(log10(step))
    return next(factor * decade for factor in _STEPS if factor * decade >= step * (1 - 1e-9))


def _log_floor(value: float) -> float:
    decade: float = 10.0 ** floor(log10(value))
    return max(factor * decade for factor in _STEPS if factor * decade <= value * (1 + 1e-9))


def _log_ceiling(value: float) -> float:
    decade: float = 10.0 ** floor(log10(value))
    return min(factor * decade for factor in _STEPS if factor * decade >= value * (1 - 1e-9))
