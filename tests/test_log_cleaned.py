"""Logs that forget and are cleaned: segments gone from the front, values moved, groups that left."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import ExitCode
from paxmux.plugins.storage import flusher
from paxmux.plugins.storage.record import OPENING, OPENS_SEGMENT, RECORD_BYTES, UPKEEP
from paxmux.plugins.storage.scan import Batch
from paxmux.plugins.storage.segment_file import SegmentFile, segment_path
from paxmux.tools.log.compare import Checksums, Comparison
from paxmux.tools.log.directory import read_directory
from paxmux.tools.log.find import find_instance
from paxmux.tools.log.group import Value
from paxmux.tools.log.groups import Groups
from paxmux.tools.log.read import LogReading
from paxmux.tools.log.verify import verify
from paxmux.tools.log.walk import Damage, Event, Removed, Tail, Used, Walk
from paxmux.tools.main import main
from tests.log_world import Replica, node_id, replica, replicas, walked
from tests.storage_model import ACCEPT, LEARNED
from tests.test_storage_damage import flip, overwrite

Out = pytest.CaptureFixture[str]
SLOW = 0


@pytest.fixture(scope="module", autouse=True)
def quick_index() -> Iterator[None]:
    """The index takes in what is new at once, not each second: no segment goes that it does not have."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(flusher, "DUE_S", 0.0)
        yield


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    """Group 0 is slow, and its first values were moved several times."""
    made = replica(tmp_path_factory.mktemp("master") / "node", groups=6)
    (log,) = made.open
    places = set()
    for _ in range(24):
        made.wear(25)
        places.add(log._start.table.find(SLOW, 0))
    assert len(places) > 3
    assert log.stats()["removed_segments"] > 20
    return made.settle().close()


@pytest.fixture
def worn(master: Replica, tmp_path: Path) -> Replica:
    return master.copy(tmp_path / "node")


def read(made: Replica) -> tuple[LogReading, list[Value]]:
    """A reading that finds nothing wrong, and what came out."""
    reading = LogReading(made.log())
    values: list[Value] = []
    assert [each for each in reading.read(values.extend) if not isinstance(each, Tail)] == []
    return reading, values


def check(made: Replica) -> tuple[LogReading, list[Value]]:
    """All that is kept comes out, once, and nothing else."""
    reading, values = read(made)
    places = [(value.group, value.instance) for value in values]
    assert len(places) == len(set(places))
    assert {(value.group, value.instance): value.value for value in values} == made.kept
    assert reading.counts.values == len(made.kept)
    groups = reading.groups.groups
    assert {index: (group.first, group.missing) for index, group in groups.items()} == {
        index: (made.first[index], 0) for index in groups
    }
    return reading, values


def moved_places(made: Replica) -> dict[tuple[int, int], list[int]]:
    """Where the log has what it moved."""
    found: dict[tuple[int, int], list[int]] = {}
    for event in walked(made.log()):
        if isinstance(event, Batch) and event.flags & UPKEEP:
            for record, at in zip(event.records, event.positions, strict=True):
                if record[0] in (ACCEPT, LEARNED):
                    found.setdefault((record[1], record[2]), []).append(at)
    return found


