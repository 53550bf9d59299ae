"""Who votes, and when there are enough votes.

A voter is a node id *in its seat*: the random id of the data directory that holds its promises. A
node that comes back with another seat has forgotten what it promised, and its vote must not count.
"""

from __future__ import annotations

from collections.abc import Mapping

from paxmux.engine.paxos.system import Membership


class Members:
    """The voters of an instance. Immutable: a change of membership makes a new one."""

    __slots__ = ("addresses", "majority", "seats", "since")

    def __init__(
        self, seats: Mapping[int, int], since: int = 0, addresses: Mapping[int, str] | None = None
    ) -> None:
        """`seats`: node id -> seat. `since`: the first instance that these members decide. `addresses`: node
        id -> `host:port`, of those that an operation has named one for."""
        self.seats = dict(seats)
        self.since = since
        self.addresses = dict(addresses or {})
        self.majority = len(self.seats) // 2 + 1

    @property
    def version(self) -> int:
        """The instance that decided on these members; -1: they founded the cluster."""
        return self.since - 1

    def seated(self, node: int, seat: int) -> bool:
        """Whether `node` may vote with the data directory it has now."""
        return self.seats.get(node) == seat

    def membership(self) -> Membership:
        """As it lies in the log."""
        places = {node: (seat, self.addresses.get(node, "")) for node, seat in self.seats.items()}
        return Membership(self.version, places)

    def hopeless(self, rejects: int) -> bool:
        """Whether so many rejects leave too few voters for a majority."""
        return len(self.seats) - rejects < self.majority


def members_of(membership: Membership) -> Members:
    """The voters that a membership names."""
    seats = {node: seat for node, (seat, _) in membership.members.items()}
    addresses = {node: address for node, (_, address) in membership.members.items() if address}
    return Members(seats, membership.version + 1, addresses)
