"""The index in LMDB: where each instance's value is, and each group's hard state.

Only a cache of what the segments say, made of synced records alone. Everything in it has a CRC; if
anything is wrong it is declared unusable, set aside, and made anew from the segments.

    chunks: group u16, chunk number u64, big-endian -> crc u32 | positions u64, native order
    states: group u16, big-endian                   -> crc u32 | eight integers, standing u8,
                                                       last SYSTEM record: from u64, lost u8, value
    meta:   b"log"                                  -> crc u32 | version, identity, 3 positions, 2 digests,
                                                       doubt u8, SYSTEM records u16
"""

from __future__ import annotations

import os
import shutil
import struct
from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import lmdb
from lmdb.verify import VerifyError, verify

from paxmux.engine.checksum import crc32
from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.group_table import CHUNK, GroupState, Positions
from paxmux.plugins.storage.place import IndexUnusable

VERSION: Final = 5
DIRECTORY: Final = "index"
SET_ASIDE: Final = "index.bad"
GUARD: Final = "index.opening"
MAP_BYTES: Final = 16 << 30
"""Address space, not room on the disk."""
FORGET_CHUNKS: Final = 64
"""So many chunks of what a group has forgotten go with each time that it is stored,"""
DROP_CHUNKS: Final = 1024
"""and so many of a group that was released go together."""

_KEY = struct.Struct(">HQ")
_GROUP = struct.Struct(">H")
_STATE = struct.Struct("<QQQQQQQQBQ?")
_META = struct.Struct("<IQQQIQQQIIBH")
_CRC = struct.Struct("<I")
_META_KEY = b"log"
_POSITION_BYTES = 8
_CHUNKS, _STATES = 0, 1
MOST_DEATHS: Final = 2
"""After so many processes in a row that died with the index open it is verified before it is opened."""


