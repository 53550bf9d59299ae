"""Whose files these are, who may open them, and how the log goes from one segment to the next."""

from __future__ import annotations

import os
import random
import shutil
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.engine.storage import HardState, LogIdentity, StorageDamaged
from paxmux.plugins.storage import segment_file, segmented
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.scan import read_batches
from paxmux.plugins.storage.segment import SegmentLog
from tests.storage_model import (
    ACCEPT,
    IDENTITY,
    PROMISE,
    Model,
    feed,
    hard_states,
    workload,
)

SMALL = 16 << 10
DEADLINE_S = 30.0


def opened(path: Path, segment_bytes: int = SMALL, identity: LogIdentity = IDENTITY) -> SegmentLog:
    return SegmentLog(path, identity, segment_bytes=segment_bytes)


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.002)


def reserved(path: Path, number: int) -> Callable[[], bool]:
    return (path / f"{number:010d}.seg").exists


@pytest.mark.parametrize("field", LogIdentity._fields)
def test_files_of_another_owner_are_refused_by_name(tmp_path: Path, field: str) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    feed(log, [workload(1, 0)])
    log.close(clean=False)
    before = {each.name: each.read_bytes() for each in path.glob("*.seg")}
    other = IDENTITY._replace(**{field: 12345})
    with pytest.raises(
        DataDirError, match=rf"0000000000\.seg.*{field} {getattr(IDENTITY, field):#x}.*0x3039"
    ):
        opened(path, identity=other)
    assert {each.name: each.read_bytes() for each in path.glob("*.seg")} == before
    opened(path).close(clean=False)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    log.close(clean=False)
    first = path / "0000000000.seg"
    data = bytearray(first.read_bytes())
    struct.pack_into("<I", data, 8, 2)
    first.write_bytes(data)
    with pytest.raises(DataDirError, match=r"0000000000\.seg: format version 2, this program reads up to 1"):
        opened(path)
    assert first.read_bytes() == data


