"""The lease of a group: who is its master, until when, and who tries to be the next one.

The owner's lease counts from the clock read before its operation was made, shortened for clocks that
run at different rates; everybody else's from when the operation was learned, which is later. A node bids
for a lease only when the last one that it knows of has ended by its own clock, and names that one's version:
if another operation was decided meanwhile, its own changes nothing. So no two nodes hold a lease at one time,
as long as no clock gains more on another than `drift_ppm` allows; they need not agree on the time.

Whose operation it is says its random number, not who had it decided: one that another node proposed again
after a time-out counts for its owner all the same, from its own start (reference, S10).

The time of a step must have been read after everything that the step takes in had arrived: a lease that was
counted from before its operation was made would end too early here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.system import (
    TERMS_MAX,
    Reign,
    ReignOp,
    Terms,
    encode_reign_op,
    heir_of,
    note_term,
    reign_by,
    term_in,
)
from paxmux.engine.paxos.timers import NEVER

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group

RENEWALS: Final = 4
"""A lease is renewed so often before it ends: at fixed times, so that those of many groups share a turn."""
RANK_STEPS: Final = 8
"""Whoever is not the first to be master waits one of so many parts of a lease for each that goes before."""
STARTS_MAX: Final = 8
"""Own operations that may still be decided and whose start is remembered."""
MILLION: Final = 1_000_000


class LeaseTerms(NamedTuple):
    """Which lease this node tries to have."""

    enabled: bool = False
    lease: int = 10_000_000_000
    """ns."""
    drift_ppm: int = 10_000
    """By how much a clock may run faster than another one."""


NO_LEASE: Final = LeaseTerms()


class Master:
    """One group's lease."""

    __slots__ = (
        "away_until",
        "bid_at",
        "drift_ppm",
        "enabled",
        "g",
        "lease",
        "reign",
        "starts",
        "terms",
        "unclear_before",
        "until",
    )

    def __init__(self, group: Group, terms: LeaseTerms, reign: Reign, history: Terms, now: int) -> None:
        """`reign`, `history`: as the log has them."""
        self.g = group
        self.enabled = terms.enabled
        """Whether this node wants to be master."""
        self.lease = terms.lease
        self.drift_ppm = terms.drift_ppm
        self.reign = reign
        self.terms = history
        self.unclear_before = NEVER if group.recall.lost else self._known_from()
        """Which term it was before this instance is not known any more."""
        # Nobody knows when it began: so it begins now. This node's own ended with the life before this one.
        self.until = now + reign.lease if reign.node not in (0, group.me) else 0
        """When the lease of `reign` ends by this node's clock; its owner must not count on it longer."""
        self.starts: dict[int, int] = {}
        """Own operations (nonce) -> the clock before they were made."""
        self.away_until = 0
        """This node has given its lease back, and does not bid before."""
        self.bid_at = self.until if self.enabled else NEVER
        """When to bid, or renew."""
        if self.enabled:
            self._bid_from(max(now, self.until))

    # What callers ask

    @property
    def node(self) -> int:
        """Who had the lease last; 0: nobody since it was given back, or ever."""
        return self.reign.node

    @property
    def version(self) -> int:
        """The instance of the last operation; -1: none."""
        return self.reign.version

    @property
    def term(self) -> int:
        """The instance in which this reign began; -1: there is none."""
        return self.reign.term

    def holds(self, now: int) -> bool:
        """Whether this node is the master."""
        return self.reign.node == self.g.me and now < self.until

    def believed(self, now: int) -> int:
        """The master, as far as is known here; 0: nobody."""
        return self.reign.node if now < self.until else 0

    def term_at(self, instance: int) -> int | None:
        """The term that writes in this instance, which is decided here, must name; -1: none will do. None:
        that was too many elections ago."""
        return term_in(self.terms, self.unclear_before, instance)

    def set_lease(self, lease: int) -> None:
        """For the next operations of this node, in ns."""
        self.lease = lease

    def drop(self, now: int, fx: Effects, heir: int = 0) -> bool:
        """Give the lease back, and bid for no other for as long as two of them take; False if this node has
        none. `heir`: who is to have it next, if it wants."""
        g = self.g
        if self.enabled:
            self.away_until = now + 2 * self.lease
            self._bid_from(self.away_until)
            g.wake(self.bid_at, fx)
        if not self.holds(now):
            return False
        # From here on nobody counts on it, whatever becomes of the operation.
        self.until = 0
        self.starts.clear()
        op = ReignOp(g.me, g.incarnation, self.reign.version, 0, release=True, heir=heir)
        g.inner.submit_lease(g.rng.getrandbits(64), encode_reign_op(op), now + self.lease, fx)
        fx.master_changed.append(g)
        return True

    # What is decided

    def decided(self, nonce: int, payload: bytes, instance: int, now: int, fx: Effects) -> bool:
        """An operation stands in a value that is decided; False if it changes nothing."""
        g = self.g
        start = self.starts.pop(nonce, None)
        reign = reign_by(self.reign, g.members.seats, payload, instance)
        if reign is None:
            return False
        note_term(self.terms, self.reign, reign, instance)
        self.unclear_before = self._known_from()
        self.reign = reign
        mine = reign.node == g.me
        if not mine:
            self.until = now + reign.lease if reign.node else 0
        elif start is not None and reign.incarnation == g.incarnation:
            self.until = start + reign.lease - reign.lease * self.drift_ppm // MILLION
        else:
            # Of an earlier life, which may have begun to count on it: this one has none.
            self.until = 0
        if self.enabled:
            if mine and now < self.until:
                self.bid_at = self._renewal(now)
            else:
                self._bid_from(max(now, self.until), heir_of(payload))
            g.wake(self.bid_at, fx)
        fx.master_changed.append(g)
        return True

    def recall(self, reign: Reign, terms: Terms, now: int, fx: Effects) -> None:
        """What had been lost is known again."""
        self.reign, self.terms = reign, terms
        self.unclear_before = self._known_from()
        self.until = now + reign.lease if reign.node not in (0, self.g.me) else 0
        self.starts.clear()
        fx.master_changed.append(self.g)

    def _known_from(self) -> int:
        return self.terms[0][0] if len(self.terms) >= TERMS_MAX else 0

    # Bidding

    def _renewal(self, now: int) -> int:
        """On a grid, which all groups of this node share."""
        grid = self.lease // RENEWALS
        return now - now % grid + grid

    def _bid_from(self, moment: int, heir: int = 0) -> None:
        """Nobody is master from `moment` on: bid when it is this node's turn."""
        g = self.g
        rank = self.rank() if heir in (0, g.me) else self.rank() + RANK_STEPS // 2
        if heir == g.me:
            rank = 0
        self.bid_at = max(self.away_until, moment + min(rank, RANK_STEPS) * self.lease // RANK_STEPS)

    def rank(self) -> int:
        """How many members go before this one: groups have different orders, so masters are spread, also
        where one is missing."""
        g = self.g
        nodes = sorted(g.members.seats)
        if g.me not in g.members.seats:
            return RANK_STEPS
        first = nodes[g.index % len(nodes)]
        if g.me == first:
            return 0
        return 1 + sum(_mix(g.index, node) < _mix(g.index, g.me) for node in nodes if node != first)

    def on_timer(self, now: int, fx: Effects) -> int:
        """Do what is due; returns when the next timer is."""
        g = self.g
        if not self.enabled:
            return NEVER
        if now < self.bid_at:
            return self.bid_at
        held = self.holds(now)
        if not g.voter or (self.reign.node != g.me and now < self.until):
            self._bid_from(max(now + self.lease // RENEWALS, self.until))
            return self.bid_at
        nonce = g.rng.getrandbits(64)
        if len(self.starts) == STARTS_MAX:
            del self.starts[next(iter(self.starts))]
        self.starts[nonce] = now
        op = ReignOp(g.me, g.incarnation, self.reign.version, self.lease, fresh=not held)
        self.bid_at = self._renewal(now) if held else now + self.lease // RENEWALS
        g.inner.submit_lease(nonce, encode_reign_op(op), self.bid_at, fx)
        return self.bid_at

    def members_changed(self, now: int, fx: Effects) -> None:
        """Other members decide from here on; a master that is none of them stays until its lease ends."""
        if self.enabled and self.reign.node != self.g.me:
            self._bid_from(max(now, self.until))
            self.g.wake(self.bid_at, fx)


def _mix(group: int, node: int) -> int:
    return crc32(node.to_bytes(8, "little"), group)
