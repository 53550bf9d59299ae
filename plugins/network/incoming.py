"""TCP connections that others dial: frames are cut out of them and handed up.

It decides whom it still listens to. Where there is a secret, nothing is a frame before both ends have
proved that they know it, and every frame has a tag behind it. It must never allocate by a length that was
not checked and not yet sent, never wait for a slow sender, and never try to find its place again in a stream
whose header is wrong: such a connection is closed. CRC and cluster are for the router to check, and so is
the sender, where there is no secret.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Collection
from hmac import compare_digest
from time import monotonic

from paxmux.engine.frame import parse_start
from paxmux.engine.frame_header import HEADER_BYTES, FrameError
from paxmux.engine.network import Frame, OnFrame
from paxmux.plugins.network.addresses import SocketAddress
from paxmux.plugins.network.counts import Counts
from paxmux.plugins.network.endpoint import keep_alive
from paxmux.plugins.network.handshake import CALL_BYTES, HANDSHAKE_S, Listener, Stranger
from paxmux.plugins.network.session import TAG_BYTES, Session
from paxmux.plugins.network.trust import Trust

FIRST_FRAME_S = 10.0
"""A connection that has sent no whole frame so long after its start is closed."""
FRAME_S = 60.0
"""A frame that is not whole so long after its first byte ends its connection."""
STRANGER_IDLE_S = 300.0
"""A connection whose last frame came from no known peer may be silent for so long. Known peers may
be silent for ever: keep-alive tells whether they are still there."""
SWEEP_S = 1.0
ACCEPT_PAUSE_S = 1.0
"""Rest after the kernel could not give another descriptor; without it the loop would spin."""
ACCEPTS_PER_TURN = 16
UNPROVED_MAX = 64
"""Connections that are still to prove who they are; one more ends the oldest of them."""
PROVED_MAX = 4
"""Connections of one node; one more ends the longest silent of them."""
TURN_BYTES = 1024 * 1024
"""Taken from a connection before others get their turn in the event loop; one system call may go beyond."""
READ_BYTES = 64 * 1024
"""Taken at a time while it is not known what comes: frames are cut out of it."""
BEHIND_BYTES = 8 * 1024
"""Taken at a time of what follows the frame whose rest is read to its place."""
ROOM_BYTES = 1024 * 1024
"""Room that is made for an announced frame at once; more, up to twice what is there, as it arrives."""
LARGE_AT_ONCE_MAX = 16
"""Of so many peers the largest frames may arrive at the same time, however many there are."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = logging.getLogger(__name__)


class _Connection:
    """One incoming connection and the part of a frame that has arrived on it."""

    __slots__ = (
        "active_at",
        "fingerprint",
        "frame_at",
        "frames",
        "got",
        "listener",
        "need",
        "node",
        "partial",
        "peer",
        "sender",
        "session",
        "sock",
        "start_at",
    )

    def __init__(
        self, sock: socket.socket, peer: SocketAddress, now: float, listener: Listener | None
    ) -> None:
        self.sock = sock
        self.peer = peer
        self.listener = listener
        """What the other end has still to prove; None: it has, or need not."""
        self.session: Session | None = None
        """How its frames are tagged; None: they are not."""
        self.node = 0
        """Who has proved itself at the other end."""
        self.fingerprint = ""
        """Of the secret that it has proved to know."""
        self.start_at = now
        self.active_at = now
        """When the last whole frame came."""
        self.frame_at = now
        """When the first byte of `partial` came."""
        self.partial = bytearray()
        """Room for the frame, or for a part of it; while `need` is 0, the part of a header that has come."""
        self.got = 0
        """Bytes of it that have arrived."""
        self.need = 0
        """Bytes of the frame in `partial`; 0 while too little of its header is there to tell."""
        self.frames = 0
        self.sender: int | None = None
        """The peer that the last frame named as its sender; None if it named none. Anybody can write that."""

    @property
    def known(self) -> bool:
        """Whether the last frame named a peer."""
        return self.sender is not None


