"""How late the embedding event loop is: what every caller, and with an inline router every vote, waits.

A ticker asks to be called each `TICK_S` and measures how much later the call came. It only watches:
it warns, with the remedy, and never changes anything.
"""

from __future__ import annotations

import asyncio
import logging

TICK_S = 0.04
"""What holds the loop up for longer than this and `WARN_S` together is always noticed. Each tick wakes a
process that may be idle."""
WARN_S = 0.05
WARN_GAP_S = 10.0

log = logging.getLogger("paxmux")


class LagWatch:
    """Measures one loop. Used in that loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, inline_router: bool) -> None:
        self._loop = loop
        self._inline_router = inline_router
        self._timer: asyncio.TimerHandle | None = None
        self._expected = 0.0
        self._warn_after = 0.0
        self.last_s = 0.0
        """Lag of the last tick."""
        self.max_s = 0.0
        """Largest lag since the start."""
        self.late_ticks = 0
        """Ticks with a lag above `WARN_S`."""

    def start(self) -> None:
        """Begin to tick."""
        self._expected = self._loop.time() + TICK_S
        self._timer = self._loop.call_at(self._expected, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def recent_s(self) -> float:
        """Lag of the last tick, or of the one that is due and has not come."""
        return max(self.last_s, self._loop.time() - self._expected)

    def _tick(self) -> None:
        now = self._loop.time()
        self.last_s = lag_s = max(now - self._expected, 0.0)
        if lag_s > self.max_s:
            self.max_s = lag_s
        if lag_s > WARN_S:
            self.late_ticks += 1
            if now >= self._warn_after:
                self._warn_after = now + WARN_GAP_S
                self._warn(lag_s)
        self._expected = now + TICK_S
        self._timer = self._loop.call_at(self._expected, self._tick)

    def _warn(self, lag_s: float) -> None:
        log.warning(
            "the event loop was blocked for %.0f ms: something in this process does not yield; %s",
            lag_s * 1000,
            "this node's votes waited as long, `router: process` keeps them out of it"
            if self._inline_router
            else "callers of this node waited as long",
        )
