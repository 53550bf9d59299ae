"""A member that lies, within what its peers may believe: it stops nobody, and fills nobody (rule 15).

Without it the others are a majority: they must agree, and get on. What no
Paxos survives is left out: votes that it forgets, values that it calls decided, and Prepares without
pause, which outbid everybody.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from paxmux.engine.frame import FrameKind, pack_frame
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.messages import Batch
from paxmux.engine.paxos.timers import MS
from paxmux.shards.codec import BodyError, decode_sections, encode_section
from tests.minicluster import CLUSTER, NEVER_NS, MiniCluster

LIAR = 3
HIGHEST = 1 << 62
HOSTILE_ENTRIES = 300


class Liar:
    """Draws lies about what it can guess of the honest nodes' state."""

    def __init__(self, cluster: MiniCluster, rng: random.Random, node: int = LIAR) -> None:
        self.cluster = cluster
        self.rng = rng
        self.node = node
        it = cluster.nodes[node]
        it.up, it.boot_at = False, NEVER_NS

    def send(self, batch: Batch, dest: int) -> None:
        frame = pack_frame(
            FrameKind.PAXOS,
            encode_section(batch),
            cluster=CLUSTER,
            sender=self.node,
            seat=1000 + self.node,
            incarnation=1,
            dest=dest,
            groups=1,
        )
        self.cluster.fly(dest, frame, MS)

    def instance(self, node: int) -> int:
        here = self.cluster.nodes[node].turn.groups[0].instance if self.cluster.nodes[node].up else 0
        return self.rng.choice((0, max(0, here - 1), here, here + 1, here + 2, 1 << 40, HIGHEST))

    def round(self, node: int) -> int:
        here = self.cluster.nodes[node].turn.groups[0].proposer.round if self.cluster.nodes[node].up else 0
        return self.rng.choice((0, here, here + 1, here + (1 << 32), here + (1 << 33), HIGHEST))

    def claims(self, batch: Batch, node: int) -> None:
        """To be elsewhere, to have refused, to have seen decisions."""
        rng = self.rng
        batch.positions.append((0, self.instance(node), rng.getrandbits(32)))
        batch.asks.append((0, self.instance(node)))
        batch.chosen.append((0, self.instance(node), self.round(node)))
        batch.top_asks.append((0, rng.getrandbits(64)))
        batch.learned.append((0, rng.choice((1 << 40, HIGHEST)), 1, 1, b"never"))
        # A rejection; without a round of its own it would be a vote.
        above = max(1, self.round(node))
        promised = (above, rng.randint(0, 4))
        batch.prepare_replies.append((0, self.instance(node), self.round(node), above, *promised, b""))
        batch.accept_replies.append((0, self.instance(node), self.round(node), above, rng.randint(0, 4)))
        batch.accepts.append((0, self.instance(node), rng.choice((0, HIGHEST)), b"forged"))

    def forwards(self, batch: Batch, node: int) -> None:
        """To hand on proposals of its own, wrong in some way, and to refuse those of others."""
        rng = self.rng
        entry = (rng.choice((1, 3)), rng.getrandbits(64), rng.choice((0, 1, HIGHEST)), 0, 1, b"handed on")
        forged = rng.choice((b"", b"forged", values.encode([entry]), values.encode([entry, entry])))
        batch.forwards.append((0, self.instance(node), forged))
        batch.forward_refusals.append((0, self.instance(node), self.round(node), rng.randint(0, 4)))
        batch.top_replies.append((0, rng.getrandbits(64), HIGHEST, 0))
        batch.chain_asks.append((0, self.instance(node), rng.getrandbits(32)))
        batch.chain_replies.append((0, self.instance(node), rng.getrandbits(32)))

    def flood(self, batch: Batch, node: int) -> None:
        """The same things again and again."""
        for _ in range(HOSTILE_ENTRIES):
            batch.asks.append((0, 0))
            batch.positions.append((0, HIGHEST, 0))
            batch.chosen.append((0, HIGHEST, 1))

    def bids(self, batch: Batch, node: int) -> None:
        """To prepare, now and then."""
        batch.prepares.append((0, self.instance(node), self.round(node)))


@pytest.mark.parametrize("lie", [Liar.claims, Liar.flood, Liar.bids, Liar.forwards])
@pytest.mark.parametrize("seed", range(8))
def test_a_liar_stops_nobody(seed: int, lie: Callable[[Liar, Batch, int], None]) -> None:
    cluster = MiniCluster(seed, nodes=3, groups=1)
    liar = Liar(cluster, cluster.rng)
    pause_ms = 300 if lie is Liar.bids else 2
    lied_at = 0
    asked = []
    for number in range(30):
        asked.append(cluster.propose(cluster.rng.choice((1, 2)), 0, b"%d" % number, timeout_ms=30_000))
        for _ in range(20):
            if cluster.now >= lied_at:
                lied_at = cluster.now + pause_ms * MS
                batch, node = Batch(), cluster.rng.choice((1, 2))
                lie(liar, batch, node)
                liar.send(batch, node)
            cluster.advance(2)
    cluster.advance(5000)
    assert [cluster.outcomes.get(seq) for seq in asked] == [0] * 30
    first, second = (cluster.nodes[node] for node in (1, 2))
    assert first.journals[0].seen == second.journals[0].seen
    # A member may propose, and what it hands on is a proposal: but none in another's name.
    assert len([value for _, value in first.journals[0].seen if value != b"handed on"]) == 30
    assert first.turn.messages < 100_000


@pytest.mark.parametrize("seed", range(3))
def test_a_liar_does_not_keep_a_lagging_node_from_the_truth(seed: int) -> None:
    """It claims to be ahead whenever it can, and answers no question."""
    cluster = MiniCluster(seed, nodes=5, groups=1)
    liar = Liar(cluster, cluster.rng, 5)
    cluster.cut |= {(node, 4) for node in (1, 2, 3)} | {(4, node) for node in (1, 2, 3)}
    asked = []
    for number in range(50):
        asked.append(cluster.propose(1, 0, b"%d" % number))
        cluster.advance(20)
    assert all(cluster.outcomes[seq] == 0 for seq in asked)
    lagging = cluster.nodes[4].turn.groups[0]
    until = cluster.now + 20_000 * MS
    while lagging.instance < 49 and cluster.now < until:
        if cluster.now > until - 19_000 * MS:
            # By now it has asked the liar.
            cluster.cut.clear()
        batch = Batch()
        batch.positions.append((0, HIGHEST, 0))
        liar.send(batch, 4)
        cluster.advance(1)
    assert lagging.instance >= 49


@pytest.mark.parametrize(("messages", "sections"), [(100_000, 1), (50_000, 8), (0, 100_000)])
def test_more_messages_than_any_turn_makes_are_no_body(messages: int, sections: int) -> None:
    """A frame of a few megabytes must not become gigabytes of objects."""
    batch = Batch()
    batch.prepares += [(0, 0, 1)] * messages
    with pytest.raises(BodyError):
        decode_sections(encode_section(batch) * sections, 0)


def test_a_large_body_with_few_messages_is_one() -> None:
    batch = Batch()
    batch.accepts += [(0, 0, 1, bytes(1 << 20))] * 30
    bodies = list(decode_sections(encode_section(batch) + encode_section(Batch()), 0))
    assert [len(body[4]) for body in bodies] == [30, 0]
