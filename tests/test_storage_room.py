"""A disk without room for the next segment, or a limit: what a log takes in, refuses, and never loses."""

from __future__ import annotations

import errno
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from paxmux.engine.storage import HardState, LogIdentity, NoRoom, Record
from paxmux.plugins.storage import reserver, segment_file
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.plugins.storage.segment_file import SegmentFile
from tests.fault_rows import fault
from tests.storage_model import ACCEPT, FORGOTTEN, IDENTITY, LEARNED, Model, feed, hard_states, workload
from tests.test_storage_files import SMALL, opened, until


class SmallDisk:
    """Segments that cannot be made, until they can."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = True
        self.attempts = 0
        self._make = segment_file.create_segment
        monkeypatch.setattr(reserver, "create_segment", self.make)
        monkeypatch.setattr(reserver, "RETRY_S", 0.01)

    def make(
        self,
        directory: Path,
        identity: LogIdentity,
        number: int,
        size: int,
        pause: Callable[[], bool],
        fill: Callable[[], bool],
    ) -> SegmentFile:
        self.attempts += 1
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._make(directory, identity, number, size, pause, fill=fill)


def test_no_room_is_said_ahead_and_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SmallDisk(monkeypatch)
    log, model = opened(tmp_path / "log"), Model()
    log.recover()
    until(log.healthy, "no room is noticed")
    assert re.search(r"segment 1 of 16384 bytes: No space left on device", log.healthy() or "")
    feed(log, [workload(6, i) for i in range(20)], model)
    assert log.stats()["segments"] == 1
    until(lambda: disk.attempts > 5, "it is tried again")
    disk.full = False
    until(lambda: log.healthy() is None, "room is noticed")
    feed(log, [workload(6, i, large=2000) for i in range(20, 100)], model)
    assert log.stats()["segments"] > 2
    model.check(log)
    log.close(clean=True)


def test_room_that_comes_back_in_time_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last attempt is made when the space is needed, not at the last retry."""
    disk = SmallDisk(monkeypatch)
    monkeypatch.setattr(reserver, "RETRY_S", 3600.0)
    log, model = opened(tmp_path / "log"), Model()
    log.recover()
    until(log.healthy, "no room is noticed")
    disk.full = False
    feed(log, [workload(8, i, large=2000) for i in range(100)], model)
    model.check(log)
    log.close(clean=True)


def big(group: int, instance: int, size: int) -> list[Record]:
    return [(ACCEPT, group, instance, 1, 1, random.Random(instance).randbytes(size))]


@fault(
    "full file system under load", "log: a batch larger than what is left", "not taken in; later it may be"
)
@pytest.mark.parametrize("clean", [True, False])
def test_a_batch_for_which_there_is_no_room_is_not_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: bool
) -> None:
    disk = SmallDisk(monkeypatch)
    log, model = opened(tmp_path / "log"), Model()
    log.recover()
    feed(log, [workload(7, i, large=500) for i in range(5)], model)
    before = log.stats()
    for size in (SMALL, 5 * SMALL):
        for _ in range(2):
            with pytest.raises(NoRoom, match=r"no room for the log to go on.*No space left"):
                log.append(big(3, 70, size))
            assert "No space left" in (log.healthy() or "")
    assert log.stats() == before
    model.check(log)
    # What fits goes in all the same, and is durable.
    feed(log, [workload(7, 5)], model)
    disk.full = False
    until(lambda: log.healthy() is None, "room is noticed")
    feed(log, [big(3, 70, 5 * SMALL), *[workload(7, i, large=2000) for i in range(6, 60)]], model)
    model.check(log)
    log.close(clean=clean)
    log = opened(tmp_path / "log")
    assert log.recover() == hard_states(model.records())
    log.close(clean=True)


def test_a_reserved_segment_stays_where_a_larger_one_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SmallDisk(monkeypatch)
    disk.full = False
    log, model = opened(tmp_path / "log"), Model()
    log.recover()
    until(log._place.reserved_bytes, "the next segment is reserved")
    disk.full = True
    with pytest.raises(NoRoom):
        log.append(big(3, 70, 5 * SMALL))
    assert log._place.reserved_bytes() == SMALL
    # It is used by what fits into it; the larger one, which is tried on, does not come in its way.
    index = 0
    while log.stats()["segments"] == 1:
        feed(log, [workload(9, index, large=1000)], model)
        index += 1
    disk.full = False
    feed(log, [big(3, 70, 5 * SMALL), *[workload(9, index + i, large=2000) for i in range(40)]], model)
    model.check(log)
    log.close(clean=False)
    log = opened(tmp_path / "log")
    assert log.recover() == hard_states(model.records())
    log.close(clean=True)


def test_a_batch_never_takes_what_a_limit_keeps_for_making_room(tmp_path: Path) -> None:
    """Forgetting may; so the log comes back by itself, and takes the very same batch."""
    limit = 10 * SMALL
    log = SegmentLog(tmp_path / "log", IDENTITY, segment_bytes=SMALL, max_bytes=limit)
    model = Model()
    log.recover()
    instance = 0

    def fill() -> None:
        nonlocal instance
        while True:
            feed(log, [big(1, instance, 3000)], model)
            instance += 1
            log.housekeep()

    with pytest.raises(NoRoom, match=r"storage\.max_bytes"):
        fill()
    assert "storage.max_bytes" in str(log.healthy())
    assert limit - 2 * SMALL < log._segments_bytes() <= limit - SMALL
    for _ in range(3):
        with pytest.raises(NoRoom):
            log.append(big(1, instance, 3 * SMALL))
    feed(log, [[(FORGOTTEN, 1, instance - 2, 0, 0, b"")]], model)

    def settled() -> bool:
        log.housekeep()
        return log.healthy() is None

    until(settled, "room is made")
    feed(log, [big(1, instance, 3 * SMALL)], model)
    assert log._segments_bytes() <= limit
    model.check(log)
    log.close(clean=True)


def test_a_batch_that_never_fits_below_a_limit_goes_beyond_it(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "log", IDENTITY, segment_bytes=SMALL, max_bytes=6 * SMALL)
    model = Model()
    log.recover()
    feed(log, [big(1, 0, 6 * SMALL)], model)
    assert log.healthy() is not None
    model.check(log)
    log.close(clean=True)


def test_what_the_cleaner_has_no_room_to_move_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vote of a slow group, with a value that needs a segment of its own, in the oldest segment."""
    disk = SmallDisk(monkeypatch)
    disk.full = False
    log, model = opened(tmp_path / "log"), Model()
    log.recover()
    feed(log, [[(LEARNED, 5, 0, 1, 1, b"first"), *big(5, 1, 3 * SMALL)]], model)
    for instance in range(200):
        feed(log, [big(1, instance, 3000)], model)
    until(log._place.reserved_bytes, "the next segment is reserved")
    disk.full = True
    feed(log, [[(FORGOTTEN, 1, 190, 0, 0, b"")]], model)

    def refused() -> bool:
        log.housekeep()
        return "No space left" in (log.healthy() or "")

    until(refused, "the value is to be moved")
    for _ in range(20):
        log.housekeep()
    model.check(log)
    feed(log, [[(ACCEPT, 5, 1, 2, 2, b"another")]], model)
    disk.full = False
    until(lambda: log.healthy() is None, "room is noticed")
    until(lambda: log.housekeep() is None, "nothing is left to do")
    assert log.stats()["removed_segments"] > 10
    model.check(log)
    log.close(clean=False)
    log = opened(tmp_path / "log")
    assert log.recover()[5] == HardState(1, (2, 2), (2, 2), b"another")
    model.check(log)
    log.close(clean=True)
