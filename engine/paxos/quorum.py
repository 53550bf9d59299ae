"""Who votes, and when there are enough votes.

A voter is a node id *in its seat*: the random id of the data directory that holds its promises. A
node that comes back with another seat has forgotten what it promised, and its vote must not count.
"""

from __future__ import annotations

from collections.abc import Mapping


class Members:
    """The voters of an instance. Immutable: a change of membership makes a new one."""

    __slots__ = ("majority", "seats", "since")

    def __init__(self, seats: Mapping[int, int], since: int = 0) -> None:
        """`seats`: node id -> seat. `since`: the first instance that these members decide."""
        self.seats = dict(seats)
        self.since = since
        self.majority = len(self.seats) // 2 + 1

    def seated(self, node: int, seat: int) -> bool:
        """Whether `node` may vote with the data directory it has now."""
        return self.seats.get(node) == seat

    def hopeless(self, rejects: int) -> bool:
        """Whether so many rejects leave too few voters for a majority."""
        return len(self.seats) - rejects < self.majority
