"""How a tool and a node process that it drives talk: msgpack documents behind their length.

Decides nothing about what is said; see tools/driven_node.py for that. Both ends were started by the
same tool, so a document that makes no sense is a defect and raises.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec

_LENGTH = struct.Struct("<I")
MAX_BYTES = 256 * 1024 * 1024

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


def pack(document: dict[str, Any]) -> bytes:
    """A document as it travels."""
    data = encode(document)
    if len(data) > MAX_BYTES:
        raise ValueError(f"a document of {len(data)} bytes, at most {MAX_BYTES} are sent")
    return _LENGTH.pack(len(data)) + data


async def receive(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next document; None once the other end is gone. Half a document is none."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_BYTES:
            raise ValueError(f"a document of {length} bytes, at most {MAX_BYTES} are read")
        return decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
