"""Whether the turns of one worker wait for the disk: `storage.sync` and `Node.set_log_sync`.

As long as every group is synced in every turn, which is the default, this only says so. Where somebody
has given that up, a turn is synced if any group with records in it still is; what was skipped is synced
some time later, off the hot path, so that the index can follow.

What is given up: a vote may leave, and a result be told, before it is on the disk. A power cut or a
crash of the system then lets this node forget what others rely on, which can undo what a cluster
acknowledged. It must never happen unsaid: it is logged when it begins, shown in the status, and marked
on the disk first (`sync_mark.py`), so that a group that may have forgotten is suspect afterwards: it gives
no vote before all other members have told what it had promised (`engine.paxos.doubt`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from paxmux.engine.errors import StorageFailed
from paxmux.engine.options import StorageOptions
from paxmux.engine.paxos.timers import MS
from paxmux.engine.storage import Log, Record, RecordKind
from paxmux.shards.sync_mark import SyncMark

WORDS = "not synced when the machine stopped, or when a sync failed"
"""What has happened to a group that is `lost`."""

_log = logging.getLogger("paxmux")


class LogSync:
    """Of one worker's log."""

    __slots__ = (
        "_groups",
        "_interval",
        "_log",
        "_mark",
        "_off",
        "_skip_count",
        "_skipped",
        "_sync_at",
        "every_turn",
        "lost",
    )

    def __init__(
        self,
        log: Log,
        mark: SyncMark | None = None,
        options: StorageOptions | None = None,
        groups: Iterable[int] = (),
        overrides: Mapping[int, bool] | None = None,
    ) -> None:
        """Nothing is written before `begin`.

        Args:
            log: of the worker.
            mark: of the log; without one, every turn is synced for good.
            options: `sync`, `sync_skip_count` and `sync_interval_ms` of them; their defaults if None.
            groups: of the worker.
            overrides: group -> what `set` last said of it, in an earlier life of the worker.
        """
        options = options or StorageOptions()
        chosen = overrides or {}
        self._log = log
        self._mark = mark
        self._groups = frozenset(groups) if mark is not None else frozenset()
        self._off = {group for group in self._groups if not chosen.get(group, options.sync)}
        self._skip_count = options.sync_skip_count if mark is not None else 0
        self._interval = options.sync_interval_ms * MS
        self._skipped = 0
        """Turns since the last sync."""
        self._sync_at = 0
        self.every_turn = not self.given_up
        """Each turn with records is synced before anything that rests on them leaves."""
        self.lost = mark.lost & self._groups if mark is not None else frozenset()
        """Groups that may have forgotten what they promised: suspect from this start on."""

    @property
    def given_up(self) -> frozenset[int]:
        """Groups whose votes do not wait for the disk."""
        return self._groups if self._skip_count else frozenset(self._off)

    def durable(self, group: int) -> bool:
        """Whether a group's votes wait for the disk."""
        return self.every_turn or group not in self.given_up

    def host(self, group: int) -> None:
        """A group that was synced in every turn has come, with all that it has said; it goes on so."""
        self._groups |= {group}

    def leave(self, group: int) -> None:
        """A group that is synced in every turn has gone."""
        self._groups -= {group}

    def begin(self) -> None:
        """The log is recovered, and all of it durable: mark what is given up from now on. What is lost is
        said by the log itself then, durably, and no longer by the mark.

        Raises:
            StorageFailed: the mark cannot be written, or the log failed.
        """
        if self._mark is None:
            return
        if self.lost:
            _log.error("groups %s were %s", _listed(self.lost), WORDS)
            self._log.append([(RecordKind.SUSPECT, group, 0, 0, 0, b"") for group in sorted(self.lost)])
            self._log.sync()
        # Others that it names have left this log, with that said in their new one (`mover_process.py`).
        self._mark.lost = frozenset()
        try:
            self._mark.write(self.given_up)
        except OSError as error:
            raise StorageFailed(f"the mark of an unsynced log cannot be written: {error}") from error
        if self.given_up:
            _warn(self.given_up)

    def set(self, group: int, on: bool) -> None:
        """From the next turn on, sync what this group has in it, or do not.

        Switched on, everything appended so far is durable on return.

        Raises:
            OSError: the mark cannot be written. Switched off: nothing has changed. Switched on: it is on.
            StorageFailed: by `Log.sync`.
        """
        if self._mark is None or group not in self._groups:
            raise OSError(f"group {group}: there is no place for the mark of an unsynced log")
        if on and group in self._off:
            self._sync()
            self._off.discard(group)
            self.every_turn = not self.given_up
            self._mark.write(self.given_up)
            _log.warning("group %d: log sync is switched on: all that it has said is durable", group)
        elif not on and group not in self._off:
            self._mark.write({*self.given_up, group})
            self._off.add(group)
            self.every_turn = False
            _warn((group,))

    def appended(self, records: Sequence[Record]) -> None:
        """A turn has appended these; what rests on them leaves when this returns.

        Raises:
            StorageFailed: the disk failed.
        """
        self._skipped += 1
        off = self._off
        if self._skipped > self._skip_count and any(record[1] not in off for record in records):
            self._sync()
        else:
            self._log.flush()

    def upkeep(self, now: int) -> int:
        """Sync what was skipped if it is time. The ns until that is due, 0 if nothing waits.

        Raises:
            StorageFailed: the disk failed.
        """
        if self._skipped:
            if now < self._sync_at:
                return self._sync_at - now
            self._sync()
            self._sync_at = now + self._interval
        return 0

    def lose(self) -> None:
        """The log has failed: what was said before it was durable may never be."""
        if self._mark is not None and self.given_up:
            try:
                self._mark.lose(self.given_up)
            except OSError as error:
                _log.error("it cannot be recorded that groups lost their promise: %s", error)

    def close(self) -> None:
        """The last turn is over: make all of it durable, and take the mark away.

        Raises:
            StorageFailed: the disk failed, or the mark cannot be taken away.
        """
        if self.every_turn or self._mark is None:
            return
        self._sync()
        try:
            self._mark.write(())
        except OSError as error:
            raise StorageFailed(f"the mark of an unsynced log cannot be taken away: {error}") from error

    def _sync(self) -> None:
        self._log.sync()
        self._skipped = 0


def _warn(groups: Collection[int]) -> None:
    words = (
        "groups %s are not synced: votes leave before they are on the disk. A power cut or a crash of the"
        " system can make this node forget them, which can undo what the cluster acknowledged"
    )
    _log.warning(words, _listed(groups))


def _listed(groups: Collection[int]) -> str:
    return ", ".join(map(str, sorted(groups)))
