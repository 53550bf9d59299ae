"""A group on its way out of a worker: its decided values stream to the worker that is to have it.

While they do, the group is hosted as ever. Only what is decided *and executed here* is sent, so that the
other worker's machines never get ahead of the answers that proposers here have had. Then, at the node's
word, the worker lets go (`LetGone`): it takes no part in the group any more, and once everything that
the group has said is durable here, the rest is handed over. From then on there are two ways: the node
says that the other worker has it, or that it stays; it is never decided here.
"""

from __future__ import annotations

from paxmux.engine.paxos.group import Group, Owned
from paxmux.engine.storage import HardState, Log, StorageDamaged
from paxmux.shards import handover
from paxmux.shards.applier import Applier
from paxmux.shards.handover import Begin, HandoverLost, HandoverSocket
from paxmux.shards.requests import Call

SLICE_COUNT = 512
SLICE_BYTES = 256 << 10
"""Values read from the log for a departure in one turn."""
BACKLOG_BYTES = 512 << 10
"""While more than this waits for the socket, nothing is read for it."""
PART_COUNT = 256
"""Proposals or requests in one message."""


class LetGone:
    """A group that this worker takes no part in, for good or not."""

    gave_up = False
    """Its machines that keep their state are closed."""

    def __init__(
        self, group: Group, applier: Applier, calls: list[Call], system_from: int, system: bytes
    ) -> None:
        """`system`: state of its inner state machines from that instance on, recorded or about to be."""
        self.group = group
        self.applier = applier
        self.calls = calls
        self.state = HardState(
            group.instance,
            group.acceptor.promised,
            group.acceptor.accepted,
            group.acceptor.value,
            system=system,
            system_from=system_from,
        )

    def close(self) -> None:
        """Nothing will become of it here."""
        self.applier.close()


class Departure:
    """One move, at the worker that has the group."""

    def __init__(self, group: int, move: int, socket: HandoverSocket, log: Log) -> None:
        self.group = group
        self.move = move
        self.socket = socket
        self._log = log
        self.next = -1
        """The first instance that is not sent; -1: the other worker has not said where to begin."""
        self._told = False
        self._terms: list[tuple[int, int]] = []
        """As the other worker knows them."""
        self.handed_over = False

    def step(self, group: Group, applier: Applier) -> bool:
        """While the group is hosted: send a slice. Whether there is more to do at once.

        Raises:
            HandoverLost: the other worker is gone, or cannot be told anything.
            StorageDamaged: a value cannot be read.
        """
        self._listen()
        end = min(applier.next, group.instance)
        if self.next >= 0 and self.socket.backlog < BACKLOG_BYTES and (self.next < end or not self._told):
            self._told = True
            self._send_terms(group)
            self._send_slice(end, group.instance)
        self.socket.flush()
        return 0 <= self.next < end and not self.socket.backlog

    def hand_over(self, gone: LetGone) -> None:
        """The group was let go, and all its records are durable: send the rest.

        Raises:
            HandoverLost, StorageDamaged: as `step`.
        """
        state, socket = gone.state, self.socket
        self._listen()
        if self.next < 0:
            return
        applied = min(gone.applier.next, state.instance)
        self._send_terms(gone.group)
        while self.next < applied:
            self._send_slice(applied, state.instance)
        gone.applier.give_up_durable()
        gone.gave_up = True
        socket.send(handover.LetGo(applied))
        for instance, owned in gone.applier.owned.items():
            self._send_owned(instance, owned)
        self._send_owned(-1, gone.group.own)
        for at in range(0, len(gone.calls), PART_COUNT):
            socket.send(handover.Waiting(gone.calls[at : at + PART_COUNT]))
        known = gone.group.forwarder
        socket.send(handover.Forwards(known.known_from, known.marks, known.taken))
        while self.next < state.instance:
            self._send_slice(state.instance, state.instance)
        first = self._log.first(self.group)
        socket.send(handover.State(*state[:4], first, state.system_from, state.system))
        self.handed_over = True
        socket.flush()

    def close(self) -> None:
        """End it here; the other worker notices."""
        self.socket.close()

    def _listen(self) -> None:
        for message in self.socket.receive():
            if not isinstance(message, Begin) or self.next >= 0:
                raise HandoverLost(f"{type(message).__name__} is not expected now")
            self.next = self._log.first(self.group)

    def _send_terms(self, group: Group) -> None:
        master = group.master
        if master.terms != self._terms:
            self._terms = list(master.terms)
            self.socket.send(handover.Terms(self._terms, master.unclear_before))

    def _send_slice(self, end: int, instance: int) -> None:
        count = min(SLICE_COUNT, end - self.next)
        items = self._log.read_range(self.group, self.next, count, SLICE_BYTES) if count else []
        if count and not items:
            raise StorageDamaged(f"instance {self.next} of group {self.group} is not in the log")
        self.next += len(items)
        self.socket.send(handover.Values(items, instance - self.next))

    def _send_owned(self, instance: int, owned: dict[int, Owned]) -> None:
        items = list(owned.items())
        for at in range(0, len(items), PART_COUNT):
            self.socket.send(handover.Owned(instance, items[at : at + PART_COUNT]))
