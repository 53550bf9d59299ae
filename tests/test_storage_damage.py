"""Torn tails are cut, at every byte; what is bad before the proven end is damage, and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paxmux.engine.storage import HardState, StorageDamaged
from paxmux.plugins.storage import scan, stop_mark
from paxmux.plugins.storage.segment import SegmentLog
from tests.storage_model import ACCEPT, IDENTITY, PROMISE, feed, hard_states, workload

SEGMENT_BYTES = 16 << 10
FIRST = "0000000000.seg"


def opened(path: Path) -> SegmentLog:
    return SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES)


def flip(path: Path, offset: int, bits: int = 0x40) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bits]))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


class Tail:
    """A log of ten synced batches, and one more that is not; and what it must be without that one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        log = opened(path)
        log.recover()
        batches = [workload(1, i) for i in range(10)]
        feed(log, batches)
        # The index makes the start of the tail the place where the scan begins.
        log._start.flusher.finish(log._synced)
        self.begin = log._offset
        last = [(ACCEPT, 0, 50, 99, 1, b"the last value"), (PROMISE, 1, 50, 99, 1, b"")]
        log.append(last)
        self.end = log._offset
        log.close(clean=False)
        self.segment = path / FIRST
        self.image = self.segment.read_bytes()
        self.without = hard_states(r for batch in batches for r in batch)
        self.whole = hard_states([r for batch in batches for r in batch] + last)

    def restore(self) -> None:
        """Put the segment back as it was."""
        overwrite(self.segment, 0, self.image)

    def check(self, expected: dict[int, HardState]) -> None:
        """Recover, go on, and recover that."""
        log = opened(self.path)
        assert log.recover() == expected
        log.append([(ACCEPT, 2, 60, 100, 1, b"after")])
        log.sync()
        log.close(clean=False)
        log = opened(self.path)
        after = expected | {2: HardState(60, (100, 1), (100, 1), b"after")}
        assert log.recover() == after
        assert log.stats()["cut_bytes"] == 0
        log.close(clean=False)
        self.restore()


@pytest.fixture
def tail(tmp_path: Path) -> Tail:
    return Tail(tmp_path / "log")


def test_the_whole_tail_is_recovered(tail: Tail) -> None:
    assert tail.end - tail.begin > 100
    tail.check(tail.whole)


def test_a_tail_torn_at_any_byte_is_cut(tail: Tail) -> None:
    last = max(i for i in range(tail.begin, tail.end) if tail.image[i])
    for offset in range(tail.begin, tail.end):
        overwrite(tail.segment, offset, bytes(tail.end - offset))
        tail.check(tail.without if offset <= last else tail.whole)


def test_a_tail_with_any_byte_wrong_is_cut(tail: Tail) -> None:
    for offset in range(tail.begin, tail.end):
        flip(tail.segment, offset, 1 << offset % 8)
        tail.check(tail.without)


def test_garbage_behind_the_end_is_cut(tail: Tail) -> None:
    garbage = b"PXB1" + bytes(range(1, 256)) * 20
    overwrite(tail.segment, tail.end, garbage)
    tail.check(tail.whole)
    log = opened(tail.path)
    overwrite(tail.segment, tail.end + 500, b"\1")
    log.recover()
    assert log.stats()["cut_bytes"] == 501
    log.close(clean=False)
    assert not any(tail.segment.read_bytes()[tail.end :])


def test_a_tail_of_many_batches_ends_at_the_first_bad_one(tail: Tail) -> None:
    log = opened(tail.path)
    log.recover()
    ends = []
    for i in range(5):
        log.append([(ACCEPT, 0, 60 + i, 100, 1, b"v%d" % i)])
        ends.append(log._offset)
    log.close(clean=False)
    flip(tail.segment, ends[1] + 40)
    log = opened(tail.path)
    assert log.recover()[0] == HardState(61, (100, 1), (100, 1), b"v1")
    assert log.read(0, 62) is None
    assert log.stats()["cut_bytes"] == ends[4] - ends[1]
    log.close(clean=True)


def damaged(path: Path, name: str, offset: int) -> None:
    """Opening the log at `path` reports damage there, and changes nothing."""
    before = {each.name: each.read_bytes() for each in path.glob("*.seg")}
    log = opened(path)
    with pytest.raises(StorageDamaged, match=rf"{name}, offset {offset}\b"):
        log.recover()
    log.close(clean=True)
    assert {each.name: each.read_bytes() for each in path.glob("*.seg")} == before
    assert not (path / "CLEAN").exists()


