"""As much of protobuf as the calls to etcd need: fields of numbers and of bytes.

Runs where paxmux is not installed: it imports the standard library alone.
"""

from __future__ import annotations

from typing import Any


def field(number: int, content: bytes) -> bytes:
    """A field of bytes of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def fields(message: bytes) -> dict[int, Any]:
    """The fields of a protobuf message: numbers and bytes. etcd's answers have no others: they are errors."""
    found: dict[int, Any] = {}
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(message):
        key = varint()
        if key & 7 == 0:
            found[key >> 3] = varint()
        elif key & 7 == 2:
            length = varint()
            found[key >> 3] = message[place : place + length]
            place += length
        else:
            raise ValueError(f"a field of kind {key & 7} in {message!r}")
    return found
