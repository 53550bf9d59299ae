"""What a caller wants of the members of a group, and what follows from it for the members that it has.

Decides when a wish holds already, when it cannot be, and which members it makes. Each wish is looked at anew
against the members that there are, so that it can be tried again where these have changed meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from paxmux.engine.address import node_text
from paxmux.engine.errors import (
    InvalidRequest,
    LastMember,
    MemberExists,
    MemberMissing,
    MemberNotHeard,
    MembershipError,
    MembershipUnchanged,
)
from paxmux.engine.paxos.system import MEMBERS_MAX
from paxmux.shards.membership import Member, Seats

Places = dict[int, tuple[int, str]]
"""Node id -> (seat, address)."""


class Intent(Protocol):
    """One wish."""

    def applied(self, members: Seats) -> Places | None:
        """The members that it makes of these; None: it holds already.

        Raises:
            MembershipError, InvalidRequest: it cannot be.
        """
        ...

    def holds(self) -> MembershipError:
        """What a caller is told for whom nothing was to be done."""
        ...


class Add(NamedTuple):
    """A node becomes a member, in the seat that it has; 0 if nobody has heard which that is."""

    member: Member

    def applied(self, members: Seats) -> Places | None:
        """See `Intent`."""
        place = members.get(self.member.node_id)
        if place is None:
            return _checked({**members, self.member.node_id: _place(self.member)})
        if self.member.seat in (0, place[0]):
            return None
        raise MemberExists(
            f"node {self.member.name} is a member in another seat than the one that it has now: its data "
            "directory is a new one. To seat it anew, change it to itself"
        )

    def holds(self) -> MembershipError:
        """See `Intent`."""
        return MemberExists(f"node {self.member.name} is a member already")


class Remove(NamedTuple):
    """A node is no member any more."""

    node_id: int

    def applied(self, members: Seats) -> Places | None:
        """See `Intent`."""
        if self.node_id not in members:
            return None
        if len(members) == 1:
            raise LastMember(f"node {node_text(self.node_id)} is the last member")
        return {node: place for node, place in members.items() if node != self.node_id}

    def holds(self) -> MembershipError:
        """See `Intent`."""
        return MemberMissing(f"node {node_text(self.node_id)} is no member")


class Replace(NamedTuple):
    """One node goes, another is a member afterwards, as in `Add`."""

    old: int
    new: Member

    def applied(self, members: Seats) -> Places | None:
        """See `Intent`."""
        if self.old not in members:
            if self.new.node_id in members:
                return None
            raise MemberMissing(f"node {node_text(self.old)} is no member")
        made = {node: place for node, place in members.items() if node != self.old}
        if self.new.node_id not in made:
            made[self.new.node_id] = _place(self.new)
        return _checked(made)

    def holds(self) -> MembershipError:
        """See `Intent`."""
        return MembershipUnchanged(
            f"node {node_text(self.old)} is no member, and node {self.new.name} is one already"
        )


class Move(NamedTuple):
    """A member has another seat or address from now on."""

    node_id: int
    seat: int
    """0: the one that it has."""
    address: str
    """Empty: the one that it has."""
    only_from: int = 0
    """Only while it has this seat; 0: whichever it has."""

    def applied(self, members: Seats) -> Places | None:
        """See `Intent`."""
        place = members.get(self.node_id)
        if place is None:
            raise MemberMissing(f"node {node_text(self.node_id)} is no member")
        made = self.seat or place[0], self.address or place[1]
        if made == place or (self.only_from and place[0] != self.only_from):
            return None
        return _checked({**members, self.node_id: made})

    def holds(self) -> MembershipError:
        """See `Intent`."""
        return MembershipUnchanged(f"node {node_text(self.node_id)} has this seat and this address already")


def _place(new: Member) -> tuple[int, str]:
    if not new.seat:
        raise MemberNotHeard(
            f"node {new.name} has not said hello to this node, which cannot know its seat: start it with "
            "`join: true` and this node among its members"
        )
    return new.seat, new.address


def _checked(members: Places) -> Places:
    if len(members) > MEMBERS_MAX:
        raise InvalidRequest(f"a group has at most {MEMBERS_MAX} members")
    by_seat: dict[int, int] = {}
    for node, (seat, _) in members.items():
        if by_seat.setdefault(seat, node) != node:
            raise InvalidRequest(
                f"nodes {node_text(by_seat[seat])} and {node_text(node)} have the same seat: one's data "
                "directory is a copy of the other's"
            )
    return members
