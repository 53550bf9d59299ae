"""Random histories of a log on disk, with crashes of every kind, against the plain model."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from paxmux.engine.storage import Log, Record
from paxmux.plugins.storage import flusher
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.plugins.storage.segment import SegmentLog
from tests.storage_disk import Disk
from tests.storage_model import (
    ACCEPT,
    DECIDED,
    FORGOTTEN,
    IDENTITY,
    LEARNED,
    PROMISE,
    RELEASED,
    Model,
    hard_states,
)

# Instances far enough apart to lie in many chunks of the index, near enough to meet again.
INSTANCES = st.one_of(st.integers(0, 12), st.integers(0, 12).map(lambda n: n * 127), st.integers(0, 2000))
VALUES = st.one_of(st.binary(max_size=30), st.integers(0, 20_000).map(lambda n: b"%d" % n * (n // 5)))
RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.tuples(
        st.just(PROMISE), st.integers(0, 2), INSTANCES, st.integers(1, 6), st.integers(1, 3), st.just(b"")
    ),
    st.tuples(
        st.sampled_from((ACCEPT, LEARNED)),
        st.integers(0, 2),
        INSTANCES,
        st.integers(1, 6),
        st.integers(1, 3),
        VALUES,
    ),
    st.tuples(
        st.sampled_from((DECIDED, FORGOTTEN)),
        st.integers(0, 2),
        INSTANCES,
        st.just(0),
        st.just(0),
        st.just(b""),
    ),
)


class History(RuleBasedStateMachine):
    """What both logs go through."""

    log: Log

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    @rule(records=st.lists(RECORDS, min_size=1, max_size=8))
    def append(self, records: list[Record]) -> None:
        self.log.append(records)
        self.model.batches.append(records)

    @rule(group=st.integers(0, 2))
    def release(self, group: int) -> None:
        self.append([(RELEASED, group, 0, 0, 0, b"")])

    @rule()
    def sync(self) -> None:
        self.log.sync()
        self.model.synced = len(self.model.batches)

    @rule()
    def housekeep(self) -> None:
        self.log.housekeep()

    @rule()
    def check(self) -> None:
        self.model.check(self.log)

    @rule(group=st.integers(0, 2), first=INSTANCES, count=st.integers(0, 20), size=st.integers(0, 50_000))
    def read_range(self, group: int, first: int, count: int, size: int) -> None:
        found = self.log.read_range(group, first, count, size)
        assert len(found) <= count
        assert [instance for instance, *_ in found] == list(range(first, first + len(found)))
        assert len(found) <= 1 or sum(len(value) for *_, value in found) <= size
        for instance, *rest in found:
            assert self.log.read(group, instance) == tuple(rest)
        if not found and count:
            assert self.log.read(group, first) is None

    @invariant()
    def works(self) -> None:
        assert self.log.healthy() is None

    def recovered(self, *, all_kept: bool) -> None:
        """Recover the log just opened, and compare."""
        states = self.log.recover()
        if all_kept:
            assert states == hard_states(self.model.records())
            self.model.synced = len(self.model.batches)
        else:
            self.model.survived(self.log, states)
        self.model.check(self.log)


class SegmentHistory(History):
    """On disk, with the smallest segments, and an index that is written at every chance."""

    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="paxmux-storage-"))
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(flusher, "DUE_S", 0.0)
        self.patches.setattr(flusher, "SLICE_CHUNKS", 4)
        self.disk = Disk(self.patches)
        self.open()
        assert self.log.recover() == {}

    def open(self) -> None:
        self.log = SegmentLog(self.directory / "log", IDENTITY, segment_bytes=16 << 10)

    @rule(clean=st.booleans())
    def close_and_open(self, clean: bool) -> None:
        self.log.close(clean=clean)
        self.open()
        self.recovered(all_kept=True)

    @rule(seed=st.integers(0, 2**32))
    def lose_power(self, seed: int) -> None:
        self.log.close(clean=False)
        self.disk.cut_power(random.Random(seed))
        self.open()
        self.recovered(all_kept=False)

    @rule(clean=st.booleans())
    def lose_the_index(self, clean: bool) -> None:
        self.log.close(clean=clean)
        shutil.rmtree(self.directory / "log" / "index")
        self.open()
        self.recovered(all_kept=True)

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close(clean=True)
            self.patches.undo()
            shutil.rmtree(self.directory)


class MemoryHistory(History):
    """In memory."""

    @initialize()
    def start(self) -> None:
        self.log = MemoryLog(Path("memory"), IDENTITY)
        assert self.log.recover() == {}

    @rule(clean=st.booleans())
    def close_and_open(self, clean: bool) -> None:
        assert isinstance(self.log, MemoryLog)
        self.log.close(clean=clean)
        self.log = self.log.reopen()
        self.recovered(all_kept=True)

    @precondition(lambda self: len(self.model.batches) > self.model.synced)
    @rule(keep=st.integers(0, 5))
    def lose_power(self, keep: int) -> None:
        assert isinstance(self.log, MemoryLog)
        self.log.crash(keep)
        self.log = self.log.reopen()
        self.recovered(all_kept=False)


TestSegmentHistory = SegmentHistory.TestCase
TestSegmentHistory.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestMemoryHistory = MemoryHistory.TestCase
TestMemoryHistory.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
