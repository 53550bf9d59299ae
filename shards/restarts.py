"""When a dead process is started again, and when no more.

Decides by the deaths within the last `crash_window_s`: the back-off doubles with each of them, and at
`crash_budget` of them it gives up. A process that has lived longer than the window starts afresh.
"""

from __future__ import annotations

from collections import deque

from paxmux.engine.options import WorkerOptions


class RestartPolicy:
    """The deaths of one process and its successors. Knows no clock."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._deaths: deque[float] = deque()
        self.restarts = 0
        """Deaths so far that were answered by a restart."""

    def recent(self, now_s: float) -> int:
        """Deaths within the window: at `crash_budget` of them no successor is started."""
        deaths = self._deaths
        while deaths and deaths[0] <= now_s - self._options.crash_window_s:
            deaths.popleft()
        return len(deaths)

    def died(self, now_s: float) -> float | None:
        """Note a death; returns the seconds to wait before the restart, None for "no more"."""
        options, deaths = self._options, self._deaths
        self.recent(now_s)
        deaths.append(now_s)
        if len(deaths) >= options.crash_budget:
            return None
        self.restarts += 1
        # The exponent is bounded only so that a huge budget makes no huge number.
        doubled_ms = options.restart_first_ms << min(len(deaths) - 1, 30)
        return min(doubled_ms, options.restart_max_ms) / 1000
