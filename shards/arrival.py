"""A group on its way into a worker: its values are written and executed here before it is.

They go into this worker's log as LEARNED, in its own turns, and into fresh machines, so that little is
left to do once the other worker has let go. Machines that keep their state themselves are built only
then: there must be one of them at a time. When the group's hard state is durable here the node is told
(`complete`); it alone decides that the group is hosted here from now on, and until then this worker
neither votes nor answers for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from paxmux.engine.clock import clock_ns
from paxmux.engine.paxos.effects import LEARNED, Record
from paxmux.engine.paxos.group import Owned
from paxmux.engine.paxos.system import term_in
from paxmux.engine.paxos.timers import MS
from paxmux.engine.storage import HardState, Log, unknown_state
from paxmux.shards import handover
from paxmux.shards.applier import REPLAY_COUNT, Applier
from paxmux.shards.handover import Begin, HandoverLost, HandoverSocket, LetGo, State, Values, Waiting
from paxmux.shards.moving import last_records
from paxmux.shards.requests import Call

NEAR_COUNT = 64
NEAR_NS = 20 * MS
"""With no more values than this left, and no longer to execute them, the other worker may let go."""
LATE_NS = 1000 * MS
PATIENCE_NS = 10_000 * MS
"""Nor does it matter to execute for so long, if the group has not come nearer for some time: machines that
are as busy as they can be need as long here as there."""
AHEAD_COUNT = 4096
"""While so many values wait to be executed here, no more are taken in."""
SLICE_NS = 4 * MS
"""Executed at a time."""

Build = Callable[[int, bool], Applier]
"""(group, durable): build the group's machines that keep their state, or those that do not."""


