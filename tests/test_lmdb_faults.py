"""What may happen to a log in plain LMDB, and what becomes of it: damaged, cut, foreign and newer files, a
disk that fails or is full, a map that is full, a child that inherits it."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.engine.storage import LogIdentity, NoRoom, StorageDamaged
from paxmux.plugins.storage import lmdb_file, lmdb_log, lmdb_open, lmdb_record
from paxmux.plugins.storage.kind import LMDB, SEGMENTS
from paxmux.plugins.storage.lmdb_log import LmdbLog
from paxmux.plugins.storage.segment import SegmentLog
from tests.fault_rows import fault
from tests.lmdb_disk import NO_SYNC, NO_WRITE, broken, descriptors
from tests.storage_model import ACCEPT, IDENTITY, LEARNED, PROMISE, SYSTEM, Model, feed, workload

STEP_BYTES = 1 << 20
LEFT = 77
"""Exit code of a child that found nothing wrong."""


def opened(path: Path, identity: LogIdentity = IDENTITY, *, create: bool = True) -> LmdbLog:
    return LmdbLog(path, identity, segment_bytes=STEP_BYTES, create=create)


def filled(path: Path, batches: int = 30, *, clean: bool = True) -> Model:
    log, model = opened(path), Model()
    log.recover()
    feed(log, [workload(9, i, large=6000) for i in range(batches)], model)
    log.close(clean=clean)
    return model


def flip(file: Path, offset: int, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1 << bit
    file.write_bytes(data)


def contents(path: Path) -> dict[str, bytes]:
    """Every file but the locks, which each opening writes."""
    files = (each for each in path.rglob("*") if each.is_file() and each.name not in ("LOCK", "lock.mdb"))
    return {str(each.relative_to(path)): each.read_bytes() for each in files}


# Damage


@pytest.mark.parametrize("clean", [True, False])
def test_a_flipped_bit_of_a_value_is_found_when_it_is_read(tmp_path: Path, clean: bool) -> None:
    log = opened(tmp_path)
    log.recover()
    log.append([(ACCEPT, 2, i, 1, 1, b"<value %d>" % i) for i in range(5)])
    log.sync()
    log.close(clean=clean)
    data = tmp_path / "lmdb" / "data.mdb"
    flip(data, data.read_bytes().index(b"<value 3>") + 2)
    log = opened(tmp_path)
    log.recover()
    assert log.read(2, 2) == (1, 1, b"<value 2>")
    with pytest.raises(StorageDamaged, match=r"data\.mdb: value of group 2, instance 3: the CRC"):
        log.read(2, 3)
    assert [found[0] for found in log.read_range(2, 0, 5, 1000)] == [0, 1, 2]
    with pytest.raises(StorageDamaged, match="instance 3"):
        log.read_range(2, 3, 2, 1000)
    assert log.healthy() is None
    log.append([(LEARNED, 2, 3, 1, 1, b"again")])
    log.sync()
    assert [found[0] for found in log.read_range(2, 0, 5, 1000)] == [0, 1, 2, 3, 4]
    log.close(clean=True)


def test_a_damaged_value_that_was_voted_for_is_told_of(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.recover()
    log.append([(ACCEPT, 7, 3, 1, 1, b"<voted for>")])
    log.close(clean=True)
    data = tmp_path / "lmdb" / "data.mdb"
    flip(data, data.read_bytes().rindex(b"<voted for>"))
    state = opened_and_recovered(tmp_path)[7]
    assert (state.instance, state.promised, state.accepted, state.lost) == (3, (1, 1), (1, 1), True)


def test_a_damaged_state_is_found_at_the_start_and_nothing_is_changed(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.recover()
    log.append([(ACCEPT, 7, 3, 1, 1, b"<voted for>"), (PROMISE, 8, 0, 0xABCDEF0123, 1, b"")])
    log.close(clean=True)
    data = tmp_path / "lmdb" / "data.mdb"
    good = data.read_bytes()
    for found, message in (
        ((0xABCDEF0123).to_bytes(8, "little"), "state of group 8: the CRC"),
        (IDENTITY.seat.to_bytes(8, "little"), "says whose log it is: the CRC"),
    ):
        data.write_bytes(good)
        flip(data, good.rindex(found))
        before = contents(tmp_path)
        with pytest.raises(StorageDamaged, match=message):
            opened_and_recovered(tmp_path)
        assert contents(tmp_path) == before
    data.write_bytes(good)
    assert opened_and_recovered(tmp_path)[7].value == b"<voted for>"


@pytest.mark.parametrize("missing", [False, True])
@fault(
    "flipped bits",
    "LmdbLog: what the members of a group are",
    "named; the group learns from the founding on, without a vote",
)
def test_a_damaged_state_of_inner_machines_is_told_of(tmp_path: Path, missing: bool) -> None:
    log = opened(tmp_path)
    log.recover()
    log.append([(SYSTEM, 7, 3, 0, 0, b"<members>"), (SYSTEM, 8, 1, 0, 0, b"<other>")])
    log.append([(PROMISE, 7, 3, 1, 1, b"")])
    log.sync()
    if missing:
        assert log._env is not None
        with log._env._env.begin(write=True) as txn:
            assert txn.delete(lmdb_record.system_key(7), db=log._env.about)
    log.close(clean=True)
    data = tmp_path / "lmdb" / "data.mdb"
    if not missing:
        flip(data, data.read_bytes().rindex(b"<members>"))
    for _ in range(2):
        states = opened_and_recovered(tmp_path)
        assert states[7] == lmdb_log.HardState(3, (1, 1), (0, 0), b"", system_lost=True)
        assert (states[8].system, states[8].system_lost) == (b"<other>", False)
    log = opened(tmp_path)
    log.recover()
    assert (log.system(7), log.system(8)) == (None, (1, b"<other>"))
    assert log.stats()["damaged_records"] == 1
    log.append([(SYSTEM, 7, 4, 0, 0, b"<again>")])
    log.close(clean=True)
    assert opened_and_recovered(tmp_path)[7].system == b"<again>"


def opened_and_recovered(path: Path) -> dict[int, lmdb_log.HardState]:
    log = opened(path, create=False)
    try:
        return log.recover()
    finally:
        log.close(clean=False)


@pytest.mark.parametrize("clean", [True, False])
def test_a_file_that_is_cut_short_is_damaged_and_kills_nobody(tmp_path: Path, clean: bool) -> None:
    filled(tmp_path, clean=clean)
    data = tmp_path / "lmdb" / "data.mdb"
    with data.open("rb") as file:
        metas = lmdb_file.read_metas(file.fileno(), data)
    used = (metas.last_page + 1) * metas.page_bytes
    assert data.stat().st_size > used
    for length in (used - 1, used // 2, metas.page_bytes, metas.page_bytes - 1, 100, 0):
        os.truncate(data, length)
        with pytest.raises(StorageDamaged, match=r"data\.mdb"):
            opened(tmp_path)
    data.unlink()
    with pytest.raises(StorageDamaged, match=r"data\.mdb: missing"):
        opened(tmp_path)


def test_the_room_behind_the_last_page_may_be_lost(tmp_path: Path) -> None:
    model = filled(tmp_path)
    data = tmp_path / "lmdb" / "data.mdb"
    with data.open("rb") as file:
        metas = lmdb_file.read_metas(file.fileno(), data)
    os.truncate(data, (metas.last_page + 1) * metas.page_bytes)
    log = opened(tmp_path)
    log.recover()
    model.check(log)
    log.close(clean=True)


def test_the_last_commit_does_not_vanish_with_its_meta_page(tmp_path: Path) -> None:
    """LMDB takes the older meta page if it does not like the newer one."""
    for clean in (True, False):
        path = tmp_path / str(clean)
        filled(path, clean=clean)
        data = path / "lmdb" / "data.mdb"
        good = data.read_bytes()
        page_bytes = int.from_bytes(good[40:44], "little")
        last = [int.from_bytes(good[start + 144 : start + 152], "little") for start in (0, page_bytes)]
        newer = (0, page_bytes)[last.index(max(last))]
        # Magic; transaction, to none, and to older ones.
        replacements = [(16, b"\0")]
        replacements += [(144, (max(last) - back).to_bytes(8, "little")) for back in (max(last), 1, 3, 4)]
        if clean:
            replacements.append((144, (max(last) - 2).to_bytes(8, "little")))
        for start, replaced in replacements:
            at = newer + start
            data.write_bytes(good[:at] + replaced + good[at + len(replaced) :])
            with pytest.raises(StorageDamaged, match="meta page"):
                opened(path)
    # An older state of the whole file is told by the mark of the clean stop alone.
    path = tmp_path / "older"
    filled(path, 5)
    older = (path / "lmdb" / "data.mdb").read_bytes()
    log = opened(path)
    log.recover()
    log.append([(PROMISE, 0, 10**6, 99, 1, b"")])
    log.close(clean=True)
    (path / "lmdb" / "data.mdb").write_bytes(older)
    with pytest.raises(StorageDamaged, match="not those that the last clean stop left"):
        opened(path)


@pytest.mark.parametrize("seed", range(4))
def test_no_single_fault_goes_unnoticed(tmp_path: Path, seed: int) -> None:
    """In a child: a page that LMDB should not trust may kill the process, and that is no good outcome."""
    model = filled(tmp_path / "log", clean=True)
    data = tmp_path / "log" / "lmdb" / "data.mdb"
    good = contents(tmp_path / "log")
    with data.open("rb") as file:
        metas = lmdb_file.read_metas(file.fileno(), data)
    used = (metas.last_page + 1) * metas.page_bytes
    rng = random.Random(seed)

    def look() -> None:
        for _ in range(60):
            file = rng.choice([data, data, data, tmp_path / "log" / "CLEAN"])
            before = good[str(file.relative_to(tmp_path / "log"))]
            flip(file, rng.randrange(min(used, len(before))), rng.randrange(8))
            harmless_or_noticed(tmp_path / "log", model)
            for name, content in good.items():
                (tmp_path / "log" / name).write_bytes(content)

    assert in_child(look) == LEFT


def harmless_or_noticed(path: Path, model: Model) -> None:
    try:
        log = opened(path, create=False)
    except (StorageDamaged, DataDirError):
        return
    try:
        states = log.recover()
        model.survived(log, states)
    except StorageDamaged:
        return
    finally:
        log.close(clean=True)
    assert len(model.batches) == 30


def in_child(work: Callable[[], None]) -> int:
    """Exit code, or minus the signal, of a fork that does some work."""
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(LEFT)
        finally:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


# Whose it is


@pytest.mark.parametrize("field", LogIdentity._fields)
def test_a_foreign_log_is_refused_and_not_touched(tmp_path: Path, field: str) -> None:
    model = filled(tmp_path)
    before = contents(tmp_path)
    # The mark of a clean stop says whose it is as well.
    (tmp_path / "CLEAN").unlink()
    foreign = IDENTITY._replace(**{field: getattr(IDENTITY, field) + 1})
    with pytest.raises(DataDirError, match=f"belongs to {field}"):
        opened(tmp_path, foreign)
    (tmp_path / "CLEAN").write_bytes(before["CLEAN"])
    with pytest.raises(StorageDamaged, match="belongs to another log"):
        opened(tmp_path, foreign)
    assert contents(tmp_path) == before
    log = opened(tmp_path)
    log.recover()
    model.check(log)
    log.close(clean=True)


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(lmdb_record, "VERSION", 2)
        filled(tmp_path)
    with pytest.raises(DataDirError, match="format version 2, this program reads up to 1"):
        opened(tmp_path)


def test_each_plugin_refuses_the_log_of_the_other(tmp_path: Path) -> None:
    filled(tmp_path / "lmdb")
    with pytest.raises(DataDirError, match=f"another storage plugin, {LMDB}"):
        SegmentLog(tmp_path / "lmdb", IDENTITY, segment_bytes=STEP_BYTES)
    log = SegmentLog(tmp_path / "segments", IDENTITY, segment_bytes=STEP_BYTES)
    log.recover()
    log.close(clean=True)
    with pytest.raises(DataDirError, match=f"another storage plugin, {SEGMENTS}"):
        opened(tmp_path / "segments")


def test_a_log_that_must_exist_is_never_made(tmp_path: Path) -> None:
    log = opened(tmp_path / "none", create=False)
    with pytest.raises(StorageDamaged, match="must not vote in its present seat again"):
        log.recover()
    with pytest.raises(StorageFailed):
        log.append([(PROMISE, 0, 0, 1, 1, b"")])
    log.close(clean=True)
    filled(tmp_path / "lost")
    for each in (tmp_path / "lost" / "lmdb").iterdir():
        each.unlink()
    (tmp_path / "lost" / "lmdb").rmdir()
    log = opened(tmp_path / "lost")
    with pytest.raises(StorageDamaged, match="the mark of a clean stop is there, the log is not"):
        log.recover()
    log.close(clean=True)


def test_what_is_left_of_a_log_that_was_being_made_is_made_again(tmp_path: Path) -> None:
    unfinished = tmp_path / "lmdb.new"
    unfinished.mkdir()
    (unfinished / "data.mdb").write_bytes(b"torn")
    model = filled(tmp_path)
    assert not unfinished.exists()
    log = opened(tmp_path, create=False)
    log.recover()
    model.check(log)
    log.close(clean=True)


# The disk


@pytest.mark.parametrize(("which", "device"), [(0, NO_SYNC), (0, NO_WRITE), (1, NO_WRITE)])
def test_a_failed_commit_is_the_last_though_lmdb_would_go_on(tmp_path: Path, which: int, device: str) -> None:
    """The `fdatasync` of pages, their writing, and the writing of the meta page."""
    log, model = opened(tmp_path), Model()
    log.recover()
    feed(log, [workload(5, i) for i in range(5)], model)
    assert log.healthy() is None
    with (
        broken(descriptors(log)[which], device),
        pytest.raises(StorageFailed, match="commit failed") as first,
    ):
        feed(log, [workload(5, 5)])
    model.batches.append(workload(5, 5))
    for call in (log.sync, log.housekeep, lambda: log.append([(PROMISE, 0, 99, 99, 9, b"")])):
        with pytest.raises(StorageFailed) as again:
            call()
        assert str(again.value) == str(first.value)
    assert log.healthy() == str(first.value)
    log.close(clean=True)
    assert not (tmp_path / "CLEAN").exists()
    log = opened(tmp_path)
    # What the failed commit may have left in the page cache is made durable, or is not there.
    model.survived(log, log.recover())
    log.close(clean=True)


def test_an_interrupted_commit_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(tmp_path)
    log.recover()
    log.append([(PROMISE, 0, 0, 1, 1, b"")])

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lmdb_open.Environment, "commit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            log.sync()
    with pytest.raises(StorageFailed, match="has not ended"):
        log.sync()
    log.close(clean=True)
    assert opened_and_recovered(tmp_path) == {}


def test_a_disk_without_room_is_reported_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, model = opened(tmp_path), Model()
    log.recover()
    assert log.housekeep() is None

    def full(_fd: int, _offset: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    index = 0
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        while log.healthy() is None:
            feed(log, [workload(6, index, large=100_000)], model)
            index += 1
            assert index < 1000
        trouble = log.healthy()
        assert trouble is not None
        assert "no room to grow" in trouble
        assert os.strerror(errno.ENOSPC) in trouble
        # There is still room for the turn that was under way.
        feed(log, [workload(6, index, large=100_000)], model)
        assert log.housekeep() == lmdb_log.RETRY_S
    assert log.healthy() is not None
    assert log.housekeep() is None
    assert log.healthy() is None
    model.check(log)
    log.close(clean=True)


@fault(
    "full file system under load",
    "LmdbLog: a batch larger than what is left",
    "not taken in; later it may be",
)
def test_a_batch_for_which_there_is_no_room_is_not_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, model = opened(tmp_path), Model()
    log.recover()
    feed(log, [workload(6, index) for index in range(10)], model)
    large = [(ACCEPT, 9, 0, 1, 1, os.urandom(8 << 20))]

    def full(_fd: int, _offset: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = log.stats()
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        for _ in range(2):
            with pytest.raises(NoRoom, match="no room to grow"):
                log.append(large)
        assert "no room to grow" in (log.healthy() or "")
        assert log.stats() == before
        model.check(log)
        feed(log, [workload(6, 10)], model)
    assert log.housekeep() is None
    assert log.healthy() is None
    feed(log, [large, workload(6, 11)], model)
    log.close(clean=False)
    log = opened(tmp_path)
    model.survived(log, log.recover())
    log.close(clean=True)


def test_a_file_system_that_is_really_full_loses_nothing(tmp_path: Path) -> None:
    """The limit of a file's size plays it, in a child: LMDB's own writes fail as well."""
    path = tmp_path / "log"
    program = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from paxmux.engine.errors import StorageFailed\n"
        "from paxmux.plugins.storage.lmdb_log import LmdbLog\n"
        "from tests.storage_model import IDENTITY, workload\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))\n"
        "log = LmdbLog(Path(sys.argv[1]), IDENTITY, segment_bytes=1 << 20)\n"
        "log.recover()\n"
        "warned = False\n"
        "for i in range(10**6):\n"
        "    try:\n"
        "        log.append(workload(8, i, large=300_000))\n"
        "        log.sync()\n"
        "    except StorageFailed:\n"
        "        print(i, warned, flush=True)\n"
        "        log.close(clean=True)\n"
        "        break\n"
        "    warned = log.healthy() is not None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, warned = done.stdout.split()
    assert warned == "True"
    model = Model()
    model.batches = [workload(8, i, large=300_000) for i in range(int(count) + 1)]
    model.synced = int(count)
    log = opened(path)
    assert model.survived(log, log.recover()) == int(count)
    log.append([(PROMISE, 0, 10**6, 99, 1, b"")])
    log.close(clean=True)


def test_the_map_grows_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_open, "MAP_BYTES", 64 << 10)
    log, model = opened(tmp_path), Model()
    log.recover()
    feed(log, [workload(7, i, large=30_000) for i in range(120)], model)
    # One that needs it to double many times at once.
    large = [(ACCEPT, 9, i, 1, 1, os.urandom(1 << 20)) for i in range(8)]
    feed(log, [list(large)], model)
    assert log.stats()["disk_bytes"] > 8 << 20
    model.check(log)
    log.close(clean=True)
    monkeypatch.undo()
    log = opened(tmp_path)
    log.recover()
    model.check(log)
    log.close(clean=True)


def test_what_waits_in_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_log, "PENDING_MAX_BYTES", 10_000)
    log, model = opened(tmp_path), Model()
    log.recover()
    batches = [[(ACCEPT, 0, i, 1, 1, bytes(1000))] for i in range(35)]
    feed(log, batches, model, sync=False)
    assert log.stats()["syncs"] == 3
    log.close(clean=False)
    log = opened(tmp_path)
    assert model.survived(log, log.recover()) == 30
    log.close(clean=True)


def test_rewritten_instances_take_no_more_room(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.recover()
    sizes = []
    for round_ in range(1, 150):
        log.append([(ACCEPT, 0, 5, round_, 1, bytes(20_000))])
        log.sync()
        sizes.append(log._env._env.info()["last_pgno"])  # type: ignore[union-attr]
    assert sizes[-1] <= sizes[20] + 8
    log.close(clean=True)


def test_a_killed_reader_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader in another process keeps pages from being used again, unless somebody looks after it."""
    monkeypatch.setattr(lmdb_log, "READERS_EVERY_S", 0.0)
    log = opened(tmp_path)
    log.recover()
    program = (
        "import lmdb, os, signal, sys\n"
        "env = lmdb.open(sys.argv[1], readonly=True, lib_version=0)\n"
        "txn = env.begin()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "lmdb")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert log._env is not None
    assert "no active readers" not in log._env._env.readers()
    log._readers_at = 0.0
    log.housekeep()
    assert "no active readers" in log._env._env.readers()
    log.close(clean=True)


def test_a_child_that_inherits_a_log_cannot_use_it(tmp_path: Path) -> None:
    log, model = opened(tmp_path), Model()
    log.recover()
    feed(log, [workload(3, i) for i in range(5)], model)

    def use() -> None:
        for call in (log.sync, lambda: log.read(0, 0), lambda: log.append([(PROMISE, 0, 0, 1, 1, b"")])):
            with pytest.raises(StorageFailed, match="not in its child"):
                call()
        log.close(clean=True)

    assert in_child(use) == LEFT
    assert not (tmp_path / "CLEAN").exists()
    feed(log, [workload(3, 5)], model)
    model.check(log)
    log.close(clean=True)
    assert (tmp_path / "CLEAN").exists()
