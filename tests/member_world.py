"""A cluster's memberships as a node's workers would answer for them, and what it has heard of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paxmux.engine.errors import Code, error_for
from paxmux.shards import membership
from paxmux.shards.boot import MembersTold
from paxmux.shards.heard import Heard
from paxmux.shards.member_changes import MemberChanges
from paxmux.shards.membership import Membership
from paxmux.shards.memberships import Memberships
from paxmux.shards.requests import CallKind, Reply

CLUSTER = 77
MS = 1_000_000
Before = Callable[[int], int]
"""Called with a group before a change of it; a code other than 0 is its outcome."""


class MemberWorld:
    """Groups that change by compare-and-set."""

    def __init__(self, groups: int = 1, members: Mapping[int, tuple[int, str]] | None = None) -> None:
        self.now = 1_000_000 * MS
        self.groups = {
            index: Membership(CLUSTER, -1, dict(members or {1: (11, "a:1"), 2: (12, "b:2"), 3: (13, "c:3")}))
            for index in range(groups)
        }
        self.heard: dict[int, Heard] = {}
        self.silent_ms: dict[int, int] = {}
        self.before: Before = lambda group: Code.OK
        self.proposed: list[int] = []
        """Groups, in the order in which changes were asked for."""
        self.memberships = Memberships({}, lambda: self.now)
        self.changes = MemberChanges(self.ask, self.listen, self.memberships)
        for index in self.groups:
            self.tell(index)

    async def listen(self) -> Mapping[int, Heard]:
        return self.heard

    async def ask(self, kind: CallKind, group: int, payload: bytes, deadline_ns: int) -> Reply:
        known = self.groups[group]
        if kind == CallKind.MEMBERS:
            said = Membership(known.cluster, known.version, known.members, dict(self.silent_ms))
            return 1, Code.OK, 0, 0, membership.encode(said)
        assert kind == CallKind.CHANGE_MEMBERS
        self.proposed.append(group)
        wanted = membership.decode(payload)
        code = self.before(group)
        if not code and wanted.cluster != CLUSTER:
            code = Code.OTHER_CLUSTER
        if not code and wanted.version != self.groups[group].version:
            code = Code.MEMBERSHIP_CHANGED
        if code:
            raise error_for(code, "as asked")
        self.change(group, wanted.members)
        return 1, Code.OK, self.groups[group].version, 0, None

    def change(self, group: int, members: Mapping[int, tuple[int, str]]) -> None:
        """Another operation is decided."""
        self.groups[group] = Membership(CLUSTER, self.groups[group].version + 5, dict(members))
        self.tell(group)

    def tell(self, group: int) -> None:
        known = self.groups[group]
        self.memberships.take(MembersTold(members=known.members, versions={group: known.version}))

    def members(self, group: int = 0) -> dict[int, tuple[int, str]]:
        return self.groups[group].members
