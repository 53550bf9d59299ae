"""What a node knew of others' proposals ends where another led: an old forward is not taken again."""

from __future__ import annotations

import pytest

from paxmux.engine.paxos.effects import Effects
from tests.core import NOW, A, B, C, entry, learn
from tests.test_forwarding import holding, take


@pytest.mark.parametrize("known", [True, False])
def test_rule_9_what_was_decided_while_another_led_is_not_taken(known: bool) -> None:
    """`known`: the origin had something decided while this node led first."""
    group = holding()
    if known:
        learn(group, entry(A, 3))
    born = group.instance
    group.on_prepare(C, (0, group.instance, 7), NOW, Effects())
    learn(group, entry(A, 4))
    group.proposer.complete(NOW, Effects())
    assert group.acceptor.promised == (8, B)
    take(group, entry(A, 4), born=born)
    assert not group.forwarder.taken
    take(group, entry(A, 5), born=group.instance)
    assert [item[2] for item in group.forwarder.taken[A]] == [5]
