"""The acceptor: promises and accepts, and never takes either back.

Its methods change the state and add the record that makes the change durable; whoever calls
them may answer positively only after that record's sync (`Effects.after`). The promise carries over
from instance to instance: that is what makes it safe to skip Prepare.
"""

from __future__ import annotations

from paxmux.engine.paxos.ballot import NULL, Ballot
from paxmux.engine.paxos.effects import ACCEPT, CLEARED, PROMISE, Effects


class Acceptor:
    """One group's acceptor, at the group's current instance."""

    __slots__ = ("accepted", "index", "promised", "value")

    def __init__(
        self, index: int, promised: Ballot = NULL, accepted: Ballot = NULL, value: bytes = b""
    ) -> None:
        self.index = index
        self.promised = promised
        self.accepted = accepted
        """Ballot under which `value` was accepted in the current instance; NULL if none was."""
        self.value = value

    def promise(self, instance: int, ballot: Ballot, fx: Effects) -> Ballot:
        """Promise to accept nothing below `ballot`. NULL, or the higher promise."""
        if ballot > self.promised:
            self.promised = ballot
            fx.records.append((PROMISE, self.index, instance, ballot[0], ballot[1], b""))
        elif ballot < self.promised:
            return self.promised  # reach: promise-refused
        return NULL

    def accept(self, instance: int, ballot: Ballot, value: bytes, fx: Effects) -> Ballot:
        """Accept `value` under `ballot`. NULL, or the higher promise.

        The first value of a ballot stands: a second, different one is answered as if it were out of
        date, so that no two values can ever be chosen under one ballot.
        """
        if ballot < self.promised:
            return self.promised  # reach: accept-refused
        if ballot == self.accepted:
            return NULL if value == self.value else ballot
        self.promised = self.accepted = ballot
        self.value = value
        fx.records.append((ACCEPT, self.index, instance, ballot[0], ballot[1], value))
        return NULL

    def clear(self, instance: int, highest: Ballot, fx: Effects) -> None:
        """Nothing that was promised can be forgotten any more: `highest` is at least what was."""
        self.promised = max(self.promised, highest)
        fx.records.append((CLEARED, self.index, instance, *self.promised, b""))

    def advance(self) -> None:
        """The instance is decided: forget what was accepted, keep the promise."""
        self.accepted = NULL
        self.value = b""
