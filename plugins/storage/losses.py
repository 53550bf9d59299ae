"""Which values lie in bytes that are damaged: they have to be asked for again.

A damaged record does not say reliably whose it is, and one that was superseded is no loss. So everything
that the log knows about where values are is looked through for what should be there, in slices; each is
then read, and reported if it cannot be. It changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.reader import Reader

SLICE_CHUNKS: Final = 64
"""Chunks of positions looked through in one slice."""
FOUND_MAX: Final = 4096
"""Values that wait to be reported; others are found by the next search."""
RANGES_MAX: Final = 1024
"""Ranges that wait to be searched, and that are remembered to hold nothing."""

Range = tuple[int, int]
"""Positions: from, and up to below."""


class Losses:
    """Searches of one log."""

    def __init__(self, table: GroupTable, reader: Reader) -> None:
        self.found: list[tuple[int, int]] = []
        """(group, instance) of each value that is lost; whoever takes it empties it."""
        self._table = table
        self._reader = reader
        self._waiting: deque[Range] = deque()
        self._empty: dict[Range, None] = {}
        self._walk: Iterator[tuple[int, int] | None] | None = None
        self._holds = False

    @property
    def busy(self) -> bool:
        """Whether a slice would do something."""
        return bool(self._waiting)

    def search(self, begin: int, end: int) -> None:
        """Look for what lies in damaged bytes."""
        if (begin, end) not in self._waiting and len(self._waiting) < RANGES_MAX:
            self._waiting.append((begin, end))

    def holds_nothing(self, begin: int, end: int) -> bool:
        """Whether a search has shown that nothing is needed that lies there."""
        return (begin, end) in self._empty

    def slice(self) -> None:
        """Go on with the search that has waited longest.

        Raises:
            IndexUnusable: a chunk of positions is damaged.
        """
        begin, end = self._waiting[0]
        if self._walk is None:
            self._walk = self._table.holders(begin, end)
            self._holds = False
        chunks = 0
        for holder in self._walk:
            if holder is None:
                chunks += 1
                if chunks == SLICE_CHUNKS:
                    return
            elif self._lost(*holder):
                self._holds = True
                if len(self.found) < FOUND_MAX:
                    self.found.append(holder)
        self._walk = None
        self._waiting.popleft()
        if not self._holds:
            self._empty[begin, end] = None
            if len(self._empty) > RANGES_MAX:
                del self._empty[next(iter(self._empty))]

    def _lost(self, group: int, instance: int) -> bool:
        at = self._table.find(group, instance)
        try:
            return not at or self._reader.read(at)[1:3] != (group, instance)
        except StorageDamaged:
            return True
