"""The frame: what travels between nodes, and how its fixed header is packed and checked.

A worker builds one frame for each peer and turn; routers move frames by the header alone and never
look into the body. The header is 128 bytes, little-endian:

    magic 4s | version u8 | kind u8 | flags u16 | body_length u32 | log u16 | reserved u16
    generation u32 | reserved u32 | cluster u64 | sender u64 | seat u64 | incarnation u64 | dest u64
    groups 32s | reserved 28s | crc u32

`crc` is CRC-32 over the header before it and the body, so one wrong bit anywhere drops the frame.
`groups` has bit g set (byte g // 8, bit g % 8) if the body has a message for group g: a router
hands the frame to every worker whose own groups meet it, whatever layout the sender has.

That is version 1. A cluster with more groups than it has bits for speaks version 2, whose `groups` has
128 bytes and whose header has 224; all else is the same, and what stands before `groups` stands where it
did. `version_for` says which version a cluster speaks; a hello travels by version 1 in all of them.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from paxmux.engine.checksum import crc32, join
from paxmux.engine.frame_header import HEADER_BYTES, WIDE_HEADER_BYTES, FrameError, Header, WideHeader

MAGIC: Final = b"PXM\x01"
VERSION: Final = 1
WIDE_VERSION: Final = 2

SET_BYTES: Final = 32
WIDE_SET_BYTES: Final = 128
NARROW_GROUPS: Final = 8 * SET_BYTES
"""A cluster with more groups speaks `WIDE_VERSION`."""
GROUPS_MAX: Final = 8 * WIDE_SET_BYTES
"""No cluster has more groups."""

_FIELDS: Final = struct.Struct(f"<4sBBHIHHIIQQQQQ{SET_BYTES}s28s")
_WIDE_FIELDS: Final = struct.Struct(f"<4sBBHIHHIIQQQQQ{WIDE_SET_BYTES}s28s")
_CRC: Final = struct.Struct("<I")
_ROUTE: Final = struct.Struct(f"<5sB2xI12xQQ16xQ{SET_BYTES}s28xI")
_WIDE_ROUTE: Final = struct.Struct(f"<5sB2xI12xQQ16xQ{WIDE_SET_BYTES}s28xI")
"""What a router looks at: magic with version, kind, body length, cluster, sender, dest, groups, crc."""
_LABEL: Final = struct.Struct("<16xI36xQ")
"""What a router looks at in a frame of its own worker: generation, dest."""
_START: Final = struct.Struct("<4sB3xI20xQ")
"""What a stream is cut by: magic, version, body length, sender."""
assert HEADER_BYTES == _ROUTE.size == _FIELDS.size + _CRC.size
assert WIDE_HEADER_BYTES == _WIDE_ROUTE.size == _WIDE_FIELDS.size + _CRC.size

MAX_BODY_BYTES: Final = 128 * 1024 * 1024
"""No frame is larger, whatever the options say: what a length field of a peer can make us allocate."""
MAX_FRAME_BYTES: Final = WIDE_HEADER_BYTES + MAX_BODY_BYTES

_NO_RESERVED: Final = bytes(28)
_OPENING: Final = MAGIC + bytes((VERSION,))
_WIDE_OPENING: Final = MAGIC + bytes((WIDE_VERSION,))
_CRC_AT: Final = _FIELDS.size
_BODY_LENGTH, _BODY_LENGTH_AT = struct.Struct("<I"), 8
_DEST, _DEST_AT = struct.Struct("<Q"), 56
_WIDE_CRC_AT: Final = _WIDE_FIELDS.size
_HEADER_BYTES: Final = {VERSION: HEADER_BYTES, WIDE_VERSION: WIDE_HEADER_BYTES}


def version_for(groups: int) -> int:
    """The wire version of a cluster with so many groups."""
    return VERSION if groups <= NARROW_GROUPS else WIDE_VERSION


def set_bytes(version: int) -> int:
    """Bytes of the set of groups in a header."""
    return SET_BYTES if version == VERSION else WIDE_SET_BYTES


def header_bytes(version: int) -> int:
    """Bytes of a header."""
    return _HEADER_BYTES[version]


class FrameKind(IntEnum):
    """What the body is. The numbers are on the wire."""

    HELLO = 1
    """JSON: who a node is (see shards/hello.py). Only on TCP, first in each direction."""
    PAXOS = 2
    """A batch of protocol messages (see shards/codec.py)."""


def pack_frame(
    kind: int,
    body: bytes,
    *,
    cluster: int,
    sender: int,
    seat: int,
    incarnation: int,
    dest: int,
    groups: int,
    log: int = 0,
    generation: int = 0,
    version: int = VERSION,
) -> bytes:
    """Header and body as one byte string."""
    head = (_FIELDS if version == VERSION else _WIDE_FIELDS).pack(
        MAGIC,
        version,
        kind,
        0,
        len(body),
        log,
        0,
        generation,
        0,
        cluster,
        sender,
        seat,
        incarnation,
        dest,
        groups.to_bytes(SET_BYTES if version == VERSION else WIDE_SET_BYTES, "little"),
        _NO_RESERVED,
    )
    return b"".join((head, _CRC.pack(crc32(body, crc32(head))), body))


def parse_start(
    data: bytes | bytearray | memoryview, max_frame_bytes: int = MAX_FRAME_BYTES
) -> tuple[int, int]:
    """(length in bytes, sender) of the frame of which this is the start: `HEADER_BYTES` at least.

    Raises:
        FrameError: magic, version or length.
    """
    magic, version, body_length, sender = _START.unpack_from(data)
    if magic != MAGIC:
        raise FrameError("magic", f"{bytes(magic)!r} instead of {MAGIC!r}")
    start = _HEADER_BYTES.get(version)
    if start is None:
        raise _other_version(version)
    if start + body_length > max_frame_bytes:
        raise FrameError("length", f"a body of {body_length} bytes, a frame has at most {max_frame_bytes}")
    return start + body_length, sender


def pack_header(template: bytes, dest: int, body_bytes: int, body_checksum: int) -> bytes:
    """The header of a frame whose body is somewhere else.

    Args:
        template: a frame without a body, of which everything but what follows is taken.
        dest: the node that it is for.
        body_bytes: length of the body.
        body_checksum: CRC-32 of the body.
    """
    head = bytearray(template[: -_CRC.size])
    _BODY_LENGTH.pack_into(head, _BODY_LENGTH_AT, body_bytes)
    _DEST.pack_into(head, _DEST_AT, dest)
    return bytes(head) + _CRC.pack(join(crc32(head), body_checksum, body_bytes))


def is_intact(frame: bytes) -> bool:
    """Whether the CRC of a frame that this node has made, or has checked before, still matches its bytes."""
    start = _HEADER_BYTES.get(frame[len(MAGIC)]) if len(frame) > len(MAGIC) else None
    if start is None or len(frame) < start:
        return False
    at = start - _CRC.size
    crc = crc32(memoryview(frame)[start:], crc32(frame[:at]))
    return _CRC.pack(crc) == frame[at:start]


def parse_header(data: bytes | bytearray | memoryview, max_body_bytes: int = MAX_BODY_BYTES) -> Header:
    """Read and check everything in the header but the CRC.

    Raises:
        FrameError: short, magic, version or length.
    """
    size = len(data)
    if size < HEADER_BYTES:
        raise FrameError("short", f"{size} bytes, a header has {HEADER_BYTES}")
    wide = data[4] == WIDE_VERSION and data[:4] == MAGIC
    if wide and size < WIDE_HEADER_BYTES:
        raise FrameError("short", f"{size} bytes, a header of version {WIDE_VERSION} has {WIDE_HEADER_BYTES}")
    fields = _WIDE_FIELDS if wide else _FIELDS
    (
        magic,
        version,
        kind,
        _flags,
        body_length,
        log,
        _reserved1,
        generation,
        _reserved2,
        cluster,
        sender,
        seat,
        incarnation,
        dest,
        groups,
        _reserved3,
    ) = fields.unpack_from(data)
    if magic != MAGIC:
        raise FrameError("magic", f"{magic!r} instead of {MAGIC!r}")
    if version != VERSION and not wide:
        raise _other_version(version)
    if body_length > max_body_bytes:
        raise FrameError("length", f"a body of {body_length} bytes, at most {max_body_bytes} allowed")
    (crc,) = _CRC.unpack_from(data, fields.size)
    return (WideHeader if wide else Header)(
        kind,
        body_length,
        log,
        generation,
        cluster,
        sender,
        seat,
        incarnation,
        dest,
        int.from_bytes(groups, "little"),
        crc,
    )


def _other_version(version: int) -> FrameError:
    return FrameError("version", f"wire version {version}, this node speaks {VERSION} and {WIDE_VERSION}")


def parse_frame(data: bytes | bytearray | memoryview, max_body_bytes: int = MAX_BODY_BYTES) -> Header:
    """Check a whole frame (header, length and CRC) and return its header.

    Raises:
        FrameError: as `parse_header`, and for a length or CRC that does not fit the bytes.
    """
    header = parse_header(data, max_body_bytes)
    view = memoryview(data)
    start = header.start
    if len(view) != start + header.body_length:
        raise FrameError("length", f"{len(view)} bytes, the header says {start + header.body_length}")
    if crc32(view[start:], crc32(view[: start - _CRC.size])) != header.crc:
        raise FrameError("crc", f"CRC does not match, {len(view)} bytes")
    return header


Route = tuple[int, int, int, int, bytes]
"""(kind, cluster, sender, dest, groups as in the header: their length tells the version)"""


def parse_route(data: bytes | bytearray, max_body_bytes: int = MAX_BODY_BYTES) -> Route:
    """Check a whole frame as `parse_frame` does, at half the cost, and return where it is to go.

    Raises:
        FrameError: as `parse_frame`.
    """
    size = len(data)
    if size >= HEADER_BYTES:
        opening, kind, body_length, cluster, sender, dest, groups, crc = _ROUTE.unpack_from(data)
        if (
            opening == _OPENING
            and size == HEADER_BYTES + body_length
            and body_length <= max_body_bytes
            # Slices of a large body are views, those of a small one copies: whichever is cheaper.
            and crc32(
                memoryview(data)[HEADER_BYTES:] if size > 4096 else data[HEADER_BYTES:], crc32(data[:_CRC_AT])
            )
            == crc
        ):
            return kind, cluster, sender, dest, groups
        if opening == _WIDE_OPENING and size >= WIDE_HEADER_BYTES:
            _, kind, body_length, cluster, sender, dest, groups, crc = _WIDE_ROUTE.unpack_from(data)
            if size == WIDE_HEADER_BYTES + body_length and body_length <= max_body_bytes:
                body = memoryview(data)[WIDE_HEADER_BYTES:]
                if crc32(body, crc32(data[:_WIDE_CRC_AT])) == crc:
                    return kind, cluster, sender, dest, groups
    parse_frame(data, max_body_bytes)
    raise AssertionError("parse_frame accepts what parse_route does not")


def read_label(data: bytes) -> tuple[int, int]:
    """(generation, dest) of a frame that this node itself made; at least a header long."""
    generation, dest = _LABEL.unpack_from(data)
    return generation, dest
