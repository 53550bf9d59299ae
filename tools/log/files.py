"""The segments of a log, opened for reading alone.

Files may come and go while they are read: a running node makes the next segment, and puts another in
the place of one that it has not used yet. So a header and the bytes behind it are always read through
one descriptor: what is seen is one file, whatever has its name by now.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import LogIdentity, StorageDamaged
from paxmux.plugins.storage.segment_file import (
    STAMP_BYTES,
    SUFFIX,
    SegmentFile,
    decode_stamp,
    read_at,
    segment_name,
    segment_path,
    stamped_bytes,
)

LOOKS: Final = 4
"""A listing with a gap is repeated: one that was made while files were removed can have one."""
LOOK_AGAIN_S: Final = 0.02


class Listing:
    """Which segments there are."""

    def __init__(self, directory: Path) -> None:
        """Look, and look again while what is seen may only be seen so because it changes.

        Raises:
            DataDirError: the directory cannot be read.
            FileNotFoundError: there is no such directory.
        """
        self.numbers: list[int] = []
        """In order."""
        self.strange: list[Path] = []
        """Files that end as segments do and have no segment's name."""
        for look in range(LOOKS):
            if look:
                time.sleep(LOOK_AGAIN_S)
            self._look(directory)
            if not self.gaps():
                break

    def gaps(self) -> list[int]:
        """Numbers that are missing though later ones exist."""
        if not self.numbers:
            return []
        have = set(self.numbers)
        return [number for number in range(self.numbers[0], self.numbers[-1]) if number not in have]

    def _look(self, directory: Path) -> None:
        self.numbers.clear()
        self.strange.clear()
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataDirError(f"cannot read {directory}: {error.strerror}") from error
        for name in sorted(names):
            if not name.endswith(SUFFIX):
                continue
            stem = name.removesuffix(SUFFIX)
            if stem.isascii() and stem.isdigit() and segment_name(int(stem)) == name:
                self.numbers.append(int(stem))
            else:
                self.strange.append(directory / name)
        self.numbers.sort()


class SegmentFiles:
    """Open segments of one log; closed with `close`."""

    def __init__(self, directory: Path, identity: LogIdentity) -> None:
        self._directory = directory
        self._identity = identity
        self._fds: dict[int, int] = {}

    def open(self, number: int) -> tuple[SegmentFile, str | None]:
        """A segment, and what is wrong with its length if anything is: what is there can be read.

        Raises:
            FileNotFoundError: there is none of that number.
            StorageDamaged: it is not, or no more, a segment of that number.
            DataDirError: of another owner or a newer format, or it may not be read.
        """
        path = segment_path(self._directory, number)
        self.close(number)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataDirError(f"cannot read {path}: {error.strerror}") from error
        try:
            data = os.pread(fd, STAMP_BYTES, 0)
            length = os.fstat(fd).st_size
            # The header says all that is needed to read what is left of a file that was cut short.
            segment = decode_stamp(data, path, stamped_bytes(data) or length, self._identity)
        except OSError as error:
            os.close(fd)
            raise StorageDamaged(f"{path}, offset 0: {error.strerror}") from error
        except (StorageDamaged, DataDirError):
            os.close(fd)
            raise
        self._fds[number] = fd
        if length == segment.size:
            return segment, None
        wrong = f"{path}: {length} bytes, made with {segment.size}"
        return segment._replace(size=min(length, segment.size)), wrong

    def read(self, segment: SegmentFile, offset: int, length: int) -> bytes:
        """As `Place.read`; the segment is open."""
        return read_at(self._fds[segment.number], segment, offset, length)

    def close(self, number: int | None = None) -> None:
        """Close one segment if it is open, or all."""
        for each in [number] if number is not None else list(self._fds):
            fd = self._fds.pop(each, -1)
            if fd >= 0:
                os.close(fd)
