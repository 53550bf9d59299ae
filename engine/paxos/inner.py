"""The lane of a group's inner operations: leases and changes of the membership on their way into an instance.

They go in front of all user values, in the next instance that this node opens; where another node holds the
ballot they are handed to it, a few times, and then this node bids. None is numbered as proposals are: each
names the version that it changes, so one that is decided twice counts once, and whoever is handed one may
propose it as it is.

A change of the membership waits here until everybody whom it adds has learned all but a little of what is
decided: a new voter that must learn first would stall the group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import DECIDED, SYSTEM, Effects
from paxmux.engine.paxos.quorum import members_of
from paxmux.engine.paxos.system import (
    BAD_MEMBERS,
    GID_NOT_SAME,
    MASTER_SMID,
    MEMBERSHIP_SMID,
    NOT_A_MEMBER,
    OK,
    VERSION_CONFLICT,
    Change,
    SystemState,
    changed_by,
    encode_change,
    encode_state,
    may_be,
)
from paxmux.engine.paxos.timers import NEVER

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group

NEAR: Final = 64
"""A node that lacks no more instances than this is as good as there."""
TAKEN_MAX: Final = 4
"""Operations that one other node may have waiting here."""
OPERATIONS_MAX: Final = 16
"""Own ones."""
HANDED_MAX: Final = 3
"""Operations are handed on to one holder so often before this node bids itself."""
INNER_MAX_BYTES: Final = 1 << 15
"""Of one operation."""


class Operation(NamedTuple):
    """One of this node, until it is decided, or too late."""

    smid: int
    payload: bytes
    deadline: int
    seq: int
    """Of the request that it is for; 0: of none."""
    change: Change | None
    added: dict[int, int]
    """Node -> seat: who must have caught up before."""


class Inner:
    """One group's inner operations."""

    __slots__ = (
        "count",
        "expire_at",
        "g",
        "handed",
        "handed_to",
        "lease",
        "nudge_at",
        "own",
        "resend_at",
        "say_again",
        "taken",
    )

    def __init__(self, group: Group, *, say_again: bool = False) -> None:
        """`say_again`: the log has lost what it said last."""
        self.g = group
        self.say_again = say_again
        self.own: dict[int, Operation] = {}
        """By nonce."""
        self.lease = 0
        """The one of them that is a lease: there is one at a time."""
        self.taken: dict[int, list[values.Entry]] = {}
        """Origin -> operations that it has handed on to this node."""
        self.count = 0
        """Of those that may go into an instance."""
        self.resend_at = NEVER
        self.expire_at = NEVER
        self.nudge_at = 0
        self.handed = 0
        """How often something was handed on to the holder of that ballot since an operation of this node was
        decided: one that has done nothing about it is hardly there, whatever becomes of each operation."""
        self.handed_to = NULL

    def say(self, fx: Effects) -> None:
        """Tell the log again what it has lost, once everything is learned that it knew to be decided."""
        if self.say_again and self.g.instance >= self.g.doubt.decided:
            self.record(fx)

    def state(self) -> SystemState:
        """What the inner machines say, from the current instance on."""
        g = self.g
        return SystemState(g.members.membership(), g.master.reign, g.master.terms)

    def record(self, fx: Effects) -> None:
        """Tell the log."""
        g = self.g
        # Of what is learned again later operations are known to the log, or were.
        lost = g.instance < g.doubt.decided
        self.say_again = self.say_again and lost
        fx.records.append((SYSTEM, g.index, g.instance, int(lost), 0, encode_state(self.state())))

    # What this node wants

    def submit_lease(self, nonce: int, payload: bytes, deadline: int, fx: Effects) -> None:
        """Have an operation of the master decided by `deadline`, or never mind. It takes the place of the one
        before."""
        self.own.pop(self.lease, None)
        self.lease = nonce
        self._add(nonce, Operation(MASTER_SMID, payload, deadline, 0, None, {}), fx)

    def submit_change(self, seq: int, deadline: int, change: Change, now: int, fx: Effects) -> None:
        """Have a change of the membership decided; its outcome comes in `fx.answered` under `seq`."""
        g = self.g
        code = OK
        if not g.voter:
            code = NOT_A_MEMBER
        elif change.cluster != g.cluster:
            code = GID_NOT_SAME
        elif change.version != g.members.version or len(self.own) >= OPERATIONS_MAX:
            code = VERSION_CONFLICT
        elif not may_be(change.members):
            code = BAD_MEMBERS
        if code:
            fx.answered.append((seq, code, g.instance, None))
            return
        seats = g.members.seats
        added = {node: seat for node, (seat, _) in change.members.items() if seats.get(node) != seat}
        operation = Operation(MEMBERSHIP_SMID, encode_change(change), deadline, seq, change, added)
        self._add(g.rng.getrandbits(64), operation, fx)

    def _add(self, nonce: int, operation: Operation, fx: Effects) -> None:
        self.own[nonce] = operation
        self.resend_at = 0
        self.expire_at = min(self.expire_at, operation.deadline)
        self.g.wake(0 if operation.added else operation.deadline, fx)
        self.look(fx)

    def look(self, fx: Effects) -> None:
        """Count anew what may go into an instance."""
        before = self.count
        self.count = sum(map(len, self.taken.values())) + sum(map(self._ready, self.own.values()))
        if self.count and not before:
            fx.ready.append(self.g)

    def _ready(self, operation: Operation) -> bool:
        g = self.g
        heard, near = g.learner.heard, g.instance - NEAR
        for node, seat in operation.added.items():
            if node != g.me and (g.learner.heard_seats.get(node) != seat or heard.get(node, -1) < near):
                return False
        return True

    # On the way

    def take(self) -> list[values.Entry]:
        """What goes in front of the next instance's value."""
        entries: list[values.Entry] = []
        me = self.g.me
        for nonce, operation in self.own.items():
            if self._ready(operation):
                entries.append((me, 0, nonce, 0, operation.smid, operation.payload))
        for taken in self.taken.values():
            entries += taken
        self.taken.clear()
        self.count = len(entries)
        return entries

    def hand_on(self, now: int, fx: Effects) -> bool:
        """Leave the operations to the node that holds the ballot; False if this node had better bid."""
        g = self.g
        ballot = g.forwarder.holder()
        if not g.timers.forward or ballot[1] == 0:
            return False
        if self.lease in self.own and ballot[1] == g.master.node:
            # Its lease has ended, so it will hardly take this one on.
            return False
        if ballot != self.handed_to:
            self.handed, self.handed_to = 0, ballot
        if now >= self.resend_at:
            if self.handed == HANDED_MAX:
                return False  # reach: inner-bid
            entries = [
                (g.me, 0, nonce, 0, operation.smid, operation.payload)
                for nonce, operation in self.own.items()
                if self._ready(operation)
            ]
            self.handed += 1  # reach: inner-handed-on
            self.resend_at = now + g.timers.forward
            fx.now.peer(ballot[1]).inner_forwards.append(
                (g.index, values.encode(entries, inner=len(entries)))
            )
        g.wake(self.resend_at, fx)
        return True

    def on_forward(self, sender: int, batch: bytes, fx: Effects) -> None:
        """Operations of `sender`, for this node to propose; dropped if it does not lead."""
        g = self.g
        if g.acceptor.promised[1] != g.me or not g.voter or len(batch) > 2 * INNER_MAX_BYTES:
            return
        entries = values.decode(batch)
        if not 0 < len(entries) <= TAKEN_MAX or batch[1] != len(entries):
            return
        for origin, incarnation, _, _, smid, payload in entries:
            if origin != sender or incarnation or smid not in (MASTER_SMID, MEMBERSHIP_SMID):
                return
            if len(payload) > INNER_MAX_BYTES:
                return
        self.taken[sender] = entries  # reach: inner-taken
        self.look(fx)
        fx.ready.append(g)

    def on_timer(self, now: int, fx: Effects) -> int:
        """Do what is due; returns when the next timer is."""
        if not self.own:
            return NEVER
        if now >= self.expire_at:
            late = [nonce for nonce, operation in self.own.items() if operation.deadline <= now]
            for nonce in late:
                operation = self.own.pop(nonce)
                if operation.seq:
                    fx.expired.append(operation.seq)  # reach: inner-expired
            self.expire_at = min([operation.deadline for operation in self.own.values()], default=NEVER)
        g = self.g
        waiting = [operation for operation in self.own.values() if not self._ready(operation)]
        if waiting and now >= self.nudge_at:
            self.nudge_at = now + g.timers.ask_retry
            for operation in waiting:
                for node in operation.added:
                    # Who has no seat says where it stands when it hears where others do.
                    if node != g.me:
                        fx.now.peer(node).positions.append(g.position())  # reach: joiner-nudged
        if self.count and now >= self.resend_at and not g.proposer.phase:
            fx.ready.append(g)
        due = self.expire_at
        if waiting:
            due = min(due, self.nudge_at)
        return min(due, self.resend_at) if self.count and self.resend_at > now else due

    # What is decided

    def decided(self, entries: list[values.Entry], instance: int, now: int, fx: Effects) -> None:
        """These operations stand in front of a value that is decided: from the next instance on they hold."""
        g = self.g
        changed = members = False
        for origin, _, nonce, _, smid, payload in entries:
            if smid == MASTER_SMID:
                changed = g.master.decided(nonce, payload, instance, now, fx) or changed
                code = OK
            elif smid == MEMBERSHIP_SMID:
                code = self._change(payload, instance)
                members = members or code == OK
            else:
                code = BAD_MEMBERS
            if origin == g.me and (operation := self.own.pop(nonce, None)) is not None:
                self.handed = 0
                if operation.seq:
                    fx.answered.append((operation.seq, code, instance, None))
        if members:
            g.change_members(now, fx)
        if members or changed:
            # Together: who is told of the members must not stand below, where others decide.
            fx.records.append((DECIDED, g.index, instance, 0, 0, b""))
            self.record(fx)
        if members or self.own:
            self._outdated(changed, instance, now, fx)
        self.look(fx)

    def _change(self, payload: bytes, instance: int) -> int:
        g = self.g
        code, membership = changed_by(g.members.membership(), g.cluster, payload, instance)
        if code == OK:
            g.members = members_of(membership)
        return code

    def _outdated(self, changed: bool, instance: int, now: int, fx: Effects) -> None:
        """Drop what names a version that is not any more, and answer for it; `changed`: of the lease."""
        g = self.g
        if changed and self.own.pop(self.lease, None) is not None and g.master.holds(now):
            g.master.bid_at = now  # reach: renewal-again
            g.wake(now, fx)
        for nonce, operation in list(self.own.items()):
            change = operation.change
            if change is not None and (change.version != g.members.version or not g.voter):
                del self.own[nonce]
                fx.answered.append((operation.seq, VERSION_CONFLICT, instance, None))

    def refuse(self, fx: Effects) -> None:
        """Nothing of it is done any more here."""
        fx.abandoned += [operation.seq for operation in self.own.values() if operation.seq]
        self.own.clear()
        self.taken.clear()
        self.count = 0
