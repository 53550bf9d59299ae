"""The mark of a clean stop: the position at which a log ended, all of it durable.

It is made after the last sync and removed, durably, before anything else is appended.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from zlib import crc32

from paxmux.engine.storage import LogIdentity, StorageDamaged
from paxmux.plugins.storage.segment_file import sync_directory

FILE = "CLEAN"
MAGIC = b"PXMSTOP\x01"

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
        StorageDamaged: there is a mark and it is bad, or of another log.
    """
    path = directory / FILE
    if not path.exists():
        return None
    data = path.read_bytes()
    if len(data) != _FIELDS.size + _CRC.size or _CRC.pack(crc32(data[: -_CRC.size])) != data[-_CRC.size :]:
        raise StorageDamaged(f"{path}, offset 0: the mark of a clean stop is damaged")
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
