"""Clusters without faults: they agree at once, and a busy node keeps nobody else from proposing."""

from __future__ import annotations

import pytest

from paxmux.engine.options import ProposalOptions
from paxmux.tools.sim.ledger import Request
from tests.calm import Calm, acknowledged


@pytest.mark.parametrize("nodes", range(1, 8))
def test_nodes_agree_and_answer(nodes: int) -> None:
    calm = Calm(1, nodes, groups=2)
    asked = [calm.propose(1, b"v%d" % number, number % 2) for number in range(50)]
    calm.rest.settle()
    assert all(acknowledged(request) for request in asked)
    calm.rest.check_replicas()
    calm.rest.idle()
    assert len(calm.seen(nodes, 0)) == len(calm.seen(nodes, 1)) == 25


@pytest.mark.parametrize("forward", [True, False], ids=["forwarding", "bidding"])
@pytest.mark.parametrize("delay_ms", [1, 25, 110])
def test_a_busy_peer_starves_nobody(delay_ms: int, forward: bool) -> None:
    """All nodes always have something to propose; each gets its turns, also where messages take long."""
    calm = Calm(
        delay_ms,
        latency_us=(delay_ms * 800, delay_ms * 1000),
        proposals=ProposalOptions(forward=forward),
    )
    nodes = [node.number for node in calm.cluster.nodes]
    waiting: dict[int, Request] = {}
    answered = dict.fromkeys(nodes, 0)
    for _ in range(2000 * delay_ms):
        for node in nodes:
            if node in waiting and not acknowledged(waiting[node]):
                continue
            answered[node] += node in waiting
            waiting[node] = calm.propose(node, b"%d-%d" % (node, answered[node]), timeout_ms=None)
        if min(answered.values()) >= 5:
            break
        calm.advance(0.5)
    assert min(answered.values()) >= 5, answered
