"""The moments of a turn at which its process can die, and how death gets there.

A `Crash` travels through production code as an exception that nothing there catches; it is raised only
from what the simulator hands in: the log, the sink of frames, the list of answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Literal

from paxmux.engine.storage import HardState, Log, LogStats, Record
from paxmux.shards.requests import Reply


class Point(IntEnum):
    """Where a turn is when its process dies."""

    IDLE = 0
    """Between two turns."""
    STEPPED = 1
    SENDING = 2
    """After some of the frames that need no sync."""
    SENT = 3
    APPENDED = 4
    """What is written is not synced yet."""
    SYNCED = 5
    REPLYING = 6
    """After some of the frames that rest on the sync."""
    EXECUTING = 7
    """After some of the answers to callers were made."""
    FINISHED = 8
    """Before the answers were handed over."""
    ANSWERED = 9


Scope = Literal["worker_crash", "node_crash", "power_cut", "tail_flip", "wiped_disk"]
"""What dies: a worker, all of a node, the machine under it; a worker whose last write lost a bit, a
machine with its disks."""


class Doom:
    """A death that is decided, and waits for its moment."""

    __slots__ = ("point", "scope", "skip", "turns")

    def __init__(self, scope: Scope, point: Point, skip: int, turns: int) -> None:
        """`skip`: so often the moment is passed first. `turns`: after so many it comes between two."""
        self.scope = scope
        self.point = point
        self.skip = skip
        self.turns = turns


class Crash(BaseException):
    """The process is gone."""


class WatchedLog:
    """A log whose process can die between append and sync."""

    def __init__(self, log: Log, reached: Callable[[Point], None]) -> None:
        self._log = log
        self._reached = reached
        self.states: dict[int, HardState] = {}
        """What recovery found."""

    def recover(self) -> dict[int, HardState]:
        self.states = self._log.recover()
        return self.states

    def doubt(self) -> str | None:
        return self._log.doubt()

    def damage(self) -> list[tuple[int, int]]:
        return self._log.damage()

    def append(self, records: Sequence[Record]) -> None:
        self._log.append(records)

    def sync(self) -> None:
        self._reached(Point.APPENDED)
        self._log.sync()

    def flush(self) -> None:
        self._log.flush()

    def first(self, group: int) -> int:
        return self._log.first(group)

    def system(self, group: int) -> tuple[int, bytes] | None:
        return self._log.system(group)

    def read(self, group: int, instance: int) -> tuple[int, int, bytes] | None:
        return self._log.read(group, instance)

    def read_range(
        self, group: int, first: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, int, int, bytes]]:
        return self._log.read_range(group, first, max_count, max_bytes)

    def healthy(self) -> str | None:
        return self._log.healthy()

    def housekeep(self) -> float | None:
        return self._log.housekeep()

    def set_cleaning(self, on: bool) -> None:
        self._log.set_cleaning(on)

    def stats(self) -> LogStats:
        return self._log.stats()

    def close(self, *, clean: bool) -> None:
        self._log.close(clean=clean)


class WatchedReplies(list[Reply]):
    """Where a turn gathers answers; the process can die after any of them."""

    def __init__(self, reached: Callable[[Point], None]) -> None:
        super().__init__()
        self._reached = reached

    def append(self, reply: Reply) -> None:
        super().append(reply)
        self._reached(Point.EXECUTING)
