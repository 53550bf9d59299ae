"""What is left of a damaged stretch of a segment: the next good batch, and the good records of a bad one.

Only for reading: what is found here is shown and exported, and never voted with. Each record has a CRC
that covers its place, so nothing is ever taken for a record that was not written there.
"""

from __future__ import annotations

from typing import NamedTuple

from paxmux.engine.storage import Record
from paxmux.plugins.storage.record import (
    BATCH_BYTES,
    MAGIC,
    RECORD_BYTES,
    decode_header,
    decode_record,
    position,
    record_bytes,
)
from paxmux.plugins.storage.scan import Batch, ReadBytes
from paxmux.plugins.storage.segment_file import PIECE_BYTES, SegmentFile


class Salvaged(NamedTuple):
    """A bad batch, as far as it can be read."""

    batch: Batch
    bad: list[int]
    """Offsets within the segment at which a record should start, and none verifies."""


def salvage(read: ReadBytes, segment: SegmentFile, offset: int) -> Salvaged | None:
    """The good records of the batch at `offset`; None if not even its header is good."""
    header = decode_header(read(segment, offset, BATCH_BYTES), 0, segment.salt, offset)
    if header is None:
        return None
    start = offset + BATCH_BYTES
    end = min(start + header.length, segment.size)
    data = read(segment, start, end - start)
    records: list[Record] = []
    positions: list[int] = []
    bad: list[int] = []
    here = 0
    while here < len(data):
        length = record_bytes(data[here : here + RECORD_BYTES])
        record = decode_record(data[here : here + length], segment.salt, start + here) if length else None
        if record is None:
            bad.append(start + here)
            if not length:
                break
        else:
            records.append(record)
            positions.append(position(segment.number, start + here))
        # Behind a bad record the next one is where its length says, unless the length is what is bad.
        here += length
    if len(records) + len(bad) < header.records and not bad:
        bad.append(end)
    return Salvaged(Batch(offset, end, header.synced, header.flags, records, positions), bad)


def find_batch(read: ReadBytes, segment: SegmentFile, offset: int) -> int | None:
    """Where, from `offset` on, the next batch with a good header starts; None if there is none."""
    carried = b""
    while offset < segment.size:
        piece = read(segment, offset, PIECE_BYTES)
        data = carried + piece
        start = offset - len(carried)
        found = data.find(MAGIC)
        while found >= 0:
            if decode_header(data, found, segment.salt, start + found) is not None:
                return start + found
            found = data.find(MAGIC, found + 1)
        carried = data[-(BATCH_BYTES - 1) :]
        offset += len(piece)
    return None