@pytest.mark.parametrize("zero", [False, True])
def test_any_bad_byte_before_the_proven_end_is_damage(tmp_path: Path, zero: bool) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    log.append([(ACCEPT, 0, 1, 7, 1, b"precious"), (PROMISE, 1, 1, 7, 1, b"")])
    end = log._offset
    log.sync()
    # Its header is the only proof that the batch before was durable, and it is not synced itself.
    log.append([(ACCEPT, 0, 2, 7, 1, b"witness")])
    log.close(clean=False)
    image = (path / FIRST).read_bytes()
    for offset in range(begin, end):
        shutil.rmtree(path / "index", ignore_errors=True)
        if zero and not image[offset]:
            continue
        if zero:
            overwrite(path / FIRST, offset, b"\0")
        else:
            flip(path / FIRST, offset)
        damaged(path, FIRST, begin)
        overwrite(path / FIRST, 0, image)
    log = opened(path)
    assert log.recover()[0].value == b"witness"
    log.close(clean=True)


def test_the_index_proves_what_was_durable(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    feed(log, [workload(2, i) for i in range(3)])
    log._start.flusher.finish(log._synced)
    end = log._offset
    log.close(clean=False)
    overwrite(path / FIRST, begin, bytes(end - begin))
    log = opened(path)
    # The scan starts behind the hole; what lies in it is found by whoever reads it.
    with pytest.raises(StorageDamaged, match=rf"{FIRST}, offset"):
        log.recover()
    log.close(clean=False)


def test_the_index_proves_more_than_it_covers(tmp_path: Path) -> None:
    """In the middle of a round it knows how far the log was synced, but has not stored all of that."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    feed(log, [workload(2, i) for i in range(3)])
    log._start.index.write([], [], None, log._synced, 0)
    end = log._offset
    log.close(clean=False)
    overwrite(path / FIRST, begin, bytes(end - begin))
    damaged(path, FIRST, begin)


def test_the_mark_of_a_clean_stop_proves_what_was_durable(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    feed(log, [workload(3, i) for i in range(3)])
    begin = log._offset
    feed(log, [workload(3, 3)])
    log.close(clean=True)
    shutil.rmtree(path / "index")
    flip(path / FIRST, begin + 5)
    log = opened(path)
    with pytest.raises(StorageDamaged, match=rf"{FIRST}, offset {begin}\b"):
        log.recover()
    log.close(clean=False)


def test_a_damaged_mark_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    log.close(clean=True)
    for offset in range((path / "CLEAN").stat().st_size):
        flip(path / "CLEAN", offset)
        with pytest.raises(StorageDamaged, match="CLEAN"):
            opened(path)
        flip(path / "CLEAN", offset)
    opened(path).close(clean=False)


def test_the_mark_of_another_log_is_damage(tmp_path: Path) -> None:
    stop_mark.write_mark(tmp_path, IDENTITY._replace(seat=1), 5000)
    with pytest.raises(StorageDamaged, match=r"CLEAN.*belongs to another log"):
        opened(tmp_path)


def test_a_later_segment_proves_what_was_durable(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    i = 0
    while log.stats()["segments"] < 3:
        feed(log, [workload(4, i)], sync=False)
        i += 1
    log.close(clean=False)
    image = (path / FIRST).read_bytes()
    for offset in (4096, 5000, 9000, 4096 + len(image[4096:].rstrip(b"\0")) - 1):
        shutil.rmtree(path / "index")
        flip(path / FIRST, offset)
        log = opened(path)
        with pytest.raises(StorageDamaged, match=FIRST):
            log.recover()
        log.close(clean=False)
        flip(path / FIRST, offset)
    shutil.rmtree(path / "index")
    flip(path / "0000000001.seg", 4100)
    log = opened(path)
    with pytest.raises(StorageDamaged, match=FIRST):
        log.recover()
    log.close(clean=False)


def test_proof_is_found_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked through in pieces; a header may lie across two of them."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    feed(log, [workload(2, 0)])
    log.append([(ACCEPT, 0, 1, 1, 1, b"the only witness")])
    log.close(clean=False)
    flip(path / FIRST, begin)
    for piece in range(28, 150):
        monkeypatch.setattr(scan, "PIECE_BYTES", piece)
        damaged(path, FIRST, begin)


def test_a_tail_behind_a_clean_stop_is_cut_too(tmp_path: Path) -> None:
    """The mark of the stop before must not make the torn tail of this life look like a clean end."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    feed(log, [workload(8, 0)])
    log.close(clean=True)
    log = opened(path)
    expected = log.recover()
    begin = log._offset
    for i in range(5):
        log.append([(ACCEPT, 0, 5 + i, 50, 1, b"unsynced")])
    end = log._offset
    log.close(clean=False)
    flip(path / FIRST, begin)
    log = opened(path)
    assert log.recover() == expected
    assert log.stats()["cut_bytes"] == end - begin
    log.close(clean=False)
    assert not any((path / FIRST).read_bytes()[begin:])


def test_a_segment_whose_start_is_torn_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    batches = []
    while log.stats()["segments"] < 2:
        batches.append(workload(9, len(batches), large=1000))
        feed(log, batches[-1:], sync=False)
    for i in range(10):
        log.append([(ACCEPT, 0, 900 + i, 99, 1, b"unsynced")])
    log.close(clean=False)
    second = path / "0000000001.seg"
    old = second.read_bytes()
    flip(second, 4096 + 30)
    synced: list[Path] = []
    monkeypatch.setattr("paxmux.plugins.storage.directory.sync_directory", synced.append)
    log = opened(path)
    assert log.recover() == hard_states(r for batch in batches[:-1] for r in batch)
    assert log.stats()["cut_bytes"] > 10 * 72
    assert synced == [path]
    while log.stats()["segments"] < 2:
        batches.append(workload(9, len(batches), large=1000))
        feed(log, batches[-1:])
    log.close(clean=True)
    new = second.read_bytes()
    assert new[:68] != old[:68]
    assert b"unsynced" not in new


def test_an_index_that_points_at_another_record_is_damage(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    log.recover()
    log.append([(ACCEPT, 0, 0, 1, 1, b"zero"), (ACCEPT, 0, 1, 1, 1, b"one"), (ACCEPT, 1, 1, 1, 1, b"x")])
    groups = log._start.table.groups
    groups[0].positions[0] = groups[0].positions[1]
    groups[1].positions[0] = groups[0].positions[1]
    with pytest.raises(StorageDamaged, match="group 0, instance 1 where group 0, instance 0 should be"):
        log.read(0, 0)
    with pytest.raises(StorageDamaged, match="group 0, instance 1 where group 1, instance 0 should be"):
        log.read(1, 0)
    assert log.read(0, 1) == (1, 1, b"one")
    log.close(clean=False)


def test_a_bad_value_is_never_served(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    log.append([(ACCEPT, 0, 0, 1, 1, b"value"), (ACCEPT, 0, 1, 1, 1, b"other")])
    end = log._offset
    log.sync()
    for offset in range(begin + 28, end - 41):
        flip(path / FIRST, offset)
        with pytest.raises(StorageDamaged, match=rf"{FIRST}, offset {begin + 28}\b"):
            log.read(0, 0)
        with pytest.raises(StorageDamaged, match=rf"{FIRST}, offset {begin + 28}\b"):
            log.read_range(0, 0, 2, 1000)
        assert log.read(0, 1) == (1, 1, b"other")
        flip(path / FIRST, offset)
    assert log.read(0, 0) == (1, 1, b"value")
    log.close(clean=True)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_missing_segment_is_damage(tmp_path: Path, victim: int, clean: bool) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    i = 0
    while log.stats()["segments"] < 4:
        feed(log, [workload(5, i)])
        i += 1
    log.close(clean=clean)
    name = f"{victim:010d}.seg"
    (path / name).unlink()
    with pytest.raises(StorageDamaged, match=name):
        opened(path).recover()


def test_all_segments_missing_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    feed(log, [workload(6, 0)])
    log.close(clean=False)
    for segment in path.glob("*.seg"):
        segment.unlink()
    log = opened(path)
    with pytest.raises(StorageDamaged, match=FIRST):
        log.recover()
    log.close(clean=False)


@pytest.mark.parametrize("size", [0, 40, 4096, 8000])
def test_a_shortened_segment_is_damage(tmp_path: Path, size: int) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    feed(log, [workload(7, i) for i in range(20)])
    log.close(clean=True)
    with (path / FIRST).open("r+b") as file:
        file.truncate(size)
    with pytest.raises(StorageDamaged, match=FIRST):
        opened(path)
