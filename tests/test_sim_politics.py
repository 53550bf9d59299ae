"""Members and masters in the simulator: calm clusters, and checkers that no deliberate mistake ends in."""

from __future__ import annotations

from collections import Counter

import pytest

from paxmux.engine.errors import Code
from paxmux.engine.paxos.system import Change, encode_change
from paxmux.shards import membership
from paxmux.shards.membership import Membership
from paxmux.shards.requests import CallKind
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.ledger import RegisterCall, Request
from paxmux.tools.sim.machines import JOURNAL, REGISTER
from paxmux.tools.sim.plan import Asked, planned
from paxmux.tools.sim.records import CLUSTER
from tests.calm import Calm, acknowledged


def change(calm: Calm, node: int, members: dict[int, tuple[int, str]], version: int = -1) -> Request:
    """Another list of members for group 0, asked for and answered."""
    witness = calm.cluster.witness
    witness.wished.add(encode_change(Change(CLUSTER, version, members)))
    payload = membership.encode(Membership(CLUSTER, version, members))
    asked = calm.cluster.nodes[node - 1].ask(CallKind.CHANGE_MEMBERS, 0, 0, payload, 5000)
    calm.rest.settle()
    return asked


def led() -> Calm:
    """A cluster whose only group has a master."""
    calm = Calm(1, lease_ms=1000)
    calm.rest.masters()
    return calm


def fenced(calm: Calm, term: int) -> Request:
    node = calm.cluster.nodes[calm.cluster.leases.holders(0)[0] - 1]
    asked = node.ask(None, 0, JOURNAL, b"value of %d" % term, 5000, term=term)
    calm.rest.settle()
    return asked


def term_of(calm: Calm) -> int:
    return calm.cluster.witness.constitution(0).leases[-1].term


def test_of_any_five_seeds_one_has_changes_one_leases_and_one_both() -> None:
    plans = [planned(seed, Asked()) for seed in range(1, 101)]
    kinds = Counter((plan.changes > 0, plan.lease_ms > 0) for plan in plans)
    assert kinds == {(False, False): 40, (True, False): 20, (False, True): 20, (True, True): 20}
    assert any(plan.founders < plan.nodes for plan in plans)
    neither = [planned(seed, Asked(changes=False, leases=False)) for seed in range(1, 101)]
    assert not any(plan.changes or plan.lease_ms or plan.founders < plan.nodes for plan in neither)


def test_a_node_joins_and_is_seated_and_another_one_leaves() -> None:
    calm = Calm(1, nodes=4, founders=3)
    before = calm.propose(1, b"before")
    calm.rest.settle()
    assert acknowledged(before)
    done = change(calm, 1, {1: (1001, ""), 2: (1002, ""), 4: (1004, "d:1")})
    assert done.code == Code.OK
    assert calm.cluster.witness.constitution(0).eras[-1].seats == {1: 1001, 2: 1002, 4: 1004}
    assert [node.seated(0) for node in calm.cluster.nodes] == [True, True, False, True]
    refused = calm.propose(3, b"after")
    written = calm.propose(4, b"after")
    calm.rest.settle()
    assert (refused.code, written.code) == (Code.NOT_A_MEMBER, Code.OK)
    calm.rest.check_replicas()


def test_a_change_that_took_place_elsewhere() -> None:
    calm = Calm(1)
    done = change(calm, 1, {1: (1001, ""), 2: (1002, "")})
    calm.cluster.ledger.check_outcomes()
    assert done.place is not None
    done.place = (0, done.place[1] + 1, 0)
    with pytest.raises(Breach, match="changed where it was said"):
        calm.cluster.ledger.check_outcomes()


def test_a_majority_of_those_who_may_become_members_is_spared() -> None:
    calm = Calm(1, nodes=4)
    quorums, node = calm.cluster.quorums, calm.cluster.nodes[1]
    assert quorums.may_lose(node)
    quorums.wish(0, 5, {1: 1001, 2: 1002})
    assert quorums.may_lose(node), "that list cannot come any more"
    quorums.wish(0, -1, {1: 1001, 2: 1002})
    assert not quorums.may_lose(node)
    assert quorums.may_lose(calm.cluster.nodes[2])
    node.seat += 1000
    assert not quorums.bear({1: 1001, 2: 1002})
    assert quorums.bear({1: 1001, 2: 2002})


def test_a_group_keeps_its_master() -> None:
    calm = led()
    term = term_of(calm)
    calm.advance(20_000)
    assert term_of(calm) == term
    assert len(calm.cluster.leases.holders(0)) == 1
    calm.rest.idle()


def test_a_master_that_is_lost_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = led()
    node = calm.cluster.nodes[calm.cluster.leases.holders(0)[0] - 1]
    advance = calm.rest.advance

    def give_up(ns: int) -> None:
        if ns == 10_000_000_000:
            node.ask(CallKind.DROP_MASTER, 0, 0, b"", 5000)
        advance(ns)

    monkeypatch.setattr(calm.rest, "advance", give_up)
    with pytest.raises(Breach, match="masters stay"):
        calm.rest.idle()


def test_a_term_that_is_lower_than_the_last_one() -> None:
    calm = led()
    calm.cluster.leases._terms[0] = 1 << 40
    with pytest.raises(Breach, match="terms grow"):
        calm.advance(5000)


def test_a_write_in_its_term_takes_effect_and_another_one_does_not() -> None:
    calm = led()
    good, stale = fenced(calm, term_of(calm)), fenced(calm, term_of(calm) + 1)
    assert (good.code, stale.code) == (Code.OK, Code.STALE_TERM)
    calm.cluster.ledger.check_outcomes()
    calm.rest.check_replicas()
    stale.code = Code.OK
    with pytest.raises(Breach, match="fences hold"):
        calm.cluster.ledger.check_outcomes()


def test_a_master_that_does_not_show_what_a_master_wrote() -> None:
    calm = led()
    assert acknowledged(fenced(calm, term_of(calm)))
    node = calm.cluster.nodes[calm.cluster.leases.holders(0)[0] - 1]
    call = RegisterCall("get", b"k", b"", b"")
    read = node.ask(CallKind.MASTER_QUERY, 0, REGISTER, b"k", 5000, call)
    calm.rest.settle()
    assert read.code == Code.OK
    again = node.ask(CallKind.MASTER_QUERY, 0, REGISTER, b"k", 5000, call)
    again.led_before = 1 << 40
    with pytest.raises(Breach, match="masters show what masters wrote"):
        calm.rest.settle()


def test_a_frame_from_another_seat() -> None:
    calm = Calm(1)
    calm.cluster.witness.disks[2].seat += 1
    calm.propose(2, b"value")
    with pytest.raises(Breach, match="frames name their seat"):
        calm.rest.settle()
