"""Segment files: how they are named, made, stamped and checked.

A segment is written full of zeros, synced, and only then given its name: appending to it later
changes no metadata, so that a sync costs one write of the disk, and a full disk shows here and not
while votes are waiting. A file with somebody else's stamp is refused, never overwritten.

    header = magic 8s | version u32 | number u32 | size u64 | cluster u64 | node u64 | seat u64
             log u32 | reserved u32 | random u64 | crc u32, padded with zeros to 4096 bytes
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from paxmux.engine.checksum import crc32
from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import LogIdentity, StorageDamaged
from paxmux.plugins.storage.record import BATCH_BYTES, MAX_BATCH_BYTES, decode_header

MAGIC: Final = b"PXMSEG\r\n"
VERSION: Final = 1
HEADER_BYTES: Final = 4096
MIN_SEGMENT_BYTES: Final = 16 << 10
MAX_SEGMENT_BYTES: Final = MAX_BATCH_BYTES
PIECE_BYTES: Final = 1 << 20
"""Files are looked through and overwritten in pieces of this size."""
FILL_BYTES: Final = 256 << 10
"""A new segment is filled in pieces of this size, each synced: a sync of the log that meets one
waits for no more than that. With 1 MiB its 99.9th percentile was three times as high."""

SUFFIX: Final = ".seg"
UNFINISHED: Final = ".seg.tmp"

ZEROS: Final = bytes(PIECE_BYTES)

_FIELDS = struct.Struct("<8sIIQQQQIIQ")
_START = struct.Struct("<8sI")
_CRC = struct.Struct("<I")
STAMP_BYTES: Final = _FIELDS.size + _CRC.size
"""What of the header is not padding."""


class SegmentFile(NamedTuple):
    """A segment whose header is checked."""

    path: Path
    number: int
    size: int
    """Bytes of the file, header included."""
    salt: int
    """What every CRC in this segment starts from: the header's own CRC, which covers 64 random bits."""


class Stopped(Exception):
    """The making of a segment was told to stop; nothing is left of it."""


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """`pwrite` until everything is written; the error of the system where it is not."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        more = os.pwrite(fd, memoryview(data)[done:], offset + done)
        if more == 0:
            raise OSError(errno.EIO, "the file took no more bytes")
        done += more


def segment_name(number: int) -> str:
    """What the file of segment `number` is called."""
    return f"{number:010d}{SUFFIX}"


def segment_path(directory: Path, number: int) -> Path:
    """Where segment `number` is."""
    return directory / segment_name(number)


def encode_stamp(identity: LogIdentity, number: int, size: int, random: int) -> tuple[bytes, int]:
    """What a segment's header starts with, and its salt.

    Args:
        identity: whose segment it is.
        number: of the segment.
        size: bytes, header included.
        random: 64 bits that no other segment has.
    """
    fields = _FIELDS.pack(MAGIC, VERSION, number, size, *identity, 0, random)
    salt = crc32(fields)
    return fields + _CRC.pack(salt), salt


def create_segment(
    directory: Path,
    identity: LogIdentity,
    number: int,
    size: int,
    pause: Callable[[], bool],
    *,
    fill: Callable[[], bool] = lambda: True,
) -> SegmentFile:
    """Make a segment of zeros under a temporary name and give it its own, all of it durable.

    Args:
        directory: where; a segment of the same number that is there is replaced.
        identity: stamped into the header.
        number: of the segment.
        size: bytes, header included.
        pause: called after each piece; True means stop.
        fill: asked before each piece whether to write the zeros, so that a later sync finds nothing to
            do but the data; what is not filled is only allocated, which reads as zeros too.

    Raises:
        OSError: no space, or the disk failed; what was written is removed.
        Stopped: `pause` said so.
    """
    stamp, salt = encode_stamp(identity, number, size, int.from_bytes(os.urandom(8), "little"))
    path = segment_path(directory, number)
    unfinished = path.with_suffix(UNFINISHED)
    fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        try:
            allocated = _allocate(fd, size)
            for offset in range(0, size, FILL_BYTES):
                if allocated and not fill():
                    break
                write_all(fd, ZEROS[: min(FILL_BYTES, size - offset)], offset)
                os.fdatasync(fd)
                if pause():
                    raise Stopped
            write_all(fd, stamp, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(unfinished, path)
    except (OSError, Stopped):
        unfinished.unlink(missing_ok=True)
        raise
    sync_directory(directory)
    return SegmentFile(path, number, size, salt)


def _allocate(fd: int, size: int) -> bool:
    """Reserve the space; False where only writing it does that."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        # A file system that cannot allocate ahead: writing the zeros does it, only less neatly.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        return False
    return True


