"""Who the members of every group are, as this node knows it from its workers.

Decides where each node is to be found, of all that the groups say of it, and who is told of a change. It is
what the node itself goes by for addresses and callbacks; no vote counts by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from paxmux.engine.address import parse_member
from paxmux.engine.errors import ConfigError
from paxmux.shards.boot import MembersTold
from paxmux.shards.membership import Member, Seats

OnChange = Callable[[int, list[Member]], None]
"""(group, members): called in the node's event loop; what it raises goes to the log."""

log = logging.getLogger("paxmux")


class Memberships:
    """Of one node. Used in its event loop only."""

    def __init__(self, seeds: Mapping[int, str]) -> None:
        """`seeds`: node id -> `host:port` in the options: where a node is of which no operation has told an
        address."""
        self._seeds = dict(seeds)
        self.on_addresses: Callable[[dict[int, str]], None] | None = None
        """Called when the members of all groups, or where they are, are others than before."""
        self._groups: dict[int, tuple[int, dict[int, tuple[int, str]]]] = {}
        self._told: dict[int, str] = {}
        """The address that an operation has last been seen to give each node."""
        self._callbacks: list[OnChange] = []
        self.addresses = dict(seeds)
        """Node id -> `host:port` of every member of any group, or of the options as long as no worker has
        said who they are; empty where nobody has told it."""

    def take(self, told: MembersTold) -> None:
        """A worker says who the members of some groups are."""
        changed: list[int] = []
        for group, version in told.versions.items():
            before = self._groups.get(group)
            if before is not None and before[0] >= version:
                continue  # of a worker that has moved the group on, or has started again
            self._note_addresses(before[1] if before is not None else {}, told.members, before is None)
            self._groups[group] = version, told.members
            changed.append(group)
        addresses = self._union() if self._groups else self.addresses
        if addresses != self.addresses:
            self.addresses = addresses
            if self.on_addresses is not None:
                self.on_addresses(dict(addresses))
        for group in changed:
            for callback in list(self._callbacks):
                self._call(callback, group)

    def members(self, group: int) -> list[Member] | None:
        """The members of a group as last told, by node id; None before that."""
        known = self._groups.get(group)
        return None if known is None else self.listed(known[1])

    def listed(self, members: Seats) -> list[Member]:
        """Members as callers see them."""
        return [
            Member(node, seat, address or self._seeds.get(node, ""))
            for node, (seat, address) in sorted(members.items())
        ]

    def watch(self, callback: OnChange) -> Callable[[], None]:
        """Call `callback` for each group now, if it is known, and at each change; the function that is
        returned ends that."""
        self._callbacks.append(callback)
        for group in sorted(self._groups):
            self._call(callback, group)

        def end() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return end

    def _call(self, callback: OnChange, group: int) -> None:
        try:
            callback(group, self.members(group) or [])
        except Exception:
            log.exception("group %d: what is to be called when its members change has failed", group)

    def _note_addresses(self, before: Seats, now: Seats, first: bool) -> None:
        """What changes last is what holds: groups learn of a new address one after the other."""
        for node, (_, address) in now.items():
            if address and before.get(node, (0, ""))[1] != address:
                if first:
                    self._told.setdefault(node, address)
                else:
                    self._told[node] = address

    def _union(self) -> dict[int, str]:
        said: dict[int, set[str]] = {}
        for _, members in self._groups.values():
            for node, (_, address) in members.items():
                said.setdefault(node, set()).add(address)
        self._told = {node: address for node, address in self._told.items() if address in said.get(node, ())}
        return {
            node: self._told.get(node) or max(addresses) or self._seeds.get(node, "")
            for node, addresses in sorted(said.items())
        }


def places(addresses: Mapping[int, str]) -> dict[int, tuple[str, int]]:
    """Host and port of each node whose address is known, and is one."""
    found: dict[int, tuple[str, int]] = {}
    for node, address in addresses.items():
        if address:
            try:
                member = parse_member(address, node)
            except ConfigError as error:
                # An operation may name anything; who cannot be reached is not reached.
                log.warning("node %d has no address that it can be reached at: %s", node, error)
            else:
                found[node] = member.host, member.port
    return found


def others(addresses: Mapping[int, str], own: int) -> dict[int, str]:
    """All but this node."""
    return {node: address for node, address in addresses.items() if node != own}
