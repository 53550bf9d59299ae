"""Real processes that write a log are killed at random moments: nothing acknowledged is lost, and
their successor goes on at once."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paxmux.engine.errors import DataDirError
from paxmux.plugins.storage.segment import SegmentLog
from tests.storage_model import IDENTITY, Model, workload
from tests.storage_writer import SEGMENT_BYTES

ROUNDS = 8
DEADLINE_S = 60.0
ROOT = Path(__file__).parent.parent


class Writer:
    """A running writer."""

    def __init__(self, directory: Path, seed: int, batch: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.storage_writer", str(directory), str(seed), str(batch)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        self.said = b""

    def read(self, count: int) -> None:
        """Wait until it has said so many lines."""
        end = time.monotonic() + DEADLINE_S
        while self.said.count(b"\n") < count:
            ready, _, _ = select.select([self.output], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the writer is silent"
            data = os.read(self.output, 65536)
            assert data, f"the writer ended with {self.process.wait()}"
            self.said += data

    def kill(self) -> int:
        """Kill it; how many batches it acknowledged in its life."""
        assert self.process.stdout is not None
        self.process.kill()
        self.said += self.process.stdout.read()
        self.process.stdout.close()
        self.process.wait()
        lines = self.said.split(b"\n")
        return int(lines[-2]) if len(lines) > 1 else 0


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_at_any_moment(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "log"
    rng = random.Random(seed)
    model = Model()
    for _ in range(ROUNDS):
        writer = Writer(path, seed, len(model.batches))
        try:
            # The first line shows that it recovered; later ones set how far it gets.
            writer.read(rng.choice((1, 2, 20, 100)))
            time.sleep(rng.random() * 0.02)
        finally:
            acknowledged = writer.kill()
        assert acknowledged > len(model.batches)
        # Up to four batches may be there that it did not live to acknowledge.
        model.batches += [workload(seed, i, large=3000) for i in range(len(model.batches), acknowledged + 4)]
        model.synced = acknowledged
        log = SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES)
        model.survived(log, log.recover())
        log.close(clean=rng.random() < 0.5)
    assert len(model.batches) > 100


def test_kill_during_recovery(tmp_path: Path) -> None:
    path = tmp_path / "log"
    rng = random.Random(3)
    writer = Writer(path, 3, 0)
    try:
        writer.read(200)
    finally:
        acknowledged = writer.kill()
    for _ in range(ROUNDS):
        writer = Writer(path, 3, 10**6)
        try:
            end = time.monotonic() + rng.random() * 0.25
            while time.monotonic() < end and not select.select([writer.output], [], [], 0.002)[0]:
                pass
        finally:
            writer.kill()
        if writer.said:
            break
    model = Model()
    model.batches = [workload(3, i, large=3000) for i in range(acknowledged)]
    log = SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES)
    log.recover()
    model.check(log)
    log.close(clean=True)


def test_a_living_writer_is_named_and_a_killed_one_leaves_the_log_free(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = Writer(path, 4, 0)
    try:
        writer.read(1)
        with pytest.raises(DataDirError, match=rf"in use by the process with pid {writer.process.pid}$"):
            SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES)
    finally:
        writer.kill()
    log = SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES)
    assert log.recover()
    log.close(clean=True)
