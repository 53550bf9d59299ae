"""What an instance decides: a batch of proposals, each with its identity.

Layout, little-endian: version u8 | inner u8 | zero u16 | count u32 | chain u32, then for each entry
origin u64 | incarnation u64 | seq u64 | born u64 | smid u32 | length u32 | payload.

`chain` is the CRC-32 of the whole value that was decided one instance before, 0 in the first instance.
So each value vouches for all before it, and replicas that differ cannot agree on anything more.

(origin, incarnation, seq) identifies a proposal for ever: "it was mine" is never decided by equal
bytes (reference, S6). `born` is the origin's current instance when the proposal was made: it cannot
have been decided earlier. A value with no entries is a no-op.

The first `inner` entries are operations of the group's inner state machines (`system.py`): their incarnation
is 0 and their seq a random number, and they may be decided more than once.

Bytes that are not a value decode to no entries. They can only come from a node that runs other
code; every replica reads them alike, so the log goes on instead of being wedged (reference, L5).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from paxmux.engine.paxos.checksum import crc32

Entry = tuple[int, int, int, int, int, bytes]
"""(origin, incarnation, seq, born, smid, payload)"""

VERSION: Final = 1

_HEAD: Final = struct.Struct("<BBHI4s")
_ENTRY: Final = struct.Struct("<QQQQII")
ENTRY_OVERHEAD_BYTES: Final = _ENTRY.size

Chain = bytes
"""A chain as it stands in a value: four bytes."""

FIRST: Chain = bytes(4)
"""The chain of the first instance."""

UNKNOWN: Chain = b""
"""Of an instance whose predecessor is lost here."""


def chain_in(value: bytes) -> Chain:
    """The chain that a value claims; not four bytes if it is too short to be a value."""
    return value[8:12]


def chain_after(value: bytes) -> Chain:
    """The chain that the next instance's value must have."""
    return crc32(value).to_bytes(4, "little")


def inner_of(value: bytes, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Those among the entries of a value that are operations of inner state machines."""
    return entries[: value[1]] if entries else ()


def encode(entries: Sequence[Entry], chain: Chain = FIRST, inner: int = 0) -> bytes:
    """The value that decides `entries`, in their order; a no-op without any. The first `inner` of them are
    operations of inner state machines."""
    parts = [_HEAD.pack(VERSION, inner, 0, len(entries), chain)]
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
    version, inner, zeros, count, _ = _HEAD.unpack_from(value)
    if version != VERSION or inner > count or zeros or count * _ENTRY.size > size:
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
