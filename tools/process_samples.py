"""CPU and memory of processes over time.

Decides when they are looked at: at the end of each interval of a measurement. Only reads. A process that
ends is looked for anew, since a node restarts its workers under the same names.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import clock_gettime_ns, monotonic_ns
from typing import NamedTuple

import psutil

_clock_of = ctypes.CDLL(None).clock_getcpuclockid

Find = Callable[[], Awaitable[dict[str, psutil.Process]]]
_SECOND_NS = 1_000_000_000


class Sample(NamedTuple):
    """One process in one interval."""

    cpu_percent: float
    """Of one core."""
    rss_bytes: int


class ProcessSamples:
    """Samples of all processes by interval. Used in one event loop only."""

    def __init__(self, find: Find, start_ns: int, interval_s: float) -> None:
        """
        Args:
            find: the processes by their names.
            start_ns: when interval 0 begins (CLOCK_MONOTONIC).
            interval_s: length of an interval.
        """
        self._find = find
        self._start_ns = start_ns
        self._interval_ns = int(interval_s * _SECOND_NS)
        self._processes: dict[str, psutil.Process] = {}
        self._used: dict[str, tuple[int, int]] = {}
        """(CPU time in ns, when) by name, of the last look."""
        self.by_interval: dict[int, dict[str, Sample]] = {}

    async def run(self) -> None:
        """Look until cancelled."""
        self._processes = await self._find()
        self._look()
        wanted = len(self._processes)
        while True:
            now = monotonic_ns()
            index = (now - self._start_ns) // self._interval_ns
            await asyncio.sleep((self._start_ns + (index + 1) * self._interval_ns - now) / _SECOND_NS)
            self.by_interval[index] = self._look()
            if len(self._used) < wanted:
                self._processes = await self._find()

    def _look(self) -> dict[str, Sample]:
        found: dict[str, Sample] = {}
        for name, process in self._processes.items():
            try:
                rss_bytes = process.memory_info().rss
                cpu_ns = used_cpu_ns(process.pid)
            except (psutil.Error, ProcessLookupError):
                self._used.pop(name, None)
                continue
            now = monotonic_ns()
            before = self._used.get(name)
            self._used[name] = cpu_ns, now
            if before is not None and now > before[1]:
                percent = (cpu_ns - before[0]) / (now - before[1]) * 100
                found[name] = Sample(round(max(0.0, percent), 1), rss_bytes)
        return found


def own_bytes(pid: int) -> int:
    """Memory of a process that it shares with no file and no other process.

    Raises:
        ProcessLookupError: it is gone.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(error.errno, "status") from None
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024


def used_cpu_ns(pid: int) -> int:
    """CPU time of a process so far. The ticks of the process table, 10 ms long, are too coarse for intervals
    of 100 ms.

    Raises:
        ProcessLookupError: it is gone.
    """
    clock = ctypes.c_int()
    error = _clock_of(pid, ctypes.byref(clock))
    if error:
        raise ProcessLookupError(error, "clock_getcpuclockid")
    try:
        return clock_gettime_ns(clock.value)
    except OSError as gone:
        raise ProcessLookupError(gone.errno, "clock_gettime") from None
