"""A doorbell: an eventfd that wakes a process waiting in its event loop.

One doorbell belongs to one process, however many rings lead there. Ringing never blocks and is
remembered once, however often it happens; what it is about, the rings tell.
"""

from __future__ import annotations

import contextlib
import os


class Doorbell:
    """An eventfd, owned: `close` closes it."""

    def __init__(self, fd: int) -> None:
        """Adopt an eventfd, made here or inherited; it becomes non-blocking."""
        os.set_blocking(fd, False)
        self._fd = fd

    @classmethod
    def create(cls) -> Doorbell:
        """A new one, silent. Raises OSError if no descriptor is left."""
        return cls(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def fileno(self) -> int:
        """The descriptor: readable while the bell has rung and was not cleared. To be watched, or
        passed on to another process, which adopts its copy."""
        return self._fd

    def ring(self) -> None:
        """Wake the owner, now or when it goes to sleep next."""
        # A counter that cannot take one more is far from zero: the owner is awake or about to be.
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._fd, 1)

    def clear(self) -> bool:
        """Silence it; True if it had rung. To be called before the rings are read, never after:
        what arrives in between must ring again."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor; safe to call twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