class Index:
    """The index of one log, open; implements `paxmux.plugins.storage.place.StoredIndex`."""

    def __init__(self, directory: Path, identity: LogIdentity) -> None:
        """Open or make it.

        Raises:
            IndexUnusable: damaged, of another log or of a newer version.
        """
        self.position: int | None = None
        """Everything in the log before it is in the index; None: the index is new."""
        self.proven = 0
        """The log was durable up to here when the index was last written."""
        self.oldest = 0
        self.doubt = False
        self.systems = 0
        self.states: dict[int, GroupState] = {}
        """Hard states as found at opening."""
        self._path = directory / DIRECTORY
        self._identity = identity
        self._map_bytes = MAP_BYTES
        self._tried: int | None = None
        """What the last write would make `position`."""
        self._failed = False
        """A write has failed since it was opened."""
        self._digests = [0, 0]
        """Of all chunks and of all states: their CRCs together, in any order. An entry that is not there, or
        is an older one, is not told by its own."""
        self._whole = False
        """All chunks were there when they were looked through."""
        self._guard = directory / GUARD
        deaths = self._guard.stat().st_size if self._guard.exists() else -1
        if deaths == 0 or deaths >= MOST_DEATHS:
            # The last process died while it opened the index, or one after the other while it was open:
            # perhaps of the index itself, which the engine maps into memory and trusts. Nothing below is
            # tried before it is checked.
            self._verify()
            deaths = 0
        if deaths > 0:
            os.truncate(self._guard, 0)
        else:
            self._guard.touch()
        self._open()
        # Its length counts; it goes when the index is closed.
        os.truncate(self._guard, max(0, deaths) + 1)

    def chunk(self, group: int, number: int) -> Positions | None:
        """See `StoredIndex.chunk`."""
        key = _KEY.pack(group, number)
        if self._failed:
            # The engine may refuse everything after a failed write, until it is opened again.
            self.reopen()
        try:
            with self._env.begin(db=self._chunks) as txn:
                data = txn.get(key)
        except lmdb.Error as error:
            raise self._unusable(f"reading: {error}") from error
        if data is None:
            return None
        body = self._checked(key, data)
        positions: Positions = array("Q", body)
        positions.extend(bytes(CHUNK - len(positions)))
        return positions

    def write(
        self,
        chunks: Iterable[tuple[int, int, Positions]],
        states: Iterable[tuple[int, GroupState]],
        position: int | None,
        proven: int,
        oldest: int,
        doubt: bool,
        systems: int,
    ) -> None:
        """See `StoredIndex.write`."""
        systems = self.systems if position is None else systems
        kept = self._tried = self.position if position is None else position
        digests = self._digests.copy()
        try:
            with self._env.begin(write=True) as txn:
                for group, number, positions in chunks:
                    key = _KEY.pack(group, number)
                    body = positions.tobytes().rstrip(b"\0")
                    body += bytes(-len(body) % _POSITION_BYTES)
                    self._put(txn, _CHUNKS, key, body, digests)
                for group, state in states:
                    key = _GROUP.pack(group)
                    body = _STATE.pack(
                        state.instance,
                        state.promised_round,
                        state.promised_node,
                        state.accepted_round,
                        state.accepted_node,
                        state.accepted_at,
                        state.first,
                        state.live_bytes,
                        state.standing,
                        state.system_from,
                        state.system_lost,
                    )
                    body += state.system
                    self._put(txn, _STATES, key, body, digests)
                    if state.first >= CHUNK:
                        self._delete_chunks(txn, group, state.first // CHUNK, FORGET_CHUNKS, digests)
                if kept is not None:
                    self._put_meta(txn, kept, proven, oldest, doubt, systems, digests)
        except lmdb.MapFullError as error:
            self._failed = True
            self._map_bytes = 2 * self._env.info()["map_size"]
            raise self._unusable("the map is full; it will be larger when it is opened again") from error
        except lmdb.Error as error:
            self._failed = True
            raise self._unusable(f"writing: {error}") from error
        self._digests = digests
        self.position = kept
        self.proven = proven
        self.oldest = oldest
        self.doubt = doubt
        self.systems = systems

    def drop(self, group: int) -> bool:
        """See `StoredIndex.drop`."""
        digests = self._digests.copy()
        key = _GROUP.pack(group)
        try:
            with self._env.begin(write=True) as txn:
                digests[_STATES] ^= _crc_of(txn.get(key, db=self._states))
                txn.delete(key, db=self._states)
                dropped = self._delete_chunks(txn, group, 1 << 64, DROP_CHUNKS, digests)
                if self.position is not None:
                    meta = self.position, self.proven, self.oldest, self.doubt, self.systems
                    self._put_meta(txn, *meta, digests)
        except lmdb.Error as error:
            self._failed = True
            raise self._unusable(f"writing: {error}") from error
        self._digests = digests
        return dropped

    def check(self) -> None:
        """See `StoredIndex.check`."""
        if self._whole:
            return
        try:
            with self._env.begin() as txn:
                digest = self._digest(txn, _CHUNKS)
        except lmdb.Error as error:
            raise self._unusable(f"reading: {error}") from error
        if digest != self._digests[_CHUNKS]:
            raise self._unusable("some of its chunks are missing, or are older ones")
        self._whole = True

    def _digest(self, txn: lmdb.Transaction, which: int) -> int:
        digest = 0
        for key, data in txn.cursor(db=self._states if which == _STATES else self._chunks):
            self._checked(bytes(key), bytes(data))
            digest ^= _crc_of(data)
        return digest

    def _put(self, txn: lmdb.Transaction, which: int, key: bytes, body: bytes, digests: list[int]) -> None:
        database = self._states if which == _STATES else self._chunks
        entry = _sealed(key, body)
        digests[which] ^= _crc_of(txn.get(key, db=database)) ^ _crc_of(entry)
        txn.put(key, entry, db=database)

    def _put_meta(
        self,
        txn: lmdb.Transaction,
        position: int,
        proven: int,
        oldest: int,
        doubt: bool,
        systems: int,
        digests: list[int],
    ) -> None:
        body = _META.pack(VERSION, *self._identity, position, proven, oldest, *digests, doubt, systems)
        txn.put(_META_KEY, _sealed(_META_KEY, body), db=self._meta)

    def _delete_chunks(
        self, txn: lmdb.Transaction, group: int, below: int, at_most: int, digests: list[int]
    ) -> bool:
        """Delete the lowest chunks of a group, below a number; whether none of those is left."""
        with txn.cursor(db=self._chunks) as cursor:
            found = cursor.set_range(_KEY.pack(group, 0))
            for _ in range(at_most):
                if not found or _KEY.unpack(cursor.key()) >= (group, below):
                    return True
                digests[_CHUNKS] ^= _crc_of(cursor.value())
                # Leaves the cursor at the next one.
                cursor.delete()
                found = bool(cursor.key())
        return False

    def disk_bytes(self) -> int:
        """See `StoredIndex.disk_bytes`: the size of the file."""
        return self._data().stat().st_size

    def reopen(self) -> None:
        """See `StoredIndex.reopen`."""
        before = self.position
        self._env.close()
        self._open()
        # A write that failed may have been done all the same.
        if self.position not in (before, self._tried):
            self.position = before
            raise self._unusable("another index has taken its place")
        self._failed = False

    def close(self) -> None:
        """See `StoredIndex.close`."""
        self._env.close()
        # If it stays, the next opening takes this life for one that died.
        with suppress(OSError):
            self._guard.unlink(missing_ok=True)

    def _data(self) -> Path:
        return self._path / "data.mdb"

    def _verify(self) -> None:
        if not self._data().exists():
            return
        try:
            findings = verify(str(self._path))  # type: ignore[no-untyped-call]
        except (VerifyError, OSError) as error:
            raise self._unusable(f"verifying: {error}") from error
        if findings:
            raise self._unusable(f"verifying: {findings[0]}")

    def _open(self) -> None:
        try:
            self._env = lmdb.open(
                str(self._path),
                map_size=self._map_bytes,
                max_dbs=3,
                max_readers=16,
                sync=True,
                metasync=True,
                writemap=False,
                lib_version=0,
            )
        except (lmdb.Error, OSError) as error:
            raise self._unusable(f"opening: {error}") from error
        try:
            self._load()
        except (lmdb.Error, struct.error) as error:
            self._env.close()
            raise self._unusable(f"opening: {error}") from error
        except IndexUnusable:
            self._env.close()
            raise

    def _load(self) -> None:
        self.position = None
        self.states = {}
        needed = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if self.disk_bytes() < needed:
            # Reading a page that the file does not have would kill the process.
            raise self._unusable(f"{self.disk_bytes()} bytes where its pages need {needed}")
        self._chunks = self._env.open_db(b"chunks")
        self._states = self._env.open_db(b"states")
        self._meta = self._env.open_db(b"meta")
        with self._env.begin() as txn:
            meta = txn.get(_META_KEY, db=self._meta)
            if meta is None:
                self._digests = [self._digest(txn, each) for each in (_CHUNKS, _STATES)]
                return
            body = self._checked(_META_KEY, meta)
            if len(body) != _META.size:
                raise self._unusable(f"it is of another version than {VERSION}")
            version, cluster, node, seat, log, position, proven, oldest, *more = _META.unpack(body)
            *digests, doubt, systems = more
            if version != VERSION:
                raise self._unusable(f"version {version}, this program writes {VERSION}")
            if LogIdentity(cluster, node, seat, log) != self._identity:
                raise self._unusable("it belongs to another log")
            for key, data in txn.cursor(db=self._states):
                (group,) = _GROUP.unpack(key)
                body = self._checked(key, data)
                state = self.states[group] = GroupState(*_STATE.unpack_from(body))
                state.system = body[_STATE.size :]
            if self._digest(txn, _STATES) != digests[_STATES]:
                raise self._unusable("some of its hard states are missing, or are older ones")
        self._digests = digests
        self.position, self.proven, self.oldest, self.doubt = position, proven, oldest, bool(doubt)
        self.systems = systems

    def _checked(self, key: bytes, data: bytes) -> bytes:
        body = data[_CRC.size :]
        if len(data) < _CRC.size or _CRC.pack(crc32(body, crc32(key))) != data[: _CRC.size]:
            raise self._unusable(f"the CRC of entry {key.hex()} does not match")
        return body

    def _unusable(self, reason: str) -> IndexUnusable:
        return IndexUnusable(f"{self._path}: {reason}")


def set_index_aside(directory: Path) -> None:
    """Put an unusable index out of the way; it is kept until its successor is complete."""
    drop_set_aside(directory)
    (directory / GUARD).unlink(missing_ok=True)
    path = directory / DIRECTORY
    if path.exists():
        path.rename(directory / SET_ASIDE)


def drop_set_aside(directory: Path) -> None:
    """Remove an index that was set aside."""
    path = directory / SET_ASIDE
    if path.exists():
        shutil.rmtree(path)


def _crc_of(entry: bytes | memoryview[int] | None) -> int:
    return int.from_bytes(entry[: _CRC.size], "little") if entry is not None else 0


def _sealed(key: bytes, body: bytes) -> bytes:
    return _CRC.pack(crc32(body, crc32(key))) + body
