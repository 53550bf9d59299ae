"""Clusters without faults: they agree at once, also over slow networks, and nobody is kept from proposing."""

from __future__ import annotations

import pytest

from paxmux.engine.options import ProposalOptions, TimerOptions
from paxmux.shards.requests import CallKind
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


def test_time_outs_that_are_too_short_cost_a_few_rounds_and_not_each_instance_some() -> None:
    """Rounds take 80 to 100 ms, phases time out after 30: the first ones double, those after them wait."""
    calm = Calm(1, latency_us=(40_000, 50_000), timers=TimerOptions(prepare_first_ms=30, accept_first_ms=30))
    proposer = calm.cluster.nodes[0].worker_of(0).turn.groups[0].proposer
    rounds = []
    for number in range(12):
        asked = calm.propose(1, b"%d" % number)
        for _ in range(100):
            if acknowledged(asked):
                break
            calm.advance(5)
        assert acknowledged(asked)
        rounds.append(proposer.round)
    assert rounds[0] > 1, "no phase timed out"
    assert rounds[-1] == rounds[1], rounds


def test_reads_over_a_slow_network_do_not_outbid_who_proposes() -> None:
    """Node 2 reads all the time, and finds an instance open each time."""
    calm = Calm(1, latency_us=(40_000, 50_000), timers=TimerOptions(accept_first_ms=30))
    proposers = [node.worker_of(0).turn.groups[0].proposer for node in calm.cluster.nodes]
    warm = [calm.propose(1, b"warm-%d" % number) for number in range(3)]
    calm.advance(2000)
    assert all(map(acknowledged, warm))
    before = [proposer.round for proposer in proposers]
    reads, asked = [], []
    for number in range(100):
        asked.append(calm.propose(1, b"%d" % number))
        reads.append(calm.load.read(CallKind.LINEARIZABLE_QUERY, calm.cluster.nodes[1], 0, 5000))
        calm.advance(20)
    calm.advance(1000)
    assert all(map(acknowledged, asked + reads))
    assert [proposer.round for proposer in proposers] == before


@pytest.mark.parametrize("timeout_ms", [100, 150, 190])
def test_a_dead_leader_stops_nobody_whose_deadlines_are_short(timeout_ms: int) -> None:
    """What is handed to it expires before it is given up; the next proposal must not wait as long again."""
    calm = Calm(1)
    warm = [calm.propose(1, b"warm-%d" % number) for number in range(5)]
    calm.advance(3000)
    assert all(map(acknowledged, warm))
    calm.cluster.wire.cut |= {(1, 2), (2, 1), (1, 3), (3, 1)}
    waiting = {node: calm.propose(node, b"%d-0" % node, timeout_ms=timeout_ms) for node in (2, 3)}
    ended = []
    for number in range(400):
        for node, request in waiting.items():
            if request.returned:
                ended.append(request)
                waiting[node] = calm.propose(node, b"%d-%d" % (node, number + 1), timeout_ms=timeout_ms)
        if sum(map(acknowledged, ended)) >= 10:
            break
        calm.advance(5)
    assert sum(map(acknowledged, ended)) >= 10, [request.code for request in ended]
