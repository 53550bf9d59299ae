"""Groups that change their log: killed at every call, from any stale copy, and back again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from paxmux.engine.errors import StorageFailed
from paxmux.engine.storage import (
    EMPTY_STATE,
    NULL_BALLOT,
    HardState,
    Log,
    LogIdentity,
    Record,
    RecordKind,
    StorageDamaged,
)
from paxmux.plugins.storage.lmdb_log import LmdbLog
from paxmux.plugins.storage.memory import MemoryDisk, MemoryLog
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.shards import moving
from paxmux.shards.moving import Copy, Move, copy_groups, moves_between
from tests.storage_model import ACCEPT, DECIDED, LEARNED, PROMISE, SYSTEM

A, B, C = 0, 1, 2
ME, PEER = 7, 9


def identity(number: int) -> LogIdentity:
    return LogIdentity(cluster=1, node=ME, seat=2, log=number)


class Cut(Exception):
    """The process ends here."""


class Fused:
    """A log whose process dies at the n-th call of the whole run, before that call or right after it."""

    def __init__(self, log: Log, fuse: Fuse) -> None:
        self._log = log
        self._fuse = fuse

    def __getattr__(self, name: str) -> object:
        real = getattr(self._log, name)

        def call(*args: object, **more: object) -> object:
            self._fuse.burn()
            result = real(*args, **more)
            self._fuse.burn()
            return result

        return call


class Fuse:
    def __init__(self, length: int) -> None:
        self.left = length

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Cut


class Node:
    """The logs of one node on disks in memory, and the map of its groups."""

    def __init__(self, hosts: Sequence[int]) -> None:
        self.hosts = list(hosts)
        self.disks = {number: MemoryDisk(identity(number)) for number in (A, B, C)}

    def open(self, number: int) -> MemoryLog:
        return MemoryLog(Path(f"log {number}"), identity(number), disk=self.disks[number])

    def state(self, group: int) -> HardState:
        """What the group's own log has of it."""
        log = self.open(self.hosts[group])
        state = log.recover().get(group, EMPTY_STATE)
        log.close(clean=True)
        return state

    def values(self, group: int, number: int) -> list[tuple[int, int, int, bytes]]:
        log = self.open(number)
        log.recover()
        found = log.read_range(group, 0, 10_000, 1 << 30)
        log.close(clean=True)
        return found

    def write(self, group: int, records: Sequence[Record]) -> None:
        """The group's worker goes on."""
        log = self.open(self.hosts[group])
        log.recover()
        log.append(records)
        log.sync()
        log.close(clean=True)

    def move(self, wanted: Sequence[int], *, cut_at: int = 0, keep: int = 0) -> bool:
        """Start with another layout; True if it was completed, False if the process was cut off at that
        call. A cut is a power cut that leaves `keep` of the unsynced batches of each log."""
        fuse = Fuse(cut_at)
        moves = moves_between(self.hosts, wanted)
        logs: dict[int, MemoryLog] = {}
        try:
            states = {}
            for number in sorted({number for move in moves for number in (move.source, move.target)}):
                logs[number] = self.open(number)
                states[number] = logs[number].recover()
            fused = {number: Fused(log, fuse) for number, log in logs.items()}
            done = sum(copy.done for copy in copy_groups(moves, fused, states))  # type: ignore[arg-type]
            assert done == len(moves)
        except Cut:
            for log in logs.values():
                log.crash(keep)
            return False
        # The power goes before any log is closed: what is switched to must be durable without that.
        for log in logs.values():
            log.crash()
        self.hosts = list(wanted)
        return True


def decided(group: int, first: int, count: int) -> list[Record]:
    return [(LEARNED, group, first + i, 1, PEER, b"%d/%d" % (group, first + i)) for i in range(count)]


def steps() -> list[list[Record]]:
    """What group 0 does one after the other: each state that a copy may be of."""
    return [
        [(PROMISE, 0, 0, 3, PEER, b"")],
        [(ACCEPT, 0, 0, 3, PEER, b"first try")],
        [(PROMISE, 0, 0, 4, ME, b"")],
        [(ACCEPT, 0, 0, 4, ME, b"0/0")],
        [(DECIDED, 0, 0, 0, 0, b""), (SYSTEM, 0, 1, 0, 0, b"members")],
        [(ACCEPT, 0, 1, 4, ME, b"superseded")],
        [(LEARNED, 0, 1, 6, PEER, b"0/1"), *decided(0, 2, 5), (SYSTEM, 0, 7, 0, 0, b"others")],
        [(ACCEPT, 0, 7, 4, ME, b"open")],
        [(PROMISE, 0, 7, 9, PEER, b"")],
        [(ACCEPT, 0, 7, 9, PEER, b"open, and higher")],
    ]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "COPY_COUNT", 2)


