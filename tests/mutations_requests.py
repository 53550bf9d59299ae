"""Mistakes in what becomes of requests: deadlines, attempts, forwarding, reads, execution."""

from __future__ import annotations

from paxmux.engine.paxos.forwarder import Forwarder
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.proposer import Proposer
from paxmux.engine.paxos.reader import Reader, Round
from paxmux.shards import applier as applying
from paxmux.shards.applier import Applier
from paxmux.shards.calls import Calls
from tests import test_repair
from tests.mutation_harness import Change, both, one, tested

PROPOSALS = (
    one(
        "own proposals are proposed for ever", "I18",
        Group, "decide", "self.own.pop(entry[2], None)", "self.own.get(entry[2])",
    ),
    one(
        "the own is known by its number alone", "I17",
        Group, "decide", "if entry[0] == me and entry[1] == incarnation:", "if True:",
    ),
    one(
        "only the oldest proposal expires", "I22",
        Group, "expire", "for seq, proposal in self.own.items()",
        "for seq, proposal in list(self.own.items())[:1]",
    ),
    one("what has expired is proposed on", "I22", Group, "expire", "del self.own[seq]", "pass"),
    one(
        "a deadline that passes is a conflict", "I20",
        Group, "expire", "fx.expired += late", "fx.conflicts += late",
    ),
    one(
        "what came last goes first", "I19",
        Group, "front", "in self.own.items()", "in reversed(self.own.items())",
    ),
    one("after a conflict it is proposed on", "I20", Group, "_count_tries", "del self.own[seq]", "pass"),
    one("nobody is told of a conflict", "I22", Group, "_count_tries", "fx.conflicts.append(seq)", "pass"),
    one(
        "what lost an Accept is given up though it may be decided", "I20",
        Proposer, "lose", "self.abandon()", "g._count_tries(fx)\n        self.abandon()",
    ),
)  # fmt: skip

FORWARDS = (
    one(
        "what is decided is taken again", "I18",
        Forwarder, "on_forward", "if mark is None or mark[0] != incarnation or seq > mark[1]:", "if True:",
    ),
    one(
        "nothing is too old to be taken", "I18",
        Forwarder, "on_forward", "born >= self.known_from if mark is None else born > mark[2]", "True",
    ),
    one(
        "a first forward is never too old", "I18",
        Forwarder, "on_forward", "born >= self.known_from if mark is None else born > mark[2]",
        "mark is None or born > mark[2]",
    ),
    one(
        "a forward of an earlier life is never too old", "I18",
        Forwarder, "on_forward", "else born > mark[2]", "else True",
    ),
    one(
        "what was taken is kept when the ballot is lost", "I18",
        Forwarder, "drop", "self.taken.clear()", "pass",
    ),
    one(
        "a node without the ballot takes forwards", "I18",
        Forwarder, "on_forward", "if ballot[1] != g.me or", "if",
    ),
    both(
        "forwards go on from node to node", "I18",
        Change(Forwarder, "on_forward", "if ballot[1] != g.me or", "if"),
        Change(
            Forwarder, "on_forward",
            "if origin != sender or incarnation != entries[0][1] or seq <= above:", "if False:",
        ),
        Change(
            Forwarder, "_send",
            "entries = g.front(now, fx)", "entries = g.front(now, fx) + sum(self.taken.values(), [])",
        ),
    ),
    one(
        "what others got decided is not noted", "I18",
        Forwarder, "on_forward", "mark = self.marks.get(sender)", "mark = None",
    ),
    one(
        "what was taken stays when it is decided elsewhere", "I18",
        Forwarder, "_note", "and entry[2] > seq]", "]",
    ),
    one(
        "what was decided together with the own is not noted", "I18",
        Group, "decide", "(self.mixed or not own_ballot)", "not own_ballot",
    ),
    one(
        "what others decide in between is not noted", "I18",
        Group, "decide", "(self.mixed or not own_ballot)", "self.mixed",
    ),
    one(
        "what is handed on is forgotten", "I22",
        Forwarder, "_send", "self.last_seq = entries[-1][2]", "self.last_seq = entries[-1][2]; g.own.clear()",
    ),
    one(
        "patience has no end", "I23",
        Forwarder, "hand_on", "self.until = now + self.patience", "self.until = NEVER",
    ),
)  # fmt: skip

