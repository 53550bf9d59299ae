"""The index is a cache: lost, cut short or damaged, it is made anew and the answers stay the same."""

from __future__ import annotations

import random
import shutil
import struct
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from paxmux.engine.errors import StorageFailed
from paxmux.engine.storage import HardState, StorageDamaged
from paxmux.plugins.storage import flusher, group_table
from paxmux.plugins.storage.flusher import SLICE_CHUNKS, Flusher
from paxmux.plugins.storage.group_table import CHUNK, GroupTable
from paxmux.plugins.storage.index import Index
from paxmux.plugins.storage.place import IndexUnusable
from paxmux.plugins.storage.segment import SegmentLog
from tests.lmdb_disk import NO_WRITE, broken, descriptors_of
from tests.storage_model import (
    ACCEPT,
    IDENTITY,
    LEARNED,
    PROMISE,
    RELEASED,
    Model,
    feed,
    hard_states,
    workload,
)

SEGMENT_BYTES = 64 << 10


def opened(path: Path) -> SegmentLog:
    return SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES)


def filled(path: Path, model: Model, *, clean: bool) -> None:
    """A closed log of some segments and many chunks, all in the index but for the last batches."""
    batches = 600
    log = opened(path)
    log.recover()
    for i in range(batches - 5):
        feed(log, [workload(1, i, large=2000)], model, sync=i % 10 == 0)
    log.sync()
    log._start.flusher.finish(log._synced)
    feed(log, [workload(1, i, large=2000) for i in range(batches - 5, batches)], model)
    assert log.stats()["segments"] > 1
    log.close(clean=clean)


@contextmanager
def entries(path: Path, name: bytes) -> Iterator[Any]:
    """A write transaction and database of the index, by LMDB alone."""
    with lmdb.open(str(path / "index"), max_dbs=3, map_size=1 << 30, lib_version=0) as env:
        database = env.open_db(name)
        with env.begin(write=True, db=database) as txn:
            yield txn


def remove(path: Path) -> None:
    shutil.rmtree(path / "index")


def empty(path: Path) -> None:
    (path / "index" / "data.mdb").write_bytes(b"")


def truncate(path: Path) -> None:
    data = path / "index" / "data.mdb"
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size // 2)


def scribble_over_the_start(path: Path) -> None:
    with (path / "index" / "data.mdb").open("r+b") as file:
        file.write(random.Random(1).randbytes(8192))


