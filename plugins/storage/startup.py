"""Brings up what a log has in memory: index, table, and recovery of the tail over both.

It decides whether the index can be used. One that cannot is set aside and made anew from the
segments, which are the truth; it is removed only when its successor is complete.
"""

from __future__ import annotations

import time
from pathlib import Path

from paxmux.engine.storage import HardState, LogIdentity
from paxmux.plugins.storage.flusher import Flusher
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.index import Index, IndexUnusable, drop_set_aside, set_index_aside
from paxmux.plugins.storage.reader import Reader
from paxmux.plugins.storage.recovery import Recovered, Recovery
from paxmux.plugins.storage.segment_file import SegmentFile


class Startup:
    """Index, table and flusher of one log, from opening on."""

    index: Index
    table: GroupTable
    flusher: Flusher

    def __init__(self, directory: Path, identity: LogIdentity) -> None:
        """Open the index, or a new one in its place.

        Raises:
            IndexUnusable: not even a new one can be made.
        """
        self._directory = directory
        self._identity = identity
        try:
            self._begin()
        except IndexUnusable:
            self._begin_anew()

    def recover(self, segments: dict[int, SegmentFile], mark: int | None) -> Recovered:
        """Recover; `segments` loses what is cut as a whole, `mark` is where a clean stop left the log.

        Raises:
            StorageDamaged: nothing was changed.
            OSError: the disk failed.
        """
        try:
            return self._recovery(segments, mark).run()
        except IndexUnusable:
            self._begin_anew()
            return self._recovery(segments, mark).run()

    def complete(self, synced: int) -> None:
        """Everything up to `synced` is recovered and durable: finish a new index, drop the old one."""
        if not self._new or self.flusher.finish(synced):
            drop_set_aside(self._directory)

    def hard_states(self, reader: Reader) -> dict[int, HardState]:
        """What `Log.recover` returns.

        Raises:
            StorageDamaged: an accepted value cannot be read.
        """
        states: dict[int, HardState] = {}
        for group, state in sorted(self.table.groups.items()):
            value = reader.read(state.accepted_at)[5] if state.accepted_at else b""
            states[group] = HardState(
                state.instance,
                (state.promised_round, state.promised_node),
                (state.accepted_round, state.accepted_node),
                value,
            )
        return states

    def _begin(self) -> None:
        self.index = Index(self._directory, self._identity)
        self._new = self.index.position is None
        self.table = GroupTable(self.index.chunk)
        self.table.groups = self.index.states
        self.flusher = Flusher(self.table, self.index, time.monotonic)

    def _begin_anew(self) -> None:
        index = getattr(self, "index", None)
        if index is not None:
            index.close()
        set_index_aside(self._directory)
        self._begin()

    def _recovery(self, segments: dict[int, SegmentFile], mark: int | None) -> Recovery:
        return Recovery(self._directory, segments, self.table, self.index, self.flusher, mark)
