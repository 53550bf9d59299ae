"""The contract of a log over the one in memory, and what only that one can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.engine.storage import Log, StorageDamaged
from paxmux.plugins.storage.memory import MemoryLog
from tests.storage_contract import LogContract
from tests.storage_model import ACCEPT, IDENTITY, Model, feed, workload


class TestMemoryLog(LogContract):
    """The contract."""

    def open(self, path: Path, before: Log | None = None) -> Log:
        disk = before.disk if isinstance(before, MemoryLog) else None
        return MemoryLog(path, IDENTITY, segment_bytes=1 << 20, disk=disk)

    def crash(self, log: Log) -> None:
        assert isinstance(log, MemoryLog)
        log.crash()

    def break_disk(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(log, MemoryLog)
        log.fail("the disk is gone")


@pytest.mark.parametrize("keep", [0, 1, 3, 5, 9])
def test_a_crash_loses_what_was_unsynced_but_for_a_prefix(tmp_path: Path, keep: int) -> None:
    log, model = MemoryLog(tmp_path, IDENTITY), Model()
    log.recover()
    feed(log, [workload(1, i) for i in range(4)], model)
    feed(log, [workload(1, 4 + i) for i in range(5)], model, sync=False)
    log.crash(keep)
    with pytest.raises(StorageFailed):
        log.sync()
    after = log.reopen()
    assert model.survived(after, after.recover()) == 4 + min(keep, 5)


def test_what_was_recovered_is_durable(tmp_path: Path) -> None:
    log = MemoryLog(tmp_path, IDENTITY)
    log.recover()
    log.append([(ACCEPT, 0, 0, 1, 1, b"v")])
    log.close(clean=False)
    log = log.reopen()
    assert log.recover()[0].value == b"v"
    log.crash()
    assert log.reopen().recover()[0].value == b"v"


def test_only_one_log_has_a_disk(tmp_path: Path) -> None:
    log = MemoryLog(tmp_path, IDENTITY)
    with pytest.raises(DataDirError, match="in use"):
        log.reopen()
    log.close(clean=True)
    log.reopen().close(clean=True)
    with pytest.raises(DataDirError, match="belongs to"):
        MemoryLog(tmp_path, IDENTITY._replace(seat=1), disk=log.disk)


def test_trouble_is_said_and_goes_away(tmp_path: Path) -> None:
    log = MemoryLog(tmp_path, IDENTITY)
    log.recover()
    log.trouble = "the disk is full"
    assert log.healthy() == "the disk is full"
    log.append([(ACCEPT, 0, 0, 1, 1, b"v")])
    log.trouble = None
    assert log.healthy() is None


def test_a_log_that_must_exist_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(StorageDamaged):
        MemoryLog(tmp_path, IDENTITY, create=False).recover()
    log = MemoryLog(tmp_path, IDENTITY)
    log.recover()
    log.close(clean=True)
    assert MemoryLog(tmp_path, IDENTITY, create=False, disk=log.disk).recover() == {}
