"""The scrub: what has rotted unread is found, told of once, and costs what it may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage import losses, scrub
from paxmux.plugins.storage.directory import Directory
from paxmux.plugins.storage.record import OFFSET_BITS, OFFSET_MASK
from paxmux.plugins.storage.segment_file import HEADER_BYTES, segment_path
from paxmux.plugins.storage.segmented import SegmentedLog
from tests.storage_model import ACCEPT, FORGOTTEN, IDENTITY, LEARNED

SEGMENT_BYTES = 16 << 10
RATE = 1 << 20
INSTANCES = 200


class Clock:
    """Passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(path: Path, clock: Clock, rate: int = RATE) -> SegmentedLog:
    log = SegmentedLog(
        path,
        Directory(path, IDENTITY),
        segment_bytes=SEGMENT_BYTES,
        create=True,
        clock=clock,
        scrub_bytes_per_s=rate,
    )
    log.recover()
    return log


def filled(path: Path, clock: Clock, rate: int = RATE) -> SegmentedLog:
    """Two groups, some values large, over several segments."""
    log = opened(path, clock, rate)
    for instance in range(INSTANCES):
        log.append([(ACCEPT, group, instance, 1, 1, b"%d" % instance * 100) for group in (0, 7)])
        log.sync()
    assert log.stats()["segments"] > 3
    return log


def keep_house(log: SegmentedLog, clock: Clock, seconds: float) -> None:
    """Let it do all its upkeep for a while."""
    end = clock.now + seconds
    while clock.now < end:
        pause = log.housekeep()
        if pause is None:
            return
        clock.now += max(pause, 1e-4)


def place_of(log: SegmentedLog, group: int, instance: int) -> tuple[int, int]:
    at = log._start.table.find(group, instance)
    return at >> OFFSET_BITS, at & OFFSET_MASK


def flip(path: Path, segment: int, offset: int) -> None:
    file = segment_path(path, segment)
    with file.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def test_a_healthy_log_is_read_whole_and_nothing_is_found(tmp_path: Path) -> None:
    clock = Clock()
    log = filled(tmp_path, clock)
    keep_house(log, clock, 60)
    stats = log.stats()
    assert (stats["damaged_records"], stats["scrub_rounds"]) == (0, 1)
    closed = [number for number in log._segments if number < log._segment.number]
    full = sum(log._scrub._end_of(log._segments[number]) - HEADER_BYTES for number in closed)
    assert stats["scrubbed_bytes"] == full
    assert log.damage() == []
    log.close(clean=True)