def flip_in(name: bytes, which: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with entries(path, name) as txn:
            key, value = list(txn.cursor())[which]
            txn.put(key, value[:9] + bytes([value[9] ^ 1]) + value[10:])

    return damage


def swap_two_states(path: Path) -> None:
    with entries(path, b"states") as txn:
        (one, first), (two, second) = list(txn.cursor())[:2]
        txn.put(one, second)
        txn.put(two, first)


def another_log(path: Path) -> None:
    shutil.rmtree(path / "index")
    Index(path, IDENTITY._replace(seat=9)).close()
    index = Index(path, IDENTITY._replace(seat=9))
    index.write([], [], 1 << 32, 0, 0, False, 0)
    index.close()


DAMAGES = {
    "removed": remove,
    "empty": empty,
    "truncated": truncate,
    "scribbled": scribble_over_the_start,
    "meta": flip_in(b"meta", 0),
    "state": flip_in(b"states", 1),
    "chunk": flip_in(b"chunks", -1),
    "swapped": swap_two_states,
    "foreign": another_log,
}


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_index_is_made_anew(tmp_path: Path, damage: str, clean: bool) -> None:
    path, model = tmp_path / "log", Model()
    filled(path, model, clean=clean)
    DAMAGES[damage](path)
    log = opened(path)
    assert log.recover() == hard_states(model.records())
    if damage == "chunk" and clean:
        # Nothing in the tail touches that chunk, so that only a reader finds out.
        with pytest.raises(StorageDamaged, match="CRC of entry"):
            model.check(log)
        log.close(clean=True)
        log = opened(path)
        assert log.recover() == hard_states(model.records())
    model.check(log)
    assert not (path / "index.bad").exists()
    feed(log, [workload(1, 600)], model)
    log.close(clean=clean)
    log = opened(path)
    assert log.recover() == hard_states(model.records())
    assert log.stats()["recovered_records"] < 20, "the new index was not complete"
    model.check(log)
    log.close(clean=True)


def test_a_long_rebuild_stores_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paxmux.plugins.storage.recovery.REBUILD_CHUNKS", 4)
    path, model = tmp_path / "log", Model()
    filled(path, model, clean=False)
    remove(path)
    most = 0
    note = GroupTable.note

    def watch(table: GroupTable, *args: Any) -> None:
        nonlocal most
        note(table, *args)
        most = max(most, table.waiting_chunks)

    monkeypatch.setattr(GroupTable, "note", watch)
    log = opened(path)
    assert log.recover() == hard_states(model.records())
    assert 4 <= most <= 7
    model.check(log)
    log.close(clean=True)


def test_a_rebuild_never_stores_what_may_not_be_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paxmux.plugins.storage.recovery.REBUILD_CHUNKS", 1)
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    for i in range(10):
        log.append([(ACCEPT, 0, i * CHUNK, 1, 1, b"%d" % i)])
        if i < 5:
            log.sync()
    synced = log._synced
    log.close(clean=False)
    remove(path)

    def fail(*_args: object) -> None:
        raise OSError(5, "the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr("paxmux.plugins.storage.directory.write_all", fail)
        log = opened(path)
        with pytest.raises(StorageFailed, match="the disk is gone"):
            log.recover()
        log.close(clean=False)
    index = Index(path, IDENTITY)
    assert index.position is not None
    assert 0 < index.position <= synced
    assert index.chunk(0, 0) is not None
    assert all(index.chunk(0, i) is None for i in range(5, 10))
    index.close()


def test_the_old_index_is_kept_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "log", Model()
    filled(path, model, clean=False)
    truncate(path)
    bad = (path / "index" / "data.mdb").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(Index, "write", refuse)
        log = opened(path)
        assert log.recover() == hard_states(model.records())
        assert (path / "index.bad" / "data.mdb").read_bytes() == bad
        model.check(log)
        assert log.healthy() is not None
        log.close(clean=False)
    log = opened(path)
    assert log.recover() == hard_states(model.records())
    assert not (path / "index.bad").exists()
    model.check(log)
    log.close(clean=True)


def refuse(*_args: object) -> None:
    raise IndexUnusable("no space left for the index")


def test_an_index_that_killed_its_process_is_checked_before_it_is_trusted(tmp_path: Path) -> None:
    path, model = tmp_path / "log", Model()
    filled(path, model, clean=False)
    (path / "index.opening").touch()
    log = opened(path)
    assert log.recover() == hard_states(model.records())
    assert log.stats()["recovered_records"] < 20, "a good index was thrown away"
    log.close(clean=True)
    assert not (path / "index.opening").exists()
    with entries(path, b"chunks") as txn:
        chunk = txn.get(struct.pack(">HQ", 0, 2))
    # A page of chunks that nothing looks at while the index is opened.
    data = path / "index" / "data.mdb"
    pages = [data.read_bytes()[at : at + 4096] for at in range(0, data.stat().st_size, 4096)]
    scribble = random.Random(1).randbytes(4096)
    data.write_bytes(b"".join(scribble if chunk in page else page for page in pages))
    (path / "index.opening").touch()
    log = opened(path)
    assert log.recover() == hard_states(model.records())
    assert log.stats()["recovered_records"] > 500
    model.check(log)
    log.close(clean=True)


def test_an_index_that_cannot_be_written_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "DUE_S", 0.0)
    monkeypatch.setattr(flusher, "RETRY_S", 0.0)
    path, model = tmp_path / "log", Model()
    log = opened(path)
    log.recover()
    with monkeypatch.context() as patched:
        patched.setattr(Index, "write", refuse)
        for i in range(300):
            feed(log, [workload(2, i)], model)
            assert log.housekeep() is not None
        assert log.healthy() == "no space left for the index"
        model.check(log)
    log.housekeep()
    assert log.healthy() is None
    model.check(log)
    log.close(clean=False)
    log = opened(path)
    assert log.recover() == hard_states(model.records())
    model.check(log)
    log.close(clean=True)


def test_a_write_that_failed_and_was_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "DUE_S", 0.0)
    monkeypatch.setattr(flusher, "RETRY_S", 0.0)
    write = Index.write

    def write_and_fail(index: Index, *args: Any) -> None:
        before = index.position
        write(index, *args)
        index.position = before
        raise IndexUnusable("the disk said no, and did it")

    path, model = tmp_path / "log", Model()
    log = opened(path)
    log.recover()
    with monkeypatch.context() as patched:
        patched.setattr(Index, "write", write_and_fail)
        feed(log, [workload(3, 0)], model)
        log.housekeep()
        assert log.healthy() == "the disk said no, and did it"
    feed(log, [workload(3, 1)], model)
    log.housekeep()
    assert log.healthy() is None
    model.check(log)
    log.close(clean=True)


