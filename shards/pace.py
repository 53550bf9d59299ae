"""How long a worker spends in state machines at a stretch, and in which ones if that was too long.

A stretch is a turn, or all turns until nothing waits to be executed any more. Measures each turn as a whole:
two looks at the clock, however many values it executes. Only after a stretch that was slow are the next turns
measured group by group. Tells the log at most once in `TOLD_EVERY_S`; what every
group came to stands in the status. It changes nothing about execution.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from paxmux.engine.pack import MARKS
from paxmux.engine.paxos.effects import Decided
from paxmux.engine.state_machine import NO_STATE_MACHINE
from paxmux.shards.applier import Applier

TOLD_EVERY_S = 10.0
CLOSE_LOOK_TURNS = 200
"""So many turns are measured group by group after a slow stretch."""
TOLD_GROUPS = 3

_log = logging.getLogger("paxmux")


class Slowness(msgspec.Struct):
    """What a group's machines took in stretches that were slow because of them."""

    machines: str = ""
    turns: int = 0
    total_ms: float = 0.0
    longest_ms: float = 0.0


class Pace:
    """Of one worker. Until `start` nothing takes any time."""

    def __init__(self, appliers: Mapping[int, Applier]) -> None:
        self._appliers = appliers
        self._clock: Callable[[], int] = int
        self._slow_ns = 1
        self._begin_ns = 0
        self._took_ns = 0
        """In this stretch, so far."""
        self._close_looks = 0
        self._parts: dict[int, int] = {}
        """Of this stretch, by group, as far as that is known."""
        self._told_ns = -int(TOLD_EVERY_S * 1e9)
        self._untold: dict[int, Slowness] = {}
        self.slow_turns = 0
        self.slow: dict[int, Slowness] = {}
        """By group, since the worker began."""

    def start(self, clock: Callable[[], int], slow_ns: int) -> None:
        """Measure from now on. `clock`: in ns; `slow_ns`: what is too long for a stretch."""
        self._clock, self._slow_ns = clock, slow_ns

    def begin(self, decided: Sequence[Decided]) -> Iterable[Decided]:
        """Execution begins; returns what it is to go through."""
        self._begin_ns = self._clock()
        return self._timed(decided) if self._close_looks else decided

    def end(self, decided: Sequence[Decided], carried_on: dict[int, int], *, behind: bool) -> None:
        """Execution has ended for this turn.

        Args:
            decided: what `begin` was given.
            carried_on: what groups took, in ns, that executed what was decided before.
            behind: whether something waits to be executed still.
        """
        now = self._clock()
        took = self._took_ns = self._took_ns + now - self._begin_ns
        parts = self._parts
        for group, part in carried_on.items():
            parts[group] = parts.get(group, 0) + part
        if took > self._slow_ns:
            self._took_ns, self._parts = 0, {}
            self._note(now, took, parts, decided)
        elif not behind:
            self._took_ns = 0
            if parts:
                parts.clear()
        if self._close_looks:
            self._close_looks -= 1

    def _timed(self, decided: Sequence[Decided]) -> Iterator[Decided]:
        clock, parts = self._clock, self._parts
        for each in decided:
            begin = clock()
            yield each
            parts[each[0]] = parts.get(each[0], 0) + clock() - begin

    def _note(self, now: int, took: int, parts: dict[int, int], decided: Sequence[Decided]) -> None:
        self.slow_turns += 1
        groups = {each[0] for each in decided} | parts.keys()
        if len(groups) == 1:
            parts = dict.fromkeys(groups, took)
        # Otherwise nobody may know which of them it was: the next turns will tell.
        self._close_looks = CLOSE_LOOK_TURNS + 1
        for group, part in parts.items():
            # A fair share of what is too long, or nothing worth a name.
            if part * len(groups) >= self._slow_ns and group in self._appliers:
                self._charge(group, part, decided)
        if self._untold and now - self._told_ns >= TOLD_EVERY_S * 1e9:
            self._told_ns = now
            self._tell(took)

    def _charge(self, group: int, part: int, decided: Sequence[Decided]) -> None:
        smids = {
            smid & ~MARKS for each in decided if each[0] == group for smid in [entry[4] for entry in each[2]]
        }
        machines = self._appliers[group].machines
        named = sorted((smids or machines.keys()) & machines.keys() - {NO_STATE_MACHINE})
        words = ", ".join(f"{smid} ({type(machines[smid]).__name__})" for smid in named)
        for kept in (self.slow, self._untold):
            one = kept.setdefault(group, Slowness())
            one.machines = words
            one.turns += 1
            one.total_ms = round(one.total_ms + part / 1e6, 3)
            one.longest_ms = max(one.longest_ms, round(part / 1e6, 3))

    def _tell(self, took: int) -> None:
        worst = sorted(self._untold.items(), key=lambda item: -item[1].total_ms)
        words = "; ".join(
            f"state machine {one.machines or '?'} of group {group} took {one.longest_ms:.0f} ms "
            f"at a stretch, {one.total_ms:.0f} ms in {one.turns}"
            for group, one in worst[:TOLD_GROUPS]
        )
        more = f"; so did {len(worst) - TOLD_GROUPS} more groups" if len(worst) > TOLD_GROUPS else ""
        _log.warning(
            "execution is slow, %.0f ms at a stretch, and all groups of the worker wait for it: %s%s",
            took / 1e6,
            words,
            more,
        )
        self._untold.clear()
