"""What callers ask of a simulated cluster: proposals, reads, bursts and now and then something large.

Values are unique, so that everything executed can be told apart. A cluster that stands still is not
drowned: with so many requests unanswered the callers wait.
"""

from __future__ import annotations

from paxmux.engine.paxos.timers import MS
from paxmux.shards.requests import CallKind
from paxmux.tools.sim.cluster import Cluster
from paxmux.tools.sim.ledger import ABSENT, RegisterCall, Request
from paxmux.tools.sim.machines import JOURNAL, REGISTER, cas, put
from paxmux.tools.sim.masters import FENCED, READS, Masters
from paxmux.tools.sim.node import SimNode

KEYS = (b"a", b"b", b"c")
TIMEOUTS_MS = (30, 300, 5000, 5000, None)
READ_TIMEOUTS_MS = (300, 5000, None)
BURST_MAX = 12
LARGE_BYTES = (5_000, 60_000, 60_000, 1_200_000)
WAITING_MAX = 64


class Load:
    """The callers of one run."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._masters = Masters(cluster) if cluster.plan.lease_ms else None
        self._made = 0
        self._bursts = 0
        self._written: dict[tuple[int, bytes], list[bytes]] = {}
        """(group, key) -> the last values that somebody tried to write."""

    def round(self, callers: tuple[int, ...]) -> bool:
        """One of the callers asks for something, or for much, or a reader reads; False if it has to wait."""
        cluster = self._cluster
        rng, plan = cluster.rng, cluster.plan
        reads = rng.random() < plan.reads
        if self._masters is not None:
            self._masters.round()
        node = cluster.nodes[rng.choice(plan.readers if reads else callers) - 1]
        group = int(rng.random() * plan.groups)
        if not node.takes(group) or sum(len(worker.open) for worker in node.workers) > WAITING_MAX:
            return False
        if reads:
            self._read(node, group)
            return True
        term = None
        if self._masters is not None and rng.random() < FENCED:
            node = self._masters.of(group) or node
            term = self._masters.term(node, group)
        self._bursts += 1
        count = 2 + int(rng.random() * BURST_MAX) if rng.random() < plan.burst else 1
        timeout_ms = rng.choice(TIMEOUTS_MS)
        for _ in range(count):
            if rng.random() < 0.5:
                self.journal(node, group, timeout_ms, self._bursts, term)
            else:
                self._write(node, group, timeout_ms, term)
        return True

    def journal(
        self, node: SimNode, group: int, timeout_ms: float | None, burst: int = 0, term: int | None = None
    ) -> Request:
        """A proposal to the journal; `term`: the only one in which it may be executed."""
        rng, plan = self._cluster.rng, self._cluster.plan
        value = self._fresh()
        if plan.large and rng.random() < plan.large:
            value += b"." * rng.choice(LARGE_BYTES)
        return node.ask(None, group, JOURNAL, value, timeout_ms, burst=burst, term=term)

    def _write(self, node: SimNode, group: int, timeout_ms: float | None, term: int | None) -> None:
        rng = self._cluster.rng
        key = rng.choice(KEYS)
        new = self._fresh()
        written = self._written.setdefault((group, key), [ABSENT])
        if rng.random() < 0.6:
            payload, call = put(key, new), RegisterCall("put", key, ABSENT, new)
        else:
            expected = written[-1 - int(rng.random() * len(written))]
            payload, call = cas(key, expected, new), RegisterCall("cas", key, expected, new)
        written.append(new)
        del written[:-3]
        node.ask(None, group, REGISTER, payload, timeout_ms, call, burst=self._bursts, term=term)

    def _read(self, node: SimNode, group: int) -> None:
        rng = self._cluster.rng
        timeout_ms = rng.choice(READ_TIMEOUTS_MS)
        kind = CallKind.QUERY if rng.random() < 0.2 else CallKind.LINEARIZABLE_QUERY
        if self._masters is not None and rng.random() < READS:
            kind, node = CallKind.MASTER_QUERY, self._masters.of(group) or node
        self.read(kind, node, group, timeout_ms)

    def read(self, kind: CallKind, node: SimNode, group: int, timeout_ms: float | None) -> Request:
        """A read of a register."""
        key = self._cluster.rng.choice(KEYS)
        return node.ask(kind, group, REGISTER, key, timeout_ms, RegisterCall("get", key, ABSENT, ABSENT))

    def pause_ns(self) -> int:
        """Until the next round."""
        cluster = self._cluster
        return int(cluster.rng.random() * 2 * cluster.plan.pace_ms * MS) + 1

    def _fresh(self) -> bytes:
        self._made += 1
        return b"%d-%d" % (self._cluster.plan.seed, self._made)
