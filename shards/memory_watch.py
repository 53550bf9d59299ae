"""How much of the machine's memory is in use: the last thing to run out before processes are killed.

Decides, about once a second, whether there is still room for work that is not begun. It only looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TICK_S = 0.5


def used_percent() -> float:
    """Of the machine's memory, what is not available to whoever asks for it."""
    import psutil  # Not needed by whoever only imports a node.

    return float(psutil.virtual_memory().percent)


class MemoryWatch:
    """Used in one event loop only."""

    def __init__(
        self,
        most_percent: int,
        tell: Callable[[str], None],
        read: Callable[[], float] = used_percent,
    ) -> None:
        """`most_percent`: with more than this in use, and until it is less, `tell` has been given why nothing
        may be let in; an empty text means that it may."""
        self.percent = 0.0
        """As of the last look."""
        self._most = most_percent
        self._tell = tell
        self._read = read
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from now on."""
        self.look()
        self._timer = loop.call_later(TICK_S, self.start, loop)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> None:
        """Look now."""
        self.percent = self._read()
        full = self.percent > self._most
        words = f"{self.percent:.1f} % of the machine's memory are in use (limits.memory_percent)"
        self._tell(words if full else "")
