"""A log's place on disk: a directory of its own with segments, an LMDB index, the mark and the lock.

It carries out what the log decides, call by call, and retries nothing. Descriptors are its own affair:
one for the segment that is written, and those of the segments that were read last.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import LogIdentity, StorageDamaged
from paxmux.plugins.storage.direct_write import DirectWrites
from paxmux.plugins.storage.index import Index, drop_set_aside, set_index_aside
from paxmux.plugins.storage.kind import SEGMENTS, refuse_other
from paxmux.plugins.storage.lock import DirectoryLock
from paxmux.plugins.storage.reserver import Reserver
from paxmux.plugins.storage.segment_file import (
    SegmentFile,
    create_segment,
    load_segments,
    read_at,
    sync_directory,
    write_all,
)
from paxmux.plugins.storage.stop_mark import read_mark, remove_mark, write_mark

OPEN_FILES: Final = 64


class Directory:
    """Implements `paxmux.plugins.storage.place.Place`."""

    def __init__(self, path: Path, identity: LogIdentity) -> None:
        """Lock the directory, make it if it is missing, and check every segment's header.

        Args:
            path: directory of this log alone.
            identity: whose log it is; stamped into new files, required of existing ones.

        Raises:
            DataDirError: in use (names the pid), of another owner or plugin, or of a newer format.
            StorageDamaged: a segment is missing or its header is bad.
        """
        self._path = path
        self._identity = identity
        self._fds: OrderedDict[int, int] = OrderedDict()
        """For reading, those used last at the end."""
        self._direct = DirectWrites()
        self._number = -1
        self._fd = -1
        """The segment that is written, and its descriptor: closed only when another takes its place, so
        that an error of writing back is told to whoever syncs."""
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = DirectoryLock(path)
        except OSError as error:
            raise DataDirError(f"{path}: {error.strerror}") from error
        try:
            refuse_other(path, SEGMENTS)
            self.segments, self.lost = load_segments(path, identity)
            self.mark = read_mark(path, identity)
        except OSError as error:
            self._lock.release()
            raise DataDirError(f"{path}: {error}") from error
        except (DataDirError, StorageDamaged):
            self._lock.release()
            raise
        self._reserver = Reserver(path, identity)

    def read(self, segment: SegmentFile, offset: int, length: int) -> bytes:
        """See `Place.read`."""
        fd = self._fds.get(segment.number)
        if fd is not None:
            self._fds.move_to_end(segment.number)
        else:
            fd = self._fds[segment.number] = os.open(segment.path, os.O_RDONLY)
            if len(self._fds) > OPEN_FILES:
                os.close(self._fds.popitem(last=False)[1])
        return read_at(fd, segment, offset, length)

    def write(self, segment: SegmentFile, offset: int, data: bytes) -> None:
        """See `Place.write`."""
        if segment.number != self._number:
            self._use(segment)
        write_all(self._fd, data, offset)

    def write_pieces(self, segment: SegmentFile, offset: int, pieces: Sequence[bytes], length: int) -> None:
        """See `Place.write_pieces`."""
        if segment.number != self._number:
            self._use(segment)
        self._direct.write(self._fd, pieces, length, offset)

    def sync(self, segment: SegmentFile) -> None:
        """See `Place.sync`."""
        if segment.number != self._number:
            self._use(segment)
        os.fdatasync(self._fd)

    def found(self, size: int) -> SegmentFile:
        """See `Place.found`."""
        for directory in (self._path.parent, self._path.parent.parent):
            sync_directory(directory)
        first = create_segment(self._path, self._identity, 0, size, lambda: False)
        self.segments[0] = first
        return first

    def remove(self, torn: Sequence[SegmentFile]) -> None:
        """See `Place.remove`."""
        # The last one first: a crash in between must not leave a gap, which would be damage.
        for segment in reversed(torn):
            segment.path.unlink()
            del self.segments[segment.number]
            sync_directory(self._path)

    def discard(self, segment: SegmentFile) -> None:
        """See `Place.discard`."""
        del self.segments[segment.number]
        fd = self._fds.pop(segment.number, None)
        if fd is not None:
            os.close(fd)
        self._reserver.discard(segment)

    def discarding_bytes(self) -> int:
        """See `Place.discarding_bytes`."""
        return self._reserver.unwanted_bytes()

    def drop_cache(self, segment: SegmentFile, offset: int, length: int) -> None:
        """See `Place.drop_cache`."""
        fd = self._fds.get(segment.number)
        if fd is not None:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def release(self) -> None:
        """See `Place.release`."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def start_reserving(self, ready: SegmentFile | None) -> None:
        """See `Place.start_reserving`."""
        self._reserver.start(ready)

    def request(self, number: int, size: int, *, fill: bool) -> None:
        """See `Place.request`."""
        self._reserver.request(number, size, fill=fill)

    def take(self, number: int, size: int, least: int) -> SegmentFile:
        """See `Place.take`."""
        return self._reserver.take(number, size, least)

    def trouble(self) -> str | None:
        """See `Place.trouble`."""
        return self._reserver.trouble

    def reserved_bytes(self) -> int:
        """See `Place.reserved_bytes`."""
        return self._reserver.ready_bytes()

    def open_index(self) -> Index:
        """See `Place.open_index`."""
        return Index(self._path, self._identity)

    def set_index_aside(self) -> None:
        """See `Place.set_index_aside`."""
        set_index_aside(self._path)

    def drop_set_aside(self) -> None:
        """See `Place.drop_set_aside`."""
        drop_set_aside(self._path)

    def write_mark(self, end: int) -> None:
        """See `Place.write_mark`."""
        write_mark(self._path, self._identity, end)

    def remove_mark(self) -> None:
        """See `Place.remove_mark`."""
        remove_mark(self._path)

    def close(self) -> None:
        """See `Place.close`."""
        self._reserver.stop()
        self.release()
        self._direct.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._lock.release()

    def _use(self, segment: SegmentFile) -> None:
        fd = os.open(segment.path, os.O_RDWR)
        self._direct.open(segment.path)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._number = segment.number
