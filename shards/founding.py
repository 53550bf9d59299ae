"""Founding: how the members of a new cluster agree, once and for ever, on who they are.

A founding is {node id: seat} of all members. It is *recorded* by a node (durably, before anybody is
told), and *active* once all members have recorded it. Only an active node votes or proposes.

Why two foundings can never both decide values. A seat records at most one founding. A founding
becomes active only if every seat in it has recorded it; so of two active foundings, every member's
seat differs: each member was wiped in between. And since a founding names only seats that exist when
it is first recorded, one of the two has all of the older seats: when the younger becomes active, no
seat of the older has its data any more. A single surviving member is enough to keep a new founding
from ever becoming active, however many others were wiped.

Pure: no I/O and no clock. It asks for a step (`wanted`), whoever drives it makes that step durable and
says so (`recorded`); until then nothing here has changed and nobody has been told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from paxmux.engine.address import node_text
from paxmux.engine.frame import version_for
from paxmux.shards.boot import Founding
from paxmux.shards.cluster import make_founding
from paxmux.shards.hello import Hello
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
    ) -> None:
        """
        Args:
            node_id, seat, incarnation: this node's.
            groups: group count.
            members: node ids of the configured members, this node's included.
            founding, active: what this node has recorded.
        """
        self.node_id = node_id
        self.seat = seat
        self.incarnation = incarnation
        self.groups = groups
        self.members = sorted(set(members))
        self.founding = founding
        self.active = active
        self.refusals: dict[int, str] = {}
        """Node id -> why its hellos do not count."""
        self.notices: dict[int, str] = {}
        """Node id -> what is wrong with it although its hellos count."""
        self._heard: dict[int, Hello] = {}
        """The last hello of each other member that counts."""
        self._recorded_by: dict[int, Founding] = {}
        """Node id -> the founding that it said it had recorded, in the seat which that founding names.
        It stays true after the node was wiped, since a seat never records two."""
        if node_id not in self.members:
            raise ValueError(f"node {node_text(node_id)} is not among the members")
        if founding is not None and node_id not in founding.seats:
            raise ValueError(f"node {node_text(node_id)} is not in its own founding")

    @property
    def unseated(self) -> bool:
        """This node's directory is not the one that the founding names: it learns and never votes."""
        return self.founding is not None and self.founding.seats[self.node_id] != self.seat

    def hello(self, *, ask: bool) -> Hello:
        """What this node says about itself now."""
        return Hello(
            wire=version_for(self.groups),
            disk=FORMAT,
            node_id=self.node_id,
            seat=self.seat,
            incarnation=self.incarnation,
            groups=self.groups,
            members=self.members,
            founding=self.founding,
            active=self.active,
            ask=ask,
        )

    def knows(self, node_id: int) -> bool:
        """Whether a node is another member, by the config or by the founding."""
        if node_id == self.node_id:
            return False
        return node_id in self.members or (self.founding is not None and node_id in self.founding.seats)

    def seat_of(self, node_id: int) -> int | None:
        """The seat that a peer said it has; None if no hello of it counts."""
        hello = self._heard.get(node_id)
        return hello.seat if hello is not None else None

    def heard(self, hello: Hello) -> None:
        """Take in what another member says. Call `wanted` afterwards."""
        peer = hello.node_id
        if not self.knows(peer):
            raise ValueError(f"a hello of {node_text(peer)} is not for the founding")
        reason = self._mismatch(hello)
        if reason is not None:
            self.refuse(peer, reason)
            return
        self.refusals.pop(peer, None)
        self._heard[peer] = hello
        founding = hello.founding
        if founding is not None and founding.seats[peer] == hello.seat:
            self._recorded_by[peer] = founding
        self._notice(hello)

    def refuse(self, peer: int, reason: str) -> None:
        """A peer's hello does not count; what it said before does not count any more either."""
        self.refusals[peer] = reason
        self.notices.pop(peer, None)
        self._heard.pop(peer, None)

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
            for hello in self._heard.values():
                named = hello.founding
                if named is None:
                    continue
                if named.seats[self.node_id] == self.seat and hello.active:
                    return (
                        f"node {node_text(hello.node_id)} knows that this node recorded the founding, but "
                        "its data directory has none: it is an old copy and has lost votes. Move it away and "
                        "make a new one with `paxmux init`; the node then learns until it is seated anew"
                    )
                if named.seats[self.node_id] != self.seat:
                    return (
                        f"node {node_text(hello.node_id)} recorded a founding with this node in another data "
                        f"directory (seat {named.seats[self.node_id]:#x}, this one is {self.seat:#x}). This "
                        "node may not vote; it will learn once a majority of the members is active"
                    )
            silent = [node for node in self.members if node != self.node_id and node not in self._heard]
            return f"no usable hello yet from {_names(silent)}" if silent else "the members do not agree yet"
        missing = [
            node
            for node in self.founding.seats
            if node != self.node_id and self._recorded_by.get(node) != self.founding
        ]
        return f"not known to have recorded the founding: {_names(missing)}"

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
        theirs = hello.members if hello.founding is None else sorted(hello.founding.seats)
        mine = self.members if self.founding is None else sorted(self.founding.seats)
        if theirs != mine:
            return f"node {name} has the members {_names(theirs)}, this node {_names(mine)}"
        return None

    def _notice(self, hello: Hello) -> None:
        peer = hello.node_id
        self.notices.pop(peer, None)
        if self.founding is None:
            return
        seat = self.founding.seats[peer]
        if hello.seat != seat:
            self.notices[peer] = (
                f"node {node_text(peer)} runs in another data directory (seat {hello.seat:#x}) than the one "
                f"that the cluster was founded with (seat {seat:#x}): it learns, its votes do not count"
                if self.active
                else f"node {node_text(peer)} changed its data directory (seat {seat:#x}, now "
                f"{hello.seat:#x}) before the founding was complete. Bring the old directory back; if no "
                "member was ever active, all of them may be removed and made anew"
            )

    def _found(self) -> Step | None:
        """A new founding, if all members are here, alike, and none has recorded one."""
        if len(self._heard) != len(self.members) - 1:
            return None
        if any(hello.founding is not None for hello in self._heard.values()):
            return None
        seats = {node: hello.seat for node, hello in self._heard.items()}
        seats[self.node_id] = self.seat
        return Step(make_founding(seats, self.groups), False)

    def _join(self) -> Step | None:
        """A founding that others recorded, if it names this seat, or if it is active without it."""
        claims: Counter[int] = Counter()
        for peer, hello in self._heard.items():
            founding = hello.founding
            if founding is None:
                continue
            if founding.seats[self.node_id] == self.seat:
                # An active founding was recorded by all its seats. If this one has nothing, its data
                # are older than its votes.
                if not hello.active and self._agrees(founding):
                    return Step(founding, False)
            elif hello.active and founding.seats[peer] == hello.seat:
                claims[founding.cluster] += 1
                # One liar or stray is not enough, since what is recorded stays recorded.
                if claims[founding.cluster] >= min(len(self.members) // 2 + 1, len(self.members) - 1):
                    return Step(founding, True)
        return None

    def _agrees(self, founding: Founding) -> bool:
        """Whether nothing heard speaks against a founding."""
        return all(
            hello.seat == founding.seats[node] and hello.founding in (None, founding)
            for node, hello in self._heard.items()
        )

    def _may_activate(self, founding: Founding) -> bool:
        return any(hello.active and hello.founding == founding for hello in self._heard.values()) or all(
            self._recorded_by.get(node) == founding for node in founding.seats if node != self.node_id
        )


def _names(nodes: Iterable[int]) -> str:
    return ", ".join(map(node_text, nodes)) or "nobody"
