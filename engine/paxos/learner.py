"""The learner: finds out what was decided elsewhere, from proof alone.

Proof is the notice of the very ballot accepted here, or the decided value itself. Everything else a
peer says about its position is a hint, and the only thing a hint can do is make this node ask: so a
bogus one costs a question, and no proposal ever waits for it (reference, S2 and L3).

Questions are asked as soon as a gap shows, of the peer that showed it; decided values then come in
batches, each asked for by the receiver, which is all the flow control there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import LEARNED, Effects
from paxmux.engine.paxos.timers import NEVER

HEARD_MAX: Final = 256
"""Peers whose positions are remembered; beyond, those of members alone."""

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group
    from paxmux.engine.paxos.value import Chain


class Learner:
    """One group's learner."""

    __slots__ = (
        "ask_again_at",
        "ask_first",
        "asked_from",
        "asked_peer",
        "g",
        "heard",
        "heard_seats",
        "leftover_after",
        "leftover_at",
        "position_at",
    )

    def __init__(self, group: Group, now: int) -> None:
        self.g = group
        self.asked_from = -1
        self.asked_peer = -1
        self.ask_again_at = 0
        self.position_at = self._next_position(now)
        """When to tell a peer where this group stands."""
        self.heard: dict[int, int] = {}
        """Peer -> the instance that it said it stands at, when it was heard last."""
        self.heard_seats: dict[int, int] = {}
        """Peer -> the seat that it spoke in then."""
        self.leftover_after = group.timers.leftover
        self.ask_first = True
        self.leftover_at = NEVER
        """When to do something about an accepted value that nobody says is decided."""

    def ask(self, peer: int, now: int, fx: Effects) -> None:
        """Ask `peer` for decided values, unless a question for the same ones is still young. Who has
        left the last one unanswered is asked again later than others are."""
        g = self.g
        if g.inquiry.fenced is not None:
            # What came would be dropped.
            return
        if self.asked_from == g.instance:
            patience = g.timers.ask_retry if peer == self.asked_peer else 0
            if now < self.ask_again_at + patience:
                return  # reach: question-still-young
        self.asked_from = g.instance
        self.asked_peer = peer
        self.ask_again_at = now + g.timers.ask_retry
        fx.now.peer(peer).asks.append((g.index, g.instance))

    def on_position(self, sender: int, instance: int, chain: Chain, now: int, fx: Effects) -> None:
        """A peer says where it stands; it need not be a member."""
        g = self.g
        self._hear(sender, instance, fx)
        if instance > g.instance:
            self.ask(sender, now, fx)
        elif instance < g.instance or (chain == g.chain and self._may_seat(sender)):
            fx.now.peer(sender).positions.append(g.position())
        elif chain != g.chain and g.chain:
            g.inquiry.suspect(now, fx)

    def _may_seat(self, sender: int) -> bool:
        """Whether a member may wait for this node to have learned enough before it gives it a seat. Two nodes
        without a seat would answer each other for ever."""
        g = self.g
        return not g.seated and g.members.seated(sender, self.heard_seats.get(sender, 0))

    def sits(self, sender: int, seat: int) -> None:
        """A peer speaks in this seat: what was heard of it in another one was heard of another directory."""
        if self.heard_seats.get(sender) == seat:
            return
        if len(self.heard_seats) >= HEARD_MAX:
            members = self.g.members.seats
            self.heard = {node: at for node, at in self.heard.items() if node in members}
            self.heard_seats = {node: its for node, its in self.heard_seats.items() if node in members}
        self.heard.pop(sender, None)
        self.heard_seats[sender] = seat

    def _hear(self, sender: int, instance: int, fx: Effects) -> None:
        self.heard[sender] = instance
        if self.g.inner.own:
            self.g.inner.look(fx)

    def on_ask(self, sender: int, instance: int, now: int, fx: Effects) -> None:
        """A peer wants decided values; it need not be a member."""
        g = self.g
        self._hear(sender, instance, fx)
        if g.inquiry.fenced is not None:
            return
        if instance < g.instance:
            fx.serve.append((sender, g.index, instance))
        elif instance > g.instance:
            self.ask(sender, now, fx)  # reach: asked-by-one-ahead

    def on_mend_ask(self, sender: int, first: int, count: int, fx: Effects) -> None:
        """A peer's log has lost decided values."""
        g = self.g
        if first < g.instance and g.inquiry.fenced is None:
            fx.mends.append((sender, g.index, first, min(count, g.instance - first)))

    def on_learned(self, instance: int, round: int, node: int, value: bytes, now: int, fx: Effects) -> None:
        """A decided value from a peer. It is recorded, and says nothing about promises."""
        g = self.g
        if instance != g.instance or g.inquiry.fenced is not None:
            return
        if values.chain_in(value) != g.chain and g.chain:
            g.inquiry.suspect(now, fx)
            return
        if g.acceptor.accepted != (round, node) or g.acceptor.value != value:
            fx.records.append((LEARNED, g.index, instance, round, node, value))  # reach: learned-and-recorded
        self.asked_from = -1
        g.decide(value, now, fx, own_ballot=False)

    def on_accepted(self, now: int, fx: Effects) -> None:
        """A value was accepted here: if it is not decided soon, find out what became of it."""
        self.leftover_at = now + self.leftover_after
        g = self.g
        if self.leftover_at < g.due:
            g.wake_for_instance(self.leftover_at, fx)

    def on_restart(self, now: int, fx: Effects) -> None:
        """The log gave back an accepted value. Where all nodes restarted nobody knows whether it is
        decided, so it is completed soon: what was acknowledged must become visible again."""
        self.ask_first = False  # reach: accepted-value-recovered
        self.leftover_at = now + self.g.rng.randint(self.leftover_after // 10, self.leftover_after)
        self.g.wake(self.leftover_at, fx)

    def hurry(self, within: int, now: int, fx: Effects) -> None:
        """A peer is one instance ahead: its notice is late or lost. Ask soon if it does not come."""
        self.leftover_at = min(self.leftover_at, now + within)  # reach: notice-late
        self.g.wake(self.leftover_at, fx)

    def on_timer(self, now: int, fx: Effects) -> int:
        """Do what is due; returns when the next timer of the learner is."""
        g = self.g
        if now >= self.position_at:
            self.position_at = self._next_position(now)
            if g.peers and g.inquiry.fenced is None:
                fx.now.peer(g.random_peer()).positions.append(g.position())
        if now >= self.leftover_at:
            self._leftover(now, fx)
        return min(self.position_at, self.leftover_at)

    def _next_position(self, now: int) -> int:
        """At random, so that nodes do not fall into step; on a grid, so that groups share a turn."""
        ask = self.g.timers.ask
        grid = ask // 5
        due = now + ask + self.g.rng.randint(0, grid)
        return due - due % grid + grid

    def _leftover(self, now: int, fx: Effects) -> None:
        """First tell everybody where we stand, then, if that brings nothing, complete the instance."""
        g = self.g
        if g.proposer.phase:
            self.leftover_at = NEVER  # reach: leftover-while-bidding
            return
        ask_only, self.ask_first = self.ask_first, False
        self.leftover_after = min(2 * self.leftover_after, g.timers.phase_max)
        self.leftover_at = now + self.leftover_after + g.rng.randint(0, self.leftover_after)
        fx.now.all.positions.append(g.position())
        if not ask_only and g.acceptor.accepted != NULL:
            g.proposer.complete(now, fx)  # reach: leftover-completed

    def advance(self) -> None:
        """The instance is decided."""
        self.leftover_at = NEVER
        self.leftover_after = self.g.timers.leftover
        self.ask_first = True
