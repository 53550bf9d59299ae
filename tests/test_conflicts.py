"""Proposals that lose to others: again until their deadline, or as often as `attempts` says."""

from __future__ import annotations

from typing import Any

import pytest

from paxmux.engine.errors import Code, ConfigError
from paxmux.engine.options import Options, ProposalOptions
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.timers import Bounds, Timers
from tests.calm import Calm
from tests.core import LATER, NOW, A, B, C, entry, learn, make, synced


def tried(group: Group, *seqs: int) -> None:
    """Propose, and come as far as the Accept."""
    fx = Effects()
    for seq in seqs:
        group.propose(seq, LATER, 1, b"%d" % seq, None, fx)
    group.proposer.backoff_until = 0
    group.open(NOW, fx)
    synced(group, fx)
    fx = Effects()
    group.proposer.on_prepare_reply(B, group.instance, group.proposer.round, 0, NULL, b"", NOW, fx)
    assert fx.now.all.accepts


def alone(attempts: int) -> Group:
    return make(A, timers=Timers(forward=0), bounds=Bounds(attempts=attempts))


def test_three_attempts_as_the_reference_has_them() -> None:
    group = alone(3)
    for lost in range(3):
        tried(group, *([1] if lost == 0 else []))
        assert list(group.own) == [1]
        fx = learn(group, entry(C, lost + 1))
    assert fx.conflicts == [1]
    assert not group.own
    assert not group.tries


def test_by_default_a_proposal_is_tried_until_its_deadline() -> None:
    group = alone(0)
    for lost in range(20):
        tried(group, *([1] if lost == 0 else []))
        assert learn(group, entry(C, lost + 1)).conflicts == []
    assert list(group.own) == [1]


def test_what_was_not_tried_has_not_lost() -> None:
    group = alone(1)
    tried(group, 1)
    group.propose(2, LATER, 1, b"2", None, Effects())
    assert learn(group, entry(C, 1)).conflicts == [1]
    assert list(group.own) == [2]


def test_who_wins_has_not_lost() -> None:
    group = alone(2)
    tried(group, 1, 2)
    assert learn(group, entry(C, 1)).conflicts == []
    tried(group)
    fx = learn(group, entry(A, 1))
    assert fx.conflicts == [2]
    assert not group.tries


def test_a_conflict_means_never() -> None:
    """Code 14 promises that the value is not executed, now or later."""
    lost = sum(conflicts(seed) for seed in range(10))
    assert lost > 50


def conflicts(seed: int) -> int:
    """How many of three duelling nodes' proposals end with a conflict; none of them is executed."""
    options = ProposalOptions(forward=False, attempts=1)
    calm = Calm(seed, latency_us=(0, 40_000), proposals=options, chances={"loss": 0.1})
    asked = []
    for number in range(40):
        for node in (1, 2, 3):
            asked.append(calm.propose(node, b"%d-%d" % (node, number), timeout_ms=None))
        calm.advance(calm.cluster.rng.choice((1, 5, 50)))
    calm.cluster.faults.end()
    calm.rest.settle()
    lost = {request.payload for request in asked if request.code == Code.CONFLICT}
    for node in (1, 2, 3):
        assert not lost.intersection(calm.seen(node))
    return len(lost)


def test_attempts_need_forwarding_off() -> None:
    address = "127.0.0.1:7001"
    made: Any = {"node": address, "members": [address], "data_dir": "d"}
    with pytest.raises(ConfigError, match=r"proposals\.attempts: expected 0 while"):
        Options(**made, proposals=ProposalOptions(attempts=3)).validate()
    Options(**made, proposals=ProposalOptions(attempts=3, forward=False)).validate()
