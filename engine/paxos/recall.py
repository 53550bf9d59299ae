"""Recall: how a group whose log has lost who its members are gets to know it again.

The log alone would tell, and what is lost in it and forgotten other members have. What they tell is the
state of their inner machines at the instance where they stand. It is this group's too if nothing has changed
it since: both of its versions are below the group's instance, and the teller has got at least as far. It
counts once a majority of the very members that it names tell the same of them, each in its seat. Until then
the group learns and executes, gives no vote, and follows no operation of its inner machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.quorum import members_of
from paxmux.engine.paxos.system import SystemState, decode_state, encode_state
from paxmux.engine.paxos.timers import NEVER

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group


class Recall:
    """One group's search for its members."""

    __slots__ = ("again_after", "again_at", "g", "lost", "told")

    def __init__(self, group: Group, *, lost: bool) -> None:
        self.g = group
        self.lost = lost
        """Whether it is not known who they are."""
        self.told: dict[int, tuple[int, int, SystemState]] = {}
        """Of each that has told: its seat, its instance, and the state there."""
        self.again_at = 0 if lost else NEVER
        self.again_after = group.timers.ask_retry

    def words(self) -> str | None:
        """Why the group gives no vote; None if this is not why."""
        if not self.lost:
            return None
        return f"its log has lost who its members are; {len(self.told)} others have told so far"

    def on_ask(self, sender: int, fx: Effects) -> None:
        """A peer wants to know."""
        g = self.g
        if not self.lost and g.seated and g.inquiry.fenced is None:
            state = encode_state(g.inner.state())
            # After the sync: what is told must not be lost here.
            fx.after.peer(sender).recall_replies.append((g.index, g.instance, state))

    def on_reply(self, sender: int, seat: int, instance: int, data: bytes, now: int, fx: Effects) -> None:
        """A peer tells."""
        g = self.g
        if not self.lost or instance < g.instance:
            return
        try:
            state = decode_state(data)
        except ValueError:
            return
        place = state.membership.members.get(sender)
        if place is None or place[0] != seat:
            return
        self.told[sender] = seat, instance, state
        self._judge(state, now, fx)

    def _judge(self, state: SystemState, now: int, fx: Effects) -> None:
        g = self.g
        membership, reign, _ = state
        if not max(membership.version, reign.version) < g.instance:
            return
        same = [
            node
            for node, (_, instance, other) in self.told.items()
            if other.membership == membership and other.reign.version < g.instance <= instance
        ]
        if len(same) <= len(membership.members) // 2:
            return
        self.lost = False
        self.again_at = NEVER
        self.told.clear()
        g.members = members_of(membership)
        g.master.recall(reign, state.terms, now, fx)
        g.change_members(now, fx)
        g.inner.record(fx)
        g.doubt.judge(fx)

    def on_timer(self, now: int, fx: Effects) -> int:
        """Ask everybody who may know; returns when to do so again."""
        g = self.g
        if self.lost and now >= self.again_at:
            self.again_at = now + self.again_after
            self.again_after = min(2 * self.again_after, g.timers.phase_max)
            # What was told of earlier instances does not count any more.
            self.told.clear()
            for node in g.peers or list(g.learner.heard):
                fx.now.peer(node).recall_asks.append((g.index,))
        return self.again_at
