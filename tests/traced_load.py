"""An open load that notes every request: when it was due, when its outcome came, and what that was.

Requests come at a steady rate, whatever becomes of earlier ones, and latencies count from when they were due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from time import monotonic_ns
from typing import NamedTuple

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.tools.arrivals import Arrivals
from paxmux.tools.journal_machine import VALUE_MIN_BYTES, make_value
from paxmux.tools.load_gate import Answer, GateSpec
from paxmux.tools.load_socket import SocketGate

BATCH = 512
TURN_S = 0.001
UNDER_WAY_MAX = 50_000
HOUR_S = 3600.0


class Traced(NamedTuple):
    """One request that has its outcome."""

    id: int
    due_ns: int
    """Of CLOCK_MONOTONIC, as the next."""
    done_ns: int
    group: int
    code: int


class TracedLoad:
    """Of one process, in its event loop."""

    def __init__(self, rate_per_s: float, groups: int, size: int, seed: int) -> None:
        self._arrivals = Arrivals(
            from_per_s=rate_per_s,
            to_per_s=rate_per_s,
            warmup_s=0.0,
            seconds=HOUR_S,
            groups=list(range(groups)),
            weights=[1.0] * groups,
            read_share=0.0,
            seed=f"kill campaign {seed}",
        )
        self._padding = bytes(size - VALUE_MIN_BYTES)
        self._under_way: dict[int, tuple[int, int]] = {}
        self._number = 0
        self._lost: str | None = None
        self._ends = False
        self.traced: list[Traced] = []
        """In the order of their outcomes."""

    async def run(self, socket_name: str, spec: GateSpec) -> None:
        """Until `end`, and each request has its outcome. Raises PaxmuxError: the way to the node was lost."""
        gate = await SocketGate.connect(socket_name, spec, self._answered, self._on_lost)
        start_ns = monotonic_ns()
        try:
            while not self._ends or self._under_way:
                if self._lost is not None:
                    raise PaxmuxError(self._lost)
                if not self._ends:
                    requests = list(self._due(start_ns))
                    if requests:
                        gate.send(requests)
                await asyncio.sleep(TURN_S)
        finally:
            gate.close()

    def end(self) -> None:
        """Send nothing more."""
        self._ends = True

    def _due(self, start_ns: int) -> Iterator[tuple[int, int, bytes | None]]:
        for time_ns, group, _ in self._arrivals.take(monotonic_ns() - start_ns, BATCH):
            if len(self._under_way) >= UNDER_WAY_MAX:
                raise PaxmuxError("the node does not keep up with the load")
            self._number += 1
            self._under_way[self._number] = (start_ns + time_ns, group)
            yield self._number, group, make_value(self._number, self._padding)

    def _answered(self, answers: list[Answer]) -> None:
        now = monotonic_ns()
        for number, code in answers:
            due_ns, group = self._under_way.pop(number)
            self.traced.append(Traced(number, due_ns, now, group, code))

    def _on_lost(self, reason: str) -> None:
        self._lost = reason


def p99_ms(latencies_ns: list[int]) -> float:
    """The 99th percentile."""
    return sorted(latencies_ns)[int(len(latencies_ns) * 0.99)] / 1e6


def latencies(traced: list[Traced], groups: set[int], from_ns: int, until_ns: int) -> list[int]:
    """Of the answered requests of these groups that were due then."""
    return [
        one.done_ns - one.due_ns
        for one in traced
        if one.code == Code.OK and one.group in groups and from_ns <= one.due_ns < until_ns
    ]


def longest_gap_ns(traced: list[Traced], groups: set[int], from_ns: int, until_ns: int) -> int:
    """Between two completions one after the other, begun or ended within that time."""
    done = [one.done_ns for one in traced if one.code == Code.OK and one.group in groups]
    near = [at for at in done if from_ns <= at < until_ns]
    before = max([at for at in done if at < from_ns], default=from_ns)
    after = min([at for at in done if at >= until_ns], default=until_ns)
    marks = [before, *near, after]
    return max(late - early for early, late in pairwise(marks))