def load_segment(path: Path, identity: LogIdentity) -> SegmentFile:
    """Read and check the header of a segment file.

    Raises:
        DataDirError: another format, version or owner; names the file and the difference.
        StorageDamaged: the header or the file's length is not what it was made as.
    """
    with path.open("rb") as file:
        data = file.read(STAMP_BYTES)
        length = file.seek(0, os.SEEK_END)
    return decode_stamp(data, path, length, identity)


def decode_stamp(data: bytes, path: Path, length: int, identity: LogIdentity) -> SegmentFile:
    """Check the first bytes of a segment.

    Args:
        data: its first `STAMP_BYTES`.
        path: where it is.
        length: bytes of the file.
        identity: whose it must be.

    Raises:
        DataDirError, StorageDamaged: as `load_segment`.
    """
    if len(data) < STAMP_BYTES:
        raise StorageDamaged(f"{path}: {length} bytes, too short for the header of a segment")
    magic, version = _START.unpack_from(data)
    if magic != MAGIC:
        raise StorageDamaged(f"{path}, offset 0: {magic!r} where a segment starts with {MAGIC!r}")
    if version > VERSION:
        raise DataDirError(
            f"{path}: format version {version}, this program reads up to {VERSION}; use the newer program"
        )
    _, _, number, size, cluster, node, seat, log, _, _ = _FIELDS.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _FIELDS.size)
    if crc32(data[: _FIELDS.size]) != crc:
        raise StorageDamaged(f"{path}, offset 0: the CRC of the header does not match")
    found = LogIdentity(cluster, node, seat, log)
    for name, theirs, ours in zip(LogIdentity._fields, found, identity, strict=True):
        if theirs != ours:
            raise DataDirError(f"{path}: belongs to {name} {theirs:#x}, this is {name} {ours:#x}")
    if path.name != segment_name(number):
        raise StorageDamaged(f"{path}: its header says that it is segment {number}")
    if length != size:
        raise StorageDamaged(f"{path}: {length} bytes, made with {size}")
    return SegmentFile(path, number, size, crc)


def read_at(fd: int, segment: SegmentFile, offset: int, length: int) -> bytes:
    """Bytes of a segment; fewer only where the segment ends.

    Raises:
        StorageDamaged: the disk cannot read them, or the file is shorter than it was made.
    """
    length = min(length, segment.size - offset)
    try:
        data = os.pread(fd, length, offset)
        while len(data) < length:
            more = os.pread(fd, length - len(data), offset + len(data))
            if not more:
                raise StorageDamaged(
                    f"{segment.path}, offset {offset + len(data)}: the file ends,"
                    f" it was made with {segment.size} bytes"
                )
            data += more
    except OSError as error:
        raise StorageDamaged(f"{segment.path}, offset {offset}: {error.strerror}") from error
    return data


def stamped_bytes(data: bytes) -> int:
    """How many bytes the segment that starts with `data` says it was made with, unchecked; 0 if too short."""
    return int(_FIELDS.unpack_from(data)[3]) if len(data) >= STAMP_BYTES else 0


class Loaded(NamedTuple):
    """The segments of a log, as they are found."""

    segments: dict[int, SegmentFile]
    """By number, in order: those that can be read."""
    lost: dict[int, str]
    """Why one cannot be read, or not to its end."""


