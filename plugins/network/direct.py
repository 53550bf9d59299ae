"""A worker's own way out: small frames leave by datagram from the worker itself, past ring and router.

It only sends, from sockets of its own: the node's port, and all that comes to it, stays the router's. It
must never block, never raise, and never hold a frame: what does not leave at once is the router's to send.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from paxmux.engine.options import NetworkOptions
from paxmux.engine.secret_file import Keys
from paxmux.plugins.network.addresses import UDP_BUFFER_BYTES, literal_address
from paxmux.plugins.network.seal import DatagramSeal


class DirectUdp:
    """Implements `paxmux.engine.network.Direct`: a connected socket for each peer with a literal address."""

    def __init__(self, peers: Mapping[int, tuple[str, int]], options: NetworkOptions) -> None:
        """`peers`: node id -> host and port. Those known by name are the router's: it alone hears where a
        name leads now."""
        self._max_bytes = options.udp_max_bytes
        self._addresses: dict[int, tuple[str, int]] = {}
        """Where each of the sockets leads."""
        self._sockets: dict[int, socket.socket] = {}
        self._seal: DatagramSeal | None = None
        self.set_peers(peers)

    def set_keys(self, keys: Sequence[Keys]) -> None:
        """See `Direct.set_keys`."""
        self._seal = DatagramSeal(keys)

    def send(self, dest: int, frame: bytes) -> bool:
        """See `Direct.send`."""
        if len(frame) > self._max_bytes:
            return False
        sock = self._sockets.get(dest)
        if sock is None:
            return False
        if self._seal is not None:
            frame = self._seal.seal(frame)
        try:
            sock.send(frame)
        except OSError:
            # Among them what an earlier datagram met: a peer whose port is closed.
            return False
        return True

    def set_peers(self, peers: Mapping[int, tuple[str, int]]) -> None:
        """See `Direct.set_peers`."""
        for node in [node for node in self._sockets if peers.get(node) != self._addresses[node]]:
            self._sockets.pop(node).close()
            del self._addresses[node]
        for node, (host, port) in peers.items():
            sock = None if node in self._sockets else _connected(host, port)
            if sock is not None:
                self._sockets[node] = sock
                self._addresses[node] = host, port

    def close(self) -> None:
        """Close the sockets; safe to call twice."""
        self.set_peers({})


def _connected(host: str, port: int) -> socket.socket | None:
    """A socket whose datagrams go there; None for a name, and where no way leads now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = literal_address(host, port, family)
    if address is None:
        return None
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UDP_BUFFER_BYTES)
        sock.connect(address)
    except OSError:
        # It may come later, and the router looks each time.
        if sock is not None:
            sock.close()
        return None
    return sock
