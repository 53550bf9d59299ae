"""Reads single records of a log by position, every byte of them checked."""

from __future__ import annotations

from typing import Final

from paxmux.engine.storage import Record, StorageDamaged
from paxmux.plugins.storage.place import Place
from paxmux.plugins.storage.record import (
    OFFSET_BITS,
    OFFSET_MASK,
    RECORD_BYTES,
    decode_record,
    record_bytes,
)
from paxmux.plugins.storage.segment_file import SegmentFile

FIRST_READ_BYTES: Final = 4096


class Reader:
    """Reads records of the log at a place."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def read(self, at: int) -> Record:
        """The record at a position.

        Raises:
            StorageDamaged: it is not there whole; the message names file and offset.
        """
        segment, offset = self._find(at)
        data = self._bytes(segment, offset, FIRST_READ_BYTES)
        length = record_bytes(data)
        if len(data) < length <= segment.size - offset:
            data += self._bytes(segment, offset + len(data), length - len(data))
        record = decode_record(data, segment.salt, offset)
        if record is None:
            raise StorageDamaged(f"{segment.path}, offset {offset}: the CRC of the record does not match")
        return record

    def size(self, at: int) -> int:
        """Bytes of the record at a position, as it says itself, unchecked.

        Raises:
            StorageDamaged: it cannot be read.
        """
        segment, offset = self._find(at)
        return record_bytes(self._bytes(segment, offset, RECORD_BYTES))

    def _find(self, at: int) -> tuple[SegmentFile, int]:
        segment = self._place.segments.get(at >> OFFSET_BITS)
        if segment is None:
            raise StorageDamaged(f"segment {at >> OFFSET_BITS}: missing, a value should be in it")
        return segment, at & OFFSET_MASK

    def _bytes(self, segment: SegmentFile, offset: int, length: int) -> bytes:
        try:
            return self._place.read(segment, offset, length)
        except OSError as error:
            raise StorageDamaged(f"{segment.path}: {error.strerror}") from error
