"""An alarm that is on time to some microseconds, for an event loop.

The timers of event loops are whole milliseconds, longer than a request takes; this is a timerfd. One
alarm at a time; it decides nothing, and never calls twice for one setting.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from time import monotonic_ns

_CLOCK_MONOTONIC = 1
_NONBLOCK = 0o4000
_CLOEXEC = 0o2000000
_ABSOLUTE = 1
_SECOND_NS = 1_000_000_000
_NEVER_NS = 2**63 - 1


class _Setting(ctypes.Structure):
    """`struct itimerspec`: an interval, which stays 0, and a time."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("time_s", ctypes.c_long),
        ("time_ns", ctypes.c_long),
    )


_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """Used in one event loop only; `close` it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        """`ring` is called in the loop. Raises OSError if no descriptor is left."""
        self._loop = loop
        self._ring = ring
        self._fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._setting = _Setting(0, 0, 0, 0)
        self._at_ns = _NEVER_NS
        """When it rings; never, once it has rung."""
        loop.add_reader(self._fd, self._on_time)

    def set(self, at_ns: int) -> None:
        """Ring once at `at_ns` (CLOCK_MONOTONIC), or at once if that is past; replaces what was set."""
        # A time of 0 would switch it off.
        self._at_ns = at_ns
        self._setting.time_s, self._setting.time_ns = divmod(max(at_ns, 1), _SECOND_NS)
        if _libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._setting), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Ring no more; safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _on_time(self) -> None:
        if monotonic_ns() < self._at_ns:
            return  # it was set anew since the loop had looked
        at_ns = self._at_ns = _NEVER_NS
        self._ring()
        # Setting it anew silences it as well: then this is a system call saved.
        if self._at_ns == at_ns and self._fd >= 0:
            os.read(self._fd, 8)
