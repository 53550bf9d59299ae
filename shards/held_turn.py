"""A turn that waits for room in the log: none of its records is taken in, and nothing rests on them.

It says what is ahead of the log meanwhile, and whose time is up. What is done about it decides
`shards/turn.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paxmux.engine.paxos.effects import ACCEPT, LEARNED, PROMISE, Effects, Outbox

_OF_AN_INSTANCE: Final = frozenset({PROMISE, ACCEPT, LEARNED})
NO_ENDS: Mapping[int, int] = {}


class HeldTurn:
    """What such a turn has asked for; its `now` has left."""

    __slots__ = ("fx",)

    def __init__(self, fx: Effects) -> None:
        fx.now = Outbox()
        self.fx = fx

    def ends(self) -> dict[int, int]:
        """The first instance of each group that the log has nothing of, of those with records here."""
        ends: dict[int, int] = {}
        for kind, index, instance, *_ in self.fx.records:
            if kind in _OF_AN_INSTANCE:
                ends[index] = min(instance, ends.get(index, instance))
        return ends

    def ahead(self) -> set[int]:
        """Groups that have decided here: what the log has of these instances may be superseded."""
        return {decided[0] for decided in self.fx.decided}

    def late(self, now: int) -> list[int]:
        """Proposals (seq) that are decided, and whose deadline has passed; each once."""
        found: list[int] = []
        for *_, owned in self.fx.decided:
            if owned:
                late = [seq for seq, proposal in owned.items() if proposal[1] <= now]
                for seq in late:
                    del owned[seq]
                found += late
        return found