def load_segments(directory: Path, identity: LogIdentity) -> Loaded:
    """Every segment of the directory; leftovers of unfinished ones are removed.

    A header that is damaged is no reason to give up what is behind it, if its salt can be told. A segment
    is made whole and full of zeros before it has its name, so one that is shorter has lost something.

    Raises:
        DataDirError, StorageDamaged: a file is another log's, of another format or has another's name.
    """
    for leftover in directory.glob(f"*{UNFINISHED}"):
        leftover.unlink()
    loaded = Loaded({}, {})
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES + BATCH_BYTES)
            length = file.seek(0, os.SEEK_END)
        number = int(path.stem) if path.stem.isdecimal() else -1
        admit(loaded, number, start, path, length, identity, blank=partial(_blank, path))
    return loaded


def _blank(path: Path) -> bool:
    """Whether nothing was ever written behind the header."""
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while piece := file.read(PIECE_BYTES):
            if piece != ZEROS[: len(piece)]:
                return False
    return True


def admit(
    loaded: Loaded,
    number: int,
    start: bytes,
    path: Path,
    length: int,
    identity: LogIdentity,
    *,
    blank: Callable[[], bool],
) -> None:
    """Take in a segment, whole or damaged.

    Args:
        loaded: where.
        number: of the segment, by its name.
        start: its header and the first `BATCH_BYTES` behind it, or what there is of them.
        path: where it is.
        length: bytes of the file.
        identity: whose it must be.
        blank: whether nothing was ever written behind the header.

    Raises:
        DataDirError, StorageDamaged: as `load_segments`.
    """
    try:
        loaded.segments[number] = decode_stamp(start[:STAMP_BYTES], path, length, identity)
        return
    except StorageDamaged as error:
        reason = str(error)
        stamp = _stamp_of(start)
        if stamp is not None and stamp[1] != number:
            # Whole, and under another name: somebody moved it.
            raise
    if stamp is not None:
        # Everything but the length is right.
        size, salt = min(stamp[0], length), stamp[2]
        if length < stamp[0]:
            loaded.lost[number] = reason
        if size > HEADER_BYTES:
            loaded.segments[number] = SegmentFile(path, number, size, salt)
        return
    for salt in _salts(start, number, length, identity):
        if decode_header(start, HEADER_BYTES, salt, HEADER_BYTES) is not None:
            loaded.segments[number] = SegmentFile(path, number, length, salt)
            return
    # One that was made ahead and never used is made again.
    if length <= HEADER_BYTES or not blank():
        loaded.lost[number] = reason


def _stamp_of(start: bytes) -> tuple[int, int, int] | None:
    """(size, number, salt) of a stamp whose CRC is right."""
    if len(start) < STAMP_BYTES:
        return None
    _, _, number, size, *_ = _FIELDS.unpack_from(start)
    (crc,) = _CRC.unpack_from(start, _FIELDS.size)
    return (int(size), int(number), int(crc)) if crc32(start[: _FIELDS.size]) == crc else None


def _salts(start: bytes, number: int, length: int, identity: LogIdentity) -> tuple[int, ...]:
    """What the salt may be if the stamp is damaged: its CRC as it is there, or as it should be. Which of them
    it is the first batch shows. None if it may be another log's segment."""
    if len(start) < STAMP_BYTES:
        return ()
    *_, cluster, node, seat, log, _, random = _FIELDS.unpack_from(start)
    (crc,) = _CRC.unpack_from(start, _FIELDS.size)
    if LogIdentity(cluster, node, seat, log) == identity:
        return crc, crc32(start[: _FIELDS.size])
    return (crc,) if encode_stamp(identity, number, length, random)[1] == crc else ()


def check_segment_bytes(segment_bytes: int) -> None:
    """Raise a `ValueError` if no log has segments of this size."""
    if not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES:
        raise ValueError(
            f"segment_bytes {segment_bytes}: expected {MIN_SEGMENT_BYTES} .. {MAX_SEGMENT_BYTES}"
        )