def other(node: Node) -> Node:
    """The same disks, to be tried in another way."""
    copy = Node(node.hosts)
    for number, disk in node.disks.items():
        copy.disks[number].batches = list(disk.batches)
        copy.disks[number].synced, copy.disks[number].made = disk.synced, disk.made
    return copy


def cuts(node: Node, wanted: Sequence[int]) -> Iterator[Node]:
    """All that a cut-off move can leave: cut at each call before and after it, with each part of what was not
    synced; each thing once."""
    seen = []
    for keep in (0, 1, 99):
        for cut_at in range(1, 10_000):
            tried = other(node)
            if tried.move(wanted, cut_at=cut_at, keep=keep):
                break
            left = [disk.batches for disk in tried.disks.values()]
            if left not in seen:
                seen.append(left)
                yield tried


def check_moved(node: Node, before: Node, group: int, wanted: int) -> None:
    """The group has in its new log what it had in the old one."""
    assert node.hosts[group] == wanted
    assert node.state(group) == before.state(group)
    expected = before.values(group, before.hosts[group])[: before.state(group).instance + 1]
    assert node.values(group, wanted) == expected


@pytest.mark.parametrize("count", range(1, len(steps()) + 1))
def test_every_state_moves_whole(count: int) -> None:
    node = Node([A])
    for records in steps()[:count]:
        node.write(0, records)
    before = other(node)
    assert node.move([B])
    check_moved(node, before, 0, B)


@pytest.mark.parametrize("count", range(1, len(steps()) + 1))
def test_cut_anywhere_and_tried_again(count: int) -> None:
    """Also twice, and to yet another log: what was left half-way is in nobody's way."""
    node = Node([A])
    for records in steps()[:count]:
        node.write(0, records)
    first = list(cuts(node, [B]))
    assert len(first) > 1
    for tried in first:
        assert tried.hosts == [A]
        assert tried.state(0) == node.state(0), "the source is as it was"
        for again in (*cuts(tried, [B]), tried):
            assert again.move([B])
            check_moved(again, node, 0, B)


@pytest.mark.parametrize("count", range(1, len(steps())))
def test_a_stale_copy_does_no_harm_once_the_source_has_gone_on(count: int) -> None:
    node = Node([A])
    for records in steps()[:count]:
        node.write(0, records)
    for tried in (*cuts(node, [B]), node):
        for more in range(count, len(steps())):
            later = other(tried)
            for records in steps()[count : more + 1]:
                later.write(0, records)
            before = other(later)
            assert later.move([B])
            check_moved(later, before, 0, B)


@pytest.mark.parametrize("first", range(1, len(steps())))
def test_there_and_back_again(first: int) -> None:
    """A -> B -> A: what A still has of the group is old, and A is its log again."""
    for second in range(first, len(steps()) + 1):
        node = Node([A])
        for records in steps()[:first]:
            node.write(0, records)
        assert node.move([B])
        for records in steps()[first:second]:
            node.write(0, records)
        before = other(node)
        for tried in (*cuts(node, [A]), node):
            assert tried.move([A])
            check_moved(tried, before, 0, A)
            for records in steps()[second:]:
                tried.write(0, records)
            last = other(tried)
            assert tried.move([C])
            check_moved(tried, last, 0, C)


def test_groups_that_change_places_do_not_mix() -> None:
    node = Node([A, B, C, A])
    for group in range(4):
        node.write(group, [(PROMISE, group, 0, group + 1, ME, b""), *decided(group, 0, 3 + group)])
        node.write(group, [(ACCEPT, group, 3 + group, group + 1, ME, b"open %d" % group)])
    wanted = [B, A, C, C]
    before = other(node)
    for tried in (*cuts(node, wanted), node):
        assert tried.move(wanted)
        for group in range(4):
            check_moved(tried, before, group, wanted[group])


def test_what_is_copied_is_decided_values_and_votes_and_no_more() -> None:
    node = Node([A])
    for records in steps():
        node.write(0, records)
    node.move([B])
    kinds = [record[0] for batch in node.disks[B].batches for record in batch]
    assert kinds == [LEARNED] * 7 + [ACCEPT, SYSTEM], "the accept implies the promise"
    node = Node([A])
    for records in steps()[:9]:
        node.write(0, records)
    node.move([B])
    kinds = [record[0] for batch in node.disks[B].batches for record in batch]
    assert kinds[-3:] == [ACCEPT, SYSTEM, PROMISE]


