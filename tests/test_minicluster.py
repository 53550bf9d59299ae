"""The protocol and the turn under random faults: seeds, not luck (see minicluster.py)."""

from __future__ import annotations

import pytest

from tests.minicluster import MiniCluster


def test_three_nodes_agree_and_answer() -> None:
    cluster = MiniCluster(1)
    seqs = [cluster.propose(1, i % 2, b"v%d" % i) for i in range(50)]
    cluster.settle(3000)
    assert all(cluster.outcomes[seq] == 0 for seq in seqs)
    cluster.check_final()
    assert len(cluster.acked) == 50


@pytest.mark.parametrize("seed", range(60))
def test_faults_never_break_agreement(seed: int) -> None:
    cluster = MiniCluster(seed, nodes=(1, 2, 3, 5)[seed % 4], groups=1 + seed % 3)
    rng = cluster.rng
    cluster.loss = rng.choice((0.0, 0.05, 0.3))
    cluster.duplication = rng.choice((0.0, 0.2))
    cluster.delay_ms = rng.choice((1, 5, 60))
    crash = rng.choice((0.0, 0.005, 0.03))
    nodes = list(cluster.nodes)
    for number in range(120):
        node = rng.choice(nodes)
        if cluster.nodes[node].up:
            cluster.propose(node, rng.randrange(cluster.groups), b"s%d-%d" % (seed, number))
        if rng.random() < 0.05:
            a, b = rng.choice(nodes), rng.choice(nodes)
            cluster.cut ^= {(a, b)}
        cluster.advance(rng.choice((1, 3, 20, 100)), crash)
    cluster.settle()
    cluster.check_final()
    before = len(cluster.acked)
    last = cluster.propose(nodes[0], 0, b"last")
    cluster.advance(20_000)
    assert cluster.outcomes[last] == 0, "no progress after the faults ended"
    assert len(cluster.acked) == before + 1
    cluster.check_final()
