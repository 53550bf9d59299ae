"""Partitions of a cluster, drawn from a seed: which directions are cut, and who must go on meanwhile.

Decides nothing about time, and knows no process. A node must go on if it still has a majority, itself
included, that it hears and is heard by.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, NamedTuple

from paxmux.tools.namespaces import Cut

MINORITY: Final = "a minority cut off"
ONE_WAY: Final = "one direction between two nodes"
DEAF: Final = "a minority that hears nothing"
BRIDGE: Final = "two halves that see one common node"
MASTER: Final = "the master cut off"
MASTER_DEAF: Final = "the master hears nothing"
MASTER_MUTE: Final = "the master is not heard"
FLAPPING: Final = "cuts that change all the time"
SLOW: Final = "slow lines that lose"
KINDS: Final = (MINORITY, ONE_WAY, DEAF, BRIDGE, MASTER, MASTER_DEAF, MASTER_MUTE, FLAPPING, SLOW)
"""The last one only where the kernel can do it."""
OF_MASTERS: Final = (MASTER, MASTER_DEAF, MASTER_MUTE)


class Partition(NamedTuple):
    """What is cut."""

    cuts: frozenset[Cut]
    going_on: tuple[int, ...]
    """Nodes that must go on, and elect other masters where theirs are none of them."""


def partition(kind: str, nodes: int, master: int, rng: random.Random) -> Partition:
    """A partition of that kind. `master`: who is one; only some kinds care."""
    everybody = range(nodes)
    match kind:
        case "a minority cut off":
            few = rng.sample(everybody, rng.randint(1, (nodes - 1) // 2))
            return _of(both(few, _but(everybody, few)), nodes)
        case "one direction between two nodes":
            sender, receiver = rng.sample(everybody, 2)
            return _of({(sender, receiver)}, nodes)
        case "a minority that hears nothing":
            few = rng.sample(everybody, rng.randint(1, (nodes - 1) // 2))
            return _of(one_way(_but(everybody, few), few), nodes)
        case "two halves that see one common node":
            _, *rest = rng.sample(everybody, nodes)
            half = len(rest) // 2
            return _of(both(rest[:half], rest[half:]), nodes)
        case "the master cut off":
            return _of(both([master], _but(everybody, [master])), nodes)
        case "the master hears nothing":
            return _of(one_way(_but(everybody, [master]), [master]), nodes)
        case "the master is not heard":
            return _of(one_way([master], _but(everybody, [master])), nodes)
        case "cuts that change all the time":
            every = sorted(one_way(everybody, everybody))
            return Partition(frozenset(rng.sample(every, rng.randint(1, len(every) // 2))), ())
        case "slow lines that lose":
            return Partition(frozenset(), tuple(everybody))
    raise ValueError(f"no kind of partition: {kind}")


def one_way(senders: Sequence[int], receivers: Sequence[int]) -> set[Cut]:
    """All directions from these to those."""
    return {(one, other) for one in senders for other in receivers if one != other}


def both(some: Sequence[int], others: Sequence[int]) -> set[Cut]:
    """All directions between these and those."""
    return one_way(some, others) | one_way(others, some)


def _but(everybody: Sequence[int], some: Sequence[int]) -> list[int]:
    return [node for node in everybody if node not in some]


def _of(cuts: set[Cut], nodes: int) -> Partition:
    going_on = []
    for node in range(nodes):
        seen = [other for other in range(nodes) if not {(node, other), (other, node)} & cuts]
        if len(seen) > nodes // 2:
            going_on.append(node)
    return Partition(frozenset(cuts), tuple(going_on))
