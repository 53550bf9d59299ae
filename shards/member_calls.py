"""Requests to a worker about the members of its groups: who they are, and that they be others.

Decides what may be asked of a group now, and who gets which answer. Whether a change takes place, and when,
is the group's affair (`engine.paxos.inner`). A change that goes with its group to another worker is asked
for there again: the version in it keeps it from taking place twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from paxmux.engine.errors import Code
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.system import Change
from paxmux.shards import membership
from paxmux.shards.membership import Membership
from paxmux.shards.requests import Call, Reply

TOO_LATE: Final = (
    "deadline passed before all that are new had caught up, or before the change was known to be decided"
)
_WORDS: Final[Mapping[int, str]] = {
    Code.OTHER_CLUSTER: "the change is meant for another cluster",
    Code.MEMBERSHIP_CHANGED: "the members are not those any more that the change was made from",
    Code.BAD_OPTIONS: "these cannot be the members of a group",
    Code.NOT_A_MEMBER: "this node's seat is not a member of the group",
}


class MemberCalls:
    """Of one worker."""

    __slots__ = ("_changes", "_groups", "_heard", "_replies")

    def __init__(
        self, groups: Mapping[int, Group], heard: Mapping[tuple[int, int], int], replies: list[Reply]
    ) -> None:
        """`heard`: when, in ns, each (node, seat) of a member was last heard here. `replies`: where answers
        go."""
        self._groups = groups
        self._heard = heard
        self._replies = replies
        self._changes: dict[int, Call] = {}
        """By seq, those without an answer."""

    def answer(self, seq: int, group: Group, now: int) -> None:
        """Say who the members are, and how long they have been silent."""
        members, heard = group.members, self._heard
        known = {node: (seat, members.addresses.get(node, "")) for node, seat in members.seats.items()}
        silent = {
            node: 0 if node == group.me else max(now - heard.get((node, seat), now), 0) // 1_000_000
            for node, seat in members.seats.items()
        }
        said = Membership(group.cluster, members.version, known, silent)
        self._replies.append((seq, Code.OK, members.since, 0, membership.encode(said)))

    def change(self, call: Call, now: int, fx: Effects) -> None:
        """Have a group decide other members; its answer comes by `answered`."""
        seq, _kind, index, deadline, _argument, payload = call
        group = self._groups[index]
        if group.inquiry.fenced is not None:
            self._fail(seq, Code.SYSTEM_ERROR, f"group {index} is fenced here: {group.inquiry.fenced}")
        elif not group.seated:
            self._fail(seq, Code.NOT_A_MEMBER, f"this node's seat is not a member of group {index}")
        elif not group.voter:
            words = f"group {index} gives no votes on this node for now: {group.doubt.words()}"
            self._fail(seq, Code.OVERLOADED, words)
        else:
            try:
                wanted = membership.decode(payload)
            except msgspec.MsgspecError as error:
                self._fail(seq, Code.SYSTEM_ERROR, f"no membership: {error}")
                return
            self._changes[seq] = call
            change = Change(wanted.cluster, wanted.version, wanted.members)
            group.inner.submit_change(seq, deadline, change, now, fx)

    def answered(self, fx: Effects) -> None:
        """Hand on the answers of a turn; they are no longer in `fx` afterwards."""
        for seq, code, instance, words in fx.answered:
            self._changes.pop(seq, None)
            if code == Code.OK:
                self._replies.append((seq, code, instance, 0, None))
            else:
                self._fail(
                    seq, code, words.decode() if words else _WORDS.get(code, "the change did not take place")
                )
        fx.answered = []

    def drop(self, seq: int) -> bool:
        """A request gets its answer by another way; False if it is none of these."""
        return self._changes.pop(seq, None) is not None

    def take_out(self, index: int) -> list[Call]:
        """The changes of a group that have no answer yet; another worker will answer them."""
        found = [call for call in self._changes.values() if call[2] == index]
        for call in found:
            del self._changes[call[0]]
        return found

    def close(self) -> None:
        """Nothing will be answered any more."""
        for seq in self._changes:
            self._fail(seq, Code.TIMEOUT, "the node stopped before the change was known to be decided")
        self._changes.clear()

    def _fail(self, seq: int, code: int, message: str) -> None:
        self._replies.append((seq, code, 0, 0, message.encode()))
