"""Groups that show less than what is decided here: what they have yet to execute, and why they wait.

Decides whose turn it is. A pass executes for about `SLICE_NS`, or one instance, so that votes never wait for
more, however long a value takes; what is left is held here, and goes on in the next passes, one group after
the other, so that a slow or hot group does not starve the others. Beyond `HOLD_COUNT` and
`HOLD_BYTES` nothing is held: then it is read back from the log, a slice at a time. A group whose next value
the log has lost waits until that is repaired; whoever waits for it may run out of time meanwhile. It executes
nothing itself (`Applier`), and asks nobody (`Repairs`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Set
from itertools import chain
from typing import Final

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import Decided
from paxmux.engine.paxos.group import Group, Owned
from paxmux.engine.paxos.timers import MS, NEVER
from paxmux.engine.paxos.value import Entry
from paxmux.engine.storage import StorageDamaged
from paxmux.shards.applier import Applier
from paxmux.shards.instance_size import INSTANCE_NS, InstanceSizes
from paxmux.shards.repairs import Repairs

SLICE_NS: Final = 8 * MS
"""Executed in a pass, before votes and other groups are looked at again."""
PAUSE_COUNT: Final = 2
"""With so many instances held, a group opens no other: what comes in shares one later, and is as good as not
begun until then. One less would leave a lone group without work while an instance is decided."""
HOLD_COUNT: Final = 8192
HOLD_BYTES: Final = 8 << 20
"""Of decided values that are held in memory, over all groups of a worker."""
ENTRY_BYTES: Final = 256
"""What a held value takes beside its own bytes, about."""

Held = deque[tuple[int, list[Entry], int]]
"""(instance, what it decided, bytes): consecutive instances, the first of which is the next to execute."""

_log: Final = logging.getLogger("paxmux")


def no_time() -> int:
    """A clock that stands still: whatever is decided is executed at once."""
    return 0


class Backlog:
    """Of one worker."""

    __slots__ = (
        "_appliers",
        "_blocked",
        "_clock",
        "_full",
        "_groups",
        "_repairs",
        "_short",
        "_sizes",
        "_skipped",
        "_stale",
        "behind",
        "carried_on",
        "held_bytes",
        "held_count",
        "resumed",
        "until",
    )

    def __init__(
        self,
        groups: dict[int, Group],
        appliers: dict[int, Applier],
        repairs: Repairs,
        clock: Callable[[], int],
    ) -> None:
        """`clock`: in ns."""
        self._groups = groups
        self._appliers = appliers
        self._repairs = repairs
        self._clock = clock
        self.behind: dict[int, Held] = {}
        """Groups that have decided values to execute; their turn comes in this order. What is not held is in
        the log."""
        self.held_count = 0
        """Values held,"""
        self.held_bytes = 0
        """and what they take."""
        self.carried_on: dict[int, int] = {}
        """What groups took in the last `step`, in ns."""
        self.resumed: list[Group] = []
        """Groups that may open instances again."""
        self.until = 0
        """When this pass has executed for long enough."""
        self._full = False
        """Whether what this pass decided has taken all of its time,"""
        self._skipped = False
        """and whether what waits had none of the last pass."""
        self._sizes = InstanceSizes()
        self._stale: dict[int, int] = {}
        """Groups whose machines show less than they did before a restart, and the instance that ends it."""
        self._blocked: dict[int, None] = {}
        """Those that wait for a value that the log has lost."""
        self._short: dict[int, None] = {}
        """Groups that stand lower than their log was: what they show is older than what was decided here."""

    def begin(self, index: int) -> None:
        """A group is hosted from now on."""
        group, applier = self._groups[index], self._appliers[index]
        if group.instance < group.doubt.decided:
            self._short[index] = None
        if not applier.machines:
            applier.replay(group.instance)
        if applier.next < group.instance:
            self.behind[index] = deque()
            self._stale[index] = group.instance
        elif applier.next > group.instance + 1:
            # One more than the log knows to be decided is what a durable machine has after a crash.
            words = "group %d: its state machines have executed %d instances, its log has only %d"
            _log.warning(words, index, applier.next, group.instance)

    def forget(self, index: int) -> None:
        """The group is not hosted any more. Who waits for its values is known to its applier."""
        self._drop(index)
        self._sizes.forget(index)
        for kind in (self._stale, self._blocked, self._short):
            kind.pop(index, None)

    def take(self, decided: Iterable[Decided]) -> None:
        """Execute what this pass has decided; hold what there is no time for, or what comes behind others
        that are held."""
        appliers, behind, clock = self._appliers, self.behind, self._clock
        late = self.held_count > 0
        sizes = self._sizes
        begun = clock()
        until = self.until = begun + SLICE_NS
        for index, instance, entries, owned in decided:
            if late or index in behind:
                self._hold(index, instance, entries, owned)
                continue
            applier = appliers[index]
            applier.apply(instance, entries, owned)
            if applier.next <= instance:
                self.note(index)
            now = clock()
            if now - begun > INSTANCE_NS or index in sizes.most:
                sizes.executed(self._groups[index], len(entries), now - begun, now)
            begun = now
            late = self._full = now >= until

    def note(self, index: int) -> None:
        """An instance is decided that cannot be executed yet."""
        if index not in self._blocked:
            self.behind.setdefault(index, deque())

    def _hold(self, index: int, instance: int, entries: list[Entry], owned: dict[int, Owned] | None) -> None:
        applier = self._appliers[index]
        if not applier.machines:
            applier.apply(instance, entries, owned)
            return
        applier.wait(instance, owned)
        if index in self._blocked:
            return
        held = self.behind.setdefault(index, deque())
        follows = held[-1][0] + 1 == instance if held else instance <= applier.next
        if follows and self.held_count < HOLD_COUNT and self.held_bytes < HOLD_BYTES:
            self._keep(index, held, instance, entries)

    def waiting(self) -> Set[int]:
        """Groups of which nothing must be shown yet: it would take back what was shown before."""
        if not self._blocked and not self._short:
            return self._stale.keys()
        return set(chain(self._stale, self._blocked, self._short))

    @property
    def stuck(self) -> bool:
        """Whether any group waits for other members."""
        return bool(self._blocked or self._short)

    def deadline(self) -> int:
        """The first one of proposals whose execution waits for other members."""
        return min([self._appliers[index].deadline for index in self._blocked], default=NEVER)

    def step(self, now: int) -> None:
        """Once a pass: go on with groups that have got what they waited for, and execute what there is time
        for.

        Raises:
            StorageDamaged: a value is lost, and there is nobody to ask for it.
        """
        if self._blocked or self._short:
            self._unblock(now)
        if self.carried_on:
            self.carried_on.clear()
        if not self.behind:
            return
        # Votes come before what waits, but not for ever.
        self._skipped, self._full = self._full and not self._skipped, False
        if self._skipped:
            return
        clock = self._clock
        begin = clock()
        until = self.until = max(self.until, begin + SLICE_NS // 2)
        while self.behind:
            index = next(iter(self.behind))
            held = self.behind[index]
            applier = self._appliers[index]
            read = not held
            if held:
                self._go_on(index, applier, held)
            else:
                try:
                    self._read(index, applier, held)
                except StorageDamaged as error:
                    if not self._repairs.want(index, applier.next, str(error), now):
                        raise
                    self._drop(index)
                    self._blocked[index] = None  # reach: replay-waits-for-repair
                    return
            del self.behind[index]
            if applier.next < self._groups[index].instance:
                self.behind[index] = held  # reach: replay-takes-turns
            if self._stale and applier.next >= self._stale.get(index, NEVER):
                del self._stale[index]
            end = clock()
            self.carried_on[index] = self.carried_on.get(index, 0) + end - begin
            begin = end
            if read or end >= until:
                return

    def _go_on(self, index: int, applier: Applier, held: Held) -> None:
        """Execute what is held of a group, as far as there is time; one instance in any case."""
        group, begun = self._groups[index], self._clock()
        while held:
            instance, entries, size = held.popleft()
            self.held_count -= len(entries)
            self.held_bytes -= size
            applier.go_on(instance, entries)
            now = self._clock()
            if now - begun > INSTANCE_NS or index in self._sizes.most:
                self._sizes.executed(group, len(entries), now - begun, now)
            begun = now
            if now >= self.until:
                break
        if group.paused and len(held) < PAUSE_COUNT:
            self._resume(group)

    def _resume(self, group: Group) -> None:
        group.paused = False
        self.resumed.append(group)

    def _read(self, index: int, applier: Applier, held: Held) -> None:
        """Execute a slice of the log; what there is no time for is held."""
        late = False
        for instance, _round, _node, value in applier.slice_of_log(self._groups[index].instance):
            if not late:
                applier.go_on(instance, values.decode(value))
                late = self._clock() >= self.until
            elif self.held_count < HOLD_COUNT and self.held_bytes < HOLD_BYTES:
                self._keep(index, held, instance, values.decode(value))
            else:
                break

    def _keep(self, index: int, held: Held, instance: int, entries: list[Entry]) -> None:
        size = sum([len(entry[5]) + ENTRY_BYTES for entry in entries])
        held.append((instance, entries, size))
        self.held_count += len(entries)
        self.held_bytes += size
        if len(held) >= PAUSE_COUNT:
            self._groups[index].paused = True

    def _drop(self, index: int) -> None:
        for _instance, entries, size in self.behind.pop(index, ()):
            self.held_count -= len(entries)
            self.held_bytes -= size
        group = self._groups.get(index)
        if group is not None and group.paused:
            self._resume(group)

    def _unblock(self, now: int) -> None:
        for index in list(self._blocked):
            self._appliers[index].expire(now)
            if not self._repairs.lacks(index, self._appliers[index].next):
                del self._blocked[index]
                self.behind[index] = deque()
        for index in list(self._short):
            if self._groups[index].instance >= self._groups[index].doubt.decided:
                del self._short[index]
