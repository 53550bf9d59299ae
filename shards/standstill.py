"""Whether a child still goes on: what its heartbeat says, and what follows if it stands still.

Decides when that is told, when the child is asked where it is, and when it is given up. Only time that was
watched counts: whoever looks may have stood still itself, and then a heartbeat is old for that reason. A
child that waits for its disk is never given up: no kill would reach it, and its successor would wait as
long.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

STOPPED, DISK_SLEEP = "stopped", "disk-sleep"
"""What `process_state` may say, in psutil's words."""
WATCH_S = 0.5
"""How often heartbeats are looked at."""
ASK_AFTER_S = 1.0
"""A worker that has not turned for so long is asked which state machine it executes."""

log = logging.getLogger("paxmux")


class Look(NamedTuple):
    """What is to be done after a look at a heartbeat."""

    ask: bool
    """Have the child say where it is."""
    give_up: str
    """Why it must be replaced; empty if it need not be."""


class Standstill:
    """Watches one post. Knows no clock; of the process only its state, as the kernel tells it."""

    def __init__(self, name: str, warn_ms: int, kill_ms: int) -> None:
        """`kill_ms`: 0 never gives it up."""
        self._name = name
        self._warn_s = warn_ms / 1000
        self._kill_s = kill_ms / 1000
        self._since_ns = 0
        self._looked_ns = 0
        self._watched_ns = 0

    def check(
        self, now_ns: int, age_s: float, progress_age_s: float, pid: int, detail: str, *, boots: bool
    ) -> Look:
        """Look at a heartbeat.

        Args:
            now_ns: of `engine.clock`.
            age_s: of the heartbeat.
            progress_age_s: since something was known to move, which may be later.
            pid: of the process.
            detail: told beside it.
            boots: it does not serve yet, and may take as long as it likes, unless it was stopped.
        """
        if now_ns - self._looked_ns > 3e9 * WATCH_S:
            self._watched_ns = now_ns
        self._looked_ns = now_ns
        watched_s = (now_ns - self._watched_ns) / 1e9
        self._tell(now_ns, age_s, detail)
        stood_s = min(progress_age_s, watched_s)
        if not self._kill_s or stood_s <= self._kill_s:
            return Look(age_s > ASK_AFTER_S, "")
        state = process_state(pid)
        if state == DISK_SLEEP or (boots and state != STOPPED):
            return Look(False, "")
        stopped = ", stopped by a signal" if state == STOPPED else ""
        return Look(False, f"it stood still for {stood_s:.1f} s{stopped}: {detail}")

    def _tell(self, now_ns: int, age_s: float, detail: str) -> None:
        if age_s <= self._warn_s:
            if self._since_ns:
                stood_s = (now_ns - self._since_ns) / 1e9
                log.warning("%s goes on after it had stood still for about %.1f s", self._name, stood_s)
            self._since_ns = 0
        elif not self._since_ns:
            self._since_ns = now_ns - int(age_s * 1e9)
            log.warning("%s has not turned for %.1f s: %s", self._name, age_s, detail)

    def forget(self) -> None:
        """The process is gone, and its standstill with it."""
        self._since_ns = 0


def process_state(pid: int) -> str:
    """What the kernel says of a process, in psutil's words; empty if there is none."""
    import psutil  # Not needed by whoever only imports a node.

    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return ""
