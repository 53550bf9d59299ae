"""The masters of a node's groups, as the node sees them, and what it does about its own leases.

Decides what is asked of workers, and when that is done. Who is master is read from the lease board and
compared with the clock at that moment; it is never remembered here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import InvalidRequest, NodeStopped, NotMaster, Overloaded, PaxmuxError, Timeout
from paxmux.engine.options import Options
from paxmux.shards.admission import Admission
from paxmux.shards.exchange import Exchange
from paxmux.shards.lease_board import NOBODY, LeaseBoard, LeaseRow
from paxmux.shards.leases import wanted_groups
from paxmux.shards.master_watch import MasterWatch
from paxmux.shards.memberships import Memberships
from paxmux.shards.outcomes import error_of
from paxmux.shards.requests import CallKind, Reply

ASK_AGAIN_S: Final = 0.1
"""A worker that is down is asked again after so long by who waits for a lease."""
HAND_OVER_S: Final = 1.0
"""A node that stops waits no longer for its leases to be given back."""


class Masters:
    """Of one node. Used in its event loop; what only reads may be called from any thread."""

    def __init__(self, options: Options, memberships: Memberships) -> None:
        """`options`: validated. `memberships`: who the members are, and where."""
        self.me = options.own_member().node_id
        self._memberships = memberships
        self._seeds = {member.node_id: member.address for member in options.seed_members()}
        self.watch = MasterWatch()
        self.leases_ms: dict[int, int] = {}
        """Of groups whose lease was set: a worker that starts goes by it."""
        self._wanted = wanted_groups(options)
        self._board: LeaseBoard | None = None
        self._exchange: Exchange
        self._admission: Admission
        self._worker_of: Sequence[int]

    def open(
        self, board: LeaseBoard, exchange: Exchange, admission: Admission, worker_of: Sequence[int]
    ) -> None:
        """The node has started to start: workers will write on this board."""
        self._exchange, self._admission, self._worker_of = exchange, admission, worker_of
        self._board = board
        self.watch.open(asyncio.get_running_loop(), board)

    def close(self) -> None:
        """The node has stopped: it is master of nothing."""
        self._board = None
        self.watch.close()

    # What is so

    def held(self, group: int) -> LeaseRow:
        """Whose lease is believed now; `NOBODY` if none is."""
        board = self._board
        return NOBODY if board is None else board.held(group, clock_ns())

    def recorded(self, group: int) -> LeaseRow:
        """Who had the lease last, and may have it no more."""
        board = self._board
        return NOBODY if board is None else board.read(group)

    def own_until(self, group: int, term: int) -> int:
        """Until when this node holds the lease of that reign; 0 if it does not."""
        row = self.held(group)
        return row.until_ns if row.node == self.me and row.term == term else 0

    def picture(self, group: int) -> dict[str, Any]:
        """All of it, for a status."""
        held, row = self.held(group), self.recorded(group)
        left_ns = max(held.until_ns - clock_ns(), 0)
        return {
            "group": group,
            "wanted": group in self._wanted,
            "master": held.node,
            "address": self.address_of(held.node),
            "own": held.node == self.me,
            "recorded": row.node,
            "version": row.version,
            "term": row.term,
            "lease_ms": row.lease_ns // 1_000_000,
            "left_ms": left_ns // 1_000_000,
        }

    # What is done about it

    async def begin(self, group: int, until_ns: int) -> int:
        """Wait until this node is master of the group and has executed everything below its term, which is
        returned. Raises NotMaster, NodeStopped."""
        if group not in self._wanted:
            raise InvalidRequest(f"group {group} is none that this node wants to be master of: master.groups")
        while True:
            if self._board is None:
                raise NodeStopped("the node is not started, or stopped")
            if self.held(group).node == self.me:
                try:
                    term = (await self.ask(CallKind.MASTER, group, 0, until_ns))[2]
                except (NotMaster, Overloaded, Timeout):
                    await self.watch.wait(min(until_ns, clock_ns() + int(ASK_AGAIN_S * 1e9)))
                else:
                    if self.own_until(group, term):
                        return term
            elif clock_ns() < until_ns:
                await self.watch.wait(until_ns)
            if clock_ns() >= until_ns:
                raise self.not_master(group, "did not become the master of")

    async def drop(self, group: int, heir: int, until_ns: int) -> None:
        """Give the lease of a group back. Raises NotMaster, Timeout."""
        if heir and (heir == self.me or heir not in self._members(group)):
            raise InvalidRequest(f"expected the id of another member, got {heir}")
        before = self.recorded(group).version
        await self.ask(CallKind.DROP_MASTER, group, heir, until_ns)
        while self._stands(group, before):
            if not await self.watch.wait(until_ns) and self._stands(group, before):
                raise Timeout(
                    f"this node counts on its lease of group {group} no more; the others may not know"
                )

    async def transfer(self, group: int, heir: int, until_ns: int) -> int:
        """Give the lease to another member, if that wants it; returns who is master then."""
        # What follows may be there before this node has seen its own operation.
        before = self.recorded(group).version
        await self.drop(group, heir, until_ns)
        while True:
            row = self.held(group)
            if row.node and row.version > before:
                return row.node
            if not await self.watch.wait(until_ns):
                raise Timeout(f"group {group} has no other master yet")

    async def set_lease(self, group: int, lease_ms: int, until_ns: int) -> None:
        """Tell every worker: the group may move. One that is down hears it when it starts."""
        self.leases_ms[group] = lease_ms
        told = []
        for worker in self._exchange.workers:
            if not self._admission.down(worker):
                self._admission.enter(worker, 0)
                told.append(
                    self._exchange.call(worker, CallKind.SET_MASTER_LEASE, group, lease_ms, b"", until_ns)
                )
        for reply in await asyncio.gather(*told):
            if reply[1]:
                raise error_of(reply)

    def surplus(self) -> dict[int, int]:
        """What this node is master of beyond its fair share, and to whom it had better go: to those that have
        least."""
        counts = Counter({self.me: 0})
        mine = []
        for group in sorted(self._wanted):
            node = self.held(group).node
            counts[node] += 1
            if node == self.me:
                mine.append(group)
        heirs = {}
        for group in reversed(mine):
            others = [node for node in self._members(group) if node != self.me]
            heir = min(others, key=lambda node: (counts[node], node), default=self.me)
            if counts[self.me] - counts[heir] > 1:
                counts[heir] += 1
                counts[self.me] -= 1
                heirs[group] = heir
        return heirs

    def give_back(self) -> dict[int, int]:
        """Have all leases given back, since the node stops; returns the versions that they have now, by
        group. What cannot be asked for runs out by itself."""
        mine = {}
        for group in sorted(self._wanted):
            row = self.held(group)
            if row.node == self.me:
                worker = self._worker_of[group]
                try:
                    self._admission.enter(worker, 0, 1, group)
                except PaxmuxError:
                    continue
                self._exchange.call(worker, CallKind.DROP_MASTER, group, 0, b"", row.until_ns)
                mine[group] = row.version
        return mine

    async def given_back(self, versions: dict[int, int], timeout_s: float) -> None:
        """Wait until that is decided, for a moment."""
        until_ns = clock_ns() + int(min(timeout_s, HAND_OVER_S) * 1e9)
        while any(self._stands(group, version) for group, version in versions.items()):
            if not await self.watch.wait(until_ns):
                break

    def _stands(self, group: int, version: int) -> bool:
        """Whether nothing is known to have been decided about the lease since that version."""
        row = None if self._board is None else self._board.look(group)
        return row is None or row.version == version

    async def ask(self, kind: CallKind, group: int, argument: int, until_ns: int) -> Reply:
        """Ask the group's worker. Raises what its reply says, or why it cannot be asked."""
        worker = self._worker_of[group]
        self._admission.enter(worker, 0, 1, group)
        reply = await self._exchange.call(worker, kind, group, argument, b"", until_ns)
        if reply[1]:
            raise self.error_of(reply)
        return reply

    def error_of(self, reply: Reply) -> PaxmuxError:
        """As `outcomes.error_of`, with the address of the master where it is another node."""
        error = error_of(reply)
        if isinstance(error, NotMaster):
            error.address = self.address_of(error.master)
        return error

    def not_master(self, group: int, words: str) -> NotMaster:
        """This node is not the master, in these words."""
        held = self.held(group)
        return NotMaster(
            f"this node {words} group {group}",
            held.node,
            self.recorded(group).version,
            self.address_of(held.node),
        )

    def address_of(self, node: int) -> str | None:
        """Where a member is, as `host:port`; None if nobody has told."""
        place = self._memberships.places.get(node)
        return (place.address if place is not None else "") or self._seeds.get(node)

    def _members(self, group: int) -> list[int]:
        members = self._memberships.members(group)
        return list(self._seeds) if members is None else [each.node_id for each in members]
