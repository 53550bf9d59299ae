"""An open load: requests come when they are due, whether or not earlier ones were answered.

Decides when each request leaves, and what became of it. A latency counts from the moment at which the
request was *due*, not from when it was sent: a system that stalls cannot hide the requests that it kept
from being sent (coordinated omission). What has no answer within the timeout after it was due has timed out.
At most `under_way_max` requests are under way; what is due beyond them is offered and not sent. Nothing is
tried again.
"""

from __future__ import annotations

import asyncio
from time import monotonic_ns
from typing import Any, Protocol

import msgspec

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.tools.alarm import Alarm
from paxmux.tools.arrivals import NO_SURGE, Arrivals
from paxmux.tools.latency import Latencies
from paxmux.tools.load_gate import Answer, GateSpec, Request
from paxmux.tools.load_values import LoadValues
from paxmux.tools.time_series import OpenRow, Row, Rows

BATCH = 512
"""Requests that leave together at most: then the event loop has its turn."""
GAP_NS = 500_000
"""What is due within so long leaves together: a wake-up costs more than many requests."""
SWEEP_NS = 50_000_000
UNDER_WAY_BYTES = 256 * 1024 * 1024
_SECOND_NS = 1_000_000_000


class OpenSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one load does to one node."""

    groups: list[int]
    weights: list[float]
    """Of each of the groups."""
    from_per_s: float
    """Requests per second at the start, and while it warms up."""
    to_per_s: float
    """At the end; linear between the two."""
    seconds: float
    warmup_s: float
    interval_s: float
    """Length of a row."""
    size: int
    """Bytes of a value."""
    read_share: float
    gate: GateSpec
    under_way_max: int
    seed: str
    surge: tuple[float, float, float] = NO_SURGE
    """See `Arrivals`."""
    number: int
    """Of this load: different loads send different values."""


class OpenResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What came of it."""

    rows: list[Row]
    unmatched: int
    """Answers that came after their request had timed out."""
    late: dict[str, Any]
    """How late the oldest request of each batch was sent: `Latencies.dump()`."""


class Gate(Protocol):
    """Takes requests somewhere; the outcomes come back by `OpenLoad.answered`."""

    def send(self, requests: list[Request]) -> None:
        """Send them all; never blocks, and never raises because of one of them."""


class OpenLoad:
    """One run against one node. Used in one event loop only."""

    def __init__(self, spec: OpenSpec) -> None:
        self._arrivals = Arrivals(
            from_per_s=spec.from_per_s,
            to_per_s=spec.to_per_s,
            warmup_s=spec.warmup_s,
            seconds=spec.seconds,
            groups=spec.groups,
            weights=spec.weights,
            read_share=spec.read_share,
            seed=spec.seed,
            surge=spec.surge,
        )
        self._spec = spec
        self._values = LoadValues(spec.number, spec.size, 1)
        self._most = max(1, min(spec.under_way_max, UNDER_WAY_BYTES // spec.size))
        self._timeout_ns = int(spec.gate.timeout_s * _SECOND_NS)
        self._under_way: dict[int, tuple[int, OpenRow, int, bool]] = {}
        """(due, row, group, read) by number: in the order in which they were due."""
        self._number = 0
        self._late = Latencies()
        self._unmatched = 0
        self._swept_ns = 0
        self._gate: Gate
        self._rows: Rows
        self._row: OpenRow
        self._row_end_ns = 0
        self._start_ns = 0
        self._alarm: Alarm
        self._loop: asyncio.AbstractEventLoop
        self._done: asyncio.Future[None] | None = None
        self._lost: str | None = None
        self.values = 0
        """Requests answered so far."""

    def progress(self) -> dict[str, Any]:
        """Counts so far."""
        return {"values": self.values}

    def lost(self, reason: str) -> None:
        """The way to the node is gone; it may be before `run`, which raises then."""
        self._lost = reason
        if self._done is not None and not self._done.done():
            self._done.set_exception(PaxmuxError(reason))

    async def run(self, gate: Gate, start_ns: int) -> OpenResult:
        """Run from `start_ns` (CLOCK_MONOTONIC) until each request has its outcome.

        Raises:
            PaxmuxError: the way to the node was lost.
        """
        if self._lost is not None:
            raise PaxmuxError(self._lost)
        spec = self._spec
        loop = self._loop = asyncio.get_running_loop()
        self._gate = gate
        self._start_ns = start_ns
        self._rows = Rows(
            start_ns + int(spec.warmup_s * _SECOND_NS), max(1, int(spec.interval_s * _SECOND_NS))
        )
        self._done = loop.create_future()
        self._alarm = Alarm(loop, self._on_time)
        try:
            self._alarm.set(start_ns)
            await self._done
        finally:
            self._alarm.close()
        return OpenResult(rows=self._rows.close(), unmatched=self._unmatched, late=self._late.dump())

    def answered(self, answers: list[Answer]) -> None:
        """Outcomes came back."""
        now = monotonic_ns()
        row_of_now = self._rows.at(now)[0].row
        pop, timeout_ns = self._under_way.pop, self._timeout_ns
        for number, code in answers:
            entry = pop(number, None)
            if entry is None:
                self._unmatched += 1
                continue
            due_ns, row, group, read = entry
            if code:
                row.fail(group, code)
                continue
            if now - due_ns > timeout_ns:
                # Too late, also where the sweep has not come by yet.
                self._unmatched += 1
                row.fail(group, Code.TIMEOUT)
                continue
            row.answer(group, now - due_ns, read)
            row_of_now.completed += 1
            self.values += 1
            if not read:
                row_of_now.completed_values += 1

    def _on_time(self) -> None:
        assert self._done is not None
        if self._done.done():
            return
        try:
            self._turn()
        except Exception as error:
            # The loop only logs what is raised in a callback of it.
            self._done.set_exception(error)
            raise

    def _turn(self) -> None:
        assert self._done is not None
        now = monotonic_ns()
        due = self._arrivals.take(now - self._start_ns, BATCH)
        if due:
            self._send(due, now)
        if now - self._swept_ns >= SWEEP_NS:
            self._swept_ns = now
            self._sweep(now - self._timeout_ns)
        next_ns = self._arrivals.next_ns
        if next_ns is None:
            if not self._under_way:
                self._done.set_result(None)
            else:
                self._alarm.set(now + SWEEP_NS)
        elif self._start_ns + next_ns <= now:
            # More than a batch was due.
            self._loop.call_soon(self._on_time)
        else:
            self._alarm.set(max(self._start_ns + next_ns, now + GAP_NS))

    def _send(self, due: list[tuple[int, int, bool]], now: int) -> None:
        start_ns, under_way, most = self._start_ns, self._under_way, self._most
        value, requests, number = self._values.next, [], self._number
        self._late.add(now - start_ns - due[0][0])
        for time_ns, group, read in due:
            due_ns = start_ns + time_ns
            if due_ns >= self._row_end_ns:
                self._row, self._row_end_ns = self._rows.at(due_ns)
                self._rows.close_before(due_ns)
            row = self._row
            row.offer(group)
            if len(under_way) >= most:
                row.row.not_sent += 1
                continue
            number += 1
            under_way[number] = (due_ns, row, group, read)
            requests.append((number, group, None if read else value()))
        self._number = number
        if requests:
            self._gate.send(requests)

    def _sweep(self, due_before_ns: int) -> None:
        """Give up what was due before."""
        expired = []
        for number, entry in self._under_way.items():
            if entry[0] > due_before_ns:
                break
            expired.append(number)
        for number in expired:
            _, row, group, _ = self._under_way.pop(number)
            row.fail(group, Code.TIMEOUT)