def test_every_bad_value_is_found_and_told_of_once(tmp_path: Path) -> None:
    clock = Clock()
    log = filled(tmp_path, clock)
    lost = [(0, 3), (7, 3), (7, 60), (0, INSTANCES // 2)]
    for group, instance in lost:
        segment, offset = place_of(log, group, instance)
        assert segment < log._segment.number
        flip(tmp_path, segment, offset + 50)
    keep_house(log, clock, 60)
    assert sorted(log.damage()) == sorted(lost)
    assert log.damage() == []
    assert log.stats()["damaged_records"] == 3, "two of them are in one batch"
    for group, instance in lost:
        with pytest.raises(StorageDamaged):
            log.read(group, instance)
    log.append([(LEARNED, group, instance, 1, 1, b"again") for group, instance in lost])
    log.sync()
    clock.now += 2 * scrub.ROUND_S
    keep_house(log, clock, 60)
    assert log.stats()["scrub_rounds"] >= 2
    assert log.damage() == [], "what is there again is no loss"
    assert log.read(7, 60) == (1, 1, b"again")
    log.close(clean=True)


def test_a_bad_header_loses_no_value_that_can_be_read(tmp_path: Path) -> None:
    clock = Clock()
    log = filled(tmp_path, clock)
    segment, offset = place_of(log, 0, 3)
    flip(tmp_path, segment, offset - 20)
    keep_house(log, clock, 60)
    assert log.stats()["damaged_records"] == 1
    assert log.damage() == []
    log.close(clean=True)


def test_a_wiped_piece_of_a_segment_is_found_whole(tmp_path: Path) -> None:
    clock = Clock()
    log = filled(tmp_path, clock)
    segment, first = place_of(log, 0, 5)
    last = max(i for i in range(5, INSTANCES) if place_of(log, 0, i)[0] == segment)
    size = place_of(log, 0, last)[1] - first
    with segment_path(tmp_path, segment).open("r+b") as file:
        file.seek(first)
        file.write(bytes(size))
    keep_house(log, clock, 60)
    assert sorted(log.damage()) == sorted((group, i) for group in (0, 7) for i in range(5, last))
    log.close(clean=True)


def test_what_is_forgotten_is_no_loss(tmp_path: Path) -> None:
    clock = Clock()
    log = filled(tmp_path, clock)
    segment, offset = place_of(log, 0, 3)
    log.append([(FORGOTTEN, 0, 4, 0, 0, b"")])
    log.sync()
    flip(tmp_path, segment, offset + 50)
    keep_house(log, clock, 60)
    assert log.stats()["damaged_records"] == 1
    assert log.damage() == []
    log.close(clean=True)


def test_a_long_search_pauses_and_comes_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "SLICE_CHUNKS", 1)
    clock = Clock()
    log = filled(tmp_path, clock)
    segment, offset = place_of(log, 7, 3)
    flip(tmp_path, segment, offset + 50)
    slices = 0
    while not log._losses.busy:
        clock.now += log.housekeep() or 0.0
    while log._losses.busy:
        log.housekeep()
        slices += 1
    assert slices > 2
    assert log.damage() == [(7, 3)]
    log.close(clean=True)


def test_the_rate_is_kept(tmp_path: Path) -> None:
    clock = Clock()
    log = filled(tmp_path, clock, rate=1024)
    begun = clock.now
    keep_house(log, clock, 30)
    read = log.stats()["scrubbed_bytes"]
    assert read > 0
    # One slice is ahead of it: it is paid for afterwards.
    assert read <= (clock.now - begun) * 1024 + scrub.SLICE_BYTES
    log.close(clean=True)


def test_a_rate_of_zero_is_off(tmp_path: Path) -> None:
    clock = Clock()
    log = filled(tmp_path, clock, rate=0)
    segment, offset = place_of(log, 0, 3)
    flip(tmp_path, segment, offset + 50)
    keep_house(log, clock, 60)
    assert log.stats()["scrubbed_bytes"] == 0
    assert log.housekeep() is None
    log.close(clean=True)


def test_rounds_of_a_small_log_leave_pauses(tmp_path: Path) -> None:
    clock = Clock()
    log = filled(tmp_path, clock)
    keep_house(log, clock, scrub.ROUND_S - 1)
    assert log.stats()["scrub_rounds"] == 1
    keep_house(log, clock, scrub.ROUND_S)
    assert log.stats()["scrub_rounds"] == 2
    log.close(clean=True)


def test_the_segment_in_use_is_left_alone(tmp_path: Path) -> None:
    clock = Clock()
    log = opened(tmp_path, clock)
    log.append([(ACCEPT, 0, 0, 1, 1, b"v" * 100)])
    log.sync()
    segment, offset = place_of(log, 0, 0)
    flip(tmp_path, segment, offset + 50)
    keep_house(log, clock, 60)
    assert (log.stats()["scrubbed_bytes"], log.stats()["damaged_records"]) == (0, 0)
    log.close(clean=False)


def test_memory_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, offset, length, advice: asked.append((offset, length))
    )
    clock = Clock()
    log = filled(tmp_path, clock)
    keep_house(log, clock, 60)
    assert sum(length for _, length in asked) == log.stats()["scrubbed_bytes"]
    log.close(clean=True)
