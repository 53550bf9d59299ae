"""The body of a PAXOS frame: batches of protocol messages, as msgpack.

A body is one or more sections, each a length (u32, little-endian) and one msgpack array of
lists, in the order of `engine.paxos.messages.KINDS`. What goes to every peer alike is encoded once
and shared by the bodies of all peers.

Decoding is typed and bounded: a value of the wrong type, a negative number or a length that does not
add up is a `BodyError`, never a message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from paxmux.engine.paxos.messages import Batch, Body

_LENGTH = struct.Struct("<I")

_Id = Annotated[int, msgspec.Meta(ge=0)]
"""Any 64-bit id."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]
"""Rounds and instances: far from the end of 64 bits, so that adding one is always possible."""
MESSAGES_MAX = 1 << 16
"""In a body, far above what a turn makes: three bytes on the wire are a hundred in memory."""
SMALL_BYTES = 1 << 20
"""What is no larger cannot hold enough of them to be counted."""
_Group = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Chain = Annotated[int, msgspec.Meta(ge=0, lt=(1 << 32))]

_FEW = msgspec.Meta(max_length=MESSAGES_MAX)

_WireBody = tuple[
    Annotated[list[tuple[_Group, _Count, _Count, _Id, bytes]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Count]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Count]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Count, _Count, _Count, _Id, bytes]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Count, bytes]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Count, _Count, _Id]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Chain]], _FEW],
    Annotated[list[tuple[_Group, _Count]], _FEW],
    Annotated[list[tuple[_Group, _Id]], _FEW],
    Annotated[list[tuple[_Group, _Id, Annotated[int, msgspec.Meta(ge=-1)], _Count]], _FEW],
    Annotated[list[tuple[_Group, _Count, bytes]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Count, _Id]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Chain]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Chain]], _FEW],
    Annotated[list[tuple[_Group, _Id]], _FEW],
    Annotated[list[tuple[_Group, _Id, _Count, _Id, _Count]], _FEW],
    Annotated[list[tuple[_Group, _Count, _Count]], _FEW],
]

WITH_VALUE = ("learned", "accepts", "prepare_replies", "forwards")
"""Kinds whose messages end in a value, or as many bytes."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_WireBody).decode


class BodyError(ValueError):
    """Not a body of protocol messages."""


def encode_section(batch: Batch) -> bytes:
    """One batch, with its length in front."""
    data = _encode(batch.body())
    return _LENGTH.pack(len(data)) + data


def encode_split(batch: Batch, max_bytes: int) -> Iterator[bytes]:
    """The batch as sections whose values stay below `max_bytes` each, or are a single one."""
    rest = Batch()
    for kind in Batch.__slots__:
        if kind not in WITH_VALUE:
            setattr(rest, kind, getattr(batch, kind))
    part, size = rest, 0
    for kind in WITH_VALUE:
        for message in getattr(batch, kind):
            if size and size + len(message[-1]) > max_bytes:
                yield encode_section(part)
                part, size = Batch(), 0
            getattr(part, kind).append(message)
            size += len(message[-1])
    yield encode_section(part)


def value_bytes(batch: Batch) -> int:
    """Bytes of the values in a batch: what makes a frame large."""
    total = 0
    for values in (batch.accepts, batch.learned, batch.prepare_replies, batch.forwards):
        for message in values:
            total += len(message[-1])
    return total


def decode_sections(frame: bytes, start: int) -> Iterable[Body]:
    """The batches of a body that begins at `start` of `frame`.

    Raises:
        BodyError: the bytes are no body; nothing of it must be used.
    """
    view = memoryview(frame)
    end = len(view)
    bodies: list[Body] = []
    count = 0
    at = start
    while at < end:
        if end - at < 4:
            raise BodyError("section without a length")
        (length,) = _LENGTH.unpack_from(view, at)
        at += 4
        if length > end - at:
            raise BodyError(f"section of {length} bytes in a body with {end - at} left")
        try:
            bodies.append(_decode(view[at : at + length]))
        except (msgspec.DecodeError, RecursionError) as error:
            raise BodyError(str(error)) from error
        at += length
        if end > SMALL_BYTES:
            count += sum([len(kind) for kind in bodies[-1]], len(bodies[-1]))
            if count > MESSAGES_MAX:
                raise BodyError(f"more than {MESSAGES_MAX} messages")
    return bodies
