"""The data directory: made once, read strictly, locked for life, its founding never replaced."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.shards.cluster import make_founding
from paxmux.shards.identity import (
    EPOCH_FILE,
    FORMAT,
    IDENTITY_FILE,
    LOCK_FILE,
    DataDir,
    FoundingStore,
    create,
    open_data_dir,
    read_identity,
)

NODE = 5


def opened(
    path: Path,
    *,
    node_id: int = NODE,
    groups: int = 8,
    hosts: tuple[int, ...] | None = None,
    bootstrap: bool = False,
) -> DataDir:
    return open_data_dir(
        path, node_id=node_id, groups=groups, hosts=hosts or (0,) * groups, bootstrap=bootstrap
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A data directory as `paxmux init` leaves it."""
    path = tmp_path / "data"
    create(path, NODE, 8)
    return path


def test_a_new_directory_is_private_and_has_a_random_seat(tmp_path: Path) -> None:
    seats = {create(tmp_path / name, NODE, 8).seat for name in ("a", "b", "c/d")}
    assert len(seats) == 3
    assert 0 not in seats
    assert max(seats) < 2**64
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / IDENTITY_FILE).stat().st_mode) == 0o600
    identity = read_identity(tmp_path / "a")
    assert identity.seat in seats
    assert (identity.format, identity.node_id, identity.groups) == (FORMAT, NODE, 8)
    assert (identity.hosts, identity.epoch, identity.founding, identity.active) == (None, 0, None, False)


def test_a_directory_is_made_only_once(directory: Path) -> None:
    before = (directory / IDENTITY_FILE).read_bytes()
    with pytest.raises(DataDirError, match="is a data directory already"):
        create(directory, NODE, 8)
    assert (directory / IDENTITY_FILE).read_bytes() == before


def test_a_missing_directory_needs_bootstrap(tmp_path: Path) -> None:
    path = tmp_path / "x" / "data"
    with pytest.raises(DataDirError, match=r"does not exist: make it with `paxmux init`.*bootstrap: true"):
        opened(path)
    assert not path.exists()
    with opened(path, bootstrap=True) as first:
        seat = first.identity.seat
    with opened(path, bootstrap=True) as again:
        assert again.identity.seat == seat, "bootstrap never draws a second seat"


def test_an_empty_directory_needs_bootstrap(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"has no identity\.json"):
        opened(tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing is left in a directory that is not ours"
    with opened(tmp_path, bootstrap=True) as data_dir:
        assert data_dir.identity.groups == 8


@pytest.mark.parametrize("bootstrap", [False, True])
def test_logs_without_an_identity_are_never_given_a_new_seat(directory: Path, bootstrap: bool) -> None:
    (directory / "logs").mkdir()
    (directory / IDENTITY_FILE).unlink()
    with pytest.raises(DataDirError, match=r"has logs/ but no identity.json"):
        opened(directory, bootstrap=bootstrap)
    with pytest.raises(DataDirError, match=r"has logs/ but no identity.json"):
        create(directory, NODE, 8)
    assert not (directory / IDENTITY_FILE).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"node_id": 6}, r"belongs to node 5 \(id 5\), this is node 6 \(id 6\)"),
        ({"groups": 9}, "was made for 8 groups, the options say 9"),
    ],
)
def test_another_node_or_group_count_is_named(directory: Path, changes: dict[str, int], message: str) -> None:
    opened(directory).close()
    with pytest.raises(DataDirError, match=message):
        opened(directory, **changes)  # type: ignore[arg-type]
    opened(directory).close()


def founded(directory: Path, hosts: tuple[int, ...]) -> None:
    """Started once, with these hosts, and founded."""
    with opened(directory, hosts=hosts) as data_dir:
        data_dir.record(make_founding({NODE: data_dir.identity.seat}, 8), active=True)


def test_the_hosts_are_what_the_options_say_until_workers_may_have_run(directory: Path) -> None:
    first, second = (0, 1) * 4, (0, 1, 2, 3) * 2
    assert read_identity(directory).hosts is None
    opened(directory, hosts=first).close()
    assert read_identity(directory).hosts == first
    founded(directory, second)
    assert read_identity(directory).hosts == second
    with opened(directory, hosts=first) as data_dir:
        assert data_dir.identity.hosts == second, "from now on groups have to move"
        assert data_dir.identity.epoch == 0


def test_a_switch_is_whole_and_counted(directory: Path) -> None:
    founded(directory, (0, 1) * 4)
    with opened(directory, hosts=(0,) * 8) as data_dir:
        before = data_dir.identity
        data_dir.switch((0,) * 8)
        assert data_dir.identity == msgspec.structs.replace(before, hosts=(0,) * 8, epoch=1)
        for wrong in ((0,) * 7, (0,) * 9, (8, *(0,) * 7), (-1, *(0,) * 7)):
            with pytest.raises(ValueError, match="do not host 8 groups"):
                data_dir.switch(wrong)
    assert read_identity(directory) == data_dir.identity


