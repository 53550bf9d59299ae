"""The contract of a log: what a worker needs from the disk.

One log belongs to one worker and holds all of its groups. A log is the truth about promises and
accepted values: whatever `sync` returned for is still there after a crash at any instruction and after
a power cut.

Implementations live in `plugins/storage` and are named in the options by dotted path. The same
contract tests run over each of them (`tests/storage_contract.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypedDict

from paxmux.engine.errors import StorageFailed
from paxmux.engine.paxos import effects
from paxmux.engine.paxos.ballot import NULL as NULL_BALLOT
from paxmux.engine.paxos.ballot import Ballot
from paxmux.engine.paxos.effects import Record

__all__ = [
    "CLEAN_BYTES_PER_S",
    "EMPTY_STATE",
    "NULL_BALLOT",
    "SYSTEM_MAX_BYTES",
    "Ballot",
    "HardState",
    "Log",
    "LogIdentity",
    "LogStats",
    "NoRoom",
    "OpenLog",
    "Record",
    "RecordKind",
    "StorageDamaged",
    "unknown_state",
]


class RecordKind(IntEnum):
    """What a record says. The numbers are on disk."""

    PROMISE = effects.PROMISE
    """The acceptor promised `ballot` while `instance` was its current one. `value` is empty."""
    ACCEPT = effects.ACCEPT
    """The acceptor accepted `value` under `ballot`; implies a promise of at least `ballot`."""
    LEARNED = effects.LEARNED
    """`value` is decided, as told by a peer. Says nothing about promises."""
    DECIDED = effects.DECIDED
    """Every instance up to and including `instance` is decided; the last value record of each
    holds its value. Written lazily: a hint that saves questions after a restart."""
    FORGOTTEN = effects.FORGOTTEN
    """Nobody needs the values below `instance` any more: `first` is at least `instance` from now on. Only
    what is decided, executed durably and not the last of its group may be forgotten. Says nothing else."""
    RELEASED = effects.RELEASED
    """The group has left this log: it knows nothing of it any more, as if it had never had a record. Only
    once it is durable elsewhere that another log of the node has the group."""
    CLEARED = effects.CLEARED
    """As a PROMISE; and the group is not suspect any more (`Log.doubt`): nothing that it ever promised is
    above `ballot`."""
    SUSPECT = effects.SUSPECT
    """The group is suspect from here on, whatever the log is: it was in another one. Says nothing else."""
    SYSTEM = effects.SYSTEM
    """From `instance` on the group's inner state machines are in the state `value`, of at most
    `SYSTEM_MAX_BYTES`, until the next such record; empty: as the cluster was founded. The last one in the
    order of the log counts. Round 1: a later one may be lost (`HardState.system_lost`); else 0. Says
    nothing else, above all not that anything is decided or promised."""


class HardState(NamedTuple):
    """What a group must remember across a crash, as `recover` finds it."""

    instance: int
    """The current instance: the highest one that has a PROMISE, ACCEPT or CLEARED record, or one above the
    highest that is LEARNED or DECIDED, whichever is larger. All below it are decided."""
    promised: Ballot
    """The highest ballot of any PROMISE, ACCEPT or CLEARED record of the group, over all instances."""
    accepted: Ballot
    """Ballot of the last ACCEPT at `instance`; NULL_BALLOT if there is none."""
    value: bytes
    """Value of that ACCEPT; empty if there is none."""
    suspect: bool = False
    """Promises and accepts may be lost that nobody knows of any more; see `Log.doubt`."""
    lost: bool = False
    """The value of that ACCEPT is damaged: `value` is empty."""
    system: bytes = b""
    """State of the inner state machines, from the group's last SYSTEM record; empty if there is none."""
    system_from: int = 0
    """The instance of that record: `system` is their state from there on. May be above `instance`."""
    system_lost: bool = False
    """A later record may be lost: `system` was their state at `system_from`, and what they are in now only
    the values decided from there on tell, or another member. It lasts until the next SYSTEM record."""


CLEAN_BYTES_PER_S: Final = 256 << 20
SYSTEM_MAX_BYTES: Final = 64 << 10
"""A state of inner state machines is said again at the start of each segment."""

EMPTY_STATE = HardState(0, NULL_BALLOT, NULL_BALLOT, b"")


def unknown_state(doubt: str | None) -> HardState:
    """State of a group that `Log.recover` did not report; `doubt`: what `Log.doubt` says."""
    return EMPTY_STATE if doubt is None else EMPTY_STATE._replace(suspect=True, system_lost=True)


class LogIdentity(NamedTuple):
    """Stamped into every file of a log; files with another one are refused, never read."""

    cluster: int
    node: int
    seat: int
    log: int
    """Index of the log within its node: the index of the worker that owns it."""


class LogStats(TypedDict):
    """Counters of a log since it was opened; sizes in bytes."""

    appends: int
    syncs: int
    records: int
    bytes_written: int
    segments: int
    disk_bytes: int
    live_bytes: int
    """About how much of it is values that are not forgotten."""
    removed_segments: int
    recovered_records: int
    cut_bytes: int
    damaged_records: int
    """Places at which something was found damaged: at the start, by a read or by the scrub."""
    scrubbed_bytes: int
    scrub_rounds: int
    """What the scrub has read, and how often it has been through everything."""


