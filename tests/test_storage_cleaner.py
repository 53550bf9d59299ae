"""Room is made from what is forgotten: which segments go, what is kept, and that nothing else changes."""

from __future__ import annotations

import os
import shutil
import time
from itertools import pairwise
from pathlib import Path

import pytest

from paxmux.engine.errors import StorageFailed
from paxmux.engine.storage import HardState, Record
from paxmux.plugins.storage import cleaner, flusher, reserver
from paxmux.plugins.storage.record import OPENING, RECORD_BYTES
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.plugins.storage.segment_file import segment_path
from tests.event_loop import DEADLINE_S
from tests.storage_model import (
    ACCEPT,
    DECIDED,
    FORGOTTEN,
    IDENTITY,
    LEARNED,
    PROMISE,
    Model,
    feed,
    hard_states,
)

SEGMENT_BYTES = 16 << 10
VALUE_BYTES = 100
SIZE = RECORD_BYTES + VALUE_BYTES


@pytest.fixture(autouse=True)
def quick_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The index takes in what is new at once, not each second: nothing goes that it does not have."""
    monkeypatch.setattr(flusher, "DUE_S", 0.0)


def opened(path: Path, *, segment_bytes: int = SEGMENT_BYTES, max_bytes: int = 0) -> SegmentLog:
    return SegmentLog(path / "log", IDENTITY, segment_bytes=segment_bytes, max_bytes=max_bytes)


def fresh(path: Path, *, max_bytes: int = 0) -> SegmentLog:
    log = opened(path, max_bytes=max_bytes)
    assert log.recover() == {}
    return log


def settle(log: SegmentLog) -> None:
    """Upkeep until nothing is left to do."""
    deadline = time.monotonic() + DEADLINE_S
    while (pause := log.housekeep()) is not None:
        assert time.monotonic() < deadline
        time.sleep(min(pause, 0.01))
    while log._place.discarding_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def files(path: Path) -> list[str]:
    return sorted(each.name for each in (path / "log").glob("*.seg"))


def turn(groups: range, instance: int) -> list[Record]:
    return [(ACCEPT, group, instance, 1, 1, bytes([group]) * VALUE_BYTES) for group in groups]


def forget(groups: range, first: int) -> list[Record]:
    return [(FORGOTTEN, group, first, 0, 0, b"") for group in groups]


@pytest.mark.parametrize("clean", [True, False])
def test_segments_go_when_every_group_has_forgotten_them(tmp_path: Path, clean: bool) -> None:
    log, model, groups = fresh(tmp_path), Model(), range(5)
    most = 0
    for instance in range(600):
        feed(log, [turn(groups, instance)], model)
        if instance % 20 == 19:
            feed(log, [forget(groups, instance - 10)], model)
            settle(log)
            most = max(most, log.stats()["segments"])
    # Ten to thirty instances of five groups are some 20 KiB.
    assert most <= 4
    assert log.stats()["removed_segments"] > 20
    model.check(log)
    log.close(clean=clean)
    assert files(tmp_path)[0] != segment_path(tmp_path, 0).name
    log = opened(tmp_path)
    assert log.recover() == hard_states(model.records())
    model.check(log)
    assert [log.first(group) for group in groups] == [589] * 5
    log.close(clean=True)


def test_nothing_goes_while_nothing_is_forgotten(tmp_path: Path) -> None:
    log, model = fresh(tmp_path), Model()
    for instance in range(300):
        feed(log, [turn(range(3), instance)], model)
    settle(log)
    assert log.stats()["removed_segments"] == 0
    model.check(log)
    log.close(clean=True)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_one_slow_group_among_many_does_not_hold_the_log(tmp_path: Path, rebuilt: bool) -> None:
    """The log takes at most twice what lives in it, and three segments."""
    log, model, groups = fresh(tmp_path), Model(), range(1, 20)
    slow = 0
    for instance in range(1500):
        batch = turn(groups, instance)
        if instance % 50 == 0:
            batch += turn(range(1), slow)
            slow += 1
        feed(log, [batch], model)
        if instance % 25 == 24:
            feed(log, [forget(groups, instance - 5)], model)
            settle(log)
            live = SIZE * (slow + len(groups) * 6)
            segments = log.stats()["disk_bytes"] - log._start.index.disk_bytes() - log._place.reserved_bytes()
            assert segments <= 2 * live + 3 * SEGMENT_BYTES
    assert log.stats()["removed_segments"] > 100
    model.check(log)
    # Each value of the slow group was moved more than once, and none much more often than needed.
    assert log.stats()["records"] < 2 * len(model.records())
    log.close(clean=False)
    if rebuilt:
        shutil.rmtree(tmp_path / "log" / "index")
    log = opened(tmp_path)
    assert log.recover() == hard_states(model.records())
    assert log.read_range(0, 0, 1000, 10**6) == [(i, 1, 1, bytes(VALUE_BYTES)) for i in range(slow)]
    model.check(log)
    log.close(clean=True)


def test_an_open_vote_is_moved_as_a_vote(tmp_path: Path) -> None:
    """Also one that is too large to be copied into each new segment."""
    log, groups = fresh(tmp_path), range(1, 6)
    large = os.urandom(40_000)
    log.append([(ACCEPT, 0, 7, 3, 1, large), (PROMISE, 0, 7, 9, 2, b"")])
    log.sync()
    for instance in range(2000):
        log.append(turn(groups, instance))
        log.sync()
        if instance % 50 == 49:
            log.append(forget(groups, instance - 5))
            log.sync()
            settle(log)
    assert log.stats()["removed_segments"] > 20
    for remove in (False, True):
        log.close(clean=False)
        if remove:
            shutil.rmtree(tmp_path / "log" / "index")
        log = opened(tmp_path)
        assert log.recover()[0] == HardState(7, (9, 2), (3, 1), large)
        assert log.read(0, 7) == (3, 1, large)
    log.append([(LEARNED, 0, 7, 9, 2, b"other")])
    assert log.read(0, 7) == (9, 2, b"other")
    log.close(clean=True)


def test_a_crash_before_the_removal_only_delays_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, model, groups = fresh(tmp_path), Model(), range(5)
    for instance in range(300):
        feed(log, [turn(groups, instance)], model)
    feed(log, [forget(groups, 290)], model)
    with monkeypatch.context() as patched:
        patched.setattr(log._place, "discard", lambda segment: None)
        while log._start.table.oldest == 0:
            log.housekeep()
        oldest = log._start.table.oldest
        log.close(clean=False)
    before = files(tmp_path)
    assert before[0] == segment_path(tmp_path, 0).name
    log = opened(tmp_path)
    assert log.recover() == hard_states(model.records())
    model.check(log)
    settle(log)
    assert files(tmp_path)[0] == segment_path(tmp_path, oldest).name
    log.close(clean=True)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_segment_that_is_needed_is_missed(
    tmp_path: Path, rebuilt: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What is the oldest one needed is said in the log itself, and again by each new segment. Without it
    values are lost, and nothing else."""
    log, groups = fresh(tmp_path), range(5)
    for instance in range(300):
        feed(log, [turn(groups, instance)])
    feed(log, [forget(groups, 200)])
    settle(log)
    oldest = log._start.table.oldest
    assert oldest > 0
    log.close(clean=True)
    segment_path(tmp_path / "log", oldest).unlink()
    if rebuilt:
        shutil.rmtree(tmp_path / "log" / "index")
    log = opened(tmp_path)
    states = log.recover()
    assert segment_path(tmp_path, oldest).name in caplog.text
    assert log.stats()["damaged_records"] == 1
    assert log.doubt() is None
    assert {state.instance for state in states.values()} == {299}
    assert log.read(0, 298) is not None
    log.close(clean=False)


