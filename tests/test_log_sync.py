"""A log that is not synced in every turn: what leaves when, what is marked on the disk, what is lost."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from uuid import UUID
from zlib import crc32

import pytest

from paxmux.engine.errors import Code, DataDirError, StorageFailed
from paxmux.engine.options import LimitOptions, ProposalOptions, StorageOptions, TimerOptions
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS
from paxmux.engine.storage import NULL_BALLOT, LogIdentity, Record, RecordKind, StorageDamaged
from paxmux.plugins.storage.flusher import DUE_S
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.shards import sync_mark
from paxmux.shards.log_sync import LogSync
from paxmux.shards.outlet import Outlet
from paxmux.shards.requests import Batch, CallKind, Reply
from paxmux.shards.slice import Identity, build_turn
from paxmux.shards.sync_mark import FILE, SyncMark
from paxmux.shards.turn import Turn
from paxmux.tools.sim.disk import SimDisk
from tests.storage_model import Model

OWNER = LogIdentity(7, 1, 11, 0)
LATER = 10**15
ACCEPT = int(RecordKind.ACCEPT)


class Watched(MemoryLog):
    """Says in which order it is used."""

    def __init__(self) -> None:
        super().__init__(Path(), OWNER)
        self.order: list[str] = []

    def append(self, records: list[Record]) -> None:  # type: ignore[override]
        self.order.append("append")
        super().append(records)

    def sync(self) -> None:
        self.order.append("sync")
        super().sync()

    def flush(self) -> None:
        self.order.append("flush")
        super().flush()


class Wire:
    """Takes frames, and notes that they left."""

    def __init__(self, order: list[str]) -> None:
        self.order = order

    def send(self, data: bytes, *, droppable: bool = True) -> bool:
        self.order.append("send")
        return True

    def commit(self) -> bool:
        return True


def made(
    folder: Path,
    *,
    log: MemoryLog | None = None,
    members: dict[int, int] | None = None,
    overrides: dict[int, bool] | None = None,
    **options: object,
) -> tuple[Turn, list[str], list[Reply]]:
    """A turn over groups 0 and 1, and what happens in it."""
    used = log or Watched()
    order = used.order if isinstance(used, Watched) else []
    storage = StorageOptions(**options)  # type: ignore[arg-type]
    replies: list[Reply] = []
    turn = build_turn(
        Identity(7, 1, 11, 99, 0, 1),
        {0: {}, 1: {}},
        used,
        Wire(order),
        replies,
        members=Members(members or {1: 11}),
        rng=random.Random(1),
        now=0,
        timers=TimerOptions(),
        proposals=ProposalOptions(),
        limits=LimitOptions(),
        log_sync=LogSync(used, SyncMark(folder, OWNER), storage, (0, 1), overrides),
    )
    turn.start(0)
    turn.run(0)
    order.clear()
    return turn, order, replies


def propose(turn: Turn, *groups: int) -> None:
    """A value in each group, until all that follows from it is done."""
    turn.run(0, [], [Batch([(1000 + group, group, LATER, 0, b"v", None) for group in groups])])
    while turn.busy:
        turn.run(0)


def switch(turn: Turn, group: int, on: bool) -> Reply:
    turn.replies.clear()
    turn.run(0, [], [Batch([], [(1, CallKind.SET_LOG_SYNC, group, LATER, int(on), b"")])])
    return next(reply for reply in turn.replies if reply[0] == 1)


def another_boot(monkeypatch: pytest.MonkeyPatch, number: int = 1) -> None:
    """The machine has been started again."""
    monkeypatch.setattr(sync_mark, "boot_id", lambda: UUID(int=number))


def test_by_default_each_turn_appends_and_syncs_and_nothing_else(tmp_path: Path) -> None:
    turn, order, _ = made(tmp_path, members={1: 11, 2: 12, 3: 13})
    assert turn.log_sync.every_turn
    turn.run(0, [], [Batch([(1, 0, LATER, 0, b"v", None)])])
    assert order == ["append", "sync", "send", "send"]
    propose(turn, 0, 1)
    assert "flush" not in order
    appends = [at for at, what in enumerate(order) if what == "append"]
    assert len(appends) >= 2
    assert all(order[at + 1] == "sync" for at in appends)
    assert list(tmp_path.iterdir()) == []


def test_a_turn_without_any_log_sync_syncs(tmp_path: Path) -> None:
    log = Watched()
    log.recover()
    outlet = Outlet(Wire([]), {}, me=1, seat=11, incarnation=9, cluster=7, worker=0, generation=1, groups=1)
    turn = Turn({}, {}, log, outlet, [], serve_max_bytes=1)
    turn.fx.records.append((ACCEPT, 0, 0, 1, 1, b"v"))
    turn.persist()
    assert log.order == ["append", "sync"]
    with pytest.raises(OSError, match="no place"):
        turn.log_sync.set(0, False)


def test_switched_off_the_order_stays_and_only_the_sync_is_left_out(tmp_path: Path) -> None:
    turn, order, _ = made(tmp_path, sync=False, members={1: 11, 2: 12, 3: 13})
    turn.run(0, [], [Batch([(1, 0, LATER, 0, b"v", None)])])
    assert order == ["append", "flush", "send", "send"]


def test_a_turn_is_synced_if_any_group_in_it_is(tmp_path: Path) -> None:
    turn, order, _ = made(tmp_path)
    assert switch(turn, 1, False)[1] == Code.OK
    assert [turn.log_sync.durable(group) for group in (0, 1)] == [True, False]
    order.clear()
    propose(turn, 1)
    assert "flush" in order
    assert "sync" not in order
    order.clear()
    propose(turn, 0, 1)
    assert "sync" in order
    assert turn.log.stats()["syncs"] > 0


def test_so_many_turns_in_a_row_may_skip_the_sync(tmp_path: Path) -> None:
    log = Watched()
    log.recover()
    log_sync = LogSync(log, SyncMark(tmp_path, OWNER), StorageOptions(sync_skip_count=2), (0,))
    log_sync.begin()
    assert not log_sync.every_turn
    assert not log_sync.durable(0)
    for _ in range(7):
        log_sync.appended([(ACCEPT, 0, 0, 1, 1, b"v")])
    assert log.order == ["flush", "flush", "sync", "flush", "flush", "sync", "flush"]


def test_what_was_skipped_is_synced_some_time_later(tmp_path: Path) -> None:
    log = Watched()
    log.recover()
    options = StorageOptions(sync=False, sync_interval_ms=50)
    log_sync = LogSync(log, SyncMark(tmp_path, OWNER), options, (0,))
    log_sync.begin()
    assert log_sync.upkeep(1000 * MS) == 0
    assert log.order == []
    log_sync.appended([])
    assert log_sync.upkeep(1000 * MS) == 0
    assert log.order == ["flush", "sync"]
    log_sync.appended([])
    assert log_sync.upkeep(1010 * MS) == 40 * MS
    assert log.order == ["flush", "sync", "flush"]
    assert log_sync.upkeep(1050 * MS) == 0
    assert log.order == ["flush", "sync", "flush", "sync"]


def test_the_index_follows_a_log_that_is_not_synced_and_never_overtakes_its_sync(tmp_path: Path) -> None:
    log = SegmentLog(tmp_path / "log", OWNER, segment_bytes=1 << 16)
    log.recover()
    now = log._start.flusher._next_round
    log._start.flusher._clock = lambda: now
    options = StorageOptions(sync=False, sync_interval_ms=50)
    log_sync = LogSync(log, SyncMark(tmp_path / "log", OWNER), options, (0,))
    log_sync.begin()
    index = log._start.index
    begun = index.position
    assert begun is not None
    for turn in range(40):
        now += DUE_S
        records: list[Record] = [(ACCEPT, 0, turn, 1, 1, b"v")]
        log.append(records)
        log_sync.appended(records)
        assert log._synced < log._position
        before = index.position
        assert log.housekeep() is not None
        assert (index.position, index.proven <= log._synced) == (before, True)
        if not log_sync.upkeep(int(now * 1000) * MS):
            log.housekeep()
            assert index.position == log._synced
    assert index.position > begun
    log_sync.close()
    log.close(clean=True)


def test_switched_on_again_everything_is_synced_before_anything_leaves(tmp_path: Path) -> None:
    turn, order, _ = made(tmp_path, sync=False, members={1: 11, 2: 12, 3: 13})
    turn.run(0, [], [Batch([(1, 0, LATER, 0, b"v", None)])])
    assert isinstance(turn.log, Watched)
    assert turn.log.disk.synced == 0
    order.clear()
    assert switch(turn, 0, True)[1] == Code.OK
    assert order[-1] == "sync"
    assert turn.log.disk.synced == len(turn.log.disk.batches) > 0
    assert not turn.log_sync.every_turn, "group 1 is still off"
    assert switch(turn, 1, True)[1] == Code.OK
    assert turn.log_sync.every_turn
    assert not (tmp_path / FILE).exists()


def test_the_promise_is_marked_as_given_up_before_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, _, _ = made(tmp_path)
    marked: list[frozenset[int]] = []
    write = SyncMark.write

    def watched(mark: SyncMark, unsynced: frozenset[int]) -> None:
        marked.append(frozenset(unsynced))
        assert turn.log_sync.durable(1)
        write(mark, unsynced)

    with monkeypatch.context() as patched:
        patched.setattr(SyncMark, "write", watched)
        switch(turn, 1, False)
    assert marked == [{1}]

    def full(_: SyncMark, unsynced: frozenset[int]) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SyncMark, "write", full)
        reply = switch(turn, 0, False)
    assert reply[1] == Code.STORAGE_FAILED
    assert b"No space left" in (reply[4] or b"")
    assert turn.log_sync.durable(0)


@pytest.mark.parametrize("skip_count", [0, 3])
def test_it_is_said_when_the_promise_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, skip_count: int
) -> None:
    caplog.set_level(logging.WARNING)
    turn, _, _ = made(tmp_path, sync=skip_count > 0, sync_skip_count=skip_count)
    assert "groups 0, 1 are not synced" in caplog.text
    assert "can undo what the cluster acknowledged" in caplog.text
    rows = turn.calls._status()
    assert rows.count(b'"durable":false') == 2
    caplog.clear()
    if not skip_count:
        switch(turn, 0, True)
        assert "group 0: log sync is switched on" in caplog.text
        switch(turn, 0, False)
        assert "groups 0 are not synced" in caplog.text


def test_a_clean_stop_takes_the_mark_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turn, _, _ = made(tmp_path, sync=False)
    propose(turn, 0)
    assert (tmp_path / FILE).exists()
    turn.log_sync.close()
    assert not (tmp_path / FILE).exists()
    assert isinstance(turn.log, Watched)
    assert turn.log.disk.synced == len(turn.log.disk.batches)
    another_boot(monkeypatch)
    assert SyncMark(tmp_path, OWNER).lost == frozenset()


def test_the_death_of_the_process_alone_loses_nothing(tmp_path: Path) -> None:
    turn, _, _ = made(tmp_path, sync=False)
    propose(turn, 0)
    turn.log.close(clean=False)
    log = turn.log
    assert isinstance(log, MemoryLog)
    again, _, _ = made(tmp_path, log=log.reopen())
    assert again.groups[0].acceptor.accepted == turn.groups[0].acceptor.promised != NULL_BALLOT
    assert all(group.voter for group in again.groups.values())
    assert not (tmp_path / FILE).exists(), "what was recovered is durable, and all is synced from now on"


def test_after_the_death_of_the_machine_what_was_not_synced_is_suspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turn, _, _ = made(tmp_path)
    switch(turn, 1, False)
    propose(turn, 0, 1)
    assert isinstance(turn.log, MemoryLog)
    turn.log.crash()
    log = turn.log.reopen()
    another_boot(monkeypatch)
    again, _, replies = made(tmp_path, log=log)
    assert "groups 1 were not synced when the machine stopped" in caplog.text
    assert [again.groups[index].voter for index in (0, 1)] == [True, False]
    assert again.calls._status().count(b"there is no other member to ask") == 1
    replies.clear()
    propose(again, 0, 1)
    assert sorted((reply[0], reply[1]) for reply in replies) == [(1000, Code.OK), (1001, Code.OVERLOADED)]
    # Neither a clean stop nor another start, nor syncing from now on, brings back what is forgotten.
    again.log_sync.close()
    again.log.close(clean=True)
    assert not (tmp_path / FILE).exists(), "the log says it"
    another_boot(monkeypatch, 2)
    assert isinstance(again.log, MemoryLog)
    last, _, _ = made(tmp_path, log=again.log.reopen())
    assert [last.groups[index].voter for index in (0, 1)] == [True, False]


def test_the_others_cure_it_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {1: 11, 2: 12, 3: 13}
    turn, _, _ = made(tmp_path, members=members, sync=False)
    propose(turn, 0)
    promised = turn.groups[0].acceptor.promised
    assert isinstance(turn.log, MemoryLog)
    turn.log.crash()
    another_boot(monkeypatch)
    again, _, _ = made(tmp_path, log=turn.log.reopen(), members=members, sync=False)
    group = again.groups[0]
    assert group.acceptor.promised == NULL_BALLOT, "it is forgotten"
    assert "(not synced when the machine stopped, or when a sync failed)" in (group.doubt.words() or "")
    for peer in (2, 3):
        assert not group.voter
        group.doubt.on_reply(peer, group.doubt.nonce, promised, 0, 0, again.fx)
    again.run(0)
    assert (group.voter, group.acceptor.promised) == (True, promised)
    again.log.close(clean=False)
    assert isinstance(again.log, MemoryLog)
    last, _, _ = made(tmp_path, log=again.log.reopen(), members=members, sync=False)
    assert [last.groups[index].voter for index in (0, 1)] == [True, False]
    # Without its syncs it may forget again, and its cure with it.
    last.log.close(clean=False)
    another_boot(monkeypatch, 2)
    assert isinstance(last.log, MemoryLog)
    turn, _, _ = made(tmp_path, log=last.log.reopen(), members=members, sync=False)
    assert [turn.groups[index].voter for index in (0, 1)] == [False, False]


def test_the_mark_goes_only_once_the_log_says_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, _, _ = made(tmp_path, sync=False)
    assert isinstance(turn.log, MemoryLog)
    turn.log.crash()
    another_boot(monkeypatch)
    log = Watched()
    log.recover()
    log_sync = LogSync(log, SyncMark(tmp_path, OWNER), None, (1,))
    assert log_sync.lost == {1}
    log.fail("the disk is gone")
    with pytest.raises(StorageFailed, match="the disk is gone"):
        log_sync.begin()
    assert SyncMark(tmp_path, OWNER).lost == {0, 1}
    log = Watched()
    log.recover()
    LogSync(log, SyncMark(tmp_path, OWNER), None, (1,)).begin()
    assert not (tmp_path / FILE).exists()
    log.crash()
    assert {group: state.suspect for group, state in log.reopen().recover().items()} == {1: True}


@pytest.mark.parametrize("seed", range(40))
def test_power_cuts_take_nothing_from_a_synced_group_and_are_no_damage(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    disk, model = SimDisk(OWNER, segment_bytes=16 << 10), Model()
    log = disk.open()
    log.recover()
    now = instance = 0
    for _ in range(4):
        log_sync = LogSync(log, SyncMark(tmp_path, OWNER), StorageOptions(sync_interval_ms=50), (0, 1))
        log_sync.begin()
        log_sync.set(1, False)
        for _ in range(rng.randrange(5, 60)):
            now += rng.randrange(20 * MS)
            groups = rng.choice(((0,), (1,), (1,), (1,), (0, 1)))
            value = rng.randbytes(rng.randrange(300))
            records: list[Record] = [(ACCEPT, group, instance, 1, 1, value) for group in groups]
            instance += 1
            log.append(records)
            log_sync.appended(records)
            model.batches.append(records)
            skipped = log_sync._skipped > 0
            assert skipped == (log._synced < log._position)
            assert not skipped or 0 not in groups
            if not log_sync.upkeep(now):
                log.housekeep()
                skipped = False
            if not skipped:
                model.synced = len(model.batches)
        disk.crash(rng, power=True)
        log = disk.open()
        model.survived(log, log.recover())


def test_a_failed_sync_of_what_was_said_already_loses_the_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, _, _ = made(tmp_path, sync=False)
    propose(turn, 0)
    assert isinstance(turn.log, MemoryLog)
    turn.log.fail("the disk is gone")
    with pytest.raises(StorageFailed):
        turn.log_sync.upkeep(LATER)
    turn.log_sync.lose()
    assert SyncMark(tmp_path, OWNER).lost == {0, 1}


def test_what_was_switched_outlives_the_worker(tmp_path: Path) -> None:
    turn, _, _ = made(tmp_path, sync=False, overrides={0: True})
    assert [turn.log_sync.durable(group) for group in (0, 1)] == [True, False]


def test_the_mark_is_checked(tmp_path: Path) -> None:
    mark = SyncMark(tmp_path, OWNER)
    mark.write((0, 255))
    path = tmp_path / FILE
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        path.write_bytes(wrong)
        with pytest.raises(StorageDamaged, match="UNSYNCED, offset 0"):
            SyncMark(tmp_path, OWNER)
    path.write_bytes(data[:7])
    with pytest.raises(StorageDamaged):
        SyncMark(tmp_path, OWNER)
    path.write_bytes(data)
    with pytest.raises(StorageDamaged, match="another log"):
        SyncMark(tmp_path, OWNER._replace(log=1))
    newer = data[:7] + b"\x09" + data[8:-4]
    path.write_bytes(newer + crc32(newer).to_bytes(4, "little"))
    with pytest.raises(DataDirError, match="format version 9"):
        SyncMark(tmp_path, OWNER)
    path.write_bytes(data)
    assert SyncMark(tmp_path, OWNER).lost == frozenset()


def test_each_boot_has_its_own_id() -> None:
    assert sync_mark.boot_id() == sync_mark.boot_id()
    assert sync_mark.boot_id().int
