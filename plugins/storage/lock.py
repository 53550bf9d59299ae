"""The lock that makes sure that a log has one owner, for as long as that process lives."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from paxmux.engine.errors import DataDirError

FILE = "LOCK"


class DirectoryLock:
    """Held from construction to `release`, or to the death of the process, whichever comes first."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            DataDirError: another process has it; the message names its pid.
        """
        path = directory / FILE
        # Not inherited by children, so that none of them keeps it after its parent.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise DataDirError(f"{directory}: in use by the process with pid {owner or 'unknown'}") from None
        except OSError as error:
            os.close(self._fd)
            raise DataDirError(f"{path}: cannot be locked: {error.strerror}") from error
        # In place and of one length: a full disk must not keep a log from opening.
        os.pwrite(self._fd, f"{os.getpid():<15}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Give it back. The file stays: removing it would let two owners lock two files."""
        os.close(self._fd)
