"""The other members of a worker's groups: who its messages to all go to, and since when each is silent.

Decides nothing about votes: each group counts those of its own members. Who is no member of a certain group
hears of it all the same if it is one of another group here, and may learn.
"""

from __future__ import annotations

from collections.abc import Mapping

from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.shards.intake import Intake
from paxmux.shards.outlet import Outlet


class MemberPeers:
    """Of one worker."""

    __slots__ = ("_groups", "_intake", "_outlet", "changed", "nodes")

    def __init__(self, groups: Mapping[int, Group], intake: Intake, outlet: Outlet) -> None:
        """`groups`: that are hosted here; they may change."""
        self._groups = groups
        self._intake = intake
        self._outlet = outlet
        self.nodes: tuple[int, ...] = ()
        self.changed = set(groups)
        """Groups whose members are others than the node was last told: at first, all."""

    def set(self, now: int) -> None:
        """The groups, or the members of one, are others."""
        groups = self._groups.values()
        seats = {each for group in groups for each in group.members.seats.items() if each[0] != group.me}
        self._intake.expect(seats, now)
        self.nodes = tuple(sorted({node for node, _ in seats}))
        self._outlet.set_peers(self.nodes)

    def note(self, fx: Effects, now: int) -> None:
        """Before anything of the next instance leaves: its members are to hear of it."""
        if fx.members_changed:
            self.changed.update([group.index for group in fx.members_changed])
            fx.members_changed = []
            self.set(now)
