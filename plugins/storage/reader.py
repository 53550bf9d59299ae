"""Reads single records of a log by position, every byte of them checked."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from paxmux.engine.storage import Record, StorageDamaged
from paxmux.plugins.storage.record import (
    OFFSET_BITS,
    OFFSET_MASK,
    RECORD_BYTES,
    decode_record,
    record_bytes,
)
from paxmux.plugins.storage.scan import read_at
from paxmux.plugins.storage.segment_file import SegmentFile

OPEN_FILES: Final = 64
FIRST_READ_BYTES: Final = 4096


class Reader:
    """Reads records; keeps the descriptors of the segments used last."""

    def __init__(self, segments: Mapping[int, SegmentFile]) -> None:
        self._segments = segments
        self._fds: OrderedDict[int, int] = OrderedDict()

    def read(self, at: int) -> Record:
        """The record at a position.

        Raises:
            StorageDamaged: it is not there whole; the message names file and offset.
        """
        segment, offset = self._place(at)
        fd = self._fd(segment)
        data = read_at(fd, segment, offset, FIRST_READ_BYTES)
        length = record_bytes(data)
        if len(data) < length <= segment.size - offset:
            data += read_at(fd, segment, offset + len(data), length - len(data))
        record = decode_record(data, segment.salt, offset)
        if record is None:
            raise StorageDamaged(f"{segment.path}, offset {offset}: the CRC of the record does not match")
        return record

    def size(self, at: int) -> int:
        """Bytes of the record at a position, as it says itself, unchecked."""
        segment, offset = self._place(at)
        return record_bytes(read_at(self._fd(segment), segment, offset, RECORD_BYTES))

    def close(self) -> None:
        """Close every descriptor."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _place(self, at: int) -> tuple[SegmentFile, int]:
        segment = self._segments.get(at >> OFFSET_BITS)
        if segment is None:
            raise StorageDamaged(f"segment {at >> OFFSET_BITS}: missing, a value should be in it")
        return segment, at & OFFSET_MASK

    def _fd(self, segment: SegmentFile) -> int:
        fd = self._fds.get(segment.number)
        if fd is not None:
            self._fds.move_to_end(segment.number)
            return fd
        try:
            fd = os.open(segment.path, os.O_RDONLY)
        except OSError as error:
            raise StorageDamaged(f"{segment.path}: {error.strerror}") from error
        self._fds[segment.number] = fd
        if len(self._fds) > OPEN_FILES:
            os.close(self._fds.popitem(last=False)[1])
        return fd
