"""A machine's monotonic clock, as its own crystal has it: with a rate, and with jumps forward.

Time passes for everybody alike in the cluster's nanoseconds; what code under test is told is the
nanoseconds of its own machine.
"""

from __future__ import annotations

_SHIFT = 20


class Clock:
    """One machine's clock."""

    __slots__ = ("_base", "_rate", "_since")

    def __init__(self, now: int, start: int, rate: int) -> None:
        """`now`: of the cluster. `start`: what this clock shows then. `rate`: thousandths; 1000 is right."""
        self._since = now
        self._base = start
        self._rate = (rate << _SHIFT) // 1000

    def at(self, now: int) -> int:
        """What the clock shows at a time of the cluster."""
        return self._base + ((now - self._since) * self._rate >> _SHIFT)

    def when(self, shown: int) -> int:
        """The first time of the cluster at which it shows this; long past where it showed that before."""
        return self._since - (((self._base - shown) << _SHIFT) // self._rate)

    def jump(self, ahead: int) -> None:
        """It suddenly shows so much more."""
        self._base += ahead

    def retune(self, now: int, rate: int) -> None:
        """Its rate changes; what it shows does not."""
        self._base = self.at(now)
        self._since = now
        self._rate = (rate << _SHIFT) // 1000
