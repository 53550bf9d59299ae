"""Files that are not what they were: exchanged, doubled, lost, newer, or on a file system that is read-only.
What flipped bits do is in `test_storage_damage.py`, `test_storage_index.py` and `test_identity.py`."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage import index
from paxmux.plugins.storage.lmdb_log import LmdbLog
from paxmux.plugins.storage.lock import FILE as LOCK
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.plugins.storage.stop_mark import FILE as MARK
from paxmux.shards.identity import create
from tests.fault_rows import fault
from tests.identity_life import GROUPS, NODE
from tests.identity_life import opened as opened_directory
from tests.source_tree import ROOT
from tests.storage_model import IDENTITY, Model, feed, hard_states, workload

SEGMENT_BYTES = 16 << 10
BATCHES = 120


def opened(path: Path) -> SegmentLog:
    return SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES)


def filled(path: Path, *, clean: bool = True) -> Model:
    """A closed log of some segments."""
    log, model = opened(path), Model()
    log.recover()
    feed(log, [workload(4, i, large=2000) for i in range(BATCHES)], model)
    assert log.stats()["segments"] > 3
    log.close(clean=clean)
    return model


def whole(path: Path, model: Model) -> None:
    """Everything is there, and it goes on."""
    log = opened(path)
    assert log.recover() == hard_states(model.records())
    model.check(log)
    feed(log, [workload(4, len(model.batches))], model)
    model.check(log)
    log.close(clean=True)


@fault(
    "duplicated or swapped file", "log: segments", "`StorageDamaged` with the file's name; nothing is changed"
)
@pytest.mark.parametrize("clean", [True, False])
def test_swapped_segments_are_not_read(tmp_path: Path, clean: bool) -> None:
    filled(tmp_path, clean=clean)
    one, other = tmp_path / "0000000001.seg", tmp_path / "0000000002.seg"
    before = one.read_bytes(), other.read_bytes()
    one.rename(tmp_path / "away")
    other.rename(one)
    (tmp_path / "away").rename(other)
    with pytest.raises(StorageDamaged, match=r"0000000001\.seg: its header says that it is segment 2"):
        opened(tmp_path)
    assert (other.read_bytes(), one.read_bytes()) == before


@fault(
    "duplicated or swapped file", "log: segments", "`StorageDamaged` with the file's name; nothing is changed"
)
@pytest.mark.parametrize("name", ["0000000003.seg", "0000000077.seg", "copy.seg"])
def test_a_segment_that_is_there_twice_is_not_read(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    shutil.copyfile(tmp_path / "0000000001.seg", tmp_path / name)
    with pytest.raises(StorageDamaged, match=rf"{name}: its header says that it is segment 1"):
        opened(tmp_path)


@fault("duplicated or swapped file", "log: a copy beside it", "ignored, or removed where it is in the way")
@pytest.mark.parametrize("name", ["0000000009.seg.tmp", "index.bad", "CLEAN.tmp", "0000000001.seg.copy"])
def test_a_copy_under_a_name_that_means_nothing_does_no_harm(tmp_path: Path, name: str) -> None:
    model = filled(tmp_path)
    if name == "index.bad":
        shutil.copytree(tmp_path / "index", tmp_path / name)
    else:
        shutil.copyfile(tmp_path / "0000000001.seg", tmp_path / name)
    whole(tmp_path, model)


@fault(
    "duplicated or swapped file", "index: that of another log, or an older one", "made anew from the segments"
)
@pytest.mark.parametrize("whose", ["another seat's", "its own of before"])
def test_an_index_in_the_place_of_another(tmp_path: Path, whose: str) -> None:
    log = opened(tmp_path / "log")
    log.recover()
    log.close(clean=True)
    shutil.copytree(tmp_path / "log" / "index", tmp_path / "older")
    model = filled(tmp_path / "log")
    if whose == "its own of before":
        taken = tmp_path / "older"
    else:
        other = SegmentLog(tmp_path / "b", IDENTITY._replace(seat=9), segment_bytes=SEGMENT_BYTES)
        other.recover()
        other.close(clean=True)
        taken = tmp_path / "b" / "index"
    shutil.rmtree(tmp_path / "log" / "index")
    shutil.copytree(taken, tmp_path / "log" / "index")
    whole(tmp_path / "log", model)


@fault("file of a newer version", "index", "made anew from the segments")
def test_an_index_of_a_newer_version_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(index, "VERSION", index.VERSION + 1)
        model = filled(tmp_path)
    whole(tmp_path, model)


@fault(
    "missing file", "mark of a clean stop", "as after a kill: the last synced batch is proven by nothing else"
)
def test_without_its_mark_a_clean_stop_is_a_kill(tmp_path: Path) -> None:
    model = filled(tmp_path)
    (tmp_path / MARK).unlink()
    whole(tmp_path, model)


@fault("flipped bits", "LOCK", "ignored: the lock is the kernel's, the text is for people")
@fault("missing file", "LOCK", "made anew")
@pytest.mark.parametrize("text", [None, b"", b"\xff\0 garbage" * 9, b"1\n"])
def test_what_is_in_the_lock_does_not_matter(tmp_path: Path, text: bytes | None) -> None:
    model = filled(tmp_path / "log")
    create(tmp_path / "node", NODE, GROUPS)
    for path in (tmp_path / "log", tmp_path / "node"):
        (path / LOCK).unlink()
        if text is not None:
            (path / LOCK).write_bytes(text)
    whole(tmp_path / "log", model)
    with opened_directory(tmp_path / "node", bootstrap=False) as data_dir:
        assert data_dir.identity.node_id == NODE


def test_a_lock_that_is_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(DataDirError, match=str(tmp_path)):
        opened(tmp_path)


Open = Callable[[Path], Any]
OPENINGS: dict[str, Open] = {
    "log": opened,
    "lmdb": lambda path: LmdbLog(path, IDENTITY, segment_bytes=1 << 20),
    "identity": lambda path: opened_directory(path, bootstrap=False),
}


@fault("read-only directory", "log, LmdbLog, identity", "`DataDirError` with the path; nothing is changed")
@pytest.mark.parametrize("what", OPENINGS)
@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_directory_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: int
) -> None:
    path = tmp_path / "it"
    make(what, path)
    real = os.open

    def refuse(file: Any, flags: int, *args: Any, **more: Any) -> int:
        if str(file).startswith(str(path)) and flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(code, os.strerror(code), str(file))
        return real(file, flags, *args, **more)

    before = {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(DataDirError, match=rf"{path}.*{os.strerror(code)}"):
            OPENINGS[what](path)
    assert {each: each.read_bytes() for each in path.rglob("*") if each.is_file()} == before


def make(what: str, path: Path) -> None:
    """Make one, and close it."""
    if what == "identity":
        create(path, NODE, GROUPS)
        return
    log = OPENINGS[what](path)
    log.recover()
    log.close(clean=True)


MOUNTED = """
import sys
from pathlib import Path
from paxmux.engine.errors import DataDirError
from tests.test_fault_files import OPENINGS
try:
    OPENINGS[sys.argv[1]](Path(sys.argv[2]))
except DataDirError as error:
    print(error)
"""


@fault("read-only directory", "log, LmdbLog, identity", "`DataDirError` with the path; nothing is changed")
@pytest.mark.parametrize("what", OPENINGS)
def test_a_file_system_that_is_mounted_read_only(tmp_path: Path, what: str) -> None:
    path = tmp_path / "it"
    make(what, path)
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    alone = ["unshare", "--mount", "sh", "-c", mount, "sh", str(path)]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    done = subprocess.run(
        [*alone, sys.executable, "-c", MOUNTED, what, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert str(path) in done.stdout
    assert os.strerror(errno.EROFS) in done.stdout
