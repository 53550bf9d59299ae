"""How large a log may become: when there is no room below `storage.max_bytes`, and what that is kept for.

One segment is always made ahead. Below the limit the last one is for what makes room alone, so that a log
which is full can still forget, and move what lives out of old segments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from paxmux.engine.storage import NoRoom

OTHER_SEGMENTS: Final = 5
"""So many segments a log may have beside a new one though it has forgotten all that it can: three that
wait to be cleaned, the one that is written, and one for what is moved."""


class SizeLimit:
    """Of one log."""

    def __init__(self, path: Path, max_bytes: int, segment_bytes: int) -> None:
        """`path`: of the log, for messages. `max_bytes`: 0 for none. `segment_bytes`: of a full segment."""
        self._path = path
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes
        self._refused_bytes = 0
        """Size of the segment that there was no room for when one was needed last."""
        self.reached: str | None = None
        """In words: the log is as large as it may be."""

    def may_be_made(self, size: int, has: int) -> bool:
        """Whether a log of `has` bytes makes the next segment, of `size`; notes if it is the last one."""
        self.reached = None
        if self._max_bytes and has + max(size, self._refused_bytes) + size > self._max_bytes:
            # One more is made, if it fits: what is moved out of old segments goes there.
            self.reached = (
                f"{self._path}: {has} bytes of log, too little room for segments of {size} below"
                f" storage.max_bytes {self._max_bytes}"
            )
            return has + size <= self._max_bytes
        return True

    def refuses(self, size: int, spare: int, has: int) -> bool:
        """Whether a segment of `size` leaves a log of `has` bytes no room for one of `spare`, for what makes
        room. One that may not fit however much is forgotten is made all the same: to wait could be to wait
        for ever."""
        refused = (
            0 < self._max_bytes < has + size + spare
            and size + OTHER_SEGMENTS * self._segment_bytes <= self._max_bytes
        )
        self._refused_bytes = size if refused else 0
        return refused

    def no_room(self) -> NoRoom:
        """What to raise then."""
        return NoRoom(self.reached or f"{self._path}: no room below storage.max_bytes")
