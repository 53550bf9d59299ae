"""msgpack in pieces, of which large values are some: they are copied where they go, and nowhere else.

Whoever encodes so writes the heads of the arrays and values by itself. The writers are here.
"""

from __future__ import annotations

import struct
from typing import Final

PIECE_BYTES: Final = 4096
"""A value of so many bytes is a piece of its own: less is copied sooner than kept apart."""
_HEAD_16, _HEAD_32 = struct.Struct(">BH"), struct.Struct(">BI")


def array_head(length: int) -> bytes:
    """What opens an array of so many elements."""
    if length < 16:
        return bytes((0x90 | length,))
    return _HEAD_16.pack(0xDC, length) if length < 1 << 16 else _HEAD_32.pack(0xDD, length)


def piece_head(size: int) -> bytes:
    """What opens a value that is a piece of its own."""
    return _HEAD_16.pack(0xC5, size) if size < 1 << 16 else _HEAD_32.pack(0xC6, size)
