"""Doubt: why a group gives no vote for now, and how it comes to give votes again.

Two reasons, both of a log that has lost something (docs/specification.md, I26 and I27):

* *It has lost a value that a vote was given for.* Then there is a `floor`: the group learns, and votes in
  no instance below it. What it had accepted there and still has is `kept`, and put back when it arrives.
* *It may have lost promises*: it is *suspect*. It asks every other member for the highest ballot that this
  member has promised, and for the first instance that it has not voted in. Each promise that was lost was
  made to somebody whose own promise is as high, and no vote that was lost was ever counted above what all
  the others have voted in. So once **all** others have answered in this life, and everything below what
  they answered is learned, the group promises the highest ballot of all, records that together with the
  end of the doubt, and votes again. A majority would not do: the one that is missing may be the one that
  the lost promise was made to.

A group in doubt neither promises, accepts nor proposes, nor counts for a read; it learns and executes. It
knows no clock and never decides that a log has lost something: whoever reads the log does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxmux.engine.paxos.ballot import NULL, Ballot
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.timers import NEVER

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group


class Doubt:
    """One group's reasons to give no vote."""

    __slots__ = (
        "active",
        "again_after",
        "again_at",
        "answers",
        "decided",
        "floor",
        "g",
        "kept",
        "nonce",
        "suspect",
    )

    def __init__(
        self,
        group: Group,
        suspect: str | None,
        decided: int,
        floor: int,
        kept: tuple[Ballot, bytes] | None,
    ) -> None:
        """`suspect`: why promises may be lost; None if none can be. `decided`: everything below this instance
        is, though its values may be lost. `floor`: no vote below this instance. `kept`: what is accepted in
        that one, if anything is."""
        self.g = group
        self.decided = decided
        self.suspect = suspect
        self.floor = floor
        self.kept = kept
        self.active = suspect is not None or group.instance < floor or group.recall.lost
        """Whether the group keeps from voting."""
        self.nonce = group.rng.getrandbits(64) if suspect is not None else 0
        """Answers with another one were given to another life."""
        self.answers: dict[int, tuple[Ballot, int]] = {}
        """Of each member that has answered: its promise, and the first instance that it has not voted in."""
        self.again_at = NEVER if suspect is None else 0
        self.again_after = group.timers.resend_first

    def words(self) -> str | None:
        """Why the group gives no vote; None if it does."""
        if not self.active:
            return None
        g = self.g
        recall = g.recall.words()
        if recall is not None:
            return recall
        if self.suspect is None:
            lost = "what it has accepted or learned is damaged"
            return f"{lost}: no votes before instance {self.floor}, it is at {g.instance}"
        if not g.peers:
            return f"promises may be lost ({self.suspect}); there is no other member to ask"
        heard = f"{len(self.answers)} of {len(g.peers)} others have answered"
        if len(self.answers) == len(g.peers):
            heard = f"no votes before instance {self.free_of_all()}, it is at {g.instance}"
        return f"promises may be lost ({self.suspect}); {heard}"

    # Asked

    def on_ask(self, sender: int, nonce: int, fx: Effects) -> None:
        """A member may have lost promises, and asks what this one knows of them."""
        g = self.g
        if self.suspect is None and g.seated and g.inquiry.fenced is None:
            # After the sync: what is told must not be lost here.
            reply = (g.index, nonce, *g.acceptor.promised, self.free())
            fx.after.peer(sender).vow_replies.append(reply)  # reach: vow-told

    def free(self) -> int:
        """The first instance that this node has not voted in, nor ever had to in a life before."""
        g = self.g
        here = g.instance + 1 if g.acceptor.accepted != NULL else g.instance
        return max(here, self.floor if self.kept is None else self.floor + 1)

    # Asking

    def on_reply(self, sender: int, nonce: int, promised: Ballot, free: int, now: int, fx: Effects) -> None:
        """A member answers."""
        g = self.g
        if self.suspect is None or nonce != self.nonce or sender in self.answers:
            return
        # The ballot may be of a node that was a member once.
        if g.proposer.leaps(promised[0]) or (promised != NULL and not all(promised)):
            return
        self.answers[sender] = promised, free
        self.judge(fx)

    def free_of_all(self) -> int:
        """The first instance that nobody who has answered has voted in, nor this node that it knows of."""
        return max(self.floor, *[free for _, free in self.answers.values()])

    def on_timer(self, now: int, fx: Effects) -> int:
        """Ask whoever has not answered; returns when to do so again."""
        g = self.g
        if self.suspect is None or len(self.answers) == len(g.peers) or not g.seated:
            return NEVER
        if now >= self.again_at:
            self.again_at = now + self.again_after
            self.again_after = min(2 * self.again_after, g.timers.phase_max)
            for node in g.peers:
                if node not in self.answers:
                    fx.now.peer(node).vow_asks.append((g.index, self.nonce))  # reach: vow-asked
        return self.again_at

    def members_changed(self, now: int, fx: Effects) -> None:
        """Nothing that was promised to earlier members matters to later instances: ask the present ones."""
        g = self.g
        self.answers = {node: answer for node, answer in self.answers.items() if node in g.members.seats}
        if self.suspect is not None:
            self.again_at = now
            g.wake(now, fx)

    # The end

    def advance(self, now: int, fx: Effects) -> None:
        """Another instance is learned."""
        g = self.g
        if self.kept is not None and g.instance == self.floor:
            g.acceptor.accepted, g.acceptor.value = self.kept
            self.kept = None
            g.learner.on_restart(now, fx)  # reach: kept-accept-put-back
        g.inner.say(fx)
        self.judge(fx)

    def judge(self, fx: Effects) -> None:
        """Vote again if nothing speaks against it any more."""
        g = self.g
        if not self.active or g.recall.lost:
            return
        if self.suspect is not None:
            if len(self.answers) < len(g.peers) or not (g.peers and g.seated):
                return  # Who is the only member now may have voted as such in an earlier life.
            if g.instance < self.free_of_all():
                return
            highest = max([promised for promised, _ in self.answers.values()], default=NULL)
            g.acceptor.clear(g.instance, highest, fx)
            self.suspect = None  # reach: suspect-cleared
        if g.instance >= self.floor:
            self.active = False
            g.voter = g.seated and g.inquiry.fenced is None
            fx.sound.append(g)
            fx.ready.append(g)
