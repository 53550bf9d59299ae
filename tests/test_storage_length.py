"""What an opened log does and holds depends on its tail, and not on how long it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from paxmux.engine.storage import LogIdentity, LogStats, Record, RecordKind
from paxmux.plugins.storage import recovery
from paxmux.plugins.storage.directory import Directory
from paxmux.plugins.storage.flusher import DUE_CHUNKS, DUE_S, SLICE_CHUNKS
from paxmux.plugins.storage.group_table import CACHED_CHUNKS, CHUNK, GroupTable
from paxmux.plugins.storage.segmented import SegmentedLog

OWNER = LogIdentity(1, 2, 3, 0)
GROUPS = 4
TURN_S = 0.01
"""What a turn takes, on the clock that the log is given."""
SYNC_EVERY = 10
LENGTHS = (300, 1200, 4800)
"""Instances of each group."""
ROUND_TURNS = round(DUE_S / TURN_S)
ACCEPT = int(RecordKind.ACCEPT)


@pytest.fixture(autouse=True)
def _no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power; syncs would only take time."""
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


class Clocked:
    """A log with a clock of its own."""

    def __init__(self, path: Path) -> None:
        self.now = 0.0
        place = Directory(path, OWNER)
        self.log = SegmentedLog(path, place, segment_bytes=1 << 20, create=True, clock=lambda: self.now)
        self.log.recover()
        self.most_chunks = 0

    def row(self, instance: int) -> None:
        """A turn in which each group accepts one value."""
        self.now += TURN_S
        records: list[Record] = [(ACCEPT, group, instance, 1, 1, b"v" * 20) for group in range(GROUPS)]
        self.log.append(records)
        if instance % SYNC_EVERY == SYNC_EVERY - 1:
            self.log.sync()
            self.log.housekeep()
        self.most_chunks = max(self.most_chunks, self.chunks())

    def chunks(self) -> int:
        """Chunks of positions in memory."""
        table = self.log._start.table
        groups = table.groups.values()
        assert table.waiting_chunks == sum(len(state.waiting) for state in groups)
        return table.waiting_chunks + len(table._cache) + len(groups)

    def read_some(self, length: int) -> None:
        for instance in range(0, length, 7):
            for group in range(GROUPS):
                assert self.log.read(group, instance) == (1, 1, b"v" * 20)
                self.most_chunks = max(self.most_chunks, self.chunks())


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A log of each length, as a kill left it."""
    folder = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fdatasync", lambda fd: None)
        for length in LENGTHS:
            clocked = Clocked(folder / f"{length}")
            for instance in range(length):
                clocked.row(instance)
            assert clocked.most_chunks <= GROUPS + CACHED_CHUNKS + GROUPS * (1 + ROUND_TURNS // CHUNK)
            clocked.log.close(clean=False)
    return {length: folder / f"{length}" for length in LENGTHS}


def opened(path: Path) -> tuple[LogStats, Clocked]:
    clocked = Clocked(path)
    return clocked.log.stats(), clocked


@pytest.mark.parametrize("length", LENGTHS)
def test_after_a_kill_only_the_tail_is_read(tmp_path: Path, killed: dict[int, Path], length: int) -> None:
    path = shutil.copytree(killed[length], tmp_path / "log")
    stats, clocked = opened(path)
    # Since the last round ended: one that was due, and the turns up to the sync that lets it begin.
    # Each new segment opens with three records of each group at most.
    rows = ROUND_TURNS + 2 * SYNC_EVERY
    assert stats["recovered_records"] <= GROUPS * rows + 1 + 2 * GROUPS
    clocked.read_some(length)
    assert clocked.most_chunks <= GROUPS + CACHED_CHUNKS + GROUPS * (1 + rows // CHUNK)
    clocked.log.close(clean=True)


@pytest.mark.parametrize("length", LENGTHS)
def test_after_a_clean_stop_nothing_is_read(tmp_path: Path, killed: dict[int, Path], length: int) -> None:
    path = shutil.copytree(killed[length], tmp_path / "log")
    opened(path)[1].log.close(clean=True)
    stats, clocked = opened(path)
    assert stats["recovered_records"] == 0
    clocked.read_some(length)
    assert clocked.most_chunks <= GROUPS + CACHED_CHUNKS
    clocked.log.close(clean=True)


@pytest.mark.parametrize("length", LENGTHS)
def test_making_the_index_anew_looks_at_everything_and_keeps_little(
    tmp_path: Path, killed: dict[int, Path], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(killed[length], tmp_path / "log")
    shutil.rmtree(path / "index")
    monkeypatch.setattr(recovery, "REBUILD_CHUNKS", 8)
    most = 0
    note = GroupTable.note

    def watched(table: GroupTable, records: list[Record], positions: list[int]) -> None:
        nonlocal most
        note(table, records, positions)
        most = max(most, table.waiting_chunks)

    monkeypatch.setattr(GroupTable, "note", watched)
    stats, clocked = opened(path)
    assert stats["recovered_records"] >= GROUPS * length
    # A chunk of each group may become full in the batch that goes beyond the bound.
    assert most <= 8 + GROUPS
    clocked.log.close(clean=True)


def test_a_round_that_is_never_due_by_time_is_due_by_what_waits(tmp_path: Path) -> None:
    clocked = Clocked(tmp_path / "log")
    table = clocked.log._start.table
    instances = CHUNK * (DUE_CHUNKS + 2)
    for first in range(0, instances, CHUNK):
        clocked.log.append([(ACCEPT, 0, first + place, 1, 1, b"") for place in range(CHUNK)])
        clocked.log.sync()
        clocked.log.housekeep()
        assert table.waiting_chunks <= DUE_CHUNKS + 1
    assert clocked.log._start.index.position is not None
    assert table.waiting_chunks < SLICE_CHUNKS
    clocked.log.close(clean=True)
