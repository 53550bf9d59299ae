"""Requests to a worker about the masters of its groups: reads under a lease, and what becomes of leases.

Decides what the master alone may answer. A lease is looked at twice for each read: before the answer is
built, and after that by a clock that was read then, since building it may take long, and the process may have
been stopped, or the machine suspended, meanwhile. Until a group has executed what it knew when the request
came, which has in it all that was decided before its reign, nothing is answered.
"""

from __future__ import annotations

from collections.abc import Callable

from paxmux.engine.errors import Code
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.master import NO_LEASE, LeaseTerms
from paxmux.engine.paxos.timers import MS
from paxmux.shards.backlog import no_time
from paxmux.shards.requests import Call, Reply


class MasterCalls:
    """Of one worker."""

    __slots__ = ("_replies", "clock", "leases")

    def __init__(self, replies: list[Reply]) -> None:
        """`replies`: where answers go."""
        self._replies = replies
        self.clock: Callable[[], int] = no_time
        """In ns; where none passes, a turn's time is as fresh as any."""
        self.leases: dict[int, LeaseTerms] = {}
        """Of all groups: what a group gets that is hosted here later."""

    def drop(self, call: Call, group: Group, now: int, fx: Effects) -> None:
        """Have the group's master give its lease back."""
        seq, heir = call[0], call[4]
        if group.master.drop(now, fx, heir):
            self._replies.append((seq, Code.OK, 0, 0, None))
        else:
            self.refuse(seq, group, now)

    def set_lease(self, call: Call, group: Group | None) -> None:
        """Leases of the group that are asked for from now on have another length."""
        seq, _kind, index, _deadline, lease_ms, _payload = call
        self.leases[index] = self.leases.get(index, NO_LEASE)._replace(lease=lease_ms * MS)
        if group is not None:
            group.master.set_lease(lease_ms * MS)
        self._replies.append((seq, Code.OK, 0, 0, None))

    def holds(self, group: Group, now: int) -> bool:
        """Whether this node is the master, by a clock that is read now."""
        return group.master.holds(max(now, self.clock()))

    def tell(self, seq: int, group: Group, now: int) -> None:
        """Say in which term this node is master, all below which is executed here."""
        if self.holds(group, now):
            master = group.master
            self._replies.append((seq, Code.OK, master.term, master.version + 1, None))
        else:
            self.refuse(seq, group, now)

    def refuse(self, seq: int, group: Group, now: int) -> None:
        """This node is not the master; say who is."""
        master = group.master
        believed = master.believed(max(now, self.clock()))
        # Its own lease may be over, or have been given back.
        believed = 0 if believed == group.me and not self.holds(group, now) else believed
        words = f"this node is not the master of group {group.index}"
        words += f"; node {believed} is" if believed else ", and nobody is that it knows of"
        self._replies.append((seq, Code.NOT_MASTER, believed, master.version + 1, words.encode()))
