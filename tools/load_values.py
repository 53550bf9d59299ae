"""Values of one client of a load: each one its own, as far as its size allows.

Decides how they differ: a number of the client, of its call and of the value in the call stands at the
front. Values of one call are made together, at a cost that hardly grows with their number.
"""

from __future__ import annotations

import struct

import pyarrow

_NUMBERS = struct.Struct(">IQI").pack
"""(client, call, value)"""
_NUMBERS_BYTES = 16
_CALL = slice(4, 12)


class LoadValues:
    """For one client."""

    __slots__ = ("_bytes", "_calls", "_client", "_count", "_offsets", "_rest", "_size")

    def __init__(self, client: int, size: int, count: int) -> None:
        """`size` bytes each, `count` for each call."""
        self._client = client
        self._size = size
        self._count = count
        self._calls = 0
        self._rest = bytes(max(0, size - _NUMBERS_BYTES))
        self._bytes = bytearray().join([self._value(index) for index in range(count)])
        offsets = range(0, size * (count + 1), size)
        self._offsets = pyarrow.py_buffer(struct.pack(f"<{count + 1}i", *offsets))

    def next(self) -> bytes:
        """The value of a call that has one."""
        self._calls += 1
        return self._value(0)

    def next_many(self) -> pyarrow.BinaryArray:
        """The values of a call that has `count`."""
        self._calls += 1
        stamp = self._calls.to_bytes(8, "big")
        # Of a short value only the end of the numbers is there.
        skipped = max(0, _NUMBERS_BYTES - self._size)
        for place, byte in enumerate(stamp, start=_CALL.start - skipped):
            if place >= 0:
                self._bytes[place :: self._size] = bytes((byte,)) * self._count
        data = pyarrow.py_buffer(bytes(self._bytes))
        return pyarrow.Array.from_buffers(pyarrow.binary(), self._count, [None, self._offsets, data])

    def _value(self, index: int) -> bytes:
        value = _NUMBERS(self._client, self._calls, index) + self._rest
        return value if len(value) == self._size else value[-self._size :]
