"""Reads and forwards that once hung, duelled or ended wrongly: each reproduced, then mended."""

from __future__ import annotations

from paxmux.engine.errors import Code
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.timers import MS, Bounds
from paxmux.shards.requests import CallKind
from paxmux.tools.sim.machines import JOURNAL
from tests.calm import Calm
from tests.core import LATER, NOW, A, B, C, entry, learn, make, synced
from tests.test_forwarding import holding, opened, take
from tests.test_reader import answer, read


def test_reads_go_on_when_the_round_before_them_expires() -> None:
    group = make(instance=5)
    read(group, 1, deadline=NOW + 100 * MS)
    read(group, 2)
    fx = Effects()
    now = NOW + 150 * MS
    group.on_timer(now, fx)
    assert fx.expired == [1]
    for it in dict.fromkeys(fx.ready):
        it.open(now, fx)
    assert fx.now.all.top_asks


def test_reads_come_back_after_a_cut() -> None:
    calm = Calm(3)
    calm.propose(1, b"first")
    calm.advance(50)
    node, wire = calm.cluster.nodes[0], calm.cluster.wire
    cut = {(1, 2), (1, 3), (2, 1), (3, 1)}
    wire.cut |= cut
    for _ in range(30):
        node.ask(CallKind.LINEARIZABLE_QUERY, 0, JOURNAL, b"", 500)
        calm.advance(50)
    wire.cut -= cut
    late = []
    for _ in range(100):
        late.append(node.ask(CallKind.LINEARIZABLE_QUERY, 0, JOURNAL, b"", 500))
        calm.advance(50)
    assert any(request.code == Code.OK for request in late)


def test_reads_beyond_the_bound_of_rounds_go_on() -> None:
    group = make(instance=5)
    for seq in range(1, 9):
        read(group, seq)
        answer(group, B, 5)
    read(group, 9)
    fx = learn(group)
    assert len(fx.readable) == 8
    for it in dict.fromkeys(fx.ready):
        it.open(NOW, fx)
    assert fx.now.all.top_asks


def test_what_is_taken_while_an_instance_is_open_goes_into_the_next_at_once() -> None:
    group = holding()
    take(group, entry(A, 4))
    fx = Effects()
    group.open(NOW, fx)
    take(group, entry(C, 9), sender=C)
    after = synced(group, fx)
    group.proposer.on_accept_reply(C, 1, group.proposer.round, NULL, NOW, after)
    assert group.instance == 2
    assert group in after.ready
    assert opened(group) == [9]


def test_forwarding_settles_where_outcomes_take_longer_than_the_first_patience() -> None:
    calm = Calm(3, latency_us=(60_000, 60_500))
    calm.propose(1, b"first")
    calm.advance(1000)
    open_at = {1: calm.propose(1, b"1"), 2: calm.propose(2, b"2"), 3: calm.propose(3, b"3")}
    for step in range(20_000):
        calm.advance(1)
        for node, request in list(open_at.items()):
            if request.code is not None:
                open_at[node] = calm.propose(node, b"%d-%d" % (node, step))
    assert sum(node.worker_of(0).turn.prepares for node in calm.cluster.nodes) < 30


def test_only_own_proposals_can_lose() -> None:
    group = holding()
    group.bounds = Bounds(2, 1 << 20, attempts=1)
    take(group, entry(A, 11))
    for seq in (10, 11):
        group.propose(seq, LATER, 1, b"own", None, Effects())
    fx = Effects()
    group.open(NOW, fx)
    after = synced(group, fx)
    group.proposer.on_accept_reply(C, 1, group.proposer.round, NULL, NOW, after)
    assert after.conflicts == [], "11 of this node was not in that value"
