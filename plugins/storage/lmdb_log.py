"""`LmdbLog`: the log of a worker in plain LMDB, one transaction for each `sync`.

It decides when a transaction is written and that the first failure is the last. What `append` took in
waits in memory, bounded, until `sync` commits it; so after a crash all of it is there or none. It never
acknowledges what is not committed and never repeats a commit that met an error of the disk.

What entries look like is in `lmdb_record.py`, how the environment is made, checked and opened in
`lmdb_open.py`, and the length of its file in `lmdb_file.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import lmdb

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.engine.storage import (
    CLEAN_BYTES_PER_S,
    HardState,
    LogIdentity,
    LogStats,
    NoRoom,
    Record,
    RecordKind,
    StorageDamaged,
)
from paxmux.plugins.storage.kind import LMDB, refuse_other
from paxmux.plugins.storage.lmdb_load import Loaded
from paxmux.plugins.storage.lmdb_open import Environment, create_environment, is_created
from paxmux.plugins.storage.lmdb_record import (
    GROUP_KEY,
    GROUPS_KEY,
    NEW_STATE,
    NO_SYSTEM,
    STARTS_KEY,
    VALUE_KEY,
    GroupState,
    System,
    Value,
    check_records,
    has_value,
    open_value,
    seal_groups,
    seal_starts,
    seal_state,
    seal_system,
    seal_value,
    state_after,
)
from paxmux.plugins.storage.lock import DirectoryLock
from paxmux.plugins.storage.stop_mark import read_mark, remove_mark, write_mark

PENDING_MAX_BYTES: Final = 64 << 20
"""More than this does not wait for `sync`: `append` commits it, with everything before it."""
ENTRY_BYTES: Final = 40
"""What an entry has beside its value."""
DIRTY_PAGES: Final = 4
"""Pages that a commit may write anew for one entry: those on the way to it, one of them split."""
UNSYNCED_WAIT_S: Final = 0.005
RETRY_S: Final = 1.0
CLEAN_ENTRIES: Final = 256
"""Forgotten values that one slice removes."""
READERS_EVERY_S: Final = 60.0
"""How often the slots of readers that were killed are given back: pages that such a one could see are
not used again."""


class LmdbLog:
    """A log in a directory of its own; implements `paxmux.engine.storage.Log`."""

    def __init__(
        self,
        path: Path,
        identity: LogIdentity,
        *,
        segment_bytes: int,
        create: bool = True,
        max_bytes: int = 0,
        clean_bytes_per_s: int = CLEAN_BYTES_PER_S,
        scrub_bytes_per_s: int = 0,
    ) -> None:
        """Lock the directory, make it if it is missing, and check and open what is there.

        Args:
            path: directory of this log alone.
            identity: whose log it is; stamped into a new one, required of an existing one.
            segment_bytes: the file grows by at most so much at once.
            create: whether `recover` makes the log if it is not there.
            max_bytes, clean_bytes_per_s: as `OpenLog` says. What is forgotten makes room within the file,
                which never becomes smaller.
            scrub_bytes_per_s: unused: a start verifies everything.

        Raises:
            ValueError: `segment_bytes` is not positive.
            DataDirError: in use (names the pid), of another owner or plugin, or of a newer format.
            StorageDamaged: what is there is damaged; nothing was changed.
        """
        if segment_bytes <= 0:
            raise ValueError(f"segment_bytes {segment_bytes}: expected more than 0")
        self._path = path
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._max_bytes = max_bytes
        self._clean_bytes_per_s = clean_bytes_per_s
        self._limit: str | None = None
        """In words: the log is as large as it may be."""
        self._refused_bytes = 0
        """What the last commit would have needed that there was no room for, until there is."""
        self._cleaning = True
        self._clean_at = 0.0
        self._create = create
        self._unusable: str | None = "recover comes before anything else"
        """Why nothing works (any more); None while the log is usable."""
        self._started = self._closed = False
        self._pid = os.getpid()
        self._env: Environment | None = None
        self._states: dict[int, GroupState] = {}
        self._systems: dict[int, System] = {}
        self._stored_groups: list[int] = []
        """Groups that have a state in the file."""
        self._gone: set[int] = set()
        """Groups whose entries go with the next commit."""
        self._forgetting: set[int] = set()
        """Groups that may have values in the file which are forgotten."""
        self._changed: set[int] = set()
        self._pending: dict[bytes, Value] = {}
        self._changed_systems: set[int] = set()
        """What waits for `sync`: groups whose state changed, the newest values by key, and groups whose inner
        machines changed."""
        self._pending_bytes = 0
        self._readers_at = time.monotonic()
        self._appends = self._syncs = self._records = self._bytes = self._recovered = 0
        self._damaged = 0
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(path)
        except OSError as error:
            raise DataDirError(f"{path}: {error.strerror}") from error
        try:
            refuse_other(path, LMDB)
            self._mark = read_mark(path, identity)
            if is_created(path):
                self._env = Environment(path, identity, segment_bytes, self._mark)
        except OSError as error:
            self._lock.release()
            raise DataDirError(f"{path}: {error}") from error
        except (DataDirError, StorageDamaged):
            self._lock.release()
            raise

    def recover(self) -> dict[int, HardState]:
        """See `Log.recover`.

        Raises:
            StorageDamaged: something that was durable is missing or bad; nothing was changed.
            StorageFailed: the disk failed.
        """
        if self._started or self._closed:
            raise StorageFailed(f"{self._path}: recover is called once, on an open log")
        self._started = True
        try:
            if self._env is None:
                self._env = self._found_log()
            loaded = self._load(self._env)
            remove_mark(self._path)
            # What is there may be in the page cache alone, if the last process died, or if its last sync
            # failed. A commit on top of it makes it durable before anyone hears of it.
            self._env.commit([], [], [(STARTS_KEY, seal_starts(loaded.starts + 1))])
        except (StorageDamaged, DataDirError) as error:
            self._unusable = str(error)
            raise
        except (OSError, lmdb.Error) as error:
            raise self._fail("recovery", error) from error
        self._unusable = None
        return loaded.hard_states

    def _found_log(self) -> Environment:
        """Make the log, unless it once was there."""
        if not self._create:
            raise StorageDamaged(
                f"{self._path}: the log is not there, and with it is lost what this node has promised;"
                " it must not vote in its present seat again"
            )
        if self._mark is not None:
            raise StorageDamaged(f"{self._path}: the mark of a clean stop is there, the log is not")
        create_environment(self._path, self._identity)
        return Environment(self._path, self._identity, self._segment_bytes, None)

    def _load(self, env: Environment) -> Loaded:
        loaded = Loaded(env)
        self._states, self._systems = loaded.states, loaded.systems
        self._stored_groups = loaded.groups
        self._forgetting = {group for group, state in self._states.items() if state.first}
        self._recovered = len(loaded.groups)
        self._damaged += loaded.damaged
        return loaded

    def doubt(self) -> str | None:
        """See `Log.doubt`: an undamaged state of each group is there, or the log does not start."""
        return None

    def damage(self) -> list[tuple[int, int]]:
        """See `Log.damage`: nobody looks; a start verifies everything."""
        return []

    def append(self, records: Sequence[Record]) -> None:
        """See `Log.append`. The records wait in memory for `sync`, or until there are too many.

        Raises:
            ValueError: records that no log can hold; nothing is taken in and the log stays usable.
            NoRoom: the file has no room for them and cannot grow; nothing is taken in and the log stays
                usable.
            StorageFailed: a commit failed.
        """
        env = self._check()
        if not records:
            return
        check_records(records)
        self._need_room(env, records)
        states, changed, pending = self._states, self._changed, self._pending
        for record in records:
            group = record[1]
            changed.add(group)
            if record[0] == RecordKind.RELEASED:
                self._release(group)
                continue
            states[group] = state_after(states.get(group, NEW_STATE), record)
            if has_value(record):
                pending[VALUE_KEY.pack(group, record[2])] = record[3:]
                self._pending_bytes += len(record[5]) + ENTRY_BYTES
            elif record[0] == RecordKind.FORGOTTEN:
                self._forgetting.add(group)
            elif record[0] == RecordKind.SYSTEM:
                self._systems[group] = System(record[2], record[3] != 0, record[5])
                self._changed_systems.add(group)
                self._pending_bytes += len(record[5]) + ENTRY_BYTES
        self._appends += 1
        self._records += len(records)
        if self._pending_bytes > PENDING_MAX_BYTES:
            self.sync()

    def _need_room(self, env: Environment, records: Sequence[Record]) -> None:
        size = self._pending_bytes + sum([len(record[5]) + ENTRY_BYTES for record in records])
        entries = len(self._pending) + len(self._changed) + len(self._changed_systems) + 2 * len(records)
        try:
            needed = size + DIRTY_PAGES * entries * env.page_bytes
            has_room = env.make_room(needed)
        except OSError as error:
            raise self._fail("append", error) from error
        if not has_room:
            self._refused_bytes = needed
            raise NoRoom(env.trouble or f"{self._path}: no room to grow")

    def _release(self, group: int) -> None:
        self._states.pop(group, None)
        self._systems.pop(group, None)
        self._changed_systems.discard(group)
        self._gone.add(group)
        for key in [key for key in self._pending if VALUE_KEY.unpack(key)[0] == group]:
            self._pending_bytes -= len(self._pending.pop(key)[2]) + ENTRY_BYTES

    def sync(self) -> None:
        """See `Log.sync`."""
        env = self._check()
        if not self._changed:
            return
        # Whatever ends the commit early, and be it an interrupt: nothing works after it.
        self._unusable = f"{self._path}: a commit has not ended"
        try:
            self._commit(env)
        except (OSError, lmdb.Error) as error:
            raise self._fail("commit", error) from error
        self._unusable = None

    def flush(self) -> None:
        """See `Log.flush`. LMDB has nothing between memory and a durable commit."""
        self.sync()

    def _commit(self, env: Environment) -> None:
        states = []
        for group in sorted(self._changed.intersection(self._states)):
            key = GROUP_KEY.pack(group)
            states.append((key, seal_state(key, self._states[group])))
        values = [(key, seal_value(key, self._pending[key])) for key in sorted(self._pending)]
        about = []
        groups = self._stored_groups
        if self._gone or len(self._states) > len(groups):
            groups = sorted(self._states)
            about.append((GROUPS_KEY, seal_groups(groups)))
        for group in sorted(self._changed_systems):
            about.append(seal_system(group, self._states[group].systems, self._systems[group]))
        size = sum(len(key) + len(data) for entries in (states, values, about) for key, data in entries)
        entries = len(states) + len(values) + len(about)
        env.make_room(size + DIRTY_PAGES * entries * env.page_bytes)
        env.commit(values, states, about, sorted(self._gone))
        self._stored_groups = groups
        self._gone.clear()
        self._changed.clear()
        self._changed_systems.clear()
        self._pending.clear()
        self._pending_bytes = 0
        self._syncs += 1
        self._bytes += size

    def first(self, group: int) -> int:
        """See `Log.first`."""
        self._check()
        return self._states.get(group, NEW_STATE).first

    def system(self, group: int) -> tuple[int, bytes] | None:
        """See `Log.system`."""
        self._check()
        system = self._systems.get(group, NO_SYSTEM)
        return None if system.lost else (system.begin, system.value)

    def read(self, group: int, instance: int) -> tuple[int, int, bytes] | None:
        """See `Log.read`."""
        for _, round_, node, value in self.read_range(group, instance, 1, 0):
            return round_, node, value
        return None

    def read_range(
        self, group: int, first: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, int, int, bytes]]:
        """See `Log.read_range`."""
        env = self._check()
        where = str(env.data)
        found: list[tuple[int, int, int, bytes]] = []
        left = max_bytes
        instance = first
        if group in self._gone and group not in self._states:
            return []
        if first < self._states.get(group, NEW_STATE).first:
            return []
        try:
            with env.reading() as txn, txn.cursor(db=env.values) as cursor:
                for instance in range(first, first + max_count):
                    key = VALUE_KEY.pack(group, instance)
                    value = self._pending.get(key)
                    if value is None:
                        if group in self._gone or not cursor.set_key(key):
                            break
                        try:
                            value = open_value(key, cursor.value(), where)
                        except StorageDamaged:
                            if found:
                                break
                            self._damaged += 1
                            raise
                    left -= len(value[2])
                    if left < 0 and found:
                        break
                    found.append((instance, *value))
        except lmdb.Error as error:
            raise StorageDamaged(f"{where}: value of group {group}, instance {instance}: {error}") from error
        return found

    def healthy(self) -> str | None:
        """See `Log.healthy`."""
        return self._unusable or self._limit or (self._env.trouble if self._env is not None else None)

    def housekeep(self) -> float | None:
        """See `Log.housekeep`: look whether a full disk has room again, and for killed readers."""
        env = self._check()
        if self._changed:
            return UNSYNCED_WAIT_S
        try:
            now = time.monotonic()
            if now >= self._readers_at:
                self._readers_at = now + READERS_EVERY_S
                env.forget_killed_readers()
            if env.trouble is not None and env.make_room(self._refused_bytes):
                self._refused_bytes = 0
            if self._max_bytes:
                self._check_limit(env)
            if self._forgetting and self._cleaning:
                return self._clean(env, now)
        except (OSError, lmdb.Error) as error:
            raise self._fail("upkeep", error) from error
        return RETRY_S if self.healthy() is not None else None

    def _check_limit(self, env: Environment) -> None:
        """What is under way still has a segment's room when it is refused that there be more."""
        has = env.value_bytes()
        self._limit = None
        if has > self._max_bytes - self._segment_bytes:
            self._limit = f"{self._path}: {has} bytes of log, storage.max_bytes is {self._max_bytes}"

    def _clean(self, env: Environment, now: float) -> float:
        """Remove one slice of what a group has forgotten. That it has is durable: everything is synced."""
        if now < self._clean_at:
            return self._clean_at - now
        group = next(iter(self._forgetting))
        done, size = True, 0
        if group in self._states:
            done, size = env.drop(group, self._states[group].first, CLEAN_ENTRIES)
        if done:
            self._forgetting.remove(group)
        self._clean_at = now + size / self._clean_bytes_per_s
        return self._clean_at - now

    def set_cleaning(self, on: bool) -> None:
        """See `Log.set_cleaning`."""
        self._check()
        self._cleaning = on

    def stats(self) -> LogStats:
        """See `Log.stats`. `bytes_written` counts entries; LMDB writes the pages that they are in."""
        return {
            "appends": self._appends,
            "syncs": self._syncs,
            "records": self._records,
            "bytes_written": self._bytes,
            "segments": 1 if self._env is not None else 0,
            "disk_bytes": self._env.disk_bytes if self._env is not None else 0,
            "live_bytes": self._env.value_bytes() if self._env is not None and not self._closed else 0,
            "removed_segments": 0,
            "recovered_records": self._recovered,
            "cut_bytes": 0,
            "damaged_records": self._damaged,
            "scrubbed_bytes": 0,
            "scrub_rounds": 0,
        }

    def close(self, *, clean: bool) -> None:
        """See `Log.close`. After a failure it only closes, whatever `clean` says."""
        if self._closed:
            return
        own = os.getpid() == self._pid
        try:
            if clean and own and self._unusable is None:
                self.sync()
                assert self._env is not None
                write_mark(self._path, self._identity, self._env.fingerprint())
        except (OSError, StorageDamaged) as error:
            raise self._fail("close", error) from error
        finally:
            self._closed = True
            self._unusable = self._unusable or f"{self._path}: the log is closed"
            if self._env is not None and own:
                self._env.close()
            self._lock.release()

    def _check(self) -> Environment:
        if self._unusable is not None or self._env is None:
            raise StorageFailed(self._unusable)
        if os.getpid() != self._pid:
            raise StorageFailed(f"{self._path}: open in process {self._pid}, not in its child {os.getpid()}")
        return self._env

    def _fail(self, what: str, error: Exception) -> StorageFailed:
        """Latch the first failure; the exception to raise."""
        self._unusable = f"{self._path}: {what} failed: {error}"
        return StorageFailed(self._unusable)
