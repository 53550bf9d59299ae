"""Requests that wait for their answer: who waits for which, and until when.

Decides which waiting caller gets which outcome: the worker's reply, a timeout, or the word that its
worker is gone. Every request has one outcome, the first that comes. A request whose caller has
stopped waiting (deadline or cancellation) is *owed*: it keeps its slot until the worker answers or
dies. Never resends anything, and never invents a result: what is not known is `Code.TIMEOUT`.

Timeouts cost nothing per request beyond one comparison: one timer stands at a lower bound of all
deadlines; when it fires, the waiting ones are swept. Sweeps are at least `SWEEP_GAP_NS` apart and
take at most `1 / SWEEP_SHARE` of the loop's time, so a timeout is a little late, never early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import Code
from paxmux.shards.admission import Admission
from paxmux.shards.requests import Reply

SWEEP_GAP_NS: Final = 10_000_000
SWEEP_SHARE: Final = 20
NEVER_NS: Final = 2**63 - 1
"""The deadline of a request that waits for ever."""

Entry = tuple["asyncio.Future[Reply]", int, int, int, int]
"""(future, deadline_ns, size, worker, group): a plain tuple, made once per request."""


class Pending:
    """All unanswered requests of one node. Used in the node's event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, admission: Admission) -> None:
        self._loop = loop
        self._admission = admission
        self._shedding = admission.shedding
        self._entries: dict[int, Entry] = {}
        self._owed: dict[int, tuple[int, int, int]] = {}
        """(worker, size, group) by sequence number."""
        self._seq = 0
        self._sweep_at_ns = NEVER_NS
        self._sweep_earliest_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self.timeouts = 0
        """Requests given up at their deadline."""
        self.unmatched = 0
        """Replies that no request waits for: a reply given twice, or made up."""

    @property
    def waiting(self) -> int:
        """Requests without an outcome; their callers wait, or have cancelled."""
        return len(self._entries)

    @property
    def owed(self) -> int:
        """Requests given up that the worker has not answered yet."""
        return len(self._owed)

    def add(
        self, worker: int, size: int, deadline_ns: int, group: int = -1, *, timed: bool = True
    ) -> tuple[int, asyncio.Future[Reply]]:
        """Note an admitted request; returns its sequence number and the future of its reply. `group`: -1
        where it is about none. `timed`: how long it takes says something about the load.

        The future never holds an exception: errors are replies too (their code is not OK).
        """
        seq = self._seq = self._seq + 1
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._entries[seq] = (future, deadline_ns, size, worker, group)
        if group >= 0:
            self._shedding.note(worker, group, seq, timed=timed)
        if deadline_ns < self._sweep_at_ns:
            self._arm(deadline_ns)
        return seq, future

    def resolve(self, replies: list[Reply]) -> None:
        """Hand replies to whoever waits for them, and give their slots back."""
        pop, shedding = self._entries.pop, self._shedding
        count = size = 0
        # Handed on as the object that it is: compiled code would take it apart and make another.
        reply: Any
        for reply in replies:
            entry = pop(reply[0], None)
            if entry is None:
                owed = self._owed.pop(reply[0], None)
                if owed is None:
                    self.unmatched += 1
                    continue
                worker, its_size, group = owed
                size += its_size
            else:
                future, _, its_size, worker, group = entry
                size += its_size
                if not future.done():
                    future.set_result(reply)
            if group >= 0:
                shedding.answered(worker, group, reply[0])
            count += 1
        self._leave(count, size)

    def fail_worker(self, worker: int, reason: str) -> int:
        """The worker is gone: the outcome of all that it owes stays unknown. Returns how many waited."""
        waiting = [seq for seq, entry in self._entries.items() if entry[3] == worker]
        self.fail(waiting, Code.TIMEOUT, reason)
        self._forget([seq for seq, owed in self._owed.items() if owed[0] == worker])
        return len(waiting)

    def reassign(self, group: int, old: int, new: int) -> None:
        """What `old` owes of a group is owed by `new` from now on."""
        moved = []
        for seq, entry in self._entries.items():
            if entry[4] == group and entry[3] == old:
                self._entries[seq] = (*entry[:3], new, group)
                moved.append(seq)
        for seq, owed in self._owed.items():
            if owed[2] == group and owed[0] == old:
                self._owed[seq] = (new, owed[1], group)
                moved.append(seq)
        self._shedding.moved(group, old, new, moved)

    def fail_all(self, reason: str) -> int:
        """Nobody will answer any more: all outcomes stay unknown. Returns how many waited."""
        waiting = list(self._entries)
        self.fail(waiting, Code.TIMEOUT, reason)
        self._forget(list(self._owed))
        return len(waiting)

    def fail(self, seqs: Iterable[int], code: Code, reason: str) -> None:
        """End these with `code`; `reason` is what their callers read."""
        message = reason.encode()
        self.resolve([(seq, code, 0, 0, message) for seq in seqs])

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every request has its outcome; False if one has none after `timeout_s`."""
        if not self._entries:
            return True
        self._idle = self._loop.create_future()
        try:
            await asyncio.wait_for(self._idle, timeout_s)
        except TimeoutError:
            return False
        finally:
            self._idle = None
        return True

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self, seqs: list[int]) -> None:
        size = 0
        for seq in seqs:
            worker, its_size, group = self._owed.pop(seq)
            size += its_size
            if group >= 0:
                self._shedding.answered(worker, group, seq)
        self._leave(len(seqs), size)

    def _leave(self, count: int, size: int) -> None:
        self._admission.leave(count, size)
        if self._idle is not None and not self._entries and not self._idle.done():
            self._idle.set_result(None)

    def _arm(self, at_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._sweep_at_ns = at_ns
        wait_ns = max(at_ns, self._sweep_earliest_ns) - clock_ns()
        self._timer = self._loop.call_later(max(wait_ns, 0) / 1e9, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        start_ns = clock_ns()
        next_ns = NEVER_NS
        late: list[int] = []
        for seq, entry in self._entries.items():
            deadline_ns = entry[1]
            if deadline_ns <= start_ns:
                late.append(seq)
            elif deadline_ns < next_ns:
                next_ns = deadline_ns
        for seq in late:
            self._give_up(seq)
        cost_ns = clock_ns() - start_ns
        self._sweep_earliest_ns = start_ns + max(SWEEP_GAP_NS, cost_ns * SWEEP_SHARE)
        self._sweep_at_ns = NEVER_NS
        if next_ns != NEVER_NS:
            self._arm(next_ns)

    def _give_up(self, seq: int) -> None:
        future, _, size, worker, group = self._entries.pop(seq)
        self._owed[seq] = (worker, size, group)
        if not future.done():
            self.timeouts += 1
            future.set_result((seq, Code.TIMEOUT, 0, 0, b"no answer before the deadline"))
        self._leave(0, 0)
