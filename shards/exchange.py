"""The node's side of all client rings: requests out, replies in, once per turn of the event loop.

Decides when rings are written and read. What callers ask for within one turn leaves together in
the next one; the doorbell of this process wakes the loop for replies. A link whose memory makes no
sense is reported and not touched again; what waits there is the supervisor's to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from paxmux.engine.errors import Code
from paxmux.shards.admission import Admission
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.link import Link, LinkBroken
from paxmux.shards.pending import Pending
from paxmux.shards.requests import OF_NO_GROUP, CallKind, Reply
from paxmux.shards.waiting_room import WAITING_ROOM, WaitingRoom

OnBroken = Callable[[int, int, str], None]
"""(worker, generation, reason): called once for each link that broke."""


class Exchange:
    """All links of one node. Used in the node's event loop only."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        admission: Admission,
        pending: Pending,
        workers: int,
        on_broken: OnBroken,
    ) -> None:
        self._loop = loop
        self._admission = admission
        self._pending = pending
        self._links: dict[int, Link | WaitingRoom | None] = dict.fromkeys(range(workers))
        self._on_broken = on_broken
        self._flush_due = False
        self._drain_due = False
        self.bell = Doorbell.create()
        """This process's doorbell: workers ring it when the node sleeps."""
        loop.add_reader(self.bell.fileno(), self._on_bell)

    @property
    def workers(self) -> list[int]:
        """Those that there are, down or not."""
        return [worker for worker in self._links if worker != WAITING_ROOM]

    def propose(
        self,
        worker: int,
        group: int,
        deadline_ns: int,
        smid: int,
        value: bytes,
        context: bytes | None,
        size: int,
    ) -> asyncio.Future[Reply]:
        """Note an admitted proposal; it leaves with the next turn.

        Returns:
            The future of its reply; see `Pending.add`.
        """
        seq, future = self._pending.add(worker, size, deadline_ns, group)
        link = self._links[worker]
        assert link is not None, "an admitted request has a link"
        link.propose((seq, group, deadline_ns, smid, value, context), size)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        return future

    def call(
        self, worker: int, kind: int, group: int, argument: int, payload: bytes, deadline_ns: int
    ) -> asyncio.Future[Reply]:
        """Note an admitted request that is no proposal, of `len(payload)` bytes; else as `propose`."""
        size = len(payload)
        about = -1 if kind in OF_NO_GROUP else group
        timed = kind != CallKind.CHANGE_MEMBERS  # That waits until a new member has caught up.
        seq, future = self._pending.add(worker, size, deadline_ns, about, timed=timed)
        link = self._links[worker]
        assert link is not None, "an admitted request has a link"
        link.call((seq, kind, group, deadline_ns, argument, payload), size)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        return future

    def order(self, worker: int, kind: CallKind, group: int, move: int) -> bool:
        """Tell a worker something that has no answer, behind all that it was asked before; False if it is
        down."""
        link = self._links[worker]
        if not isinstance(link, Link) or link.broken:
            return False
        link.call((0, kind, group, 0, move, b""), 0)
        self._flush_link(link)
        return not link.broken

    def add_worker(self, worker: int) -> None:
        """There is one more worker, which is down until `attach`."""
        self._links[worker] = None

    def hold(self) -> None:
        """Let requests wait here that are addressed to `WAITING_ROOM`, until `release`."""
        self._links[WAITING_ROOM] = WaitingRoom()
        self._admission.open_worker(WAITING_ROOM)

    def release(self, group: int, worker: int) -> None:
        """Hand what has waited to the worker that hosts `group`, in its order; nothing may be addressed to
        the waiting room any more. If the worker is down, nothing of it was proposed."""
        link = self._links[worker]
        if not isinstance(link, Link) or link.broken:
            self.turn_away(f"worker {worker} is down")
            return
        room = self._leave_room()
        self._pending.reassign(group, WAITING_ROOM, worker)
        for proposal, size in room.proposals:
            link.propose(proposal, size)
        for call, size in room.calls:
            link.call(call, size)
        self._flush_link(link)

    def turn_away(self, reason: str) -> None:
        """End what has waited: nothing of it was proposed. As `release` otherwise."""
        self._pending.fail(self._leave_room().waiting(), Code.OVERLOADED, f"{reason}; nothing was proposed")

    def _leave_room(self) -> WaitingRoom:
        room = self._links.pop(WAITING_ROOM)
        assert isinstance(room, WaitingRoom), "nothing is held"
        return room

    def attach(self, link: Link) -> None:
        """The worker serves: open its door."""
        assert self._links[link.worker] is None
        self._links[link.worker] = link
        self._admission.open_worker(link.worker)
        self._drain_soon()

    def detach(self, worker: int, reason: str) -> int:
        """The worker is dead: take its last replies, end all that it still owes, close its link.

        Returns:
            How many requests end with an unknown outcome.
        """
        self._admission.close_worker(worker, reason)
        link = self._links[worker]
        if not isinstance(link, Link):
            return 0
        self._links[worker] = None
        try:
            while not link.broken and not link.prepare_sleep():
                self._pending.resolve(link.receive())
        except LinkBroken as error:
            reason = f"{reason}; {error}"
        self._pending.fail(link.unsent(), Code.OVERLOADED, f"{reason}; nothing was proposed")
        link.close()
        return self._pending.fail_worker(worker, f"{reason}: it is not known whether this took effect")

    def refuse(self, worker: int, reason: str) -> None:
        """The worker stays closed; `reason` is what refused callers read from now on."""
        self._admission.close_worker(worker, reason)

    def status(self) -> list[dict[str, dict[str, float | int]] | None]:
        """Fill and counters of each worker's client rings; None for a worker that is down."""
        return [
            link.status() if isinstance(link, Link) else None
            for worker, link in sorted(self._links.items())
            if worker != WAITING_ROOM
        ]

    def close(self) -> None:
        """Forget the doorbell. All links must be detached."""
        assert not any(self._links.values()), "a link outlives its worker"
        self._loop.remove_reader(self.bell.fileno())
        self.bell.close()

    def _flush(self) -> None:
        self._flush_due = False
        for link in self._links.values():
            if isinstance(link, Link) and not link.broken:
                self._flush_link(link)

    def _flush_link(self, link: Link) -> None:
        try:
            full = not link.flush()
            self._admission.set_ring(link.worker, full=full, waits=link.backlogged)
        except LinkBroken as error:
            self._break(link, error)

    def _on_bell(self) -> None:
        for link in self._links.values():
            if isinstance(link, Link):
                link.wake()
        self.bell.clear()
        self._drain()

    def _drain_soon(self) -> None:
        if not self._drain_due:
            self._drain_due = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Read what is there, move backlogs, and go back to sleep or come again next turn."""
        self._drain_due = False
        asleep = True
        for link in self._links.values():
            if not isinstance(link, Link) or link.broken:
                continue
            try:
                replies = link.receive()
                if replies:
                    self._pending.resolve(replies)
                if not link.prepare_sleep():
                    asleep = False
            except LinkBroken as error:
                self._break(link, error)
                continue
            if link.backlogged:
                self._flush_link(link)
        if not asleep:
            self._drain_soon()

    def _break(self, link: Link, error: LinkBroken) -> None:
        # The link stays attached, since its requests are still to be ended, but is not used again.
        link.broken = True
        self._admission.close_worker(link.worker, str(error))
        self._on_broken(link.worker, link.generation, str(error))