def test_an_identity_from_before_the_last_change_is_refused(directory: Path) -> None:
    """In the logs that it names groups would vote again, without the promises made since they left."""
    founded(directory, (0, 1) * 4)
    path = directory / IDENTITY_FILE
    old = path.read_bytes()
    with opened(directory) as data_dir:
        data_dir.switch((0,) * 8)
    new = path.read_bytes()
    path.write_bytes(old)
    with pytest.raises(DataDirError, match=r"from before the last change of layout \(epoch 0, .* has 1\)"):
        opened(directory)
    path.write_bytes(new)
    opened(directory).close()


def test_a_switch_that_was_cut_off_is_completed_at_the_next_start(directory: Path) -> None:
    founded(directory, (0, 1) * 4)
    old = (directory / IDENTITY_FILE).read_bytes()
    with opened(directory) as data_dir:
        data_dir.switch((0,) * 8)
    (directory / EPOCH_FILE).unlink()
    with opened(directory) as data_dir:
        assert data_dir.identity.epoch == 1
    (directory / IDENTITY_FILE).write_bytes(old)
    with pytest.raises(DataDirError, match="from before the last change of layout"):
        opened(directory)
    (directory / EPOCH_FILE).write_bytes(b"x")
    with pytest.raises(DataDirError, match=r"layout\.epoch is damaged"):
        opened(directory)


@pytest.mark.parametrize("point", ["before the temporary file", "before its sync", "before the rename"])
def test_a_switch_that_fails_leaves_the_old_map(
    directory: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    founded(directory, (0, 1) * 4)
    name = {"before the temporary file": "open", "before its sync": "fsync", "before the rename": "replace"}

    def fail(*_args: object, **_more: object) -> int:
        raise OSError(5, "no more of it")

    with opened(directory) as data_dir, monkeypatch.context() as patch:
        patch.setattr(f"paxmux.shards.durable_file.os.{name[point]}", fail)
        with pytest.raises(StorageFailed, match="no more of it"):
            data_dir.switch((0,) * 8)
    with opened(directory) as data_dir:
        assert (data_dir.identity.hosts, data_dir.identity.epoch) == ((0, 1) * 4, 0)


def test_an_identity_without_hosts_is_named(directory: Path) -> None:
    raw = b'{"format":1,"node_id":5,"seat":7,"groups":8,"workers":2,"layout":"aa","founding":null,'
    (directory / IDENTITY_FILE).write_bytes(sealed(raw + b'"active":false,"logs":false}'))
    with pytest.raises(DataDirError, match="does not say which log has which group"):
        opened(directory)


def test_a_second_node_is_refused_and_names_the_first(directory: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from paxmux.shards.identity import open_data_dir\n"
        "d = open_data_dir(Path(sys.argv[1]), node_id=5, groups=8, hosts=(0,)*8, bootstrap=False)\n"
        "print('open', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(DataDirError, match=f"in use by process {other.pid}"):
            opened(directory)
        with pytest.raises(DataDirError, match=f"in use by process {other.pid}"):
            create(directory, NODE, 8)
        other.kill()
        other.wait()
        with opened(directory), pytest.raises(DataDirError, match=f"in use by process {os.getpid()}"):
            opened(directory)
    opened(directory).close()


def test_every_changed_byte_and_every_cut_is_damage(directory: Path) -> None:
    opened(directory).close()
    path = directory / IDENTITY_FILE
    good = path.read_bytes()
    meant = read_identity(directory)
    kept = 0
    refused: list[str] = []
    for position in range(len(good)):
        for changed in (good[position] ^ 1, good[position] ^ 0x20, 0):
            path.write_bytes(good[:position] + bytes([changed]) + good[position + 1 :])
            try:
                assert read_identity(directory) == meant
            except DataDirError as error:
                refused.append(str(error))
            else:
                kept += 1
        path.write_bytes(good[:position])
        if position < len(good) - 1:
            with pytest.raises(DataDirError, match="damaged"):
                read_identity(directory)
    assert all("is damaged" in text for text in refused)
    assert kept <= 6, "only the space around the objects may change without being noticed"


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"crc":1,"identity":2}']
)
def test_what_is_no_identity_is_damage(directory: Path, text: bytes) -> None:
    (directory / IDENTITY_FILE).write_bytes(text)
    with pytest.raises(DataDirError, match="damaged"):
        opened(directory)


def sealed(raw: bytes) -> bytes:
    return b'{"crc":"%08x","identity":%s}\n' % (crc32(raw), raw)


def test_a_newer_format_is_named(directory: Path) -> None:
    (directory / IDENTITY_FILE).write_bytes(sealed(b'{"format":2,"news":[]}'))
    with pytest.raises(DataDirError, match=r"has format 2, this version .* reads 1: .* a newer version"):
        opened(directory)