def test_a_failed_meta_page_does_not_stop_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB refuses everything after it, until it is opened again."""
    monkeypatch.setattr(flusher, "DUE_S", 0.0)
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    for number in range(3):
        log.append([(LEARNED, 0, number * CHUNK, 1, 1, b"%d" % number)])
    log.sync()
    log.housekeep()
    log._start.table._cache.clear()
    log.append([(LEARNED, 1, 0, 1, 1, b"more")])
    log.sync()
    _, meta = descriptors_of(path / "index" / "data.mdb")
    with broken(meta, NO_WRITE):
        log.housekeep()
    assert "No space left" in (log.healthy() or "")
    assert log.read(0, 0) == (1, 1, b"0")
    log.append([(LEARNED, 0, CHUNK + 1, 1, 1, b"into an older chunk")])
    log.sync()
    log.close(clean=True)
    log = opened(path)
    log.recover()
    assert [log.read(0, n)[2] for n in (0, CHUNK, CHUNK + 1)] == [b"0", b"1", b"into an older chunk"]
    log.close(clean=True)


@pytest.mark.parametrize("what", ["chunk", "older chunk", "state", "older state"])
def test_an_entry_that_vanished_or_is_an_older_one_is_noticed(tmp_path: Path, what: str) -> None:
    """Nothing that is there is wrong."""
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    records: list[Any] = [(ACCEPT, group, i, 1, 1, b"%d" % i) for i in range(3 * CHUNK) for group in (1, 2)]
    middle = 2 * (CHUNK + 5)
    feed(log, [records[:middle]])
    log.close(clean=True)
    name = b"states" if "state" in what else b"chunks"
    key = struct.pack(">H", 1) if "state" in what else struct.pack(">HQ", 1, 1)
    with entries(path, name) as txn:
        older = txn.get(key)
    log = opened(path)
    log.recover()
    feed(log, [records[middle:], [(PROMISE, 1, 3 * CHUNK, 77, 1, b"")]])
    log.close(clean=True)
    with entries(path, name) as txn:
        assert txn.get(key) not in (None, older)
        if what.startswith("older"):
            txn.put(key, older)
        else:
            txn.delete(key)
    log = opened(path)
    states = log.recover()
    assert states[1].promised == (77, 1)
    assert states[1].instance == 3 * CHUNK
    if name == b"chunks":
        with pytest.raises(StorageDamaged, match="some of its chunks are missing, or are older ones"):
            log.read(1, CHUNK + 7)
        log.close(clean=True)
        log = opened(path)
        log.recover()
    assert [log.read(1, i)[2] for i in range(3 * CHUNK)] == [b"%d" % i for i in range(3 * CHUNK)]
    log.close(clean=True)


def test_an_index_that_is_open_when_two_processes_die_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "log", Model()
    filled(path, model, clean=False)
    verified: list[int] = []
    verify = Index._verify

    def watch(index: Index) -> None:
        verified.append((path / "index.opening").stat().st_size)
        verify(index)

    monkeypatch.setattr(Index, "_verify", watch)
    deaths = []
    for _ in range(5):
        log = opened(path)
        assert log.recover() == hard_states(model.records())
        deaths.append((path / "index.opening").stat().st_size)
        # As if the process died now: nobody closes the index.
        guard = (path / "index.opening").read_bytes()
        log.close(clean=False)
        assert not (path / "index.opening").exists()
        (path / "index.opening").write_bytes(guard)
    assert deaths == [1, 2, 1, 2, 1]
    assert verified == [2, 2]


def test_far_too_much_waiting_for_the_index_stops_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flusher, "MAX_WAITING_CHUNKS", 10)
    monkeypatch.setattr(flusher, "DUE_CHUNKS", 5)
    monkeypatch.setattr(flusher, "RETRY_S", 0.0)
    log = opened(tmp_path / "log")
    log.recover()
    monkeypatch.setattr(Index, "write", refuse)
    log.append([(ACCEPT, 0, i * CHUNK, 1, 1, b"") for i in range(8)])
    log.sync()
    log.housekeep()
    log.append([(ACCEPT, 0, i * CHUNK, 1, 1, b"") for i in range(8, 20)])
    log.sync()
    with pytest.raises(StorageFailed, match="index"):
        log.housekeep()
    with pytest.raises(StorageFailed, match="index"):
        log.sync()
    log.close(clean=True)


def test_sync_stores_what_nobody_housekeeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paxmux.plugins.storage.segmented.FLUSH_CHUNKS", 20)
    monkeypatch.setattr(flusher, "DUE_CHUNKS", 10)
    log = opened(tmp_path / "log")
    log.recover()
    for i in range(200):
        log.append([(ACCEPT, 0, i * CHUNK, 1, 1, b"%d" % i)])
        log.sync()
        assert log._start.table.waiting_chunks <= 21
    assert [log.read(0, i * CHUNK) for i in range(200)] == [(1, 1, b"%d" % i) for i in range(200)]
    log.close(clean=False)


def test_nothing_unsynced_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "DUE_S", 0.0)
    path = tmp_path / "log"
    log = opened(path)
    log.recover()
    log.append([(ACCEPT, 0, 0, 1, 1, b"synced")])
    log.sync()
    while log.housekeep() is not None:
        pass
    log.append([(ACCEPT, 0, 0, 2, 1, b"unsynced"), (ACCEPT, 0, 500, 2, 1, b"unsynced")])
    begin = log._synced & 0xFFFFFFFF
    pause = log.housekeep()
    assert pause is not None
    assert pause > 0.0
    log.close(clean=False)
    with (path / "0000000000.seg").open("r+b") as file:
        file.seek(begin)
        file.write(bytes(200))
    log = opened(path)
    assert log.recover() == {0: HardState(0, (1, 1), (1, 1), b"synced")}
    assert log.read(0, 0) == (1, 1, b"synced")
    assert log.read(0, 500) is None
    log.close(clean=True)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_slices_are_bounded_and_a_round_ends(tmp_path: Path) -> None:
    clock = Clock()
    index = Index(tmp_path, IDENTITY)
    table = GroupTable(index.chunk)
    work = Flusher(table, index, clock)
    assert work.slice(10) is None
    assert index.position == 10
    groups, chunks = 5, 300
    for number in range(chunks):
        for group in range(groups):
            table.note([(LEARNED, group, number * CHUNK, 1, 1, b"")], [1000 + number])
    assert table.waiting_chunks == groups * (chunks - 1)
    slices = 0
    before = table.waiting_chunks
    while work.slice(2000) == 0.0:
        slices += 1
        assert 0 < before - table.waiting_chunks <= SLICE_CHUNKS
        before = table.waiting_chunks
        assert index.position == 10, "the round has not ended"
    assert index.position == 2000
    assert table.waiting_chunks == 0
    assert slices >= groups * chunks // SLICE_CHUNKS - 1
    # A few changed groups are not worth a transaction at once.
    table.note([(LEARNED, 0, 7, 1, 1, b"")], [3000])
    pause = work.slice(4000)
    assert pause == pytest.approx(flusher.DUE_S)
    clock.now += flusher.DUE_S
    assert work.slice(4000) is None
    assert index.position == 4000
    index.close()
    index = Index(tmp_path, IDENTITY)
    assert index.position == 4000
    assert index.states.keys() == set(range(groups))
    table = GroupTable(index.chunk)
    table.groups = index.states
    assert all(table.find(g, n * CHUNK) == 1000 + n for g in range(groups) for n in range(chunks))
    assert table.find(0, 7) == 3000
    assert table.find(0, 8) == table.find(0, 10**12) == table.find(77, 0) == 0
    index.close()


def test_a_group_that_is_released_in_a_round_and_comes_back_is_stored_once(tmp_path: Path) -> None:
    """It has changed before the round and again since: what waits of it must not be taken twice."""
    clock = Clock()
    index = Index(tmp_path, IDENTITY)
    table = GroupTable(index.chunk)
    work = Flusher(table, index, clock)
    # More than a slice takes, so that the round goes on after the first one.
    for number in range(2 * SLICE_CHUNKS):
        table.note([(LEARNED, 0, number * CHUNK, 1, 1, b"")], [1000 + number])
    table.note([(LEARNED, 1, 0, 1, 1, b"")], [5000])
    assert work.slice(6000) == 0.0
    table.note([(RELEASED, 1, 0, 0, 0, b""), (LEARNED, 1, 0, 1, 1, b"")], [6001, 6002])
    while work.slice(6000) == 0.0:
        continue
    table.note([(LEARNED, 1, 1, 1, 1, b""), (LEARNED, 1, CHUNK, 1, 1, b"")], [6003, 6004])
    assert work.finish(7000)
    assert table.waiting_chunks == 0
    assert [table.find(1, instance) for instance in (0, 1, CHUNK)] == [6002, 6003, 6004]
    index.close()


def test_a_group_may_jump_back_and_forth_between_chunks(tmp_path: Path) -> None:
    index = Index(tmp_path, IDENTITY)
    table = GroupTable(index.chunk)
    work = Flusher(table, index, Clock())
    rng = random.Random(3)
    expected: dict[int, int] = {}
    for at in range(1, 3000):
        instance = rng.randrange(40) * CHUNK // 2 + rng.randrange(3)
        table.note([(rng.choice((ACCEPT, LEARNED)), 0, instance, 1, 1, b"")], [at])
        expected[instance] = at
        if rng.random() < 0.05:
            assert work.finish(at)
            assert table.waiting_chunks == 0
    assert {instance: table.find(0, instance) for instance in expected} == expected
    assert work.finish(3000)
    assert table.waiting_chunks == 0
    assert len(table._cache) <= group_table.CACHED_CHUNKS
    assert {instance: table.find(0, instance) for instance in expected} == expected
    index.close()


def test_a_full_map_is_made_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paxmux.plugins.storage.index.MAP_BYTES", 256 << 10)
    index = Index(tmp_path, IDENTITY)
    table = GroupTable(index.chunk)
    work = Flusher(table, index, Clock())
    table.note([(LEARNED, 0, n, 1, 1, b"") for n in range(400 * CHUNK)], range(1, 400 * CHUNK + 1))
    tries = [work.trouble for _ in range(5) if not work.finish(10**6)]
    assert 1 <= len(tries) <= 3
    assert "map is full" in (tries[0] or "")
    assert work.trouble is None
    assert table.find(0, 399 * CHUNK) == 399 * CHUNK + 1
    assert index.chunk(0, 5) == array("Q", range(5 * CHUNK + 1, 6 * CHUNK + 1))
    index.close()
