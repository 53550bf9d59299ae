"""Torn tails are cut, at every byte; what is bad before the proven end is a gap, named, and gone round."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from paxmux.engine.errors import StorageFailed
from paxmux.engine.storage import HardState, StorageDamaged
from paxmux.plugins.storage import scan, stop_mark
from paxmux.plugins.storage.segment import SegmentLog
from tests.event_loop import DEADLINE_S
from tests.storage_model import (
    ACCEPT,
    CLEARED,
    IDENTITY,
    LEARNED,
    PROMISE,
    SYSTEM,
    Model,
    feed,
    hard_states,
    values,
    workload,
)

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


def gone_on(path: Path, name: str, offset: int) -> SegmentLog:
    """The log at `path` finds a gap there, and goes on behind it: all of it is in doubt, what was there is as
    it was, and the next start knows of it without another look."""
    before = {each.name: each.read_bytes() for each in path.glob("*.seg")}
    log = opened(path)
    states = log.recover()
    assert f"{name}, offset {offset}:" in (log.doubt() or "")
    assert all(state.suspect for state in states.values())
    for each, data in before.items():
        # But for the one that was made ahead.
        if data[4096:].strip(b"\0"):
            assert (path / each).read_bytes()[: len(data.rstrip(b"\0"))] == data.rstrip(b"\0")
    log.close(clean=False)
    for index in (True, False):
        if not index:
            shutil.rmtree(path / "index")
        again = opened(path)
        assert again.recover() == states
        assert again.doubt() is not None
        again.close(clean=False)
    log = opened(path)
    log.recover()
    assert not (path / "CLEAN").exists()
    return log


def copied(path: Path, to: Path, *, index: bool = True) -> Path:
    """A copy, to be damaged."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(path, to)
    if not index:
        shutil.rmtree(to / "index")
    return to


@pytest.mark.parametrize("zero", [False, True])
def test_any_bad_byte_before_the_proven_end_is_a_gap(tmp_path: Path, zero: bool) -> None:
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
        if zero and not image[offset]:
            continue
        other = copied(path, tmp_path / "other", index=False)
        if zero:
            overwrite(other / FIRST, offset, b"\0")
        else:
            flip(other / FIRST, offset)
        log = gone_on(other, FIRST, begin)
        assert log.read(0, 2) == (7, 1, b"witness"), "what is behind the gap is there"
        assert log.read(0, 1) is None
        log.close(clean=False)
    log = opened(path)
    assert log.recover()[0].value == b"witness"
    log.close(clean=True)


def test_a_value_that_the_index_covers_is_lost_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    batches = [workload(2, i) for i in range(3)]
    feed(log, batches)
    log._start.flusher.finish(log._synced)
    end = log._offset
    log.close(clean=False)
    overwrite(path / FIRST, begin, bytes(end - begin))
    log = opened(path)
    expected = {
        group: state._replace(value=b"", lost=True) if state.accepted != (0, 0) else state
        for group, state in hard_states(record for batch in batches for record in batch).items()
    }
    # The scan starts behind the hole; what lies in it is found by whoever reads it.
    assert log.recover() == expected
    assert any(state.lost for state in expected.values())
    assert log.doubt() is None
    assert log.stats()["damaged_records"] == sum(state.lost for state in expected.values())
    log.close(clean=False)


