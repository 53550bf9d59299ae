"""When each group of a worker wants its timers looked at.

Groups say it themselves (`Group.due`, `Effects.timers`), so a turn looks at those that are due, and what
thousands of idle ones cost is nothing. A group whose timer was brought forward stands at its earlier moment
too, and is passed over when the later one comes: nothing is ever searched for or taken out.

It knows no clock. The order is that of the moments, and for one moment that in which groups asked: the same
steps ring the same groups in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.timers import NEVER


class Alarms:
    """Of all groups of one worker."""

    __slots__ = ("_at", "_groups", "_moments")

    def __init__(self, groups: dict[int, Group]) -> None:
        """`groups`: those that the worker hosts now; who is not among them any more is passed over."""
        self._groups = groups
        self._at: dict[int, dict[int, None]] = {}
        """Moment, in ns -> groups that asked for it. Few moments for many groups: those that a turn began
        something in have one together."""
        self._moments: list[int] = []
        """A heap of the keys."""

    @property
    def next_at(self) -> int:
        """The next moment that anybody asked for."""
        return self._moments[0] if self._moments else NEVER

    def note(self, groups: Iterable[Group]) -> int:
        """These groups have a new `due`; returns the earliest of them."""
        earliest = NEVER
        for group in groups:
            due = group.due
            self._put(due, group.index)
            if due < earliest:
                earliest = due
        return earliest

    def ring(self, now: int, fx: Effects) -> None:
        """Let every group that is due do what is due."""
        moments, groups = self._moments, self._groups
        due: list[Group] = []
        while moments and moments[0] <= now:
            moment = heappop(moments)
            for index in self._at.pop(moment):
                group = groups.get(index)
                if group is not None and group.due == moment:
                    group.due = NEVER
                    due.append(group)
        for group in due:
            at = group.on_timer(now, fx)
            if at < group.due:
                group.due = at
            if group.due != NEVER:
                self._put(group.due, group.index)

    def _put(self, moment: int, index: int) -> None:
        there = self._at.get(moment)
        if there is None:
            heappush(self._moments, moment)
            self._at[moment] = {index: None}
        else:
            there[index] = None
