"""Which CPUs this process may use, and how many of them at once.

Decides what `workers: auto` means on this machine. Never fails for a machine that hides its limits:
what cannot be read is no limit.
"""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def allowed_cpus() -> frozenset[int]:
    """Numbers of the CPUs that this process may run on."""
    return frozenset(os.sched_getaffinity(0))


def parallel_cpus() -> int:
    """How many CPUs this process gets at once: its affinity, cut to its control group's quota."""
    count = len(allowed_cpus())
    quota = cpu_quota()
    return count if quota is None else max(1, min(count, int(quota)))


def cpu_quota(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float | None:
    """CPUs' worth of time that the control groups above this process grant; None without a limit.

    Both versions of control groups are read, on the way from the own group up to the root, since a
    limit may stand at any level.
    """
    try:
        lines = own.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        controllers, colon, path = line.partition(":")[2].partition(":")
        if not colon:
            continue
        if controllers == "":
            read, base = _quota_v2, root
        elif "cpu" in controllers.split(","):
            read, base = _quota_v1, root / "cpu"
        else:
            continue
        group = base / path.lstrip("/")
        levels = [group, *group.parents]
        for level in levels[: levels.index(base) + 1]:
            quota = read(level)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(group: Path) -> float | None:
    words = _words(group / "cpu.max")
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _quota_v1(group: Path) -> float | None:
    words = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
    return _ratio(words[0], words[1]) if len(words) == 2 else None


def _ratio(quota: str, period: str) -> float | None:
    # "max" and "-1" are how the two versions say "no limit".
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []
