"""How much a worker may have under way before callers wait too long, and who is refused then.

Decides by delay, measured: of some of the requests, how long they took. While even the quickest of a tick
took longer than `limits.queue_delay_ms`, more comes in than the worker does; what it does in that
time is then all that it is given (Little's law), so the others are refused at once instead of waiting for
nothing. As soon as answers are quick again the bound grows, by half each time, until nothing needs it.

At the bound a group that has more than its share under way is refused, and one that has less is not: a hot
group does not starve the others. It never queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Final

TICK_S: Final = 0.1
LEAST: Final = 16
"""A worker is never given less at a time: it must show how quick it is."""
RATE_WEIGHT: Final = 0.2
"""Of the last tick in the rate: answers may come in lumps."""
LATE_TICKS: Final = 2
"""So many late ticks in a row are too much: what had to wait for a standstill to end is not."""
SAMPLE_MASK: Final = 15
"""One request in 16 is timed."""
_MOST: Final = 1 << 62


class WorkerLoad:
    """What one worker has under way. Used in the node's event loop only."""

    __slots__ = (
        "active",
        "answered",
        "count",
        "delay_ns",
        "late_ticks",
        "limit",
        "quickest_ns",
        "rate",
        "refused",
        "timed",
    )

    def __init__(self) -> None:
        self.count = 0
        """Requests under way,"""
        self.active = 0
        """and of how many groups."""
        self.limit = _MOST
        """More are refused; far beyond anything while there is no need."""
        self.refused = 0
        """Since the last tick,"""
        self.answered = 0
        """and how many were answered."""
        self.rate = 0.0
        """Answers a second, of late."""
        self.timed: dict[int, int] = {}
        """Sequence number -> when it came, of those that are timed."""
        self.quickest_ns = _MOST
        """Of what was answered since the last tick."""
        self.delay_ns = 0
        """What the last tick found,"""
        self.late_ticks = 0
        """and how many have found too much, one after the other."""

    @property
    def limited(self) -> bool:
        """Whether there is a bound."""
        return self.limit != _MOST

    def admits(self, group_count: int) -> bool:
        """Whether one more may come in of a group that has so many under way."""
        if self.count < self.limit:
            return True
        share = max(1, self.limit // max(1, self.active))
        if group_count < share and self.count < 2 * self.limit:
            return True
        self.refused += 1
        return False

    def tick(self, target_ns: int) -> None:
        """Once each `TICK_S`: set the bound for the next one."""
        answered, self.answered = self.answered, 0
        rate = answered / TICK_S
        self.rate = self.rate + (rate - self.rate) * RATE_WEIGHT if self.rate else rate
        if self.quickest_ns == _MOST:
            # A standstill, or a lost majority: not that too much came in.
            return
        self.delay_ns, self.quickest_ns = self.quickest_ns, _MOST
        refused, self.refused = self.refused, 0
        self.late_ticks = self.late_ticks + 1 if self.delay_ns > target_ns else 0
        if self.late_ticks >= LATE_TICKS:
            self.limit = max(LEAST, int(self.rate * target_ns / 1e9))
        elif self.limited and not self.late_ticks:
            if refused:
                self.limit += self.limit // (2 if 2 * self.delay_ns < target_ns else 16) + 1
            elif self.count < self.limit // 2:
                self.limit = _MOST


class Shedding:
    """Of all workers of a node."""

    def __init__(self, target_ms: int, groups: int, clock: Callable[[], int] = monotonic_ns) -> None:
        """`target_ms`: how long a request may take. `clock`: in ns."""
        self.loads: dict[int, WorkerLoad] = {}
        self.by_group = [0] * groups
        """Requests under way of each group."""
        self._target_ns = target_ms * 1_000_000
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tick from now on."""
        self._timer = loop.call_later(TICK_S, self._tick, loop)

    def stop(self) -> None:
        """Tick no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tick(self) -> None:
        """Set all bounds anew."""
        for load in self.loads.values():
            load.tick(self._target_ns)

    def note(self, worker: int, group: int, seq: int) -> None:
        """A request of a group came in."""
        load = self.loads[worker]
        load.count += 1
        count = self.by_group[group] = self.by_group[group] + 1
        if count == 1:
            load.active += 1
        if not seq & SAMPLE_MASK:
            load.timed[seq] = self._clock()

    def answered(self, worker: int, group: int, seq: int) -> None:
        """It is over, whatever became of it."""
        load = self.loads[worker]
        load.count -= 1
        load.answered += 1
        count = self.by_group[group] = self.by_group[group] - 1
        if not count:
            load.active -= 1
        if not seq & SAMPLE_MASK:
            took_ns = self._clock() - load.timed.pop(seq)
            if took_ns < load.quickest_ns:
                load.quickest_ns = took_ns

    def moved(self, group: int, old: int, new: int, seqs: Sequence[int]) -> None:
        """These requests of a group are another worker's from now on: all that it has."""
        if not seqs:
            return
        source, target = self.loads[old], self.loads[new]
        source.count -= len(seqs)
        target.count += len(seqs)
        source.active -= 1
        target.active += 1
        for seq in seqs:
            if not seq & SAMPLE_MASK:
                target.timed[seq] = source.timed.pop(seq)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(TICK_S, self._tick, loop)
        self.tick()

    def picture(self) -> dict[str, dict[str, float | int | None]]:
        """For the status: of each worker, what is under way, what may be, and how long requests take."""
        return {
            str(worker): {
                "count": load.count,
                "limit": load.limit if load.limited else None,
                "delay_ms": round(load.delay_ns / 1e6, 3),
                "answers_per_s": round(load.rate, 1),
            }
            for worker, load in self.loads.items()
            if worker >= 0
        }
