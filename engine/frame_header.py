"""A checked header of a frame, and what is said of bytes that have none; see `frame.py`.

Apart from there, since other modules derive from these, which no class of a compiled module allows.
"""

from __future__ import annotations

from typing import Final, NamedTuple

HEADER_BYTES: Final = 128
WIDE_HEADER_BYTES: Final = 224


class FrameError(ValueError):
    """The bytes are not a frame for this node; `reason` names the counter that it goes under."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Header(NamedTuple):
    """A checked header."""

    kind: int
    body_length: int
    log: int
    generation: int
    cluster: int
    sender: int
    seat: int
    incarnation: int
    dest: int
    groups: int
    """Bit set of group indices, as an integer."""
    crc: int

    @property
    def start(self) -> int:
        """Where the body begins."""
        return HEADER_BYTES


class WideHeader(Header):
    """One of version 2."""

    __slots__ = ()

    @property
    def start(self) -> int:
        """Where the body begins."""
        return WIDE_HEADER_BYTES
