"""Makes the next segment while the current one fills, and removes old ones, in a thread of its own.

The thread only ever touches files that the log does not use yet, and it works in small synced
pieces with pauses, so that a sync of the log is not starved. A failure is not fatal here: it is
said in `trouble`, tried again now and then, and becomes an error only when the space is needed.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from pathlib import Path
from typing import Final

from paxmux.engine.errors import StorageFailed
from paxmux.engine.storage import LogIdentity, NoRoom
from paxmux.plugins.storage.segment_file import SegmentFile, Stopped, create_segment, sync_directory

PAUSE_S: Final = 0.002
"""After each piece; segments grow by some 100 MB/s, and faster while the log waits for one."""
RETRY_S: Final = 1.0
ALIVE_CHECK_S: Final = 0.5

_log = logging.getLogger("paxmux.storage")


class Reserver:
    """One segment ahead of a log, and those behind it."""

    def __init__(self, directory: Path, identity: LogIdentity) -> None:
        self.trouble: str | None = None
        """Why the next segment cannot be made, in words; None while all is well."""
        self._directory = directory
        self._identity = identity
        self._changed = threading.Condition()
        self._wanted: tuple[int, int] | None = None
        self._ready: SegmentFile | None = None
        self._making = False
        """The thread is making one: its file takes the place of a ready one of the same number."""
        self._unwanted: deque[SegmentFile] = deque()
        self._warned = False
        self._failures = 0
        self._fill = True
        self._hurry = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="segment-reserver", daemon=True)

    def start(self, ready: SegmentFile | None) -> None:
        """Start the thread; `ready` is a reserved segment that an earlier life left."""
        self._ready = ready
        self._thread.start()

    def request(self, number: int, size: int, *, fill: bool) -> None:
        """Make segment `number` of `size` bytes, unless one is ready; `fill` it unless somebody waits."""
        with self._changed:
            self._fill = fill
            if self._ready is None:
                self._wanted = (number, size)
                self._changed.notify_all()

    def take(self, number: int, size: int, least: int) -> SegmentFile:
        """The reserved segment; waits until there is one. One that is too small stays until a larger one
        has taken its place.

        Args:
            number: of the segment.
            size: bytes of the segment to make if there is none that will do.
            least: bytes that one must have to do.

        Raises:
            NoRoom: it could not be made, not even at a last attempt now. It is tried on.
            StorageFailed: nobody makes segments any more.
        """
        with self._changed:
            if not self._fits(least) and (self._wanted is None or self._wanted[1] < least):
                self._wanted = (number, size)
            failures = self._failures
            self._hurry = True
            self._changed.notify_all()
            while self._making or not self._fits(least):
                if self._failures > failures and not self._making:
                    raise NoRoom(f"no room for the log to go on: {self.trouble}")
                if not self._thread.is_alive():
                    raise StorageFailed(f"{self._directory}: nobody makes segments any more")
                self._changed.wait(ALIVE_CHECK_S)
            segment, self._ready = self._ready, None
            assert segment is not None
            # A larger one of this number is not needed any more.
            self._wanted = self.trouble = None
            self._hurry = False
            return segment

    def _fits(self, least: int) -> bool:
        return self._ready is not None and self._ready.size >= least

    def discard(self, segment: SegmentFile) -> None:
        """Remove a segment, durably, before any that is given later."""
        with self._changed:
            self._unwanted.append(segment)
            self._changed.notify_all()

    def unwanted_bytes(self) -> int:
        """Size of the segments that are still to be removed."""
        with self._changed:
            return sum([segment.size for segment in self._unwanted])

    def ready_bytes(self) -> int:
        """Size of the segment that is ready, 0 if none is."""
        ready = self._ready
        return ready.size if ready is not None else 0

    def stop(self) -> None:
        """Stop the thread; an unfinished segment is removed."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._wanted is None and not self._unwanted and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
            if self._unwanted and not self._remove():
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or self._wanted is not None, RETRY_S)
            with self._changed:
                if self._wanted is None:
                    continue
                number, size = wanted = self._wanted
                self._making = True
            try:
                segment = create_segment(
                    self._directory, self._identity, number, size, self._pause, fill=self._worth_filling
                )
            except Stopped:
                return
            except OSError as error:
                self._failed(
                    f"{self._directory}: segment {number} of {size} bytes: {error.strerror or error}"
                )
                continue
            with self._changed:
                self._making = False
                self.trouble = None
                self._ready = segment
                # A larger one may have been asked for meanwhile.
                if self._wanted == wanted:
                    self._wanted = None
                self._changed.notify_all()

    def _failed(self, reason: str) -> None:
        with self._changed:
            self._making = False
            self.trouble = reason
            self._failures += 1
            self._hurry = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._hurry or self._stopping or bool(self._unwanted), RETRY_S)

    def _remove(self) -> bool:
        """Remove the first segment that is not wanted; False if that is to be tried again."""
        segment = self._unwanted[0]
        try:
            segment.path.unlink(missing_ok=True)
            # Before the next one goes: a hole between segments would pass for a lost one.
            sync_directory(self._directory)
        except OSError as error:
            if not self._warned:
                _log.warning("%s: cannot be removed, tried on: %s", segment.path, error.strerror or error)
            self._warned = True
            return False
        self._warned = False
        with self._changed:
            self._unwanted.popleft()
        return True

    def _worth_filling(self) -> bool:
        return self._fill and not self._hurry

    def _pause(self) -> bool:
        if self._hurry:
            return self._stopping
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._hurry, PAUSE_S)
            return self._stopping
