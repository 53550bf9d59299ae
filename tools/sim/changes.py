"""Callers who want other members: nodes are added, removed, replaced, seated anew, one or several at once.

A wish names the list that it changes, as the node that is asked knows it; now and then an older one, or
another cluster. Two nodes may be asked for different things, and the one that was asked may die at once.
Wishes are bounded by what a group can bear (`Quorums`), so that it always has a majority that will be there
again. Once the faults have ended the operator gives every group members that are all there.
"""

from __future__ import annotations

from paxmux.engine.paxos.system import Change, encode_change
from paxmux.shards import membership
from paxmux.shards.membership import Membership
from paxmux.shards.requests import CallKind
from paxmux.tools.sim.cluster import Cluster
from paxmux.tools.sim.ledger import Request
from paxmux.tools.sim.node import SimNode
from paxmux.tools.sim.points import Point, Scope
from paxmux.tools.sim.records import CLUSTER

TIMEOUTS_MS = (300, 2000, 5000)
OPERATOR_MS = 5000
STRANGE = 0.1
"""Chance that a wish makes no sense: of an older list, for another cluster, of a node that is no member."""
RIVALS = 0.3
"""Chance that a second node is asked for something else at the same time."""
DEATHS = 0.15
"""Chance that the node that was asked dies soon."""
SCOPES: tuple[Scope, ...] = ("worker_crash", "node_crash", "power_cut")
LEARNERS = 0.3
"""Chance that in the end a group leaves one node out."""

Places = dict[int, tuple[int, str]]


class Changes:
    """Of one run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._made = 0
        self._targets: dict[int, list[int]] = {}
        self._last: dict[int, Request] = {}
        """Group -> what the operator asked for last."""

    def round(self) -> None:
        """Somebody wants something, if there is anything to want."""
        cluster = self._cluster
        rng = cluster.rng
        if rng.random() >= cluster.plan.changes:
            return
        group = rng.randrange(cluster.plan.groups)
        strange = rng.random() < STRANGE
        asked = [node for node in cluster.nodes if node.takes(group) and (strange or node.seated(group))]
        rng.shuffle(asked)
        for node in asked[: 2 if rng.random() < RIVALS else 1]:
            wished = self._wish(node, group)
            if wished is None:
                continue
            version, cluster_id = self._known(node, group).version, CLUSTER
            if strange and rng.random() < 0.5:
                version, cluster_id = rng.choice(((version - 1, CLUSTER), (-1, CLUSTER), (version, 78)))
            self._ask(node, group, version, wished, rng.choice(TIMEOUTS_MS), cluster_id)
            scopes: list[Scope] = [each for each in SCOPES if each in cluster.plan.faults]
            if scopes and rng.random() < DEATHS:
                cluster.faults.doom(node.worker_of(group), rng.choice(scopes), rng.choice(list(Point)))

    def restored(self) -> bool:
        """Have every group decide on members that are there; False while that is under way."""
        done = [self._restored(group) for group in range(self._cluster.plan.groups)]
        return all(done)

    def _restored(self, group: int) -> bool:
        cluster = self._cluster
        if group not in self._targets:
            self._targets[group] = self._target()
        wanted = {number: cluster.nodes[number - 1].seat for number in self._targets[group]}
        if cluster.witness.constitution(group).eras[-1].seats == wanted:
            return True
        last = self._last.get(group)
        if last is not None and last.code is None:
            return False
        able = [node for node in cluster.nodes if node.takes(group) and self._votes(node, group)]
        if able:
            node = cluster.rng.choice(able)
            version = self._known(node, group).version
            places = {number: self._place(cluster.nodes[number - 1]) for number in wanted}
            self._last[group] = self._ask(node, group, version, places, OPERATOR_MS, CLUSTER)
        return False

    def _target(self) -> list[int]:
        """Whoever is there, but for one at times."""
        cluster = self._cluster
        there = [node.number for node in cluster.nodes if not node.failed]
        hurt = [node.number for node in cluster.nodes if node.hurt and not node.failed]
        spare = [number for number in there if number not in hurt]
        if (
            len(spare) > 1
            and 2 * (len(there) - len(hurt) - 1) > len(there) - 1
            and cluster.rng.random() < LEARNERS
        ):
            there.remove(cluster.rng.choice(spare))
        while hurt and 2 * (len(there) - len(hurt)) <= len(there):
            there.remove(hurt.pop())
        return there

    def _wish(self, node: SimNode, group: int) -> Places | None:
        """The members that somebody would rather have; None if the group could not bear it."""
        cluster = self._cluster
        rng = cluster.rng
        members = self._known(node, group).members
        others = [
            each for each in cluster.nodes if each.number not in members and not (each.failed or each.hurt)
        ]
        moved = [each for each in cluster.nodes if each.number in members and self._moved(each, members)]
        wished = dict(members)
        kind = rng.choice(("add", "add", "remove", "replace", "several", "address"))
        if moved and rng.random() < 0.6:
            kind = "seat"
        if kind in ("add", "replace") and others:
            new = rng.choice(others)
            wished[new.number] = self._place(new)
        if kind in ("remove", "replace"):
            leaving = node.number if node.number in members and rng.random() < 0.3 else None
            del wished[leaving or rng.choice(list(members))]
        if kind == "seat":
            for each in rng.sample(moved, rng.randint(1, len(moved))):
                wished[each.number] = self._place(each)
        if kind == "several":
            some = rng.sample(cluster.nodes, rng.randint(1, len(cluster.nodes)))
            wished = {each.number: self._place(each) for each in some}
        if not wished:
            return None
        # Another address for one in any case, so that every wish can be told from all others.
        renamed = rng.choice(list(wished))
        wished[renamed] = wished[renamed][0], self._address()
        seats = {number: seat for number, (seat, _) in wished.items()}
        return wished if cluster.quorums.bear(seats) else None

    def _known(self, node: SimNode, group: int) -> Membership:
        """The members as a node tells them."""
        known = node.worker_of(group).turn.groups[group].members
        return Membership(CLUSTER, *known.membership())

    def _votes(self, node: SimNode, group: int) -> bool:
        return node.seated(group) and node.worker_of(group).turn.groups[group].voter

    def _moved(self, node: SimNode, members: Places) -> bool:
        return members[node.number][0] != node.seat and not node.failed

    def _place(self, node: SimNode) -> tuple[int, str]:
        return node.seat, self._address()

    def _address(self) -> str:
        """Never the same."""
        self._made += 1
        return f"host-{self._made}:1"

    def _ask(
        self, node: SimNode, group: int, version: int, wished: Places, timeout_ms: float, cluster_id: int
    ) -> Request:
        cluster = self._cluster
        cluster.witness.wished.add(encode_change(Change(cluster_id, version, wished)))
        cluster.quorums.wish(group, version, {number: seat for number, (seat, _) in wished.items()})
        if cluster.trace.wordy:
            cluster.trace.say(f"CHANGE of group {group} at n{node.number}, from {version}: {wished}")
        payload = membership.encode(Membership(cluster_id, version, wished))
        return node.ask(CallKind.CHANGE_MEMBERS, group, 0, payload, timeout_ms)
