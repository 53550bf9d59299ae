"""The reader: linearizable reads by asking a majority how far decisions may have gone.

ARCHITECTURE.md, rule 18. A voter answers `top`: the highest instance that it may have voted in. What was
acknowledged before the question was asked has been accepted by a majority; every majority holds one of
those voters, so the largest answer of any majority is far enough. Execution must have passed it before
the read is answered.

Nothing is written. Reads share a round: those that come while one is on its way wait for the next, since
an answer counts for what was acknowledged before its question left. A peer that claims too much cannot
stall reads while enough others answer: of all majorities the one with the lowest answer is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import EXPIRE_GAP, LATE_NOTICE, NEVER

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group

NUMBERS: Final = 1 << 64
ROUNDS_MAX: Final = 8
"""While so many rounds wait for instances that are not decided, more reads wait for them to go."""


class Round:
    """One question to all voters, and the reads that wait for its outcome."""

    __slots__ = (
        "asked_at",
        "complete_after",
        "complete_at",
        "members",
        "reads",
        "resend_after",
        "resend_at",
        "tops",
    )

    def __init__(self, reads: dict[int, int], members: Members, asked_at: int, resend_after: int) -> None:
        self.reads = reads
        """Read (seq) -> deadline."""
        self.members = members
        self.tops: dict[int, int] = {}
        """Voter -> its answer."""
        self.asked_at = asked_at
        self.resend_at = asked_at + resend_after
        self.resend_after = resend_after
        self.complete_after = 0
        self.complete_at = NEVER
        """When to complete the instance that the reads wait for, if nobody else does."""

    def target(self) -> int | None:
        """The instance that must be executed before the reads are answered; None: too few answers."""
        if len(self.tops) < self.members.majority:
            return None
        return sorted(self.tops.values())[self.members.majority - 1]


class Reader:
    """One group's linearizable reads."""

    __slots__ = ("expire_at", "g", "number", "rounds", "waiting")

    def __init__(self, group: Group) -> None:
        self.g = group
        self.number = group.rng.getrandbits(64)
        """Of the last round. Rounds are numbered from a random number on, so that an answer to an earlier
        life matches none: the incarnation would not do, since it outlives a worker."""
        self.waiting: dict[int, int] = {}
        """Read (seq) -> deadline: those that join the next round."""
        self.rounds: dict[int, Round] = {}
        """In the order in which they were asked; only the last one may still lack a majority."""
        self.expire_at = NEVER

    def join(self, seq: int, deadline: int, fx: Effects) -> None:
        """Take a read; its round is asked at the end of the turn."""
        if not self.waiting:
            fx.ready.append(self.g)
        self.waiting[seq] = deadline
        if deadline < self.expire_at:
            self.expire_at = deadline
            self.g.wake(deadline, fx)

    def open(self, now: int, fx: Effects) -> None:
        """Ask for what waits, unless a question is on its way."""
        if not self.waiting or len(self.rounds) == ROUNDS_MAX:
            return
        if self.rounds and next(reversed(self.rounds.values())).target() is None:
            return
        g = self.g
        round = Round(self.waiting, g.members, now, g.timers.resend_first)
        self.waiting = {}
        self.number = (self.number + 1) % NUMBERS
        self.rounds[self.number] = round
        fx.now.all.top_asks.append((g.index, self.number))
        g.wake(round.resend_at, fx)
        if g.voter:
            self._answered(self.number, g.me, g.top(), now, fx)

    def on_top_reply(self, sender: int, number: int, top: int, since: int, now: int, fx: Effects) -> None:
        """A voter's answer."""
        round = self.rounds.get(number)
        if round is not None and since == round.members.since and sender in round.members.seats:
            self._answered(number, sender, top, now, fx)

    def _answered(self, number: int, voter: int, top: int, now: int, fx: Effects) -> None:
        round = self.rounds[number]
        round.tops[voter] = top
        target = round.target()
        if target is None:
            return
        g = self.g
        if target < g.instance:
            self.on_decided(fx)
        elif round.complete_at == NEVER:
            # Whoever proposes it takes about as long as the question did; to outbid him would take longer.
            after = max(g.timers.accept_first, 2 * (now - round.asked_at))
            round.complete_after = min(after, g.timers.phase_max)
            round.complete_at = now + round.complete_after
            if target > g.instance and voter != g.me:
                g.learner.ask(voter, now, fx)  # reach: read-of-what-others-know
            else:
                # As a rule its notice is on the way; if not, ask for it.
                round.resend_at = min(round.resend_at, now + LATE_NOTICE)
            g.wake(min(round.resend_at, round.complete_at), fx)
        if self.waiting:
            fx.ready.append(g)

    def on_decided(self, fx: Effects) -> None:
        """An instance was decided: let the reads go that waited for it."""
        g = self.g
        for number, round in list(self.rounds.items()):
            target = round.target()
            if target is None or target >= g.instance:
                continue
            del self.rounds[number]
            if round.members is g.members:
                fx.readable.append((g.index, target, list(round.reads)))  # reach: read-released
            else:
                # Other members may have decided more by now: ask those.
                self.waiting = round.reads | self.waiting
        if self.waiting:
            fx.ready.append(g)

    def on_timer(self, now: int, fx: Effects) -> int:
        """Do what is due; returns when the next timer of the reader is."""
        self.expire(now, fx)
        due = self.expire_at
        for number, round in list(self.rounds.items()):
            if now >= round.resend_at:
                self._again(number, round, now, fx)
            if now >= round.complete_at:
                round.complete_after = min(2 * round.complete_after, self.g.timers.phase_max)
                round.complete_at = now + round.complete_after
                if round.target() == self.g.instance:
                    # Who proposed it may be dead: decide it, whatever it is, so that the reads can go on.
                    self.g.proposer.complete(now, fx, fill=True)  # reach: read-completed-an-instance
            due = min(due, round.resend_at, round.complete_at)
        if self.waiting:
            # The round that kept them from asking may have ended without an answer.
            self.open(now, fx)
            due = min([due, *[round.resend_at for round in self.rounds.values()]])
        return due

    def members_changed(self, fx: Effects) -> None:
        """What is asked was asked of others: ask the present members."""
        for round in self.rounds.values():
            self.waiting = round.reads | self.waiting  # reach: read-asked-again
        self.rounds.clear()
        if self.waiting:
            fx.ready.append(self.g)

    def refuse(self, fx: Effects) -> None:
        """No read can be answered here any more."""
        for reads in (self.waiting, *[round.reads for round in self.rounds.values()]):
            fx.abandoned += reads
        self.waiting = {}
        self.rounds = {}
        self.expire_at = NEVER

    def _again(self, number: int, round: Round, now: int, fx: Effects) -> None:
        g = self.g
        round.resend_after = min(2 * round.resend_after, g.timers.phase_max)
        round.resend_at = now + round.resend_after
        for node in round.members.seats:
            if node != g.me and node not in round.tops:
                fx.now.peer(node).top_asks.append((g.index, number))  # reach: top-asked-again
        target = round.target()
        if target is not None:
            ahead = [node for node, top in round.tops.items() if top >= target and node != g.me]
            if ahead:
                g.learner.ask(g.rng.choice(ahead), now, fx)

    def expire(self, now: int, fx: Effects) -> None:
        """Give up the reads whose deadline has passed."""
        if now < self.expire_at:
            return
        self.expire_at = NEVER
        for reads in (self.waiting, *[round.reads for round in self.rounds.values()]):
            late = [seq for seq, deadline in reads.items() if deadline <= now]
            for seq in late:
                del reads[seq]  # reach: read-expired
            fx.expired += late
            if reads:
                self.expire_at = min(self.expire_at, max(min(reads.values()), now + EXPIRE_GAP))
        self.rounds = {number: round for number, round in self.rounds.items() if round.reads}
