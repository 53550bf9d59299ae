"""CRC-32 of bytes that are many, or come in pieces: what was computed once is not computed again.

A large value stands in a frame to each peer, in a record and in the chain, and each of them has a checksum
over it. Joining checksums costs some microseconds whatever the length; so each byte of a large value is
looked at once in a process. It must never give anything but what `zlib.crc32` over all bytes gives.

Where zlib-ng is installed its `crc32` is used everywhere, which takes less than half of the time for short
runs of bytes, and a small part of it for long ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:
    from zlib import crc32

__all__ = ["KEPT_BYTES", "LARGE_BYTES", "checksum", "checksum_of", "crc32", "join", "last_checksum"]

LARGE_BYTES: Final = 64 * 1024
"""From here on joining checksums is cheaper than computing them again."""
KEPT_BYTES: Final = 16 * 1024 * 1024
"""Of values whose checksum is remembered, those seen last: about what a worker has under way."""

_POLYNOMIAL: Final = 0xEDB88320
_TOP: Final = 1 << 31
"""The polynomial 1: in a checksum the lowest power of x is the highest bit."""
_LENGTH_BITS: Final = 40
_LANES: Final = int.from_bytes(b"\x01" * 64, "big")
_DIGITS: Final = int.from_bytes(b"0" * 64, "big")

_kept: dict[int, tuple[bytes, int]] = {}
"""By id of the value, which is held here, so that the id stays its own."""
_kept_bytes = 0


def _lanes(number: int) -> int:
    """Each bit in a byte of its own."""
    return int.from_bytes(f"{number:032b}".encode(), "big") & _LANES


def _times(first: int, second: int) -> int:
    """first · second · x^32 modulo the polynomial, both in lanes: one product of integers then holds all sums
    of bits, and what reduces it is `crc32`. So the interpreter does it in a microsecond."""
    bits = int((first * second & _LANES | _DIGITS).to_bytes(64, "big"), 2)
    return crc32((bits << 1).to_bytes(8, "little"), 0xFFFFFFFF) ^ 0xFFFFFFFF


def _powers() -> list[int]:
    """What 1, 2, 4, … bytes that follow multiply a checksum by, divided by x^32 for `_times`; in lanes."""
    power = _TOP
    for _ in range(32 - 8):
        power = (power ^ _POLYNOMIAL) << 1 | 1 if power & _TOP else power << 1
    found = [_lanes(power)]
    for _ in range(_LENGTH_BITS - 1):
        found.append(_lanes(_times(found[-1], found[-1])))
    return found


_POWERS: Final = _powers()


@lru_cache(maxsize=4096)
def _shift(length: int) -> int:
    """What `length` bytes that follow, at least one, multiply a checksum by; as `_powers`."""
    bits = [bit for bit in range(length.bit_length()) if length >> bit & 1]
    found = _POWERS[bits[0]]
    for bit in bits[1:]:
        found = _lanes(_times(found, _POWERS[bit]))
    return found


def join(first: int, second: int, length: int) -> int:
    """The checksum of two runs of bytes, one behind the other.

    Args:
        first: of the first run, or whatever else a checksum starts from.
        second: of the second run.
        length: bytes of the second run.
    """
    return _times(_lanes(first), _shift(length)) ^ second if length else first


def checksum(value: bytes) -> int:
    """The CRC-32 of a value; if it is large, remembered for this and `last_checksum` of the same object."""
    global _kept_bytes
    if len(value) < LARGE_BYTES:
        return crc32(value)
    known = _kept.get(id(value))
    if known is not None:
        return known[1]
    found = crc32(value)
    _kept[id(value)] = value, found
    _kept_bytes += len(value)
    while _kept_bytes > KEPT_BYTES:
        _kept_bytes -= len(_kept.pop(next(iter(_kept)))[0])
    return found


def last_checksum(value: bytes) -> int:
    """As `checksum`, of a value that is not asked for again: nothing is remembered."""
    global _kept_bytes
    if len(value) >= LARGE_BYTES:
        known = _kept.pop(id(value), None)
        if known is not None:
            _kept_bytes -= len(value)
            return known[1]
    return crc32(value)


def checksum_of(pieces: Iterable[bytes]) -> int:
    """The CRC-32 of pieces, one behind the other; large ones are taken for values."""
    found = 0
    for piece in pieces:
        large = len(piece) >= LARGE_BYTES
        found = join(found, checksum(piece), len(piece)) if large else crc32(piece, found)
    return found
