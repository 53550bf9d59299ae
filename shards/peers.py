"""Who may talk to this node, and where each of them is dialled.

A *member* is whoever the options name, or any group's membership; before memberships are told, whoever
founded the cluster. A *guest* is a node outside all of these that belongs here all the same: it joins,
follows, or has a new seat. Guests are few, and forgotten when they are silent.

A member may be known by several addresses: the one that it says itself (in a seat that is a member's), the
one that a membership operation gave it, that of the options, and what another member says. One of them is
dialled. What works is left alone; while nothing does they have their turn, beginning with what was said last.

Pure: no I/O and no clock. Node ids and addresses were checked by whoever passes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paxmux.shards.boot import Founding, MemberPlace
from paxmux.shards.hello import ADDRESSES_MAX, Hello, Role

GUESTS_MAX: Final = 64
GUEST_S: Final = 60.0
"""A guest that has sent nothing for so long is forgotten."""
NEXT_ADDRESS_S: Final = 3.0
"""So long a member must be without a connection until its next address has a turn."""


class Guest:
    """A node outside every membership."""

    __slots__ = ("address", "heard_at", "role", "seat")

    def __init__(self, hello: Hello, now: float) -> None:
        self.address = hello.address
        self.seat = hello.seat
        self.role: Role = hello.role
        self.heard_at = now
        """When the last frame came, in seconds."""


class Peers:
    """What one node knows about the others."""

    def __init__(self, own: int, seeds: Mapping[int, str]) -> None:
        """`own`: this node's id. `seeds`: node id -> `host:port`, as in the options."""
        self.members: Final[set[int]] = set()
        """Node ids, without this node; always the same set."""
        self.guests: Final[dict[int, Guest]] = {}
        """By node id; no member is one."""
        self._own = own
        self._seeds = {node: address for node, address in seeds.items() if node != own}
        self._seats: dict[int, list[int]] = {}
        """Node id -> seats in which it is a member."""
        self._operated: dict[int, str] = {}
        self._announced: dict[int, str] = {}
        self._hints: dict[int, str] = {}
        self._at: dict[int, str] = {}
        """Node id -> the address that is dialled now."""
        self._alone_since: dict[int, float] = {}
        """Members without a connection."""
        self._set_members(())

    def set_founding(self, founding: Founding) -> None:
        """The cluster is founded: its founders are members, until memberships are told."""
        if not self._seats:
            self._seats = {node: [seat] for node, seat in founding.seats.items()}
            self._set_members(founding.seats)

    def set_members(self, members: Mapping[int, MemberPlace]) -> None:
        """These are the members of all groups, with this node if it is one. An address that is another than
        the last time is dialled at once."""
        self._seats = {node: place.seats for node, place in members.items()}
        for node, place in members.items():
            if place.address and place.address != self._operated.get(node):
                self._announced.pop(node, None)
                self._at[node] = place.address
        self._operated = {node: place.address for node, place in members.items() if place.address}
        self._set_members(members)

    def is_seated(self, node: int, seat: int) -> bool:
        """Whether it is a member in this seat."""
        return seat in self._seats.get(node, ())

    def members_unlike(self) -> tuple[list[int], list[int]]:
        """(members that the options do not name, nodes of the options that are no members)"""
        seated = self._seats.keys() - {self._own}
        return sorted(seated - self._seeds.keys()), sorted(self._seeds.keys() - seated)

    def admit(self, hello: Hello, now: float) -> bool:
        """Make a guest of an unknown node that belongs here; False if there are too many."""
        if len(self.guests) >= GUESTS_MAX:
            return False
        self.guests[hello.node_id] = Guest(hello, now)
        return True

    def greeted(self, hello: Hello, now: float, *, connected: bool) -> None:
        """What a member or guest says of itself and of others; `connected`: there is a connection to it."""
        node = hello.node_id
        if node in self.guests:
            self.guests[node] = Guest(hello, now)
        elif node in self.members and self.is_seated(node, hello.seat):
            self._announced[node] = hello.address
            if not connected:
                self._at[node] = hello.address
            known = self._seats.keys() - {self._own}
            self._hints.update({other: hello.addresses[other] for other in known & hello.addresses.keys()})
        elif node in self.members:
            # In another data directory than the member's: better than no address, if nothing else works.
            self._hints[node] = hello.address
        self._settle()

    def look(self, now: float, connected: Mapping[int, bool]) -> list[int]:
        """Time has passed: the guests that are forgotten now; members have another address if theirs does not
        work."""
        for node in self.members:
            if connected.get(node, False):
                self._alone_since.pop(node, None)
            elif now - self._alone_since.setdefault(node, now) >= NEXT_ADDRESS_S:
                self._alone_since[node] = now
                if node in self._at:
                    known = self._known(node)
                    self._at[node] = known[(known.index(self._at[node]) + 1) % len(known)]
        gone = [node for node, guest in self.guests.items() if now - guest.heard_at >= GUEST_S]
        for node in gone:
            del self.guests[node]
        return gone

    def addresses_of_members(self) -> dict[int, str]:
        """Node id -> `host:port` at which each is dialled, as far as one is known."""
        return dict(sorted(self._at.items()))

    def addresses(self) -> dict[int, str]:
        """The same with guests."""
        return {**self.addresses_of_members(), **{node: guest.address for node, guest in self.guests.items()}}

    def hints(self) -> dict[int, str]:
        """What to tell others, see `Hello.addresses`."""
        found = self.addresses_of_members()
        return {node: found[node] for node in list(found)[:ADDRESSES_MAX]}

    def _known(self, node: int) -> list[str]:
        """All addresses of a member, the best first."""
        sources = (self._announced, self._operated, self._seeds, self._hints)
        return list(dict.fromkeys(source[node] for source in sources if node in source))

    def _settle(self) -> None:
        """Every member of whom an address is known is dialled at one that is known still."""
        for node in self.members:
            known = self._known(node)
            if not known:
                self._at.pop(node, None)
            elif self._at.get(node) not in known:
                self._at[node] = known[0]

    def _set_members(self, nodes: Mapping[int, object] | tuple[()]) -> None:
        wanted = {*self._seeds, *nodes} - {self._own}
        self.members.difference_update(self.members - wanted)
        self.members.update(wanted)
        for node in self.guests.keys() & wanted:
            guest = self.guests.pop(node)
            if self.is_seated(node, guest.seat):
                self._announced.setdefault(node, guest.address)
            else:
                self._hints.setdefault(node, guest.address)
        kept: tuple[dict[int, str] | dict[int, float], ...]
        kept = (self._announced, self._hints, self._at, self._alone_since)
        for said in kept:
            for node in said.keys() - wanted:
                del said[node]
        self._settle()
