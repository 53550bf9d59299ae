"""Walking through a log that nobody locks: tails, damage, and files that come and go."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import LogIdentity, Record
from paxmux.plugins.storage import segment_file
from paxmux.plugins.storage.record import BATCH_BYTES, OPENS_SEGMENT, RECORD_BYTES, position
from paxmux.plugins.storage.scan import Batch
from paxmux.plugins.storage.segment_file import HEADER_BYTES
from paxmux.tools.log.directory import LogDirectory
from paxmux.tools.log.group import Value
from paxmux.tools.log.groups import Groups
from paxmux.tools.log.read import LogReading
from paxmux.tools.log.walk import Begin, Damage, Event, Removed, Reserved, Tail, Used, Walk
from tests.batches import encode_batch
from tests.command import DEADLINE_S
from tests.log_world import SEGMENT_BYTES, Replica, replica, walked
from tests.storage_model import ACCEPT, IDENTITY, LEARNED
from tests.test_storage_damage import flip, overwrite


def damage(events: list[Event]) -> list[str]:
    return [event.words for event in events if isinstance(event, Damage)]


def tails(events: list[Event]) -> list[Tail]:
    return [event for event in events if isinstance(event, Tail)]


def batches(events: list[Event]) -> list[Batch]:
    return [event for event in events if isinstance(event, Batch)]


def ours(events: list[Event]) -> list[Record]:
    """The records that were appended, without what segments begin with."""
    return [record for batch in batches(events) if not batch.flags for record in batch.records]


def decided(reading: LogReading) -> tuple[dict[tuple[int, int], bytes], list[object]]:
    """Every decided value by (group, instance), and what else the reading found."""
    values: list[Value] = []
    findings: list[object] = list(reading.read(values.extend))
    return {(value.group, value.instance): value.value for value in values}, findings


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    made = replica(tmp_path_factory.mktemp("master") / "node").fill(200).settle().close()
    assert len(made.segments()) > 4
    return made


@pytest.fixture
def full(master: Replica, tmp_path: Path) -> Replica:
    """A replica with several segments, cleanly stopped."""
    return master.copy(tmp_path / "node")


def test_every_record_comes_in_order(tmp_path: Path) -> None:
    made = replica(tmp_path / "node")
    written: list[Record] = []
    append = made.write
    made.write = lambda records, **more: (written.extend(records), append(records, **more))[1]  # type: ignore[assignment]
    made.fill(150).close()
    events = walked(made.log())
    assert ours(events) == written
    assert damage(events) == []
    assert tails(events) == []


def test_segments_come_with_their_use_and_the_reserved_one_as_such(full: Replica) -> None:
    events = walked(full.log())
    begun = [event.segment.number for event in events if isinstance(event, Begin)]
    reserved = [event.segment.number for event in events if isinstance(event, Reserved)]
    assert begun == list(range(len(begun)))
    assert begun + reserved == [int(path.stem) for path in full.segments()]
    for event in events:
        if isinstance(event, Used):
            mine = [b for b in batches(events) if b.positions[0] >> 32 == event.segment.number]
            assert event.end == mine[-1].end
            assert event.end <= event.segment.size


def test_a_tail_torn_at_any_byte_is_a_tail(tmp_path: Path) -> None:
    made = replica(tmp_path / "node").fill(5)
    begin = made.open[0]._offset
    made.fill(1, seed=2, sync=False)
    end = made.open[0]._offset
    made.close(clean=False)
    segment = made.segments()[0]
    image = segment.read_bytes()
    whole = ours(walked(made.log()))
    last = max(i for i in range(begin, end) if image[i])
    assert end - begin > 100
    for offset in range(begin, end):
        overwrite(segment, offset, bytes(end - offset))
        events = walked(made.log())
        assert damage(events) == []
        if offset > last:
            assert ours(events) == whole
        else:
            assert len(ours(events)) < len(whole)
            length = max((i + 1 - begin for i in range(begin, offset) if image[i]), default=0)
            assert tails(events) == ([Tail(segment, begin, length)] if length else [])
        overwrite(segment, begin, image[begin:end])


def test_what_the_mark_of_a_clean_stop_proves_is_no_tail(full: Replica) -> None:
    with Walk(full.log()) as walk:
        events = list(walk.events())
        assert walk.clean
    last = batches(events)[-1]
    segment = full.segments()[last.positions[0] >> 32]
    overwrite(segment, last.begin, bytes(last.end - last.begin))
    found = damage(walked(full.log()))
    assert len(found) == 1
    assert f"{segment}, offset {last.begin}: no good batch, though" in found[0]


def test_a_bad_record_is_named_and_the_others_of_its_batch_are_read(full: Replica) -> None:
    before = walked(full.log())
    batch = next(b for b in batches(before) if len(b.records) == 3 and not b.flags and b.positions[0] >> 32)
    number, offset = batch.positions[1] >> 32, batch.positions[1] & 0xFFFFFFFF
    flip(full.segments()[number], offset + RECORD_BYTES + 3)
    events = walked(full.log())
    assert damage(events) == [
        f"{full.segments()[number]}, offset {offset}: the CRC of the record does not match"
    ]
    expected = ours(before)
    expected.remove(batch.records[1])
    assert ours(events) == expected


def test_behind_a_bad_batch_header_the_next_batch_is_found(full: Replica) -> None:
    before = walked(full.log())
    batch = [b for b in batches(before) if not b.flags][40]
    segment = full.segments()[batch.positions[0] >> 32]
    flip(segment, batch.begin + 5)
    events = walked(full.log())
    assert len(damage(events)) == 1
    assert f"{segment}, offset {batch.begin}: no good batch" in damage(events)[0]
    assert len(batches(before)) - len(batches(events)) == 1
    assert [record for record in ours(before) if record not in batch.records] == ours(events)


def test_a_length_that_is_bad_costs_the_rest_of_its_batch_alone(full: Replica) -> None:
    before = walked(full.log())
    batch = next(b for b in batches(before) if len(b.records) == 3 and not b.flags)
    segment = full.segments()[batch.positions[0] >> 32]
    flip(segment, (batch.positions[0] & 0xFFFFFFFF) + 7)
    events = walked(full.log())
    assert len(damage(events)) == 1
    assert [record for record in ours(before) if record not in batch.records] == ours(events)


def test_a_missing_segment_is_named(full: Replica) -> None:
    full.segments()[2].unlink()
    events = walked(full.log())
    missing = full.segments()[0].with_name("0000000002.seg")
    assert damage(events) == [f"{missing}: missing, though later ones exist"]
    assert [event.segment.number for event in events if isinstance(event, Begin)][:3] == [0, 1, 3]


def test_a_missing_first_segment_is_named(full: Replica) -> None:
    first = full.segments()[0]
    first.unlink()
    assert damage(walked(full.log())) == [f"{first}: missing, though it is needed"]


def test_a_missing_last_segment_is_named(full: Replica) -> None:
    events = walked(full.log())
    last = [event.segment for event in events if isinstance(event, Begin)][-1]
    for path in full.segments()[last.number :]:
        path.unlink()
    found = damage(walked(full.log()))
    assert len(found) == 1
    assert f"though the log was durable up to segment {last.number}" in found[0]


def test_all_segments_missing_is_damage(full: Replica) -> None:
    for path in full.segments():
        path.unlink()
    assert damage(walked(full.log())) == [
        f"{full.log().path / '0000000000.seg'}: missing, and so is every other segment"
    ]
    shutil.rmtree(full.log().path)
    assert len(damage(walked(full.log()))) == 1
    assert walked(full.log()._replace(expected=False)) == []


def test_of_a_segment_that_was_cut_short_the_rest_is_read(full: Replica) -> None:
    before = walked(full.log())
    segment = full.segments()[1]
    os.truncate(segment, HEADER_BYTES + 5000)
    events = walked(full.log())
    assert damage(events)[0] == f"{segment}: {HEADER_BYTES + 5000} bytes, made with {SEGMENT_BYTES}"
    kept = [b for b in batches(before) if b.positions[0] >> 32 != 1 or b.end <= HEADER_BYTES + 5000]
    assert [b for b in batches(events) if b in kept] == kept
    assert len(batches(before)) > len(kept) > 10


@pytest.mark.parametrize("length", [0, 10, HEADER_BYTES])
def test_a_segment_without_anything_is_damage(full: Replica, length: int) -> None:
    segment = full.segments()[1]
    os.truncate(segment, length)
    found = damage(walked(full.log()))
    assert found
    assert str(segment) in found[0]


def test_a_segment_whose_start_is_blank_is_named(full: Replica) -> None:
    segment = full.segments()[2]
    overwrite(segment, HEADER_BYTES, bytes(200))
    events = walked(full.log())
    assert len(damage(events)) == 1
    assert f"{segment}, offset {HEADER_BYTES}: no good batch" in damage(events)[0]
    assert 2 in [batch.positions[0] >> 32 for batch in batches(events)]


def test_a_segment_that_is_blank_is_named(full: Replica) -> None:
    segment = full.segments()[2]
    overwrite(segment, HEADER_BYTES, bytes(SEGMENT_BYTES - HEADER_BYTES))
    found = damage(walked(full.log()))
    assert len(found) == 1
    assert f"{segment}, offset {HEADER_BYTES}: no good batch" in found[0]


def test_swapped_and_strange_files_are_named(full: Replica) -> None:
    one, two = full.segments()[1:3]
    aside = one.with_name("x")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    strange = one.with_name("copy.seg")
    shutil.copy(one, strange)
    found = damage(walked(full.log()))
    assert f"{strange}: not the name of a segment" in found
    assert f"{one}: its header says that it is segment 2" in found
    assert f"{two}: its header says that it is segment 1" in found


def test_a_bad_mark_is_damage(full: Replica) -> None:
    flip(full.log().path / "CLEAN", 20)
    found = damage(walked(full.log()))
    assert found == [f"{full.log().path / 'CLEAN'}, offset 0: the mark of a clean stop is damaged"]


def test_another_owners_segment_and_a_newer_one_are_refused(full: Replica) -> None:
    other = full.log()._replace(identity=full.identities[0]._replace(seat=5))
    with pytest.raises(DataDirError, match="belongs to seat"):
        walked(other)
    overwrite(full.segments()[1], 8, b"\x02")
    with pytest.raises(DataDirError, match="format version 2"):
        walked(full.log())


def test_a_sector_that_cannot_be_read_is_damage(full: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    target = os.stat(full.segments()[1]).st_ino
    pread = os.pread

    def failing(fd: int, length: int, offset: int) -> bytes:
        if os.fstat(fd).st_ino == target and offset >= HEADER_BYTES:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    events = walked(full.log())
    assert damage(events) == [f"{full.segments()[1]}, offset {HEADER_BYTES}: Input/output error"]
    assert 2 in [batch.positions[0] >> 32 for batch in batches(events)]


def test_no_single_fault_makes_a_wrong_value_or_an_unnoticed_loss(full: Replica, tmp_path: Path) -> None:
    rng = random.Random(4)
    used = {e.segment.number: e.end for e in walked(full.log()) if isinstance(e, Used)}
    copy = tmp_path / "copy"
    lost = 0
    for _ in range(150):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(full.log().path, copy)
        number = rng.choice(list(used))
        segment = copy / full.segments()[number].name
        fault = rng.randrange(4)
        offset = rng.randrange(used[number])
        if fault == 0:
            flip(segment, offset, 1 << rng.randrange(8))
        elif fault == 1:
            overwrite(segment, offset, rng.randbytes(min(rng.randrange(1, 3000), used[number] - offset)))
        elif fault == 2:
            overwrite(segment, offset, bytes(min(rng.randrange(1, 3000), used[number] - offset)))
        else:
            os.truncate(segment, offset)
        reading = LogReading(LogDirectory(copy, full.identities[0], True))
        found, _ = decided(reading)
        assert all(full.decided[key] == value for key, value in found.items())
        if found != full.decided:
            lost += 1
            assert reading.damage
    assert lost > 30


def test_a_log_is_read_while_it_is_written(tmp_path: Path) -> None:
    made = replica(tmp_path / "node", groups=5)
    stop = threading.Event()

    def write() -> None:
        turn = 0
        while not stop.is_set():
            made.fill(3, seed=turn, sync=turn % 3 == 0)
            turn += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = rounds = 0
        while rounds < 25 or seen < 8:
            reading = LogReading(made.log())
            found, findings = decided(reading)
            assert [each for each in findings if not isinstance(each, Tail)] == []
            assert all(made.decided[key] == value for key, value in found.items())
            assert sum(group.missing for group in reading.groups.groups.values()) == 0
            seen = reading.counts.segments
            rounds += 1
    finally:
        stop.set()
        thread.join()
    made.settle().close()
    assert len({number for number, _ in made.decided}) == 5


def test_a_log_of_another_process_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.storage_writer", str(path), "3", "0"],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        log = LogDirectory(path, IDENTITY, True)
        most = 0
        deadline = time.monotonic() + DEADLINE_S
        while most < 300:
            assert time.monotonic() < deadline
            events = walked(log)
            assert damage(events) == []
            most = max(most, len(batches(events)))
    finally:
        writer.kill()
        writer.wait()
        assert writer.stdout is not None
        writer.stdout.close()
    events = walked(log)
    assert damage(events) == []


def test_segments_that_a_cleaner_removes_meanwhile_are_told_and_are_no_damage(full: Replica) -> None:
    paths = full.segments()
    segment_of = {
        (record[1], record[2]): at >> 32
        for batch in batches(walked(full.log()))
        for record, at in zip(batch.records, batch.positions, strict=True)
        if record[0] in (ACCEPT, LEARNED) and not batch.flags
    }
    groups = Groups()
    events: list[Event] = []
    with Walk(full.log()) as walk:
        for event in walk.events():
            events.append(event)
            if isinstance(event, Batch):
                groups.take(event)
            if isinstance(event, Removed):
                groups.skipped()
            if isinstance(event, Used) and event.segment.number == 0:
                for path in paths[:3]:
                    path.unlink()
    # The segment after it is open by then, and read whatever has become of its name.
    assert [event for event in events if isinstance(event, Removed)] == [Removed(2, 2)]
    assert [event for event in events if isinstance(event, Damage)] == []
    assert groups.faults == []
    assert {i: g.instance for i, g in groups.groups.items()} == dict(enumerate(full.instances))
    # Nobody said that these are forgotten, and nobody has moved them; open ones lie on either side.
    inside = [key for key, number in segment_of.items() if number == 2]
    missing = sum(group.missing for group in groups.groups.values())
    assert abs(missing - len(inside)) <= len(full.instances)


def test_segments_that_are_gone_before_the_first_is_read(full: Replica) -> None:
    with Walk(full.log()) as walk:
        events = walk.events()
        walk._numbers = walk.listed()
        full.segments()[0].unlink()
        walk._begin = lambda: iter(())  # type: ignore[method-assign]
        found = list(events)
    assert found[0] == Removed(0, 0)


def test_a_reserved_segment_that_is_replaced_is_no_damage(tmp_path: Path) -> None:
    made = replica(tmp_path / "node").fill(3)
    log = made.open[0]
    begun = Walk(made.log())
    with begun as walk:
        events = walk.events()
        first = next(events)
        assert isinstance(first, Begin)
        assert walk.opening(1) is None
        # Too large for the segment that was reserved: another takes its name.
        made.write([made.decide(0, made.value(0, [bytes(20_000)]))])
        rest = list(events)
    assert log._segment.number == 1
    assert log._segment.size > SEGMENT_BYTES
    assert [event for event in rest if isinstance(event, Damage)] == []
    assert len(batches(walked(made.log()))) > len(batches([*rest]))
    made.close()


def test_unfinished_segments_are_not_looked_at(full: Replica) -> None:
    (full.log().path / "0000000099.seg.tmp").write_bytes(b"half")
    assert damage(walked(full.log())) == []


def test_a_segment_that_nothing_precedes_must_have_a_start(full: Replica) -> None:
    for path in full.segments()[:2]:
        path.unlink()
    for path in full.segments()[1:]:
        path.unlink()
    (full.log().path / "CLEAN").unlink()
    segment = full.segments()[0]
    overwrite(segment, HEADER_BYTES, bytes(SEGMENT_BYTES - HEADER_BYTES))
    assert damage(walked(full.log())) == [f"{segment}, offset {HEADER_BYTES}: the segment has no start"]


def test_a_segment_that_goes_on_behind_its_end_is_damage(tmp_path: Path) -> None:
    """The next segment says that this one ended earlier."""
    identity = LogIdentity(1, 2, 3, 0)
    made = [
        segment_file.create_segment(tmp_path, identity, number, SEGMENT_BYTES, lambda: False)
        for number in range(2)
    ]
    first, _ = encode_batch([(64, 0, 0, 0, 0, b"")], 0, made[0].salt, HEADER_BYTES, 0, OPENS_SEGMENT)
    more, _ = encode_batch([(1, 0, 0, 1, 1, b"")], 0, made[0].salt, HEADER_BYTES + len(first), 0)
    end = position(0, HEADER_BYTES + len(first))
    second, _ = encode_batch([(64, 0, 0, 0, 0, b"")], 1, made[1].salt, HEADER_BYTES, end, OPENS_SEGMENT)
    overwrite(made[0].path, HEADER_BYTES, first + more)
    overwrite(made[1].path, HEADER_BYTES, second)
    assert len(first) > BATCH_BYTES
    events = walked(LogDirectory(tmp_path, identity, True))
    assert len(damage(events)) == 1
    assert "the next segment says that this one ends here" in damage(events)[0]
    assert len(batches(events)) == 3
