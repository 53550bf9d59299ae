"""The calls of a node that are about who the members of its groups are.

Decides what a caller may ask, and for which groups; what a change means is in `member_intents.py`, how it is
carried out in `member_changes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paxmux.engine.errors import GroupWrong, NodeStopped, NotFounded
from paxmux.shards.assembly import Assembly
from paxmux.shards.deadline import deadline_ns
from paxmux.shards.member_changes import MemberChanges
from paxmux.shards.member_intents import Intent
from paxmux.shards.membership import Member
from paxmux.shards.memberships import Memberships, OnChange

CHANGE_S = 30.0


class NodeMembers:
    """The part of a `Node` that is about them."""

    _assembly: Assembly | None
    _memberships: Memberships
    _worker_of: list[int]

    async def members(self, group: int, timeout_s: float | None = 5.0) -> list[Member]:
        """The members of a group, by node id, as this node knows them: those of the next instance that it
        does not know to be decided. A node that lags may know older ones.

        Raises:
            NotFounded: the node waits for its cluster.
            GroupWrong, NodeStopped, Overloaded, Timeout: as in `query`.
        """
        self._check_group(group)
        said = await self._changes().read(group, deadline_ns(timeout_s))
        return self._memberships.listed(said.members)

    async def add_member(
        self, group: int | None, node: str | int, timeout_s: float | None = CHANGE_S
    ) -> list[int]:
        """Make a node a member of a group.

        The node must run, with `join: true` (or after it has lost its data), and have said hello to this
        one: that says in which seat it is. The operation waits until it has caught up with the group, so that
        it never makes the group wait.

        Args:
            group: None for all groups of this node; those where the node is a member count as done.
            node: its id, or `[id@]host:port`: the address where it is to be found from now on.
            timeout_s: for all groups together.

        Returns:
            The groups that were changed.

        Raises:
            MemberExists: it is a member already (1002).
            MemberNotHeard: nobody knows its seat.
            NotFounded: this node waits for its cluster (1001).
            MembershipChanged: the members have changed meanwhile, so that it does not fit them (-502).
            NotAMember: this node is no member of the group (17).
            Timeout: unknown outcome (404), or the node has not caught up; the same call again is safe.
            GroupsFailed: with `group=None`: some groups have not made it; `errors` has why. The same call
                again does what is left. If all have failed for the same reason, that is raised.
            InvalidRequest, NodeStopped, Overloaded: nothing was proposed.
        """
        changes = self._changes()
        return await self._carry_out(group, await changes.adding(node), timeout_s)

    async def remove_member(
        self, group: int | None, node: str | int, timeout_s: float | None = CHANGE_S
    ) -> list[int]:
        """Make a node a member of a group no more. It may be down; a majority of the members before must not.

        A node may remove itself: it learns on, and proposals there end with `NotAMember` (17).

        Args, returns: as `add_member`.

        Raises:
            MemberMissing: it is no member (1003).
            LastMember: nobody could add a member again.
            NotFounded, MembershipChanged, NotAMember, Timeout, GroupsFailed, InvalidRequest, NodeStopped,
                Overloaded: as in `add_member`.
        """
        return await self._carry_out(group, self._changes().removing(node), timeout_s)

    async def change_member(
        self, group: int | None, old: str | int, new: str | int, timeout_s: float | None = CHANGE_S
    ) -> list[int]:
        """Put one node in the place of another, in one operation.

        Told twice, a node gets the seat that it has now, if it has lost the data of the one before, and the
        address of `new`, if that names one.

        Args:
            group, timeout_s: as in `add_member`.
            old: the node that goes; it may be down.
            new: the node that comes, as in `add_member`; if it is a member already, `old` goes all the same.

        Returns:
            The groups that were changed.

        Raises:
            MembershipUnchanged: all is as it would be afterwards (1004).
            MemberMissing: `old` is no member, and so `new` is not added either (1003).
            MemberNotHeard, NotFounded, MembershipChanged, NotAMember, Timeout, GroupsFailed, InvalidRequest,
                NodeStopped, Overloaded: as in `add_member`.
        """
        changes = self._changes()
        return await self._carry_out(group, await changes.changing(old, new), timeout_s)

    def on_membership_change(self, callback: OnChange) -> Callable[[], None]:
        """Call `callback(group, members)` in the event loop whenever the members of a group have changed, and
        once for each group as soon as they are known. What it raises goes to the log.

        Returns:
            A function that ends it.
        """
        return self._memberships.watch(callback)

    async def _carry_out(self, group: int | None, intent: Intent, timeout_s: float | None) -> list[int]:
        changes = self._changes()
        groups: Sequence[int] = range(len(self._worker_of))
        if group is not None:
            self._check_group(group)
            groups = [group]
        return await changes.carry_out(groups, intent, deadline_ns(timeout_s), strict=group is not None)

    def _changes(self) -> MemberChanges:
        if self._assembly is None:
            raise NodeStopped("the node is not started")
        if not self._assembly.founded:
            raise NotFounded(f"the node waits for {self._assembly.waiting_for}")
        return self._assembly.member_changes

    def _check_group(self, group: int) -> None:
        if type(group) is not int or not 0 <= group < len(self._worker_of):
            raise GroupWrong(f"expected a group of 0 .. {len(self._worker_of) - 1}, got {group!r}")