def test_the_index_proves_more_than_it_covers(tmp_path: Path) -> None:
    """In the middle of a round it knows how far the log was synced, but has not stored all of that."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    feed(log, [workload(2, i) for i in range(3)])
    log._start.index.write([], [], None, log._synced, 0, False, 0)
    end = log._offset
    log.close(clean=False)
    overwrite(path / FIRST, begin, bytes(end - begin))
    gone_on(path, FIRST, begin).close(clean=False)


def test_what_the_index_proves_outlives_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies after it has set the index aside, before it has said what is lost."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    feed(log, [workload(2, i) for i in range(3)])
    log._start.flusher.finish(log._synced)
    feed(log, [workload(2, 3)])
    log._start.index.write([], [], None, log._synced, 0, False, 0)
    log.close(clean=False)
    flip(path / FIRST, log._offset - 5)
    log = opened(path)
    with monkeypatch.context() as patched:
        patched.setattr(SegmentLog, "_roll", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "no room")))
        with pytest.raises(StorageFailed, match="no room"):
            log.recover()
    log.close(clean=False)
    log = opened(path)
    assert all(state.suspect for state in log.recover().values())
    assert log._offset > begin
    log.close(clean=False)


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
    gone_on(path, FIRST, begin).close(clean=False)


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


def test_a_segment_opened_behind_damage_says_all_promises_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log, model = opened(path), Model()
    log.recover()
    while log.stats()["segments"] < 3:
        feed(log, [workload(4, len(model.batches))], model, sync=False)
    log.close(clean=False)
    expected = hard_states(model.records())
    image = (path / FIRST).read_bytes()
    last = 4096 + len(image[4096:].rstrip(b"\0")) - 1
    for name, offset in [(FIRST, each) for each in (4096, 5000, 9000, last)] + [("0000000001.seg", 4100)]:
        other = copied(path, tmp_path / "other", index=False)
        flip(other / name, offset)
        log = opened(other)
        assert log.recover() == expected
        assert log.doubt() is None
        assert log.stats()["damaged_records"] == 1
        wrong = [key for key, value in values(model.records()).items() if log.read(*key) not in (value, None)]
        assert wrong == []
        log.close(clean=False)


def test_a_value_that_was_superseded_in_a_gap_is_not_shown(tmp_path: Path) -> None:
    """What is known of an open instance before a gap may be what was not decided."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    log.append([(ACCEPT, 0, 5, 1, 1, b"not decided")])
    log.sync()
    begin = log._offset
    log.append([(LEARNED, 0, 5, 2, 2, b"decided")])
    log.sync()
    log.append([(ACCEPT, 0, 6, 2, 2, b"next")])
    log.sync()
    log.append([(PROMISE, 1, 0, 1, 1, b"")])
    log.close(clean=False)
    shutil.rmtree(path / "index")
    flip(path / FIRST, begin + 40)
    log = gone_on(path, FIRST, begin)
    assert log.read(0, 5) is None
    assert log.read(0, 6) == (2, 2, b"next")
    log.close(clean=False)


def test_two_gaps_and_a_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begins = []
    for instance in range(8):
        begins.append(log._offset)
        log.append([(ACCEPT, instance, 0, 1, 1, b"%d" % instance)])
        if instance < 6:
            log.sync()
    log.close(clean=False)
    shutil.rmtree(path / "index")
    for instance in (1, 3, 4, 6):
        flip(path / FIRST, begins[instance] + 3)
    log = opened(path)
    states = log.recover()
    assert sorted(states) == [0, 2, 5]
    assert log.stats()["damaged_records"] == 2, "two bad batches side by side are one gap"
    assert all(state.suspect for state in states.values())
    log.close(clean=False)


