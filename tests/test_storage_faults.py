"""Writes and syncs that fail, and power that fails, at every single call."""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path

import pytest

from paxmux.engine.errors import StorageFailed
from paxmux.plugins.storage import flusher
from paxmux.plugins.storage.segment import SegmentLog
from tests.storage_disk import Disk
from tests.storage_model import IDENTITY, Model, hard_states, workload

SEGMENT_BYTES = 16 << 10


def opened(path: Path) -> SegmentLog:
    return SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES)


def run(log: SegmentLog, model: Model, batches: int, seed: int) -> None:
    """Append with a sync after each second batch; the model knows what was acknowledged."""
    for _ in range(batches):
        batch = workload(seed, len(model.batches), large=3000)
        # Before the call: a write that fails may still have reached the disk.
        model.batches.append(batch)
        log.append(batch)
        if len(model.batches) % 2 == 0:
            log.sync()
            model.synced = len(model.batches)


def run_for_ever(log: SegmentLog, model: Model, rng: random.Random) -> None:
    while True:
        run(log, model, 2, seed=9)
        if rng.random() < 0.3:
            log.housekeep()


class PowerCut(Exception):
    """Where the power fails, nothing more is done."""


def cut_after(disk: Disk, calls: int) -> None:
    """The power fails after so many more writes and syncs."""
    end = disk.calls + calls

    def cut(_name: str) -> None:
        if disk.calls >= end:
            raise PowerCut

    disk.before = cut


def power_is_back(disk: Disk, log: SegmentLog, rng: random.Random) -> SegmentLog:
    log.close(clean=False)
    disk.before = lambda _name: None
    disk.cut_power(rng)
    return opened(log._path)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_failed_call_is_the_last_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    disk = Disk(monkeypatch)
    rng = random.Random(error)
    for call in range(200):
        path = tmp_path / f"{call}"
        log, model = opened(path), Model()
        log.recover()
        disk.fail_at(call, error)
        try:
            run(log, model, 16, seed=call)
        except StorageFailed:
            calls = disk.calls
            for again in (log.sync, log.housekeep, lambda made=log: made.append([(1, 0, 1, 1, 1, b"")])):
                with pytest.raises(StorageFailed):
                    again()
            assert disk.calls == calls, "a failed write or sync was followed by another"
            log = power_is_back(disk, log, rng)
            model.survived(log, log.recover())
            log.close(clean=False)
            shutil.rmtree(path)
        else:
            log.close(clean=True)
            break
    assert 24 <= call < 199, "each call of the workload was to fail once"


def test_power_fails_at_any_call_also_during_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "DUE_S", 0.0)
    disk = Disk(monkeypatch)
    rng = random.Random(7)
    model = Model()
    log = opened(tmp_path / "log")
    log.recover()
    during_recovery = 0
    for _ in range(120):
        cut_after(disk, rng.randrange(25))
        with pytest.raises(PowerCut):
            run_for_ever(log, model, rng)
        log = power_is_back(disk, log, rng)
        while True:
            if rng.random() < 0.4:
                cut_after(disk, rng.randrange(4))
            try:
                states = log.recover()
                break
            except PowerCut:
                during_recovery += 1
                log = power_is_back(disk, log, rng)
        disk.before = lambda _name: None
        model.survived(log, states)
    assert during_recovery > 10
    model.check(log)
    log.close(clean=True)
    assert model.synced > 300


def test_old_bytes_of_a_cut_tail_never_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long unsynced tail loses its first batch; shorter batches are written in its place, so that
    they end exactly where old batches, whole on the disk, begin."""
    disk = Disk(monkeypatch)
    log = opened(tmp_path / "log")
    log.recover()
    log.append([(2, 0, 0, 1, 1, b"a")])
    log.sync()
    first = log._offset
    log.append([(2, 0, 1, 1, 1, b"lost")])
    for i in range(2, 20):
        log.append([(2, 0, i, 9, 9, b"old")])
    log.close(clean=False)
    segment = tmp_path / "log" / "0000000000.seg"
    with segment.open("r+b") as file:
        file.seek(first)
        file.write(b"\0")
    log = opened(tmp_path / "log")
    assert log.recover()[0].instance == 0
    assert log.stats()["cut_bytes"] > 18 * 60
    log.append([(2, 0, 1, 1, 1, b"shor")])
    log.sync()
    log.close(clean=False)
    log = opened(tmp_path / "log")
    states = log.recover()
    assert states == hard_states([(2, 0, 0, 1, 1, b"a"), (2, 0, 1, 1, 1, b"shor")])
    assert log.stats()["cut_bytes"] == 0
    log.close(clean=True)
    assert disk.calls > 20


def test_what_a_failed_sync_left_in_the_page_cache_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed sync the system calls pages clean that never reached the disk. Whoever recovers
    them must write them once more: a sync alone would do nothing."""
    disk = Disk(monkeypatch)
    log = opened(tmp_path / "log")
    log.recover()
    log.append([(2, 0, 0, 1, 1, b"a")])
    log.sync()
    end = log._offset
    disk.fail_at(1, errno.EIO)
    log.append([(2, 0, 1, 1, 1, b"b")])
    with pytest.raises(StorageFailed):
        log.sync()
    tail = log._offset
    log.close(clean=False)
    written: list[tuple[int, int]] = []
    real = disk._pwrite

    def watch(fd: int, data: bytes, offset: int) -> int:
        written.append((offset, offset + len(data)))
        return real(fd, data, offset)

    disk.before = lambda _name: None
    disk._pwrite = watch  # type: ignore[assignment]
    log = opened(tmp_path / "log")
    assert log.recover()[0].value == b"b"
    assert any(begin <= end and tail <= stop for begin, stop in written)
    log.close(clean=True)