class Log(Protocol):
    """A log, open for its only writer.

    Atomicity: after a crash, a prefix of the calls of `append` is there, each whole or not at all; it
    includes at least all of those for which `sync` returned. What `recover` returned counts as synced.
    Concurrency: one process has a log open, and a second one is refused with `DataDirError` that names
    its pid; the system frees a log whose process died. One thread at a time calls it, and no call blocks
    but for the disk. A child that inherits an open log must not use it.
    Order: each call sees all calls before it; `read` and `read_range` see what is not synced too.
    Errors: any failure of a write or sync raises `StorageFailed`; from then on every method but
    `close` (and `healthy` and `stats`, which never raise) raises it again. Nothing is retried.
    `NoRoom` alone is no failure: nothing was written, and the log goes on.
    `StorageDamaged` of a read is about that record alone: the log goes on.
    """

    def recover(self) -> dict[int, HardState]:
        """Hard state of every group that has records. Called once, before anything else.

        All that is found is durable on return, also what the last process wrote and did not live to
        sync. What was durable, and is missing or bad, is reported one by one where a value is all that is
        lost (`HardState.lost`, `read`), by `HardState.system_lost` where it may have been a state of inner
        machines, and by `doubt` where it may have been more. `StorageDamaged` if the log as a whole is
        lost, or cannot tell what it has lost.
        """
        ...

    def doubt(self) -> str | None:
        """Why promises and accepts may be lost, in words, from `recover` on; None if none can be.

        It goes on for good, over restarts: a group is suspect (`HardState.suspect`) until its CLEARED
        record, and one without any record is as well. What is lost anew makes all groups suspect anew.
        """
        ...

    def damage(self) -> list[tuple[int, int]]:
        """(group, instance) of values that were found damaged since the last call, by nobody who read them:
        `housekeep` looks through the log. Bounded; what does not fit is found again later."""
        ...

    def append(self, records: Sequence[Record]) -> None:
        """Take the records in, in order: written with one system call, or kept for `sync` to write. They
        are not durable before `sync`.

        After a crash the unsynced ones of one call are all there or none is. Records that no log can
        hold are a `ValueError`: none of the call is taken in, and the log goes on. So it is with `NoRoom`:
        there is no room for them now. Then `healthy` says so until another try makes sense. What only
        makes room (FORGOTTEN, RELEASED, and DECIDED) is taken in as long as there is any room at all.
        """
        ...

    def sync(self) -> None:
        """Return when every record appended so far is durable: hints too. No-op if nothing is unsynced."""
        ...

    def flush(self) -> None:
        """Return when every record appended so far outlives this process: a power cut may still take it.

        For callers that do not wait for `sync`. It may do more than that.
        """
        ...

    def first(self, group: int) -> int:
        """The lowest instance whose value was not forgotten; 0 if none was."""
        ...

    def system(self, group: int) -> tuple[int, bytes] | None:
        """(instance, value) of the group's last SYSTEM record; (0, b"") if there is none; None if a later
        one may be lost."""
        ...

    def read(self, group: int, instance: int) -> tuple[int, int, bytes] | None:
        """(round, node, value) of the last ACCEPT or LEARNED record of that instance, CRC checked.

        None if there is none, or if it is forgotten. Raises `StorageDamaged` if it is there and damaged.
        """
        ...

    def read_range(
        self, group: int, first: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, int, int, bytes]]:
        """(instance, round, node, value) from `first` on, without gaps, in order.

        Stops before the first missing instance, after `max_count` records, or before the values
        would exceed `max_bytes` together (at least one is returned if it exists). Stops before a damaged
        one too, unless it is the first, which raises `StorageDamaged`.
        """
        ...

    def healthy(self) -> str | None:
        """None, or in words why the log may soon be unable to go on: above all, no room for the next
        segment. Cheap enough for every turn.

        The log still works, and recovers by itself once there is room. Until then the worker should
        refuse proposals and votes: what is appended meanwhile eats the room that is left, and then
        `append` raises `NoRoom`.
        """
        ...

    def housekeep(self) -> float | None:
        """Do a bounded slice (at most a few ms) of upkeep, for synced records only: the index, and room
        made from what is forgotten.

        Called when the worker is idle, and at least once in 200 ms under load; it does nothing while
        anything is unsynced. Returns the seconds until it wants to be called again, None if nothing
        is left to do.
        """
        ...

    def set_cleaning(self, on: bool) -> None:
        """Whether `housekeep` makes room from what is forgotten; it does unless told otherwise."""
        ...

    def stats(self) -> LogStats:
        """Counters since opening."""
        ...

    def close(self, *, clean: bool) -> None:
        """Close every file. `clean` syncs and leaves the mark of a clean stop first; after a failure, or
        before `recover`, it only closes. Calls after the first do nothing."""
        ...


class NoRoom(StorageFailed):
    """`append` has no room for these records now. None of them was taken in and nothing has failed: the
    same ones may be appended later. Whoever cannot wait treats it as the failure that it derives from."""


class StorageDamaged(Exception):
    """A record, index or file that should be good is not. The message names file and offset."""


class OpenLog(Protocol):
    """How a storage plugin is called: a class or function with this signature.

    `create`: make a new log if there is none. Without it a log that is not there is `StorageDamaged`:
    what was promised in it is lost, and a new one in its place would break those promises.
    `max_bytes`: with so much on the disk `healthy` says that there is no room; 0: no limit but the disk's.
    `clean_bytes_per_s`: room is made from what is forgotten at no more than this rate.
    `scrub_bytes_per_s`: what is written and not read is looked through for damage at no more than this
    rate; 0: it is not.
    """

    def __call__(
        self,
        path: Path,
        identity: LogIdentity,
        *,
        segment_bytes: int,
        create: bool,
        max_bytes: int = 0,
        clean_bytes_per_s: int = CLEAN_BYTES_PER_S,
        scrub_bytes_per_s: int = 0,
    ) -> Log: ...
