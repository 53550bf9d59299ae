"""The forwarder: hands proposals to the node that holds the ballot, and takes in those of others.

Outbidding whoever proposes costs a group two round trips and everybody's pace. So a node that does not
hold the ballot sends its proposals to the one whose ballot it knows as the highest: one batch at a
time, again when nothing comes of it, and after `timers.forward` it bids itself after all. The
proposals stay its own: only it watches their deadlines, and their result comes from its own execution.

Nothing is executed twice, whoever dies (ARCHITECTURE.md, rule 9). A forward says `born`: none of its
proposals is decided below that instance. Whoever takes it in knows what was decided since, as one number
for each origin: the highest seq, because all that any node ever proposes for an origin is the front of
what that origin has left, in its order. What is not above that number is dropped, and so is a forward
that was born before the number counts; it does so from when this node last began to lead. Forwarding is
one hop: who does not hold the ballot refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import NULL, Ballot
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.timers import NEVER

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group

Mark = list[int]
"""[incarnation, seq, since]: the highest seq decided of an origin's present incarnation, which has been
the only one of that origin after the instance `since`. A list, since it changes with each decision."""


class Forwarder:
    """One group's proposals on their way to and from other nodes."""

    __slots__ = (
        "ballot",
        "g",
        "known_from",
        "last_seq",
        "marks",
        "patience",
        "pending",
        "refused",
        "resend_after",
        "resend_at",
        "sent_at",
        "taken",
        "until",
    )

    def __init__(self, group: Group) -> None:
        self.g = group
        # What was handed on
        self.ballot: Ballot = NULL
        """The ballot whose node has the last forward."""
        self.last_seq = 0
        """The last proposal in it: while an earlier or this one is undecided, it is outstanding."""
        self.pending = False
        """Nothing handed to that node has been decided since `sent_at`, be it that all of it has expired."""
        self.until = 0
        """Until when to leave it to that node; 0: this has passed."""
        self.patience = group.timers.forward
        """How long a forward may take: twice as long as the last one took that was decided, twice as long as
        the last patience after one that was not."""
        self.sent_at = 0
        self.resend_at = NEVER
        self.resend_after = 0
        self.refused: Ballot = NULL
        """A ballot whose node does not hold it any more, as it said."""
        # What others handed on
        self.taken: dict[int, list[values.Entry]] = {}
        """Origin -> its proposals that go into the next instance opened here."""
        self.marks: dict[int, Mark] = {}
        self.known_from = group.instance
        """Of what was decided below nothing is known here but that it was decided. Nor is what others
        decided since, while this node did not lead; but then it takes in nothing."""

    # Handing on

    def holder(self) -> Ballot:
        """The highest ballot known here; NULL if it is this node's own, or no member's."""
        g = self.g
        ballot = max(g.acceptor.promised, g.proposer.seen)
        return ballot if ballot[1] != g.me and ballot[1] in g.members.seats else NULL

    def hand_on(self, now: int, fx: Effects) -> bool:
        """Leave what waits here to the node that holds the ballot; False if this node had better bid."""
        g = self.g
        if not g.own or not g.timers.forward:
            return False
        ballot = self.holder()
        if ballot == NULL or ballot == self.refused:
            return False
        if self.pending and ballot == self.ballot:
            if now >= self.until:
                self._give_up()
                return False
            if next(iter(g.own)) <= self.last_seq:
                self.resend_at = min(self.resend_at, self.until)
                g.wake(self.resend_at, fx)
                return True
            # All of it has expired: what takes its place is due when that was, or nobody would ever bid.
        else:
            self.ballot = ballot
            self.pending = True
            self.sent_at = now
            self.until = now + self.patience
        self.resend_after = min(g.timers.resend_first, self.patience)
        self._send(now, fx)  # reach: forwarded
        g.wake(self.until, fx)
        return True

    def _send(self, now: int, fx: Effects) -> None:
        g = self.g
        entries = g.front(now, fx)
        if not entries:
            return
        self.last_seq = entries[-1][2]
        self.resend_at = now + self.resend_after
        g.wake(self.resend_at, fx)
        batch = values.encode(entries)
        fx.now.peer(self.ballot[1]).forwards.append((g.index, g.instance, batch))

    def on_refusal(self, sender: int, ballot: Ballot, now: int, fx: Effects) -> None:
        """`sender` does not hold the ballot; it knows of `ballot`."""
        g = self.g
        if sender != self.ballot[1] or not g.own:
            return
        if ballot > self.ballot:
            g.proposer.saw(ballot)
        if self.holder() in (self.ballot, NULL):
            self.refused = self.ballot  # reach: forward-refused-by-holder
            self.until = 0
            if not g.proposer.backoff_until:
                g.proposer.back_off(now, fx)
        fx.ready.append(g)

    def on_timer(self, now: int, fx: Effects) -> int:
        """Do what is due; returns when the next timer of the forwarder is."""
        g = self.g
        if self.resend_at == NEVER:
            return NEVER
        if not g.own or next(iter(g.own)) > self.last_seq or g.proposer.phase or self.holder() != self.ballot:
            # Decided, or this node bids, or the ballot went elsewhere: `hand_on` starts afresh.
            self.resend_at = NEVER
            if g.own:
                fx.ready.append(g)
            return NEVER
        if now >= self.until:
            self._give_up()
            fx.ready.append(g)
            return NEVER
        if now >= self.resend_at:
            self.resend_after = min(2 * self.resend_after, g.timers.phase_max)
            self._send(now, fx)  # reach: forward-resent
        return min(self.resend_at, self.until)

    def _give_up(self) -> None:
        if self.until:
            self.patience = min(2 * self.patience, self.g.timers.phase_max)  # reach: forward-given-up
            self.until = 0
        self.resend_at = NEVER

    def on_decided(self, entries: list[values.Entry], now: int) -> None:
        """An instance was decided while a forward was pending; what is this node's may have come late."""
        g = self.g
        if not any(entry[0] == g.me and entry[1] == g.incarnation for entry in entries):
            return
        # With less patience than a forward takes, nodes far apart would outbid each other for ever.
        patience = max(g.timers.forward, 2 * (now - self.sent_at))
        self.patience = min(patience, g.timers.phase_max)
        if g.own and next(iter(g.own)) <= self.last_seq:
            self.sent_at = now
            self.until = now + self.patience
        else:
            self.pending = False
            self.resend_at = NEVER

    # Taking in

    def on_forward(self, sender: int, born: int, batch: bytes, now: int, fx: Effects) -> None:
        """Proposals of `sender`, for this node to propose."""
        g = self.g
        if born > g.instance:
            g.learner.ask(sender, now, fx)  # reach: forward-from-one-ahead
        mark = self.marks.get(sender)
        known = born >= self.known_from if mark is None else born > mark[2]
        ballot = max(g.acceptor.promised, g.proposer.seen)  # reach: forward-refused
        entries = values.decode(batch)
        too_large = len(entries) > 1 and len(batch) > 2 * g.bounds.batch_max_bytes
        if ballot[1] != g.me or not g.voter or born > g.instance or too_large:
            fx.now.peer(sender).forward_refusals.append((g.index, g.instance, *ballot))
            return
        fresh: list[values.Entry] = []
        if known:
            above = 0
            for entry in entries:
                origin, incarnation, seq = entry[:3]
                if origin != sender or incarnation != entries[0][1] or seq <= above:
                    return
                above = seq
                if mark is None or mark[0] != incarnation or seq > mark[1]:
                    fresh.append(entry)
        if fresh:
            self.taken[sender] = fresh  # reach: forward-taken
            fx.ready.append(g)
        else:
            # All of it is decided, or may be: the sender has to learn that first.
            fx.now.peer(sender).positions.append(g.position())  # reach: forward-known-already

    def begin(self) -> None:
        """This node is about to lead: what is decided from now on counts, and only that is known."""
        self.marks.clear()
        self.known_from = self.g.instance

    def drop(self) -> None:
        """The ballot is gone: whose proposals these are hands them on to somebody else."""
        self.taken.clear()

    def note(self, entries: list[values.Entry], instance: int) -> bool:
        """An instance was decided: remember how far each origin is. Whether any but this node had a part
        in it."""
        me = self.g.me
        foreign = False
        origin = incarnation = last = 0
        for entry in entries:
            if entry[0] == origin and entry[1] == incarnation:
                if entry[2] > last:
                    last = entry[2]
                continue
            if foreign and origin != me:
                self._note(origin, incarnation, last, instance)
            origin, incarnation, last = entry[:3]
            foreign = foreign or origin != me
        if foreign and origin != me:
            self._note(origin, incarnation, last, instance)
        return foreign

    def members_changed(self) -> None:
        """Who is no member now has nothing proposed here."""
        seats = self.g.members.seats
        self.taken = {origin: entries for origin, entries in self.taken.items() if origin in seats}

    def take_over(
        self, known_from: int, marks: dict[int, Mark], taken: dict[int, list[values.Entry]]
    ) -> None:
        """Go on with what this node knew of forwards at this very instance, in another process of it."""
        self.known_from = known_from
        self.marks = marks
        self.taken = taken

    def _note(self, origin: int, incarnation: int, seq: int, instance: int) -> None:
        mark = self.marks.get(origin)
        if mark is not None and mark[0] == incarnation:
            if seq > mark[1]:
                mark[1] = seq
        elif origin in self.g.members.seats:
            since = self.known_from - 1 if mark is None else instance
            self.marks[origin] = [incarnation, seq, since]
        if origin in self.taken:
            waiting = self.taken[origin]
            left = [entry for entry in waiting if entry[1] == incarnation and entry[2] > seq]
            if left:
                self.taken[origin] = left  # reach: forward-decided-in-part
            else:
                del self.taken[origin]  # reach: forward-decided-elsewhere
