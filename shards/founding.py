"""Founding: how the members of a new cluster agree, once and for ever, on who they are.

A founding is {node id: seat} of all members. It is *recorded* by a node (durably, before anybody is
told), and *active* once all members have recorded it. Only an active node votes or proposes.

Why two foundings can never both decide values. A seat records at most one founding. A founding
becomes active only if every seat in it has recorded it; so of two active foundings, every member's
seat differs: each member was wiped in between. And since a founding names only seats that exist when
it is first recorded, one of the two has all of the older seats: when the younger becomes active, no
seat of the older has its data any more. A single surviving member is enough to keep a new founding
from ever becoming active, however many others were wiped.

Whoever is not in the founding in its seat records it once it is active: a node that joins, that follows,
or that lost its data directory. It stands in no founding and takes part in none, so it changes nothing of
the above. Who votes in a group later on is for the group's membership to say, which begins as the founding.

Pure: no I/O and no clock. It asks for a step (`wanted`), whoever drives it makes that step durable and
says so (`recorded`); until then nothing here has changed and nobody has been told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from paxmux.engine.address import node_text
from paxmux.engine.frame import version_for
from paxmux.shards.boot import Founding
from paxmux.shards.cluster import make_founding
from paxmux.shards.hello import Hello, Role
from paxmux.shards.identity import FORMAT


class Step(NamedTuple):
    """What is to be made durable next."""

    founding: Founding
    active: bool


class Founder:
    """One node's part in the founding."""

    def __init__(
        self,
        *,
        node_id: int,
        seat: int,
        incarnation: int,
        groups: int,
        members: Iterable[int],
        founding: Founding | None,
        active: bool,
        address: str,
        founds: bool = True,
        follower: bool = False,
        rejoin: bool = False,
    ) -> None:
        """
        Args:
            node_id, seat, incarnation, address: this node's.
            groups: group count.
            members: node ids of the configured members; this node's among them if it `founds`.
            founding, active: what this node has recorded.
            founds: it may be one of the founders. Otherwise it waits until others are active.
            follower: it never votes.
            rejoin: without a seat, it asks for that of its node id.
        """
        self.node_id = node_id
        self.seat = seat
        self.incarnation = incarnation
        self.groups = groups
        self.members = sorted(set(members))
        self.founding = founding
        self.active = active
        self.seated: bool | None = None
        """Whether a group has this node as a member in this seat; None: not known yet, the founding tells."""
        self.refusals: dict[int, str] = {}
        """Node id -> why its hellos do not count."""
        self.notices: dict[int, str] = {}
        """Node id -> what is wrong with it although its hellos count."""
        self._address = address
        self._founds = founds
        self._follower = follower
        self._rejoin = rejoin
        self._heard: dict[int, Hello] = {}
        """The last hello of each other node that counts."""
        self._recorded_by: dict[int, Founding] = {}
        """Node id -> the founding that it said it had recorded, in the seat which that founding names.
        It stays true after the node was wiped, since a seat never records two."""
        if founds and node_id not in self.members:
            raise ValueError(f"node {node_text(node_id)} is not among the members")
        if founding is not None and not active and node_id not in founding.seats:
            raise ValueError(f"node {node_text(node_id)} is not in the founding that it recorded")

    @property
    def unseated(self) -> bool:
        """The founding does not name this node in this data directory. Whether it votes in a group is for the
        group's membership to say; as founded, it does not."""
        return self.founding is not None and self.founding.seats.get(self.node_id) != self.seat

    @property
    def lost_seat(self) -> bool:
        """The founding names this node in another data directory, and no membership names it in this one."""
        return (
            self.unseated
            and not self.seated
            and self.node_id in (self.founding.seats if self.founding else ())
        )

    @property
    def role(self) -> Role:
        """What this node is to the others."""
        if self._follower:
            return "follower"
        if self.seated is not None:
            return "member" if self.seated else "joining"
        if self.founding is not None:
            return "joining" if self.unseated else "member"
        return "member" if self._founds else "joining"

    def hello(self, *, ask: bool, addresses: Mapping[int, str] | None = None) -> Hello:
        """What this node says about itself now; `addresses`: see `Hello`."""
        return Hello(
            wire=version_for(self.groups),
            disk=FORMAT,
            node_id=self.node_id,
            seat=self.seat,
            incarnation=self.incarnation,
            groups=self.groups,
            address=self._address,
            role=self.role,
            rejoin=self._rejoin and self.role == "joining",
            members=self.members,
            addresses=dict(addresses or {}),
            founding=self.founding,
            active=self.active,
            ask=ask,
        )

    def admits(self, hello: Hello) -> bool:
        """Whether a node that is no member belongs here all the same: it is in this very cluster, or in none
        yet and wants to be where this node is."""
        if not self.active or self._mismatch(hello) is not None:
            return False
        return hello.founding is not None or self.node_id in hello.members

    def heard_from(self, node_id: int) -> Hello | None:
        """The last hello of a peer; None if none of it counts."""
        return self._heard.get(node_id)

    def heard(self, hello: Hello) -> None:
        """Take in what another member or guest says. Call `wanted` afterwards."""
        peer = hello.node_id
        if peer == self.node_id:
            raise ValueError(f"a hello of {node_text(peer)} is this node's own")
        reason = self._mismatch(hello)
        if reason is not None:
            self.refuse(peer, reason)
            return
        self.refusals.pop(peer, None)
        self._heard[peer] = hello
        founding = hello.founding
        if founding is not None and founding.seats.get(peer) == hello.seat:
            self._recorded_by[peer] = founding
        self._notice(hello)

    def refuse(self, peer: int, reason: str) -> None:
        """A peer's hello does not count; what it said before does not count any more either."""
        self.refusals[peer] = reason
        self.notices.pop(peer, None)
        self._heard.pop(peer, None)

    def forget(self, peer: int) -> None:
        """A guest has gone."""
        for said in (self.refusals, self.notices, self._heard):
            said.pop(peer, None)

    def wanted(self) -> Step | None:
        """The next step that is to be made durable; None if this node has to wait."""
        if self.founding is None:
            return self._join() or self._found()
        if not self.active and self._may_activate(self.founding):
            return Step(self.founding, True)
        return None

    def recorded(self, step: Step) -> None:
        """A step that `wanted` returned is durable. Call `wanted` again."""
        if self.founding is not None and self.founding != step.founding:
            raise ValueError("a recorded founding is never replaced")
        self.founding = step.founding
        self.active = self.active or step.active
        for hello in list(self._heard.values()):
            reason = self._mismatch(hello)
            if reason is not None:
                self.refuse(hello.node_id, reason)
            else:
                self._notice(hello)

    def waiting_for(self) -> str | None:
        """In words for the operator: what keeps this node from becoming active; None if it is."""
        if self.active:
            return None
        if self.founding is None:
            return self._waiting_unfounded()
        missing = [
            node
            for node in self.founding.seats
            if node != self.node_id and self._recorded_by.get(node) != self.founding
        ]
        return f"not known to have recorded the founding: {_names(missing)}"

    def _waiting_unfounded(self) -> str:
        for hello in self._heard.values():
            seat = hello.founding.seats.get(self.node_id) if hello.founding is not None else None
            if seat is None:
                continue
            if seat == self.seat and hello.active:
                return (
                    f"node {node_text(hello.node_id)} knows that this node recorded the founding, but "
                    "its data directory has none: it is an old copy and has lost votes. Move it away and "
                    "make a new one with `paxmux init`; the node then learns until it is seated anew"
                )
            if seat != self.seat:
                return (
                    f"node {node_text(hello.node_id)} recorded a founding with this node in another data "
                    f"directory (seat {seat:#x}, this one is {self.seat:#x}). This "
                    "node may not vote; it will learn once a majority of the members is active"
                )
        active = [node for node in self._others() if node in self._heard and self._heard[node].active]
        if active:
            return f"too few members say that they are in a founded cluster: only {_names(active)}"
        silent = [node for node in self._others() if node not in self._heard]
        if silent:
            return f"no usable hello yet from {_names(silent)}"
        return (
            "the members do not agree yet" if self._founds else "the members have not founded a cluster yet"
        )

    def _others(self) -> list[int]:
        return [node for node in self.members if node != self.node_id]

    def _mismatch(self, hello: Hello) -> str | None:
        """Why this node and the sender cannot be in one cluster as they are configured."""
        name = node_text(hello.node_id)
        if (hello.wire, hello.disk) != (version_for(hello.groups), FORMAT):
            return (
                f"node {name} speaks wire version {hello.wire} and disk version {hello.disk}, "
                f"this node {version_for(self.groups)} and {FORMAT}"
            )
        if hello.groups != self.groups:
            return f"node {name} has {hello.groups} groups, this node {self.groups}"
        if self.founding is not None and hello.founding is not None:
            # Both have a membership: what the configs say about it counts no more.
            if hello.founding != self.founding:
                return (
                    f"node {name} belongs to cluster {hello.founding.cluster:#x}, "
                    f"this node to {self.founding.cluster:#x}"
                )
            return None
        if self.active or hello.active or not self._founds or hello.role != "member":
            # One of them comes to what is founded, or is no founder: lists are only where it looks first.
            return None
        theirs = hello.members if hello.founding is None else sorted(hello.founding.seats)
        mine = self.members if self.founding is None else sorted(self.founding.seats)
        if theirs != mine:
            return f"node {name} has the members {_names(theirs)}, this node {_names(mine)}"
        return None

    def _notice(self, hello: Hello) -> None:
        peer = hello.node_id
        self.notices.pop(peer, None)
        seat = self.founding.seats.get(peer) if self.founding is not None else None
        moved = hello.role == "member" and hello.founding is not None
        if seat is None or hello.seat == seat or moved:
            return
        self.notices[peer] = (
            f"node {node_text(peer)} runs in another data directory (seat {hello.seat:#x}) than the one "
            f"that the cluster was founded with (seat {seat:#x}): it learns, its votes do not count until "
            "a membership operation has seated it"
            if self.active
            else f"node {node_text(peer)} changed its data directory (seat {seat:#x}, now "
            f"{hello.seat:#x}) before the founding was complete. Bring the old directory back; if no "
            "member was ever active, all of them may be removed and made anew"
        )

    def _found(self) -> Step | None:
        """A new founding, if all members are here, alike, and none has recorded one."""
        if not self._founds or any(hello.founding is not None for hello in self._heard.values()):
            return None
        seats = {self.node_id: self.seat}
        for node in self._others():
            hello = self._heard.get(node)
            if hello is None or hello.role != "member":
                return None
            seats[node] = hello.seat
        return Step(make_founding(seats, self.groups), False)

    def _join(self) -> Step | None:
        """A founding that others recorded, if it names this seat, or if it is active without it."""
        claims: Counter[int] = Counter()
        others = self._others()
        for peer in others:
            hello = self._heard.get(peer)
            if hello is None or hello.founding is None:
                continue
            founding = hello.founding
            if founding.seats.get(self.node_id) == self.seat:
                # An active founding was recorded by all its seats. If this one has nothing, its data
                # are older than its votes.
                if self._founds and not hello.active and self._agrees(founding):
                    return Step(founding, False)
            elif hello.active and (founding.seats.get(peer) == hello.seat or hello.role == "member"):
                claims[founding.cluster] += 1
                # One liar or stray is not enough, since what is recorded stays recorded.
                if claims[founding.cluster] > len(others) // 2:
                    return Step(founding, True)
        return None

    def _agrees(self, founding: Founding) -> bool:
        """Whether nothing heard speaks against a founding."""
        return all(
            hello.seat == founding.seats.get(node) and hello.founding in (None, founding)
            for node, hello in self._heard.items()
        )

    def _may_activate(self, founding: Founding) -> bool:
        return any(hello.active and hello.founding == founding for hello in self._heard.values()) or all(
            self._recorded_by.get(node) == founding for node in founding.seats if node != self.node_id
        )


def _names(nodes: Iterable[int]) -> str:
    return ", ".join(map(node_text, nodes)) or "nobody"