@pytest.mark.parametrize(
    "fields",
    [
        b'"node_id":0,"seat":7,"groups":8,"founding":null,"active":false',
        b'"node_id":5,"seat":0,"groups":8,"founding":null,"active":false',
        b'"node_id":5,"seat":18446744073709551616,"groups":8,"founding":null,"active":false',
        b'"node_id":5,"seat":7,"groups":0,"founding":null,"active":false',
        b'"node_id":5,"seat":7,"groups":8,"founding":null,"active":true',
        b'"node_id":5,"seat":7,"groups":8,"founding":{"cluster":1,"seats":{"5":7}},"active":true',
        b'"node_id":5,"seat":7,"groups":8,"founding":null,"active":false,"more":1',
        b'"node_id":5,"seat":"7","groups":8,"founding":null,"active":false',
        b'"node_id":5,"seat":7,"groups":7,"founding":null,"active":false',
        b'"node_id":5,"seat":7,"groups":6,"founding":null,"active":false',
    ],
)
def test_fields_that_contradict_each_other_are_damage(directory: Path, fields: bytes) -> None:
    start = b'{"format":1,"hosts":[0,0,0,0,0,0,0,7],"epoch":0,"logs":false,'
    good = start + b'"node_id":5,"seat":7,"groups":8,"founding":null,"active":false}'
    (directory / IDENTITY_FILE).write_bytes(sealed(good))
    assert read_identity(directory).seat == 7
    raw = start + fields + b"}"
    (directory / IDENTITY_FILE).write_bytes(sealed(raw))
    with pytest.raises(DataDirError, match="damaged"):
        read_identity(directory)


def test_a_founding_is_durable_and_never_replaced(directory: Path) -> None:
    with opened(directory) as data_dir:
        seat = data_dir.identity.seat
        founding = make_founding({NODE: seat, 6: 66}, 8)
        with pytest.raises(ValueError, match="contradicts itself"):
            data_dir.record(make_founding({NODE: seat}, 9), active=False)
        data_dir.record(founding, active=False)
        assert read_identity(directory) == data_dir.identity
        assert (data_dir.identity.founding, data_dir.identity.active) == (founding, False)
        with pytest.raises(ValueError, match="not to be replaced"):
            data_dir.record(make_founding({NODE: seat}, 9), active=True)
        # The router process writes; the process that holds the lock reads it again.
        child = FoundingStore(directory)
        child.record(founding, active=True)
        assert data_dir.reload().active
        data_dir.record(founding, active=False)
        assert data_dir.identity.active, "an active founding stays so"
        with pytest.raises(ValueError, match="not to be replaced"):
            data_dir.record(make_founding({NODE: seat, 6: 67}, 8), active=False)
        assert read_identity(directory).founding == founding
    with opened(directory) as data_dir:
        assert data_dir.identity.founding == founding
        assert data_dir.identity.seat == seat


def test_a_half_written_file_never_counts(directory: Path) -> None:
    good = read_identity(directory)
    (directory / (IDENTITY_FILE + ".tmp")).write_bytes(b'{"crc":"00')
    assert read_identity(directory) == good
    with opened(directory) as data_dir:
        assert data_dir.identity.seat == good.seat
    assert {path.name for path in directory.iterdir()} == {IDENTITY_FILE, LOCK_FILE}


def test_a_disk_that_refuses_the_write_leaves_the_old_identity(directory: Path) -> None:
    with opened(directory) as data_dir:
        before = data_dir.identity
        blocked = directory / (IDENTITY_FILE + ".tmp")
        blocked.mkdir()
        with pytest.raises(StorageFailed, match="cannot write"):
            data_dir.record(make_founding({NODE: before.seat}, 8), active=False)
        assert data_dir.identity == before
        assert read_identity(directory) == before


def test_a_path_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(DataDirError, match="cannot use the data directory"):
        opened(file, bootstrap=True)
    with pytest.raises(DataDirError, match="cannot use the data directory"):
        create(file / "below", NODE, 8)


def test_what_cannot_be_looked_at_is_never_taken_for_missing(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for bootstrap in (False, True):
        with pytest.raises(DataDirError, match="cannot"):
            opened(loop / "data", bootstrap=bootstrap)
        with pytest.raises(DataDirError, match="cannot"):
            opened(tmp_path / ("x" * 300), bootstrap=bootstrap)
    assert os.listdir(tmp_path) == ["loop"]


def test_that_the_logs_were_made_is_durable_and_never_taken_back(directory: Path) -> None:
    with opened(directory) as data_dir:
        assert not data_dir.identity.logs
        data_dir.record_logs()
        seat = data_dir.identity.seat
        data_dir.record(make_founding({NODE: seat}, 8), active=True)
        data_dir.record_logs()
    found = read_identity(directory)
    assert found.logs
    assert found.active
    assert found.seat == seat
