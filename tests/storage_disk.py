"""A disk that fails and loses power, under the calls by which a log writes its segments.

Only calls of the main thread to segment files in use pass here. The thread that makes segments
syncs them before they get their name, so there is nothing of it that a power cut could take.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECTOR_BYTES = 512


class Disk:
    """Wraps `os.pwrite` and `os.fdatasync`; remembers what is not synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        """Writes and syncs so far."""
        self.before: Callable[[str], None] = lambda _name: None
        """Called with `pwrite` or `fdatasync` before each; what it raises, the call raises."""
        self._unsynced: dict[Path, list[tuple[int, bytes, bytes]]] = {}
        self._pwrite, self._fdatasync = os.pwrite, os.fdatasync
        monkeypatch.setattr(os, "pwrite", self._write)
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def fail_at(self, call: int, error: int) -> None:
        """The call with this number, counted from now and from 0 on, fails with an errno."""
        end = self.calls + call

        def fail(_name: str) -> None:
            if self.calls == end:
                raise OSError(error, os.strerror(error))

        self.before = fail

    def cut_power(self, rng: random.Random) -> None:
        """Lose any sectors of any unsynced writes, or none, or all; call it with the log closed."""
        for path, writes in self._unsynced.items():
            if not path.exists():
                continue
            with path.open("r+b") as file:
                for offset, old, _ in reversed(writes):
                    file.seek(offset)
                    file.write(old)
                share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
                for offset, _, new in writes:
                    for begin, end in _sectors(offset, len(new)):
                        if rng.random() < share:
                            file.seek(offset + begin)
                            file.write(new[begin:end])
        self._unsynced.clear()

    def _write(self, fd: int, data: Any, offset: int) -> int:
        path = _segment(fd)
        if path is None:
            return self._pwrite(fd, data, offset)
        self._count("pwrite")
        old = os.pread(fd, len(data), offset)
        self._unsynced.setdefault(path, []).append((offset, old, bytes(data)))
        return self._pwrite(fd, data, offset)

    def _sync(self, fd: int) -> None:
        path = _segment(fd)
        if path is None:
            return self._fdatasync(fd)
        self._count("fdatasync")
        self._fdatasync(fd)
        self._unsynced.pop(path, None)
        return None

    def _count(self, name: str) -> None:
        try:
            self.before(name)
        finally:
            self.calls += 1


def _segment(fd: int) -> Path | None:
    if threading.current_thread() is not threading.main_thread():
        return None
    path = Path(os.readlink(f"/proc/self/fd/{fd}"))
    return path if path.suffix == ".seg" else None


def _sectors(offset: int, length: int) -> list[tuple[int, int]]:
    """The bytes of a write that lie in one sector each, as ranges within the write."""
    first = SECTOR_BYTES - offset % SECTOR_BYTES
    edges = [0, *range(first, length, SECTOR_BYTES), length]
    return list(itertools.pairwise(edges))
