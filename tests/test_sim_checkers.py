"""Each checker of the simulator that no deliberate mistake ends in, because another one sees it first, fires.

What it judges is made wrong by hand, in a cluster that is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import ACCEPT
from paxmux.engine.storage import Record
from paxmux.shards.requests import CallKind
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.faults import Faults
from paxmux.tools.sim.ledger import RegisterCall, Request
from paxmux.tools.sim.machines import REGISTER, put
from paxmux.tools.sim.plan import Asked, planned
from paxmux.tools.sim.run import run as run_seed
from paxmux.tools.sim.trace import Trace
from paxmux.tools.sim.witness import Witness
from paxmux.tools.sim.worker import SimWorker
from tests.calm import Calm, acknowledged


class Platter:
    """A disk with one batch, all of it durable."""

    def __init__(self, *records: Record) -> None:
        self.batches: Sequence[Sequence[Record]] = [records]
        self.synced = 1


def settled() -> Calm:
    """A cluster that has decided ten values and is at rest."""
    calm = Calm(1)
    asked = [calm.propose(1 + number % 3, b"value-%d" % number) for number in range(10)]
    calm.rest.settle()
    assert all(map(acknowledged, asked))
    calm.rest.check_replicas()
    return calm


def worker(calm: Calm, node: int = 2) -> SimWorker:
    return calm.cluster.nodes[node - 1].worker_of(0)


def voted(instance: int, round: int, node: int, value: bytes) -> Record:
    return (ACCEPT, 0, instance, round, node, value)


def value_of(payload: bytes, seq: int = 1, chain: bytes = values.FIRST) -> bytes:
    return values.encode([(1, 77, seq, 0, 1, payload)], chain)


def judge(*disks: Platter, proposed: bytes = b"a") -> None:
    """What a witness of three nodes makes of their disks, one after the other."""
    witness = Witness({1: 1001, 2: 1002, 3: 1003})
    witness.proposed[1, 77, 1] = (0, 1, proposed)
    for node, disk in enumerate(disks, 1):
        witness.synced(node, 0, disk)


def test_two_values_chosen_in_an_instance() -> None:
    first, second = value_of(b"a"), values.encode([], values.FIRST)
    judge(Platter(voted(0, 1, 1, first)), Platter(voted(0, 1, 1, first)), Platter(voted(0, 2, 2, second)))
    with pytest.raises(Breach, match="one value for each instance"):
        judge(
            Platter(voted(0, 1, 1, first)),
            Platter(voted(0, 1, 1, first), voted(0, 2, 2, second)),
            Platter(voted(0, 2, 2, second)),
        )


def test_a_value_decided_twice() -> None:
    first = value_of(b"a")
    witness = Witness({1: 1001})
    witness.proposed[1, 77, 1] = (0, 1, b"a")
    twice = values.encode([(1, 77, 1, 0, 1, b"a")] * 2, values.FIRST)
    with pytest.raises(Breach, match="decided once"):
        witness.synced(1, 0, Platter(voted(0, 1, 1, twice)))
    judge(Platter(voted(0, 1, 1, first)), Platter(voted(0, 1, 1, first)))


def test_a_value_decided_that_nobody_proposed_like_that() -> None:
    disks = [Platter(voted(0, 1, 1, value_of(b"a"))) for _ in range(2)]
    with pytest.raises(Breach, match="decided as proposed"):
        judge(*disks, proposed=b"b")


def _fence(calm: Calm) -> None:
    worker(calm).turn.groups[0].inquiry.fenced = "by hand"


def _forget(calm: Calm) -> None:
    worker(calm).journals[0].seen.pop()


def _write_a_register(calm: Calm) -> None:
    worker(calm).registers[0].values[b"k"] = b"?"


def _execute_twice(calm: Calm) -> None:
    for node in (1, 2, 3):
        seen = worker(calm, node).journals[0].seen
        seen.append((99, seen[0][1]))


def _keep(calm: Calm) -> None:
    group = worker(calm).turn.groups[0]
    group.own[1 << 40] = (1 << 62, 1, b"left over", None, 0)  # type: ignore[assignment]


def _lose(calm: Calm) -> None:
    for node in (1, 2, 3):
        worker(calm, node).journals[0].seen.pop()


@pytest.mark.parametrize(
    ("checker", "spoil"),
    [
        ("nobody healthy is fenced", _fence),
        ("replicas agree", _forget),
        ("replicas agree", _write_a_register),
        ("executed once", _execute_twice),
        ("nothing is kept", _keep),
        ("acknowledged is kept", _lose),
    ],
)
def test_a_replica_that_is_wrong_in_the_end(checker: str, spoil: Callable[[Calm], None]) -> None:
    calm = settled()
    spoil(calm)
    with pytest.raises(Breach, match=checker):
        calm.rest.check_replicas()


def test_nobody_gets_anything_decided() -> None:
    calm = settled()
    calm.cluster.wire.cut |= {(one, other) for one in (1, 2, 3) for other in (1, 2, 3) if one != other}
    with pytest.raises(Breach, match=r"progress: reads after the faults ended: .*TIMEOUT"):
        calm.rest.progress(calm.load)


def read(calm: Calm, node: int = 2) -> Request:
    """A local read, answered."""
    asked = calm.load.read(CallKind.QUERY, calm.cluster.nodes[node - 1], 0, 5000)
    calm.advance(1)
    assert acknowledged(asked)
    return asked


def test_a_read_that_goes_back() -> None:
    calm = settled()
    read(calm)
    worker(calm)._shown[0] += 1
    with pytest.raises(Breach, match="reads go forwards"):
        read(calm)


def test_a_read_of_what_is_not_chosen() -> None:
    calm = settled()
    worker(calm).turn.appliers[0].next += 1
    with pytest.raises(Breach, match="reads of what is chosen"):
        read(calm)


def test_a_register_that_answers_with_what_is_not_there() -> None:
    calm = settled()
    node = calm.cluster.nodes[0]
    written = node.ask(None, 0, REGISTER, put(b"k", b"1"), 5000, RegisterCall("put", b"k", b"", b"1"))
    calm.rest.settle()
    got = node.ask(CallKind.LINEARIZABLE_QUERY, 0, REGISTER, b"k", 5000, RegisterCall("get", b"k", b"", b""))
    calm.rest.settle()
    assert acknowledged(written)
    assert (got.code, got.result) == (0, b"1")
    calm.cluster.ledger.check_registers()
    got.result = b""
    with pytest.raises(Breach, match="linearizable registers"):
        calm.cluster.ledger.check_registers()


def test_a_frame_that_is_not_whole() -> None:
    calm = settled()
    frame = bytearray(200)
    calm.cluster.nodes[0].receive(bytes(frame), corrupted=True)
    with pytest.raises(Breach, match="frames are whole"):
        calm.cluster.nodes[0].receive(bytes(frame), corrupted=False)


def test_a_run_without_its_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faults, "strike", lambda self: None)
    seed = next(seed for seed in range(1, 100) if planned(seed, Asked()).nodes == 1)
    with pytest.raises(Breach, match="enough faults"):
        run_seed(seed, Asked(), Trace())
