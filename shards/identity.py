"""The data directory: who this node is, and that nobody else is.

Decides whether a directory may be used: by this node id, with this group count, by one process at a
time. A seat is drawn when the directory is made and never again: whoever lost the data of a seat lost
the seat (see shards/founding.py for what follows). So this file must never repair, replace or
re-create an identity on its own.

It also says which log has which group: the one place that does. A group's promises are in that log and
count nowhere else, so this map changes only when another log has all of them for good (`switch`). An
`identity.json` of before the last change names logs that groups have left since; `layout.epoch`, which
is written after each change and before anybody acts on it, gives such a copy away.

`identity.json` is `{"crc":"…","identity":{…}}`; the CRC-32 covers the bytes of the inner object.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from paxmux.engine.address import node_text
from paxmux.engine.checksum import crc32
from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.shards.boot import Founding
from paxmux.shards.cluster import is_sound, is_u64
from paxmux.shards.durable_file import replace_file, sync_directory
from paxmux.shards.log_directories import LOGS

FORMAT = 1
"""Version of everything in a data directory."""

IDENTITY_FILE = "identity.json"
LOCK_FILE = "LOCK"
EPOCH_FILE = "layout.epoch"
_MAX_FILE_BYTES = 1024 * 1024


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a data directory says about its node."""

    format: int
    node_id: int
    seat: int
    """64 random bits, never 0, drawn when the directory was made."""
    groups: int
    """Group count of the cluster; fixed for ever."""
    hosts: tuple[int, ...] | None
    """For each group the log that has it, which is the index of the worker that hosts it; None before the
    first start."""
    epoch: int
    """How often groups have changed their logs."""
    founding: Founding | None
    active: bool
    """The founding is known to be recorded by all members: it can be no other one any more."""
    logs: bool
    """Every worker has made its log: one that is missing from then on was lost, and what was promised
    in it with it."""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    crc: str
    identity: msgspec.Raw


class _AnyFormat(msgspec.Struct):
    """As much of an identity as every version can read."""

    format: int
    workers: int | msgspec.UnsetType | None = msgspec.UNSET
    """What the first versions had in place of `hosts`."""


def read_identity(directory: Path) -> Identity:
    """Read and check `identity.json`.

    Raises:
        DataDirError: it is missing, unreadable, damaged, or of another format.
    """
    path = directory / IDENTITY_FILE
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise DataDirError(f"cannot read {path}: {error.strerror}") from error
    try:
        outer = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error
    raw = bytes(outer.identity)
    if outer.crc != _crc_text(raw):
        raise _damaged(path, f"CRC {outer.crc!r}, expected {_crc_text(raw)!r}")
    try:
        start = msgspec.json.decode(raw, type=_AnyFormat)
        version = start.format
        if version == FORMAT and start.workers is not msgspec.UNSET:
            raise DataDirError(
                f"{path} does not say which log has which group: it was written by an early version of "
                "paxmux, whose data directories this one cannot read"
            )
        if version != FORMAT:
            age = "a newer" if version > FORMAT else "another"
            raise DataDirError(
                f"{path} has format {version}, this version of paxmux reads {FORMAT}: "
                f"it was written by {age} version"
            )
        identity = msgspec.json.decode(raw, type=Identity)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from error
    founding = identity.founding
    if (
        not is_u64(identity.node_id)
        or not is_u64(identity.seat)
        or identity.groups < 1
        or (founding is None and identity.active)
        or (founding is not None and not is_sound(founding, identity.groups))
        or (identity.hosts is not None and not _are_hosts(identity.hosts, identity.groups))
        or identity.epoch < 0
    ):
        raise _damaged(path, "its fields contradict each other")
    return identity


def _are_hosts(hosts: Sequence[int], groups: int) -> bool:
    """Whether each group is in one log, and there are no more logs than groups."""
    return len(hosts) == groups and all(0 <= log < groups for log in hosts)


def _damaged(path: Path, detail: str) -> DataDirError:
    return DataDirError(
        f"{path} is damaged ({detail}). Restore this file alone from a copy of this very directory, made "
        "after its last change of layout, or move the directory away and make a new one with `paxmux init`"
    )


def _crc_text(raw: bytes) -> str:
    return f"{crc32(raw):08x}"


