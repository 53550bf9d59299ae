"""A log on a disk that is full while a file says so, as a storage plugin: for nodes with real workers.

The disk refuses to allocate, as a full one does; nothing else is different.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest import mock

from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.segment import SegmentLog

FLAG = "full"
"""Beside the logs, in the data directory."""


class SmallDiskLog(SegmentLog):
    """`SegmentLog`, where allocating fails while there is a `FLAG`."""

    def __init__(self, path: Path, identity: LogIdentity, **more: Any) -> None:
        flag = path.parent.parent / FLAG
        allocate = os.posix_fallocate

        def refuse(fd: int, offset: int, length: int) -> None:
            if flag.exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            allocate(fd, offset, length)

        mock.patch.object(os, "posix_fallocate", refuse).start()
        super().__init__(path, identity, **more)
