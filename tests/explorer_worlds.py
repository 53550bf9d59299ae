"""The tiny clusters that are explored to the end, and the command that does it.

    python -m tests.explorer_worlds              explores all of them, the large ones included
    python -m tests.explorer_worlds NAME ...     explores these

Three nodes each; node 3 proposes nothing. A world's states are counted without regard to time: timers may
fire in any of them. What is printed is what `docs/specification.md` says.
"""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

from tests.explorer import Explorer
from tests.explorer_node import Bounds, Breach

STATES_MAX = 12_000_000
"""More than any of these worlds has."""


class World(NamedTuple):
    """What is in a world, and what its exploration must come to at least."""

    what: str
    bounds: Bounds
    decided: int = 1
    large: bool = False
    """More than a quick test has time for."""


WORLDS = {
    "duel": World(
        "two proposers, two ballots, two instances",
        Bounds(proposals=(1, 1, 0), completers=()),
        decided=2,
    ),
    "held-ballot": World(
        "two instances of one proposer, the second without Prepare; another node completes leftovers",
        Bounds(proposals=(2, 0, 0), completers=(2,)),
        decided=2,
    ),
    "leftover-and-crash": World(
        "one proposal, another node completes leftovers; any worker dies once, at any point of a turn",
        Bounds(proposals=(1, 0, 0), completers=(2,), crashes=1),
    ),
    "catch-up-and-crash": World(
        "one proposal; positions, questions and decided values travel; any worker dies once",
        Bounds(proposals=(1, 0, 0), bids=1, completers=(), catch_up=True, crashes=1),
    ),
    "catch-up-and-duel": World(
        "one proposal, two ballots; positions, questions and decided values travel",
        Bounds(proposals=(1, 0, 0), catch_up=True, completers=(2,)),
        large=True,
    ),
    "forward": World(
        "three proposals of two nodes that hand them on; one ballot",
        Bounds(proposals=(1, 2, 0), bids=1, completers=(), forward=True),
        decided=3,
    ),
    "forward-and-crash": World(
        "a proposal handed on, two ballots; the holder's worker dies once",
        Bounds(proposals=(1, 1, 0), bids=1, completers=(), forward=True, crashes=1, mortal=(1,)),
        decided=2,
    ),
    "forward-and-rebid": World(
        "one proposal, two ballots, handed on to whoever has the higher one; its worker dies once",
        Bounds(proposals=(0, 1, 0), completers=(1,), forward=True, crashes=1, mortal=(1,)),
        large=True,
    ),
    "read": World(
        "two proposals, and a linearizable read at a third node",
        Bounds(proposals=(2, 0, 0), bids=1, completers=(), reads=(0, 0, 1)),
        decided=2,
    ),
    "read-and-crash": World(
        "one proposal, and a linearizable read at another node; any worker dies once",
        Bounds(proposals=(1, 0, 0), bids=1, completers=(), reads=(0, 0, 1), crashes=1),
    ),
    "reads-in-two-lives": World(
        "one proposal, and two reads at a node whose worker dies once",
        Bounds(proposals=(1, 0, 0), bids=1, completers=(), reads=(0, 0, 2), crashes=1, mortal=(3,)),
    ),
    "forward-and-origin-crash": World(
        "three proposals, two of them handed on by a node whose worker dies once",
        Bounds(proposals=(1, 2, 0), bids=1, completers=(), forward=True, crashes=1, mortal=(2,)),
        decided=3,
    ),
    "forward-and-node-crash": World(
        "three proposals, two of them handed on by a node that dies once, worker and all",
        Bounds(proposals=(1, 2, 0), bids=1, completers=(), forward=True, crashes=1, mortal=(2,), whole=True),
        decided=3,
    ),
    "read-and-duel": World(
        "one proposal, two ballots, and a linearizable read, which completes what it waits for",
        Bounds(proposals=(1, 0, 0), completers=(), reads=(0, 0, 1)),
        large=True,
    ),
    "duel-and-voter-crash": World(
        "two proposers, two ballots; the third node's worker dies once",
        Bounds(proposals=(1, 1, 0), completers=(), crashes=1, mortal=(3,)),
        decided=2,
        large=True,
    ),
    "duel-and-proposer-crash": World(
        "two proposers, two ballots; the worker of one dies once",
        Bounds(proposals=(1, 1, 0), completers=(), crashes=1, mortal=(2,)),
        decided=2,
        large=True,
    ),
    "duel-over-a-held-ballot": World(
        "two proposers, one with two values; two ballots, three instances",
        Bounds(proposals=(2, 1, 0), completers=()),
        decided=3,
        large=True,
    ),
}


def main(names: list[str]) -> int:
    """The command; returns its exit code."""
    for name in names or WORLDS:
        if name not in WORLDS:
            print(f"no world {name}; there are {', '.join(WORLDS)}", file=sys.stderr)
            return 2
        world = WORLDS[name]
        began = time.monotonic()
        try:
            found = Explorer(world.bounds).explore(STATES_MAX)
        except Breach as breach:
            print(f"{name}: {breach}")
            return 1
        seconds = time.monotonic() - began
        end = "" if found.complete else ", not all of it"
        print(
            f"{name}: {world.what}: {found.states:,} states, {found.moves:,} moves, {found.steps:,} steps of"
            f" the core, up to {found.decided} decided, {found.reads:,} reads, {seconds:.0f} s{end}",
            flush=True,
        )
        if not found.complete:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
