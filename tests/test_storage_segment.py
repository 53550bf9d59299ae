"""The contract of a log over the one on disk: with large segments, and with segments so small that
the workload rolls over all the time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from paxmux.engine.storage import Log
from paxmux.plugins.storage.segment import SegmentLog
from tests.storage_contract import LogContract
from tests.storage_model import IDENTITY


class TestSegmentLog(LogContract):
    """As in production, only smaller."""

    segment_bytes = 1 << 20

    def open(self, path: Path, before: Log | None = None) -> Log:
        return SegmentLog(path, IDENTITY, segment_bytes=self.segment_bytes)

    def crash(self, log: Log) -> None:
        log.close(clean=False)

    def break_disk(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fdatasync", fail)


class TestSmallSegments(TestSegmentLog):
    """The smallest segments there are."""

    segment_bytes = 16 << 10
