"""Groups that show less than what is decided here: what they have yet to execute, and why they wait.

Decides whose turn it is: one slice a pass, of the group that has waited longest, so that votes never wait for
more. A group whose next value the log has lost waits until that is repaired; whoever waits for it may run out
of time meanwhile. It executes nothing itself (`Applier`), and asks nobody (`Repairs`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from itertools import chain

from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.timers import NEVER
from paxmux.engine.storage import StorageDamaged
from paxmux.shards.applier import Applier
from paxmux.shards.repairs import Repairs

_log = logging.getLogger("paxmux")


class Backlog:
    """Of one worker."""

    __slots__ = ("_appliers", "_blocked", "_groups", "_repairs", "_short", "behind")

    def __init__(
        self, groups: Mapping[int, Group], appliers: Mapping[int, Applier], repairs: Repairs
    ) -> None:
        self._groups = groups
        self._appliers = appliers
        self._repairs = repairs
        self.behind: dict[int, None] = {}
        """Groups that have decided values to execute from the log; their turn comes in this order."""
        self._blocked: dict[int, None] = {}
        """Those that wait for a value that the log has lost."""
        self._short: dict[int, None] = {}
        """Groups that stand lower than their log was: what they show is older than what was decided here."""

    def begin(self, index: int) -> None:
        """A group is hosted from now on."""
        group, applied = self._groups[index], self._appliers[index].next
        if group.instance < group.doubt.decided:
            self._short[index] = None
        if applied < group.instance:
            self.behind[index] = None
        elif applied > group.instance + 1:
            # One more than the log knows to be decided is what a durable machine has after a crash.
            words = "group %d: its state machines have executed %d instances, its log has only %d"
            _log.warning(words, index, applied, group.instance)

    def forget(self, index: int) -> None:
        """The group is not hosted any more."""
        for kind in (self.behind, self._blocked, self._short):
            kind.pop(index, None)

    def note(self, index: int) -> None:
        """An instance is decided that cannot be executed yet."""
        if index not in self._blocked:
            self.behind[index] = None

    def waiting(self) -> Set[int]:
        """Groups of which nothing must be shown yet."""
        if not self._blocked and not self._short:
            return self.behind.keys()
        return set(chain(self.behind, self._blocked, self._short))

    @property
    def stuck(self) -> bool:
        """Whether any group waits for other members."""
        return bool(self._blocked or self._short)

    def deadline(self) -> int:
        """The first one of proposals whose execution waits for other members."""
        return min([self._appliers[index].deadline for index in self._blocked], default=NEVER)

    def step(self, now: int) -> int | None:
        """Once a pass: go on with groups that have got what they waited for, and execute a slice.

        Returns:
            The group that has executed something; None if none has.

        Raises:
            StorageDamaged: a value is lost, and there is nobody to ask for it.
        """
        if self._blocked or self._short:
            self._unblock(now)
        if not self.behind:
            return None
        index = next(iter(self.behind))
        del self.behind[index]
        applier = self._appliers[index]
        try:
            if applier.replay(self._groups[index].instance):
                self.behind[index] = None  # reach: replay-takes-turns
        except StorageDamaged as error:
            if not self._repairs.want(index, applier.next, str(error), now):
                raise
            self._blocked[index] = None  # reach: replay-waits-for-repair
        return index

    def _unblock(self, now: int) -> None:
        for index in list(self._blocked):
            self._appliers[index].expire(now)
            if not self._repairs.lacks(index, self._appliers[index].next):
                del self._blocked[index]
                self.behind[index] = None
        for index in list(self._short):
            if self._groups[index].instance >= self._groups[index].doubt.decided:
                del self._short[index]
