"""The TCP connection that this node dials to one peer, and the queue in front of it.

It decides what waits, what is dropped and when to dial again. It only sends: a peer answers on the
connection that it dials itself. It must never block, and never let an error of the network out.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections import deque
from collections.abc import Sequence
from time import monotonic

from paxmux.engine.network import OnPeer
from paxmux.engine.options import NetworkOptions
from paxmux.plugins.network.addresses import SocketAddress, address_for, is_literal, literal_address, shown
from paxmux.plugins.network.counts import Counts
from paxmux.plugins.network.endpoint import check_reach, dial, prove
from paxmux.plugins.network.handshake import Dialler
from paxmux.plugins.network.session import Session
from paxmux.plugins.network.trust import Trust

CONNECT_TIMEOUT_S = 5.0
STALE_S = 5.0
"""A frame that waited longer than this for a connection is old news."""
STEADY_S = 5.0
"""A connection that held for so long starts the back-off afresh when it breaks."""
ADDRESSES_MAX = 8
"""Addresses of one host name that are tried in a row."""
SEND_FRAMES_MAX = 64
"""Frames in one system call."""
SEND_BYTES_MAX = 1024 * 1024
"""Bytes after which a system call takes no further frame."""
SENDS_PER_TURN = 8
RESOLVE_EVERY_S = 10.0
"""Where a name leads is asked again so often while the connection holds."""

_log = logging.getLogger(__name__)


class Outgoing:
    """One peer. All methods are called in the event loop."""

    def __init__(
        self,
        node_id: int,
        host: str,
        port: int,
        options: NetworkOptions,
        counts: Counts,
        on_peer: OnPeer,
        trust: Trust,
        own_id: int,
    ) -> None:
        self.node_id = node_id
        self.host = host
        self.port = port
        self.datagrams_to: SocketAddress | None = None
        """Where the peer gets datagrams: at its literal address, or where the last connection got
        through, which is where it listens; None while that is unknown, or of no use here."""
        self._dialled: SocketAddress | None = None
        """Where the last connection got through."""
        self.queued_bytes = 0
        self._options = options
        self._counts = counts
        self._on_peer = on_peer
        self._queue: deque[tuple[bytes, float]] = deque()
        """(frame, when it was queued); the first one may be sent in part."""
        self._front_sent = 0
        """Bytes of it, and of its tag."""
        self._trust = trust
        self._own_id = own_id
        self._session: Session | None = None
        """How the frames of this connection are tagged; None: they are not."""
        self._fingerprint = ""
        """Of the secret that it was made by."""
        self._tags: deque[bytes] = deque()
        """Of the first frames of the queue: those that were tagged and are not sent whole."""
        self._socket: socket.socket | None = None
        self._writing = False
        self._stopped = False
        self._task: asyncio.Task[None] | None = None
        self.told = False
        """What `on_peer` was last told."""

    @property
    def connected(self) -> bool:
        """Whether frames can leave now."""
        return self._socket is not None

    @property
    def queued_frames(self) -> int:
        """Frames that wait, one sent in part included."""
        return len(self._queue)

    def start(self, loop: asyncio.AbstractEventLoop, udp_family: int) -> None:
        """Dial from here on, until `close`; `udp_family` is that of the socket for datagrams."""
        self._loop = loop
        self._udp_family = udp_family
        self.datagrams_to = literal_address(self.host, self.port, udp_family)
        self._task = loop.create_task(self._keep_connected(), name=f"dial {self.node_id}")

    def send(self, frame: bytes) -> bool:
        """Send now or queue; False, and counted, if the queue is full."""
        size = len(frame)
        sent = 0
        if self._socket is not None and not self._queue:
            if self._session is not None:
                tag = self._session.tag(frame)
                self._tags.append(tag)
                sent = self._send_some(self._socket, [frame, tag])
            else:
                tag = b""
                sent = self._send_some(self._socket, [frame])
            if sent == size + len(tag):
                self._tags.clear()
                self._counts.tcp_frames_out += 1
                return True
        # An empty queue takes any frame: otherwise one above the bound could never leave.
        if self._queue and self.queued_bytes + size > self._options.queue_max_bytes:
            if self._socket is None:
                self._drop_stale()
            if self._queue and self.queued_bytes + size > self._options.queue_max_bytes:
                self._counts.drop_queue_full += 1
                return False
        self._queue.append((frame, monotonic()))
        self.queued_bytes += size
        if self._socket is not None:
            if sent:
                self._front_sent = sent
            self._write_when_possible(self._socket)
        return True

    def take_over(self, other: Outgoing) -> None:
        """Before `start`: what waits for this peer at another address, which is closed next, waits here. A
        frame of which a part was sent there stays, and is lost."""
        for frame, since in list(other._queue)[1 if other._front_sent else 0 :]:
            self._queue.append((frame, since))
            self.queued_bytes += len(frame)

    def set_keys(self) -> None:
        """Go on by other keys: on a new connection, once no frame is under way on this one. What was sent on
        it arrives, since the peer reads it to its end."""
        if self._socket is not None and self._outdated and not self._front_sent:
            self._lose("other keys")

    @property
    def _outdated(self) -> bool:
        return bool(self._trust.keys) and self._trust.keys[0].fingerprint != self._fingerprint

    def close(self) -> asyncio.Task[None] | None:
        """Stop for good; returns the task that ends now, to be waited for."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        self._disconnect()
        self._queue.clear()
        self.queued_bytes = 0
        return self._task

    async def _keep_connected(self) -> None:
        """Dial, wait for the connection to break, wait a little, and again."""
        first_s = max(self._options.reconnect_first_ms, 1) / 1000
        max_s = self._options.reconnect_max_ms / 1000
        delay_s = first_s
        failures = 0
        where = f"node {self.node_id} at {shown(self.host, self.port)}"
        while True:
            try:
                sock, session, fingerprint = await self._dial()
            except (OSError, UnicodeError) as error:
                self._counts.connect_failures += 1
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                _log.log(level, "cannot connect to %s: %s; trying on", where, str(error) or "timed out")
            else:
                failures = 0
                since = monotonic()
                self._lost: asyncio.Future[str] = self._loop.create_future()
                # As a callback of its own: what `on_peer` raises must not end this task.
                self._loop.call_soon(self._connected, sock, session, fingerprint)
                _log.info("connected to %s", where)
                if not is_literal(self.host):
                    await self._watch_name()
                reason = await self._lost
                _log.info("lost the connection to %s: %s", where, reason)
                if monotonic() - since >= STEADY_S:
                    delay_s = first_s
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, max_s)

    async def _watch_name(self) -> None:
        """Until the connection is lost: end it when the name leads elsewhere. The peer has moved then, and
        whoever has its old address now may well keep a connection that is not for it."""
        while True:
            await asyncio.wait([self._lost], timeout=RESOLVE_EVERY_S)
            if self._lost.done():
                return
            try:
                found = await self._loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                continue  # Nobody answers, which says nothing of where the peer is.
            if self._socket is not None and all(one[4] != self._dialled for one in found):
                self._lose("its name leads elsewhere now")

    async def _dial(self) -> tuple[socket.socket, Session | None, str]:
        found = await self._loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        failure: OSError = OSError("the name has no address")
        for family, _, _, _, address in found[:ADDRESSES_MAX]:
            session, fingerprint = None, ""
            try:
                check_reach(address, self._trust, self._options)
                sock = await dial(self._loop, address, family, CONNECT_TIMEOUT_S)
                if self._trust.keys:
                    keys = self._trust.keys[0]
                    fingerprint = keys.fingerprint
                    session = await prove(self._loop, sock, Dialler(keys, self._own_id, self.node_id))
            except OSError as error:
                failure = error
            else:
                self._dialled = address
                self.datagrams_to = address_for(address, self._udp_family)
                return sock, session, fingerprint
        raise failure

    def _connected(self, sock: socket.socket, session: Session | None, fingerprint: str) -> None:
        if self._stopped:
            sock.close()
            return
        self._counts.connects += 1
        self._loop.add_reader(sock, self._readable)
        self._drop_stale()
        # What `on_peer` sends goes first on the connection: it says who is speaking.
        waiting, waiting_bytes = self._queue, self.queued_bytes
        self._queue, self.queued_bytes = deque(), 0
        self._socket, self._session, self._fingerprint = sock, session, fingerprint
        self.told = True
        try:
            self._on_peer(self.node_id, True)
        finally:
            self._queue.extend(waiting)
            self.queued_bytes += waiting_bytes
            self._writable()

    def _readable(self) -> None:
        """The peer never speaks here: anything but silence ends the connection."""
        if self._socket is None:
            return
        try:
            got = self._socket.recv(1)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(str(error))
            return
        self._lose("the peer sent data on it" if got else "closed by the peer")

    def _writable(self) -> None:
        """Send what waits, as much as goes without blocking."""
        for _ in range(SENDS_PER_TURN):
            if self._socket is None or not self._queue:
                break
            parts, size = self._parts()
            sent = self._send_some(self._socket, parts)
            self._take_off(sent)
            if sent < size:
                break
        self.set_keys()
        if self._socket is not None:
            if self._queue:
                self._write_when_possible(self._socket)
            elif self._writing:
                self._writing = False
                self._loop.remove_writer(self._socket)

    def _parts(self) -> tuple[list[bytes | memoryview], int]:
        """What to send next, and its bytes."""
        parts: list[bytes | memoryview] = []
        size, skip = 0, self._front_sent
        for index, (frame, _) in enumerate(self._queue):
            if index == SEND_FRAMES_MAX or size >= SEND_BYTES_MAX:
                break
            pieces = (frame,) if self._session is None else (frame, self._tag(self._session, index, frame))
            for piece in pieces:
                if skip < len(piece):
                    part = memoryview(piece)[skip:] if skip else piece
                    parts.append(part)
                    size += len(part)
                skip = max(skip - len(piece), 0)
        return parts, size

    def _tag(self, session: Session, index: int, frame: bytes) -> bytes:
        """Of a frame of the queue: made once, when its turn comes."""
        if index == len(self._tags):
            self._tags.append(session.tag(frame))
        return self._tags[index]

    def _send_some(self, sock: socket.socket, parts: Sequence[bytes | memoryview]) -> int:
        """Bytes taken by the kernel; an error ends the connection, nothing is raised."""
        try:
            sent = sock.send(parts[0]) if len(parts) == 1 else sock.sendmsg(parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(str(error))
            return 0
        self._counts.tcp_bytes_out += sent
        return sent

    def _take_off(self, sent: int) -> None:
        """Remove from the queue what was sent."""
        while sent:
            size = len(self._queue[0][0])
            whole = size + (len(self._tags[0]) if self._tags else 0)
            if sent < whole - self._front_sent:
                self._front_sent += sent
                return
            sent -= whole - self._front_sent
            self._front_sent = 0
            self._queue.popleft()
            if self._tags:
                self._tags.popleft()
            self.queued_bytes -= size
            self._counts.tcp_frames_out += 1

    def _write_when_possible(self, sock: socket.socket) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(sock, self._writable)

    def _lose(self, reason: str) -> None:
        self._counts.connection_losses += 1
        self._disconnect()
        if not self._lost.done():
            self._lost.set_result(reason)
        # Not from within `send`, which may be what found the connection broken.
        self._loop.call_soon(self._tell_lost)

    def _tell_lost(self) -> None:
        if not self._stopped:
            self.told = False
            self._on_peer(self.node_id, False)

    def _disconnect(self) -> None:
        """Close the socket; a frame of which the peer has a part is lost with it."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        self._loop.remove_reader(sock)
        if self._writing:
            self._writing = False
            self._loop.remove_writer(sock)
        sock.close()
        self._session = None
        self._tags.clear()
        if self._front_sent:
            self._front_sent = 0
            self.queued_bytes -= len(self._queue.popleft()[0])
            self._counts.drop_torn += 1

    def _drop_stale(self) -> None:
        oldest = monotonic() - STALE_S
        while self._queue and self._queue[0][1] < oldest:
            self.queued_bytes -= len(self._queue.popleft()[0])
            self._counts.drop_stale += 1
