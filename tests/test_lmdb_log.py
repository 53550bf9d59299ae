"""The contract of a log over the one in plain LMDB."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paxmux.engine.storage import Log
from paxmux.plugins.storage import lmdb_open
from paxmux.plugins.storage.lmdb_log import LmdbLog
from tests.lmdb_disk import break_commits
from tests.storage_contract import LogContract
from tests.storage_model import IDENTITY


class TestLmdbLog(LogContract):
    """As in production, only smaller."""

    def open(self, path: Path, before: Log | None = None) -> Log:
        return LmdbLog(path, IDENTITY, segment_bytes=1 << 20)

    def crash(self, log: Log) -> None:
        log.close(clean=False)

    def break_disk(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        break_commits(log)


class TestSmallMap(TestLmdbLog):
    """The map is full again and again."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lmdb_open, "MAP_BYTES", 4 * os.sysconf("SC_PAGE_SIZE"))
