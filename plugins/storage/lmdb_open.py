"""The LMDB environment of a log: made under another name, checked before it is trusted, then opened.

It decides what has to hold before LMDB maps the file, and how large the map is. It commits with the
default flags alone: each commit is one `fdatasync` of the pages and one synchronous write of a meta page.

    lmdb/data.mdb, lmdb/lock.mdb    the environment
    lmdb.new/                       an environment that is being made; left by a crash, it is removed
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import lmdb
from lmdb.verify import VerifyError, verify

from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import LogIdentity, StorageDamaged
from paxmux.plugins.storage.kind import LMDB_DIRECTORY
from paxmux.plugins.storage.lmdb_file import DataFile
from paxmux.plugins.storage.lmdb_record import (
    GROUP_KEY,
    GROUPS_KEY,
    STAMP_KEY,
    STARTS_KEY,
    VALUE_KEY,
    check_stamp,
    seal_groups,
    seal_stamp,
    seal_starts,
    system_key,
)
from paxmux.plugins.storage.segment_file import sync_directory

UNFINISHED: Final = "lmdb.new"
DATA: Final = "data.mdb"
MAP_BYTES: Final = 1 << 30
"""Address space, not room on the disk. It doubles when it is full, without a pause."""
NEW_MAP_BYTES: Final = 1 << 20
MAX_READERS: Final = 16

Entry = tuple[bytes, bytes]

_DAMAGED: Final = (
    lmdb.InvalidError,
    lmdb.CorruptedError,
    lmdb.VersionMismatchError,
    lmdb.PageNotFoundError,
    lmdb.NotFoundError,
    lmdb.IncompatibleError,
)


def is_created(directory: Path) -> bool:
    """Whether a log is there; what a crash left of the making of one is removed."""
    unfinished = directory / UNFINISHED
    if unfinished.exists():
        shutil.rmtree(unfinished)
    return (directory / LMDB_DIRECTORY).exists()


def create_environment(directory: Path, identity: LogIdentity) -> None:
    """Make an empty environment, durable, and only then give it its name.

    Raises:
        OSError, lmdb.Error: no space, or the disk failed.
    """
    unfinished = directory / UNFINISHED
    unfinished.mkdir()
    env = _open(unfinished, NEW_MAP_BYTES)
    try:
        # Three commits: from now on the two meta pages are always of transactions that follow each other.
        env.open_db(b"values")
        env.open_db(b"states")
        about = env.open_db(b"about")
        with env.begin(write=True, db=about) as txn:
            txn.put(STAMP_KEY, seal_stamp(identity))
            txn.put(GROUPS_KEY, seal_groups([]))
            txn.put(STARTS_KEY, seal_starts(0))
    finally:
        env.close()
    sync_directory(unfinished)
    unfinished.rename(directory / LMDB_DIRECTORY)
    for each in (directory, directory.parent, directory.parent.parent):
        sync_directory(each)


class Environment:
    """The environment of one log, checked and open."""

    def __init__(self, directory: Path, identity: LogIdentity, step_max_bytes: int, mark: int | None) -> None:
        """Check what can be checked without LMDB, then open it.

        Args:
            directory: of the log.
            identity: whose it must be.
            step_max_bytes: the file grows by at most so much at once.
            mark: what the last clean stop left; None if the last stop was not clean.

        Raises:
            DataDirError: of another owner or a newer format.
            StorageDamaged: damaged, or not what the last clean stop left.
            OSError: it cannot be read.
        """
        path = directory / LMDB_DIRECTORY
        self.data = path / DATA
        if not self.data.exists():
            raise StorageDamaged(f"{self.data}: missing")
        self._file = DataFile(self.data, step_max_bytes)
        try:
            self.page_bytes = self._file.metas.page_bytes
            if mark is not None and mark != self._file.metas.print:
                raise StorageDamaged(
                    f"{self.data}, offset 0: the meta pages, up to transaction"
                    f" {self._file.metas.transaction}, are not those that the last clean stop left"
                )
            _verify(self.data)
            self._map_bytes = max(MAP_BYTES, 2 * self._file.bytes)
            self._env = self._opened(path, identity)
        except (OSError, DataDirError, StorageDamaged):
            self._file.close()
            raise

    def _opened(self, path: Path, identity: LogIdentity) -> Any:
        try:
            env = _open(path, self._map_bytes)
        except _DAMAGED as error:
            raise StorageDamaged(f"{self.data}: opening: {error}") from error
        except lmdb.Error as error:
            raise DataDirError(f"{self.data}: opening: {error}") from error
        try:
            self.values, self.states, self.about = (
                env.open_db(name, create=False) for name in (b"values", b"states", b"about")
            )
            with env.begin(buffers=True) as txn:
                check_stamp(txn.get(STAMP_KEY, db=self.about), identity, str(self.data))
        except lmdb.Error as error:
            env.close()
            raise StorageDamaged(f"{self.data}: opening: {error}") from error
        except (DataDirError, StorageDamaged):
            env.close()
            raise
        return env

    @property
    def trouble(self) -> str | None:
        """In words, why the file cannot grow; None if it can."""
        return self._file.trouble

    @property
    def disk_bytes(self) -> int:
        """Size of the file, with the room that is kept ahead."""
        return self._file.bytes

    def reading(self) -> Any:
        """A transaction to read in, for `with`; to be ended soon: it keeps pages from being used again."""
        return self._env.begin(buffers=True)

    def commit(
        self,
        values: Sequence[Entry],
        states: Sequence[Entry],
        about: Sequence[Entry],
        gone: Sequence[int] = (),
    ) -> None:
        """Store entries, sorted by key, in one transaction; durable on return. First of all it removes
        everything of the groups that are gone.

        Raises:
            lmdb.Error, OSError: what became of it is unknown; nothing may follow.
        """
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    for group in gone:
                        txn.delete(GROUP_KEY.pack(group), db=self.states)
                        txn.delete(system_key(group), db=self.about)
                        with txn.cursor(db=self.values) as cursor:
                            _delete(cursor, group)
                    for entries, db in (
                        (values, self.values),
                        (states, self.states),
                        (about, self.about),
                    ):
                        if entries:
                            with txn.cursor(db=db) as cursor:
                                cursor.putmulti(entries)
                break
            except lmdb.MapFullError:
                # No error of the disk: the pages have no place yet, and nothing refers to any of them.
                self._map_bytes *= 2
                self._env.set_mapsize(self._map_bytes)
        self._file.keep_room(self._env.info()["last_pgno"])

    def drop(self, group: int, below: int, at_most: int) -> tuple[bool, int]:
        """Remove the lowest values of a group, below an instance, in one transaction.

        Returns:
            Whether none of them is left, and how many bytes were removed.

        Raises:
            lmdb.Error: nothing may follow.
        """
        with self._env.begin(write=True) as txn, txn.cursor(db=self.values) as cursor:
            return _delete(cursor, group, below, at_most)

    def value_bytes(self) -> int:
        """Of the pages that values are in."""
        with self._env.begin() as txn:
            stat = txn.stat(self.values)
        return int(stat["psize"] * (stat["leaf_pages"] + stat["overflow_pages"]))

    def make_room(self, needed: int) -> bool:
        """Try to have room for a commit of so many bytes, and some more; `trouble` says what came of it.

        Returns:
            Whether there is room for this commit.

        Raises:
            OSError: the file's length cannot be told or set.
        """
        last_page = self._env.info()["last_pgno"]
        self._file.keep_room(last_page, needed)
        return self._file.room(last_page) >= needed

    def forget_killed_readers(self) -> None:
        """Give back what readers in other processes left when they were killed."""
        self._env.reader_check()

    def fingerprint(self) -> int:
        """Of the meta pages as they are now. Raises as `read_metas`."""
        return self._file.read_metas().print

    def close(self) -> None:
        """Close every file."""
        self._env.close()
        self._file.close()


def _open(path: Path, map_bytes: int) -> Any:
    return lmdb.open(
        str(path),
        map_size=map_bytes,
        max_dbs=3,
        max_readers=MAX_READERS,
        sync=True,
        metasync=True,
        writemap=False,
        lib_version=0,
    )


def _delete(cursor: Any, group: int, below: int = 1 << 64, at_most: int = sys.maxsize) -> tuple[bool, int]:
    """See `Environment.drop`."""
    size = 0
    found = cursor.set_range(VALUE_KEY.pack(group, 0))
    for _ in range(at_most):
        if not found or VALUE_KEY.unpack(cursor.key()) >= (group, below):
            return True, size
        size += len(cursor.value())
        # Leaves the cursor at the next one, which has no key behind the last.
        cursor.delete()
        found = len(cursor.key()) > 0
    return False, size


def _verify(data: Path) -> None:
    """Check the whole structure by plain reads: LMDB maps the file and trusts it. A flipped bit of a page's
    head or of a key could lose entries, or kill the process. CRCs of entries are checked when they are read.
    """
    try:
        findings = verify(str(data), subdir=False)  # type: ignore[no-untyped-call]
    except VerifyError as error:
        raise StorageDamaged(f"{data}: verifying: {error}") from error
    if findings:
        raise StorageDamaged(f"{data}: verifying: {findings[0]}")
