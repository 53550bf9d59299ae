"""The body of a PAXOS frame: batches of protocol messages, as msgpack.

A body is one or more sections, each a length (u32, little-endian) and one msgpack array of
lists, in the order of `engine.paxos.messages.KINDS`. What goes to every peer alike is encoded once
and shared by the bodies of all peers. A section with large values can be encoded in pieces, of which the
values are some: they are then copied where they go, and nowhere else.

Decoding is typed and bounded: a value of the wrong type, a negative number or a length that does not
add up is a `BodyError`, never a message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec

from paxmux.engine.paxos.messages import KINDS, Batch, Body
from paxmux.shards.msgpack_pieces import PIECE_BYTES, array_head, piece_head

_LENGTH: Final = struct.Struct("<I")

_Id = Annotated[int, msgspec.Meta(ge=0)]
"""Any 64-bit id."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]
"""Rounds and instances: far from the end of 64 bits, so that adding one is always possible."""
MESSAGES_MAX: Final = 1 << 16
"""In a body, far above what a turn makes: three bytes on the wire are a hundred in memory."""
SMALL_BYTES: Final = 1 << 20
"""What is no larger cannot hold enough of them to be counted."""
_Group = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Chain = Annotated[int, msgspec.Meta(ge=0, lt=(1 << 32))]

_FEW: Final = msgspec.Meta(max_length=MESSAGES_MAX)

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
    Annotated[list[tuple[_Group, bytes]], _FEW],
    Annotated[list[tuple[_Group]], _FEW],
    Annotated[list[tuple[_Group, _Count, bytes]], _FEW],
]

_NO_BYTES: Final = b"\xc4\x00"

WITH_VALUE: Final = ("learned", "accepts", "prepare_replies", "forwards")
"""Kinds whose messages end in a value, or as many bytes."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_WireBody).decode


class BodyError(ValueError):
    """Not a body of protocol messages."""


def encode_section(batch: Batch) -> bytes:
    """One batch, with its length in front."""
    data = _encode(batch.body())
    return _LENGTH.pack(len(data)) + data


def encode_pieces(batch: Batch) -> list[bytes]:
    """The bytes of `encode_section`, in pieces: each large value is one."""
    pieces: list[bytes] = []
    run = [array_head(len(KINDS))]
    for kind in KINDS:
        messages: Sequence[Any] = getattr(batch, kind)
        if kind not in WITH_VALUE or all(len(message[-1]) < PIECE_BYTES for message in messages):
            run.append(_encode(messages))
            continue
        run.append(array_head(len(messages)))
        for message in messages:
            value = message[-1]
            size = len(value)
            if size < PIECE_BYTES:
                run.append(_encode(message))
                continue
            run.append(_encode((*message[:-1], b""))[: -len(_NO_BYTES)])
            run.append(piece_head(size))
            pieces += (b"".join(run), value)
            run = []
    pieces.append(b"".join(run))
    return [_LENGTH.pack(sum(map(len, pieces))) + pieces[0], *pieces[1:]]


def separate(batch: Batch, large_bytes: int) -> tuple[Batch, Batch]:
    """What is small of a batch, and the rest: messages with a value of at least `large_bytes`, and runs of
    decided values that have as much together, with the positions that go with them."""
    small, large = Batch(), Batch()
    for kind in KINDS:
        setattr(small, kind, getattr(batch, kind))
    for kind in ("accepts", "prepare_replies", "forwards"):
        messages = getattr(batch, kind)
        if any(len(message[-1]) >= large_bytes for message in messages):
            setattr(small, kind, [message for message in messages if len(message[-1]) < large_bytes])
            setattr(large, kind, [message for message in messages if len(message[-1]) >= large_bytes])
    if sum([len(message[-1]) for message in batch.learned]) >= large_bytes:
        large.learned, small.learned = small.learned, []
        large.positions, small.positions = small.positions, []
    return small, large


def split(batch: Batch, max_bytes: int) -> Iterator[Batch]:
    """The batch as some whose values stay below `max_bytes` each, or are a single one. What has no value is
    in the first, but for positions: they follow the last decided value, or a peer would ask for the rest."""
    part, size = Batch(), 0
    for kind in KINDS:
        if kind not in WITH_VALUE and kind != "positions":
            setattr(part, kind, getattr(batch, kind))
    for kind in WITH_VALUE:
        for message in getattr(batch, kind):
            if size and size + len(message[-1]) > max_bytes:
                yield part
                part, size = Batch(), 0
            getattr(part, kind).append(message)
            size += len(message[-1])
        if kind == "learned":
            part.positions = batch.positions
    yield part


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
