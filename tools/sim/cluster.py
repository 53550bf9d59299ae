"""A simulated cluster: its nodes, its wire, its only clock of truth and its only source of chance.

Time jumps from one event to the next. Events of one moment happen in the order in which they were
planned, so a seed means one run.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from paxmux.tools.sim.faults import Faults
from paxmux.tools.sim.lease_watch import LeaseWatch
from paxmux.tools.sim.ledger import Ledger
from paxmux.tools.sim.node import SimNode
from paxmux.tools.sim.plan import Plan
from paxmux.tools.sim.quorums import Quorums
from paxmux.tools.sim.trace import Trace
from paxmux.tools.sim.wire import Wire
from paxmux.tools.sim.witness import Witness

Event = tuple[int, int, Callable[[Any], None], Any]
"""(when, number, what, its argument)"""


class Cluster:
    """Everything of one run."""

    def __init__(self, plan: Plan, rng: random.Random, trace: Trace) -> None:
        self.plan = plan
        self.rng = rng
        self.trace = trace
        self.now = 0
        """In ns since the run began."""
        self.counts: Counter[str] = Counter()
        """Faults that were injected, by kind."""
        self.points: Counter[str] = Counter()
        """Deaths by the moment of the turn."""
        seats = {number: 1000 + number for number in range(1, plan.nodes + 1)}
        self.founders = {number: seat for number, seat in seats.items() if number <= plan.founders}
        """The members, with their seats, until they are changed."""
        self._events: list[Event] = []
        self._planned = 0
        self.witness = Witness(seats, self.founders)
        self.ledger = Ledger(self.witness, plan.proposals.attempts)
        self.wire = Wire(plan, rng, trace, self.counts, self.arrive)
        self.nodes = [SimNode(self, number, seat) for number, seat in seats.items()]
        self.workers = [worker for node in self.nodes for worker in node.workers]
        self.quorums = Quorums(self)
        self.leases = LeaseWatch(self)
        self.faults = Faults(self)
        if "clock_drift" in plan.faults:
            self.counts["clock_drift"] += 1
        for node in self.nodes:
            node.boot()

    def at(self, when: int, what: Callable[[Any], None], argument: object) -> None:
        """Plan an event."""
        self._planned += 1
        heapq.heappush(self._events, (when, self._planned, what, argument))

    def run(self, until: int) -> None:
        """Let time pass up to and with `until`."""
        events, trace = self._events, self.trace
        pop = heapq.heappop
        while events and events[0][0] <= until:
            when, _, what, argument = pop(events)
            if when > self.now:
                self.now = trace.now = when
            what(argument)
        self.now = trace.now = until

    def busiest(self) -> str:
        """Who turned most, in words."""
        most = max(self.workers, key=lambda worker: worker.turns)
        return f"{most.name} turned {most.turns} times, {self.wire.launched} frames were sent"

    def arrive(self, when: int, dest: int, frame: bytes, corrupted: bool) -> None:
        """Plan a frame's arrival; `corrupted` says whether real code must notice that it is."""
        self.at(when, self._land, (dest, frame, corrupted))

    def _land(self, flight: tuple[int, bytes, bool]) -> None:
        dest, frame, corrupted = flight
        self.nodes[dest - 1].receive(frame, corrupted)
