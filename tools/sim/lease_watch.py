"""Who believes to be master, at every moment: never two, and never one under the term of another.

A node believes what its worker said last, as long as its own clock has not passed the end of that lease;
also after that worker has died. Looked at whenever a worker has taken a step: two leases that overlap do so
when the later one begins. Knows the time that passes for everybody, as no code under test does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxmux.engine.paxos.group import Group
from paxmux.tools.sim.breach import Breach

if TYPE_CHECKING:
    from paxmux.tools.sim.cluster import Cluster
    from paxmux.tools.sim.node import SimNode
    from paxmux.tools.sim.worker import SimWorker


class LeaseWatch:
    """Of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._until: dict[int, dict[int, int]] = {}
        """Group -> node -> until when, by its own clock, it believes to be master."""
        self._owners: dict[tuple[int, int], tuple[int, int]] = {}
        """(group, term) -> (node, incarnation) of whoever was master in it."""
        self._terms: dict[int, int] = {}
        """Group -> the highest of them."""
        self.reigns = 0

    def look(self, worker: SimWorker) -> None:
        """A worker has taken a step."""
        node, cluster = worker.node, self._cluster
        local = node.clock.at(cluster.now)
        for index, group in worker.turn.groups.items():
            if group.inquiry.fenced is None:
                self._agrees(node, group)
            rows = self._until.setdefault(index, {})
            if not group.master.holds(local):
                rows.pop(node.number, None)
                continue
            if node.number not in rows:
                self.reigns += 1
            rows[node.number] = group.master.until
            holders = self.holders(index)
            if len(holders) > 1:
                raise Breach("one master at a time", f"group {index}: nodes {holders}, {group.master.reign}")
            self._term(index, group)

    def holders(self, group: int) -> list[int]:
        """Who believes to be its master now."""
        cluster = self._cluster
        return [
            number
            for number, until in self._until.get(group, {}).items()
            if cluster.nodes[number - 1].clock.at(cluster.now) < until
        ]

    def ended(self, node: SimNode) -> None:
        """All of its processes are gone."""
        for rows in self._until.values():
            rows.pop(node.number, None)

    def _term(self, index: int, group: Group) -> None:
        term, owner = group.master.term, (group.me, group.incarnation)
        if self._owners.setdefault((index, term), owner) != owner:
            words = f"group {index}, term {term}: {self._owners[index, term]}, and {owner}"
            raise Breach("a term has one owner", words)
        if term < self._terms.get(index, -1):
            words = f"group {index}: {term} after {self._terms[index]}, at node {group.me}"
            raise Breach("terms grow", words)
        self._terms[index] = term

    def _agrees(self, node: SimNode, group: Group) -> None:
        """What a replica makes of its log is what the log says."""
        constitution = self._cluster.witness.constitution(group.index)
        if group.instance:
            self._cluster.witness.known(group.index, group.instance - 1)
        since = first = group.instance
        if first < group.doubt.decided and not group.voter:
            # Who has lost a value stands below what it may know of these, and gives no vote there.
            since = group.members.since
            first = group.master.version + 1
            if max(since, first) > group.doubt.decided:
                raise Breach(
                    "members are what the log says", f"{_where(node, group)}from {since}, {first} on"
                )
        era = constitution.era(max(since, group.instance))
        lease = constitution.lease(max(first, group.instance))
        master = group.master
        if group.members.since != era.since or group.members.seats != era.seats:
            words = f"{group.members.seats} from {group.members.since} on, by its log {era}"
            raise Breach("members are what the log says", _where(node, group) + words)
        found = (master.node, master.version, master.term)
        if found != (lease.node, lease.version, lease.term):
            raise Breach("masters are what the log says", f"{_where(node, group)}{found}, by its log {lease}")


def _where(node: SimNode, group: Group) -> str:
    return f"node {node.number}, group {group.index}, instance {group.instance}: "
