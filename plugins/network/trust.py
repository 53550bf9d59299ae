"""Which keys are good now, and what is said of those who have none. One object for all parts of a network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic
from typing import Final

from paxmux.engine.secret_file import Keys
from paxmux.plugins.network.counts import Counts

WARN_S: Final = 60.0
"""A source is named in a warning at most once in this time."""
SOURCES_MAX: Final = 64
"""Sources that are told apart; whoever comes beyond them is one more."""

_log = logging.getLogger(__name__)


class Trust:
    """The keys, and the warnings. Without keys everybody is trusted."""

    def __init__(self, counts: Counts) -> None:
        self.keys: tuple[Keys, ...] = ()
        """The first one seals, all are accepted."""
        self._counts = counts
        self._warn_at: dict[str, float] = {}

    def set_keys(self, keys: Sequence[Keys]) -> None:
        """Use these from now on.

        Raises:
            ValueError: none, where there were some: that would be a way to turn authentication off.
        """
        if self.keys and not keys:
            raise ValueError("expected at least one secret, as before")
        self.keys = tuple(keys)

    def refuse(self, source: str, why: str) -> None:
        """Count something that was dropped since nobody vouches for it, and say so now and then."""
        self._counts.drop_auth += 1
        now = monotonic()
        if source not in self._warn_at and len(self._warn_at) >= SOURCES_MAX:
            self._warn_at = {one: due for one, due in self._warn_at.items() if due > now}
            if len(self._warn_at) >= SOURCES_MAX:
                source = "others"
        if now >= self._warn_at.get(source, now):
            self._warn_at[source] = now + WARN_S
            _log.warning("refused: %s: %s; drops are counted as drop_auth", source, why)
