"""Lines of standard input, without blocking the event loop.

Decides how to wait for whatever stdin is: pipe, terminal and socket are watched by the loop; a file
never blocks and is read at once. Reads no further than it must, and leaves the descriptor's flags
alone, since the shell shares them.
"""

from __future__ import annotations

import asyncio
import os

_READ_BYTES = 64 * 1024


class StdinLines:
    """One reader of one descriptor. Used in one event loop only."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._buffer = bytearray()
        self._ended = False

    async def next(self) -> bytes | None:
        """The next line without its end; None after the last one. A last line needs no end."""
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line
            searched = len(self._buffer)
            if self._ended:
                line = bytes(self._buffer)
                self._buffer.clear()
                return line or None
            await self._readable()
            part = os.read(self._fd, _READ_BYTES)
            self._ended = not part
            self._buffer += part

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def on_readable() -> None:
            if not ready.done():
                ready.set_result(None)

        try:
            loop.add_reader(self._fd, on_readable)
        except PermissionError:
            # epoll refuses what is always readable: files, and the null device.
            return
        try:
            await ready
        finally:
            loop.remove_reader(self._fd)
