"""How much a cluster can lose: so many nodes that every group still has a majority, now and hereafter.

Whoever breaks things for good, and whoever wants other members, asks here first. Counted are not only the
members that a group has, but also those that it may get, since a change was asked for, and those that it had,
until a majority of their successors has learned everything that they decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paxmux.tools.sim.cluster import Cluster
    from paxmux.tools.sim.node import SimNode


class Quorums:
    """Of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._wishes: dict[int, list[tuple[int, Mapping[int, int]]]] = {}
        """Group -> (version that is to be changed, seats) of each change that was asked for."""

    def wish(self, group: int, version: int, seats: Mapping[int, int]) -> None:
        """These may become the members."""
        self._wishes.setdefault(group, []).append((version, seats))

    def bear(self, seats: Mapping[int, int]) -> bool:
        """Whether these could be the members of a group."""
        return self._spare(seats) >= 0

    def may_lose(self, node: SimNode) -> bool:
        """Whether a node may be lost for good."""
        plan = self._cluster.plan
        if node.failed or not (plan.changes or node.votes):
            return False
        return all(
            node.number not in seats or self._spare(seats) > 0
            for group in range(plan.groups)
            for seats in self._lists(group)
        )

    def _spare(self, seats: Mapping[int, int]) -> int:
        gone = len([number for number, seat in seats.items() if self._gone(number, seat)])
        return len(seats) - (len(seats) // 2 + 1) - gone

    def _gone(self, number: int, seat: int) -> bool:
        node = self._cluster.nodes[number - 1]
        return node.failed or node.hurt or node.seat != seat

    def _lists(self, group: int) -> Iterator[Mapping[int, int]]:
        """Those of which a majority must stay."""
        witness = self._cluster.witness
        eras = witness.constitution(group).eras
        for version, seats in self._wishes.get(group, ()):
            if version == eras[-1].version:
                yield seats
        for era in reversed(eras):
            yield era.seats
            there = [
                number
                for number, seat in era.seats.items()
                if not self._gone(number, seat) and witness.disks[number].instance.get(group, 0) >= era.since
            ]
            if len(there) >= era.majority:
                return
