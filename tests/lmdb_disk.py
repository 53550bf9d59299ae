"""Breaks the disk under an open LMDB environment, at the descriptors that it writes through.

LMDB makes its system calls itself, so nothing that Python calls can be replaced. But its descriptors
can: a write to /dev/null succeeds and its `fdatasync` fails, one to /dev/full fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from paxmux.engine.storage import Log

NO_SYNC = "/dev/null"
NO_WRITE = "/dev/full"


def descriptors(log: Log) -> list[int]:
    """What LMDB has open on the file of a log: that of the pages, then that of the meta pages."""
    own = log._env._file._fd  # type: ignore[attr-defined]
    return descriptors_of(Path(log._path) / "lmdb" / "data.mdb", {own})  # type: ignore[attr-defined]


def descriptors_of(data: Path, besides: Set[int] = frozenset()) -> list[int]:
    """What LMDB has open on a data file: that of the pages, then that of the meta pages.

    Args:
        data: the file.
        besides: descriptors of it that are not LMDB's.
    """
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if Path(os.readlink(f"/proc/self/fd/{name}")) == data:
                found.append(int(name))
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    both = sorted(set(found) - besides)
    assert len(both) == 2
    return both


def break_commits(log: Log, device: str = NO_SYNC) -> None:
    """From now on each commit of `log` fails."""
    pages, _ = descriptors(log)
    _replace(pages, device)


@contextmanager
def broken(fd: int, device: str) -> Iterator[None]:
    """One descriptor writes to another device for a while."""
    kept = os.dup(fd)
    try:
        _replace(fd, device)
        yield
    finally:
        os.dup2(kept, fd, inheritable=False)
        os.close(kept)


def _replace(fd: int, device: str) -> None:
    other = os.open(device, os.O_RDWR)
    os.dup2(other, fd, inheritable=False)
    os.close(other)
