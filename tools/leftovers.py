"""What a cluster left on the machine after its end: processes, files in /dev/shm.

Decides what counts: a process with the cluster's mark, and a file in /dev/shm that came while the
cluster ran and stays. Folders and semaphores are other programs': a node makes neither. Only looks; it
removes nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from paxmux.tools import processes

SHM = Path("/dev/shm")
LINGER_S = 2.0
"""Programs beside the cluster may have files there for a moment."""


class Leftovers:
    """Made before the cluster starts."""

    def __init__(self, folder: Path = SHM) -> None:
        """`folder`: where shared memory has names."""
        self._folder = folder
        self._known = self._names()

    async def found(self, mark: str) -> list[str]:
        """What is left of the cluster with this mark, in words; empty if nothing is."""
        new = self._names() - self._known
        until = time.monotonic() + LINGER_S
        while new and time.monotonic() < until:
            await asyncio.sleep(0.1)
            new &= self._names()
        left = [f"process {process.pid} ({process.name()})" for process in processes.marked(mark)]
        return left + [f"file {self._folder / name}" for name in sorted(new)]

    def _names(self) -> set[str]:
        if not self._folder.is_dir():
            return set()
        with os.scandir(self._folder) as entries:
            return {each.name for each in entries if not each.is_dir() and not each.name.startswith("sem.")}
