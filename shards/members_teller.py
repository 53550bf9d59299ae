"""What a worker tells its node about the members of its groups: at its start, and whenever they change.

Decides when: after the turn that made it durable here, and again as long as the node does not read. Groups
with the same members share a message, so that a worker of a thousand groups needs few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from paxmux.engine.paxos.group import Group
from paxmux.shards.boot import MembersTold
from paxmux.shards.child import ControlError
from paxmux.shards.turn import Turn

GROUPS_MAX = 2048
"""In one message, which must fit the control socket."""


class MembersTeller:
    """Used by one worker's loop, between its turns."""

    __slots__ = ("_changed", "_tell", "_turn")

    def __init__(self, turn: Turn, tell: Callable[[MembersTold], None]) -> None:
        """`tell` raises ControlError while the node does not read."""
        self._turn = turn
        self._tell = tell
        self._changed = turn.peers.changed

    @property
    def waiting(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self._changed)

    def tell(self) -> None:
        """Tell it, if that can be now. Raises ParentGone."""
        if self._turn.held:
            return
        groups = self._turn.groups
        # Who has moved away meanwhile is told of by the worker that has it.
        self._changed.intersection_update(groups)
        for message in messages(groups[index] for index in sorted(self._changed)):
            try:
                self._tell(message)
            except ControlError:
                return
            self._changed.difference_update(message.versions)


def messages(groups: Iterable[Group]) -> list[MembersTold]:
    """What is to be said of these groups."""
    found: dict[tuple[tuple[int, int, str], ...], list[MembersTold]] = {}
    for group in groups:
        members = group.members
        rows = tuple((node, seat, members.addresses.get(node, "")) for node, seat in members.seats.items())
        same = found.setdefault(rows, [])
        if not same or len(same[-1].versions) >= GROUPS_MAX:
            places = {node: (seat, address) for node, seat, address in rows}
            same.append(MembersTold(members=places, versions={}))
        same[-1].versions[group.index] = members.version
    return [message for same in found.values() for message in same]
