"""A group of the pure core, driven call by call."""

from __future__ import annotations

import random

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS

A, B, C = 1, 2, 3
SEATS = {A: 11, B: 12, C: 13}
NOW = 10_000 * MS
LATER = NOW + 60_000 * MS


def make(me: int = A, seats: dict[int, int] = SEATS, **state: object) -> Group:
    """A group with nothing in it, or the state that is given."""
    return Group(
        0,
        me=me,
        seat=SEATS[me],
        incarnation=incarnation(me),
        members=Members(seats),
        now=NOW,
        **({"rng": random.Random(5)} | state),  # type: ignore[arg-type]
    )


def incarnation(node: int) -> int:
    """What a node signs its proposals with."""
    return 900 + node


def entry(origin: int, seq: int, payload: bytes = b"v", life: int = 0) -> values.Entry:
    """A proposal of `origin`, in its first or a later life."""
    return origin, incarnation(origin) + 1000 * life, seq, 0, 1, payload


def learn(group: Group, *entries: values.Entry, now: int = NOW, node: int = C) -> Effects:
    """The current instance is decided elsewhere."""
    fx = Effects()
    value = values.encode(entries, group.chain)
    group.learner.on_learned(group.instance, 3, node, value, now, fx)
    return fx


def synced(group: Group, fx: Effects, now: int = NOW) -> Effects:
    """What the turn does after the sync of `fx`."""
    after = Effects()
    for it in fx.synced:
        it.proposer.on_synced(now, after)
    return after
