"""A storm: one seed decides cluster, load and faults; then the cluster must heal.

Run a campaign by hand with `python -m tests.storm FIRST COUNT` from the project's folder.
"""

from __future__ import annotations

import sys
import time

import pytest

from paxmux.engine.paxos.timers import Bounds, Timers
from paxmux.shards import applier
from tests.minicluster import MiniCluster

SIZES = (1, 2, 3, 3, 4, 5)
PACES_MS = (0.5, 1, 3, 20, 100)
TIMEOUTS_MS = (30, 300, 5000, 5000, None)


def storm(seed: int, proposals: int = 100) -> MiniCluster:
    """Run one; returns the cluster, healed and checked."""
    with pytest.MonkeyPatch.context() as patch:
        if seed % 3 == 1:
            # So that a replay takes many turns, in which the world goes on.
            patch.setattr(applier, "REPLAY_COUNT", 1)
        return _storm(seed, proposals)


def _storm(seed: int, proposals: int) -> MiniCluster:
    cluster = make(seed)
    rng = cluster.rng
    crash = rng.choice((0.0, 0.0, 0.005, 0.03))
    full = rng.choice((0.0, 0.0, 0.02))
    flip = rng.choice((0.0, 0.05, 0.2))
    nodes = list(cluster.nodes)
    stops = rng.choice((0.0, 0.0, 0.02))
    callers = rng.choice((nodes, nodes, nodes[:1], nodes[:2]))
    for number in range(proposals):
        node = rng.choice(callers)
        if cluster.nodes[node].up:
            for part in range(rng.choice((1, 1, 1, 5))):
                value = b"%d-%d-%d" % (seed, number, part)
                cluster.propose(node, rng.randrange(cluster.groups), value, rng.choice(TIMEOUTS_MS))
        if rng.random() < flip:
            cluster.cut ^= {(rng.choice(nodes), rng.choice(nodes))}
        log = cluster.nodes[rng.choice(nodes)].log
        if rng.random() < full:
            log.trouble = "no room"
        elif rng.random() < 0.2:
            log.trouble = None
        if rng.random() < stops:
            cluster.stop(rng.choice(nodes))
        cluster.advance(rng.choice(PACES_MS), crash)
    cluster.settle()
    cluster.check_final()
    cluster.check_progress()
    cluster.settle()
    cluster.check_final()
    cluster.check_idle()
    return cluster


def make(seed: int) -> MiniCluster:
    """A cluster with the faults that the seed says."""
    size = SIZES[seed % len(SIZES)]
    bounds = Bounds(2, 200) if seed % 5 == 0 or size == 1 else Bounds()
    wiped = size if size > 2 and seed % 7 == 0 else 0
    timers = Timers(forward=0) if seed % 2 else Timers()
    cluster = MiniCluster(seed, size, 1 + seed % 3, bounds, durable=seed % 4 == 0, wiped=wiped, timers=timers)
    rng = cluster.rng
    cluster.loss = rng.choice((0.0, 0.0, 0.05, 0.3))
    cluster.duplication = rng.choice((0.0, 0.2))
    cluster.stale = rng.choice((0.0, 0.0, 0.1))
    cluster.delay_ms = rng.choice((1, 5, 60, 200))
    # A cluster of one has little else to fear.
    cluster.still = rng.choice((0.1, 0.3) if size == 1 else (0.0, 0.0, 0.002, 0.02))
    return cluster


def main() -> None:
    """FIRST COUNT [PROPOSALS]: a line for each seed that fails, and one at the end."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    proposals = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    start = time.monotonic()
    failed: list[int] = []
    for seed in range(first, first + count):
        try:
            storm(seed, proposals)
        except AssertionError as error:
            failed.append(seed)
            sys.stdout.write(f"seed {seed}: {error}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{count} seeds, {len(failed)} failed, {time.monotonic() - start:.0f} s\n")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
