"""Who may come in: the bounds that a request must pass before it is noted anywhere.

Decides at the door, at once and without waiting, whether this node takes one more request for a
worker. A slot (one of `max_pending`, and the request's bytes) is held from `enter` until the worker
has answered or died, also when the caller has stopped waiting: the worker still has the work.
A refusal means that nothing was proposed. It never queues, and never looks into a request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import NodeStopped, Overloaded
from paxmux.engine.options import LimitOptions, ProposalOptions
from paxmux.shards.shedding import Shedding, WorkerLoad
from paxmux.shards.wait_lock import WaitLocks

DEFAULT_PROPOSALS: Final = ProposalOptions()


class Admission:
    """The door of one node. Used in the node's event loop only."""

    def __init__(
        self,
        limits: LimitOptions,
        workers: int,
        groups: int = 0,
        proposals: ProposalOptions = DEFAULT_PROPOSALS,
        clock: Callable[[], int] = clock_ns,
    ) -> None:
        """`clock`: in ns."""
        self.max_count = limits.max_pending
        self.max_bytes = limits.max_pending_bytes
        self.count = 0
        """Slots in use."""
        self.bytes = 0
        """Bytes of the requests that hold them."""
        self.admitted = 0
        self.refused = {"stopped": 0, "count": 0, "bytes": 0, "worker": 0, "ring": 0, "delay": 0}
        self.refused |= {"group": 0, "memory": 0}
        """Refusals since the start, by what was exhausted or closed."""
        self._stopped = "the node is not started"
        self.shedding = Shedding(limits.queue_delay_ms, groups, clock, locks=WaitLocks(proposals, groups))
        self.locks = self.shedding.locks
        self._loads = self.shedding.loads
        self._closed: dict[int, str] = {}
        self._full: dict[int, bool] = {}
        self.no_memory = ""
        """Why nothing may come in, in words; empty while there is memory."""
        for worker in range(workers):
            self.add_worker(worker)

    def enter(self, worker: int, size: int, count: int = 1, group: int = -1) -> None:
        """Take a slot for a request of `size` bytes, or `count` slots for as many together.

        `group`: that it is about; -1 for none.

        Raises:
            NodeStopped: the node does not take requests.
            Overloaded: a bound is reached, or the worker is down; nothing was proposed.
        """
        if self._stopped:
            self.refused["stopped"] += 1
            raise NodeStopped(self._stopped)
        if self._closed[worker]:
            self.refused["worker"] += 1
            raise Overloaded(f"{self._closed[worker]}; nothing was proposed")
        if self._full[worker]:
            self.refused["ring"] += 1
            raise Overloaded(
                f"worker {worker} does not keep up (its ring's backlog is full); nothing was proposed"
            )
        if self.count + count > self.max_count:
            self.refused["count"] += 1
            raise Overloaded(
                f"{self.count} requests have no answer yet (limits.max_pending); nothing was proposed"
            )
        total = self.bytes + size
        # A request above the bound on its own may go alone, else it could never be served.
        if total > self.max_bytes and self.count:
            self.refused["bytes"] += 1
            raise Overloaded(
                f"{self.bytes} bytes of requests wait (limits.max_pending_bytes); nothing was proposed"
            )
        if group >= 0:
            load = self._loads[worker]
            if load.count >= load.soft or self.no_memory:
                self.knock(worker, group)
        self.count += count
        self.bytes = total
        self.admitted += count

    def knock(self, worker: int, group: int) -> None:
        """Whether there is room for one more request about the group; nothing is taken. Who has work to do
        before it can enter had better ask.

        Raises:
            Overloaded: there is none; nothing was proposed.
        """
        load = self._loads[worker]
        if load.count >= load.soft and not load.admits(self.shedding.by_group[group]):
            self.refused["delay"] += 1
            raise Overloaded(load.words, load.retry_after_s())
        if self.no_memory:
            self.refused["memory"] += 1
            raise Overloaded(f"{self.no_memory}; nothing was proposed")

    def pass_lock(self, group: int) -> None:
        """Whether the group's own bounds let one more proposal in.

        Raises:
            Overloaded: they do not; nothing was proposed.
        """
        refusal = self.locks.refusal(group, self.shedding.by_group[group])
        if refusal is not None:
            self.refused["group"] += 1
            raise Overloaded(f"{refusal[0]}; nothing was proposed", refusal[1])

    def add_worker(self, worker: int) -> None:
        """There is one more worker; its door is closed until it serves."""
        self._closed[worker] = f"worker {worker} is starting"
        self._full[worker] = False
        self._load(worker)

    def leave(self, count: int, size: int) -> None:
        """Give back `count` slots of `size` bytes together."""
        self.count -= count
        self.bytes -= size

    def open_node(self) -> None:
        """Take requests from now on."""
        self._stopped = ""

    def close_node(self, reason: str) -> None:
        """Refuse everything with `NodeStopped` from now on."""
        self._stopped = reason

    def open_worker(self, worker: int) -> None:
        """The worker serves."""
        self._closed[worker] = ""
        self._full[worker] = False
        self._load(worker)

    def close_worker(self, worker: int, reason: str) -> None:
        """The worker is down; `reason` is what refused callers read."""
        self._closed[worker] = reason

    def down(self, worker: int) -> bool:
        """The worker is not there to be asked."""
        return bool(self._closed[worker])

    def set_ring(self, worker: int, *, full: bool, waits: bool) -> None:
        """Whether something `waits` in front of the worker's ring, and whether more than
        `limits.ring_backlog_bytes`."""
        self._full[worker] = full
        self._loads[worker].waits = waits

    def set_memory(self, reason: str) -> None:
        """There is no memory for more work, for this reason; empty: there is."""
        self.no_memory = reason

    def _load(self, worker: int) -> None:
        self._loads.setdefault(worker, WorkerLoad(worker))
