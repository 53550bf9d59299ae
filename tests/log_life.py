"""A life of one log, from its making on, in which everything happens that changes the disk.

It is the same every time, but for chance in what the thread that makes segments does meanwhile; so it can
be recorded once and disturbed at each of its calls. It says what is acknowledged as it goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.engine.storage import HardState, Record, StorageDamaged
from paxmux.plugins.storage import flusher, reserver
from paxmux.plugins.storage.index import GUARD
from paxmux.plugins.storage.record import BATCH_BYTES, RECORD_BYTES
from paxmux.plugins.storage.segment import SegmentLog
from tests.disk_calls import Calls
from tests.storage_model import ACCEPT, FORGOTTEN, IDENTITY, Model, hard_states, workload

SEGMENT_BYTES = 16 << 10
LARGE_EVERY = 3
LARGE_BYTES = 4500
FORGETS_FROM = 18
"""From this batch on group 0 forgets all but its newest value, and each batch is large,"""
FULL_SEGMENTS = 6
"""until there are so many segments, of which only the last are needed."""
DEADLINE_S = 20.0
SEED = 11
CLEAN_BYTES_PER_S = 1 << 40
"""No wait for the cleaner."""
PAUSE_S = 0.001


class Said(NamedTuple):
    """What was said by the time the process died."""

    made: bool = False
    """A recovery had returned: the log exists."""
    tried: int = 0
    """So many batches may be there."""
    kept: int = 0
    """So many must be there."""
    outcome: str = ""
    """How the life ended, if it was not cut off."""


def batch(number: int) -> list[Record]:
    """Batch `number`; each has an accept of its own in group 0, so that the hard state tells them apart."""
    large = number % LARGE_EVERY == LARGE_EVERY - 1 or number >= FORGETS_FROM
    value = b"%d:" % number + bytes(LARGE_BYTES if large else 20)
    mine: list[Record] = [(ACCEPT, 0, number, 1 + number // 7, 1, value)]
    if number >= FORGETS_FROM:
        # The other groups are slow ones: what they have is moved.
        mine.append((FORGOTTEN, 0, number - 1, 0, 0, b""))
    return mine + [record for record in workload(SEED, number) if record[1] > 0]


@contextmanager
def quickened() -> Iterator[None]:
    """The index is written all the time, and what fails is tried again at once."""
    with (
        mock.patch.object(flusher, "DUE_S", 0.0),
        mock.patch.object(flusher, "RETRY_S", 0.0),
        mock.patch.object(reserver, "RETRY_S", 0.01),
    ):
        yield


class LogLife:
    """The life, up to its end or its first failure."""

    def __init__(self, path: Path, calls: Calls, say: Callable[[Said], None]) -> None:
        self._path = path
        self._calls = calls
        self._say = say
        self._said = Said()
        self._next = 0
        self._troubles: list[str] = []
        self._log: SegmentLog | None = None
        """The one that was opened last."""

    def live(self) -> None:
        """Live; the last word says how it ended, if it ended by itself."""
        try:
            for chapter in (
                self._begin,
                self._tear_the_end,
                self._lose_the_index,
                self._tear_a_start,
                self._forget,
                self._end,
            ):
                chapter(self._open())
            self._tell(outcome="; ".join(["whole", *self._troubles]))
        except (DataDirError, StorageDamaged) as error:
            self._tell(outcome=f"refused: {error}")
        except StorageFailed as error:
            assert self._log is not None
            self._check_latched(self._log, str(error))
            self._tell(outcome=f"failed: {error}")

    def _begin(self, log: SegmentLog) -> None:
        for number in range(9):
            self._append(log)
            # It does nothing while anything is unsynced.
            log.housekeep()
            if number % 2 == 0:
                self._sync(log)
            if number % 3 == 2:
                self._sync(log)
                self._keep_house(log)
        log.close(clean=True)
        self._tell(kept=self._next)

    def _tear_the_end(self, log: SegmentLog) -> None:
        for _ in range(2):
            self._append(log)
            self._sync(log)
        self._keep_house(log)
        self._append(log)
        end = log._offset
        self._append(log)
        segment = log._segment.path
        log.close(clean=False)
        # Within the first value, so that only a CRC tells.
        self._calls.outside(segment, end + BATCH_BYTES + RECORD_BYTES + 3, b"torn")

    def _lose_the_index(self, log: SegmentLog) -> None:
        self._append(log)
        self._sync(log)
        number = log._segment.number
        log.close(clean=False)
        self._calls.outside(self._path / "index" / "data.mdb", 0, bytes(range(256)) * 32)
        log = self._open()
        while log._segment.number == number:
            self._sync(log)
            self._append(log)
        segment = log._segment.path
        log.close(clean=False)
        self._calls.outside(segment, 4096 + 30, b"torn")

    def _tear_a_start(self, log: SegmentLog) -> None:
        self._append(log)
        self._sync(log)
        self._keep_house(log)
        log.close(clean=False)
        # As a process leaves it that dies while it opens the index.
        self._calls.outside(self._path / GUARD, 0, b"")

    def _forget(self, log: SegmentLog) -> None:
        while len(log._segments) < FULL_SEGMENTS:
            self._append(log)
            self._sync(log)
        oldest = min(log._segments)
        self._keep_house(log)
        assert min(log._segments) > oldest + 1, "nothing was cleaned"
        self._append(log)
        log.close(clean=False)

    def _end(self, log: SegmentLog) -> None:
        self._append(log)
        log.close(clean=True)
        self._tell(kept=self._next)

    def _open(self) -> SegmentLog:
        log = SegmentLog(
            self._path,
            IDENTITY,
            segment_bytes=SEGMENT_BYTES,
            create=not self._said.made,
            clean_bytes_per_s=CLEAN_BYTES_PER_S,
        )
        self._log = log
        self._next = recovered(log.recover())
        assert self._said.kept <= self._next <= self._said.tried, (self._said, self._next)
        self._tell(made=True, kept=self._next)
        self._settle(log)
        return log

    def _append(self, log: SegmentLog) -> None:
        self._tell(tried=max(self._said.tried, self._next + 1))
        before = log._segment.number
        log.append(batch(self._next))
        self._next += 1
        if log._segment.number != before:
            self._settle(log)

    def _sync(self, log: SegmentLog) -> None:
        log.sync()
        self._tell(kept=self._next)

    def _keep_house(self, log: SegmentLog) -> None:
        end = time.monotonic() + DEADLINE_S
        while log.housekeep() is not None or log._place.discarding_bytes():
            self._note_trouble(log)
            if self._calls.struck:
                # Nobody hears of a segment that cannot be removed but the log of the process.
                self._calls.lift()
            assert time.monotonic() < end, log.healthy()
            if log._place.discarding_bytes():
                time.sleep(PAUSE_S)

    def _settle(self, log: SegmentLog) -> None:
        """Wait for the segment that is made ahead, so that every life is the same."""
        end = time.monotonic() + DEADLINE_S
        while not log._place.reserved_bytes():
            self._note_trouble(log)
            assert time.monotonic() < end, log.healthy()
            time.sleep(PAUSE_S)

    def _note_trouble(self, log: SegmentLog) -> None:
        trouble = log.healthy()
        if trouble is not None and trouble not in self._troubles:
            self._troubles.append(trouble)
            self._calls.lift()

    def _check_latched(self, log: SegmentLog, error: str) -> None:
        made = self._calls_of_the_log()
        for again in (log.sync, log.housekeep, lambda: log.append(batch(0)), lambda: log.read(0, 0)):
            try:
                again()
            except StorageFailed:
                continue
            raise AssertionError(f"{again} works after {error}")
        assert log.healthy() is not None
        log.close(clean=True)
        assert self._calls_of_the_log() == made, "something followed a failure"

    def _calls_of_the_log(self) -> int:
        """But for the guard of the index, which goes when that is closed."""
        return sum(call.thread == "main" and not call.path.endswith(GUARD) for call in self._calls.made)

    def _tell(self, **news: bool | int | str) -> None:
        self._said = self._said._replace(**news)  # type: ignore[arg-type]
        self._say(self._said)


def recovered(states: dict[int, HardState]) -> int:
    """How many batches these are the states after."""
    count = states[0].instance + 1 if 0 in states else 0
    expected = hard_states(record for number in range(count) for record in batch(number))
    assert states == expected, f"not those after {count} batches: {states}"
    return count


def check_survivor(path: Path, said: Said) -> int:
    """The log that is left has all that was acknowledged and nothing else, and works; how many batches."""
    model = Model()
    model.batches = [batch(number) for number in range(said.tried)]
    model.synced = said.kept
    log = SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES, create=not said.made)
    try:
        count = model.survived(log, log.recover())
        for _ in range(2):
            more = batch(len(model.batches))
            log.append(more)
            log.sync()
            model.batches.append(more)
        log.housekeep()
        log.close(clean=True)
        log = SegmentLog(path, IDENTITY, segment_bytes=SEGMENT_BYTES, create=False)
        assert log.recover() == hard_states(model.records())
        assert log.stats()["cut_bytes"] == 0
        model.check(log)
    finally:
        log.close(clean=False)
    return count
