"""How many values one instance of a group may decide, where executing them takes long.

Decides by what the last one took: an instance is executed as a whole, and no vote is given meanwhile. So
while a group's machines are the bottleneck (they are busy for more than half of the time), its instances are
to take about `INSTANCE_NS` each; where they are not, more values in an instance are worth more than that.
Never above `limits.batch_max_count`.
"""

from __future__ import annotations

from typing import Final

from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.timers import MS

INSTANCE_NS: Final = 8 * MS


class InstanceSizes:
    """Of the groups of one worker. Costs nothing where no instance takes long."""

    __slots__ = ("_ended", "most")

    def __init__(self) -> None:
        self.most: dict[int, int] = {}
        """What is configured, of those groups that have less now."""
        self._ended: dict[int, int] = {}
        """When the last instance was executed that was measured here, in ns."""

    def executed(self, group: Group, count: int, took_ns: int, now: int) -> None:
        """An instance of so many values was executed: one that took longer than `INSTANCE_NS`, or of a group
        that is in `most`."""
        index, bounds = group.index, group.bounds
        # Where nothing is known yet it may well be busy: the next one will tell.
        since_ns = now - self._ended.get(index, now - took_ns)
        self._ended[index] = now
        most = self.most.setdefault(index, bounds.batch_max_count)
        if took_ns > INSTANCE_NS and 2 * took_ns > since_ns:
            fitting = max(1, count * INSTANCE_NS // took_ns)
        elif 2 * took_ns < INSTANCE_NS or 2 * took_ns <= since_ns:
            fitting = 2 * bounds.batch_max_count
        else:
            return
        if fitting < most:
            group.bounds = bounds._replace(batch_max_count=fitting)
        else:
            group.bounds = bounds._replace(batch_max_count=most)
            del self.most[index]

    def forget(self, index: int) -> None:
        """The group is gone."""
        self.most.pop(index, None)
        self._ended.pop(index, None)