def test_an_index_from_before_the_removal_is_made_anew(tmp_path: Path) -> None:
    log, model, groups = fresh(tmp_path), Model(), range(5)
    for instance in range(100):
        feed(log, [turn(groups, instance)], model)
    log.close(clean=True)
    shutil.copytree(tmp_path / "log" / "index", tmp_path / "old")
    log = opened(tmp_path)
    log.recover()
    for instance in range(100, 300):
        feed(log, [turn(groups, instance)], model)
    feed(log, [forget(groups, 250)], model)
    settle(log)
    log.close(clean=True)
    shutil.rmtree(tmp_path / "log" / "index")
    (tmp_path / "old").rename(tmp_path / "log" / "index")
    log = opened(tmp_path)
    assert log.recover() == hard_states(model.records())
    model.check(log)
    log.close(clean=True)


def test_the_index_forgets_too(tmp_path: Path) -> None:
    log, groups = fresh(tmp_path), range(2)
    for instance in range(0, 12_800, 64):
        log.append([record for each in range(64) for record in turn(groups, instance + each)])
        log.sync()
        settle(log)
    before = log._start.index._env.stat()
    with log._start.index._env.begin() as txn:
        before = txn.stat(log._start.index._chunks)["entries"]
    assert before >= 200
    for first in (5_000, 12_000, 12_790):
        feed(log, [forget(groups, first)])
        for _ in range(3):
            # 64 chunks of each group go with each round.
            feed(log, [turn(groups, 12_800)])
            log._start.flusher.finish(log._synced)
    with log._start.index._env.begin() as txn:
        assert txn.stat(log._start.index._chunks)["entries"] <= 4
    log.close(clean=True)


