"""The one clock of a node: deadlines, turns, heartbeats and leases all stand on it.

It counts the time that the machine was suspended, which CLOCK_MONOTONIC does not: a lease must run out while
its owner sleeps. It is the same in every process of a machine, never goes back, and says nothing about the
time of day. Timers of an event loop and of polls stand on CLOCK_MONOTONIC, and only say when to look again:
whoever looks reads this clock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Final

clock_ns: Final[Callable[[], int]] = partial(clock_gettime_ns, CLOCK_BOOTTIME)
"""The time now, in ns of CLOCK_BOOTTIME."""
