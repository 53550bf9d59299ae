"""What a log says, anywhere in it, about values before it: which are forgotten, and which groups have left.

Whoever hands on values as they are met has to know this first, since it cannot take them back; so it takes
a reading of its own. Where a node runs, more is forgotten between the two: that does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paxmux.plugins.storage.record import FORGOTTEN, RELEASED
from paxmux.plugins.storage.scan import Batch
from paxmux.tools.log.directory import LogDirectory
from paxmux.tools.log.group import Value
from paxmux.tools.log.walk import Walk


class Survey:
    """Of one log."""

    def __init__(self, log: LogDirectory, at: Callable[[], None] | None = None) -> None:
        """Read it all. Damage is not told: the next reading finds it as well.

        Args:
            log: to be read.
            at: called now and then.

        Raises:
            DataDirError: as `Walk.events`.
        """
        self._first: dict[int, int] = {}
        self._left: dict[int, int] = {}
        """Position at which a group left the log last."""
        with Walk(log) as walk:
            for event in walk.events():
                if isinstance(event, Batch):
                    self._take(event)
                    if at is not None:
                        at()

    def _take(self, batch: Batch) -> None:
        kinds = [record[0] for record in batch.records]
        if FORGOTTEN not in kinds and RELEASED not in kinds:
            return
        for (kind, group, instance, _, _, _), at in zip(batch.records, batch.positions, strict=True):
            if kind == FORGOTTEN:
                self._first[group] = max(self._first.get(group, 0), instance)
            elif kind == RELEASED:
                self._first.pop(group, None)
                self._left[group] = at

    def kept(self, values: Sequence[Value], batch: Batch) -> list[Value]:
        """Those of the values that came out with a batch that the log still has."""
        if not self._first and not self._left:
            return list(values)
        return [
            value
            for value in values
            if value.instance >= self._first.get(value.group, 0)
            and self._left.get(value.group, 0) < batch.positions[-1]
        ]