def test_a_header_with_any_byte_wrong_costs_nothing(tmp_path: Path) -> None:
    """What is behind it tells the salt, and so whose it is; a newer version is refused before that."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    log.append([(ACCEPT, 0, 3, 1, 1, b"value")])
    log.close(clean=False)
    first = path / "0000000000.seg"
    image = first.read_bytes()
    for offset in range(68):
        data = bytearray(image)
        data[offset] ^= 0x11
        first.write_bytes(data)
        if 8 <= offset < 12:
            with pytest.raises(DataDirError, match=r"0000000000\.seg: format version"):
                opened(path)
            continue
        log = opened(path)
        assert log.recover()[0] == HardState(3, (1, 1), (1, 1), b"value"), offset
        assert log.doubt() is None
        log.close(clean=False)


def test_a_damaged_segment_of_another_log_is_not_taken_in(tmp_path: Path) -> None:
    path, other = tmp_path / "log", tmp_path / "other"
    for place, identity in ((path, IDENTITY), (other, IDENTITY._replace(seat=1))):
        log = SegmentLog(place, identity, segment_bytes=16 << 10)
        log.recover()
        log.close(clean=False)
    data = bytearray((other / "0000000000.seg").read_bytes())
    data[60] ^= 1
    (path / "0000000000.seg").write_bytes(data)
    shutil.rmtree(path / "index")
    log = opened(path)
    with pytest.raises(StorageDamaged, match=r"no segment can be read: .*0000000000\.seg"):
        log.recover()
    log.close(clean=False)


def test_a_segment_under_another_number_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    until(reserved(path, 1), "a reserved segment")
    log.close(clean=False)
    (path / "0000000001.seg").unlink()
    (path / "0000000001.seg").write_bytes((path / "0000000000.seg").read_bytes())
    with pytest.raises(StorageDamaged, match=r"0000000001\.seg: its header says that it is segment 0"):
        opened(path)


def test_the_owner_is_named_by_its_pid(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    with pytest.raises(DataDirError, match=rf"in use by the process with pid {os.getpid()}$"):
        opened(path)
    log.close(clean=False)
    opened(path).close(clean=False)


def test_a_refused_log_gives_its_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    log.close(clean=True)
    with pytest.raises(DataDirError, match="belongs to"):
        opened(path, identity=IDENTITY._replace(seat=1))
    opened(path).close(clean=False)


@pytest.mark.parametrize("size", [0, 4096, SMALL - 1, 2**31 + 1])
def test_segment_bytes_has_bounds(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"segment_bytes {size}: expected"):
        opened(tmp_path / "log", size)
    assert not (tmp_path / "log").exists()


def test_nothing_is_left_open(tmp_path: Path) -> None:
    log = opened(tmp_path / "warm")
    log.recover()
    log.close(clean=True)
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for clean in (True, False, True):
        log = opened(tmp_path / "log")
        log.recover()
        feed(log, [workload(2, i) for i in range(300)], sync=False)
        log.sync()
        for i in range(300):
            log.read(0, i)
        log.close(clean=clean)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert not list((tmp_path / "log").glob("*.tmp"))


@pytest.mark.parametrize("clean", [True, False])
def test_rolling_over_again_and_again(tmp_path: Path, clean: bool) -> None:
    path = tmp_path / "log"
    model = Model()
    i = 0
    for segments in (10, 20, 40):
        log = opened(path)
        assert log.recover() == hard_states(model.records())
        while log.stats()["segments"] < segments:
            feed(log, [workload(3, i, large=2000)], model)
            i += 1
            log.housekeep()
        model.check(log)
        log.close(clean=clean)
    log = opened(path)
    assert log.recover() == hard_states(model.records())
    model.check(log)
    stats = log.stats()
    assert stats["disk_bytes"] >= stats["segments"] * SMALL
    log.close(clean=True)


def test_segments_grow_up_to_the_size_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmented, "FIRST_SEGMENT_BYTES", 16 << 10)
    path = tmp_path / "log"
    log = opened(path, 100 << 10)
    log.recover()
    i = 0
    while log.stats()["segments"] < 5:
        feed(log, [[(ACCEPT, 0, i, 1, 1, bytes(3000))]])
        i += 1
    log.close(clean=True)
    sizes = [each.stat().st_size >> 10 for each in sorted(path.glob("*.seg"))][:5]
    assert sizes == [16, 32, 64, 100, 100]


def test_the_hard_state_is_in_the_newest_segment(tmp_path: Path) -> None:
    """Each segment says again what older ones said about promises and votes; a value too large to
    be copied is referred to."""
    path = tmp_path / "log"
    large = bytes(range(256)) * 100
    log = opened(path, 64 << 10)
    log.recover()
    log.append([(PROMISE, 1, 3, 9, 9, b""), (ACCEPT, 2, 5, 4, 2, b"small"), (ACCEPT, 3, 6, 4, 2, large)])
    log.append([(4, 4, 7, 0, 0, b""), (ACCEPT, 5, 1, 1, 1, b"old"), (PROMISE, 5, 2, 3, 3, b"")])
    log.sync()
    expected = {
        1: HardState(3, (9, 9), (0, 0), b""),
        2: HardState(5, (4, 2), (4, 2), b"small"),
        3: HardState(6, (4, 2), (4, 2), large),
        4: HardState(8, (0, 0), (0, 0), b""),
        5: HardState(2, (3, 3), (0, 0), b""),
    }
    i = 0
    while log.stats()["segments"] < 4:
        log.append([(ACCEPT, 0, i, 1, 1, bytes(4000))])
        log.sync()
        i += 1
    log.close(clean=False)
    log = opened(path, 64 << 10)
    states = log.recover()
    del states[0]
    assert states == expected
    newest = log._segment.path.read_bytes()
    assert b"small" in newest
    assert large not in newest
    # It needs nothing older, but for the values that it refers to.
    table = GroupTable(lambda _group, _number: None)
    opening = next(read_batches(log._place.read, log._segment, segment_file.HEADER_BYTES))
    table.note(opening.records, opening.positions)
    for group, state in expected.items():
        found = table.groups[group]
        assert found.instance == state.instance
        assert (found.promised_round, found.promised_node) == state.promised
        assert (found.accepted_round, found.accepted_node) == state.accepted
        assert bool(found.accepted_at) == bool(state.value)
        if found.accepted_at:
            assert log._reader.read(found.accepted_at)[5] == state.value
            assert table.find(group, state.instance) == found.accepted_at
    log.close(clean=False)


@pytest.mark.parametrize("sizes", [[SMALL], [100_000], [10 << 20] * 3])
def test_a_batch_larger_than_a_segment(tmp_path: Path, sizes: list[int]) -> None:
    path = tmp_path / "log"
    rng = random.Random(1)
    values = [rng.randbytes(size) for size in sizes]
    log = opened(path)
    log.recover()
    log.append([(ACCEPT, 9, 0, 1, 1, b"before")])
    log.append([(ACCEPT, group, 5, 2, 2, value) for group, value in enumerate(values)])
    log.append([(ACCEPT, 9, 1, 1, 1, b"after")])
    log.sync()
    for clean in (False, True):
        log.close(clean=clean)
        log = opened(path)
        states = log.recover()
        for group, value in enumerate(values):
            assert states[group] == HardState(5, (2, 2), (2, 2), value)
            assert log.read(group, 5) == (2, 2, value)
        assert log.read(9, 0) == (1, 1, b"before")
        assert states[9].value == b"after"
    log.close(clean=True)


def test_a_reserved_segment_is_used_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    until(reserved(path, 1), "a reserved segment")
    log.close(clean=False)
    made = (path / "0000000001.seg").read_bytes()[:68]
    log = opened(path)
    log.recover()
    feed(log, [workload(5, i, large=2000) for i in range(100)])
    assert log.stats()["segments"] > 2
    log.close(clean=True)
    assert (path / "0000000001.seg").read_bytes()[:68] == made, "another one was made in its place"


def test_leftovers_of_an_unfinished_segment_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    log.close(clean=False)
    (path / "0000000007.seg.tmp").write_bytes(b"half")
    opened(path).close(clean=False)
    assert not list(path.glob("*.tmp"))


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a file")
    with pytest.raises(DataDirError, match=r"log: "):
        opened(tmp_path / "log")


def test_the_header_covers_its_fields(tmp_path: Path) -> None:
    made = segment_file.create_segment(tmp_path, IDENTITY, 3, SMALL, lambda: False)
    data = made.path.read_bytes()
    assert len(data) == SMALL
    assert struct.unpack_from("<8sIIQQQQI", data) == (b"PXMSEG\r\n", 1, 3, SMALL, *IDENTITY)
    assert crc32(data[:64]) == made.salt == struct.unpack_from("<I", data, 64)[0]
    assert not any(data[68:])
    with pytest.raises(segment_file.Stopped):
        segment_file.create_segment(tmp_path, IDENTITY, 4, SMALL, lambda: True)
    assert [each.name for each in tmp_path.iterdir()] == ["0000000003.seg"]


@pytest.mark.parametrize("filled", [0, 1, 2])
def test_a_segment_reads_as_zeros_however_much_of_it_was_filled(tmp_path: Path, filled: int) -> None:
    left = [True] * filled

    def fill() -> bool:
        return bool(left) and left.pop()

    size = 3 * segment_file.FILL_BYTES
    made = segment_file.create_segment(tmp_path, IDENTITY, 3, size, lambda: False, fill=fill)
    data = made.path.read_bytes()
    assert len(data) == size
    assert not any(data[segment_file.HEADER_BYTES :])
    assert made.path.stat().st_blocks * 512 >= size, "all of its space is reserved"
    assert segment_file.load_segment(made.path, IDENTITY) == made


def test_large_batches_are_not_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    real = os.pwrite

    def count(fd: int, data: bytes, offset: int) -> int:
        nonlocal written
        written += len(data)
        return real(fd, data, offset)

    value = bytes(256 << 10)
    log = SegmentLog(tmp_path, IDENTITY, segment_bytes=4 << 20)
    log.recover()
    # The first segments may have been ordered before it showed how large the batches are.
    for instance in range(64):
        if instance == 48:
            monkeypatch.setattr(os, "pwrite", count)
        log.append([(2, 0, instance, 1, 1, value)])
        log.sync()
    log.close(clean=True)
    assert 16 * len(value) <= written < 24 * len(value)


def test_a_log_that_must_exist_is_never_made(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path, IDENTITY, segment_bytes=SMALL, create=False)
    with pytest.raises(StorageDamaged, match="the log is not there"):
        log.recover()
    with pytest.raises(StorageFailed):
        log.append([(PROMISE, 0, 0, 1, 1, b"")])
    log.close(clean=True)
    assert not list(tmp_path.glob("*.seg"))
    made = opened(tmp_path)
    made.recover()
    made.close(clean=True)
    again = SegmentLog(tmp_path, IDENTITY, segment_bytes=SMALL, create=False)
    assert again.recover() == {}
    again.close(clean=True)