def _write_identity(directory: Path, identity: Identity) -> None:
    """Replace `identity.json`: afterwards the old or the new one is there, whenever the power goes.

    Raises:
        OSError: whatever the disk says; then it is unknown which of the two is there.
    """
    raw = msgspec.json.encode(identity)
    data = b'{"crc":"%s","identity":%s}\n' % (_crc_text(raw).encode("ascii"), raw)
    replace_file(directory / IDENTITY_FILE, data)


class FoundingStore:
    """Keeps the founding durable. Whoever holds the directory's lock, or was started by whoever
    does, has at most one of these in use at a time."""

    def __init__(self, directory: Path) -> None:
        """Read the identity in `directory`; raises DataDirError as `read_identity` does."""
        self.directory = directory
        self.identity = read_identity(directory)

    def reload(self) -> Identity:
        """Read again what another process of this node may have recorded."""
        self.identity = read_identity(self.directory)
        return self.identity

    def record(self, founding: Founding, *, active: bool) -> None:
        """Make a founding durable. It is never replaced by another one, nor made inactive again.

        Raises:
            StorageFailed: the disk refused; nothing must be said to anybody that rests on it.
            DataDirError: the identity cannot be read any more.
        """
        old = self.reload()
        if old.founding is not None and old.founding != founding:
            raise ValueError(f"founding {old.founding.cluster:#x} is recorded, not to be replaced")
        if not is_sound(founding, old.groups):
            raise ValueError(f"founding {founding.cluster:#x} contradicts itself")
        self._write(msgspec.structs.replace(old, founding=founding, active=active or old.active))

    def _write(self, identity: Identity) -> None:
        try:
            _write_identity(self.directory, identity)
        except OSError as error:
            raise StorageFailed(f"cannot write {self.directory / IDENTITY_FILE}: {error.strerror}") from error
        self.identity = identity


