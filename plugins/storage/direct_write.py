"""Large writes past the page cache: what nobody reads soon need not be copied and kept there.

The pages in the middle of a write go straight from a buffer of this process to the disk; what shares its
first and last page with other writes goes through the cache as ever. So the bytes lie where they always did,
and the same sync makes all of them durable. It never retries: where a file system does not offer it, that
shows when the file is opened.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from paxmux.plugins.storage.segment_file import write_all

DIRECT_BYTES: Final = 128 * 1024
"""Smaller writes are as cheap through the cache."""
ALIGN_BYTES: Final = 4096
"""Of places in the file and in memory: no disk asks for more."""
PIECE_BYTES: Final = 4096
"""Pieces that are smaller on average are put together first: that is faster than one by one."""
BUFFER_BYTES: Final = 1024 * 1024
"""Written at a time; it stays in the processor's cache, where its bytes have just been put."""


class DirectWrites:
    """For one file at a time. Used by one thread."""

    def __init__(self) -> None:
        self._fd = -1
        self._buffer: mmap.mmap | None = None

    def open(self, path: Path) -> None:
        """Write to this file from now on."""
        self.close()
        if self._buffer is None:
            self._buffer = mmap.mmap(-1, BUFFER_BYTES)
        try:
            fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        except OSError:
            return
        try:
            with memoryview(self._buffer) as buffer:
                os.preadv(fd, [buffer[:ALIGN_BYTES]], 0)
        except OSError:
            os.close(fd)
            return
        self._fd = fd

    def write(self, cached: int, pieces: Sequence[bytes], length: int, offset: int) -> None:
        """Write pieces, one behind the other, `length` bytes together, at an offset of the file.

        Args:
            cached: a descriptor of the same file that goes through the page cache.

        Raises:
            OSError: some of it may be written.
        """
        if self._fd < 0 or length < DIRECT_BYTES or self._buffer is None:
            write_all(cached, b"".join(pieces), offset)
            return
        if length < PIECE_BYTES * len(pieces):
            pieces = (b"".join(pieces),)
        with memoryview(self._buffer) as buffer:
            start = fill = offset % ALIGN_BYTES
            at = offset
            for piece in pieces:
                taken = 0
                while taken < len(piece):
                    more = min(len(piece) - taken, BUFFER_BYTES - fill)
                    buffer[fill : fill + more] = memoryview(piece)[taken : taken + more]
                    taken += more
                    fill += more
                    if fill == BUFFER_BYTES:
                        self._put(cached, buffer, start, fill, at)
                        at += fill - start
                        start = fill = 0
            self._put(cached, buffer, start, fill, at)

    def _put(self, cached: int, buffer: memoryview, start: int, stop: int, at: int) -> None:
        """Write bytes `start` .. `stop` of the buffer, aligned as the place `at` of the file is."""
        first = min(-(-start // ALIGN_BYTES) * ALIGN_BYTES, stop)
        last = max(stop // ALIGN_BYTES * ALIGN_BYTES, first)
        for fd, begin, end in ((cached, start, first), (self._fd, first, last), (cached, last, stop)):
            if begin < end:
                write_all(fd, buffer[begin:end], at + begin - start)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
