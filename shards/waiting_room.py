"""Where requests wait while their group is between two workers.

It stands in the exchange as a link does, so that a request costs the same whether or not a group moves.
Bounded as all requests are: each holds a slot of the admission. Decides nothing: the order of what came
is kept, and whoever ends the wait says where it goes.
"""

from __future__ import annotations

from typing import Final

from paxmux.shards.requests import Call, Proposal

WAITING_ROOM: Final = -1
"""Stands for a worker in the routes of a group that is between two."""


class WaitingRoom:
    """For the requests of one group."""

    __slots__ = ("calls", "proposals")

    def __init__(self) -> None:
        self.proposals: list[tuple[Proposal, int]] = []
        self.calls: list[tuple[Call, int]] = []

    def propose(self, proposal: Proposal, size: int) -> None:
        """As `Link.propose`."""
        self.proposals.append((proposal, size))

    def call(self, call: Call, size: int) -> None:
        """As `Link.call`."""
        self.calls.append((call, size))

    def waiting(self) -> list[int]:
        """Sequence numbers of all that waits."""
        return [proposal[0] for proposal, _ in self.proposals] + [call[0] for call, _ in self.calls]
