"""Datagrams: one frame each, received and sent on the node's port."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Final

from paxmux.engine.frame_header import HEADER_BYTES
from paxmux.engine.network import OnFrame
from paxmux.plugins.network.addresses import SocketAddress
from paxmux.plugins.network.counts import Counts
from paxmux.plugins.network.seal import SEAL_BYTES, DatagramSeal
from paxmux.plugins.network.trust import Trust

READS_PER_TURN: Final = 64
"""Datagrams taken before others get their turn in the event loop."""
_DATAGRAM_MAX_BYTES: Final = 65_535
_FULL: Final = (errno.EAGAIN, errno.ENOBUFS)


class UdpPort:
    """The bound UDP socket, owned."""

    def __init__(
        self, sock: socket.socket, counts: Counts, max_frame_bytes: int, on_frame: OnFrame, trust: Trust
    ) -> None:
        self._socket = sock
        self._counts = counts
        self._max_frame_bytes = max_frame_bytes
        self._on_frame = on_frame
        self._buffer = memoryview(bytearray(_DATAGRAM_MAX_BYTES))
        self.family = sock.family
        self._trust = trust
        self._seal: DatagramSeal | None = None
        self._extra_bytes = 0
        self.set_keys()

    def set_keys(self) -> None:
        """Seal and open by the keys that are good now."""
        keys = self._trust.keys
        self._seal = DatagramSeal(keys) if keys else None
        self._extra_bytes = SEAL_BYTES if keys else 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Receive from here on."""
        self._loop = loop
        loop.add_reader(self._socket, self._readable)

    def send(self, frame: bytes, address: SocketAddress) -> bool:
        """One datagram; False, and counted, if the kernel does not take it."""
        counts = self._counts
        if self._seal is not None:
            frame = self._seal.seal(frame)
        try:
            self._socket.sendto(frame, address)
        except OSError as error:
            if error.errno in _FULL:
                counts.udp_full += 1
            else:
                counts.udp_errors_out += 1
            return False
        counts.udp_frames_out += 1
        counts.udp_bytes_out += len(frame)
        return True

    def close(self) -> None:
        """Stop receiving and free the port."""
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        counts, buffer, receive = self._counts, self._buffer, self._socket.recv_into
        seal, extra_bytes = self._seal, self._extra_bytes
        for _ in range(READS_PER_TURN):
            try:
                # Who sent it does not matter, a sender's address proves nothing: so no recvfrom.
                length = receive(buffer)
            except BlockingIOError:
                return
            except OSError:
                counts.udp_errors_in += 1
                continue
            if not HEADER_BYTES <= length - extra_bytes <= self._max_frame_bytes:
                counts.udp_bad_length += 1
                continue
            if seal is None:
                frame = buffer[:length].tobytes()
            else:
                opened = seal.open(buffer[:length])
                if opened is None:
                    self._trust.refuse("a datagram", "it is not sealed by a secret of this cluster")
                    continue
                frame = opened
            counts.udp_frames_in += 1
            counts.udp_bytes_in += length
            self._on_frame(frame)