class Incoming:
    """The listener, owned, and all connections that it accepted."""

    def __init__(
        self,
        listener: socket.socket,
        peers: Collection[int],
        counts: Counts,
        max_frame_bytes: int,
        on_frame: OnFrame,
        trust: Trust,
        node_id: int,
    ) -> None:
        self._listener = listener
        self._trust = trust
        self._node_id = node_id
        self._tag_bytes = TAG_BYTES if trust.keys else 0
        self._peers = peers
        self._counts = counts
        self._max_frame_bytes = max_frame_bytes
        self._on_frame = on_frame
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._connections: set[_Connection] = set()
        self.connections_max = 0
        self.partial_max_bytes = 0
        """Bytes of unfinished frames, of all connections together."""
        self.partial_bytes = 0
        self.peers_changed()
        self._timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Connections open now."""
        return len(self._connections)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept from here on, until `close`."""
        self._loop = loop
        loop.add_reader(self._listener, self._accept)
        self._timer = loop.call_later(SWEEP_S, self._sweep)

    def peers_changed(self) -> None:
        """Whoever is no peer any more is cut off; the bounds are those that go with the others."""
        count = len(self._peers)
        self.connections_max = 8 * count + 32
        self.partial_max_bytes = (min(count, LARGE_AT_ONCE_MAX) + 2) * self._max_frame_bytes
        for connection in list(self._connections):
            if connection.sender is not None and connection.sender not in self._peers:
                self._drop(connection)

    def close(self) -> None:
        """Close the listener and every connection."""
        for timer in (self._timer, self._pause):
            if timer is not None:
                timer.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for connection in list(self._connections):
            self._drop(connection)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._counts.tcp_accept_failures += 1
                if error.errno not in _EXHAUSTED:
                    continue
                _log.warning("cannot accept a connection: %s", error)
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(
                    ACCEPT_PAUSE_S, self._loop.add_reader, self._listener, self._accept
                )
                return
            self._counts.tcp_accepts += 1
            if len(self._connections) >= self.connections_max:
                self._evict_idle()
            if self._trust.keys:
                self._evict_unproved()
            sock.setblocking(False)
            try:
                keep_alive(sock)
            except OSError:
                self._counts.tcp_accept_failures += 1
                sock.close()
                continue
            proof = Listener(self._trust.keys, self._node_id) if self._trust.keys else None
            connection = _Connection(sock, peer, monotonic(), proof)
            self._connections.add(connection)
            self._loop.add_reader(sock, self._readable, connection)

    def _readable(self, connection: _Connection) -> None:
        left = TURN_BYTES
        while left > 0:
            try:
                if connection.listener is not None:
                    length, full = self._shake(connection, connection.listener)
                else:
                    length, full = self._read(connection, left)
            except BlockingIOError:
                return
            except FrameError as error:
                self._counts.tcp_bad_header += 1
                _log.debug("connection from %s closed: %s", connection.peer, error)
                self._drop(connection)
                return
            except Stranger as error:
                self._trust.refuse(f"a connection from {connection.peer[0]}", str(error))
                self._drop(connection)
                return
            except OSError as error:
                _log.debug("connection from %s: %s", connection.peer, error)
                length, full = 0, False
            if length == 0:
                self._drop(connection)
            if not full or connection not in self._connections:
                return
            left -= length

    def _shake(self, connection: _Connection, listener: Listener) -> tuple[int, bool]:
        """One system call, for the rest of the next message of the handshake, and not a byte beyond.

        Raises:
            Stranger: it proves nothing.
            OSError: the connection is broken, or nothing is there.
        """
        data = connection.sock.recv(listener.expects - len(connection.partial))
        self._counts.tcp_bytes_in += len(data)
        connection.partial += data
        if len(connection.partial) < listener.expects:
            return len(data), False
        message, connection.partial = bytes(connection.partial), bytearray()
        if len(message) == CALL_BYTES:
            answer = listener.called(message)
            if connection.sock.send(answer) != len(answer):
                raise Stranger("it does not read the answer to its call")
            return len(data), True
        connection.session = listener.proved(message)
        connection.listener = None
        connection.node = listener.sender
        connection.fingerprint = listener.keys.fingerprint if listener.keys is not None else ""
        connection.sender = connection.node if connection.node in self._peers else None
        connection.active_at = monotonic()
        self._counts.tcp_proofs += 1
        self._evict_doubles(connection.node)
        if connection.fingerprint not in {keys.fingerprint for keys in self._trust.keys}:
            raise Stranger("its secret is not accepted any more")
        return len(data), True

    def _read(self, connection: _Connection, most: int) -> tuple[int, bool]:
        """One system call, for about `most` bytes. How many came, and whether there may be more.

        Raises:
            FrameError: a header is wrong.
            OSError: the connection is broken, or nothing is there.
        """
        buffer = self._buffer
        if not connection.need:
            length = connection.sock.recv_into(buffer)
            self._counts.tcp_bytes_in += length
            self._take(connection, buffer[:length])
            return length, length == READ_BYTES
        # The rest of a frame goes straight to its place; what follows it is cut as ever.
        partial, got = connection.partial, connection.got
        place = memoryview(partial)[got : got + max(most, BEHIND_BYTES)]
        parts = [place]
        if got + len(place) == connection.need:
            parts.append(buffer[:BEHIND_BYTES])
        asked = sum(map(len, parts))
        try:
            length = connection.sock.recvmsg_into(parts)[0]
        finally:
            # What is looked at from outside cannot grow.
            place.release()
        self._counts.tcp_bytes_in += length
        here = min(length, asked - (BEHIND_BYTES if len(parts) > 1 else 0))
        self._arrived(connection, here)
        if length > here and connection in self._connections:
            self._take(connection, buffer[: length - here])
        return length, length == asked

    def _take(self, connection: _Connection, data: memoryview) -> None:
        """Hand up the frames that are whole, and keep the part of one that is not. No frame is in the works
        whose header is known.

        Raises:
            FrameError: a header is wrong.
        """
        at, end = 0, len(data)
        if connection.got:
            at = min(HEADER_BYTES - connection.got, end)
            connection.partial += data[:at]
            self._arrived(connection, at)
            if connection.got < HEADER_BYTES:
                return
            connection.need, _ = self._extent(connection.partial)
            here = min(connection.need - HEADER_BYTES, end - at)
            _make_room(connection, here)
            connection.partial[HEADER_BYTES : HEADER_BYTES + here] = data[at : at + here]
            self._arrived(connection, here)
            at += here
        while end - at >= HEADER_BYTES:
            length, sender = self._extent(data[at : at + HEADER_BYTES])
            stop = at + length
            if stop > end:
                connection.need = length
                break
            self._deliver(connection, data[at:stop].tobytes(), sender)
            if connection not in self._connections:
                return
            at = stop
        if at < end:
            connection.frame_at = monotonic()
            _make_room(connection, end - at)
            connection.partial[: end - at] = data[at:]
            self._arrived(connection, end - at)

    def _extent(self, start: bytearray | memoryview) -> tuple[int, int]:
        """(bytes, sender) of the frame that starts so, its tag included.

        Raises:
            FrameError: the header is wrong.
        """
        length, sender = parse_start(start, self._max_frame_bytes)
        return length + self._tag_bytes, sender

    def _arrived(self, connection: _Connection, size: int) -> None:
        """So many bytes more of the frame in the works are in their place."""
        connection.got += size
        self.partial_bytes += size
        if connection.got == connection.need:
            frame = connection.partial
            self._forget_partial(connection)
            self._deliver(connection, frame, self._extent(frame)[1])
        elif self.partial_bytes > self.partial_max_bytes:
            self._evict_largest()
        elif connection.need and connection.got == len(connection.partial):
            _make_room(connection, 0)

    def _deliver(self, connection: _Connection, frame: Frame, sender: int) -> None:
        if connection.session is not None:
            tag, frame = bytes(frame[-TAG_BYTES:]), _without_tag(frame)
            if not compare_digest(connection.session.tag(frame), tag):
                self._refuse(connection, "a frame was altered, moved or put in on the way")
                return
            if sender != connection.node:
                self._refuse(connection, f"it is node {connection.node} and speaks for node {sender}")
                return
        connection.frames += 1
        connection.active_at = monotonic()
        connection.sender = sender if sender in self._peers else None
        self._counts.tcp_frames_in += 1
        self._on_frame(frame)

    def _refuse(self, connection: _Connection, why: str) -> None:
        self._trust.refuse(f"a connection from {connection.peer[0]}", why)
        self._drop(connection)

    def set_keys(self) -> None:
        """Close what was proved by a secret that is not accepted any more."""
        accepted = {keys.fingerprint for keys in self._trust.keys}
        for connection in list(self._connections):
            if connection.session is not None and connection.fingerprint not in accepted:
                self._drop(connection)

    def _forget_partial(self, connection: _Connection) -> None:
        self.partial_bytes -= connection.got
        connection.partial = bytearray()
        connection.got = connection.need = 0

    def _drop(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._forget_partial(connection)
            self._loop.remove_reader(connection.sock)
            connection.sock.close()

    def _evict_idle(self) -> None:
        """Make place for a new connection: strangers first, the longest silent of them first."""
        self._counts.tcp_evicted += 1
        self._drop(min(self._connections, key=lambda one: (one.known, one.active_at)))

    def _evict_unproved(self) -> None:
        """Make place for one more that is to prove itself."""
        unproved = [one for one in self._connections if one.listener is not None]
        if len(unproved) >= UNPROVED_MAX:
            self._counts.tcp_evicted += 1
            self._drop(min(unproved, key=lambda one: one.start_at))

    def _evict_doubles(self, node: int) -> None:
        """A node needs one connection, and another one while it loses that."""
        same = [one for one in self._connections if one.session is not None and one.node == node]
        if len(same) > PROVED_MAX:
            self._counts.tcp_evicted += 1
            self._drop(min(same, key=lambda one: one.active_at))

    def _evict_largest(self) -> None:
        """Make place for bytes: strangers first, the one with the largest unfinished frame first."""
        self._counts.tcp_evicted += 1
        self._drop(min(self._connections, key=lambda one: (one.known, -one.got)))

    def _sweep(self) -> None:
        """Close who takes too long."""
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        now = monotonic()
        for one in list(self._connections):
            mute = one.frames == 0 and now - one.start_at > FIRST_FRAME_S
            if one.listener is not None and now - one.start_at > HANDSHAKE_S:
                self._trust.refuse(f"a connection from {one.peer[0]}", "it proved nothing in time")
            elif mute or (one.got and now - one.frame_at > FRAME_S):
                self._counts.tcp_slow += 1
            elif not one.known and now - max(one.active_at, one.frame_at) > STRANGER_IDLE_S:
                self._counts.tcp_idle += 1
            else:
                continue
            self._drop(one)


def _without_tag(frame: Frame) -> Frame:
    if isinstance(frame, bytearray):
        # No copy: a bytearray is cut where it lies.
        del frame[-TAG_BYTES:]
        return frame
    return frame[:-TAG_BYTES]


def _make_room(connection: _Connection, size: int) -> None:
    """Have a place for `size` bytes more of the frame, and for what it has announced beyond them: at most
    `ROOM_BYTES`, or as much as has come already."""
    have = connection.got + size
    room = max(have, min(connection.need, max(ROOM_BYTES, 2 * have)))
    connection.partial += bytes(room - len(connection.partial))
