"""What an instance decides: a batch of proposals, each with its identity.

Layout, little-endian: version u8 | zero u8 | zero u16 | count u32, then for each entry
origin u64 | incarnation u64 | seq u64 | born u64 | smid u32 | length u32 | payload.

(origin, incarnation, seq) identifies a proposal for ever: "it was mine" is never decided by equal
bytes (reference, S6). `born` is the origin's current instance when the proposal was made: it cannot
have been decided earlier. A value with no entries is a no-op.

Bytes that are not a value decode to no entries. They can only come from a node that runs other
code; every replica reads them alike, so the log goes on instead of being wedged (reference, L5).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

Entry = tuple[int, int, int, int, int, bytes]
"""(origin, incarnation, seq, born, smid, payload)"""

VERSION = 1

_HEAD = struct.Struct("<BBHI")
_ENTRY = struct.Struct("<QQQQII")
ENTRY_OVERHEAD_BYTES = _ENTRY.size

NOOP = _HEAD.pack(VERSION, 0, 0, 0)


def encode(entries: Sequence[Entry]) -> bytes:
    """The value that decides `entries`, in their order."""
    parts = [_HEAD.pack(VERSION, 0, 0, len(entries))]
    pack = _ENTRY.pack
    for origin, incarnation, seq, born, smid, payload in entries:
        parts.append(pack(origin, incarnation, seq, born, smid, len(payload)))
        parts.append(payload)
    return b"".join(parts)


def decode(value: bytes) -> list[Entry]:
    """The entries of a value, in execution order; none if the bytes are no value."""
    size = len(value)
    if size < _HEAD.size:
        return []
    version, zero, zeros, count = _HEAD.unpack_from(value)
    if version != VERSION or zero or zeros or count * _ENTRY.size > size:
        return []
    entries: list[Entry] = []
    unpack = _ENTRY.unpack_from
    at = _HEAD.size
    for _ in range(count):
        body = at + _ENTRY.size
        if body > size:
            return []
        origin, incarnation, seq, born, smid, length = unpack(value, at)
        at = body + length
        if at > size:
            return []
        entries.append((origin, incarnation, seq, born, smid, value[body:at]))
    return entries if at == size else []
