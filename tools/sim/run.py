"""One seed: its plan, a phase with faults, a phase without, and what must hold at the end of both."""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from paxmux.engine.paxos.timers import MS
from paxmux.plugins.storage import scrub
from paxmux.shards import applier, serving
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.changes import Changes
from paxmux.tools.sim.cluster import Cluster
from paxmux.tools.sim.load import Load
from paxmux.tools.sim.plan import FAULTS, Asked, Plan, draw, possible
from paxmux.tools.sim.rest import Rest, Windows
from paxmux.tools.sim.trace import Trace

ROUNDS_MIN = 100
ROUNDS_MAX = 1000
STIR_MAX = 15_000 * MS
"""Rounds of load under faults, and how long they go on; where more would be needed, the rest comes
without them."""
ROUNDS_LAST = 4000
"""Where too few kinds of fault found anything to strike: a node that is alone may stand still for long."""
SCRUB_ROUND_S = 0.05
"""On the disk's own clock, on which a sync takes a ms."""
RUIN_ROUNDS = 60
RUIN = 0.5
"""Chance of damage with each of them."""
RUIN_LAST = 10_000 * MS
PATIENCE = 10
"""While nothing gets decided, or callers have to wait, rounds are so much rarer."""
STALLED = 30
"""Rounds without a decision after which they are."""


class Report(msgspec.Struct, frozen=True):
    """What a run that passed did."""

    seed: int
    digest: str
    events: int
    decided: int
    acked: int
    reads: int
    changes: int
    """Of members, that took place."""
    reigns: int
    """Masters that began."""
    simulated_ms: int
    faults: dict[str, int]
    points: dict[str, int]

    @property
    def kinds(self) -> int:
        """Kinds of fault among them."""
        return sum(1 for kind in FAULTS if self.faults.get(kind))


def run(seed: int, asked: Asked | None = None, trace: Trace | None = None) -> Report:
    """Run a seed.

    Raises:
        Breach: something does not hold.
        Exception: the code under test raised.
    """
    asked = Asked() if asked is None else asked
    trace = Trace() if trace is None else trace
    rng = random.Random(seed)
    plan = draw(seed, rng, asked)
    with _settings(plan):
        return _run(plan, rng, trace)


@contextmanager
def _settings(plan: Plan) -> Iterator[None]:
    """Bounds of production code that a run makes small, so that what they bound takes many turns; and no
    words from it, nor collections of garbage in its midst."""
    log = logging.getLogger("paxmux")
    before = (applier.REPLAY_COUNT, serving.SERVE_COUNT, log.level, gc.isenabled(), scrub.ROUND_S)
    scrub.ROUND_S = SCRUB_ROUND_S
    applier.REPLAY_COUNT, serving.SERVE_COUNT = plan.replay_count, plan.serve_count
    log.setLevel(logging.CRITICAL + 1)
    gc.disable()
    try:
        yield
    finally:
        applier.REPLAY_COUNT, serving.SERVE_COUNT = before[:2]
        log.setLevel(before[2])
        scrub.ROUND_S = before[4]
        if before[3]:
            gc.enable()


def _run(plan: Plan, rng: random.Random, trace: Trace) -> Report:
    cluster = Cluster(plan, rng, trace)
    load, windows, changes = Load(cluster), Windows(cluster), Changes(cluster)
    _stir(cluster, load, windows, changes)
    cluster.faults.end()
    rest = Rest(cluster, windows)
    if plan.lease_ms:
        rest.masters()
    if plan.changes:
        rest.restore(changes)
    rest.settle()
    voters = tuple(node.number for node in cluster.nodes if node.votes)
    while len(cluster.witness.decided_as) < plan.values:
        rest.advance(load.pause_ns() * (1 if load.round(voters) else PATIENCE))
    rest.progress(load)
    rest.settle()
    rest.check_replicas()
    cluster.ledger.check_outcomes()
    cluster.ledger.check_registers()
    rest.idle()
    if "synced_flip" in plan.faults:
        _ruin(cluster, load, rest)
    return Report(
        seed=plan.seed,
        digest=trace.digest,
        events=trace.events,
        decided=len(cluster.witness.decided_as),
        acked=cluster.ledger.acked,
        reads=cluster.ledger.reads,
        changes=sum(len(each.eras) - 1 for each in cluster.witness.constitutions.values()),
        reigns=cluster.leases.reigns,
        simulated_ms=cluster.now // MS,
        faults=dict(cluster.counts),
        points=dict(cluster.points),
    )


def _ruin(cluster: Cluster, load: Load, rest: Rest) -> None:
    """Damage wherever it may strike, of as many nodes as it likes. Nothing need ever be decided again; but
    what is decided, acknowledged and shown must go together with everything before."""
    for _ in range(RUIN_ROUNDS):
        load.round(cluster.plan.callers)
        if cluster.rng.random() < RUIN:
            cluster.faults.ruin()
        rest.advance(load.pause_ns())
    rest.advance(RUIN_LAST)
    cluster.ledger.check_outcomes()
    cluster.ledger.check_registers()


def _stir(cluster: Cluster, load: Load, windows: Windows, changes: Changes) -> None:
    """The phase with faults: until enough is decided and enough has gone wrong."""
    plan, rng = cluster.plan, cluster.rng
    decided, still = 0, 0
    for number in range(ROUNDS_LAST):
        if number >= ROUNDS_MAX and cluster.faults.injected >= plan.kinds_min:
            break
        decided_before, decided = decided, len(cluster.witness.decided_as)
        still = still + 1 if decided == decided_before else 0
        if cluster.faults.injected >= plan.kinds_min and (
            cluster.now > STIR_MAX or (decided >= plan.values and number >= ROUNDS_MIN)
        ):
            break
        waits = not load.round(plan.callers)
        if rng.random() < plan.strike:
            cluster.faults.strike()
        if plan.changes:
            changes.round()
        cluster.run(cluster.now + load.pause_ns() * (PATIENCE if waits or still > STALLED else 1))
        windows.look()
    if cluster.faults.injected < min(plan.kinds_min, len(possible(plan.nodes))):
        missing = [kind for kind in FAULTS if kind in plan.faults and not cluster.counts[kind]]
        raise Breach("enough faults", f"only {dict(cluster.counts)}; never: {missing}")
