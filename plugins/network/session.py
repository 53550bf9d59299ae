"""Tags of the frames of one connection: that each is of this connection, at its place, and unchanged.

Both ends count frames; the number goes into the tag and never over the wire. So a frame that was injected,
altered, left out, moved, repeated or taken from another connection has a wrong tag, and a wrong tag ends the
connection. Its key is of this connection alone (see `handshake.py`).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from paxmux.plugins.network.poly1305 import KEY_BYTES, poly1305

TAG_BYTES: Final = 16
LARGE_BYTES: Final = 4096
"""Frames from this size on have a Poly1305, if both ends can: from here on it is faster."""
_NUMBER_BYTES: Final = 8


class Session:
    """One end of a connection. Frames are tagged in the order in which they travel."""

    __slots__ = ("_number", "_once", "_poly", "_small")

    def __init__(self, key: bytes, *, poly: bool) -> None:
        """`poly`: both ends have Poly1305."""
        self._small = blake2b(key=key, digest_size=TAG_BYTES, person=b"frame")
        self._once = blake2b(key=key, digest_size=KEY_BYTES, person=b"key of a frame")
        self._poly = poly1305() if poly else None
        self._number = 0

    def tag(self, frame: bytes | bytearray) -> bytes:
        """The tag of the next frame."""
        number = self._number.to_bytes(_NUMBER_BYTES, "little")
        self._number += 1
        if self._poly is not None and len(frame) >= LARGE_BYTES:
            # Poly1305 is sound for one message under a key: each number makes one.
            once = self._once.copy()
            once.update(number)
            return self._poly.tag(once.digest(), frame)
        tag = self._small.copy()
        tag.update(number)
        tag.update(frame)
        return tag.digest()