READS = (
    both(
        "a minority is enough for a read", "I21",
        Change(Round, "target", "if len(self.tops) < self.members.majority:", "if not self.tops:"),
        Change(
            Round, "target",
            "sorted(self.tops.values())[self.members.majority - 1]", "max(self.tops.values())",
        ),
    ),
    one(
        "of a majority's answers the lowest counts", "I21",
        Round, "target", "sorted(self.tops.values())[self.members.majority - 1]", "min(self.tops.values())",
    ),
    one(
        "a voter does not tell of its accept", "I21",
        Group, "top", "self.instance if", "self.instance - 1 if",
    ),
    one(
        "a read joins a round that is already sent", "I21",
        Reader, "join", "self.waiting[seq] = deadline",
        "(next(reversed(self.rounds.values())).reads if self.rounds else self.waiting)[seq] = deadline",
    ),
    both(
        "a read goes before its instance is decided", "I21",
        Change(Reader, "_answered", "if target < g.instance:", "if target <= g.instance:"),
        Change(Reader, "on_decided", "target >= g.instance", "target > g.instance"),
        Change(
            Calls, "_release",
            "self._appliers[index].next > instance", "self._appliers[index].next >= instance",
        ),
    ),
    one(
        "questions are asked once", "I22",
        Reader, "_again", "if node != g.me and node not in round.tops:", "if False:",
    ),
    one(
        "reads are forgotten when the round before them ends", "I22",
        Reader, "on_timer", "if self.waiting:", "if False:",
    ),
    one("reads do not expire", "I22", Reader, "expire", "if now < self.expire_at:", "if True:"),
    tested(
        "a replay shows what it has so far", "I19",
        Calls, "answer", "(call[2] in behind and", "(False and",
        test_repair.test_a_group_that_stands_lower_than_its_log_stood_shows_nothing,
        "A disk would have to lose the last decided value, and a read to come before a peer tells it.",
    ),
    one(
        "a read shows less than was decided when it came", "I19",
        Calls, "answer", "unshown = after and", "unshown = False and",
    ),
    one(
        "a read is answered before it is executed", "I21",
        Calls, "_release", "self._appliers[index].next > instance", "True",
    ),
)  # fmt: skip

EXECUTION = (
    one(
        "a result goes to the same number of another node", "I17",
        Applier, "_execute", "owned is not None and (origin, incarnation) == self._identity",
        "owned is not None",
    ),
    one(
        "it executes one too many", "I19",
        Applier, "apply", "max(self.next, instance + 1)", "max(self.next, instance)",
    ),
    one(
        "it leaves one out", "I19",
        Applier, "apply", "max(self.next, instance + 1)", "max(self.next, instance + 2)",
    ),
    one("it executes out of order", "I19", Applier, "apply", "if instance <= self.next:", "if True:"),
    one("a restart executes all again", "I19", Applier, "__init__", "_first_instance(machine)", "0"),
    one(
        "a restart leaves one out", "I19",
        applying, "_first_instance", "return applied + 1", "return applied + 2",
    ),
    one(
        "a restart executes the last one again", "I19",
        applying, "_first_instance", "return applied + 1", "return applied",
    ),
    one(
        "commit comes before the values", "I19",
        Applier, "_execute", "touched.add(smid)", "touched.add(smid); machine.commit(instance)",
    ),
    one(
        "the position in a batch is off by one", "I20",
        Applier, "_execute", "position = 0", "position = 1",
    ),
    one(
        "everybody's value comes with a context", "I17",
        Applier, "_execute", "proposal[4] if proposal is not None else None",
        "proposal[4] if proposal is not None else payload",
    ),
    one(
        "a result comes before its value is executed", "I20",
        Applier, "_execute", "code: int = Code.OK",
        "code: int = Code.OK\n        if proposal is not None:\n"
        "            self._replies((seq, code, instance, position, None))\n            proposal = None",
    ),
    one(
        "a result is given twice", "I17 I20",
        Applier, "_execute", "self._replies((seq, code, instance, at, result))",
        "self._replies((seq, code, instance, at, result)); "
        "self._replies((seq, code, instance, at, result))",
    ),
    one(
        "a replay forgets who waits", "I19 I22",
        Applier, "go_on", "self._owned.pop(instance, None)", "None",
    ),
)  # fmt: skip
