"""What a server may know and do about masters: the part of a `Node` that is about them.

Decides what such a call may be; what it does is in shards/masters.py. Those that only ask who is master cost
no call to a worker, and hold for this moment alone.
"""

from __future__ import annotations

from collections.abc import Callable

from paxmux.engine.bounds import BOUNDS
from paxmux.engine.errors import InvalidRequest
from paxmux.engine.fence import FENCED, TERM_MAX, fenced
from paxmux.shards.deadline import deadline_ns
from paxmux.shards.leadership import Leadership
from paxmux.shards.master_watch import OnChange
from paxmux.shards.masters import Masters


class NodeMasters:
    """The part of a `Node` that is about masters."""

    _masters: Masters

    def master(self, group: int) -> int:
        """Node id of the group's master, as far as this node knows now; 0 if nobody is.

        Raises:
            GroupWrong: there is no such group.
        """
        self._check_group(group)
        return self._masters.held(group).node

    def master_with_version(self, group: int) -> tuple[int, int]:
        """As `master`, and the version of that: the instance of the last operation that was about the group's
        lease, also where that lease is over; -1 before the first."""
        self._check_group(group)
        return self._masters.held(group).node, self._masters.recorded(group).version

    def is_master(self, group: int) -> bool:
        """Whether this node is the group's master now.

        It may be none any more when the caller acts on it: what must not happen then is written with the
        `term`, or read with `consistency="master"`.
        """
        self._check_group(group)
        return self._masters.held(group).node == self._masters.me

    def term(self, group: int) -> int | None:
        """The term in which this node is master now, for `propose(..., term=...)`; None if it is not.

        It is the instance of the first operation of an unbroken reign: terms of a group only grow.
        """
        self._check_group(group)
        row = self._masters.held(group)
        return row.term if row.node == self._masters.me else None

    def on_master_change(self, callback: OnChange) -> Callable[[], None]:
        """Have `callback(group, node, version)` called when another node is recorded as the master of a
        group; 0: none, since the lease was given back. Not when a lease ends, or the same node goes on.

        It is called in the event loop, some 20 ms after this node has learned of it, and may call the node.
        One that is added before the start is told of the masters that are found then.

        Returns:
            What takes it off again.
        """
        self._masters.watch.add(callback)
        return lambda: self._masters.watch.remove(callback)

    def leadership(self, group: int, timeout_s: float | None = None) -> Leadership:
        """Do something only as master:

            async with node.leadership(group) as term:
                ...

        The body begins once this node is the master and has executed everything below its term. It is
        cancelled when the lease ends, which shows as `LeadershipLost` behind it. The term, in
        `propose(..., term=term)` or wherever else it is compared, keeps out what comes too late all the same.

        Args:
            group: one that `master.groups` names.
            timeout_s: None waits for as long as it takes.

        Raises:
            NotMaster: this node did not become the master in time.
            LeadershipLost: the lease ended before the body did.
            NodeStopped, InvalidRequest: nothing was done.
        """
        self._check_group(group)
        until_ns = deadline_ns(timeout_s)
        return Leadership(
            group,
            lambda: self.begin_leadership(group, until_ns),
            lambda term: self._masters.own_until(group, term),
        )

    async def begin_leadership(self, group: int, until_ns: int) -> int:
        """What `leadership` begins with, where nothing is to be cancelled: wait until this node is the master
        and has executed everything below its term, which is returned. `until_ns`: on `engine.clock`."""
        self._check_group(group)
        return await self._masters.begin(group, until_ns)

    async def set_master_lease(self, group: int, lease_ms: int, timeout_s: float | None = 5.0) -> None:
        """How long leases of this node are, from the next one on; `master.lease_ms` at the start. It holds
        until the node stops. A member that has another one is believed for as long as it says.

        Raises:
            InvalidRequest: less than 1000, or more than an hour.
            Timeout: not every worker has said that it knows.
            NodeStopped, Overloaded: as in `query`.
        """
        self._check_group(group)
        least, most = BOUNDS["master.lease_ms"]
        if type(lease_ms) is not int or not least <= lease_ms <= most:
            raise InvalidRequest(f"expected {least} .. {most} ms, got {lease_ms!r}")
        await self._masters.set_lease(group, lease_ms, deadline_ns(timeout_s))

    async def drop_master(self, group: int, timeout_s: float | None = 5.0) -> None:
        """Stop being the group's master; returns once that is decided. This node tries to be master again
        after two leases.

        Raises:
            NotMaster: it is not the master.
            Timeout: this node does not count on the lease any more, but it may run on for the others.
            NodeStopped, Overloaded: as in `query`.
        """
        self._check_group(group)
        await self._masters.drop(group, 0, deadline_ns(timeout_s))

    async def transfer_master(self, group: int, node: int, timeout_s: float | None = 5.0) -> int:
        """As `drop_master`, with another member as the next master, if it is there and wants the group.

        Returns:
            Who is master then.

        Raises:
            InvalidRequest: `node` is no other member.
            Timeout: there is no other master yet.
            NotMaster, NodeStopped, Overloaded: as in `drop_master`.
        """
        self._check_group(group)
        return await self._masters.transfer(group, node, deadline_ns(timeout_s))

    def _check_group(self, group: int) -> None:
        raise NotImplementedError

    @staticmethod
    def _fence(term: int, smid: int, payload: bytes) -> tuple[int, bytes]:
        """State machine id and payload of what takes effect in that term alone."""
        if type(term) is not int or not 0 <= term <= TERM_MAX:
            raise InvalidRequest(f"expected a term, as `Node.term` gives it, or None, got {term!r}")
        return smid | FENCED, fenced(term, payload)
