"""The ring between the processes of a node. It has a version, so it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paxmux.shards import ring
from paxmux.shards.ring import FIRST, HEADER_BYTES, LAST, RingReader, RingWriter, create_ring
from tests.golden.format import Fields, Format, cut

_CAPACITY = 4096
_HEAD_AT = 128
_RECORDS = 3 * 32
"""Bytes of the three records below."""
_INPUT = (_CAPACITY, 7, [b"whole", b"in two parts"])


def _encode(_: Path) -> dict[str, Fields]:
    fd = create_ring(_CAPACITY, generation=7)
    try:
        writer = RingWriter(fd)
        for payload, flags in ((b"whole", ring.WHOLE), (b"in two", FIRST), (b" parts", LAST)):
            assert writer.write(payload, flags)
        writer.close()
        data = os.pread(fd, 24, 0) + os.pread(fd, 8, _HEAD_AT) + os.pread(fd, _RECORDS, HEADER_BYTES)
    finally:
        os.close(fd)
    record = (("length", 4), ("flags", 4), ("crc", 4), ("sequence", 4), ("payload and padding", 16))
    layout = [("magic", 6), ("version", 1), ("zero", 1), ("capacity", 8), ("generation", 8), ("head", 8)]
    layout += [(f"record {number}: {field}", size) for number in range(3) for field, size in record]
    return {"ring": cut(data, layout)}


def _decode(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    data = cases["ring"]
    fd = create_ring(_CAPACITY)
    try:
        for part, offset in ((data[:24], 0), (data[24:32], _HEAD_AT), (data[32:], HEADER_BYTES)):
            os.pwrite(fd, part, offset)
        parts: list[bytes] = []

        def join(flags: int, payload: bytes) -> bytes | None:
            parts.append(payload)
            return b"".join(parts) if flags == LAST else None

        reader = RingReader(fd)
        messages = reader.read(1 << 20, join)
        found = (reader.capacity, reader.generation, messages)
        reader.close()
    finally:
        os.close(fd)
    return {"ring": found}


RING = Format(
    "ring",
    "words 0, 1, 2 and 16 of a ring's first page, then its records (shards/ring.py)",
    "_MAGIC in shards/ring.py",
    lambda: ring._MAGIC >> 48 & 0xFF,
    _encode,
    _decode,
    {"ring": _INPUT},
)

FORMATS = (RING,)
