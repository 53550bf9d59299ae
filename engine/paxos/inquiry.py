"""The inquiry: what a group does when a peer's history differs from its own (ARCHITECTURE.md, rule 16).

Every value carries the chain of the one before it, so two histories that differ meet at the next
message. That message is dropped; it does not say who is wrong. The group checks its own log again and
asks everybody for their chain. It fences only itself: if its own log contradicts it, or if a majority
of the members agrees on another chain. A fenced group neither votes nor proposes nor serves nor reads.
Without such a majority nobody is fenced, and what was seen is counted and reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxmux.engine.paxos.effects import Effects

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group
    from paxmux.engine.paxos.value import Chain


class Inquiry:
    """One group's doubts."""

    __slots__ = ("again_at", "answers", "asked_at", "fenced", "g", "mismatches")

    def __init__(self, group: Group) -> None:
        self.g = group
        self.fenced: str | None = None
        """Why this replica of the group takes no part any more."""
        self.mismatches = 0
        """Messages dropped because their sender has another history."""
        self.again_at = 0
        """No other inquiry starts before: a sick peer must not cost more than a question now and then."""
        self.asked_at = -1
        """The instance that was asked about; -1: none."""
        self.answers: dict[int, Chain] = {}

    def suspect(self, now: int, fx: Effects) -> None:
        """A message of this instance came from another history."""
        g = self.g
        self.mismatches += 1
        if now < self.again_at or self.fenced is not None:
            return
        self.again_at = now + g.timers.ask
        self.asked_at = g.instance
        self.answers = {}
        fx.suspects.append(g)
        fx.now.all.chain_asks.append(g.position())

    def on_ask(self, sender: int, instance: int, chain: Chain, now: int, fx: Effects) -> None:
        """A peer wants to compare."""
        g = self.g
        if self.fenced is not None:
            return
        if instance == g.instance:
            fx.now.peer(sender).chain_replies.append(g.position())
            if chain != g.chain:
                self.suspect(now, fx)
        elif 0 < instance < g.instance:
            fx.chain_reads.append((sender, g.index, instance))

    def on_reply(self, sender: int, instance: int, chain: Chain, now: int, fx: Effects) -> None:
        """A peer's chain below `instance`. What is decided since does not change who was right then."""
        g = self.g
        if instance != self.asked_at or instance != g.instance or sender not in g.members.seats:
            return
        self.answers[sender] = chain
        if chain != g.chain and list(self.answers.values()).count(chain) >= g.members.majority:
            words = f"a majority has another history below instance {instance}"
            self.fence(f"{words}: chain {chain.hex()}, here {g.chain.hex()}", fx)

    def fence(self, reason: str, fx: Effects) -> None:
        """Take no part any more."""
        g = self.g
        self.fenced = reason
        g.voter = False
        g.proposer.abandon()
        g.forwarder.drop()
        g.reader.refuse(fx)
        g.inner.refuse(fx)
        fx.abandoned += g.own
        fx.fenced.append(g)
        g.own.clear()
