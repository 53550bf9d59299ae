"""One Paxos group: its roles wired together, and the rules about instances.

A group works on exactly one instance at a time. Messages for it go to the roles; a message for an
older one is answered with this group's position, one for a later one makes the group ask, and the
next instance's Prepare and Accept are kept until it begins (a late notice must not cost a round).

Every handler takes the sender, checked against the members by the caller, and appends to `Effects`.
"""

from __future__ import annotations

import random
from typing import Any

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.acceptor import Acceptor
from paxmux.engine.paxos.ballot import NULL, Ballot
from paxmux.engine.paxos.checksum import LARGE_BYTES, crc32, last_checksum
from paxmux.engine.paxos.doubt import Doubt
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.forwarder import Forwarder
from paxmux.engine.paxos.inner import Inner
from paxmux.engine.paxos.inquiry import Inquiry
from paxmux.engine.paxos.learner import Learner
from paxmux.engine.paxos.master import NO_LEASE, LeaseTerms, Master
from paxmux.engine.paxos.messages import Accept, Position, Prepare
from paxmux.engine.paxos.proposer import Proposer
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.reader import Reader
from paxmux.engine.paxos.recall import Recall
from paxmux.engine.paxos.system import NO_REIGN, Reign, Terms
from paxmux.engine.paxos.timers import (
    DEFAULT_BOUNDS,
    DEFAULT_TIMERS,
    EXPIRE_GAP,
    LATE_NOTICE,
    NEVER,
    Bounds,
    Timers,
)

Owned = tuple[int, int, int, bytes, bytes | None]
"""A proposal made at this node: (born, deadline_ns, smid, payload, context)."""


