"""Power is cut under a log in plain LMDB after every single call that it makes to the disk: any part of
what was not synced is there, in sectors, and nothing acknowledged is lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage.lmdb_log import LmdbLog
from tests.disk_model import Event
from tests.lmdb_recording import can_trace, images, parsed, record
from tests.lmdb_writer import MOST_UNSYNCED, STEP_BYTES
from tests.source_tree import ROOT
from tests.storage_model import IDENTITY, Model, workload
from tests.test_lmdb_kill import acknowledged, command

SYNCS = 12
EACH = 3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to trace")
def test_power_cut_after_every_call(tmp_path: Path) -> None:
    seed = 5
    events = record(command(tmp_path / "log", seed, 0, SYNCS), ROOT, tmp_path / "trace")
    assert sum(event.kind == "sync" for event in events) == 2 * SYNCS + 2
    cases = images(events, random.Random(seed), EACH)
    kept = {survives(tmp_path / str(number % 2), seed, *case) for number, case in enumerate(cases)}
    assert len(cases) > 100
    # Some lost all that was not acknowledged, some had it all.
    assert min(kept) == 0 < max(kept)
    # Would it be seen? The same process on a disk that does not sync.
    unsynced = [event for event in events if event.kind != "sync"]
    noticed = 0
    for image, said in images(unsynced, random.Random(seed), 0):
        try:
            survives(tmp_path / "unsynced", seed, image, said)
        except (AssertionError, StorageDamaged):
            noticed += 1
    assert noticed > SYNCS


def survives(folder: Path, seed: int, image: bytes, said: bytes) -> int:
    """How many batches more than the acknowledged ones a log has that is left as `image`; fails if fewer."""
    path = folder / "log"
    (path / "lmdb").mkdir(parents=True, exist_ok=True)
    (path / "lmdb" / "data.mdb").write_bytes(image)
    count = acknowledged(said)
    model = Model()
    model.batches = [workload(seed, i, large=9000) for i in range(count + MOST_UNSYNCED)]
    model.synced = count
    log = LmdbLog(path, IDENTITY, segment_bytes=STEP_BYTES, create=False)
    try:
        return model.survived(log, log.recover()) - count
    finally:
        log.close(clean=False)


def test_the_recording_knows_what_is_durable() -> None:
    made, named = (shown(path) for path in ("/lmdb.new/data.mdb", "/lmdb/data.mdb"))
    both = f'[{{iov_base="{shown("3")}", iov_len=1}}, {{iov_base="{shown("4")}", iov_len=1}}]'
    lines = [
        f'1 openat(AT_FDCWD, "{made}", O_WRONLY|O_DSYNC|O_CLOEXEC) = 6<{made}>',
        f'1 pwrite64(5<{made}>, "{shown("12")}", 2, 0) = 2',
        f'1 openat(AT_FDCWD, "{named}", O_RDWR|O_CREAT, 0644) = 6<{named}>',
        f'1 openat(AT_FDCWD, "{named}", O_WRONLY|O_DSYNC|O_CLOEXEC) = 7<{named}>',
        f"1 lseek(6<{named}>, 3, SEEK_SET) = 3",
        f"1 writev(6<{named}>, {both}, 2) = 2",
        f"1 fallocate(4<{named}>, 0, 5, 4) = 0",
        f'1 pwrite64(6<{named}>, "{shown("5")}", 1, 5) = 1',
        f"1 fdatasync(6<{named}>) = 0",
        f'1 pwrite64(7<{named}>, "{shown("9")}", 1, 0) = 1',
        f'1 write(1<{shown("pipe")}>, "{shown("1")}", 1) = 1',
    ]
    events = parsed(lines)
    assert events == [
        Event("durable", data=b"12"),
        Event("write", offset=3, data=b"34"),
        Event("length", length=9),
        Event("write", offset=5, data=b"5"),
        Event("sync"),
        Event("durable", data=b"9"),
        Event("said", data=b"1"),
    ]
    left = images(events, random.Random(1), 60)
    done = b"92\x00345\0\0\0"
    assert {image for image, said in left if said} == {done}
    parts = {image.ljust(9, b"\0")[3:6] for image, _ in left}
    assert parts == {b"\0\0\0", b"34\0", b"\0\x005", b"345"}
    assert {image[:2] for image, _ in left} == {b"12", b"92"}


def shown(text: str) -> str:
    return "".join(f"\\x{ord(letter):02x}" for letter in text)
