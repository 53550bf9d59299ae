"""How much a worker may have under way before callers wait for nothing, and who is refused then.

Decides by delay and growth, both measured. Requests that take longer than `limits.queue_delay_ms`, or than
`BASE_FACTOR` times what they take when none is waiting, wait for each other. That alone is no overload: a
thousand callers that each wait for their answer have a thousand requests under way, and no more. But if there
are more of them from tick to tick, more comes in than is done, and waiting helps nobody: then a worker is
given what it does in that time (Little's law), and the others are refused at once. While what is let in
takes less, the bound grows; it goes when nothing has been refused for a while.

Of the bound a quarter is kept for groups that have less than their share under way: a hot group does not
starve the others. It never queues, and never looks at what stands in a request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from paxmux.engine.clock import clock_ns
from paxmux.engine.options import ProposalOptions
from paxmux.shards.wait_lock import WaitLocks

TICK_S: Final = 0.05
LEAST: Final = 16
"""A worker is never given less at a time: it must show how quick it is."""
BASE_FACTOR: Final = 3
"""Times what a request takes that waits for no other, and they wait for each other."""
BASE_WEIGHT: Final = 0.05
"""How quickly that is forgotten, where so little is under way that it can be seen."""
RATE_WEIGHT: Final = 0.3
"""Of the last tick in the rate: answers may come in lumps."""
RATE_TICKS: Final = 20
"""What a worker does is its best rate of so many ticks: a bound too low must not lower the next one."""
LEAPING_TICKS, LEAP = 2, 2.0
"""Too much comes in if more is under way from tick to tick, for so many ticks, by more than this share of
what was answered;"""
GROWING_TICKS, GROWTH = 3, 0.1
"""or by this share for so many ticks;"""
CREEPING_TICKS, CREEP = 20, 0.02
"""or by this share in both halves of so many."""
QUIET_TICKS: Final = 10
"""Nothing is refused for so long: there is no need for a bound."""
SAMPLE_MASK: Final = 15
"""One request in 16 is timed."""
REST_TICKS: Final = 40
"""After so many with nothing to do no more come before a request does: an idle process is not woken."""
_MOST: Final = 1 << 62


class WorkerLoad:
    """What one worker has under way. Used in the node's event loop only."""

    __slots__ = (
        "_growth",
        "_last_most",
        "_quiet_ticks",
        "_rates",
        "active",
        "answered",
        "base_ns",
        "count",
        "delay_ns",
        "limit",
        "most",
        "quickest_ns",
        "rate",
        "refused",
        "soft",
        "timed",
        "took_count",
        "took_ns",
        "waits",
        "words",
    )

    def __init__(self, worker: int) -> None:
        self.words = (
            f"worker {worker} is asked for more than it does (limits.queue_delay_ms); nothing was proposed"
        )
        self.count = 0
        """Requests under way,"""
        self.active = 0
        """and of how many groups."""
        self.limit = _MOST
        """More are refused; far beyond anything while there is no need."""
        self.soft = _MOST
        """From here on groups are refused that have their share."""
        self.refused = 0
        """Since the last tick,"""
        self.answered = 0
        """and how many were answered,"""
        self.most = 0
        """and the most that were under way when one came in that is timed."""
        self.rate = 0.0
        """Answers a second, of late."""
        self.timed: dict[int, int] = {}
        """Sequence number -> when it came, of those that are timed."""
        self.took_ns = 0
        """Of what was answered since the last tick: the sum of those that were timed,"""
        self.took_count = 0
        """how many these are,"""
        self.quickest_ns = _MOST
        """and the quickest one."""
        self.delay_ns = 0
        """What the last tick found that a request takes,"""
        self.base_ns = _MOST
        """and what it takes where it waits for no other, as far as that could be seen."""
        self._rates: deque[float] = deque(maxlen=RATE_TICKS)
        self._growth: deque[tuple[int, int]] = deque(maxlen=CREEPING_TICKS)
        """Of the last ticks: (how many more were under way at its end, answers), while requests were late."""
        self._quiet_ticks = 0
        self._last_most = 0
        self.waits = False
        """Whether requests wait in front of the worker's ring, since it takes none."""

    @property
    def limited(self) -> bool:
        """Whether there is a bound."""
        return self.limit != _MOST

    @property
    def rests(self) -> bool:
        """Whether a tick finds nothing, and changes nothing."""
        return not (self.count or self.answered or self.limited or self.waits)

    def admits(self, group_count: int) -> bool:
        """Whether one more may come in, at `soft` or more, of a group that has so many under way."""
        share = self.limit // max(1, self.active)
        # What came before the bound did is still to be done: a group that has little of it need not wait for
        # that. All of them together do not fill the bound.
        given = share // 2
        if self.count <= self.limit:
            given = max(1, share) if self.count < self.limit else 0
        if group_count < given:
            return True
        self.refused += 1
        return False

    def retry_after_s(self) -> float:
        """When one that is refused now had better come again."""
        return max(TICK_S, self.delay_ns / 1e9)

    def tick(self, target_ns: int, *, pressed: bool = False) -> None:
        """Once each `TICK_S`: set the bound for the next one. `pressed`: requests wait elsewhere, before they
        are timed or where none is answered."""
        answered, self.answered = self.answered, 0
        refused, self.refused = self.refused, 0
        most, self.most = max(self.most, self.count), self.count
        rate = answered / TICK_S
        self.rate = self.rate + (rate - self.rate) * RATE_WEIGHT if self.rate else rate
        self._rates.append(self.rate)
        if self.took_count:
            self.delay_ns = self.took_ns // self.took_count
            self._learn_base(most)
            self.took_ns, self.took_count, self.quickest_ns = 0, 0, _MOST
        if not (answered or pressed):
            # A standstill, or a lost majority: not that too much came in. Or nothing is under way at all.
            if not self.count:
                self.delay_ns = self._last_most = 0
                self._quiet(refused)
            return
        # Answers may come in lumps: then this is what has grown since the last one.
        grown, self._last_most = most - self._last_most, most
        goal_ns = max(target_ns, BASE_FACTOR * self.base_ns if self.base_ns != _MOST else 0)
        given = int(max(self._rates) * goal_ns / 1e9)
        late = pressed or self.delay_ns > goal_ns
        if self.limited:
            self._set(refused, late, given, hasty=2 * self.delay_ns < goal_ns)
        elif not late and most <= given:
            self._growth.clear()
        else:
            self._growth.append((grown, answered))
            if self._too_much():
                self._bound(max(LEAST, most))

    def _learn_base(self, most: int) -> None:
        if self.base_ns == _MOST:
            if most <= LEAST:
                self.base_ns = self.quickest_ns
        elif self.quickest_ns < self.base_ns:
            self.base_ns = self.quickest_ns
        elif most <= LEAST:
            self.base_ns += int((self.quickest_ns - self.base_ns) * BASE_WEIGHT)

    def _too_much(self) -> bool:
        """Whether ever more comes in than is answered."""
        growth = list(self._growth)
        for ticks, share in ((LEAPING_TICKS, LEAP), (GROWING_TICKS, GROWTH)):
            if len(growth) >= ticks and all(grown > share * done for grown, done in growth[-ticks:]):
                return True
        if len(growth) < CREEPING_TICKS:
            return False
        half = CREEPING_TICKS // 2
        return all(
            sum(grown for grown, _ in part) > CREEP * sum(done for _, done in part)
            for part in (growth[:half], growth[half:])
        )

    def _set(self, refused: int, late: bool, given: int, *, hasty: bool) -> None:
        """Move the bound. `given`: what the worker does in the time that requests may take; `hasty`: they
        take less than half of it."""
        if not refused:
            self._quiet(refused)
            return
        self._quiet_ticks = 0
        if late:
            self._bound(max(LEAST, given))
        elif hasty:
            self._bound(self.limit + self.limit // 8 + 1)

    def _quiet(self, refused: int) -> None:
        self._quiet_ticks = 0 if refused else self._quiet_ticks + 1
        if self.limited and self._quiet_ticks >= QUIET_TICKS:
            self.limit = self.soft = _MOST
            self._growth.clear()

    def _bound(self, limit: int) -> None:
        self.limit, self.soft = limit, limit - limit // 4


class Shedding:
    """Of all workers of a node."""

    def __init__(
        self,
        target_ms: int,
        groups: int,
        clock: Callable[[], int] = clock_ns,
        lag_s: Callable[[], float] = lambda: 0.0,
        locks: WaitLocks | None = None,
    ) -> None:
        """`target_ms`: how long a request may take; 0: nothing is refused for that. `clock`: in ns. `lag_s`:
        how late the event loop is."""
        self.loads: dict[int, WorkerLoad] = {}
        self.by_group = [0] * groups
        """Requests under way of each group."""
        self.lag_s = lag_s
        self.locks = locks or WaitLocks(ProposalOptions(), groups)
        """Bounds of single groups."""
        self._locks = self.locks.locks
        self._target_ns = target_ms * 1_000_000
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        """None where no tick is to come, until a request does."""
        self._resting = 0
        """Ticks in a row that had nothing to do."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tick from now on, whenever there is something to tick for."""
        self._loop = loop
        self._schedule()

    def stop(self) -> None:
        """Tick no more."""
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tick(self) -> None:
        """Set all bounds anew."""
        self.locks.tick()
        if not self._target_ns:
            return
        # While the loop is late requests wait before they are seen here.
        late = self.lag_s() * 1e9 > self._target_ns
        for load in self.loads.values():
            load.tick(self._target_ns, pressed=late or load.waits)

    def note(self, worker: int, group: int, seq: int, *, timed: bool = True) -> None:
        """A request of a group came in. `timed`: how long it takes says something about the load."""
        load = self.loads[worker]
        load.count += 1
        count = self.by_group[group] = self.by_group[group] + 1
        if count == 1:
            load.active += 1
            if self._timer is None:
                self._schedule()
        if not timed:
            return
        if not seq & SAMPLE_MASK:
            load.timed[seq] = self._clock()
            if load.count > load.most:
                load.most = load.count
        if self._locks and (lock := self._locks.get(group)) is not None:
            lock.begin(seq, self._clock())

    def answered(self, worker: int, group: int, seq: int) -> None:
        """It is over, whatever became of it."""
        load = self.loads[worker]
        load.count -= 1
        load.answered += 1
        count = self.by_group[group] = self.by_group[group] - 1
        if not count:
            load.active -= 1
        if not seq & SAMPLE_MASK and seq in load.timed:
            took_ns = self._clock() - load.timed.pop(seq)
            load.took_ns += took_ns
            load.took_count += 1
            if took_ns < load.quickest_ns:
                load.quickest_ns = took_ns
        if self._locks and (lock := self._locks.get(group)) is not None:
            lock.end(seq, self._clock())

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

    def _schedule(self) -> None:
        if self._loop is not None:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        rests = self.locks.rest and all(load.rests for load in self.loads.values())
        self._resting = self._resting + 1 if rests else 0
        self._timer = None
        if self._resting < REST_TICKS:
            self._schedule()
        else:
            self._resting = 0
        self.tick()

    def picture(self) -> dict[str, dict[str, float | int | None]]:
        """For the status: of each worker, what is under way, what may be, and how long requests take."""
        return {
            str(worker): {
                "count": load.count,
                "limit": load.limit if load.limited else None,
                "delay_ms": round(load.delay_ns / 1e6, 3),
                "base_ms": None if load.base_ns == _MOST else round(load.base_ns / 1e6, 3),
                "answers_per_s": round(load.rate, 1),
            }
            for worker, load in self.loads.items()
            if worker >= 0
        }
