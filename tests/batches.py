"""Batches of a segment as one piece of bytes."""

from __future__ import annotations

from collections.abc import Sequence

from paxmux.engine.storage import Record
from paxmux.plugins.storage.record import encode_pieces


def encode_batch(
    records: Sequence[Record],
    segment: int,
    salt: int,
    offset: int,
    synced: int,
    flags: int = 0,
    systems: int = 0,
) -> tuple[bytes, list[int]]:
    """What `encode_pieces` gives, put together, and the positions of the records."""
    pieces, _, positions = encode_pieces(records, segment, salt, offset, synced, flags, systems)
    return b"".join(pieces), positions
