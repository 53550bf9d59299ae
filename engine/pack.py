"""A pack: many values of one caller that travel, are decided and are executed as one proposal.

Payload of an entry whose state machine id has `PACK` in it, little-endian: count u32, then count + 1 offsets
of 32 bits into what follows, the first of them 0, the last its length. That is how Arrow keeps a column of
bytes, so a machine may look at one without copying it. Whatever the count, nobody on the way looks inside.

Bytes that are no pack hold no values. They can only come from a node that runs other code; every replica
reads them alike.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import accumulate, pairwise
from operator import le
from typing import TYPE_CHECKING, Final

from paxmux.engine.fence import FENCED, split

if TYPE_CHECKING:
    import pyarrow

    from paxmux.engine.paxos.value import Entry

PACK: Final = 1 << 31
"""Added to the state machine id of an entry that holds a pack: far above every such id."""
MARKS: Final = PACK | FENCED
"""What may be added to a state machine id."""
COUNT_MAX: Final = 1 << 16
"""Values of one pack."""
VERSION: Final = 1
"""Of the layout. It is not in the bytes: another layout gets another bit than `PACK`."""

_COUNT = struct.Struct("<I")
_OFFSET_BYTES = 4

Values = list[bytes] | tuple[bytes, ...]
"""What a pack is made of; or a `pyarrow.BinaryArray` without nulls, which is cut and copied as a whole."""


def cut(values: Values | pyarrow.BinaryArray, max_bytes: int) -> list[Values | pyarrow.BinaryArray]:
    """Runs of the values for one pack each, of at most `max_bytes`, or with one larger value."""
    count = len(values)
    if count <= 1 or (count <= COUNT_MAX and size_of(values) <= max_bytes):
        return [values]
    middle = count // 2
    return cut(values[:middle], max_bytes) + cut(values[middle:], max_bytes)


def encode(values: Values | pyarrow.BinaryArray) -> bytes:
    """The pack of these values."""
    count = len(values)
    if not isinstance(values, list | tuple):
        offsets, data = values.buffers()[1:]
        if values.offset == 0 and offsets is not None and data is not None:
            ends = memoryview(offsets)[: _OFFSET_BYTES * (count + 1)]
            first, last = _bounds(ends, 0, count)
            if first == 0:
                return b"".join((_COUNT.pack(count), ends, memoryview(data)[:last]))
        values = values.to_pylist()
    offsets = struct.pack(f"<{count + 1}i", *accumulate(map(len, values), initial=0))
    return b"".join((_COUNT.pack(count), offsets, *values))


def count_of(payload: bytes) -> int:
    """How many values it has, by its head; 0 if that cannot be true."""
    if len(payload) < _COUNT.size + _OFFSET_BYTES:
        return 0
    count = int.from_bytes(payload[: _COUNT.size], "little")
    start = _COUNT.size + _OFFSET_BYTES * (count + 1)
    if count > COUNT_MAX or start > len(payload):
        return 0
    if _bounds(memoryview(payload), _COUNT.size, count) != (0, len(payload) - start):
        return 0
    return count


def count_in(smid: int, payload: bytes) -> int:
    """How many values an entry has."""
    if smid < PACK:
        return 1
    return count_of(split(payload)[1] if smid & FENCED else payload)


def decode(payload: bytes) -> list[bytes]:
    """The values; none if the bytes are no pack."""
    count = count_of(payload)
    if not count:
        return []
    offsets = struct.unpack_from(f"<{count + 1}i", payload, _COUNT.size)
    if not all(map(le, offsets, offsets[1:])):
        return []
    data = payload[_COUNT.size + _OFFSET_BYTES * (count + 1) :]
    return [data[begin:end] for begin, end in pairwise(offsets)]


def expand(entries: Iterable[Entry]) -> list[Entry]:
    """The entries of a value with the values of packs one by one, in the order in which they are executed,
    and without the terms that fenced ones name."""
    expanded: list[Entry] = []
    for entry in entries:
        smid, payload = entry[4], entry[5]
        if smid < FENCED:
            expanded.append(entry)
            continue
        if smid & FENCED:
            smid, payload = smid - FENCED, split(payload)[1]
        if smid < PACK:
            expanded.append((*entry[:4], smid, payload))
        else:
            expanded += [(*entry[:4], smid - PACK, each) for each in decode(payload)]
    return expanded


def column(payload: bytes) -> pyarrow.BinaryArray:
    """The same as `decode`, as an Arrow array that shares the payload's memory."""
    import pyarrow

    count = count_of(payload)
    if count:
        buffer = pyarrow.py_buffer(payload)
        start = _COUNT.size + _OFFSET_BYTES * (count + 1)
        parts = [None, buffer.slice(_COUNT.size, start - _COUNT.size), buffer.slice(start)]
        array = pyarrow.Array.from_buffers(pyarrow.binary(), count, parts)
        try:
            array.validate(full=True)
        except pyarrow.ArrowInvalid:
            pass
        else:
            return array
    return pyarrow.array([], pyarrow.binary())


def size_of(values: Values | pyarrow.BinaryArray) -> int:
    """Bytes of all values together."""
    if isinstance(values, list | tuple):
        return sum(map(len, values))
    offsets = values.buffers()[1]
    if offsets is None:
        return 0
    first, last = _bounds(memoryview(offsets), _OFFSET_BYTES * values.offset, len(values))
    return last - first


def _bounds(offsets: memoryview, start: int, count: int) -> tuple[int, int]:
    (first,) = struct.unpack_from("<i", offsets, start)
    (last,) = struct.unpack_from("<i", offsets, start + _OFFSET_BYTES * count)
    return first, last
