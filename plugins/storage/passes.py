"""When the cleaner moves what lives: in passes over the whole log, from its oldest segment to the newest.

Decides whether a pass is worth it, by an estimate of what lives that may be wrong. Were it right, each pass
would free more than it moves. Where it is too low, passes would follow each other and free nothing: so after
a pass that nothing came into and nothing was forgotten in, what is left says how wrong it is; and whatever
the reason, no more is moved than has come in, but for some bytes a second.
"""

from __future__ import annotations

from typing import Final

SPARE_SEGMENTS: Final = 3
"""A log may be larger by these than twice what lives in it."""
MOVE_BYTES_PER_S: Final = 1 << 20
"""So much is moved though nothing has come in."""


class Passes:
    """Over one log."""

    def __init__(self, segment_bytes: int) -> None:
        self._spare_bytes = SPARE_SEGMENTS * segment_bytes
        self._end: int | None = None
        """The newest segment when the pass began; None: there is none under way."""
        self._begun = 0.0
        self._live = self._taken = self._moved = 0
        """Of the last pass: what seemed to live, and what had been taken in, when it began; what it moved."""
        self._scale = 1.0
        """What lives is more than it seems by this factor."""

    def wait_s(
        self, number: int, total_bytes: int, live_bytes: int, taken_bytes: int, now: float
    ) -> float | None:
        """How long the pass must wait before it goes on, or the next one begins.

        Args:
            number: the segment that would be next.
            total_bytes: of the log, from that segment on.
            live_bytes: what seems to live in it.
            taken_bytes: what the log was given so far, beside what was moved.
            now: in seconds.

        Returns:
            None if the log is as small as it need be.
        """
        if self._end is not None and number >= self._end:
            self._end = None
            quiet = taken_bytes == self._taken and live_bytes == self._live
            self._scale = max(1.0, (total_bytes - self._spare_bytes) / max(1, live_bytes)) if quiet else 1.0
        if total_bytes <= 2 * live_bytes * self._scale + self._spare_bytes:
            return None
        if self._end is not None or taken_bytes - self._taken >= self._moved:
            return 0.0
        return max(0.0, self._begun + self._moved / MOVE_BYTES_PER_S - now)

    def begin(self, newest: int, live_bytes: int, taken_bytes: int, now: float) -> None:
        """A segment is about to be moved; nothing changes if its pass has begun before. `newest`: the number
        of the newest segment; the others as in `wait_s`."""
        if self._end is None:
            self._end = newest
            self._begun = now
            self._live, self._taken, self._moved = live_bytes, taken_bytes, 0

    def moved(self, size: int) -> None:
        """So many bytes are appended again."""
        self._moved += size
