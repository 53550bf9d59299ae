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
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.messages import Batch
from paxmux.engine.paxos.timers import MS
from paxmux.shards.codec import BodyError, decode_sections, encode_section
from paxmux.tools.sim.machines import JOURNAL
from paxmux.tools.sim.worker import CLUSTER
from tests.calm import Calm, acknowledged

LIAR = 3
HIGHEST = 1 << 62
HOSTILE_ENTRIES = 300


class Liar:
    """Draws lies about what it can guess of the honest nodes' state."""

    def __init__(self, calm: Calm, node: int = LIAR) -> None:
        self.cluster = calm.cluster
        self.rng: random.Random = calm.cluster.rng
        self.node = node
        liar = calm.cluster.nodes[node - 1]
        liar.up = False
        for worker in liar.workers:
            worker.die(power=False)

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
        self.cluster.arrive(self.cluster.now + MS, dest, frame, False)

    def group(self, node: int) -> Group:
        return self.cluster.nodes[node - 1].worker_of(0).turn.groups[0]

    def instance(self, node: int) -> int:
        here = self.group(node).instance
        return self.rng.choice((0, max(0, here - 1), here, here + 1, here + 2, 1 << 40, HIGHEST))

    def round(self, node: int) -> int:
        here = self.group(node).proposer.round
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
        self.cluster.witness.proposed[entry[:3]] = (0, JOURNAL, entry[5])
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
    calm = Calm(seed)
    liar, rng = Liar(calm), calm.cluster.rng
    pause_ms = 300 if lie is Liar.bids else 2
    lied_at = 0
    asked = []
    for number in range(30):
        asked.append(calm.propose(rng.choice((1, 2)), b"%d" % number, timeout_ms=30_000))
        for _ in range(20):
            if calm.cluster.now >= lied_at:
                lied_at = calm.cluster.now + pause_ms * MS
                batch, node = Batch(), rng.choice((1, 2))
                lie(liar, batch, node)
                liar.send(batch, node)
            calm.advance(2)
    calm.advance(5000)
    assert [request.code for request in asked] == [0] * 30
    assert calm.seen(1) == calm.seen(2)
    # A member may propose, and what it hands on is a proposal: but none in another's name.
    assert len([value for value in calm.seen(1) if value != b"handed on"]) == 30
    assert calm.cluster.nodes[0].workers[0].turn.intake.messages < 100_000


@pytest.mark.parametrize("seed", range(3))
def test_a_liar_does_not_keep_a_lagging_node_from_the_truth(seed: int) -> None:
    """It claims to be ahead whenever it can, and answers no question."""
    calm = Calm(seed, nodes=5)
    liar, cut = Liar(calm, 5), calm.cluster.wire.cut
    cut |= {(node, 4) for node in (1, 2, 3)} | {(4, node) for node in (1, 2, 3)}
    asked = []
    for number in range(50):
        asked.append(calm.propose(1, b"%d" % number))
        calm.advance(20)
    assert all(acknowledged(request) for request in asked)
    lagging = liar.group(4)
    until = calm.cluster.now + 20_000 * MS
    while lagging.instance < 49 and calm.cluster.now < until:
        if calm.cluster.now > until - 19_000 * MS:
            # By now it has asked the liar.
            cut.clear()
        batch = Batch()
        batch.positions.append((0, HIGHEST, 0))
        liar.send(batch, 4)
        calm.advance(1)
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
