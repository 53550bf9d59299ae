"""Whether a child's loop still turns, told once when it stands still and once when it goes on."""

from __future__ import annotations

import logging

log = logging.getLogger("paxmux")


class Standstill:
    """Watches the heartbeat of one post. It only tells: a loop may be slow for good reasons."""

    def __init__(self, name: str, warn_ms: int) -> None:
        self._name = name
        self._warn_s = warn_ms / 1000
        self._since_ns = 0

    def check(self, now_ns: int, age_s: float, detail: str) -> None:
        """Look at a heartbeat of this age; `detail` is told beside it."""
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
