"""What a measurement on this machine depends on: its disk, and who else uses its CPUs.

Decides what makes a measurement worthless: a file system in memory, whose syncs cost nothing, and
other processes that take more than a tenth of the CPUs. Only measures; it changes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median_low
from typing import Any

import psutil

MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs"})
FOREIGN_CPU_MAX_PERCENT = 10.0
_SYNCS = 100
_SYNCS_MAX_S = 1.0
_RECORD_BYTES = 4096


def code_words(settings: Mapping[str, Any]) -> str:
    """What kind of code a report says that it has measured."""
    return "compiled code" if settings["compiled"] else "plain Python"


def file_system(path: Path) -> str:
    """Type of the file system that a folder is on, as the mount table names it; `unknown` if it does not."""
    resolved = path.resolve()
    found, depth = "unknown", -1
    # Of two mounts at the same place the later one covers the earlier one.
    for mount in psutil.disk_partitions(all=True):
        point = Path(mount.mountpoint)
        if resolved.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = mount.fstype, len(point.parts)
    return found


def fdatasync_p50_us(folder: Path) -> float:
    """Median time of a write of 4 KiB and its fdatasync, into a file that has its blocks already."""
    probe = folder / "fdatasync.probe"
    fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, bytes(_RECORD_BYTES * _SYNCS))
        os.fsync(fd)
        times: list[int] = []
        data = os.urandom(_RECORD_BYTES)
        begin = time.perf_counter()
        for place in range(_SYNCS):
            start = time.perf_counter_ns()
            os.pwrite(fd, data, place * _RECORD_BYTES)
            os.fdatasync(fd)
            times.append(time.perf_counter_ns() - start)
            if time.perf_counter() - begin > _SYNCS_MAX_S:
                break
        return median_low(times) / 1000
    finally:
        os.close(fd)
        probe.unlink()


class ForeignCpu:
    """How much of the machine's CPUs others have used since it was made."""

    def __init__(self, own: Iterable[psutil.Process]) -> None:
        """`own`: the processes that are no others. They, and the kernel's threads, which work for
        them above all, do not count."""
        self._own = list(own)
        self._start_s = time.monotonic()
        self._busy_s = _busy_s()
        self._ours_s = self._own_s()

    def percent(self) -> float:
        """Share of all CPUs."""
        elapsed_s = time.monotonic() - self._start_s
        busy_s = _busy_s() - self._busy_s
        ours_s = self._own_s() - self._ours_s
        return max(0.0, (busy_s - ours_s) / (elapsed_s * (psutil.cpu_count() or 1)) * 100)

    def _own_s(self) -> float:
        total = sum(cpu_s(process) for process in self._own)
        return total + sum(cpu_s(process) for process in _kernel_threads())


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process so far; 0 if it is gone."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _kernel_threads() -> list[psutil.Process]:
    try:
        return psutil.Process(2).children()
    except psutil.Error:
        return []


def _busy_s() -> float:
    """Seconds that all CPUs together were busy since boot, or taken away by the machine's host.

    Interrupts are part of it, since a process's own time includes those that it was interrupted by.
    """
    times = psutil.cpu_times()
    more = (getattr(times, name, 0.0) for name in ("nice", "irq", "softirq", "steal"))
    return float(times.user + times.system + sum(more))
