"""Real processes that write a log in plain LMDB are killed: at random moments, and at every single system
call that writes, from the making of the log to its clean stop. Nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paxmux.engine.errors import DataDirError
from paxmux.plugins.storage.lmdb_log import LmdbLog
from tests.lmdb_recording import can_trace
from tests.lmdb_writer import MOST_UNSYNCED, STEP_BYTES
from tests.source_tree import ROOT
from tests.storage_model import IDENTITY, Model, workload

ROUNDS = 6
DEADLINE_S = 60.0
CALLS = ("write", "pwrite64", "writev", "fdatasync", "fsync", "rename", "mkdir", "unlink", "fallocate")
SYNCS = 3
"""Of each of the two lives of the process that is killed at every call."""


def command(directory: Path, seed: int, batch: int, *more: object) -> list[str]:
    return [sys.executable, "-m", "tests.lmdb_writer", str(directory), str(seed), str(batch), *map(str, more)]


def acknowledged(said: bytes) -> int:
    lines = said.split(b"\n")
    return int(lines[-2]) if len(lines) > 1 else 0


def survivor(path: Path, model: Model, seed: int, count: int) -> LmdbLog:
    """The log of a killed writer, which acknowledged `count` batches; the model knows what it has."""
    known = len(model.batches)
    model.batches += [workload(seed, i, large=9000) for i in range(known, count + MOST_UNSYNCED)]
    model.synced = max(count, known)
    log = LmdbLog(path, IDENTITY, segment_bytes=STEP_BYTES)
    model.survived(log, log.recover())
    return log


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_at_any_moment(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "log"
    rng = random.Random(seed)
    model = Model()
    for _ in range(ROUNDS):
        process = subprocess.Popen(command(path, seed, len(model.batches)), cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            # The first line shows that it recovered; later ones set how far it gets.
            lines, said = rng.choice((1, 2, 20, 60)), b""
            end = time.monotonic() + DEADLINE_S
            while said.count(b"\n") < lines:
                ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
                assert ready, "the writer is silent"
                data = os.read(process.stdout.fileno(), 65536)
                assert data, f"the writer ended with {process.wait()}"
                said += data
            with pytest.raises(DataDirError, match=rf"in use by the process with pid {process.pid}$"):
                LmdbLog(path, IDENTITY, segment_bytes=STEP_BYTES)
            time.sleep(rng.random() * 0.02)
        finally:
            process.kill()
            said += process.stdout.read()
            process.stdout.close()
            process.wait()
        log = survivor(path, model, seed, acknowledged(said))
        log.close(clean=rng.random() < 0.5)
    assert len(model.batches) > 50


def killed_at(call: str, number: int, path: Path) -> tuple[bool, int]:
    """Whether the writer was killed before its `number`th such call, and what it had acknowledged."""
    trace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
    trace += ["-e", f"inject={call}:signal=KILL:when={number}"]
    done = subprocess.run(
        trace + command(path, 3, 0, SYNCS), cwd=ROOT, capture_output=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode in (0, -9), done.stderr
    return done.returncode != 0, acknowledged(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to trace")
def test_kill_before_every_call_that_writes(tmp_path: Path) -> None:
    points = {}
    outcomes = set()
    for call in CALLS:
        killed, number = True, 0
        while killed:
            number += 1
            path = tmp_path / f"{call}-{number}" / "log"
            path.parent.mkdir()
            killed, count = killed_at(call, number, path)
            points[call] = number - 1
            model = Model()
            log = survivor(path, model, 3, count)
            outcomes.add((count, len(model.batches)))
            more = workload(3, len(model.batches), large=9000)
            log.append(more)
            log.close(clean=True)
            model.batches.append(more)
            log = LmdbLog(path, IDENTITY, segment_bytes=STEP_BYTES, create=False)
            log.recover()
            model.check(log)
            log.close(clean=True)
            shutil.rmtree(path.parent)
    # Each commit of each sync has its pages, their sync, and its meta page; the log is
    # made with four more, and each of two starts has one.
    assert points["fdatasync"] >= 2 * SYNCS + 6
    assert points["pwrite64"] >= 2 * (2 * SYNCS + 6)
    assert min(points.values()) > 0
    # Some died after a commit and before they could say so.
    assert any(kept > said for said, kept in outcomes)
    assert {said for said, _ in outcomes} >= {0, 1, 3, 7}
