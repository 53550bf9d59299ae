"""`MemoryLog`: a log in memory, for simulations and tests, which can lose what a crash loses.

What would survive the process is a `MemoryDisk`; what a `MemoryLog` knows beside it dies with it.
Its disk keeps everything for good, so it is no log for a node that lives long.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.engine.storage import (
    CLEAN_BYTES_PER_S,
    NULL_BALLOT,
    SYSTEM_MAX_BYTES,
    Ballot,
    HardState,
    LogIdentity,
    LogStats,
    Record,
    RecordKind,
    StorageDamaged,
    unknown_state,
)

RECORD_BYTES: Final = 36
"""What a record costs beside its value, for the counters."""
_KINDS: Final = frozenset(map(int, RecordKind))
_WITH_BALLOT: Final = frozenset({int(RecordKind.PROMISE), int(RecordKind.ACCEPT), int(RecordKind.CLEARED)})
_WITH_VALUE: Final = frozenset({int(RecordKind.ACCEPT), int(RecordKind.LEARNED)})
_FORGOTTEN: Final = int(RecordKind.FORGOTTEN)
_RELEASED: Final = int(RecordKind.RELEASED)
_CLEARED: Final = int(RecordKind.CLEARED)
_SUSPECT: Final = int(RecordKind.SUSPECT)
_SYSTEM: Final = int(RecordKind.SYSTEM)


class MemoryDisk:
    """The batches of one log, in order, and how many of them are durable."""

    def __init__(self, identity: LogIdentity) -> None:
        self.identity = identity
        self.batches: list[tuple[Record, ...]] = []
        self.synced = 0
        """So many of `batches` survive a power cut."""
        self.owner: MemoryLog | None = None
        """The log that has it open."""
        self.made = False
        """A log has been here."""
        self.damaged: dict[tuple[int, int], int] = {}
        """(group, instance) -> the batch up to which its values are damaged."""
        self.doubt: str | None = None
        """Why promises are lost,"""
        self.doubt_at = 0
        """and the batch up to which,"""
        self.systems_lost = False
        """and whether a state of inner machines was among what is lost. All of it is to be played by whoever
        owns the disk; see `spoil` and `forget`."""

    def spoil(self, group: int, instance: int) -> None:
        """Play damage of the value of an instance."""
        self.damaged[group, instance] = len(self.batches)

    def forget(self, reason: str, batches: int) -> None:
        """Play damage of the last `batches` batches, which a log may have promised something in."""
        lost = self.batches[len(self.batches) - batches :]
        self.systems_lost |= any(record[0] == _SYSTEM for batch in lost for record in batch)
        del self.batches[len(self.batches) - batches :]
        self.synced = self.doubt_at = len(self.batches)
        self.doubt = reason


class MemoryLog:
    """A log in memory; implements `paxmux.engine.storage.Log`."""

    def __init__(
        self,
        path: Path,
        identity: LogIdentity,
        *,
        segment_bytes: int = 0,
        create: bool = True,
        max_bytes: int = 0,
        clean_bytes_per_s: int = CLEAN_BYTES_PER_S,
        scrub_bytes_per_s: int = 0,
        disk: MemoryDisk | None = None,
    ) -> None:
        """Open `disk`, or a new one.

        Args:
            path: for messages only; no file is touched.
            identity: whose log it is; must be the disk's.
            segment_bytes, max_bytes, clean_bytes_per_s, scrub_bytes_per_s: unused: nothing is on a real disk.
            create: whether `recover` makes the log if `disk` holds none.
            disk: what an earlier log left.

        Raises:
            DataDirError: the disk is in use, or another log's.
        """
        self.disk = disk if disk is not None else MemoryDisk(identity)
        if self.disk.identity != identity:
            raise DataDirError(f"{path}: belongs to {self.disk.identity}, this is {identity}")
        if self.disk.owner is not None:
            raise DataDirError(f"{path}: in use by another log")
        self.disk.owner = self
        self.trouble: str | None = None
        """What `healthy` says while the log works; set it to play a disk that runs full."""
        self._create = create
        self._path = path
        self._identity = identity
        self._unusable: str | None = "recover comes before anything else"
        self._recovered = -1
        self._values: dict[int, dict[int, tuple[int, int, bytes]]] = {}
        """Group -> instance -> (round, node, value)."""
        self._first: dict[int, int] = {}
        self._systems: dict[int, tuple[int, bytes] | None] = {}
        self._damaged: set[tuple[int, int]] = set()
        self._appends = self._syncs = self._records = self._bytes = 0

    def recover(self) -> dict[int, HardState]:
        """See `Log.recover`."""
        if self._recovered >= 0 or self.disk.owner is not self:
            raise StorageFailed(f"{self._path}: recover is called once, on an open log")
        disk = self.disk
        if not disk.made and not self._create:
            raise StorageDamaged(f"{self._path}: the log is not there")
        disk.made = True
        states: dict[int, HardState] = {}
        for number, batch in enumerate([*disk.batches, ()]):
            if disk.doubt is not None and number == disk.doubt_at:
                states = {
                    group: state._replace(suspect=True, system_lost=state.system_lost or disk.systems_lost)
                    for group, state in states.items()
                }
            new = unknown_state(disk.doubt if number >= disk.doubt_at else None)
            for record in batch:
                group = record[1]
                if record[0] == _RELEASED:
                    states.pop(group, None)
                    continue
                states[group] = _after(states.get(group, new), record)
            self._note(batch, number)
        for group, state in states.items():
            if state.accepted != NULL_BALLOT and (group, state.instance) in self._damaged:
                states[group] = state._replace(value=b"", lost=True)
        for group, state in states.items():
            self._systems[group] = None if state.system_lost else (state.system_from, state.system)
        self._recovered = sum(len(batch) for batch in disk.batches)
        # What is reported as recovered must never be lost again.
        disk.synced = len(disk.batches)
        self._unusable = None
        return states

    def doubt(self) -> str | None:
        """See `Log.doubt`."""
        return self.disk.doubt

    def damage(self) -> list[tuple[int, int]]:
        """See `Log.damage`: nobody looks."""
        return []

    def append(self, records: Sequence[Record]) -> None:
        """See `Log.append`."""
        self._check()
        if records:
            for kind, _, instance, _, _, value in records:
                too_large = kind == _SYSTEM and len(value) > SYSTEM_MAX_BYTES
                if kind not in _KINDS or instance >> 63 or too_large:
                    raise ValueError(f"record of kind {kind}, instance {instance} cannot be stored")
            batch = tuple(records)
            self.disk.batches.append(batch)
            self._note(batch, len(self.disk.batches) - 1)
            self._appends += 1
            self._records += len(batch)
            self._bytes += sum(RECORD_BYTES + len(record[5]) for record in batch)

    def sync(self) -> None:
        """See `Log.sync`."""
        self._check()
        if self.disk.synced < len(self.disk.batches):
            self.disk.synced = len(self.disk.batches)
            self._syncs += 1

    def flush(self) -> None:
        """See `Log.flush`."""
        self._check()

    def first(self, group: int) -> int:
        """See `Log.first`."""
        self._check()
        return self._first.get(group, 0)

    def system(self, group: int) -> tuple[int, bytes] | None:
        """See `Log.system`."""
        self._check()
        return self._systems.get(group, None if self.disk.doubt is not None else (0, b""))

    def read(self, group: int, instance: int) -> tuple[int, int, bytes] | None:
        """See `Log.read`."""
        self._check()
        if (group, instance) in self._damaged:
            raise StorageDamaged(f"{self._path}: group {group}, instance {instance}: damaged")
        return self._values.get(group, {}).get(instance)

    def read_range(
        self, group: int, first: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, int, int, bytes]]:
        """See `Log.read_range`."""
        self._check()
        found: list[tuple[int, int, int, bytes]] = []
        left = max_bytes
        for instance in range(first, first + max_count):
            if found and (group, instance) in self._damaged:
                break
            stored = self.read(group, instance)
            if stored is None:
                break
            left -= len(stored[2])
            if left < 0 and found:
                break
            found.append((instance, *stored))
        return found

    def healthy(self) -> str | None:
        """See `Log.healthy`."""
        return self._unusable or self.trouble

    def housekeep(self) -> float | None:
        """See `Log.housekeep`: there is never anything to do."""
        self._check()
        return None

    def set_cleaning(self, on: bool) -> None:
        """See `Log.set_cleaning`: nothing makes room here."""
        self._check()

    def stats(self) -> LogStats:
        """See `Log.stats`."""
        return {
            "appends": self._appends,
            "syncs": self._syncs,
            "records": self._records,
            "bytes_written": self._bytes,
            "segments": 0,
            "disk_bytes": 0,
            "live_bytes": sum(len(each[2]) for values in self._values.values() for each in values.values()),
            "removed_segments": 0,
            "recovered_records": max(0, self._recovered),
            "cut_bytes": 0,
            "damaged_records": len(self._damaged),
            "scrubbed_bytes": 0,
            "scrub_rounds": 0,
        }

    def close(self, *, clean: bool) -> None:
        """See `Log.close`. Not clean leaves what a killed process leaves: everything appended."""
        if self.disk.owner is self:
            if clean and self._unusable is None:
                self.sync()
            self._unusable = self._unusable or f"{self._path}: the log is closed"
            self.disk.owner = None

    def fail(self, reason: str) -> None:
        """Play a failed write or sync: from now on everything raises `StorageFailed`."""
        self._unusable = reason

    def crash(self, keep_batches: int = 0) -> None:
        """Play a power cut: unsynced batches are lost but for the first `keep_batches` of them."""
        disk = self.disk
        del disk.batches[disk.synced + keep_batches :]
        self._unusable = f"{self._path}: crashed"
        if disk.owner is self:
            disk.owner = None

    def reopen(self) -> MemoryLog:
        """A new log on what this one left, as the next process would open it; not recovered yet."""
        return MemoryLog(self._path, self._identity, disk=self.disk)

    def _check(self) -> None:
        if self._unusable is not None:
            raise StorageFailed(self._unusable)

    def _note(self, batch: Sequence[Record], number: int) -> None:
        for kind, group, instance, round_, node, value in batch:
            if kind in _WITH_VALUE:
                if instance >= self._first.get(group, 0):
                    self._values.setdefault(group, {})[instance] = (round_, node, value)
                    if number < self.disk.damaged.get((group, instance), 0):
                        self._damaged.add((group, instance))
                    else:
                        self._damaged.discard((group, instance))
            elif kind == _FORGOTTEN:
                if instance > self._first.get(group, 0):
                    self._first[group] = instance
                    values = self._values.get(group, {})
                    for each in [each for each in values if each < instance]:
                        del values[each]
                        self._damaged.discard((group, each))
            elif kind == _SYSTEM:
                self._systems[group] = None if round_ else (instance, value)
            elif kind == _RELEASED:
                self._first.pop(group, None)
                self._systems.pop(group, None)
                for each in self._values.pop(group, {}):
                    self._damaged.discard((group, each))


def _after(state: HardState, record: Record) -> HardState:
    """A group's hard state after one more record."""
    kind, _, instance, round_, node, value = record
    if kind == _FORGOTTEN:
        return state
    if kind == _SUSPECT:
        return state._replace(suspect=True)
    if kind == _SYSTEM:
        return state._replace(system=value, system_from=instance, system_lost=round_ != 0)
    ballot: Ballot = (round_, node)
    promised = max(state.promised, ballot) if kind in _WITH_BALLOT else state.promised
    current = max(state.instance, instance if kind in _WITH_BALLOT else instance + 1)
    if kind == RecordKind.ACCEPT and instance == current:
        return state._replace(instance=current, promised=promised, accepted=ballot, value=value)
    state = state._replace(promised=promised, suspect=state.suspect and kind != _CLEARED)
    if current > state.instance:
        return state._replace(instance=current, accepted=NULL_BALLOT, value=b"")
    return state
