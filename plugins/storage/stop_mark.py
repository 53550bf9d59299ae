"""The mark of a clean stop: the position at which a log ended, all of it durable.

It is made after the last sync and removed, durably, before anything else is appended.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from paxmux.engine.checksum import crc32
from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import LogIdentity, StorageDamaged
from paxmux.plugins.storage.segment_file import sync_directory

FILE = "CLEAN"
VERSION = 1
MAGIC = b"PXMSTOP" + bytes((VERSION,))
_NAME_BYTES = 7
"""What of the magic names the file, before the version."""

_FIELDS = struct.Struct("<8sQQQIQ")
_CRC = struct.Struct("<I")


def write_mark(directory: Path, identity: LogIdentity, end: int) -> None:
    """Say that the log ends, durable, at position `end`."""
    data = _FIELDS.pack(MAGIC, *identity, end)
    path = directory / FILE
    unfinished = directory / f"{FILE}.tmp"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(fd, data + _CRC.pack(crc32(data)))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(unfinished, path)
    sync_directory(directory)


def read_mark(directory: Path, identity: LogIdentity) -> int | None:
    """The end of the log as the last clean stop left it; None if the last stop was not clean.

    Raises:
        DataDirError: a newer program made it.
        StorageDamaged: there is a mark and it is bad, or of another log.
    """
    path = directory / FILE
    if not path.exists():
        return None
    data = path.read_bytes()
    # Every version ends with the CRC of all before it: a wrong bit never passes for a newer version.
    if len(data) < len(MAGIC) + _CRC.size or _CRC.pack(crc32(data[: -_CRC.size])) != data[-_CRC.size :]:
        raise StorageDamaged(f"{path}, offset 0: the mark of a clean stop is damaged")
    version = data[_NAME_BYTES]
    if data[:_NAME_BYTES] == MAGIC[:_NAME_BYTES] and version > VERSION:
        raise DataDirError(
            f"{path}: format version {version}, this program reads up to {VERSION}; use the newer program"
        )
    if len(data) != _FIELDS.size + _CRC.size:
        raise StorageDamaged(f"{path}, offset 0: the mark of a clean stop has {len(data)} bytes")
    magic, cluster, node, seat, log, end = _FIELDS.unpack_from(data)
    if magic != MAGIC or LogIdentity(cluster, node, seat, log) != identity:
        raise StorageDamaged(f"{path}, offset 0: the mark of a clean stop belongs to another log")
    return int(end)


def remove_mark(directory: Path) -> None:
    """Take the mark away, durably."""
    path = directory / FILE
    if path.exists():
        path.unlink()
        sync_directory(directory)
