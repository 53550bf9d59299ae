"""The network between the nodes: what becomes of each frame.

Without faults frames of a link arrive in order, after a latency. Faults of single frames are drawn
for each one; cuts take all frames of a direction. Corrupted frames are marked as such, so that whoever
receives them can tell whether real code noticed. Never looks into a frame but to spell it out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from paxmux.engine.paxos.timers import MS
from paxmux.tools.sim.plan import WIRE_FAULTS, Plan
from paxmux.tools.sim.trace import MARK_FRAME, Trace, spell

Arrival = Callable[[int, int, bytes, bool], None]
"""(when, destination, frame, corrupted)"""

STALE_KEPT = 200
DELAY_MAX = 400 * MS
STALE_MAX = 100 * MS
FLIPS = (1, 1, 1, 2, 3)


class Wire:
    """All links of a cluster."""

    def __init__(
        self, plan: Plan, rng: random.Random, trace: Trace, counts: Counter[str], arrive: Arrival
    ) -> None:
        """`arrive` schedules an arrival; `counts` gets the faults that were injected."""
        self.launched = 0
        self.cut: set[tuple[int, int]] = set()
        self._rng = rng
        self._trace = trace
        self._counts = counts
        self._arrive = arrive
        low, high = plan.latency_us
        self._low, self._span = low * 1000, (high - low) * 1000
        self._last: dict[tuple[int, int], int] = {}
        """When the newest frame of a link arrives: without a fault, later ones come later."""
        self._old: list[tuple[int, bytes]] = []
        self._fates: list[tuple[float, str]] = []
        self._any = 0.0
        edge = 0.0
        for name in WIRE_FAULTS:
            if name in plan.chances:
                edge += plan.chances[name]
                self._fates.append((edge, name))
        self._any = edge
        self._keeps_old = "stale" in plan.chances

    def heal(self) -> None:
        """No more faults."""
        self.cut.clear()
        self._fates.clear()
        self._any = 0.0
        self._keeps_old = False

    def launch(self, now: int, sender: int, dest: int, frame: bytes) -> None:
        """A frame leaves its node."""
        self.launched += 1
        trace, rng = self._trace, self._rng
        trace.mark(now, MARK_FRAME, sender * 16 + dest, int.from_bytes(frame[124:128], "little"))
        if self.cut and (sender, dest) in self.cut:
            if trace.wordy:
                trace.say(f"n{sender}->n{dest} cut off: {spell(frame)}")
            return
        due = now + self._low + int(rng.random() * self._span)
        draw = rng.random()
        fate = ""
        if draw < self._any:
            fate = next(name for edge, name in self._fates if draw < edge)
            self._counts[fate] += 1
        if trace.wordy:
            trace.say(f"n{sender}->n{dest} {fate + ': ' if fate else ''}{spell(frame)}")
        if self._keeps_old:
            self._keep(dest, frame)
        if not fate or fate == "duplication":
            link = (sender, dest)
            due = max(due, self._last.get(link, 0))
            self._last[link] = due
            self._arrive(due, dest, frame, False)
        if fate:
            self._strange(fate, now, due, dest, frame)

    def _strange(self, fate: str, now: int, due: int, dest: int, frame: bytes) -> None:
        rng = self._rng
        if fate == "duplication":
            self._arrive(due + int(rng.random() * STALE_MAX), dest, frame, False)
        elif fate == "reordering":
            # Late by a few latencies: those sent after it overtake it.
            self._arrive(due + int(rng.random() * 8 * (self._low + self._span)), dest, frame, False)
        elif fate == "delay":
            self._arrive(due + int(rng.random() * DELAY_MAX), dest, frame, False)
        elif fate == "stale":
            self._arrive(due, dest, frame, False)
            old_dest, old = rng.choice(self._old)
            self._arrive(now + int(rng.random() * STALE_MAX), old_dest, old, False)
        elif fate == "corruption":
            self._arrive(due, dest, _corrupt(rng, frame), True)

    def _keep(self, dest: int, frame: bytes) -> None:
        if len(self._old) < STALE_KEPT:
            self._old.append((dest, frame))
        elif self._rng.random() < 0.05:
            self._old[int(self._rng.random() * STALE_KEPT)] = (dest, frame)


def _corrupt(rng: random.Random, frame: bytes) -> bytes:
    """With some bits flipped, or cut short."""
    if rng.random() < 0.1:
        return frame[: rng.randrange(len(frame))]
    data = bytearray(frame)
    for bit in rng.sample(range(8 * len(frame)), rng.choice(FLIPS)):
        data[bit >> 3] ^= 1 << (bit & 7)
    return bytes(data)
