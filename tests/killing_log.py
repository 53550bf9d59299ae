"""A log whose process is killed at a chosen call, or kills its parent there: what a power cord does.

Files in the data directory decide: `kill_self` and `kill_parent` hold the number of the call, counted over
all logs of a process.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from paxmux.engine.storage import Log, LogIdentity
from paxmux.plugins.storage.segment import SegmentLog

CALLS = frozenset({"recover", "append", "sync", "read_range", "close"})
_count = 0


class KillingLog:
    """A `SegmentLog` under a sword; for moves between logs, and harmless without the files."""

    def __init__(self, path: Path, identity: LogIdentity, **options: Any) -> None:
        self._log: Log = SegmentLog(path, identity, **options)
        folder = path.parent.parent
        self._kill_self = _number(folder / "kill_self")
        self._kill_parent = _number(folder / "kill_parent")

    def __getattr__(self, name: str) -> object:
        real = getattr(self._log, name)
        if name in CALLS:
            global _count
            _count += 1
            if _count == self._kill_parent:
                os.kill(os.getppid(), signal.SIGKILL)
                signal.pause()
            if _count == self._kill_self:
                os.kill(os.getpid(), signal.SIGKILL)
        return real


def _number(path: Path) -> int:
    return int(path.read_text()) if path.exists() else 0
