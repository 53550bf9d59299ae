"""The node's ends of one worker's client rings, for one life of that worker.

Decides what travels together: everything asked for within one turn of the event loop goes to the
worker as one batch (cut at `BATCH_BYTES`), with one doorbell. A link is never used again after its
worker's death; requests and replies are never dropped by it. What is said here is in
shards/requests.py, and how it travels in shards/channel.py.
"""

from __future__ import annotations

from typing import Final

import msgspec

from paxmux.engine.options import LimitOptions
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.requests import Batch, Call, Proposal, Reply, decode_replies, encode, encode_pieces
from paxmux.shards.ring import RingCorrupt

LARGE_BYTES: Final = 8 * 1024
"""Where requests have so many bytes on average, a batch is not put together before it is in the ring."""
BATCH_BYTES = 512 * 1024
"""A batch with more payload is cut, so that no message grows beyond what a ring moves well."""
RECEIVE_BYTES: Final = 1 << 20
"""Read from the ring at a time, so that one worker's replies do not keep the loop from the rest."""


class LinkBroken(Exception):
    """The worker's shared memory or replies make no sense: the worker must be replaced."""


class Link:
    """Both directions. Used in the node's event loop only."""

    __slots__ = (
        "_calls",
        "_proposals",
        "_receiver",
        "_sender",
        "_size",
        "backlog_max_bytes",
        "broken",
        "generation",
        "worker",
    )

    def __init__(
        self, worker: int, to_worker: int, from_worker: int, worker_bell: Doorbell, limits: LimitOptions
    ) -> None:
        """`to_worker`, `from_worker`: descriptors of fresh rings; they and the bell stay the caller's."""
        self.worker = worker
        self.backlog_max_bytes = limits.ring_backlog_bytes
        self._sender = Sender(to_worker, worker_bell, backlog_max_bytes=limits.ring_backlog_bytes)
        self._receiver = Receiver(from_worker, worker_bell)
        self.generation = self._sender.generation
        self.broken = False
        """Set by whoever caught `LinkBroken`: neither ring is to be touched again."""
        self._proposals: list[Proposal] = []
        self._calls: list[Call] = []
        self._size = 0

    def propose(self, proposal: Proposal, size: int) -> None:
        """Take a proposal of `size` bytes along with the next `flush`."""
        self._proposals.append(proposal)
        self._size += size

    def call(self, call: Call, size: int) -> None:
        """Take another request along with the next `flush`."""
        self._calls.append(call)
        self._size += size

    def flush(self) -> bool:
        """Hand over what was taken, and wake the worker if it sleeps.

        Returns:
            Whether the worker keeps up: False once more than `backlog_max_bytes` wait for its ring.

        Raises:
            LinkBroken: the ring's memory is damaged; what was taken may have left or not.
        """
        sender = self._sender
        try:
            if self._proposals or self._calls:
                proposals, calls, size = self._proposals, self._calls, self._size
                # Before anything leaves: whatever happens then, none of it may be called unsent.
                self._proposals, self._calls, self._size = [], [], 0
                batches = [Batch(proposals, calls)] if size <= BATCH_BYTES else _cut(proposals, calls)
                if size < LARGE_BYTES * (len(proposals) + len(calls)):
                    for batch in batches:
                        sender.send(encode(batch), droppable=False)
                else:
                    for batch in batches:
                        sender.send_pieces(encode_pieces(batch), droppable=False)
            sender.commit()
        except RingCorrupt as error:
            raise LinkBroken(f"the ring to worker {self.worker} is damaged: {error}") from error
        return sender.backlog_bytes <= self.backlog_max_bytes

    @property
    def backlogged(self) -> bool:
        """Whether something waits in front of the worker's ring: `flush` again when the bell rings."""
        return self._sender.backlog_bytes > 0

    def unsent(self) -> list[int]:
        """Sequence numbers of what was taken and not handed over, which is then forgotten."""
        seqs = [proposal[0] for proposal in self._proposals] + [call[0] for call in self._calls]
        self._proposals = []
        self._calls = []
        self._size = 0
        return seqs

    def receive(self) -> list[Reply]:
        """The next replies; none if there are none now.

        Raises:
            LinkBroken: what came makes no sense.
        """
        try:
            messages = self._receiver.receive(RECEIVE_BYTES)
            if len(messages) == 1:
                return decode_replies(messages[0]).replies
            return [reply for message in messages for reply in decode_replies(message).replies]
        except (RingCorrupt, msgspec.MsgspecError) as error:
            raise LinkBroken(f"the replies of worker {self.worker} are damaged: {error}") from error

    def wake(self) -> None:
        """Replies will be looked for: no doorbell is needed."""
        self._receiver.wake()

    def prepare_sleep(self) -> bool:
        """Ask for the doorbell; False if there is something to read already."""
        return self._receiver.prepare_sleep()

    def status(self) -> dict[str, dict[str, float | int]]:
        """Fill and counters of both rings."""
        return {
            "to_worker": {"fill": round(self._sender.fill, 4), **self._sender.counters()},
            "from_worker": {"fill": round(self._receiver.fill, 4), **self._receiver.counters()},
        }

    def close(self) -> None:
        """Unmap both rings."""
        self._sender.close()
        self._receiver.close()


def _cut(proposals: list[Proposal], calls: list[Call]) -> list[Batch]:
    """Batches of at most `BATCH_BYTES` of values, or with a single larger one; the order is kept."""
    batches: list[Batch] = []
    start = size = 0
    for index, proposal in enumerate(proposals):
        more = len(proposal[4]) + len(proposal[5] or b"")
        if size and size + more > BATCH_BYTES:
            batches.append(Batch(proposals[start:index]))
            start, size = index, 0
        size += more
    batches.append(Batch(proposals[start:]))
    start = size = 0
    for index, call in enumerate(calls):
        more = len(call[5])
        if size and size + more > BATCH_BYTES:
            batches.append(Batch([], calls[start:index]))
            start, size = index, 0
        size += more
    batches.append(Batch([], calls[start:]))
    return [batch for batch in batches if batch.proposals or batch.calls]
