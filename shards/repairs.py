"""Repairs: decided values that the log has lost are asked from peers, and written to it again.

A value is lost where its record cannot be read, or is not there. Whoever meets one says so here: replay,
serving, callers, the log's own scrub. What waits for it waits; everything else goes on. A peer's value is
taken as any decided one is (docs/specification.md, I9), once it fits the chain of whichever neighbour can
be read. What is lost and not known to be decided is no business of this file (`engine.paxos.doubt`).

It never touches what is written already: the new record comes after the old one, and counts instead.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import LEARNED, Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.timers import NEVER
from paxmux.engine.storage import Log, StorageDamaged

WANTED_MAX = 4096
"""Lost values of one group that are remembered: more are found again when these are back."""
RUN_MAX = 64
"""Lost values asked for together, and looked for behind one that was met."""

_log = logging.getLogger("paxmux")


class Lost:
    """What one group has lost, and when to ask for it."""

    __slots__ = ("again_after", "again_at", "asked", "reason", "wanted")

    def __init__(self, reason: str, now: int, pause: int) -> None:
        self.reason = reason
        """Of the first of them, in words."""
        self.wanted: dict[int, None] = {}
        """Instances, in the order in which they were met."""
        self.again_at = now
        self.again_after = pause
        self.asked = 0
        """Questions so far; each goes to the next peer."""


class Repairs:
    """Lost values of all groups of one worker."""

    __slots__ = ("_groups", "_log", "due_at", "lost", "mended")

    def __init__(self, groups: Mapping[int, Group], log: Log) -> None:
        self._groups = groups
        self._log = log
        self.lost: dict[int, Lost] = {}
        """By group; only groups that lack something."""
        self.due_at = NEVER
        """When to ask next."""
        self.mended = 0

    def want(self, index: int, instance: int, reason: str, now: int) -> bool:
        """The value of a decided instance cannot be read; False if there is nobody to ask for it, or it is
        forgotten. One of an instance that is not decided yet is found again when it is."""
        group = self._groups[index]
        if instance < self._log.first(index) or not (_whom(group) or _may_have_others(group)):
            return False
        if instance >= group.instance:
            return True
        lost = self.lost.get(index)
        if lost is None:
            _log.error("group %d: instance %d is lost and asked from peers: %s", index, instance, reason)
            lost = self.lost[index] = Lost(reason, now, group.timers.ask_retry)
            lost.asked = group.rng.randrange(max(1, len(_whom(group))))
        if instance not in lost.wanted and len(lost.wanted) < WANTED_MAX:
            lost.wanted[instance] = None
            # What is damaged is often more than one value: they come together.
            for behind in range(instance + 1, min(instance + RUN_MAX, group.instance)):
                if behind in lost.wanted or self._value(index, behind) is not None:
                    break
                lost.wanted[behind] = None
            lost.again_at = now
        self.due_at = min(self.due_at, lost.again_at)
        return True

    def lacks(self, index: int, instance: int) -> bool:
        """Whether the value of an instance is being asked for."""
        lost = self.lost.get(index)
        return lost is not None and instance in lost.wanted

    def words(self, index: int) -> str | None:
        """What a group lacks; None if nothing."""
        lost = self.lost.get(index)
        if lost is None:
            return None
        return f"{len(lost.wanted)} lost values are asked from peers, first {min(lost.wanted)}: {lost.reason}"

    def ask(self, now: int, fx: Effects) -> None:
        """Ask for what is due, each time another peer."""
        self.due_at = NEVER
        gone: list[int] = []
        for index, lost in self.lost.items():
            group = self._groups[index]
            if now >= lost.again_at:
                self._forget_below(index, lost)
                if not lost.wanted:
                    gone.append(index)
                    continue
                first = next(iter(lost.wanted))
                count = 1
                while count < RUN_MAX and first + count in lost.wanted:
                    count += 1
                if peers := _whom(group):
                    peer = peers[lost.asked % len(peers)]
                    lost.asked += 1
                    fx.now.peer(peer).mend_asks.append((index, first, count))  # reach: mend-asked
                lost.again_at = now + lost.again_after
                lost.again_after = min(2 * lost.again_after, group.timers.phase_max)
            self.due_at = min(self.due_at, lost.again_at)
        for index in gone:
            del self.lost[index]

    def _forget_below(self, index: int, lost: Lost) -> None:
        """What nobody needs any more need not come back."""
        first = self._log.first(index)
        for instance in [each for each in lost.wanted if each < first]:
            del lost.wanted[instance]

    def on_learned(
        self, index: int, instance: int, round: int, node: int, value: bytes, now: int, fx: Effects
    ) -> None:
        """A decided value of an instance that is long over here: taken if it is lacking, and fits."""
        lost = self.lost.get(index)
        if lost is None or instance not in lost.wanted or not self._fits(index, instance, value):
            return
        fx.records.append((LEARNED, index, instance, round, node, value))
        del lost.wanted[instance]  # reach: mended
        self.mended += 1
        if not lost.wanted:
            del self.lost[index]
            _log.warning("group %d: what was lost is in the log again", index)
            return
        lost.again_after = self._groups[index].timers.ask_retry
        if instance + 1 not in lost.wanted:
            lost.again_at = now
            self.due_at = now

    def _fits(self, index: int, instance: int, value: bytes) -> bool:
        """Whether a value goes with what is before it and behind it, as far as that can be read."""
        group = self._groups[index]
        before = self._value(index, instance - 1) if instance else None
        if before is not None or not instance:
            chain = values.FIRST if before is None else values.chain_after(before)
            if values.chain_in(value) != chain:
                return False
        if instance + 1 == group.instance:
            return values.chain_after(value) == group.chain
        behind = self._value(index, instance + 1)
        return behind is None or values.chain_after(value) == values.chain_in(behind)

    def _value(self, index: int, instance: int) -> bytes | None:
        try:
            found = self._log.read(index, instance)
        except StorageDamaged:
            return None
        return None if found is None else found[2]


def _whom(group: Group) -> list[int]:
    """Who may have a value: the other members, or else whoever was heard."""
    return group.peers or list(group.learner.heard)


def _may_have_others(group: Group) -> bool:
    """Whether a group without other members has had some, or may have some that it has forgotten."""
    return group.members.since > 0 or group.instance < group.doubt.decided
