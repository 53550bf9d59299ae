"""What callers want of masters: reads under a lease, writes that hold in one term alone, and other masters.

Most ask whoever believes to be master now; some ask anybody, or go by a term that is over. Decides nothing
about who is master.
"""

from __future__ import annotations

from paxmux.engine.fence import TERM_MAX
from paxmux.engine.paxos.timers import MS
from paxmux.shards.requests import CallKind
from paxmux.tools.sim.cluster import Cluster
from paxmux.tools.sim.node import SimNode

FENCED = 0.4
"""Share of the proposals, where there are masters."""
READS = 0.4
"""Share of the reads that are asked of the master."""
LOST = 0.2
"""Chance that somebody is asked who need not be master."""
OLD = 0.3
"""Chance that a write names a term that it knows of from earlier."""
CUT = 0.01
"""Chance, with each round of the load, that a master is cut off, where links are cut at all;"""
CUT_RENEWING = 0.3
"""and where it has an operation on its way."""
CUT_LEASES = 1.5
"""So many leases that may last."""
TIMEOUT_MS = 2000


class Masters:
    """Of one run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: dict[int, int] = {}
        """Group -> a term that was told once."""

    def round(self) -> None:
        """At times a master is cut off, or asked to give its lease back, to somebody or anybody, or for a
        shorter one."""
        cluster = self._cluster
        rng, plan = cluster.rng, cluster.plan
        if cluster.faults.ended:
            return
        group = rng.randrange(plan.groups)
        node = self.of(group)
        if node is None:
            return
        on_its_way = bool(node.worker_of(group).turn.groups[group].inner.own)
        if rng.random() < (CUT_RENEWING if on_its_way else CUT):
            cluster.faults.cut_off(node, int(rng.random() * CUT_LEASES * plan.lease_ms * MS))
        if rng.random() >= plan.drops:
            return
        if rng.random() < 0.2:
            node.ask(CallKind.SET_MASTER_LEASE, group, plan.lease_ms // rng.choice((1, 2)), b"", TIMEOUT_MS)
        else:
            heir = rng.choice((0, *range(1, plan.nodes + 1)))
            node.ask(CallKind.DROP_MASTER, group, heir, b"", TIMEOUT_MS)

    def of(self, group: int) -> SimNode | None:
        """Whom a caller takes for the master; None if he finds nobody that would answer."""
        cluster = self._cluster
        found = cluster.leases.holders(group)
        if not found or cluster.rng.random() < LOST:
            found = list(range(1, cluster.plan.nodes + 1))
        node = cluster.nodes[cluster.rng.choice(found) - 1]
        return node if node.takes(group) else None

    def term(self, node: SimNode, group: int) -> int:
        """The term that a write at a node names."""
        rng = self._cluster.rng
        told = node.worker_of(group).turn.groups[group].master.term
        old = self._seen.get(group, told)
        if rng.random() < 0.2:
            self._seen[group] = told
        term = old if rng.random() < OLD else told
        return term if 0 <= term <= TERM_MAX else 0