def test_a_group_without_records_moves_too() -> None:
    node = Node([A, B])
    assert node.move([B, A])
    assert node.state(0) == EMPTY_STATE


@pytest.mark.parametrize(
    "records", [[(PROMISE, 0, 0, 9, PEER, b"")], decided(0, 0, 3)], ids=["promise", "instance"]
)
def test_a_target_that_knows_more_than_the_source_stops_everything(records: list[Record]) -> None:
    """An old identity.json with newer logs: in the source the group would break its promises."""
    node = Node([A, A])
    node.write(0, [(PROMISE, 0, 0, 3, PEER, b"")])
    node.write(1, decided(1, 0, 4))
    node.hosts[0] = B
    node.write(0, records)
    node.hosts[0] = A
    with pytest.raises(StorageDamaged, match="log 1 knows more of group 0 than log 0"):
        node.move([B, B])
    assert not any(record[1] == 1 for batch in node.disks[B].batches for record in batch), "nothing moved"


def test_a_copy_may_know_that_the_open_instance_is_decided() -> None:
    """A live move copies what is decided; the source's log may not say so yet of the value accepted last."""
    last: Record = (ACCEPT, 0, 3, 4, PEER, b"last")
    node = Node([A])
    node.write(0, [*decided(0, 0, 3), last, (PROMISE, 0, 3, 6, PEER, b"")])
    node.hosts[0] = B
    node.write(0, [*decided(0, 0, 3), (LEARNED, 0, 3, 4, PEER, b"last")])
    node.hosts[0] = A
    assert node.move([B])
    assert node.state(0) == HardState(4, (6, PEER), NULL_BALLOT, b"")
    assert node.hosts == [B]


@pytest.mark.parametrize(
    "records",
    [
        [(LEARNED, 0, 3, 4, PEER, b"another")],
        [(LEARNED, 0, 3, 4, PEER, b"last"), (LEARNED, 0, 4, 4, PEER, b"more")],
        [(LEARNED, 0, 3, 4, PEER, b"last"), (ACCEPT, 0, 4, 2, PEER, b"more")],
        [(LEARNED, 0, 3, 4, PEER, b"last"), (PROMISE, 0, 4, 7, PEER, b"")],
        [(DECIDED, 0, 3, 0, 0, b"")],
    ],
)
def test_no_copy_knows_more_than_that(records: list[Record]) -> None:
    node = Node([A])
    node.write(0, [*decided(0, 0, 3), (ACCEPT, 0, 3, 4, PEER, b"last"), (PROMISE, 0, 3, 6, PEER, b"")])
    node.hosts[0] = B
    node.write(0, [*decided(0, 0, 3), *records])
    node.hosts[0] = A
    with pytest.raises(StorageDamaged, match="log 1 knows more of group 0 than log 0"):
        node.move([B])


def test_a_value_that_is_missing_stops_the_move() -> None:
    node = Node([A])
    node.write(0, [*decided(0, 0, 3), (DECIDED, 0, 4, 0, 0, b"")])
    with pytest.raises(StorageDamaged, match="group 0: instance 3 is decided but not in its log"):
        node.move([B])


def test_a_target_without_room_stops_the_move_before_it_fails() -> None:
    source, target = (MemoryLog(Path("x"), identity(number)) for number in (A, B))
    states = {A: source.recover(), B: target.recover()}
    source.append(decided(0, 0, 5))
    source.sync()
    states[A] = {0: HardState(5, NULL_BALLOT, NULL_BALLOT, b"")}
    target.trouble = "no room for the next segment"
    with pytest.raises(StorageFailed, match="no room"):
        list(copy_groups([Move(0, A, B)], {A: source, B: target}, states))
    assert target.disk.batches == []


class Forgetful(MemoryLog):
    """A log that has forgotten what was below an instance."""

    kept = 0

    def first(self, group: int) -> int:
        return self.kept

    def read_range(
        self, group: int, first: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, int, int, bytes]]:
        assert first >= self.kept
        return super().read_range(group, first, max_count, max_bytes)


def test_what_the_source_has_forgotten_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Forgetful(Path("x"), identity(A))
    source.recover()
    source.append(decided(0, 0, 9))
    source.sync()
    source.kept = 5
    taken: list[Record] = []
    target = MemoryLog(Path("y"), identity(B))
    target.recover()
    monkeypatch.setattr(target, "append", taken.extend)
    states = {A: {0: HardState(9, NULL_BALLOT, NULL_BALLOT, b"")}, B: {}}
    assert list(copy_groups([Move(0, A, B)], {A: source, B: target}, states))[-1] == Copy(0, 0, True)
    assert taken == [*decided(0, 5, 4), (RecordKind.FORGOTTEN, 0, 5, 0, 0, b"")]


