"""A group on its way into a worker: its values are written and executed here before it is.

They go into this worker's log as LEARNED, in its own turns, and into fresh machines, so that little is
left to do once the other worker has let go. Machines that keep their state themselves are built only
then: there must be one of them at a time. When the group's hard state is durable here the node is told
(`complete`); it alone decides that the group is hosted here from now on, and until then this worker
neither votes nor answers for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from paxmux.engine.paxos.effects import LEARNED, Record
from paxmux.engine.paxos.group import Owned
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import EMPTY_STATE, HardState, Log
from paxmux.shards import handover
from paxmux.shards.applier import Applier
from paxmux.shards.handover import Begin, HandoverLost, HandoverSocket, LetGo, State, Values, Waiting
from paxmux.shards.moving import last_records
from paxmux.shards.requests import Call

NEAR_COUNT = 64
"""With no more values than this to go, the other worker may let go."""
AHEAD_COUNT = 4096
"""While so many values wait to be executed here, no more are taken in."""

Machines = Mapping[int, StateMachine]
Build = Callable[[int, bool], Machines]
"""(group, durable): build the group's machines that keep their state, or those that do not."""


class Arrival:
    """One move, at the worker that is to have the group."""

    def __init__(
        self,
        group: int,
        move: int,
        socket: HandoverSocket,
        log: Log,
        build: Build,
        make_applier: Callable[[int, Machines], Applier],
    ) -> None:
        """The log must know nothing of the group.

        Raises:
            ConfigError, or whatever a machine's constructor raises.
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
        self._build = build
        self._make_applier = make_applier
        self.applier = make_applier(group, build(group, False))
        socket.send(Begin())
        socket.flush()

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
            StorageDamaged: what was written cannot be read back.
            ConfigError, or whatever a machine's constructor raises.
        """
        if self._joined:
            self.complete = self.state is not None
            return False
        end = self._have if self._applied < 0 else self._applied
        if self.applier.replay(end):
            return True
        if self._applied < 0:
            self.near = self._left >= 0 and self._left + end - self.applier.next <= NEAR_COUNT
            return False
        if self._durable is None:
            self._durable = self._make_applier(self.group, self._build(self.group, True))
        if self._durable.machines:
            if self._durable.replay(self._applied):
                return True
            self._durable.next = self.applier.next = max(self._applied, self.applier.next)
            self.applier.join(self._durable)
        self._joined = True
        return True

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
            case State(instance, promised, accepted, value, first):
                if instance != self._have or self._applied < 0 or self.forwards is None:
                    raise HandoverLost(f"it stands at {instance}, though values up to {self._have} came")
                self.state = HardState(instance, promised, accepted, value)
                # Only a group without a doubt moves; a log that has lost something says so of all groups.
                there = EMPTY_STATE._replace(suspect=self._log.doubt() is not None)
                records += last_records(self.group, self.state, there, first)
            case _:
                raise HandoverLost(f"{type(message).__name__} is not expected now")
