"""Mistakes in how an instance is decided: acceptor, proposer, majorities, instances, learning."""

from __future__ import annotations

from paxmux.engine.paxos.acceptor import Acceptor
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.inquiry import Inquiry
from paxmux.engine.paxos.learner import Learner
from paxmux.engine.paxos.proposer import Proposer
from paxmux.engine.paxos.quorum import Members
from paxmux.shards import slice as building
from tests import test_protocol_rules
from tests.mutation_harness import Change, both, one, tested

NO_CHAIN = Change(Group, "on_accept", "if value[8:12] != self.chain:", "if False:")
"""A value for another instance is kept out by its chain, too."""
NO_CHAIN_LEARNED = Change(
    Learner, "on_learned", "if values.chain_in(value) != g.chain and g.chain:", "if False:"
)

ACCEPTOR = (
    one("accepts below its promise", "I5", Acceptor, "accept", "if ballot < self.promised:", "if False:"),
    one(
        "promises below its promise", "I4",
        Acceptor, "promise", "elif ballot < self.promised:", "elif False:",
    ),
    one("a promise is not recorded", "I6", Acceptor, "promise", "fx.records.append", "(lambda record: None)"),
    one("an accept is not recorded", "I6", Acceptor, "accept", "fx.records.append", "(lambda record: None)"),
    one(
        "an accept is no promise", "I5",
        Acceptor, "accept", "self.promised = self.accepted", "self.accepted",
    ),
    one(
        "the promise ends with its instance", "I4 I8",
        Acceptor, "advance", 'self.value = b""', "self.promised = NULL",
    ),
    one(
        "a promise forgets what was accepted", "I7",
        Acceptor, "promise", "self.promised = ballot",
        'self.promised = ballot; self.accepted = NULL; self.value = b""',
    ),
    one("an accept is recorded twice", "I2", Acceptor, "accept", "if ballot == self.accepted:", "if False:"),
    one(
        "a promise does not tell what was accepted", "I7",
        Group, "on_prepare", "accepted_round, accepted_node = acceptor.accepted",
        "accepted_round, accepted_node = NULL",
    ),
    one("promises leave before their sync", "I6", Group, "on_prepare", "fx.after.peer", "fx.now.peer"),
    one("votes leave before their sync", "I6", Group, "on_accept", "fx.after.peer", "fx.now.peer"),
    one("a wiped node votes", "I12", Group, "__init__", "members.seated(me, seat)", "me in members.seats"),
)  # fmt: skip

PROPOSER = (
    one(
        "the own vote counts before its sync", "I6",
        Proposer, "_accept", "self._start_round(g.timers.accept_first, now, fx)",
        "self._start_round(g.timers.accept_first, now, fx); self.on_synced(now, fx)",
    ),
    one(
        "Prepare leaves before the promise is synced", "I6",
        Proposer, "_prepare", "fx.after.all", "fx.now.all",
    ),
    one("what others accepted is ignored", "I7", Proposer, "_promised", "if self.best != NULL:", "if False:"),
    one(
        "what it accepted itself is ignored", "I7",
        Proposer, "on_synced", "g.acceptor.accepted, g.acceptor.value", 'NULL, b""',
    ),
    one(
        "any accepted value is adopted", "I7",
        Proposer, "_promised", "if accepted > self.best:", "if accepted != NULL:",
    ),
    one(
        "the lowest ballot is adopted", "I7",
        Proposer, "_promised", "if accepted > self.best:",
        "if accepted != NULL and (self.best == NULL or accepted < self.best):",
    ),
    tested(
        "a value without entries is none", "I7",
        Proposer, "_promised", "if self.best != NULL:", "if values.decode(self.best_value):",
        test_protocol_rules.test_a_value_without_entries_is_adopted_like_any_other,
        "Few seeds have a no-op that only some accept, and then a proposer with a value of its own.",
    ),
    one("half is a majority", "I3", Members, "__init__", "// 2 + 1", "// 2 or 1"),
    one("promises of another round count", "I3", Proposer, "on_prepare_reply", "and round == self.round", ""),
    one("votes of another round count", "I3", Proposer, "on_accept_reply", "and round == self.round", ""),
    one(
        "votes of another instance count", "I3",
        Proposer, "on_accept_reply", "and instance == self.g.instance", "",
    ),
    one("votes are kept over rounds", "I3", Proposer, "_start_round", "self.votes = set()", "pass"),
    one(
        "a promise counts as often as it comes", "I3",
        Proposer, "_promised", "self.votes.add(voter)", "self.votes.add((voter, len(self.votes)))",
    ),
    one(
        "a vote counts as often as it comes", "I3",
        Proposer, "_accepted", "self.votes.add(voter)", "self.votes.add((voter, len(self.votes)))",
    ),
    one("rejections are votes", "I3", Proposer, "on_accept_reply", "if rejected_by != NULL:", "if False:"),
    one(
        "rejections are promises", "I3",
        Proposer, "on_prepare_reply", "if rejected_by:\n",
        "if rejected_by and self.phase == PREPARING and (round, instance) == (self.round, self.g.instance):\n"
        '        self._promised(sender, NULL, b"", now, fx)\n    elif rejected_by:\n',
    ),
    one(
        "a round is used again after a restart", "I2",
        Proposer, "_prepare", "max(self.round, self.seen[0], g.acceptor.promised[0]) + 1", "self.round + 1",
    ),
    one(
        "a resend has another value", "I2",
        Proposer, "_resend", "self.round, self.value)", "self.round, g.take_batch(0, fx))",
    ),
    one(
        "a ballot is held over a phase that timed out", "I2 I8",
        Proposer, "on_timer", "self.held = False", "pass",
    ),
    one(
        "the ballot outlives a foreign decision", "I8",
        Proposer, "advance", "self.held and own_ballot", "self.held",
    ),
    one(
        "a ballot is held without a promise", "I8",
        Proposer, "open", "self.held and g.acceptor.promised == (self.round, g.me)", "self.round",
    ),
    both(
        "a ballot is held over a promise to another", "I8",
        Change(Proposer, "lose", "self.held = False", "pass"),
        Change(Proposer, "open", "self.held and g.acceptor.promised == (self.round, g.me)", "self.held"),
    ),
    one("a phase has no end", "I23", Proposer, "on_timer", "elif now >= self.phase_until:", "elif False:"),
)  # fmt: skip

