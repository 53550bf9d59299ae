"""Fenced writes: a proposal that takes effect only in the reign that it names.

Payload of an entry whose state machine id has `FENCED` in it: the term as u64, little-endian, then the value,
or the pack, that it is about. Whoever executes compares the term with the one that holds in that instance.
"""

from __future__ import annotations

from typing import Final

FENCED: Final = 1 << 30
"""Added to the state machine id of such an entry: above every such id, below `pack.PACK`."""
TERM_BYTES: Final = 8
NOWHERE: Final = -2
"""A term that holds nowhere, not even where there is none, which is -1."""
TERM_MAX: Final = (1 << 63) - 1


def fenced(term: int, payload: bytes) -> bytes:
    """The payload that names its term."""
    return term.to_bytes(TERM_BYTES, "little") + payload


def split(payload: bytes) -> tuple[int, bytes]:
    """The term, and what stands behind it; `NOWHERE` for a payload that is too short."""
    if len(payload) < TERM_BYTES:
        return NOWHERE, b""
    return int.from_bytes(payload[:TERM_BYTES], "little"), payload[TERM_BYTES:]
