"""Seals of datagrams: who knows the secret of the cluster has made them, and nobody has changed them since.

A sealed datagram is the frame and behind it a keyed BLAKE2b of all of it, 16 bytes. The frame's header names
sender and destination, so that it is good for no other way. A datagram that comes twice, or late, is
harmless: the protocol takes any frame as often as it comes (SECURITY.md has it by kind of message).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import Final

from paxmux.engine.secret_file import Keys

SEAL_BYTES: Final = 16


class DatagramSeal:
    """Seals by the first keys, and takes what any of them has sealed."""

    def __init__(self, keys: Sequence[Keys]) -> None:
        # A hash that has its key already is copied for each datagram: that is a third of the cost.
        self._hashes = [blake2b(key=one.datagram, digest_size=SEAL_BYTES) for one in keys]
        self._first = self._hashes[0]

    def seal(self, frame: bytes) -> bytes:
        """What is to leave."""
        made = self._first.copy()
        made.update(frame)
        return frame + made.digest()

    def open(self, datagram: memoryview) -> bytes | None:
        """The frame of what arrived; None if nobody who knows a secret has made it."""
        frame = datagram[:-SEAL_BYTES].tobytes()
        seal = datagram[-SEAL_BYTES:]
        for keyed in self._hashes:
            made = keyed.copy()
            made.update(frame)
            if compare_digest(made.digest(), seal):
                return frame
        return None
