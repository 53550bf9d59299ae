"""Where a worker's protocol messages become frames: at most one small frame for a peer at a time.

The turn hands over outboxes; every frame is packed once, checksummed once and pushed to the ring of
the router. Protocol frames may be dropped when the ring is full: the protocol repeats what matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from paxmux.engine.frame import VERSION, FrameKind, pack_frame
from paxmux.engine.network import Direct
from paxmux.engine.paxos.effects import Outbox
from paxmux.engine.paxos.messages import Batch
from paxmux.shards.codec import encode_section, encode_split, value_bytes

SPLIT_BYTES = 1 << 20
"""Bodies with more bytes of values than this are split, so that no frame has to wait for a huge one."""


class FrameSink(Protocol):
    """The sending side of a ring, or the wire of a simulation."""

    def send(self, data: bytes, *, droppable: bool) -> bool: ...

    def commit(self) -> bool: ...


class Outlet:
    """Packs and sends the messages of one worker."""

    __slots__ = (
        "_cluster",
        "_direct",
        "_generation",
        "_groups",
        "_incarnation",
        "_log",
        "_me",
        "_peers",
        "_seat",
        "_sink",
        "_version",
        "dropped",
        "sent",
        "sent_direct",
    )

    def __init__(
        self,
        sink: FrameSink,
        peers: Sequence[int],
        *,
        me: int,
        seat: int,
        incarnation: int,
        cluster: int,
        worker: int,
        generation: int,
        groups: int,
        direct: Direct | None = None,
        version: int = VERSION,
    ) -> None:
        """`groups`: bit set of this worker's groups; it goes into the header of every frame. `direct`: tried
        first, for what fits into a datagram. `version`: of the frames, see `frame.version_for`."""
        self._sink = sink
        self._peers = tuple(peers)
        self._me = me
        self._seat = seat
        self._incarnation = incarnation
        self._cluster = cluster
        self._log = worker
        self._generation = generation
        self._groups = groups
        self._direct = direct
        self._version = version
        self.sent = 0
        self.sent_direct = 0
        """Those of them that did not go through the router."""
        self.dropped = 0

    def host(self, groups: int) -> None:
        """The bit set of this worker's groups has changed."""
        self._groups = groups

    def send(self, *boxes: Outbox) -> None:
        """Send everything in the boxes; what is for one peer goes together."""
        shared = [box.all for box in boxes if box.all]
        peers = self._peers if shared else {node for box in boxes for node in box.to}
        if not peers:
            return
        small = sum(value_bytes(batch) for batch in shared) <= SPLIT_BYTES
        if small:
            head = b"".join([encode_section(batch) for batch in shared])
            for node in peers:
                own = [box.to[node] for box in boxes if node in box.to]
                if sum(value_bytes(batch) for batch in own) <= SPLIT_BYTES:
                    self._frame(node, head + b"".join([encode_section(batch) for batch in own]))
                else:
                    if head:
                        self._frame(node, head)
                    self._split(node, own)
        else:
            for node in peers:
                self._split(node, shared + [box.to[node] for box in boxes if node in box.to])
        self._sink.commit()

    def _split(self, node: int, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for section in encode_split(batch, SPLIT_BYTES):
                self._frame(node, section)

    def _frame(self, node: int, body: bytes) -> None:
        frame = pack_frame(
            FrameKind.PAXOS,
            body,
            cluster=self._cluster,
            sender=self._me,
            seat=self._seat,
            incarnation=self._incarnation,
            dest=node,
            groups=self._groups,
            log=self._log,
            generation=self._generation,
            version=self._version,
        )
        if self._direct is not None and self._direct.send(node, frame):
            self.sent += 1
            self.sent_direct += 1
        elif self._sink.send(frame, droppable=True):
            self.sent += 1
        else:
            self.dropped += 1