def test_cleaning_stops_and_goes_on(tmp_path: Path) -> None:
    log, groups = fresh(tmp_path), range(5)
    log.set_cleaning(False)
    for instance in range(300):
        feed(log, [turn(groups, instance)])
    feed(log, [forget(groups, 290)])
    settle(log)
    assert log.stats()["removed_segments"] == 0
    log.set_cleaning(True)
    settle(log)
    assert log.stats()["removed_segments"] > 10
    log.close(clean=True)


def test_the_rate_is_bounded(tmp_path: Path) -> None:
    now = [0.0]
    log = SegmentLog(tmp_path / "log", IDENTITY, segment_bytes=SEGMENT_BYTES, clean_bytes_per_s=SEGMENT_BYTES)
    log._clock = lambda: now[0]
    log.recover()
    for instance in range(300):
        feed(log, [turn(range(5), instance)])
    feed(log, [forget(range(5), 290)])
    removed = []
    for second in range(20):
        now[0] = 10.0 + second
        for _ in range(100):
            log.housekeep()
        removed.append(log.stats()["removed_segments"])
    assert removed[-1] >= 10
    assert all(0 <= after - before <= 1 for before, after in pairwise(removed))
    log.close(clean=True)


def test_a_limit_is_said_in_time_and_goes_when_there_is_room(tmp_path: Path) -> None:
    limit = 20 * SEGMENT_BYTES
    log, model, groups = fresh(tmp_path, max_bytes=limit), Model(), range(5)
    instance = 0
    while log.healthy() is None:
        feed(log, [turn(groups, instance)], model)
        log.housekeep()
        instance += 1
    assert "storage.max_bytes" in str(log.healthy())
    assert limit - 2 * SEGMENT_BYTES < log._segments_bytes() <= limit - SEGMENT_BYTES
    # What is under way still has room: the reserve is what is left of the segment.
    feed(log, [turn(groups, instance)], model)
    feed(log, [forget(groups, instance - 3)], model)
    settle(log)
    assert log.healthy() is None
    model.check(log)
    for each in range(instance + 1, instance + 300):
        feed(log, [turn(groups, each), forget(groups, each - 3)], model)
        settle(log)
        assert log.healthy() is None
    assert log.stats()["disk_bytes"] - log._start.index.disk_bytes() <= limit
    model.check(log)
    log.close(clean=True)