Open = Callable[[Path, int], Log]


def _segments(path: Path, number: int) -> Log:
    return SegmentLog(path, identity(number), segment_bytes=1 << 16)


def _lmdb(path: Path, number: int) -> Log:
    return LmdbLog(path, identity(number), segment_bytes=1 << 16)


@pytest.mark.parametrize("open_log", [_segments, _lmdb], ids=["segments", "lmdb"])
def test_it_works_through_the_contract_of_any_log(tmp_path: Path, open_log: Open) -> None:
    rng = random.Random(5)
    source = open_log(tmp_path / "a", A)
    source.recover()
    values = [rng.randbytes(rng.randrange(3000)) for _ in range(300)]
    for instance, value in enumerate(values):
        source.append([(ACCEPT, 3, instance, 2, ME, value)])
    source.append([(PROMISE, 3, 299, 5, PEER, b"")])
    source.close(clean=True)
    source = open_log(tmp_path / "a", A)
    target = open_log(tmp_path / "b", B)
    states = {A: source.recover(), B: target.recover()}
    copies = list(copy_groups([Move(3, A, B)], {A: source, B: target}, states))
    assert sum(copy.values for copy in copies) == 299
    assert sum(copy.bytes for copy in copies) == sum(map(len, values[:-1]))
    source.close(clean=True)
    target.close(clean=False)
    target = open_log(tmp_path / "b", B)
    assert target.recover() == {3: HardState(299, (5, PEER), (2, ME), values[299])}
    assert [found[3] for found in target.read_range(3, 0, 1000, 1 << 30)] == values
    target.close(clean=True)


def moved(node: Node) -> dict[int, HardState]:
    """Group 0 goes from log A to log B; what B says of its groups afterwards."""
    logs = {number: node.open(number) for number in (A, B)}
    states = {number: log.recover() for number, log in logs.items()}
    try:
        list(copy_groups([Move(0, A, B)], logs, states))
    finally:
        for log in logs.values():
            log.close(clean=True)
    log = node.open(B)
    found = log.recover()
    log.close(clean=True)
    return found


def voted(node: Node) -> None:
    log = node.open(A)
    log.recover()
    log.append(
        [
            *[(LEARNED, 0, 0, 1, ME, b"old"), (SYSTEM, 0, 1, 0, 0, b"members")],
            *[(ACCEPT, 0, 1, 3, ME, b"open"), (PROMISE, 0, 1, 5, PEER, b"")],
        ]
    )
    log.close(clean=True)


def test_a_group_in_doubt_stays_in_doubt() -> None:
    node = Node([A])
    voted(node)
    node.disks[A].forget("a bad batch", 0)
    assert moved(node)[0] == HardState(
        1, (5, PEER), (3, ME), b"open", suspect=True, system=b"members", system_from=1
    )


def test_that_an_inner_state_may_be_lost_goes_along() -> None:
    node = Node([A])
    voted(node)
    node.write(0, [(SYSTEM, 0, 2, 0, 0, b"later")])
    node.disks[A].forget("a bad batch", 1)
    state = moved(node)[0]
    assert (state.suspect, state.system, state.system_from, state.system_lost) == (True, b"members", 1, True)


def test_a_sound_group_stays_sound_in_a_log_in_doubt() -> None:
    node = Node([A])
    voted(node)
    node.disks[B].forget("a bad batch", 0)
    assert moved(node)[0] == HardState(1, (5, PEER), (3, ME), b"open", system=b"members", system_from=1)


def test_a_group_without_inner_state_is_known_to_have_none_in_a_log_in_doubt() -> None:
    node = Node([A])
    node.write(0, [(PROMISE, 0, 0, 5, PEER, b"")])
    node.disks[B].forget("a bad batch", 0)
    assert moved(node)[0] == HardState(0, (5, PEER), NULL_BALLOT, b"")


def test_a_target_with_a_later_state_of_inner_machines_is_of_another_time() -> None:
    node = Node([A])
    voted(node)
    late = node.open(B)
    late.recover()
    late.append([(SYSTEM, 0, 2, 0, 0, b"later")])
    late.close(clean=True)
    with pytest.raises(StorageDamaged, match="Files of different times were mixed"):
        moved(node)


@pytest.mark.parametrize("instance", [0, 1])
def test_a_group_with_damaged_values_stays_where_it_is(instance: int) -> None:
    node = Node([A])
    voted(node)
    node.disks[A].spoil(0, instance)
    with pytest.raises(StorageDamaged, match="start with the layout as it was"):
        moved(node)
