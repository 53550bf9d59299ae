"""Brings the index up to date in slices, off the hot path.

One round stores every group that had changed when the round began; then everything in the log
before that moment is in the index, and recovery starts there. A slice is one transaction of a
bounded number of chunks. Only the log's owner calls this, and only while all of it is synced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from paxmux.engine.errors import StorageFailed
from paxmux.plugins.storage.group_table import GroupState, GroupTable, Positions
from paxmux.plugins.storage.place import IndexUnusable, StoredIndex

SLICE_CHUNKS: Final = 256
DUE_CHUNKS: Final = 1024
"""So many waiting chunks, 1 MiB, start a round at once,"""
DUE_BYTES: Final = 8 << 20
"""or so many bytes of log since the last one, which a start after a crash has to read,"""
DUE_S: Final = 4.0
"""or so much time. A round stores every group that has changed, however little: the fewer rounds, the more
values share what that costs where many groups decide a few each."""
RETRY_S: Final = 1.0
MAX_WAITING_CHUNKS: Final = 65_536
"""64 MiB: if the index cannot be written for so long, the log stops."""


class Flusher:
    """Moves what waits in a `GroupTable` into the index."""

    def __init__(self, table: GroupTable, index: StoredIndex, clock: Callable[[], float]) -> None:
        self.trouble: str | None = None
        """Why the index cannot be written, in words; None while all is well."""
        self._table = table
        self._index = index
        self._clock = clock
        self._queue: list[int] = []
        self._systems = 0
        """SYSTEM records before `_target`, as `record.py` counts them."""
        self._target: int | None = None
        """Where the log was synced when the round in progress began; None: no round."""
        self._next_round = clock() + DUE_S
        self._retry = 0.0

    def due(self, synced: int) -> bool:
        """A slice would do something now."""
        return self._wait(synced, self._clock()) == 0.0

    def slice(self, synced: int, *, hurry: bool = False) -> float | None:
        """Store one slice if it is time, or if there is anything to store and somebody waits for it; all of
        the log up to `synced` is durable and noted.

        Returns the seconds until there is more to do, None if all is stored.

        Raises:
            StorageFailed: far too much waits because the index cannot be written.
        """
        now = self._clock()
        wait = self._wait(synced, now)
        if wait is None or (wait > 0.0 and (not hurry or self.trouble is not None)):
            return wait
        self._step(synced, now)
        return self._wait(synced, now)

    def finish(self, synced: int) -> bool:
        """Store everything now, in as many slices as it takes; False if the index cannot be written."""
        table = self._table
        while self._target is not None or self._index.position != synced or table.changed or table.released:
            if not self._step(synced, self._clock()):
                return False
        return True

    def _wait(self, synced: int, now: float) -> float | None:
        if self.trouble is not None:
            return max(0.0, self._retry - now)
        if self._target is not None:
            return 0.0
        position = self._index.position
        if position == synced and not self._table.changed and not self._table.released:
            return None
        if self._table.waiting_chunks >= DUE_CHUNKS or position is None or synced - position >= DUE_BYTES:
            return 0.0
        return max(0.0, self._next_round - now)

    def _step(self, synced: int, now: float) -> bool:
        if self._target is None:
            self._target = synced
            self._systems = max(0, self._table.systems)
            self._queue = list(reversed(self._table.changed))
            self._table.changed = {}
        try:
            if self.trouble is not None:
                self._index.reopen()
                self.trouble = None
            if self._table.released:
                # Before anything of the same groups' next lives is stored.
                self._drop()
                return True
            chunks, states, done = self._collect()
            finished = done == len(self._queue)
            table, target = self._table, self._target if finished else None
            systems = self._systems
            self._index.write(chunks, states, target, synced, table.oldest, table.doubt, systems)
        except IndexUnusable as error:
            return self._failed(str(error), now)
        for group, number, _ in chunks:
            self._table.stored(group, number)
        if done:
            for group in self._queue[-done:]:
                if group in self._table.groups:
                    self._table.groups[group].changed = False
            del self._queue[-done:]
        if finished:
            self._target = None
            self._next_round = now + DUE_S
        return True

    def _drop(self) -> None:
        """One slice of what the index still has of groups that were released."""
        released = self._table.released
        group = next(iter(released))
        if self._index.drop(group):
            released.remove(group)

    def _collect(self) -> tuple[list[tuple[int, int, Positions]], list[tuple[int, GroupState]], int]:
        """What the next slice stores, and how many groups are complete with it."""
        chunks: list[tuple[int, int, Positions]] = []
        states: list[tuple[int, GroupState]] = []
        done = 0
        for group in reversed(self._queue):
            if len(chunks) >= SLICE_CHUNKS:
                break
            state = self._table.groups.get(group)
            if state is None:
                # Released since the round began.
                done += 1
                continue
            states.append((group, state))
            room = SLICE_CHUNKS - len(chunks)
            for number, positions in list(state.waiting.items())[:room]:
                chunks.append((group, number, positions))
            if len(state.waiting) >= room:
                break
            if state.number >= 0:
                chunks.append((group, state.number, state.positions))
            done += 1
        return chunks, states, done

    def _failed(self, reason: str, now: float) -> bool:
        self.trouble = reason
        self._retry = now + RETRY_S
        if self._table.waiting_chunks > MAX_WAITING_CHUNKS:
            raise StorageFailed(f"the index cannot be written and too much waits for it: {reason}")
        return False
