"""Who the members of every group are, as this node knows it from its workers.

Decides where each node is to be found, of all that the groups say of it, and who is told of a change. It is
what the node itself goes by for addresses and callbacks; no vote counts by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from paxmux.engine.address import parse_member
from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import ConfigError
from paxmux.shards.boot import MemberPlace, MembersTold
from paxmux.shards.membership import Member, Seats

OnChange = Callable[[int, list[Member]], None]
"""(group, members): called in the node's event loop; what it raises goes to the log."""

log = logging.getLogger("paxmux")


class Memberships:
    """Of one node. Used in its event loop only."""

    def __init__(self, seeds: Mapping[int, str], clock: Callable[[], int] = clock_ns) -> None:
        """`seeds`: node id -> `host:port` in the options: where a node is of which no operation has told an
        address. `clock`: in ns."""
        self._clock = clock
        self._seeds = dict(seeds)
        self.on_places: Callable[[dict[int, MemberPlace]], None] | None = None
        """Called when the members of all groups together, by node id, are others than before."""
        self._groups: dict[int, tuple[int, dict[int, tuple[int, str]]]] = {}
        self._told: dict[int, str] = {}
        """The address that an operation has last been seen to give each node."""
        self._callbacks: list[OnChange] = []
        self.reseated: dict[int, tuple[int, int]] = {}
        """Node id -> the seat that a group has last given to a member in the place of another, and when, in
        ns."""
        self.places: dict[int, MemberPlace] = {}
        """By node id, every member of any group."""

    def take(self, told: MembersTold) -> None:
        """A worker says who the members of some groups are."""
        changed: list[int] = []
        for group, version in told.versions.items():
            before = self._groups.get(group)
            if before is not None and before[0] >= version:
                continue  # of a worker that has moved the group on, or has started again
            self._note_addresses(before[1] if before is not None else {}, told.members, before is None)
            if before is not None:
                self._note_seats(before[1], told.members)
            self._groups[group] = version, told.members
            changed.append(group)
        places = self._union() if changed else self.places
        if places != self.places:
            self.places = places
            if self.on_places is not None:
                self.on_places(dict(places))
        for group in changed:
            for callback in list(self._callbacks):
                self._call(callback, group)

    def members(self, group: int) -> list[Member] | None:
        """The members of a group as last told, by node id; None before that."""
        known = self._groups.get(group)
        return None if known is None else self.listed(known[1])

    def listed(self, members: Seats) -> list[Member]:
        """Members as callers see them."""
        return [
            Member(node, seat, address or self._seeds.get(node, ""))
            for node, (seat, address) in sorted(members.items())
        ]

    def in_other_seat(self, node: int, seat: int) -> dict[int, int]:
        """The groups that have a node as a member in another seat -> that seat."""
        return {
            group: members[node][0]
            for group, (_, members) in self._groups.items()
            if node in members and members[node][0] != seat
        }

    def watch(self, callback: OnChange) -> Callable[[], None]:
        """Call `callback` for each group now, if it is known, and at each change; the function that is
        returned ends that."""
        self._callbacks.append(callback)
        for group in sorted(self._groups):
            self._call(callback, group)

        def end() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return end

    def _call(self, callback: OnChange, group: int) -> None:
        try:
            callback(group, self.members(group) or [])
        except Exception:
            log.exception("group %d: what is to be called when its members change has failed", group)

    def _note_seats(self, before: Seats, now: Seats) -> None:
        for node, (seat, _) in now.items():
            if node in before and before[node][0] != seat:
                self.reseated[node] = seat, self._clock()

    def _note_addresses(self, before: Seats, now: Seats, first: bool) -> None:
        """What changes last is what holds: groups learn of a new address one after the other."""
        for node, (_, address) in now.items():
            if address and before.get(node, (0, ""))[1] != address:
                if first:
                    self._told.setdefault(node, address)
                else:
                    self._told[node] = address

    def _union(self) -> dict[int, MemberPlace]:
        seats: dict[int, set[int]] = {}
        said: dict[int, set[str]] = {}
        for _, members in self._groups.values():
            for node, (seat, address) in members.items():
                seats.setdefault(node, set()).add(seat)
                said.setdefault(node, set()).add(address)
        self._told = {node: address for node, address in self._told.items() if address in said.get(node, ())}
        return {
            node: MemberPlace(sorted(seats[node]), _checked(node, self._told.get(node) or max(addresses)))
            for node, addresses in sorted(said.items())
        }


def _checked(node: int, address: str) -> str:
    """The address, if it can be one: an operation of another node may have named anything."""
    try:
        return parse_member(address, node).address if address and "@" not in address else ""
    except ConfigError as error:
        log.warning("node %d cannot be reached where an operation says that it is: %s", node, error)
        return ""