class DataDir(FoundingStore):
    """An open data directory, locked against every other node until `close`."""

    def __init__(self, directory: Path, lock_fd: int) -> None:
        self._lock_fd = lock_fd
        super().__init__(directory)

    def record_logs(self) -> None:
        """All logs are made, and durable. Raises StorageFailed if that cannot be recorded."""
        old = self.reload()
        if not old.logs:
            self._write(msgspec.structs.replace(old, logs=True))

    def close(self) -> None:
        """Release the lock."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> DataDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def switch(self, hosts: Sequence[int]) -> None:
        """From now on `hosts[group]` is the log that has the group.

        Called only when everything of each group that moves is durable in its new log, and nobody uses
        the old ones. Afterwards the old map or the new one is there, whenever the power goes.

        Raises:
            StorageFailed: the disk refused; which of the two is there is known at the next start.
        """
        old = self.reload()
        if not _are_hosts(hosts, old.groups):
            raise ValueError(f"{hosts} do not host {old.groups} groups")
        self._write(msgspec.structs.replace(old, hosts=tuple(hosts), epoch=old.epoch + 1))
        self._mark_epoch()

    def _check(self, node_id: int, groups: int, hosts: Sequence[int]) -> None:
        mine = self.identity
        if mine.node_id != node_id:
            raise DataDirError(
                f"{self.directory} belongs to node {node_text(mine.node_id)} (id {mine.node_id}), "
                f"this is node {node_text(node_id)} (id {node_id}). A directory belongs to an id: "
                f"a node that has got another address keeps its id by `node_id: {mine.node_id}`"
            )
        if mine.groups != groups:
            raise DataDirError(
                f"{self.directory} was made for {mine.groups} groups, the options say {groups}; "
                "the group count cannot change"
            )
        self._check_epoch()
        if mine.hosts is None or mine.founding is None:
            # No worker can have run before the founding was recorded: there is nothing to move.
            if mine.hosts != tuple(hosts):
                self._write(msgspec.structs.replace(mine, hosts=tuple(hosts)))
        else:
            # Whoever wrote it last may have been killed before it was durable.
            try:
                sync_directory(self.directory)
            except OSError as error:
                raise StorageFailed(f"cannot sync {self.directory}: {error.strerror}") from error

    def _check_epoch(self) -> None:
        path, epoch = self.directory / EPOCH_FILE, self.identity.epoch
        if not _exists(path):
            marked = 0
        else:
            try:
                text = path.read_text(encoding="ascii")
                marked = int(text)
            except (OSError, ValueError) as error:
                raise DataDirError(f"{path} is damaged: expected a number ({error})") from error
        if marked > epoch:
            raise DataDirError(
                f"{self.directory / IDENTITY_FILE} is a copy from before the last change of layout (epoch "
                f"{epoch}, {path.name} has {marked}): groups have left the logs that it names, and would "
                "break their promises there. Restore a later copy, or move the directory away and make a "
                "new one with `paxmux init`"
            )
        if marked < epoch:
            self._mark_epoch()

    def _mark_epoch(self) -> None:
        path = self.directory / EPOCH_FILE
        try:
            replace_file(path, b"%d\n" % self.identity.epoch)
        except OSError as error:
            raise StorageFailed(f"cannot write {path}: {error.strerror}") from error


def create(directory: Path, node_id: int, groups: int) -> Identity:
    """Make a new data directory with a new seat (`paxmux init`).

    Raises:
        DataDirError: it has an identity already, has logs without one, or cannot be made.
    """
    lock_fd = _make_and_lock(directory)
    try:
        if _exists(directory / IDENTITY_FILE):
            raise DataDirError(f"{directory} is a data directory already; nothing was changed")
        return _create_locked(directory, node_id, groups)
    finally:
        os.close(lock_fd)


def open_data_dir(
    directory: Path, *, node_id: int, groups: int, hosts: Sequence[int], bootstrap: bool
) -> DataDir:
    """Open and lock the data directory of this node.

    Args:
        directory: `data_dir` of the options.
        node_id: this node.
        groups: group count of the options.
        hosts: for each group its worker in the options. Stored at the first start; later it may differ
            from what is stored, and then groups have to move.
        bootstrap: make the directory if there is none.

    Raises:
        DataDirError: missing, in use, damaged, or of another node or group count.
        StorageFailed: the disk refused a write.
    """
    if not _exists(directory) and not bootstrap:
        raise DataDirError(
            f"the data directory {directory} does not exist: make it with `paxmux init`, or set "
            "`bootstrap: true` for the first start. If this node had data before, they are lost: a new "
            "directory gets a new seat, in which the node learns but does not vote"
        )
    if not bootstrap and not _exists(directory / IDENTITY_FILE):
        _refuse_orphaned(directory)
        raise DataDirError(
            f"{directory} has no {IDENTITY_FILE}: make it with `paxmux init`, or set `bootstrap: true` "
            "for the first start"
        )
    lock_fd = _make_and_lock(directory)
    try:
        if not _exists(directory / IDENTITY_FILE):
            _create_locked(directory, node_id, groups)
        data_dir = DataDir(directory, lock_fd)
        data_dir._check(node_id, groups, hosts)
    except BaseException:
        os.close(lock_fd)
        raise
    return data_dir


def _exists(path: Path) -> bool:
    """Whether it is there; "cannot tell" must never pass for "no", which may mean a new seat."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataDirError(f"cannot look at {path}: {error.strerror}") from error
    return True


def _refuse_orphaned(directory: Path) -> None:
    if _exists(directory / LOGS):
        raise DataDirError(
            f"{directory} has {LOGS}/ but no {IDENTITY_FILE}: the identity that these logs belong to is "
            "lost. Restore the file, or move the directory away; a new one gets a new seat"
        )


def _make_and_lock(directory: Path) -> int:
    """Make the directory where it is missing and lock it; returns the lock's descriptor."""
    try:
        if not directory.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
            sync_directory(directory.parent)
        fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirError(f"cannot use the data directory {directory}: {error}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise DataDirError(f"the data directory {directory} is in use by process {holder}") from None
    except OSError as error:
        os.close(fd)
        raise DataDirError(f"cannot lock the data directory {directory}: {error}") from error
    return fd


def _create_locked(directory: Path, node_id: int, groups: int) -> Identity:
    _refuse_orphaned(directory)
    identity = Identity(
        format=FORMAT,
        node_id=node_id,
        seat=secrets.randbits(64) or 1,
        groups=groups,
        hosts=None,
        epoch=0,
        founding=None,
        active=False,
        logs=False,
    )
    try:
        _write_identity(directory, identity)
    except OSError as error:
        raise DataDirError(f"cannot make the data directory {directory}: {error}") from error
    return identity
