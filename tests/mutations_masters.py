"""Mistakes in leases: whose they are, how long they last, and what is written under them."""

from __future__ import annotations

from paxmux.engine.paxos import system
from paxmux.engine.paxos.inner import Inner
from paxmux.engine.paxos.master import Master
from paxmux.shards.applier import Applier
from tests import test_inner, test_system
from tests.mutation_harness import Change, both, one, tested

MASTERS = (
    one(
        "a lease that follows one long past counts", "I29",
        system, "after", "if op.version != reign.version:", "if False:",
    ),
    one(
        "the own lease counts from its decision", "I29",
        Master, "decided", "self.until = start + reign.lease -", "self.until = now + reign.lease -",
    ),
    one(
        "nothing is left for clocks that run apart", "I29",
        Master, "decided", " - reign.lease * self.drift_ppm // MILLION", "",
    ),
    one(
        "any own operation says when a lease began", "I29",
        Master, "decided", "start = self.starts.pop(nonce, None)",
        "start = max(self.starts.values(), default=None)",
    ),
    one(
        "a lease of an earlier life is the own one", "I29",
        Master, "decided",
        "elif start is not None and reign.incarnation == g.incarnation:\n"
        "        self.until = start + reign.lease - reign.lease * self.drift_ppm // MILLION",
        "elif True:\n        self.until = now + reign.lease",
    ),
    one(
        "nobody waits for another's lease to end", "I29",
        Master, "decided", "self.until = now + reign.lease if reign.node else 0", "self.until = 0",
    ),
    one(
        "a lease is over with the life that knew of it", "I29",
        Master, "__init__", "self.until = now + reign.lease if reign.node not in (0, group.me) else 0",
        "self.until = 0",
    ),
    both(
        "whoever wants to be master bids", "I29",
        Change(Master, "on_timer", "(self.reign.node != g.me and now < self.until)", "False"),
        Change(
            Master, "decided",
            "self._bid_from(max(now, self.until), heir_of(payload))", "self._bid_from(now, heir_of(payload))",
        ),
    ),
    tested(
        "a lease that is given back goes on", "I29",
        Master, "drop", "self.until = 0", "pass",
        test_inner.test_a_master_that_gives_back_counts_on_nothing_from_then_on,
        "What is given back is decided before anybody else bids, in all of these runs.",
    ),
    one(
        "whose lease it is does not matter", "I29",
        Master, "holds", "self.reign.node == self.g.me and now < self.until", "now < self.until",
    ),
    one(
        "who is no member becomes master", "I29",
        system, "reign_by", "op is None or op.node not in members", "op is None",
    ),
    tested(
        "another life goes on in the same term", "I30",
        system, "after", "and reign.incarnation == op.incarnation and", "and",
        test_system.test_a_reign_goes_on_and_ends,
        "A new life asks for a fresh term by itself.",
    ),
    tested(
        "another node goes on in the same term", "I30",
        system, "after", "same = reign.node == op.node and", "same = reign.node != 0 and",
        test_system.test_a_reign_goes_on_and_ends,
        "A node that has no lease asks for a fresh term by itself.",
    ),
    one(
        "a term holds from its own instance on", "I30",
        system, "note_term", "terms.append((instance + 1, now.term))", "terms.append((instance, now.term))",
    ),
    one("nobody writes down the terms", "I30 I31", Inner, "state", "g.master.terms)", "[])"),
    one(
        "a fence is compared with the present term", "I30",
        Applier, "_execute", "now = self.term_at(instance)", "now = self.term_at(1 << 62)",
    ),
    one("nobody looks at the fence", "I30", Applier, "_execute", "stale = term != now", "stale = False"),
    one(
        "leases are renewed when they have ended", "I23",
        Master, "_renewal", "return now - now % grid + grid", "return now + self.lease + grid",
    ),
    one(
        "nobody bids when a lease has ended", "I23",
        Master, "_bid_from", "self.bid_at = max(", "self.bid_at = NEVER or max(",
    ),
    tested(
        "a lease that has ended is renewed in its term", "I30",
        Master, "on_timer", "fresh=not held", "fresh=False",
        test_inner.test_a_lease_that_goes_on_keeps_its_term_and_one_that_ended_does_not,
        "Nobody else was master meanwhile, so nothing was written that the term would have to keep out.",
    ),
)  # fmt: skip
