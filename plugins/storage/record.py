"""What batches and records look like on disk: packs them, checks them, and does no I/O.

All numbers are little-endian. The data of a segment is a run of batches, each written whole:

    batch  = magic 4s | length u32 | records u32 | synced_segment u32 | synced_offset u32
             flags u16 | systems u16 | crc u32 | the records, `length` bytes together
    record = crc u32 | length u32 | kind u8 | reserved u8 | group u16 | instance u64
             round u64 | node u64 | value, `length` bytes

The batch's CRC covers its header, a record's CRC all of its bytes. Each starts from
`salt ^ offset`, where `salt` belongs to the segment alone: bytes that are right, but at another
place, never verify, and nobody who merely proposes values can forge what verifies.

`synced_*` is the position up to which the log was known to be durable when the batch was written:
whatever lies before it and is bad was lost, not torn. `systems` counts the SYSTEM records before the batch,
modulo 2^16: behind damage it says whether one was lost.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from paxmux.engine.checksum import LARGE_BYTES, checksum, crc32, join
from paxmux.engine.storage import SYSTEM_MAX_BYTES, Record, RecordKind

PROMISE: Final = int(RecordKind.PROMISE)
ACCEPT: Final = int(RecordKind.ACCEPT)
LEARNED: Final = int(RecordKind.LEARNED)
DECIDED: Final = int(RecordKind.DECIDED)
FORGOTTEN: Final = int(RecordKind.FORGOTTEN)
RELEASED: Final = int(RecordKind.RELEASED)
CLEARED: Final = int(RecordKind.CLEARED)
SUSPECT: Final = int(RecordKind.SUSPECT)
SYSTEM: Final = int(RecordKind.SYSTEM)

OPENING: Final = 64
"""First record of every segment, and wherever the log says it anew: `instance` is the oldest segment
that it still needs."""
HARD_STATE: Final = 65
"""A group's hard state, carried into a new segment: `instance`, promised ballot, and as value
`CARRIED` (accepted ballot and where its record is; 0: in this batch, or there is none)."""
DOUBT: Final = 66
"""What came before has lost something that may have been a promise: every group is suspect until a record
behind this one clears it. Stands at the start of each segment from then on."""

CARRIED: Final = struct.Struct("<QQQ")

MAGIC: Final = b"PXB1"
OPENS_SEGMENT: Final = 1
"""Flag of the batch that starts a segment."""
UPKEEP: Final = 2
"""Flag of a batch that the log wrote by itself: values again that were in older segments, and from which
segment on it needs them."""

_HEAD: Final = struct.Struct("<4sIIIIHH")
_CRC: Final = struct.Struct("<I")
_FIELDS: Final = struct.Struct("<IBxHQQQ")
_RECORD: Final = struct.Struct("<IIBxHQQQ")
BATCH_BYTES: Final = _HEAD.size + _CRC.size
RECORD_BYTES: Final = _RECORD.size
SYSTEMS_MASK: Final = 2**16 - 1
INSTANCE_BITS: Final = 63
"""One bit less than there is room for: the instance after the last one must fit too."""
MAX_BATCH_BYTES: Final = 2**31
"""Also the largest segment: offsets are 32 bits in a position."""

OFFSET_BITS: Final = 32
OFFSET_MASK: Final = 2**32 - 1


def position(segment: int, offset: int) -> int:
    """A place in the log as one integer that orders like the log; 0 is no place."""
    return segment << OFFSET_BITS | offset


class BatchHeader(NamedTuple):
    """A checked batch header."""

    length: int
    records: int
    synced: int
    """Position known to be durable when the batch was written."""
    flags: int
    systems: int


def encode_pieces(
    records: Sequence[Record],
    segment: int,
    salt: int,
    offset: int,
    synced: int,
    flags: int = 0,
    systems: int = 0,
) -> tuple[list[bytes], int, list[int]]:
    """One batch for `offset` of `segment` in pieces, of which large values are some; its length, and the
    position of each of its records. `synced` and `systems` go into its header. With `flags` there may be
    kinds in it that the log alone writes.

    Raises:
        ValueError: a record no log can hold; nothing is written then.
    """
    pack = _FIELDS.pack
    pack_crc = _CRC.pack
    # The last bits of a position are the offset: `mixed ^ at` is `salt ^ offset` in one operation.
    mixed = segment << OFFSET_BITS ^ salt
    at = segment << OFFSET_BITS | offset + BATCH_BYTES
    start = at
    top_kind, top_bits = (DOUBT, 64) if flags else (SYSTEM, INSTANCE_BITS)
    parts: list[bytes] = [b""]
    positions: list[int] = []
    for kind, group, instance, round_, node, value in records:
        if not 0 < kind <= top_kind or instance >> top_bits:
            raise ValueError(f"record of kind {kind}, instance {instance} cannot be stored")
        positions.append(at)
        if len(value) < LARGE_BYTES:
            body = pack(len(value), kind, group, instance, round_, node) + value
            parts.append(pack_crc(crc32(body, mixed ^ at)))
            parts.append(body)
            at += len(body) + 4
        else:
            # Where a state of inner machines can be too large; smaller values need not be asked for it.
            if kind == SYSTEM and len(value) > SYSTEM_MAX_BYTES:
                raise ValueError(f"record of kind {kind} with {len(value)} bytes cannot be stored")
            fields = pack(len(value), kind, group, instance, round_, node)
            crc = join(crc32(fields, mixed ^ at), checksum(value), len(value))
            parts += (pack_crc(crc), fields, value)
            at += RECORD_BYTES + len(value)
    length = at - start
    if length > MAX_BATCH_BYTES:
        raise ValueError(f"a batch of {length} bytes; at most {MAX_BATCH_BYTES} go together")
    head = _HEAD.pack(
        MAGIC, length, len(positions), synced >> OFFSET_BITS, synced & OFFSET_MASK, flags, systems
    )
    parts[0] = head + pack_crc(crc32(head, salt ^ offset))
    return parts, BATCH_BYTES + length, positions


def decode_header(data: bytes, begin: int, salt: int, offset: int) -> BatchHeader | None:
    """The batch header at `data[begin:]`, which is at `offset` of its segment; None if it is not one."""
    end = begin + BATCH_BYTES
    if end > len(data) or data[begin : begin + 4] != MAGIC:
        return None
    _, length, records, segment, synced, flags, systems = _HEAD.unpack_from(data, begin)
    (crc,) = _CRC.unpack_from(data, end - 4)
    if crc32(data[begin : end - 4], salt ^ offset) != crc:
        return None
    return BatchHeader(length, records, position(segment, synced), flags, systems)


def decode_records(
    data: bytes, begin: int, header: BatchHeader, salt: int, at: int
) -> tuple[list[Record], list[int]] | None:
    """The records of a batch whose payload starts at `data[begin:]` and at position `at`; None if anything
    is wrong with any of them."""
    unpack = _RECORD.unpack_from
    view = memoryview(data)
    limit = begin + header.length
    last = limit - RECORD_BYTES
    mixed = (at & ~OFFSET_MASK) ^ salt
    at -= begin
    here = begin
    records: list[Record] = []
    positions: list[int] = []
    for _ in range(header.records):
        if here > last:
            return None
        crc, length, kind, group, instance, round_, node = unpack(data, here)
        end = here + RECORD_BYTES + length
        if end > limit or crc32(view[here + 4 : end], mixed ^ (at + here)) != crc:
            return None
        records.append((kind, group, instance, round_, node, data[here + RECORD_BYTES : end]))
        positions.append(at + here)
        here = end
    return (records, positions) if here == limit else None


def record_bytes(data: bytes) -> int:
    """How long the record that starts `data` says it is, unchecked; 0 if `data` is too short to say."""
    if len(data) < RECORD_BYTES:
        return 0
    (length,) = _CRC.unpack_from(data, 4)
    return int(length) + RECORD_BYTES


def decode_record(data: bytes, salt: int, offset: int) -> Record | None:
    """The record in `data`, which may be longer; None if it does not verify at `offset`."""
    end = record_bytes(data)
    if not end or end > len(data):
        return None
    crc, _, kind, group, instance, round_, node = _RECORD.unpack_from(data)
    if crc32(memoryview(data)[4:end], salt ^ offset) != crc:
        return None
    return kind, group, instance, round_, node, data[RECORD_BYTES:end]
