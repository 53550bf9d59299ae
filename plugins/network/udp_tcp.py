"""The network of a node on one UDP and TCP port: small frames by datagram, the others by stream.

It moves frames and looks at nothing but their length. It must never block the event loop, never
raise out of it because of what the network or a peer does, and never hold more than its bounds.

Nothing here is fast because of asyncio's streams: sockets are read and written directly when the
loop says that they are ready, and a frame leaves with one system call in the turn that sends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from paxmux.engine.frame import MAX_FRAME_BYTES
from paxmux.engine.frame_header import HEADER_BYTES
from paxmux.engine.network import OnFrame, OnPeer
from paxmux.engine.options import NetworkOptions
from paxmux.engine.secret_file import Keys
from paxmux.plugins.network.counts import Counts
from paxmux.plugins.network.endpoint import bind
from paxmux.plugins.network.incoming import Incoming
from paxmux.plugins.network.outgoing import Outgoing
from paxmux.plugins.network.trust import Trust
from paxmux.plugins.network.udp import UdpPort

MAX_PORT = 65_535


class UdpTcp:
    """Implements `paxmux.engine.network.Network`; it can be started once.

    All methods are called in one event loop, asyncio's or uvloop's. What `on_peer(id, True)` sends to
    that peer by `reliable` goes first on the new connection, before anything that waited for it.
    """

    direct: ClassVar[str | None] = "paxmux.plugins.network.direct:DirectUdp"
    """See `Network`; named, not imported: a worker loads none of what is loaded here."""

    def __init__(
        self,
        node_id: int,
        listen: tuple[str, int],
        peers: dict[int, tuple[str, int]],
        options: NetworkOptions,
        max_frame_bytes: int,
        on_frame: OnFrame,
        on_peer: OnPeer,
    ) -> None:
        """Nothing is opened before `start`.

        Args:
            node_id: this node; an entry of it in `peers` is left out.
            listen: host and port of this node, for both protocols; IPv4, IPv6 or a name.
            peers: node id -> host and port.
            options: sizes and times.
            max_frame_bytes: largest frame, header included, in either direction.
            on_frame: gets each frame.
            on_peer: is told of connections to peers; not called any more once `stop` was called.

        Raises:
            ValueError: a port or a size that cannot be.
        """
        _check_ports((listen, *peers.values()))
        if not HEADER_BYTES <= max_frame_bytes <= MAX_FRAME_BYTES:
            raise ValueError(
                f"max_frame_bytes is {max_frame_bytes}: expected {HEADER_BYTES} .. {MAX_FRAME_BYTES}"
            )
        self._node_id = node_id
        self._listen = listen
        self._options = options
        self._udp_max_bytes = options.udp_max_bytes
        self._max_frame_bytes = max_frame_bytes
        self._on_frame = on_frame
        self._on_peer = on_peer
        self._counts = Counts()
        self._trust = Trust(self._counts)
        self._peers: dict[int, Outgoing] = {}
        self._ending: set[asyncio.Task[None]] = set()
        """Tasks of peers that are none any more, which have not quite ended."""
        self._udp: UdpPort | None = None
        self._incoming: Incoming | None = None
        self._started = False
        self.set_peers(peers)

    def set_keys(self, keys: Sequence[Keys]) -> None:
        """See `Network.set_keys`.

        Raises:
            ValueError: none where there were some, or some where it was started with none.
        """
        if self._started and not self._trust.keys:
            raise ValueError("a network that was started without a secret cannot get one")
        self._trust.set_keys(keys)
        if self._udp is not None and self._incoming is not None:
            self._udp.set_keys()
            self._incoming.set_keys()
            for peer in self._peers.values():
                peer.set_keys()

    async def start(self) -> None:
        """Bind and listen, begin to dial every peer.

        Raises:
            OSError: names address and reason; nothing stays open.
            RuntimeError: it was started before.
        """
        if self._started:
            raise RuntimeError("a network can be started once")
        self._started = True
        loop = self._loop = asyncio.get_running_loop()
        udp, listener = await bind(loop, *self._listen)
        self._udp = UdpPort(udp, self._counts, self._max_frame_bytes, self._on_frame, self._trust)
        self._incoming = Incoming(
            listener,
            self._peers,
            self._counts,
            self._max_frame_bytes,
            self._on_frame,
            self._trust,
            self._node_id,
        )
        self._udp.start(loop)
        self._incoming.start(loop)
        for peer in self._peers.values():
            peer.start(loop, udp.family)

    def send(self, dest: int, frame: bytes, *, reliable: bool = False) -> bool:
        """Send or queue one frame, see `Network.send`.

        A datagram that the kernel does not take goes to the stream's queue instead.
        """
        peer = self._peers.get(dest)
        if peer is None:
            self._counts.drop_unknown_peer += 1
            return False
        udp = self._udp
        if udp is None:
            self._counts.drop_stopped += 1
            return False
        size = len(frame)
        if size > self._max_frame_bytes:
            self._counts.drop_too_large += 1
            return False
        if size <= self._udp_max_bytes and not reliable:
            address = peer.datagrams_to
            if address is not None and udp.send(frame, address):
                return True
        return peer.send(frame)

    def set_peers(self, peers: Mapping[int, tuple[str, int]]) -> None:
        """See `Network.set_peers`."""
        _check_ports(peers.values())
        for node in list(self._peers):
            if node not in peers:
                self._end(self._peers.pop(node))
        for node, (host, port) in peers.items():
            known = self._peers.get(node)
            if node == self._node_id or (known is not None and (known.host, known.port) == (host, port)):
                continue
            peer = Outgoing(
                node, host, port, self._options, self._counts, self._on_peer, self._trust, self._node_id
            )
            if known is not None:
                peer.take_over(known)
                self._end(known)
            self._peers[node] = peer
            if self._udp is not None:
                peer.start(self._loop, self._udp.family)
        if self._incoming is not None:
            self._incoming.peers_changed()

    def _end(self, peer: Outgoing) -> None:
        task = peer.close()
        if task is not None:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        if peer.told and self._udp is not None:
            self._loop.call_soon(self._tell_lost, peer.node_id)

    def _tell_lost(self, node_id: int) -> None:
        if self._udp is not None:
            self._on_peer(node_id, False)

    def peers(self) -> Mapping[int, bool]:
        """Node id -> whether the connection to it stands."""
        return {node_id: peer.connected for node_id, peer in self._peers.items()}

    def counters(self) -> Mapping[str, int]:
        """Counts since the start (see `counts.py`), and under `now_` what is the case now."""
        counters = self._counts.as_dict()
        peers = self._peers.values()
        counters["now_connected"] = sum(peer.connected for peer in peers)
        counters["now_incoming"] = len(self._incoming) if self._incoming is not None else 0
        counters["now_queued_bytes"] = sum(peer.queued_bytes for peer in peers)
        counters["now_queued_frames"] = sum(peer.queued_frames for peer in peers)
        return counters

    async def stop(self) -> None:
        """Close every socket at once; what waits is lost. The port is free when it returns."""
        udp, self._udp = self._udp, None
        incoming, self._incoming = self._incoming, None
        if udp is not None:
            udp.close()
        if incoming is not None:
            incoming.close()
        tasks = [task for peer in self._peers.values() if (task := peer.close()) is not None]
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)


def _check_ports(addresses: Iterable[tuple[str, int]]) -> None:
    """Raises ValueError for one that cannot be."""
    for host, port in addresses:
        if not 0 < port <= MAX_PORT:
            raise ValueError(f"port {port} of {host}: expected 1 .. {MAX_PORT}")