class Pace:
    """Executes in slices of about `SLICE_NS`, or one instance: the worker's other groups wait for no more,
    however long a value takes."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.each = 0
        """What an instance took, in ns."""
        self._clock = clock
        self._count = 1

    def replay(self, applier: Applier, end: int) -> bool:
        """Execute one slice of what is below `end`; True while there is more. Raises StorageDamaged."""
        first = applier.next
        if first >= end or not applier.machines:
            return applier.replay(end)
        begun = self._clock()
        applier.replay(min(end, first + self._count))
        # The log may give less than was asked for.
        self.each = max(1, (self._clock() - begun) // max(1, applier.next - first))
        self._count = min(REPLAY_COUNT, self._count * 2, max(1, SLICE_NS // self.each))
        return applier.next < end


class Arrival:
    """One move, at the worker that is to have the group."""

    def __init__(
        self,
        group: int,
        move: int,
        socket: HandoverSocket,
        log: Log,
        build: Build,
        clock: Callable[[], int] = clock_ns,
    ) -> None:
        """The log must know nothing of the group. `clock`: in ns.

        Raises:
            PaxmuxError: the machines cannot be built.
        """
        self.group = group
        self.move = move
        self.socket = socket
        self.near = False
        """Little is left: the other worker may let go."""
        self.complete = False
        """All of the group is durable here, and its machines are as far as the other worker's were."""
        self.state: HardState | None = None
        """Where the group stood when it was let go."""
        self.own: dict[int, Owned] = {}
        self.calls: list[Call] = []
        self.forwards: handover.Forwards | None = None
        self._log = log
        self._have = 0
        """All values below that the other log has are in this one, or among the records of this turn."""
        self._left = -1
        """Values that the other worker has and did not send; -1: not known yet."""
        self._applied = -1
        """What the other worker had executed when it let go; -1: it has not."""
        self._durable: Applier | None = None
        self._joined = False
        self._told = 0
        self._build = build
        self._clock = clock
        self._pace = Pace(clock)
        self._nearest = -1
        """The fewest instances that were left to do since the other worker first said how many there are,"""
        self._nearest_at = 0
        """and when."""
        self._terms = handover.Terms([], 0)
        self.applier = build(group, False)
        self.applier.term_at = self._term_at
        socket.send(Begin())

    def take(self, records: list[Record]) -> bool:
        """Before a turn: take in what has come; `records` gets what the turn must write. Whether anything
        came.

        Raises:
            HandoverLost: the other worker is gone, or what it says makes no sense; or there is no room.
        """
        if self.state is not None or self._have - self.applier.next > AHEAD_COUNT:
            return False
        self.socket.flush()
        messages = self.socket.receive()
        if messages:
            trouble = self._log.healthy()
            if trouble is not None:
                raise HandoverLost(trouble)
        for message in messages:
            self._take(message, records)
        return bool(messages)

    def settle(self) -> bool:
        """After a turn's sync: execute a slice. Whether there is more to do at once.

        Raises:
            HandoverLost: the group comes no nearer.
            StorageDamaged: what was written cannot be read back.
            PaxmuxError: the machines cannot be built.
        """
        if self._joined:
            self.complete = self.state is not None
            return False
        end = self._have if self._applied < 0 else self._applied
        more = self._pace.replay(self.applier, end)
        if self._applied < 0 and not self.near:
            self.near = self._is_near(end - self.applier.next)
        if more or self._applied < 0:
            return more
        if self._durable is None:
            self._durable = self._build(self.group, True)
            self._durable.term_at = self._term_at
        if self._durable.machines:
            if self._pace.replay(self._durable, self._applied):
                return True
            self._durable.next = self.applier.next = max(self._applied, self.applier.next)
            self.applier.join(self._durable)
        self._joined = True
        return True

    def _term_at(self, instance: int) -> int | None:
        return term_in(self._terms.terms, self._terms.unclear_before, instance)

    def _is_near(self, behind: int) -> bool:
        """Whether little is left of what is to come and of the `behind` instances that are to be executed."""
        if self._left < 0:
            return False
        cost = behind * self._pace.each
        if self._left + behind <= NEAR_COUNT and cost <= NEAR_NS:
            return True
        now = self._clock()
        if self._nearest < 0 or self._left + behind < self._nearest:
            self._nearest, self._nearest_at = self._left + behind, now
        elif now > self._nearest_at + PATIENCE_NS:
            if self._left > AHEAD_COUNT or cost > LATE_NS:
                each_ms = self._pace.each / MS
                raise HandoverLost(f"it comes no nearer than {self._nearest} instances of {each_ms:.1f} ms")
            return True
        return False

    def news(self) -> list[Literal["near", "complete"]]:
        """What has become true, each once."""
        now: list[Literal["near", "complete"]] = []
        if self.near:
            now.append("near")
        if self.complete:
            now.append("complete")
        fresh = now[self._told :]
        self._told = len(now)
        return fresh

    def close(self, *, machines: bool) -> None:
        """End it here; the other worker notices. `machines`: close them too, they are not needed."""
        self.socket.close()
        if machines:
            self.applier.close()
            if self._durable is not None and not self._joined:
                self._durable.close()

    def _take(self, message: handover.Message, records: list[Record]) -> None:
        match message:
            case Values(items, left):
                for instance, round_, node, value in items:
                    if instance != self._have and self._have:
                        raise HandoverLost(f"instance {instance} came where {self._have} was expected")
                    records.append((LEARNED, self.group, instance, round_, node, value))
                    self._have = instance + 1
                self._left = left
            case handover.Terms():
                self._terms = message
            case LetGo(applied):
                if not self.applier.next <= applied <= self._have:
                    raise HandoverLost(f"executed up to {applied}, though {self._have} values came")
                self._applied = applied
            case handover.Owned(instance, proposals):
                if instance < 0:
                    self.own.update(proposals)
                else:
                    self.applier.owned.setdefault(instance, {}).update(proposals)
            case Waiting(calls):
                self.calls += calls
            case handover.Forwards():
                self.forwards = message
            case State(instance, promised, accepted, value, first, system_from, system):
                if instance != self._have or self._applied < 0 or self.forwards is None:
                    raise HandoverLost(f"it stands at {instance}, though values up to {self._have} came")
                self.state = HardState(
                    instance, promised, accepted, value, system=system, system_from=system_from
                )
                # Only a group without a doubt moves; a log that has lost something says so of all groups.
                there = unknown_state(self._log.doubt())
                records += last_records(self.group, self.state, there, first)
            case _:
                raise HandoverLost(f"{type(message).__name__} is not expected now")
