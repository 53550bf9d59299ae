"""A simulated cluster without faults, for tests that bring their own."""

from __future__ import annotations

import random

import msgspec

from paxmux.engine.errors import Code
from paxmux.engine.options import LimitOptions, ProposalOptions, TimerOptions
from paxmux.engine.paxos.timers import MS
from paxmux.tools.sim.cluster import Cluster
from paxmux.tools.sim.ledger import Request
from paxmux.tools.sim.load import Load
from paxmux.tools.sim.machines import JOURNAL
from paxmux.tools.sim.plan import Asked, planned
from paxmux.tools.sim.rest import Rest, Windows
from paxmux.tools.sim.trace import Trace


class Calm:
    """A cluster of nodes with one worker each, whose clocks are right, whose options are the defaults."""

    def __init__(
        self,
        seed: int,
        nodes: int = 3,
        groups: int = 1,
        *,
        latency_us: tuple[int, int] = (50, 100),
        proposals: ProposalOptions | None = None,
        timers: TimerOptions | None = None,
        chances: dict[str, float] | None = None,
        founders: int | None = None,
        lease_ms: int = 0,
    ) -> None:
        """`chances`: of faults of single frames. `founders`: the first so many nodes are the members.
        `lease_ms`: of masters; 0: there are none."""
        plan = msgspec.structs.replace(
            planned(seed, Asked(nodes=nodes, groups=groups, faults=(), changes=False, leases=False)),
            layouts=((tuple(range(groups)),),) * nodes,
            chances=chances or {},
            founders=nodes if founders is None else founders,
            lease_ms=lease_ms,
            durable=False,
            large=0.0,
            latency_us=latency_us,
            sync_us=100,
            replay_count=256,
            serve_count=1000,
            timers=TimerOptions() if timers is None else timers,
            proposals=ProposalOptions() if proposals is None else proposals,
            limits=LimitOptions(),
        )
        self.cluster = Cluster(plan, random.Random(seed), Trace())
        self.load = Load(self.cluster)
        self.rest = Rest(self.cluster, Windows(self.cluster))

    def propose(self, node: int, value: bytes, group: int = 0, timeout_ms: float | None = 5000) -> Request:
        """A proposal to the journal at a node."""
        return self.cluster.nodes[node - 1].ask(None, group, JOURNAL, value, timeout_ms)

    def advance(self, ms: float) -> None:
        """Let time pass."""
        self.rest.advance(int(ms * MS))

    def seen(self, node: int, group: int = 0) -> list[bytes]:
        """What the journal of a node has executed."""
        return [value for _, value in self.cluster.nodes[node - 1].worker_of(group).journals[group].seen]


def acknowledged(request: Request) -> bool:
    """Whether a proposal has ended well."""
    return request.code == Code.OK
