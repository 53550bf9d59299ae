"""What comes for a group while it is between two workers: kept in order, and within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from paxmux.engine.network import Frame

HOLD_BYTES: Final = 8 * 1024 * 1024
"""Frames kept for a group that is between two workers."""


class HeldFrames:
    """Frames that wait for a group to have a worker; it takes the place of the sender of one."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.size = 0

    def send(self, data: Frame, *, droppable: bool) -> bool:
        """Keep a frame; False if there are too many."""
        if self.size + len(data) > HOLD_BYTES and droppable:
            return False
        self.frames.append(data)
        self.size += len(data)
        return True

    def send_pieces(self, pieces: Sequence[Frame], *, droppable: bool, sealed: bool) -> bool:
        """The same, as a sender has it."""
        return self.send(pieces[0], droppable=droppable)