class Group:
    """A group as one node sees it."""

    __slots__ = (
        "acceptor",
        "batch",
        "bounds",
        "chain",
        "cluster",
        "doubt",
        "due",
        "early_accept",
        "early_prepare",
        "expire_at",
        "forwarder",
        "incarnation",
        "index",
        "inner",
        "inquiry",
        "instance",
        "learner",
        "master",
        "me",
        "members",
        "mixed",
        "others_at",
        "own",
        "paused",
        "peers",
        "proposer",
        "reader",
        "recall",
        "rng",
        "seat",
        "seated",
        "timers",
        "tried",
        "tries",
        "voter",
    )

    def __init__(
        self,
        index: int,
        *,
        me: int,
        seat: int,
        incarnation: int,
        members: Members,
        rng: random.Random,
        now: int,
        instance: int = 0,
        promised: Ballot = NULL,
        accepted: Ballot = NULL,
        value: bytes = b"",
        chain: values.Chain = values.FIRST,
        suspect: str | None = None,
        decided: int = 0,
        floor: int = 0,
        kept: tuple[Ballot, bytes] | None = None,
        timers: Timers = DEFAULT_TIMERS,
        bounds: Bounds = DEFAULT_BOUNDS,
        cluster: int = 0,
        reign: Reign = NO_REIGN,
        terms: Terms | None = None,
        lease: LeaseTerms = NO_LEASE,
        members_lost: bool = False,
        say_again: bool = False,
    ) -> None:
        """`instance` to `value`: the hard state that the log gave back. `chain`: of what is decided below
        `instance`. `suspect` to `kept`: what the log has lost, see `Doubt`. `cluster`: which changes of the
        membership must name. `reign`, `terms`: whose lease was the last one, see `Master`; `lease`: which
        this node tries to have. `members_lost`: see `Recall`. `say_again`: the log is to be told whose reign
        it is, and who the members are. `now` in ns."""
        self.index = index
        self.me = me
        self.seat = seat
        self.incarnation = incarnation
        self.cluster = cluster
        self.members = members
        self.peers = [node for node in members.seats if node != me]
        self.seated = members.seated(me, seat)
        """Whether this node is a member."""
        self.rng = rng
        self.timers = timers
        self.bounds = bounds
        self.instance = instance
        self.chain = chain
        """What the value of the current instance must carry."""
        self.own: dict[int, Owned] = {}
        """Proposals made here and not yet decided, by seq, in the order in which they came."""
        self.expire_at = NEVER
        """No deadline among them passes before."""
        self.due = NEVER
        """When `on_timer` is asked for: never later than any timer of the group is due."""
        self.others_at = NEVER
        """No timer is due before but those that each instance sets: its round's, and its leftover's."""
        self.batch: list[values.Entry] | None = None
        """What `take_batch` took last; None if the open Accept has a value that was accepted before."""
        self.mixed = False
        """Whether the value of the open Accept may have other nodes' proposals in it."""
        self.tried: list[int] = []
        """Those of them that the open Accept carries, and how often each has lost: counted only where
        `bounds.attempts` says so."""
        self.tries: dict[int, int] = {}
        self.early_prepare: tuple[int, Prepare] | None = None
        self.early_accept: tuple[int, Accept] | None = None
        self.acceptor = Acceptor(index, promised, accepted, value)
        self.proposer = Proposer(self)
        self.learner = Learner(self, now)
        self.forwarder = Forwarder(self)
        self.reader = Reader(self)
        self.inquiry = Inquiry(self)
        self.recall = Recall(self, lost=members_lost)
        self.doubt = Doubt(self, suspect, decided, floor, kept)
        self.paused = False
        """What is decided waits to be executed: while this node leads, what comes in meanwhile waits too, and
        shares an instance then. Set by whoever executes."""
        self.voter = self.seated and not self.doubt.active
        """Whether it votes: it does not while it is in doubt, nor once it is fenced."""
        self.inner = Inner(self, say_again=say_again)
        self.master = Master(self, lease, reign, list(terms or ()), now)

    def start(self, now: int, fx: Effects) -> None:
        """First step after the log was read: ask where the others are, finish what was left open."""
        fx.now.all.positions.append(self.position())
        self.inner.say(fx)
        if self.acceptor.accepted != NULL:
            self.learner.on_restart(now, fx)
        # Whatever an earlier host of it was asked for.
        self.due = self.others_at = now
        fx.timers.append(self)

    # Proposals made here

    def propose(
        self, seq: int, deadline: int, smid: int, payload: bytes, context: bytes | None, fx: Effects
    ) -> None:
        """Take a proposal; it is opened, together with whatever else came, at the end of the turn."""
        if not self.own:
            fx.ready.append(self)
        if deadline < self.expire_at:
            self.expire_at = deadline
            self.wake(deadline, fx)
        self.own[seq] = (self.instance, deadline, smid, payload, context)

    def open(self, now: int, fx: Effects) -> None:
        """All input of the turn is in: start the next instance if there is something to decide."""
        if self.early_prepare or self.early_accept:
            self._take_early(now, fx)
        self.proposer.open(now, fx)
        if self.reader.waiting:
            self.reader.open(now, fx)

    def take_batch(self, now: int, fx: Effects) -> bytes:
        """The value for the next Accept: every waiting proposal that fits. Empty if none waits."""
        entries = self.front(now, fx)
        self.mixed = bool(self.forwarder.taken)
        if self.mixed:
            entries = self._share(entries)
        if self.bounds.attempts:
            self.tried = [entry[2] for entry in entries if entry[0] == self.me]
        inner = 0
        if self.inner.count:
            first = self.inner.take()
            inner = len(first)
            entries = first + entries  # reach: inner-taken-along
        self.batch = entries
        return values.encode(entries, self.chain, inner) if entries else b""

    def _share(self, own: list[values.Entry]) -> list[values.Entry]:
        """A batch of several nodes' proposals: each has its share, and each goes first in its turn, so
        that a large value of one cannot keep the others out."""
        sources = [own, *self.forwarder.taken.values()] if own else list(self.forwarder.taken.values())
        first = self.instance % len(sources)
        sources = sources[first:] + sources[:first]
        bounds = self.bounds
        share = max(1, bounds.batch_max_count // len(sources))
        size = 0
        entries: list[values.Entry] = []
        # What some leave of their shares is for the others.
        for part in [source[:share] for source in sources] + [source[share:] for source in sources]:
            for entry in part:
                size += len(entry[5]) + values.ENTRY_OVERHEAD_BYTES
                if entries and (size > bounds.batch_max_bytes or len(entries) == bounds.batch_max_count):
                    return entries
                entries.append(entry)
        return entries

    def front(self, now: int, fx: Effects) -> list[values.Entry]:
        """The first proposals of this node, as many as fit into one instance."""
        self.expire(now, fx)
        size = 0
        entries: list[values.Entry] = []
        bounds, me, incarnation = self.bounds, self.me, self.incarnation
        for seq, (born, _deadline, smid, payload, _context) in self.own.items():
            size += len(payload) + values.ENTRY_OVERHEAD_BYTES
            if entries and size > bounds.batch_max_bytes:
                break  # reach: batch-full-by-bytes
            entries.append((me, incarnation, seq, born, smid, payload))
            if len(entries) == bounds.batch_max_count:
                break  # reach: batch-full-by-count
        return entries

    def expire(self, now: int, fx: Effects) -> None:
        """Give up the proposals whose deadline has passed."""
        if now < self.expire_at:
            return
        late = [seq for seq, proposal in self.own.items() if proposal[1] <= now]
        for seq in late:
            del self.own[seq]
            self.tries.pop(seq, None)  # reach: deadline-passed
        fx.expired += late
        self.expire_at = NEVER
        if self.own:
            self.expire_at = max(min(proposal[1] for proposal in self.own.values()), now + EXPIRE_GAP)

    # Messages

    def on_prepare(self, sender: int, message: Prepare, now: int, fx: Effects) -> None:
        """Phase 1a at the acceptor."""
        _, instance, round = message
        if instance != self.instance:
            if instance == self.instance + 1:
                self.early_prepare = (sender, message)  # reach: prepare-early
            self._elsewhere(sender, instance, now, fx)
            return
        if not self.voter or self.proposer.leaps(round):
            return
        acceptor = self.acceptor
        rejected_by = acceptor.promise(instance, (round, sender), fx)
        if rejected_by != NULL:
            reply = (self.index, instance, round, rejected_by[0], *rejected_by, b"")
        else:
            self.proposer.lose(now, fx)
            accepted_round, accepted_node = acceptor.accepted
            reply = (self.index, instance, round, 0, accepted_round, accepted_node, acceptor.value)
        fx.after.peer(sender).prepare_replies.append(reply)

    def on_accept(self, sender: int, message: Accept, now: int, fx: Effects) -> None:
        """Phase 2a at the acceptor."""
        _, instance, round, value = message
        if instance != self.instance:
            if instance == self.instance + 1:
                self.early_accept = (sender, message)  # reach: accept-early
            self._elsewhere(sender, instance, now, fx)
            return
        if not self.voter or self.proposer.leaps(round):
            return
        if value[8:12] != self.chain:  # values.chain_in, without the call
            self.inquiry.suspect(now, fx)
            return
        rejected_by, node = self.acceptor.accept(instance, (round, sender), value, fx)
        if not rejected_by:
            proposer = self.proposer
            if proposer.held or proposer.phase or self.own or self.forwarder.taken:
                proposer.lose(now, fx)
            self.learner.on_accepted(now, fx)
        fx.after.peer(sender).accept_replies.append((self.index, instance, round, rejected_by, node))

    def on_chosen(self, sender: int, instance: int, round: int, now: int, fx: Effects) -> None:
        """The sender saw a majority accept its ballot."""
        if instance < self.instance or self.inquiry.fenced is not None:
            return
        if instance == self.instance and self.acceptor.accepted == (round, sender):
            self.decide(self.acceptor.value, now, fx, own_ballot=False)
        else:
            self.learner.ask(sender, now, fx)  # reach: notice-without-value

    def on_top_ask(self, sender: int, read: int, fx: Effects) -> None:
        """A linearizable read wants to know how far decisions may have gone (ARCHITECTURE.md, rule 18)."""
        if self.voter:
            fx.now.peer(sender).top_replies.append((self.index, read, self.top(), self.members.since))

    def top(self) -> int:
        """The highest instance that this node may have voted in. Promises do not count."""
        return self.instance if self.acceptor.accepted != NULL else self.instance - 1

    def position(self) -> Position:
        """Where this group stands."""
        return self.index, self.instance, int.from_bytes(self.chain, "little")

    def _elsewhere(self, sender: int, instance: int, now: int, fx: Effects) -> None:
        if instance < self.instance:
            fx.now.peer(sender).positions.append(self.position())
        elif instance == self.instance + 1 and self.acceptor.accepted != NULL:
            self.learner.hurry(LATE_NOTICE, now, fx)
        else:
            self.learner.ask(sender, now, fx)

    # Decisions

    def decide(
        self,
        value: bytes,
        now: int,
        fx: Effects,
        *,
        own_ballot: bool = True,
        entries: list[values.Entry] | None = None,
    ) -> None:
        """The current instance is decided: hand its entries on, begin the next instance. `entries`: what
        `value` decodes to, if that is known."""
        if entries is None:
            entries = values.decode(value)
        owned: dict[int, Owned] | None = None
        if self.own:
            me, incarnation = self.me, self.incarnation
            # Handed on as the object that it is: compiled code would take it apart and make another.
            proposal: Any
            for entry in entries:
                if entry[0] == me and entry[1] == incarnation:
                    proposal = self.own.pop(entry[2], None)
                    if proposal is not None:
                        owned = owned or {}
                        owned[entry[2]] = proposal
        if self.forwarder.pending:
            self.forwarder.on_decided(entries, now)
        instance = self.instance
        fx.decided.append((self.index, instance, entries, owned))
        inner = value[1] if entries else 0
        if (self.mixed or not own_ballot) and self.acceptor.promised[1] == self.me:
            # Who does not lead takes in no forwards, and need not know.
            foreign = self.forwarder.note(entries[inner:] if inner else entries, instance)
            fx.eager = fx.eager or (foreign and own_ballot)
        if self.tried:
            self._count_tries(fx)
        # values.chain_after, without a call where that counts.
        checksum = crc32(value) if len(value) < LARGE_BYTES else last_checksum(value)
        self.chain = checksum.to_bytes(4, "little")
        self.instance = instance + 1
        self.acceptor.advance()
        self.learner.advance()
        self.proposer.advance(now, fx, own_ballot=own_ballot)
        if inner and not self.recall.lost:
            self.inner.decided(entries[:inner], instance, now, fx)
        if not self.voter:
            self.doubt.advance(now, fx)
        if self.own or self.forwarder.taken or self.early_prepare or self.early_accept or self.inner.count:
            fx.ready.append(self)
        if self.reader.rounds:
            self.reader.on_decided(fx)

    def change_members(self, now: int, fx: Effects) -> None:
        """`members` decide from the current instance on, in which nobody has voted or bid here yet: whatever
        is known of ballots and answers was the business of others."""
        members = self.members
        seats = members.seats
        self.peers = [node for node in seats if node != self.me]
        self.seated = members.seated(self.me, self.seat)
        self.voter = self.seated and not self.doubt.active and self.inquiry.fenced is None
        # Its majority promised it as other members: the next instance needs a Prepare of these.
        self.proposer.held = False
        # Whoever sent them may have no seat now.
        self.early_prepare = self.early_accept = None
        self.forwarder.members_changed()
        self.reader.members_changed(fx)
        self.doubt.members_changed(now, fx)
        self.master.members_changed(now, fx)
        if not self.seated:
            self.proposer.abandon()
            fx.unseated += self.own  # reach: unseated
            self.own.clear()
            self.tries.clear()
        fx.members_changed.append(self)

    def on_stranger(self, sender: int, instance: int, now: int, fx: Effects) -> None:
        """Somebody who is no member here votes or bids in an instance: one of later members, or of earlier
        ones, who does not know it yet."""
        if instance > self.instance:
            self.learner.ask(sender, now, fx)  # reach: member-of-later
        elif instance < self.instance:
            fx.now.peer(sender).positions.append(self.position())  # reach: member-of-earlier

    def _count_tries(self, fx: Effects) -> None:
        """What was tried in this instance and is not in what it decided has lost once more."""
        for seq in self.tried:
            if seq in self.own:
                tries = self.tries.get(seq, 0) + 1
                if tries < self.bounds.attempts:
                    self.tries[seq] = tries
                    continue
                del self.own[seq]
                fx.conflicts.append(seq)  # reach: attempts-used-up
            self.tries.pop(seq, None)
        self.tried = []

    def _take_early(self, now: int, fx: Effects) -> None:
        """Handle what came before its instance had begun."""
        prepare, accept = self.early_prepare, self.early_accept
        self.early_prepare = self.early_accept = None
        if prepare is not None and prepare[1][1] >= self.instance:
            self.on_prepare(*prepare, now, fx)  # reach: early-prepare-taken
        if accept is not None and accept[1][1] >= self.instance:
            self.on_accept(*accept, now, fx)  # reach: early-accept-taken

    # Timers

    def wake(self, at: int, fx: Effects) -> None:
        """Ask for `on_timer` at `at`, if it is not asked for sooner. Every timer that is set says so."""
        if at < self.others_at:
            self.others_at = at
        if at < self.due:
            self.due = at
            fx.timers.append(self)

    def wake_for_instance(self, at: int, fx: Effects) -> None:
        """As `wake`, for what the open instance sets, and takes back when it is decided."""
        if at < self.due:
            self.due = at
            fx.timers.append(self)

    def on_timer(self, now: int, fx: Effects) -> int:
        """Do everything that is due; returns when this group's next timer is, in ns."""
        proposer, learner = self.proposer, self.learner
        if now < self.others_at and (
            proposer.phase or not (self.own or self.inner.count or proposer.completing)
        ):
            # Mostly the instance that asked is long decided: then no other role need be looked at.
            at = min(proposer.round_at(), learner.leftover_at)
            if now < at:
                return min(at, self.others_at)
        self.others_at = NEVER
        self.expire(now, fx)
        master_at, inner_at = self.master.on_timer(now, fx), self.inner.on_timer(now, fx)
        # The forwarder first: what it gives up the proposer takes on in the same pass.
        others_at = self.forwarder.on_timer(now, fx)
        proposer_at = proposer.on_timer(now, fx)
        if not proposer.phase:
            others_at = min(others_at, proposer_at)
        learner_at = learner.on_timer(now, fx)
        others_at = min(
            others_at,
            learner.position_at,
            self.reader.on_timer(now, fx),
            self.doubt.on_timer(now, fx),
            self.expire_at,
            master_at,
            inner_at,
            self.recall.on_timer(now, fx),
        )
        self.others_at = min(self.others_at, others_at)
        return min(others_at, proposer_at, learner_at)

    def random_peer(self) -> int:
        """Any other member."""
        return self.rng.choice(self.peers)
