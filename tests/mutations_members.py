"""Mistakes in who the members of a group are, and from which instance on."""

from __future__ import annotations

from paxmux.engine.paxos import system
from paxmux.engine.paxos.doubt import Doubt
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.inner import Inner
from paxmux.engine.paxos.proposer import Proposer
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.reader import Reader
from tests import test_inner, test_inner_state, test_suspect
from tests.mutation_harness import Change, both, one, tested

_WISHED = (
    "[len(change.members) // 2 + 1 for entry in self.entries or () if entry[4] == 100_000_000 and "
    '(change := __import__("paxmux.engine.paxos.system", fromlist=["system"]).decode_change(entry[5]))]'
)

MEMBERS = (
    one(
        "a change of members that are not any more counts", "I28",
        system, "changed_by", "if change.version != membership.version:", "if False:",
    ),
    both(
        "a change that is meant for another cluster counts", "I28",
        Change(system, "changed_by", "if change.cluster != cluster:", "if False:"),
        Change(Inner, "submit_change", "elif change.cluster != g.cluster:", "elif False:"),
    ),
    one(
        "new members decide an instance early", "I28",
        Proposer, "_accepted", "if len(self.votes) < g.members.majority:",
        f"if len(self.votes) < min([g.members.majority, *{_WISHED}]):",
    ),
    both(
        "new members decide an instance late", "I28",
        Change(
            Inner, "_change", "g.members = members_of(membership)",
            'values.__dict__.setdefault("late", {})[g] = members_of(membership)',
        ),
        Change(
            Group, "decide", "instance = self.instance\n",
            "instance = self.instance\n"
            '    late = values.__dict__.get("late", {}).pop(self, None)\n'
            "    if late is not None:\n"
            "        self.members = late\n"
            "        self.change_members(now, fx)\n",
        ),
    ),
    one(
        "a ballot is held over a change of members", "I8 I28",
        Group, "change_members", "self.proposer.held = False", "pass",
    ),
    one(
        "a learner votes", "I12 I28",
        Group, "change_members", "self.voter = self.seated and", "self.voter = True and",
    ),
    one(
        "who is removed goes on voting", "I12 I28",
        Group, "change_members", "self.voter = self.seated and", "self.voter = self.voter and",
    ),
    one(
        "a new seat is as good as the old one", "I12",
        Members, "seated", "self.seats.get(node) == seat", "node in self.seats",
    ),
    one(
        "who is removed keeps its proposals", "I22",
        Group, "change_members", "if not self.seated:", "if False:",
    ),
    one("nobody writes down who the members are", "I31", Inner, "decided", "self.record(fx)", "pass"),
    one(
        "the members are written down as they were", "I31",
        Inner, "state", "g.members.membership()", "g.members.membership()._replace(version=-1)",
    ),
    one(
        "who knows the members may stand below them", "I28 I31",
        Inner, "decided", 'fx.records.append((DECIDED, g.index, instance, 0, 0, b""))', "pass",
    ),
    both(
        "reads go by members that are not any more", "I21 I28",
        Change(Group, "change_members", "self.reader.members_changed(fx)", "pass"),
        Change(Reader, "on_decided", "if round.members is g.members:", "if True:"),
    ),
    one(
        "a change whose outcome is known is not answered", "I22",
        Inner, "decided", "fx.answered.append((operation.seq, code, instance, None))", "pass",
    ),
    one(
        "a change that another one has overtaken waits on", "I22",
        Inner, "_outdated", "fx.answered.append((operation.seq, VERSION_CONFLICT, instance, None))", "pass",
    ),
    tested(
        "what is learned again is taken for the latest", "I31",
        Inner, "record", "lost = g.instance < g.doubt.decided", "lost = False",
        test_inner_state.test_what_is_learned_again_is_told_to_the_log_as_what_it_is,
        "It takes a second death while the group learns again, between two operations that it had lost.",
    ),
    tested(
        "the answers of former members cure a suspect", "I27",
        Doubt, "members_changed", "for node, answer in self.answers.items() if node in g.members.seats",
        "for node, answer in self.answers.items()",
        test_suspect.test_who_is_no_member_any_more_has_not_answered,
        "It takes a suspect whose members change between two answers, and a promise that it had lost.",
    ),
    tested(
        "the only member cures itself", "I27",
        Doubt, "judge", "or not (g.peers and g.seated):", "or not g.seated:",
        test_suspect.test_who_has_become_the_only_member_asks_nobody_and_votes_no_more,
        "A group with a damaged member is not left to it alone, but after all has been judged.",
    ),
    tested(
        "what came early outlives a change of members", "I28",
        Group, "change_members", "self.early_prepare = self.early_accept = None", "pass",
        test_inner.test_what_came_early_from_a_member_that_was_is_forgotten,
        "Who bids in the first instance of new members has decided on them, and bids only if it is one.",
    ),
    tested(
        "nobody waits for who is new", "I23",
        Inner, "_ready", "return False", "return True",
        test_inner.test_a_change_waits_until_who_is_new_has_caught_up_in_its_seat,
        "It only takes longer: whoever is new learns while the group stands still.",
    ),
)  # fmt: skip
