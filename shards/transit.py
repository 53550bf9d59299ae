"""Groups on their way out of and into one worker, for its loop.

Decides what is done about them before and after each turn, and in which order it carries out what the node
says of them. A group is hosted, or let go, or arriving, or none of these; only a hosted one votes, and only
the node's word (`TAKE_UP`) makes it one.
"""

from __future__ import annotations

import logging
import select
from collections.abc import Callable, Mapping

from paxmux.engine.errors import PaxmuxError
from paxmux.engine.paxos.effects import RELEASED, SYSTEM
from paxmux.engine.paxos.group import Group, Owned
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import Log, StorageDamaged
from paxmux.shards.applier import Applier, close_machines, describe
from paxmux.shards.arrival import Arrival
from paxmux.shards.boot import MoveTold
from paxmux.shards.departure import Departure, LetGone
from paxmux.shards.handover import HandoverClosed, HandoverLost, HandoverSocket
from paxmux.shards.requests import Call, CallKind
from paxmux.shards.slice import GroupMaker
from paxmux.shards.turn import Turn

log = logging.getLogger("paxmux.worker")


class Transit:
    """Used by one worker's loop, between its turns."""

    def __init__(
        self,
        turn: Turn,
        storage: Log,
        maker: GroupMaker,
        build: Callable[[int, bool], Mapping[int, StateMachine]],
        tell: Callable[[MoveTold], None],
    ) -> None:
        """
        Args:
            turn: of the worker.
            storage: its log.
            maker: makes groups and appliers over it.
            build: (group, durable) -> new machines of the group, those that keep their state or the others.
            tell: says something to the node.
        """
        self._turn = turn
        self._log = storage
        self._maker = maker
        self._build_machines = build
        self._tell = tell
        self._poll: select.epoll | None = None
        self._departures: dict[int, Departure] = {}
        self._gone: dict[int, LetGone] = {}
        self._arrivals: dict[int, Arrival] = {}
        self._more = False
        """There is something to do that waits for nothing."""
        self.active = False
        """Whether any group is on its way."""

    def watch(self, poll: select.epoll) -> None:
        """Have the loop woken by this poll."""
        self._poll = poll

    # What the node says on the control socket

    def depart(self, group: int, move: int, fd: int) -> None:
        """Begin to send the group's values."""
        socket = HandoverSocket(fd)
        problem = self._problem(group)
        if problem is not None:
            self._broken(group, move, problem)
            socket.close()
            return
        self._departures[group] = Departure(group, move, socket, self._log)
        self._turn.retention.kept.add(group)
        self._register(socket)
        self._note()

    def arrive(self, group: int, move: int, fd: int) -> None:
        """Begin to take the group's values in."""
        socket = HandoverSocket(fd)
        try:
            if group in self._turn.groups or group in self._gone or group in self._arrivals:
                raise HandoverLost(f"group {group} is here, or is on its way already")
            self._arrivals[group] = Arrival(group, move, socket, self._log, self._build)
        except (HandoverLost, PaxmuxError) as error:
            self._lost(group, move, error)
            socket.close()
            return
        self._register(socket)
        self._note()

    def end(self, group: int, move: int) -> None:
        """Nothing becomes of this move. A group that was let go waits for `TAKE_UP`."""
        departure, arrival = self._departures.get(group), self._arrivals.get(group)
        if departure is not None and departure.move == move:
            self._drop_departure(group)
        if arrival is not None and arrival.move == move:
            self._drop_arrival(group)
        self._tell(MoveTold(group=group, move=move, what="ended"))
        self._note()

    def leave(self, group: int) -> None:
        """Another worker has the group for good: forget it."""
        self._drop_departure(group)
        gone = self._gone.pop(group, None)
        if gone is not None:
            gone.close()
            self._release(group)
        self._note()

    # In the loop

    def before_turn(self) -> None:
        """Take in what has come; the turn writes it."""
        self._more = False
        for group, arrival in list(self._arrivals.items()):
            try:
                if arrival.take(self._turn.fx.records):
                    self._more = True
            except HandoverLost as error:
                self._lost(group, arrival.move, error)
                self._drop_arrival(group)

    def settle_if_idle(self, now: int) -> bool:
        """The loop wants to sleep: whether it must not. Does what would have followed the turn."""
        if self.active and not self._more:
            self.after_turn(now)
        return self.active and (self._more or self._turn.busy)

    def after_turn(self, now: int) -> None:
        """The turn's records are durable: carry out orders, and move on what is on its way."""
        self._more = False
        orders, self._turn.calls.orders = self._turn.calls.orders, []
        for _seq, kind, group, _deadline, move, _payload in orders:
            match kind:
                case CallKind.LET_GO:
                    self._let_go(group, move)
                case CallKind.TAKE_UP:
                    self._take_up(group, now)
        for group, departure in list(self._departures.items()):
            self._send(group, departure, now)
        for group, arrival in list(self._arrivals.items()):
            self._settle(group, arrival)
        self._note()

    def close(self) -> None:
        """The worker ends: close what it has of groups on their way."""
        for group in list(self._departures):
            self._drop_departure(group)
        for group in list(self._arrivals):
            self._drop_arrival(group)
        for gone in self._gone.values():
            gone.close()
        self._gone.clear()
        self._note()

    # Out

    def _send(self, group: int, departure: Departure, now: int) -> None:
        try:
            gone = self._gone.get(group)
            if gone is None:
                if departure.step(self._turn.groups[group], self._turn.appliers[group]):
                    self._more = True
            elif departure.handed_over:
                departure.socket.flush()
            elif any(record[1] == group for record in self._turn.fx.records):
                # Its last records are written by the next turn.
                self._more = True
            else:
                departure.hand_over(gone)
        except (HandoverLost, StorageDamaged) as error:
            self._lost(group, departure.move, error)
            self._drop_departure(group)
            if isinstance(error, StorageDamaged) and group in self._turn.groups:
                self._turn.repairs.want(group, departure.next, str(error), now)
        else:
            self._watch_writing(departure.socket)

    def _problem(self, group: int) -> str | None:
        """Why a group cannot leave, or None."""
        if group not in self._turn.groups or group in self._departures:
            return f"group {group} is not here, or is on its way already"
        return self._obstacle(group)

    def _obstacle(self, group: int) -> str | None:
        """Why a group that is hosted here must stay, or None."""
        log_sync = self._turn.log_sync
        if self._turn.groups[group].inquiry.fenced is not None:
            return f"group {group} is fenced here, and would forget it: its status says why"
        if not log_sync.durable(group):
            return f"the sync of group {group} is given up: it can only move while the node starts"
        # What it waits for comes from other members, and goes by the log that lost it.
        words = self._turn.groups[group].doubt.words()
        if words is not None:
            return f"group {group} gives no votes for now, and can move once it does: {words}"
        words = self._turn.repairs.words(group)
        if words is not None:
            return f"group {group} can move once it has all its values again: {words}"
        if self._system(group) is None:
            return f"group {group} can move once it knows its members and master again"
        return None

    def _system(self, group: int) -> tuple[int, bytes] | None:
        """State of a group's inner machines, as `Log.system` tells it once this turn is written."""
        for kind, its_group, instance, lost, _, value in reversed(self._turn.fx.records):
            if kind == SYSTEM and its_group == group:
                return None if lost else (instance, value)
        return self._log.system(group)

    def _let_go(self, group: int, move: int) -> None:
        if group not in self._turn.groups:
            return
        obstacle = self._obstacle(group)
        if obstacle is not None:
            # It came up since the group began to leave. `TAKE_UP` will find the group hosted.
            self._broken(group, move, obstacle)
            self._drop_departure(group)
            return
        system = self._system(group)
        assert system is not None, "or there is an obstacle"
        self._gone[group] = LetGone(*self._turn.let_go(group), *system)

    # In

    def _settle(self, group: int, arrival: Arrival) -> None:
        try:
            if arrival.settle():
                self._more = True
        except (HandoverLost, PaxmuxError, StorageDamaged) as error:
            self._lost(group, arrival.move, error)
            self._drop_arrival(group)
            return
        for what in arrival.news():
            self._tell(MoveTold(group=group, move=arrival.move, what=what))

    def _take_up(self, group: int, now: int) -> None:
        arrival, gone = self._arrivals.get(group), self._gone.get(group)
        if gone is not None:
            self._take_back(group, gone, now)
            move = -1
        elif arrival is not None and arrival.complete and arrival.state is not None:
            made = self._maker.group(group, arrival.state, now)
            if arrival.forwards is not None:
                known = arrival.forwards
                made.forwarder.take_over(known.known_from, known.marks, known.taken)
            self._forget_arrival(group)
            arrival.close(machines=False)
            self._host(made, arrival.own, arrival.applier, arrival.calls, now)
            move = arrival.move
        elif group in self._turn.groups:
            move = -1
        else:
            raise PaxmuxError(f"group {group} is to be taken up, and is not here")
        self._tell(MoveTold(group=group, move=move, what="hosted"))

    def _take_back(self, group: int, gone: LetGone, now: int) -> None:
        """The group stays. It begins again from its hard state, as after a restart: its ballot is lost."""
        self._drop_departure(group)
        del self._gone[group]
        applier = gone.applier
        if gone.gave_up:
            durable = self._build(group, True)
            if durable.machines:
                while durable.replay(applier.next):
                    pass
                durable.next = applier.next
                applier.join(durable)
        made = self._maker.group(group, gone.state, now)
        known = gone.group.forwarder
        made.forwarder.take_over(known.known_from, known.marks, known.taken)
        self._host(made, gone.group.own, applier, gone.calls, now)

    def _host(
        self, made: Group, own: dict[int, Owned], applier: Applier, calls: list[Call], now: int
    ) -> None:
        made.own.update(own)
        made.expire_at = min([made.expire_at, *[owned[1] for owned in own.values()]])
        self._turn.host(made, applier, calls, now)

    def _build(self, group: int, durable: bool) -> Applier:
        machines: Mapping[int, StateMachine] = {}
        try:
            machines = self._build_machines(group, durable)
            return self._maker.applier(group, machines)
        except (Exception, SystemExit) as error:
            close_machines(group, machines.values())
            if isinstance(error, PaxmuxError):
                raise
            log.exception("group %d: its state machines cannot be built", group)
            raise PaxmuxError(
                f"group {group}: its state machines cannot be built: {describe(error)}"
            ) from error

    # Bookkeeping

    def _lost(self, group: int, move: int, error: Exception) -> None:
        if isinstance(error, HandoverClosed):
            log.info("group %d: the move has ended: %s", group, error)
        else:
            self._broken(group, move, str(error))

    def _broken(self, group: int, move: int, reason: str) -> None:
        self._tell(MoveTold(group=group, move=move, what="broken", reason=reason))

    def _drop_departure(self, group: int) -> None:
        departure = self._departures.pop(group, None)
        if departure is not None:
            self._turn.retention.kept.discard(group)
            self._unregister(departure.socket)
            departure.close()

    def _drop_arrival(self, group: int) -> None:
        arrival = self._forget_arrival(group)
        if arrival is not None:
            arrival.close(machines=True)
            self._release(group)

    def _release(self, group: int) -> None:
        """Another log has the group for good: the next turn says so in this one."""
        self._turn.fx.records.append((RELEASED, group, 0, 0, 0, b""))

    def _forget_arrival(self, group: int) -> Arrival | None:
        arrival = self._arrivals.pop(group, None)
        if arrival is not None:
            self._unregister(arrival.socket)
        return arrival

    def _note(self) -> None:
        self.active = bool(self._departures or self._arrivals or self._gone)

    def _register(self, socket: HandoverSocket) -> None:
        if self._poll is not None:
            self._poll.register(socket.fileno(), select.EPOLLIN)

    def _unregister(self, socket: HandoverSocket) -> None:
        if self._poll is not None:
            self._poll.unregister(socket.fileno())

    def _watch_writing(self, socket: HandoverSocket) -> None:
        if self._poll is not None:
            writing = select.EPOLLOUT if socket.backlog else 0
            self._poll.modify(socket.fileno(), select.EPOLLIN | writing)
