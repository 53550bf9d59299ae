"""Bounds that a caller sets on the proposals of single groups, besides what the node finds by itself.

Decides who is turned away at the door of a group: whoever comes while `max_waiting` wait already, beside the
one that is being decided; and, while proposals of the group take longer than a threshold on average, a share
of all. That share goes up and down by `STEP_PERCENT` with the time, not with the number of calls: after an
overload it is gone within two seconds, however many or few still come. It never queues.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from paxmux.engine.options import ProposalOptions

STEP_PERCENT: Final = 3
MOST_PERCENT: Final = 98
"""Some always come through, to show how long they take."""
UNBOUNDED: Final = -1


class WaitLock:
    """Of one group. Used in the node's event loop only."""

    __slots__ = ("_count", "_sum_ns", "_timed", "average_ns", "max_waiting", "reject_percent", "threshold_ns")

    def __init__(self) -> None:
        self.max_waiting = UNBOUNDED
        self.threshold_ns = 0
        """0: nothing is turned away for how long others take."""
        self.reject_percent = 0
        self.average_ns = 0
        """What proposals took, of late."""
        self._timed: dict[int, int] = {}
        """Sequence number -> when it came. Bounded by the requests without an answer."""
        self._sum_ns = 0
        self._count = 0

    @property
    def idle(self) -> bool:
        """Whether it bounds nothing."""
        return self.max_waiting == UNBOUNDED and not self.threshold_ns

    @property
    def rests(self) -> bool:
        """Whether a tick would change nothing."""
        return not (self._timed or self._count or self.average_ns or self.reject_percent)

    def begin(self, seq: int, now_ns: int) -> None:
        """A request came in."""
        self._timed[seq] = now_ns

    def end(self, seq: int, now_ns: int) -> None:
        """It is over. One that came before this lock was made is not counted."""
        begun_ns = self._timed.pop(seq, None)
        if begun_ns is not None:
            self._sum_ns += now_ns - begun_ns
            self._count += 1

    def tick(self) -> None:
        """Set the share anew, for the time to the next tick."""
        if self._count:
            self.average_ns = self._sum_ns // self._count
            self._sum_ns = self._count = 0
        elif not self._timed:
            self.average_ns = 0
        if self.threshold_ns and self.average_ns > self.threshold_ns:
            self.reject_percent = min(MOST_PERCENT, self.reject_percent + STEP_PERCENT)
        else:
            self.reject_percent = max(0, self.reject_percent - STEP_PERCENT)


class WaitLocks:
    """Of all groups of a node that have one."""

    def __init__(
        self, options: ProposalOptions, groups: int, draw: Callable[[], float] = random.random
    ) -> None:
        """`draw`: 0 .. 1, for who is in the share."""
        self.locks: dict[int, WaitLock] = {}
        """By group; none for those that bound nothing."""
        self._groups = groups
        self._draw = draw
        self.set_max_waiting(None, options.max_waiting)
        self.set_threshold(None, options.wait_time_threshold_ms)

    def set_max_waiting(self, group: int | None, count: int) -> None:
        """How many may wait beside the one that is being decided; `UNBOUNDED`. None: in each group."""
        for index in self._meant(group):
            self._lock(index).max_waiting = count
            self._tidy(index)

    def set_threshold(self, group: int | None, threshold_ms: int) -> None:
        """From which average on a share is turned away; 0: none is. None: in each group."""
        for index in self._meant(group):
            self._lock(index).threshold_ns = threshold_ms * 1_000_000
            self._tidy(index)

    def refusal(self, group: int, under_way: int) -> tuple[str, float | None] | None:
        """Why one more proposal of the group, which has so many under way, must not come in, and in how many
        seconds to come again; None if it may."""
        lock = self.locks.get(group)
        if lock is None:
            return None
        hint_s = lock.average_ns / 1e9 or None
        if lock.max_waiting != UNBOUNDED and under_way > lock.max_waiting:
            return f"{under_way} proposals of group {group} are under way (proposals.max_waiting)", hint_s
        if lock.reject_percent and self._draw() * 100 < lock.reject_percent:
            words = f"proposals of group {group} take {lock.average_ns / 1e6:.0f} ms"
            return f"{words} (proposals.wait_time_threshold_ms)", hint_s
        return None

    @property
    def rest(self) -> bool:
        """Whether a tick would change nothing."""
        return all(lock.rests for lock in self.locks.values())

    def tick(self) -> None:
        """Set all shares anew."""
        for lock in self.locks.values():
            lock.tick()

    def picture(self) -> dict[str, dict[str, float | int]]:
        """For the status: of each group that has one, what it bounds, and what it turns away."""
        return {
            str(group): {
                "max_waiting": lock.max_waiting,
                "threshold_ms": lock.threshold_ns // 1_000_000,
                "average_ms": round(lock.average_ns / 1e6, 3),
                "reject_percent": lock.reject_percent,
            }
            for group, lock in self.locks.items()
        }

    def _meant(self, group: int | None) -> range | tuple[int]:
        return range(self._groups) if group is None else (group,)

    def _lock(self, group: int) -> WaitLock:
        return self.locks.setdefault(group, WaitLock())

    def _tidy(self, group: int) -> None:
        if self.locks[group].idle:
            del self.locks[group]
