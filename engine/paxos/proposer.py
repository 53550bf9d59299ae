"""The proposer: prepare, accept, and the right to skip prepare.

It owns the group's open instance: phase, ballot, votes and timers. It never counts a vote twice,
never counts its own before the sync of the record behind it (`on_synced`), never sends two values
under one ballot, and starts every new ballot above each one it has seen, with a full Prepare.

`held` means: a majority promised `round` to this node, nothing above it has been seen since, and
every instance since then was decided under it. Only then does the next instance go straight to
Accept. The acceptor's own promise is checked as well, so a ballot promised to somebody else ends it
in the same step.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import MAX_LEAP, NULL, Ballot
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.timers import NEVER

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group


class Phase(IntEnum):
    """Where the open instance stands."""

    IDLE = 0
    PREPARING = 1
    ACCEPTING = 2


DOUBLINGS_MAX: Final = 16
"""More than these mean nothing: what doubles is bounded by `phase_max`."""

IDLE: Final = Phase.IDLE
PREPARING: Final = Phase.PREPARING
ACCEPTING: Final = Phase.ACCEPTING


class Proposer:
    """One group's proposer."""

    __slots__ = (
        "backoff_until",
        "best",
        "best_value",
        "completing",
        "entries",
        "filling",
        "g",
        "held",
        "losses",
        "outbid",
        "own_vote_due",
        "phase",
        "phase_timeout",
        "phase_until",
        "rejects",
        "resend_after",
        "resend_at",
        "round",
        "seen",
        "time_outs",
        "timeout_least",
        "value",
        "votes",
    )

    def __init__(self, group: Group) -> None:
        self.g = group
        self.phase: Phase = IDLE
        self.round = 0
        self.held = False
        self.outbid = False
        """A higher ballot was reported: finish this round if it can be, but hold nothing after it."""
        self.seen: Ballot = NULL
        """The highest ballot that any message named; its node is hearsay."""
        self.votes: set[int] = set()
        self.rejects: set[int] = set()
        self.own_vote_due = False
        self.best: Ballot = NULL
        self.best_value = b""
        self.value = b""
        self.entries: list[values.Entry] | None = None
        """What `value` decodes to, where this node has encoded it itself."""
        self.completing = False
        """Open even without a proposal of our own: an accepted value waits to be decided."""
        self.filling = False
        """Decide the open instance in any case, with a no-op if there is nothing else."""
        self.phase_until = 0
        self.phase_timeout = 0
        self.time_outs = 0
        """Phases of this instance that timed out; each doubles the next one's time-out."""
        self.timeout_least = 0
        """Twice what the rounds that decided something took of late. A time-out below what a round takes
        would cost each instance another Prepare, or several."""
        self.resend_at = 0
        self.resend_after = 0
        self.backoff_until = 0
        """End of the pause before the next bid; 0 once that is made."""
        self.losses = 0
        """Ballots lost of late; each doubles the next pause, each decision takes one back."""

    # Opening

    def open(self, now: int, fx: Effects) -> None:
        """Start an instance if there is a reason to and none is open."""
        g = self.g
        if self.phase or not (g.own or g.forwarder.taken or self.completing or g.inner.count) or not g.voter:
            return
        if self.held and g.acceptor.promised == (self.round, g.me):
            if g.paused:
                return  # reach: waits-for-execution
            batch = g.take_batch(now, fx)
            if batch:
                self._accept(batch, now, fx)  # reach: prepare-skipped
        elif not self.completing and self._handed_on(now, fx):
            return
        elif now < self.backoff_until:
            g.wake(self.backoff_until, fx)  # reach: bid-waits
        else:
            self._prepare(now, fx)

    def _handed_on(self, now: int, fx: Effects) -> bool:
        """Whether all that waits here is left to the node that holds the ballot."""
        g = self.g
        if g.forwarder.taken:
            return False
        inner = not g.inner.count or g.inner.hand_on(now, fx)
        return inner and (not g.own or g.forwarder.hand_on(now, fx))

    def complete(self, now: int, fx: Effects, *, fill: bool = False) -> None:
        """Get what is accepted in the current instance decided, whoever proposed it, by a full Prepare;
        with `fill` a no-op if nothing is."""
        if not self.phase:
            self.held = False  # reach: completed-by-full-prepare
        self.completing = True
        self.filling = self.filling or fill
        self.open(now, fx)

    def abandon(self) -> None:
        """Leave the open instance to others."""
        self.phase = IDLE
        self.own_vote_due = False
        self.held = False

    def _prepare(self, now: int, fx: Effects) -> None:
        g = self.g
        self.phase = PREPARING
        self.held = self.outbid = False
        self.backoff_until = 0
        self.round = max(self.round, self.seen[0], g.acceptor.promised[0]) + 1
        self.best, self.best_value = NULL, b""
        if g.acceptor.promised[1] != g.me:
            g.forwarder.begin()
        g.acceptor.promise(g.instance, (self.round, g.me), fx)
        fx.after.all.prepares.append((g.index, g.instance, self.round))
        fx.prepares += 1
        self._start_round(g.timers.prepare_first, now, fx)

    def _accept(self, value: bytes, now: int, fx: Effects) -> None:
        g = self.g
        self.phase = ACCEPTING
        self.value = value
        self.entries = g.batch
        # Cannot be refused: the caller has seen that the promise is this very ballot's.
        g.acceptor.accept(g.instance, (self.round, g.me), value, fx)
        fx.now.all.accepts.append((g.index, g.instance, self.round, value))
        self._start_round(g.timers.accept_first, now, fx)

    def _start_round(self, first_timeout: int, now: int, fx: Effects) -> None:
        g = self.g
        self.votes = set()
        self.rejects = set()
        self.own_vote_due = True
        fx.synced.append(g)
        self.phase_timeout = max(first_timeout, self.timeout_least)
        if self.time_outs:
            self.phase_timeout = min(self.phase_timeout << self.time_outs, g.timers.phase_max)
        self.phase_until = now + self.phase_timeout
        self.resend_after = g.timers.resend_first
        self.resend_at = now + self.resend_after
        if self.resend_at < g.due or self.phase_until < g.due:
            g.wake_for_instance(min(self.resend_at, self.phase_until), fx)

    # Votes

    def on_synced(self, now: int, fx: Effects) -> None:
        """The records of the last turn are durable: count this node's own vote."""
        if not self.own_vote_due:
            return
        self.own_vote_due = False
        g = self.g
        if self.phase is PREPARING:
            self._promised(g.me, g.acceptor.accepted, g.acceptor.value, now, fx)
        elif self.phase is ACCEPTING:
            self._accepted(g.me, now, fx)

    def on_prepare_reply(
        self,
        sender: int,
        instance: int,
        round: int,
        rejected_by: int,
        accepted: Ballot,
        value: bytes,
        now: int,
        fx: Effects,
    ) -> None:
        """A peer promised, and says what it has `accepted`; or told which ballot it has promised instead."""
        if rejected_by:
            self._rejected(sender, instance, round, accepted, PREPARING, now, fx)
        elif (
            self.phase is PREPARING
            and round == self.round
            and instance == self.g.instance
            # Whoever promised this ballot cannot have accepted one as high: such a reply is not honest.
            and accepted < (round, self.g.me)
        ):
            if accepted != NULL and values.chain_in(value) != self.g.chain:
                self.g.inquiry.suspect(now, fx)
            else:
                self._promised(sender, accepted, value, now, fx)

    def on_accept_reply(
        self, sender: int, instance: int, round: int, rejected_by: Ballot, now: int, fx: Effects
    ) -> None:
        """A peer accepted, or told which ballot it has promised instead."""
        if rejected_by != NULL:
            self._rejected(sender, instance, round, rejected_by, ACCEPTING, now, fx)
        elif self.phase is ACCEPTING and round == self.round and instance == self.g.instance:
            self._accepted(sender, now, fx)

    def _promised(self, voter: int, accepted: Ballot, value: bytes, now: int, fx: Effects) -> None:
        if accepted > self.best:
            self.best, self.best_value = accepted, value
        self.votes.add(voter)
        g = self.g
        if len(self.votes) < g.members.majority or self.own_vote_due:
            return
        self.phase = IDLE
        self.completing = False
        self.held = not self.outbid
        if g.acceptor.promised != (self.round, g.me):
            self.lose(now, fx)
            return
        # A value without bytes is a value: not to adopt it could choose a second one.
        if self.best != NULL:
            g.mixed = True
            g.batch = None
            self._accept(self.best_value, now, fx)  # reach: value-adopted
        elif batch := g.take_batch(now, fx):
            self._accept(batch, now, fx)
        elif self.filling:
            self._accept(values.encode((), g.chain), now, fx)

    def _accepted(self, voter: int, now: int, fx: Effects) -> None:
        self.votes.add(voter)
        g = self.g
        if len(self.votes) < g.members.majority:
            return
        fx.now.all.chosen.append((g.index, g.instance, self.round))
        self.held = not self.outbid
        g.decide(self.value, now, fx, entries=self.entries)

    def _rejected(
        self, sender: int, instance: int, round: int, rejected_by: Ballot, phase: Phase, now: int, fx: Effects
    ) -> None:
        # Late rejects count too: they keep a slow node from proposing for ever under a dead ballot.
        if round != self.round or not self.saw(rejected_by):
            return
        fx.rejects += 1
        self.outbid = True  # reach: ballot-rejected
        self.held = False
        if self.phase is not phase or instance != self.g.instance:
            return  # reach: late-reject
        self.rejects.add(sender)
        if self.g.members.hopeless(len(self.rejects)):
            self.lose(now, fx)  # reach: ballot-hopeless

    # Losing, timers, next instance

    def highest(self) -> int:
        """The highest round known here, for judging whether a peer's claim is credible."""
        return max(self.round, self.seen[0], self.g.acceptor.promised[0])

    def saw(self, ballot: Ballot) -> bool:
        """A peer tells of a ballot; False if it is too high to be believed."""
        if self.leaps(ballot[0]):
            return False
        self.seen = max(self.seen, ballot)
        return True

    def leaps(self, round: int) -> bool:
        """Whether a peer's round is too far above everything known to be believed.

        One that is raises what is known by as much as is believed: if it was true, because this node
        missed many, some repetitions make it credible; if not, it did what any credible lie can do.
        """
        if round <= MAX_LEAP:
            return False
        limit = self.highest() + MAX_LEAP
        if round > limit:
            self.seen = (limit, 0)
            return True
        return False

    def lose(self, now: int, fx: Effects) -> None:
        """This ballot will not win: give way, then come back above it after a random pause."""
        g = self.g
        self.held = False
        g.forwarder.drop()
        if self.phase:
            self.abandon()
            # What was sent may be chosen. Whoever holds the ballot now finds that out; without one we do.
            self.completing = self.filling or not g.timers.forward or g.forwarder.holder() == NULL
            g.learner.on_accepted(now, fx)
            self.back_off(now, fx)
            self.losses += 1  # reach: open-ballot-lost
        if g.own:
            fx.ready.append(g)

    def back_off(self, now: int, fx: Effects) -> None:
        """Leave the others a random moment, so that duelling proposers drift apart: a longer one after
        each loss, since where messages take long a round does too."""
        timers = self.g.timers
        pause = self.g.rng.randint(timers.backoff_min, timers.backoff_max) << min(self.losses, DOUBLINGS_MAX)
        self.backoff_until = now + min(pause, timers.phase_max)
        self.g.wake(self.backoff_until, fx)

    def round_at(self) -> int:
        """When the open round is resent or times out; NEVER if none is open."""
        if not self.phase:
            return NEVER
        return self.resend_at if self.resend_at < self.phase_until else self.phase_until

    def on_timer(self, now: int, fx: Effects) -> int:
        """Do what is due; returns when the next timer of the proposer is."""
        if not self.phase:
            if self.backoff_until > now:
                return self.backoff_until
            self.open(now, fx)
            if not self.phase:
                return NEVER
        elif now >= self.phase_until:
            self.phase = IDLE
            self.own_vote_due = False
            self.held = False
            self.completing = True  # reach: phase-timed-out
            self.time_outs = min(self.time_outs + 1, DOUBLINGS_MAX)
            self.open(now, fx)
        elif now >= self.resend_at:
            self._resend(fx)
            self.resend_after = min(2 * self.resend_after, self.g.timers.phase_max)
            self.resend_at = now + self.resend_after
        return self.round_at()

    def _resend(self, fx: Effects) -> None:
        g = self.g
        fx.resends += 1  # reach: resent
        for node in g.members.seats:
            if node == g.me or node in self.votes or node in self.rejects:
                continue
            if self.phase is PREPARING:
                fx.after.peer(node).prepares.append((g.index, g.instance, self.round))
            else:
                fx.now.peer(node).accepts.append((g.index, g.instance, self.round, self.value))

    def advance(self, now: int, fx: Effects, *, own_ballot: bool) -> None:
        """The instance is decided. A decision under another ballot ends the right to skip Prepare."""
        bidding = self.phase is PREPARING
        if own_ballot:
            least = 2 * (now - self.phase_until + self.phase_timeout)
            if least < self.timeout_least:
                least = (least + self.timeout_least) // 2
            limit = self.g.timers.phase_max
            self.timeout_least = least if least < limit else limit
        self.phase = IDLE
        self.own_vote_due = False
        self.completing = self.filling = False
        self.value = b""
        self.entries = None
        self.time_outs = 0
        if self.losses:
            self.losses -= 1
        if own_ballot or not self.g.own:
            self.backoff_until = 0
        elif not bidding and not self.backoff_until:
            # Somebody else is proposing: let him run a while instead of outbidding each instance. But one
            # pause is enough, and who was bidding bids on: a busy peer must not keep him for ever.
            self.back_off(now, fx)  # reach: gave-way
        self.held = self.held and own_ballot
