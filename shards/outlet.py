"""Where a worker's protocol messages become frames: at most one small frame for a peer at a time.

The turn hands over outboxes; every frame is packed once, checksummed once and pushed to the ring of
the router. Protocol frames may be dropped when the ring is full: the protocol repeats what matters.
Large values are not copied on the way to the ring, and what goes to all peers has one checksum for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from paxmux.engine.frame import VERSION, FrameKind, pack_frame, pack_header
from paxmux.engine.network import Direct
from paxmux.engine.paxos.checksum import checksum_of
from paxmux.engine.paxos.effects import Outbox
from paxmux.engine.paxos.messages import Batch
from paxmux.shards.codec import encode_pieces, encode_section, separate, split, value_bytes

LARGE_BYTES: Final = 32 * 1024
"""Bodies with more bytes of values than this are made of pieces; below that copying them is cheaper."""
SPLIT_BYTES: Final = 512 * 1024
"""Bodies with more are split: none waits long for another one, and none is cut into fragments in a ring."""


_ALL: Final = -1
"""In place of a node: for all peers."""


class FrameSink(Protocol):
    """The sending side of a ring, or the wire of a simulation."""

    def send(self, data: bytes, *, droppable: bool) -> bool: ...

    def send_pieces(self, pieces: Sequence[bytes], *, droppable: bool, sealed: bool) -> bool: ...

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

    def set_peers(self, peers: Iterable[int]) -> None:
        """The other members of this worker's groups: what is for all goes to them."""
        self._peers = tuple(peers)

    def host(self, groups: int) -> None:
        """The bit set of this worker's groups has changed."""
        self._groups = groups

    def send(self, *boxes: Outbox) -> None:
        """Send everything in the boxes; what is for one peer goes together."""
        shared = [box.all for box in boxes if box.all]
        peers = self._peers if shared else {node for box in boxes for node in box.to}
        if not peers:
            return
        own = {node: [box.to[node] for box in boxes if node in box.to] for node in peers}
        large: dict[int, list[Batch]] = {}
        if sum([value_bytes(batch) for batch in shared]) > LARGE_BYTES:
            shared, large[_ALL] = _separated(shared)
        for node in peers:
            if own[node] and sum([value_bytes(batch) for batch in own[node]]) > LARGE_BYTES:
                own[node], large[node] = _separated(own[node])
        head = b"".join([encode_section(batch) for batch in shared])
        for node in peers:
            if head or own[node]:
                self._frame(node, head + b"".join([encode_section(batch) for batch in own[node]]))
        for node, batches in large.items():
            for batch in batches:
                self._send_large(peers if node == _ALL else (node,), batch)
        self._sink.commit()

    def _send_large(self, nodes: Iterable[int], batch: Batch) -> None:
        template = self._pack(0, b"")
        for part in split(batch, SPLIT_BYTES):
            pieces = encode_pieces(part)
            size, checksum = sum(map(len, pieces)), checksum_of(pieces)
            for node in nodes:
                header = pack_header(template, node, size, checksum)
                self._count(self._sink.send_pieces((header, *pieces), droppable=True, sealed=True))

    def _frame(self, node: int, body: bytes) -> None:
        frame = self._pack(node, body)
        if self._direct is not None and self._direct.send(node, frame):
            self.sent_direct += 1
            self._count(True)
        else:
            self._count(self._sink.send(frame, droppable=True))

    def _count(self, taken: bool) -> None:
        if taken:
            self.sent += 1
        else:
            self.dropped += 1

    def _pack(self, node: int, body: bytes) -> bytes:
        return pack_frame(
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


def _separated(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """What is small, so that it need not wait for the rest; and the rest."""
    small: list[Batch] = []
    large: list[Batch] = []
    for batch in batches:
        few, many = separate(batch, LARGE_BYTES)
        if value_bytes(few) > SPLIT_BYTES:
            few, many = Batch(), batch
        small += [few] if few else []
        large += [many] if many else []
    return small, large
