"""Reads the batches of a segment in order, and what lies beyond the place where they end.

Decides where a segment's good part ends and what proves that more was there. It changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from paxmux.engine.storage import Record
from paxmux.plugins.storage.record import (
    BATCH_BYTES,
    MAGIC,
    BatchHeader,
    decode_header,
    decode_records,
    position,
)
from paxmux.plugins.storage.segment_file import HEADER_BYTES, PIECE_BYTES, ZEROS, SegmentFile

WINDOW_BYTES: Final = 4 << 20
OPENING_BYTES: Final = 16 << 10
"""Enough for what 100 groups' hard states take."""

ReadBytes: TypeAlias = Callable[[SegmentFile, int, int], bytes]
"""`Place.read`."""


class Batch(NamedTuple):
    """A batch whose every byte verified."""

    begin: int
    end: int
    """Offsets within the segment."""
    synced: int
    flags: int
    records: list[Record]
    positions: list[int]
    systems: int = 0
    """SYSTEM records before it, as `record.py` counts them."""


class Rest(NamedTuple):
    """What lies between an offset and the end of a segment."""

    end: int
    """Offset behind the last byte that is not zero; where the search began if all are."""
    proven: int
    """The highest position that any batch header there says was synced; 0 if there is none."""


def read_opening(read: ReadBytes, segment: SegmentFile) -> Batch | None:
    """The batch that a segment starts with; None if there is no good one."""
    return next(read_batches(read, segment, HEADER_BYTES, OPENING_BYTES), None)


def read_batches(
    read: ReadBytes, segment: SegmentFile, offset: int, window_bytes: int = WINDOW_BYTES
) -> Iterator[Batch]:
    """The batches from `offset` on, up to the first bytes that are no good batch. `window_bytes` are read
    at once, or as many as a larger batch has."""
    salt = segment.salt
    base = position(segment.number, 0)
    data = b""
    begin = offset
    """Offset within the segment of `data[0]`."""
    while True:
        here = offset - begin
        header = decode_header(data, here, salt, offset)
        if header is None:
            if here + BATCH_BYTES <= len(data) or offset + BATCH_BYTES > segment.size:
                return
            begin, here = offset, 0
            data = read(segment, begin, window_bytes)
            header = decode_header(data, 0, salt, offset)
            if header is None:
                return
        end = offset + BATCH_BYTES + header.length
        if end > segment.size:
            return
        if end - begin > len(data):
            begin, here = offset, 0
            data = read(segment, begin, max(window_bytes, end - offset))
        payload = here + BATCH_BYTES
        at = base + offset + BATCH_BYTES
        decoded = decode_records(data, payload, header, salt, at)
        if decoded is None:
            return
        yield Batch(offset, end, header.synced, header.flags, *decoded, header.systems)
        offset = end


def read_rest(read: ReadBytes, segment: SegmentFile, offset: int) -> Rest:
    """Look through everything from `offset` to the end of the segment."""
    last = offset
    proven = 0
    carried = b""
    """The last bytes of the piece before: a header may lie across two."""
    while offset < segment.size:
        piece = read(segment, offset, PIECE_BYTES)
        filled = 0
        """Bytes up to the last that is not zero. Few pieces have many: the search stops there."""
        if piece != ZEROS[: len(piece)]:
            filled = len(piece.rstrip(b"\0"))
            last = offset + filled
        data = carried + piece
        for _, header in _headers(data, segment.salt, offset - len(carried), len(carried) + filled):
            proven = max(proven, header.synced)
        carried = data[-(BATCH_BYTES - 1) :]
        offset += len(piece)
    return Rest(last, proven)


def next_batch(read: ReadBytes, segment: SegmentFile, offset: int, stop: int = sys.maxsize) -> int | None:
    """Where the next batch begins, at `offset` or behind it, as its header says; None if there is none that
    begins before `stop`."""
    carried = b""
    # A header that begins before may end behind.
    end = min(segment.size, stop + BATCH_BYTES - 1)
    while offset < end:
        piece = read(segment, offset, min(PIECE_BYTES, end - offset))
        data = carried + piece
        for found, _ in _headers(data, segment.salt, offset - len(carried), len(data)):
            return found
        carried = data[-(BATCH_BYTES - 1) :]
        offset += len(piece)
    return None


def _headers(data: bytes, salt: int, start: int, stop: int) -> Iterator[tuple[int, BatchHeader]]:
    """(offset, header) of each batch header that begins before `data[stop:]`; `data` is at offset `start`."""
    found = data.find(MAGIC, 0, stop)
    while found >= 0:
        header = decode_header(data, found, salt, start + found)
        if header is not None:
            yield start + found, header
        found = data.find(MAGIC, found + 1, stop)