def test_a_full_disk_is_cleaned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saying which segment is the oldest needs no new one."""
    log, model, groups = fresh(tmp_path), Model(), range(5)
    for instance in range(300):
        feed(log, [turn(groups, instance)], model)

    def full(*args: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(reserver, "create_segment", full)
        instance = 300
        while log.healthy() is None:
            feed(log, [turn(groups, instance)], model)
            instance += 1
            time.sleep(0.001)
        feed(log, [forget(groups, instance - 3)], model)
        settle(log)
        assert log.stats()["removed_segments"] > 10
    deadline = time.monotonic() + DEADLINE_S
    while log.healthy() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    model.check(log)
    log.close(clean=True)


def test_a_wrong_estimate_of_what_lives_costs_one_pass(tmp_path: Path) -> None:
    """Values that grow make what was forgotten look larger than it was."""
    log, groups = fresh(tmp_path), range(3)
    for instance in range(500):
        size = 10 if instance < 400 else 2000
        log.append([(ACCEPT, group, instance, 1, 1, bytes(size)) for group in groups])
        log.sync()
    live = 3 * 100 * (RECORD_BYTES + 2000)
    feed(log, [forget(groups, 400)])
    assert log._start.table.live_bytes < live / 2
    written = log.stats()["bytes_written"]
    for _ in range(20):
        settle(log)
        feed(log, [[(PROMISE, 0, 500, 1, 1, b"")]])
    moved = log.stats()["bytes_written"]
    assert moved - written < 3 * live
    for _ in range(20):
        settle(log)
        feed(log, [[(PROMISE, 0, 500, 1, 1, b"")]])
    assert log.stats()["bytes_written"] - moved < live / 10
    log.close(clean=True)


@pytest.mark.parametrize("needed", [False, True])
def test_a_damaged_segment_is_kept_while_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: bool
) -> None:
    monkeypatch.setattr(cleaner, "DAMAGE_WAIT_S", 0.0)
    log, groups = fresh(tmp_path), range(1, 6)
    feed(log, [turn(range(6), 0), [(DECIDED, 0, 0, 0, 0, b"")]])
    for instance in range(1, 400):
        feed(log, [turn(groups, instance)])
    # Of a group that forgets it, or of the one that does not.
    at = log._start.table.find(*((0, 0) if needed else (3, 5)))
    with open(segment_path(tmp_path / "log", 0), "r+b") as file:
        file.seek(at + 60)
        byte = file.read(1)[0]
        file.seek(at + 60)
        file.write(bytes([byte ^ 1]))
    feed(log, [forget(groups, 390)])
    for _ in range(200):
        log.housekeep()
    if needed:
        assert files(tmp_path)[0] == segment_path(tmp_path, 0).name
        assert set(log.damage()) == {(0, 0)}
        assert log.healthy() is None
        feed(log, [[(LEARNED, 0, 0, 1, 1, bytes(VALUE_BYTES))]])
    settle(log)
    assert files(tmp_path)[0] != segment_path(tmp_path, 0).name
    assert log.read(0, 0) == (1, 1, bytes(VALUE_BYTES))
    log.close(clean=True)


def test_a_removal_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log, groups = fresh(tmp_path), range(5)
    for instance in range(300):
        feed(log, [turn(groups, instance)])
    unlink = Path.unlink
    refused = []

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if len(refused) < 2 and path.suffix == ".seg":
            refused.append(path)
            raise OSError(5, "Input/output error")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(reserver, "RETRY_S", 0.01)
    monkeypatch.setattr(Path, "unlink", refuse)
    feed(log, [forget(groups, 290)])
    settle(log)
    assert len(refused) == 2
    assert "tried on: Input/output error" in caplog.text
    assert files(tmp_path)[0] == segment_path(tmp_path, log._start.table.oldest).name
    log.close(clean=True)


def test_only_the_log_itself_says_which_segment_is_the_oldest(tmp_path: Path) -> None:
    log = fresh(tmp_path)
    with pytest.raises(ValueError, match="cannot be stored"):
        log.append([(OPENING, 0, 5, 0, 0, b"")])
    log.close(clean=False)
    with pytest.raises(StorageFailed):
        log.set_cleaning(True)