INSTANCES = (
    one(
        "Prepare is answered for any instance", "I10",
        Group, "on_prepare", "if instance != self.instance:", "if False:",
    ),
    both(
        "Accept is answered for any instance", "I10",
        Change(Group, "on_accept", "if instance != self.instance:", "if False:"),
        NO_CHAIN,
    ),
    both(
        "an early Accept is handled at once", "I10",
        Change(
            Group, "on_accept",
            "if instance != self.instance:", "if not 0 <= instance - self.instance <= 1:",
        ),
        NO_CHAIN,
    ),
    one(
        "a notice counts for any ballot", "I9",
        Group, "on_chosen", "and self.acceptor.accepted == (round, sender)", "and self.acceptor.value",
    ),
    one(
        "a message of the next instance is proof of this one", "I9",
        Group, "_elsewhere", "self.learner.hurry(LATE_NOTICE, now, fx)",
        "self.decide(self.acceptor.value, now, fx, own_ballot=False)",
    ),
    one(
        "a position is proof", "I9",
        Learner, "on_position", "self.ask(sender, now, fx)",
        "g.decide(g.acceptor.value, now, fx, own_ballot=False) "
        "if g.acceptor.value else self.ask(sender, now, fx)",
    ),
    both(
        "any decided value is for this instance", "I9 I10",
        Change(Learner, "on_learned", "if instance != g.instance or", "if"),
        NO_CHAIN_LEARNED,
    ),
    one(
        "what is learned is not recorded", "I6 I9",
        Learner, "on_learned", "fx.records.append", "(lambda record: None)",
    ),
    one(
        "what is accepted passes for what is learned", "I9",
        Learner, "on_learned", "if g.acceptor.accepted != (round, node) or g.acceptor.value != value:",
        "if g.acceptor.accepted == NULL:",
    ),
    one("what is learned is recorded as accepted", "I4 I5", Learner, "on_learned", "(LEARNED,", "(2,"),
    one(
        "leftovers stay", "I23",
        Learner, "_leftover", "if not ask_only and g.acceptor.accepted != NULL:", "if False:",
    ),
    one(
        "nobody asks for what he lacks", "I24",
        Learner, "ask", "fx.now.peer(peer).asks.append((g.index, g.instance))", "pass",
    ),
    both(
        "a gap makes nobody ask", "I24",
        Change(Group, "_elsewhere", "self.learner.ask(sender, now, fx)", "pass"),
        Change(Learner, "on_position", "self.ask(sender, now, fx)", "pass"),
    ),
    one(
        "positions are told without a pause", "I25",
        Learner, "_next_position", "return due - due % grid + grid", "return now + grid // 20",
    ),
)  # fmt: skip

HISTORY = (
    both("a value of another history is accepted", "I11", NO_CHAIN),
    one("one peer's answer fences a replica", "I11", Inquiry, "on_reply", ">= g.members.majority", ">= 1"),
    one("the chain begins anew with each life", "I11", building, "chain_at", "if not instance:", "if True:"),
    one(
        "a value vouches for nothing before it", "I11",
        Group, "decide", 'checksum.to_bytes(4, "little")', "self.chain",
    ),
)  # fmt: skip