def test_a_doubt_ends_group_by_group_for_good(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    feed(log, [workload(2, i) for i in range(3)])
    log.close(clean=False)
    shutil.rmtree(path / "index")
    flip(path / FIRST, begin)
    log = gone_on(path, FIRST, begin)
    log.append([(CLEARED, 1, 50, 90, 3, b""), (SYSTEM, 1, 50, 0, 0, b"told")])
    log.sync()
    for way in ("crash", "rebuild", "roll", "rebuild"):
        if way == "roll":
            number = log._segment.number
            while log._segment.number == number:
                log.append([(LEARNED, 9, 0, 1, 1, b"x" * 1000)])
            log.sync()
        log.close(clean=False)
        if way == "rebuild":
            shutil.rmtree(path / "index")
        log = opened(path)
        states = log.recover()
        assert states[1] == HardState(50, (90, 3), (0, 0), b"", system=b"told", system_from=50)
        assert states[0].suspect
        assert log.doubt() is not None
    log.close(clean=True)


def test_proof_is_found_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked through in pieces; a header may lie across two of them."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    begin = log._offset
    feed(log, [workload(2, 0)])
    log.append([(ACCEPT, 0, 1, 1, 1, b"the only witness")])
    log.close(clean=False)
    shutil.rmtree(path / "index")
    flip(path / FIRST, begin)
    for piece in range(28, 150):
        monkeypatch.setattr(scan, "PIECE_BYTES", piece)
        other = copied(path, tmp_path / "other")
        log = gone_on(other, FIRST, begin)
        assert log.read(0, 1) == (1, 1, b"the only witness")
        log.close(clean=False)


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


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.parametrize("how", ["missing", "empty", "header", "short", "other magic"])
def test_a_lost_segment_costs_values_or_a_doubt(
    tmp_path: Path, victim: int, clean: bool, index: bool, how: str
) -> None:
    path = tmp_path / "log"
    log, model = opened(path), Model()
    log.recover()
    while log.stats()["segments"] < 3:
        feed(log, [workload(5, len(model.batches))], model)
    for _ in range(20):
        feed(log, [workload(5, len(model.batches))], model)
    # After a crash it may be all that speaks of the newest one: a thread makes it, as soon as that is opened.
    deadline = time.monotonic() + DEADLINE_S
    while not (path / "0000000003.seg").exists():
        assert time.monotonic() < deadline, "the next segment is not made"
        time.sleep(0.001)
    log.close(clean=clean)
    expected, known = hard_states(model.records()), values(model.records())
    if not index:
        shutil.rmtree(path / "index")
    file = path / f"{victim:010d}.seg"
    if how == "missing":
        file.unlink()
    elif how == "other magic":
        overwrite(file, 0, b"PXMSEG\r\0" + bytes(68))
        overwrite(file, 4096, bytes(64))
    else:
        with file.open("r+b") as opened_file:
            opened_file.truncate({"empty": 0, "header": 4096, "short": 5000}[how])
    log = opened(path)
    states = log.recover()
    # After a clean stop the index has all that was promised, and the segment has lost values alone.
    if victim < 2 or (how == "short" and clean and index):
        assert {group: state._replace(value=b"", lost=False) for group, state in states.items()} == {
            group: state._replace(value=b"") for group, state in expected.items()
        }
        assert log.doubt() is None
    else:
        assert all(state.suspect for state in states.values())
        assert file.name in (log.doubt() or "")
    for key, value in known.items():
        try:
            assert log.read(*key) in (value, None)
        except StorageDamaged:
            continue
    feed(log, [[(ACCEPT, 0, 900, 99, 1, b"on")]])
    log.close(clean=False)
    log = opened(path)
    assert log.recover()[0].instance == 900
    assert log.read(0, 900) == (99, 1, b"on")
    log.close(clean=True)


def test_a_log_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    """Whoever made it once must not begin anew."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    feed(log, [workload(6, 0)])
    log.close(clean=False)
    shutil.rmtree(path / "index")
    for file in path.glob("*.seg"):
        with file.open("r+b") as segment:
            segment.truncate(0)
    log = opened(path)
    with pytest.raises(StorageDamaged, match=r"no segment can be read: .*0000000000\.seg"):
        log.recover()
    log.close(clean=False)
    shutil.rmtree(path)
    blank = opened(path)
    blank.recover()
    blank.close(clean=False)
    shutil.rmtree(path / "index")
    overwrite(path / FIRST, 4096, bytes(64))
    log = SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES, create=False)
    with pytest.raises(StorageDamaged, match="must not vote in its present seat again"):
        log.recover()
    log.close(clean=False)


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
