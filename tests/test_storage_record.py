"""The format of batches and records: pinned byte by byte, and valid at one place only."""

from __future__ import annotations

import random
import struct
from zlib import crc32

import pytest

from paxmux.engine.storage import Record
from paxmux.plugins.storage.record import (
    BATCH_BYTES,
    HARD_STATE,
    OPENING,
    OPENS_SEGMENT,
    RECORD_BYTES,
    decode_header,
    decode_record,
    decode_records,
    position,
    record_bytes,
)
from tests.batches import encode_batch

SALT = 0xDEADBEEF
RECORDS: list[Record] = [
    (1, 0, 0, 1, 2, b""),
    (2, 7, 2**40, 3, 2**63, b"a value"),
    (3, 65_535, 2**63 - 1, 2**64 - 1, 2**64 - 1, bytes(300)),
    (4, 1, 9, 0, 0, b""),
]


def decoded(data: bytes, salt: int, segment: int, offset: int) -> tuple[list[Record], list[int]] | None:
    header = decode_header(data, 0, salt, offset)
    if header is None:
        return None
    return decode_records(data, BATCH_BYTES, header, salt, position(segment, offset + BATCH_BYTES))


def test_the_bytes_of_a_batch() -> None:
    data, positions = encode_batch([(2, 0x0102, 5, 6, 7, b"xyz")], 3, SALT, 4096, position(2, 9000))
    head = b"PXB1" + struct.pack("<IIIIHH", 39, 1, 2, 9000, 0, 0)
    assert data[:28] == head + struct.pack("<I", crc32(head, SALT ^ 4096))
    body = struct.pack("<IBBHQQQ", 3, 2, 0, 0x0102, 5, 6, 7) + b"xyz"
    assert data[28:] == struct.pack("<I", crc32(body, SALT ^ 4124)) + body
    assert positions == [3 << 32 | 4124]
    assert (BATCH_BYTES, RECORD_BYTES) == (28, 36)


def test_what_is_packed_is_unpacked() -> None:
    data, positions = encode_batch(RECORDS, 9, SALT, 70_000, position(8, 123))
    header = decode_header(data, 0, SALT, 70_000)
    assert header is not None
    assert header.synced == position(8, 123)
    assert header.length == len(data) - BATCH_BYTES
    found = decoded(data, SALT, 9, 70_000)
    assert found is not None
    assert found[0] == RECORDS
    assert found[1] == positions
    for record, at in zip(RECORDS, positions, strict=True):
        begin = (at & 0xFFFFFFFF) - 70_000
        assert decode_record(data[begin:], SALT, 70_000 + begin) == record
        assert record_bytes(data[begin:]) == RECORD_BYTES + len(record[5])


def test_values_of_own_kinds_are_kept() -> None:
    own: list[Record] = [(OPENING, 0, 4, 0, 0, b""), (HARD_STATE, 1, 2, 3, 4, b"x" * 24)]
    data, _ = encode_batch(own, 0, SALT, 4096, 0, OPENS_SEGMENT)
    found = decoded(data, SALT, 0, 4096)
    assert found is not None
    assert found[0] == own
    for record in own:
        with pytest.raises(ValueError, match="cannot be stored"):
            encode_batch([record], 0, SALT, 4096, 0)


def test_any_wrong_bit_is_found() -> None:
    data, _ = encode_batch(RECORDS, 9, SALT, 4096, 0)
    for bit in range(8 * len(data)):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        assert decoded(bytes(wrong), SALT, 9, 4096) is None


def test_any_shorter_batch_is_found() -> None:
    data, _ = encode_batch([*RECORDS, (2, 0, 0, 0, 0, b"no zeros at the end")], 9, SALT, 4096, 0)
    for length in range(len(data)):
        short = data[:length] + bytes(len(data) - length)
        assert decoded(short, SALT, 9, 4096) is None


def test_a_batch_that_is_longer_than_its_records_is_none() -> None:
    data, _ = encode_batch(RECORDS, 9, SALT, 4096, 0)
    length, count = struct.unpack_from("<II", data, 4)
    for wrong_length, wrong_count in ((length + 1, count), (length + 40, count), (length, count - 1)):
        head = data[:4] + struct.pack("<II", wrong_length, wrong_count) + data[12:24]
        wrong = head + struct.pack("<I", crc32(head, SALT ^ 4096)) + data[28:] + bytes(40)
        assert decode_header(wrong, 0, SALT, 4096) is not None
        assert decoded(wrong, SALT, 9, 4096) is None


def test_a_batch_or_record_at_another_place_never_verifies() -> None:
    rng = random.Random(1)
    data, positions = encode_batch(RECORDS, 9, SALT, 4096, 0)
    first = (positions[1] & 0xFFFFFFFF) - 4096
    record = data[first:]
    assert decode_record(record, SALT, 4096 + first) is not None
    for _ in range(2000):
        offset = rng.randrange(2**31)
        if offset != 4096:
            assert decode_header(data, 0, SALT, offset) is None
        if offset != 4096 + first:
            assert decode_record(record, SALT, offset) is None
        salt = rng.randrange(2**32)
        if salt != SALT:
            assert decode_header(data, 0, salt, 4096) is None
            assert decode_record(record, salt, 4096 + first) is None


def test_random_bytes_are_nothing() -> None:
    rng = random.Random(2)
    for _ in range(5000):
        data = rng.randbytes(rng.randrange(120))
        assert decode_record(data, SALT, 4096) is None
        assert decode_header(b"PXB1" + data, 0, SALT, 4096) is None


@pytest.mark.parametrize(
    "record",
    [(2, -1, 0, 0, 0, b""), (2, 65_536, 0, 0, 0, b""), (2, 0, -1, 0, 0, b""), (2, 0, 0, 2**64, 0, b"")],
)
def test_numbers_that_do_not_fit_are_refused(record: Record) -> None:
    with pytest.raises((ValueError, struct.error)):
        encode_batch([record], 0, SALT, 4096, 0)
