"""The protocol and the turn under random faults: seeds, not luck (see minicluster.py and storm.py)."""

from __future__ import annotations

import pytest

from paxmux.engine.errors import Code
from paxmux.engine.paxos.timers import Timers
from tests.minicluster import MiniCluster
from tests.storm import storm


def test_three_nodes_agree_and_answer() -> None:
    cluster = MiniCluster(1)
    seqs = [cluster.propose(1, i % 2, b"v%d" % i) for i in range(50)]
    cluster.settle()
    assert all(cluster.outcomes[seq] == Code.OK for seq in seqs)
    cluster.check_final()
    assert len(cluster.acked) == 50


@pytest.mark.parametrize("seed", range(200))
def test_faults_break_nothing(seed: int) -> None:
    storm(seed)


@pytest.mark.parametrize("timers", [Timers(), Timers(forward=0)], ids=["forwarding", "bidding"])
@pytest.mark.parametrize("delay_ms", [1, 25, 110])
def test_a_busy_peer_starves_nobody(delay_ms: int, timers: Timers) -> None:
    """Node 1 always has something to propose; 2 and 3 get their turns, also where messages take long."""
    cluster = MiniCluster(delay_ms, nodes=3, groups=1, timers=timers)
    cluster.delay_min_ms, cluster.delay_ms = delay_ms * 4 // 5, delay_ms
    waiting = {node: (node, 0, 0) for node in cluster.nodes}
    answered = dict.fromkeys(cluster.nodes, 0)
    until = cluster.now + delay_ms * 1_000_000_000
    while cluster.now < until and min(answered.values()) < 5:
        for node in cluster.nodes:
            answered[node] += waiting[node] in cluster.outcomes
            if waiting[node] in cluster.outcomes or not waiting[node][2]:
                value = b"%d-%d" % (node, answered[node])
                waiting[node] = cluster.propose(node, 0, value, timeout_ms=None)
        cluster.advance(0.5)
    assert min(answered.values()) >= 5, answered
