"""Brings up what a log has in memory: index, table, and recovery of the tail over both.

It decides whether the index can be used. One that cannot is set aside and made anew from the
segments, which are the truth; it is removed only when its successor is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from paxmux.engine.storage import HardState, StorageDamaged
from paxmux.plugins.storage.flusher import Flusher
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.place import IndexUnusable, Place, StoredIndex
from paxmux.plugins.storage.reader import Reader
from paxmux.plugins.storage.recovery import Recovered, Recovery

_log = logging.getLogger("paxmux")


class Startup:
    """Index, table and flusher of one log, from opening on."""

    index: StoredIndex
    table: GroupTable
    flusher: Flusher

    def __init__(self, place: Place, clock: Callable[[], float]) -> None:
        """Open the index, or a new one in its stead.

        Args:
            place: of the log.
            clock: seconds from any start, never backwards; says when the index is due.

        Raises:
            IndexUnusable: not even a new one can be made.
        """
        self.damaged = 0
        """Accepted values that cannot be read."""
        self._place = place
        self._clock = clock
        self._proven = 0
        """What an index said that was set aside."""
        try:
            self._begin()
        except IndexUnusable:
            self._begin_anew()

    def recover(self) -> Recovered:
        """Recover; the place loses what is torn.

        Raises:
            StorageDamaged: nothing was changed.
            OSError: the disk failed.
        """
        try:
            return self._recovery().run()
        except IndexUnusable:
            self._begin_anew()
            return self._recovery().run()

    def complete(self, synced: int) -> None:
        """Everything up to `synced` is recovered and durable: finish a new index, drop the old one."""
        if not self._new or self.flusher.finish(synced):
            self._place.drop_set_aside()

    def hard_states(self, reader: Reader) -> dict[int, HardState]:
        """What `Log.recover` returns."""
        states: dict[int, HardState] = {}
        for group, state in sorted(self.table.groups.items()):
            value, lost = b"", False
            if state.accepted_at:
                try:
                    value = reader.read(state.accepted_at)[5]
                except StorageDamaged as error:
                    _log.error("group %d: what is accepted in instance %d: %s", group, state.instance, error)
                    self.damaged += 1
                    lost = True
            states[group] = HardState(
                state.instance,
                (state.promised_round, state.promised_node),
                (state.accepted_round, state.accepted_node),
                value,
                self.table.suspect(state),
                lost,
                state.system,
                state.system_from,
                state.system_lost,
            )
        return states

    def _begin(self) -> None:
        self.index = self._place.open_index()
        self._new = self.index.position is None
        self.table = GroupTable(self.index.chunk, self.index.check)
        self.table.groups = self.index.states
        self.table.oldest, self.table.doubt = self.index.oldest, self.index.doubt
        if not self._new:
            self.table.systems = self.index.systems
        self.flusher = Flusher(self.table, self.index, self._clock)

    def _begin_anew(self) -> None:
        index = getattr(self, "index", None)
        if index is not None:
            self._proven = max(self._proven, index.proven)
            index.close()
        self._place.set_index_aside()
        self._begin()

    def _recovery(self) -> Recovery:
        return Recovery(self._place, self.table, self.index, self.flusher, self._proven)
