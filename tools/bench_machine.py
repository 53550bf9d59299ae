"""The state machine of the yardstick: a hash over all that was applied, in order.

Two replicas whose counts and hashes agree have executed the same values at the same instances.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paxmux.engine.checksum import crc32
from paxmux.engine.state_machine import StateMachine

if TYPE_CHECKING:
    import pyarrow

DIGEST_BYTES = 16
LARGE_BYTES = 16 * 1024
"""Of values of so many bytes it takes a checksum: a hash of each byte would cost more than replicating it."""
_PLACE = struct.Struct("<QI").pack
_ANSWER = struct.Struct("<Q")


class Chain(StateMachine):
    """One running hash for each group; it keeps nothing else, and begins anew with its process."""

    smid = 2
    """Beside an echo, which has 1."""
    columnar = True

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self._count = 0
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._update = self._hash.update

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """Take the value into the hash, after its instance and its length: so no two sequences of
        values read alike."""
        self._count += 1
        self._update(_PLACE(instance_id, len(value)))
        self._update(value if len(value) < LARGE_BYTES else crc32(value).to_bytes(4, "little"))
        return None

    def execute_many(
        self,
        instance_id: int,
        values: Sequence[bytes] | pyarrow.BinaryArray,
        contexts: Sequence[bytes | None] | None,
    ) -> None:
        """As `execute`, with the lengths of all of them in front."""
        assert not isinstance(values, Sequence), "a column was asked for"
        count = len(values)
        self._count += count
        if count:
            _, offsets, data = values.buffers()
            self._update(_PLACE(instance_id, count))
            self._update(offsets)
            self._update(data)

    def query(self, request: bytes) -> bytes:
        """How many values were applied (8 bytes, little-endian), and their hash."""
        return _ANSWER.pack(self._count) + self._hash.digest()


def read_answer(answer: bytes) -> tuple[int, str]:
    """(values applied, their hash in hex) from what `Chain.query` says."""
    (count,) = _ANSWER.unpack_from(answer)
    return count, answer[_ANSWER.size :].hex()
