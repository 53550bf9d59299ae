"""The data file of an LMDB log: what its meta pages say, how long it has to be, and room ahead of it.

LMDB maps the file and trusts it: a page that the file does not have kills the process. So the meta
pages are read and checked here, by plain reads, before the engine sees the file.

It also keeps allocated room behind the last page in use. So a commit finds room in a full file system,
and that it is full shows while there is room left.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

from paxmux.engine.checksum import crc32
from paxmux.engine.storage import StorageDamaged

MAGIC: Final = 0xBEEFC0DE
VERSION: Final = 1
META_FLAG: Final = 0x08
FIRST_ROOM_BYTES: Final = 4 << 20
"""A young file grows by so much, an older one by as much as it has, up to the largest step."""
LEAST_STEP_BYTES: Final = 256 << 10
"""Less than this is not asked for in a file system that is nearly full."""

_META = struct.Struct("<QHHHHIIQQI92xQQ")
"""Page number, padding, flags, two bounds; magic, version, address, map size, page size, what is
skipped: the roots of the two trees that each file has; last page in use, transaction."""
_PAGE_SIZES: Final = frozenset(1 << bits for bits in range(9, 16))


class Metas(NamedTuple):
    """What the two meta pages say."""

    page_bytes: int
    last_page: int
    transaction: int
    """The newest one."""
    print: int
    """Of both pages, and of no other state of this file: transaction and CRC, in 64 bits."""


def read_metas(fd: int, path: Path) -> Metas:
    """Read and check both meta pages.

    Args:
        fd: of the data file, open for reading.
        path: where it is, for messages.

    Raises:
        StorageDamaged: a page is none, a commit is missing, or the file is shorter than its pages.
        OSError: it cannot be read.
    """
    length = os.fstat(fd).st_size
    first = os.pread(fd, _META.size, 0)
    page_bytes = _checked(first, 0, 0, path)[9]
    if page_bytes not in _PAGE_SIZES:
        raise StorageDamaged(f"{path}, offset 0: pages of {page_bytes} bytes, which LMDB never has")
    second = os.pread(fd, _META.size, page_bytes)
    metas = [_checked(first, 0, 0, path), _checked(second, 1, page_bytes, path)]
    newest = max(metas, key=lambda meta: meta[11])
    older, transaction = sorted(meta[11] for meta in metas)
    if transaction != older + 1 or metas[transaction % 2] is not newest:
        # Each commit replaces the older of the two, in turn; the log is made with some commits.
        raise StorageDamaged(
            f"{path}, offset 0: the meta pages are of transactions {older} and {transaction},"
            " which never follow each other there"
        )
    needed = (newest[10] + 1) * page_bytes
    if length < needed:
        raise StorageDamaged(f"{path}, offset {length}: the file ends, its pages need {needed} bytes")
    fingerprint = (transaction & 0xFFFFFFFF) << 32 | crc32(second, crc32(first))
    return Metas(page_bytes, newest[10], transaction, fingerprint)


def _checked(data: bytes, number: int, offset: int, path: Path) -> tuple[int, ...]:
    if len(data) < _META.size:
        raise StorageDamaged(f"{path}, offset {offset + len(data)}: the file ends within a meta page")
    meta = _META.unpack(data)
    if meta[0] != number or meta[2] != META_FLAG or meta[5] != MAGIC or meta[6] != VERSION:
        raise StorageDamaged(f"{path}, offset {offset}: no meta page of LMDB")
    return meta


class DataFile:
    """The data file, open beside LMDB: its length, and the room behind its last page."""

    def __init__(self, path: Path, step_max_bytes: int) -> None:
        """Open it and check its meta pages.

        Args:
            path: of the file.
            step_max_bytes: it grows by so much at once, at most.

        Raises:
            StorageDamaged: as `read_metas`.
            OSError: it cannot be opened or read.
        """
        self.trouble: str | None = None
        """In words, why it cannot grow; None if it can."""
        self._path = path
        self._step_max = step_max_bytes
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.metas = read_metas(self._fd, path)
            self.bytes = os.fstat(self._fd).st_size
        except (OSError, StorageDamaged):
            os.close(self._fd)
            raise

    def read_metas(self) -> Metas:
        """The meta pages as they are now. Raises as `read_metas`."""
        return read_metas(self._fd, self._path)

    def keep_room(self, last_page: int, needed: int = 0) -> None:
        """Make sure that there is room for what comes; `trouble` says whether it could.

        Args:
            last_page: the last page in use.
            needed: bytes that the next commit may need beyond the usual.

        Raises:
            OSError: the file's length cannot be told or set.
        """
        used = (last_page + 1) * self.metas.page_bytes
        if used > self.bytes:
            self.bytes = os.fstat(self._fd).st_size
            if used > self.bytes:
                # Pages that a commit took and gave back are counted, but were never written.
                os.ftruncate(self._fd, used)
                self.bytes = used
        step = min(self._step_max, max(FIRST_ROOM_BYTES, self.bytes))
        wanted = step // 2 + needed
        if self.bytes - used >= wanted:
            self.trouble = None
            return
        pages = -(-max(step, needed) // self.metas.page_bytes)
        step = pages * self.metas.page_bytes
        while self.bytes - used < wanted:
            try:
                os.posix_fallocate(self._fd, self.bytes, step)
            except OSError as error:
                self.bytes = os.fstat(self._fd).st_size
                step //= 2
                if step < LEAST_STEP_BYTES:
                    left = self.bytes - used
                    self.trouble = f"{self._path}: no room to grow, {left} bytes left: {error.strerror}"
                    return
            else:
                self.bytes += step
        self.trouble = None

    def room(self, last_page: int) -> int:
        """Bytes that a commit finds for sure."""
        return self.bytes - (last_page + 1) * self.metas.page_bytes

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)