def keep_files(made: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies before the files of segments go that it needs no more."""
    monkeypatch.setattr(made.open[0]._place._reserver, "discard", lambda segment: None)


def document(capsys: Out, *words: object, code: int = ExitCode.OK) -> Any:
    assert main(["log", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_all_that_is_kept_is_read_once(worn: Replica) -> None:
    assert worn.segments()[0] != segment_path(worn.log().path, 0)
    reading, values = check(worn)
    slow = reading.groups.groups[SLOW]
    assert slow.moved >= 20
    assert slow.first == 0
    assert slow.unchecked == 0
    for group in range(worn.groups):
        mine = [value.instance for value in values if value.group == group]
        # What was moved stands behind what came later, the rest is in order.
        assert (mine == sorted(mine)) == (group != SLOW)
    forgotten = [group.forgotten for index, group in reading.groups.groups.items() if index != SLOW]
    assert all(count > 0 for count in forgotten)


def test_segments_that_are_not_removed_yet_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before the removal: what was moved is there more than once."""
    made = replica(tmp_path / "node", groups=6)
    made.wear(300)
    kept = made.segments()
    keep_files(made, monkeypatch)
    made.wear(300).settle().close(clean=False)
    assert made.segments()[0] == kept[0]
    assert max(Counter(len(places) for places in moved_places(made).values())) > 1
    reading, values = check(made)
    assert reading.groups.groups[SLOW].moved > len([value for value in values if value.group == SLOW])


def test_an_open_vote_whose_segment_is_gone_is_found(tmp_path: Path, capsys: Out) -> None:
    """Also a large one, which segments only refer to, and while a higher ballot is promised."""
    made = replica(tmp_path / "node", groups=7)
    votes = {group: made.value(group, [bytes(size)]) for group, size in ((5, 100), (6, 40_000))}
    made.write([(ACCEPT, group, 0, 3, node_id(0), value) for group, value in votes.items()])
    made.promise(6, 9)
    made.wear(600, busy=5).settle(5, 6)
    moved = moved_places(made)
    assert moved[6, 0]
    reading, _ = check(made)
    for group, value in votes.items():
        state = reading.groups.groups[group]
        assert (state.value, state.accepted) == (value, (3, node_id(0)))
        report = document(capsys, "get", made.path, group, 0)
        assert (report["decided"], report["records"][-1]["size"]) == (False, len(value))
        made.decide(group, value)
    made.settle().close()
    check(made)


def test_verify_agrees_and_compares_what_both_have(tmp_path: Path) -> None:
    one, two = replicas(tmp_path, 2, groups=6)
    one.wear(300).settle().close()
    two.wear(350, forget=False).settle().close()
    for first, other in ((one, two), (two, one)):
        said: list[str] = []
        verdicts = verify(first.path, [other.path], said.append, lambda _text: lambda _counts: None)
        assert said == []
        assert [verdict.good for verdict in verdicts] == [True, True]
        comparison = verdicts[1].comparison
        assert comparison is not None
        assert comparison.compared == len(one.kept)
        assert comparison.only_here == len(other.kept) - len(one.kept)


def test_a_moved_value_that_differs_from_another_replica_is_told(worn: Replica) -> None:
    """Checksums are found in whatever order they came."""
    _, values = check(worn)
    kept = Checksums()
    kept.add(values)
    same = Comparison(kept)
    same.take(reversed(values))
    assert (same.compared, same.differences) == (len(values), {})
    (index,) = [i for i, value in enumerate(values) if (value.group, value.instance) == (SLOW, 3)]
    other = Comparison(kept)
    other.take([value._replace(checksum=b"else") if i == index else value for i, value in enumerate(values)])
    assert {group: found.instance for group, found in other.differences.items()} == {SLOW: 3}


def test_get_finds_what_was_moved_and_says_what_is_forgotten(worn: Replica, capsys: Out) -> None:
    for instance in range(worn.instances[SLOW]):
        report = document(capsys, "get", worn.path, SLOW, instance)
        assert report["decided"]
        assert report["stands_at"] == worn.instances[SLOW]
        assert report["records"][-1]["size"] == len(worn.decided[SLOW, instance])
    assert document(capsys, "get", worn.path, SLOW, 0)["records"][-1]["moved"]
    assert main(["log", "get", str(worn.path), str(SLOW), "0"]) == ExitCode.OK
    assert ", moved out of an older segment" in capsys.readouterr().out
    # One that is removed, and one that is still there.
    (reading, _) = read(worn)
    assert reading.groups.groups[3].forgotten > 0
    for instance in (0, worn.first[3] - 1):
        assert main(["log", "get", str(worn.path), "3", str(instance)]) == ExitCode.FAILED
        assert f"it is forgotten, as all below instance {worn.first[3]} are" in capsys.readouterr().err
    assert document(capsys, "get", worn.path, 3, worn.first[3])["decided"]


def test_show_has_what_is_forgotten_and_moved(worn: Replica, capsys: Out) -> None:
    reading, _ = check(worn)
    (only,) = document(capsys, "show", worn.path)["logs"]
    for each in only["groups"]:
        group = reading.groups.groups[each["group"]]
        assert each["first"] == each["first_value"] == worn.first[each["group"]]
        assert (each["moved"], each["forgotten"]) == (group.moved, group.forgotten)
        assert each["values"] == each["instance"] - each["first"]
    assert main(["log", "show", str(worn.path)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "forgotten  moved" in out


def test_dump_tells_records_of_upkeep(worn: Replica, capsys: Out) -> None:
    assert main(["log", "dump", str(worn.path), "--json"]) == ExitCode.OK
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    needed = [each["oldest_needed"] for each in found if each["kind"] == "opening"]
    assert needed == sorted(needed)
    assert needed[-1] == int(worn.segments()[0].stem)
    moved = Counter((each["group"], each["instance"]) for each in found if each.get("moved"))
    assert moved == {key: len(places) for key, places in moved_places(worn).items()}
    last = {each["group"]: each["instance"] for each in found if each["kind"] == "forgotten"}
    assert last == {group: first for group, first in enumerate(worn.first) if group != SLOW}
    assert main(["log", "dump", str(worn.path), "--group", "0"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.endswith(", moved")]) == moved.total()


def test_export_has_what_is_kept(worn: Replica, tmp_path: Path, capsys: Out) -> None:
    output = tmp_path / "out.json"
    report = document(capsys, "export", worn.path, "--format", "json", "--output", output)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {(row["group"], row["instance"]) for row in rows} == worn.kept.keys()
    assert len(rows) == len(worn.kept) == report["instances"] == report["rows"]
    assert report["missing"] == 0


# Groups that leave


def test_of_a_group_that_left_nothing_is_shown(tmp_path: Path, capsys: Out) -> None:
    made = replica(tmp_path / "node", groups=4).wear(60)
    made.release(2)
    made.write([made.decide(1, made.value(1, [b"later"]))])
    made.settle(2).close()
    check(made)
    (only,) = document(capsys, "show", made.path)["logs"]
    assert [each["group"] for each in only["groups"]] == [0, 1, 3]
    assert main(["log", "dump", str(made.path), "--json"]) == ExitCode.OK
    lowest: dict[int, int] = {}
    for each in map(json.loads, capsys.readouterr().out.splitlines()):
        if "instance" in each:
            lowest[each["segment"]] = min(each["instance"], lowest.get(each["segment"], each["instance"]))
    assert {each["segment"]: each["lowest_instance"] for each in only["segments"] if each["used"]} == lowest
    assert main(["log", "get", str(made.path), "2", str(made.instances[2] - 1)]) == ExitCode.FAILED
    assert "is in this log: it is empty" in capsys.readouterr().err
    assert main(["log", "dump", str(made.path), "--group", "2", "--from", "1000", "--json"]) == ExitCode.OK
    (released,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (released["kind"], released["group"], "instance" in released) == ("released", 2, False)
    assert main(["log", "verify", str(made.path)]) == ExitCode.OK


@pytest.mark.parametrize("between", [0, 60])
def test_a_group_that_comes_back_has_its_new_life_alone(tmp_path: Path, capsys: Out, between: int) -> None:
    """At once, or some segments later."""
    made = replica(tmp_path / "node", groups=4).wear(60)
    made.release(0)
    stands_at = made.instances[0]
    for _ in range(between):
        made.write([made.decide(g, made.value(g, [bytes(300)])) for g in (1, 2, 3)])
    made.come_back(0, 1)
    made.write([made.decide(0, made.value(0, [b"new"]))])
    made.settle().close()
    reading, values = check(made)
    assert [value.instance for value in values if value.group == 0] == list(range(1, stands_at + 1))
    assert reading.groups.groups[0].records == stands_at - 1 + 2 + 2
    directory = read_directory(made.path)
    found = [find_instance(directory, 0, instance) for instance in range(stands_at + 1)]
    assert [len(each.values) for each in found] == [0, *[1] * stands_at]
    assert found[0].first == 1
    assert main(["log", "verify", str(made.path)]) == ExitCode.OK


# Damage


def test_damage_in_what_was_moved_costs_what_is_damaged(worn: Replica, tmp_path: Path, capsys: Out) -> None:
    (at,) = moved_places(worn)[SLOW, 5]
    flip(worn.log().path / f"{at >> 32:010}.seg", (at & 0xFFFFFFFF) + RECORD_BYTES + 3)
    report = document(capsys, "verify", worn.path, code=ExitCode.FAILED)
    (only,) = report["directories"]
    assert (only["damage"], only["faults"], only["missing"]) == (1, 0, 1)
    # That of the next one.
    assert only["unchecked"] == 1
    output = tmp_path / "out.json"
    document(capsys, "export", worn.path, "--format", "json", "--output", output, code=ExitCode.FAILED)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {(row["group"], row["instance"]) for row in rows} == worn.kept.keys() - {(SLOW, 5)}
    assert main(["log", "get", str(worn.path), str(SLOW), "5"]) == ExitCode.FAILED
    assert "the CRC of the record does not match" in capsys.readouterr().err


def test_of_two_copies_the_good_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = replica(tmp_path / "node", groups=6)
    keep_files(made, monkeypatch)
    made.wear(400).settle().close()
    places: dict[int, list[int]] = {}
    for event in walked(made.log()):
        if isinstance(event, Batch):
            for record, at in zip(event.records, event.positions, strict=True):
                if record[:2] in ((ACCEPT, SLOW), (LEARNED, SLOW)):
                    places.setdefault(record[2], []).append(at)
    assert len(places[2]) > 1
    for at in places[2]:
        copy = made.copy(tmp_path / f"{at}")
        flip(copy.log().path / f"{at >> 32:010}.seg", (at & 0xFFFFFFFF) + RECORD_BYTES + 3)
        reading = LogReading(copy.log())
        values: list[Value] = []
        findings = list(reading.read(values.extend))
        assert [type(each) for each in findings] == [Damage]
        assert {(value.group, value.instance) for value in values} == made.kept.keys()
        assert sum(group.missing for group in reading.groups.groups.values()) == 0


def test_the_oldest_segment_needed_is_said_within_a_segment_too(worn: Replica) -> None:
    oldest = worn.segments()[0]
    said = [
        (record[2], bool(event.flags & OPENS_SEGMENT))
        for event in walked(worn.log())
        if isinstance(event, Batch)
        for record in event.records
        if record[0] == OPENING
    ]
    # By the last word alone, which no segment begins with.
    assert said[-1] == (int(oldest.stem), False)
    assert max(number for number, opens in said if opens) < int(oldest.stem)
    oldest.unlink()
    assert Damage(f"{oldest}: missing, though it is needed") in walked(worn.log())


def test_no_single_fault_makes_a_wrong_value_or_an_unnoticed_loss(worn: Replica, tmp_path: Path) -> None:
    rng = random.Random(4)
    used = [event for event in walked(worn.log()) if isinstance(event, Used)]
    copy = tmp_path / "copy"
    lost = 0
    for _ in range(60):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(worn.log().path, copy)
        segment, end = rng.choice(used)
        length = rng.choice((1, 1, 300, 3000))
        offset = rng.randrange(end)
        if length == 1:
            flip(copy / segment.path.name, offset, 1 << rng.randrange(8))
        else:
            overwrite(copy / segment.path.name, offset, bytes(min(length, end - offset)))
        reading = LogReading(worn.log()._replace(path=copy))
        values: list[Value] = []
        list(reading.read(values.extend))
        found = {(value.group, value.instance): value.value for value in values}
        assert len(found) == len(values)
        assert all(worn.decided[key] == value for key, value in found.items())
        if found != worn.kept:
            lost += 1
            assert reading.damage
    assert lost > 10


@pytest.mark.parametrize("seed", range(3))
def test_whatever_groups_do_what_they_keep_is_read(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    made = replica(tmp_path / "node", groups=5)
    gone: set[int] = set()
    rounds = Counter(dict.fromkeys(range(5), 1))
    speed = [0.02, 0.1, 1.0, 1.0, 1.0]
    for _ in range(250):
        for group in set(range(5)) - gone:
            if rng.random() > speed[group]:
                continue
            value = made.value(group, [rng.randbytes(rng.choice((50, 100, 300)))])
            if rng.random() < 0.2:
                # A vote for another value, too large for the start of a segment now and then.
                other = made.value(group, [rng.randbytes(rng.choice((50, 50, 50, 20_000)))])
                made.write([(ACCEPT, group, made.instances[group], rounds[group], node_id(0), other)])
                rounds[group] += 1
                if rng.random() < 0.8:
                    continue
                made.write([made.decide(group, other if rng.random() < 0.5 else value, LEARNED)])
            else:
                made.write([made.decide(group, value, ACCEPT, rounds[group])])
        what = rng.random()
        group = rng.randrange(5)
        stands_at, first = made.instances[group], made.first[group]
        if group in gone:
            if what < 0.3:
                first = rng.randrange(first // 2, stands_at)
                made.come_back(group, first)
                gone.discard(group)
                rounds[group] = 1
        elif what < 0.02 and stands_at:
            made.settle(*gone)
            made.release(group)
            gone.add(group)
        elif what < 0.5 and stands_at > first + 1:
            made.forget(group, rng.randrange(first, stands_at) if group > 1 else first + rng.randrange(2))
        elif what < 0.8:
            made.clean()
        elif what < 0.82:
            made.close(clean=rng.random() < 0.5).start()
    removed = made.open[0].stats()["removed_segments"]
    made.settle(*gone).close()
    assert made.segments()[0] != segment_path(made.log().path, 0), removed
    check(made)
    directory = read_directory(made.path)
    for group, instance in rng.sample(list(made.decided), 40):
        found = find_instance(directory, group, instance)
        kept = made.kept.get((group, instance))
        assert (found.values[-1].value if found.values else None) == kept
        assert found.decided == (group not in gone)


# A node that runs


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_log_that_is_cleaned_while_it_is_read(tmp_path: Path, left: int) -> None:
    """The cleaner overtakes the reader; all that it was to read may be gone."""
    made = replica(tmp_path / "node", groups=6).wear(100)
    first = int(made.segments()[0].stem)
    last = made.open[0]._segment.number
    assert 0 < first < last - 1
    at = {0: first, 1: last - 2, 2: last - 1}[left]
    events: list[Event] = []
    groups = Groups(from_start=False)
    values: list[Value] = []
    with Walk(made.log()) as walk:
        for event in walk.events():
            events.append(event)
            if isinstance(event, Batch):
                values += groups.take(event)
            elif isinstance(event, Removed):
                groups.skipped()
            elif isinstance(event, Used) and event.segment.number == at:
                before = set(made.segments())
                made.wear(300)
                made.settle()
                assert not before & set(made.segments())
    assert len([event for event in events if isinstance(event, Removed)]) == 1
    assert [event for event in events if isinstance(event, Damage)] == []
    assert groups.faults == []
    assert {index: group.instance for index, group in groups.groups.items()} == dict(
        enumerate(made.instances)
    )
    assert [group.missing for group in groups.groups.values()] == [0] * made.groups
    found = {(value.group, value.instance): value.value for value in values}
    assert len(found) == len(values)
    assert made.kept.items() <= found.items() <= made.decided.items()
    made.close()


def test_what_was_moved_behind_the_segments_that_there_were_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first segments go meanwhile: the reading does not end with the last one that it knew of."""
    made = replica(tmp_path / "node", groups=6).wear(250, forget=False)
    (log,) = made.open
    last = log._segment.number
    discard = log._place._reserver.discard

    def discard_some(segment: SegmentFile) -> None:
        if segment.number < 5:
            discard(segment)

    monkeypatch.setattr(log._place._reserver, "discard", discard_some)
    groups = Groups()
    values: list[Value] = []
    removed: list[Removed] = []
    with Walk(made.log()) as walk:
        for event in walk.events():
            if isinstance(event, Batch):
                values += groups.take(event)
            elif isinstance(event, Removed):
                groups.skipped()
                removed.append(event)
            elif isinstance(event, Used) and event.segment.number == 0:
                made.wear(100, forget=False)
                assert log._segment.number > last + 1
                for group in range(1, 6):
                    made.forget(group, made.instances[group] - 5)
                made.clean()
                made.settle()
    assert removed == [Removed(2, 4)]
    assert groups.faults == []
    assert [group.missing for group in groups.groups.values()] == [0] * made.groups
    found = {(value.group, value.instance): value.value for value in values}
    assert len(found) == len(values)
    assert made.kept.items() <= found.items()
    made.close()


def test_a_log_is_read_while_it_is_written_and_cleaned(tmp_path: Path) -> None:
    made = replica(tmp_path / "node", groups=6)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            made.wear(25)

    thread = threading.Thread(target=write)
    thread.start()
    removed = 0
    try:
        for _ in itertools.count():
            # The newest one may not be written yet; before that the one before is not known to be decided.
            slow = made.instances[SLOW] - 2
            reading = LogReading(made.log())
            values: list[Value] = []
            findings = list(reading.read(values.extend))
            removed += len(reading.removed)
            assert [each for each in findings if not isinstance(each, Tail | Removed)] == []
            found = {(value.group, value.instance): value.value for value in values}
            assert len(found) == len(values)
            assert all(made.decided[key] == value for key, value in found.items())
            assert {(SLOW, instance) for instance in range(slow)} <= found.keys()
            assert [group.missing for group in reading.groups.groups.values()] == [0] * len(
                reading.groups.groups
            )
            report = find_instance(read_directory(made.path), SLOW, 0) if slow > 0 else None
            assert report is None or (report.decided and report.values)
            if made.open[0].stats()["removed_segments"] > 30 and slow > 20:
                break
    finally:
        stop.set()
        thread.join()
    made.settle()
    check(made)
    made.close()
