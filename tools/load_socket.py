"""How loads in other processes reach a node: a socket of the process that embeds it.

Decides how requests and outcomes travel: as msgpack documents behind their length, each with as many of
them as one turn of the event loop had. The socket is a unix socket without a file (its name dies with its
process), and serves processes of the same user alone. What makes no sense ends the connection. Where the
other end does not read, nothing more is read from it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import msgspec

from paxmux.shards.node import Node
from paxmux.tools.load_gate import Answer, GateSpec, LoadGate, Request

FRAME_BYTES = 1 << 20
"""Values in a frame beyond which another one begins."""
MAX_BYTES = 64 * 1024 * 1024
"""A longer frame makes no sense: a value has 10 MiB at most."""
_LENGTH = struct.Struct("<I")
_PEER = struct.Struct("3i")
"""`struct ucred`: process, user, group."""

_encode = msgspec.msgpack.Encoder().encode
_decode_spec = msgspec.msgpack.Decoder(GateSpec).decode
_decode_requests = msgspec.msgpack.Decoder(list[Request]).decode
_decode_answers = msgspec.msgpack.Decoder(list[Answer]).decode

log = logging.getLogger("paxmux.tools")


class WrongFrame(ValueError):
    """The other end sent what makes no sense."""


def frame(document: Any) -> bytes:
    """A document as it travels."""
    data = _encode(document)
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Cuts a stream into frames."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now.

        Raises:
            WrongFrame: one is too long.
        """
        self._data += data
        whole, start = self._data, 0
        found: list[bytes] = []
        while len(whole) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(whole, start)
            if length > MAX_BYTES:
                raise WrongFrame(f"a frame of {length} bytes, at most {MAX_BYTES} are read")
            end = start + _LENGTH.size + length
            if end > len(whole):
                break
            found.append(bytes(whole[start + _LENGTH.size : end]))
            start = end
        if start:
            del whole[:start]
        return found


class LoadServer:
    """The node's end, for any number of loads. Used in the node's event loop only."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._server: asyncio.Server | None = None
        self._connections: set[_Serving] = set()
        self.values = 0
        """Answers given without an error."""

    async def start(self) -> str:
        """Listen; returns the name of the socket, which begins with a null byte."""
        name = f"\0paxmux-load-{secrets.token_hex(16)}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(name)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Serving(self, self._node, self._connections), sock=listener
        )
        return name

    def progress(self) -> dict[str, Any]:
        """Counts so far."""
        return {"values": self.values}

    def close(self) -> None:
        """Listen no more, and end all connections; safe to call twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.abort()


class _Serving(asyncio.Protocol):
    """One connection, at the node."""

    def __init__(self, server: LoadServer, node: Node, connections: set[_Serving]) -> None:
        self._server = server
        self._node = node
        self._connections = connections
        self._frames = Frames()
        self._gate: LoadGate | None = None
        self._transport: asyncio.Transport | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are transports by their methods alone.
        stream = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size
        )
        _, user, _ = _PEER.unpack(peer)
        if user != os.geteuid():
            log.warning("a load of user %d was turned away", user)
            stream.abort()
            return
        self._transport = stream
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._connections.discard(self)

    def abort(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for document in self._frames.feed(data):
                if self._gate is None:
                    self._gate = LoadGate(self._node, _decode_spec(document), self._give)
                else:
                    self._gate.send(_decode_requests(document))
        except (WrongFrame, msgspec.DecodeError) as error:
            log.warning("a load sent what makes no sense: %s", error)
            self._transport.abort()

    def _give(self, answers: list[Answer]) -> None:
        self._server.values += sum(not code for _, code in answers)
        if self._transport is not None:
            self._transport.write(frame(answers))


class SocketGate(asyncio.Protocol):
    """The load's end: sends requests, and hands outcomes over."""

    def __init__(self, give: Callable[[list[Answer]], None], lost: Callable[[str], None]) -> None:
        """`give` gets outcomes; `lost` is called once if the node's end is gone, with the reason."""
        self._give = give
        self._lost = lost
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(
        cls,
        name: str,
        spec: GateSpec,
        give: Callable[[list[Answer]], None],
        lost: Callable[[str], None],
    ) -> SocketGate:
        """To the socket that `LoadServer.start` has named. Raises OSError if nobody is there."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            end.setblocking(False)
            end.connect(name)
            loop = asyncio.get_running_loop()
            transport, gate = await loop.create_unix_connection(lambda: cls(give, lost), sock=end)
        except BaseException:
            end.close()
            raise
        transport.write(frame(spec))
        return gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._lost(f"the node's process closed the connection of a load: {error or 'end of stream'}")

    def data_received(self, data: bytes) -> None:
        try:
            for document in self._frames.feed(data):
                self._give(_decode_answers(document))
        except (WrongFrame, msgspec.DecodeError) as error:
            self._lost(f"a node sent a load what makes no sense: {error}")
            self.close()

    def send(self, requests: list[Request]) -> None:
        """Send them; what is under way is bounded by the load, and so is what waits here."""
        if self._transport is None:
            return
        size = sum(len(value) for _, _, value in requests if value is not None)
        if size <= FRAME_BYTES or len(requests) == 1:
            self._transport.write(frame(requests))
        else:
            middle = len(requests) // 2
            self.send(requests[:middle])
            self.send(requests[middle:])

    def close(self) -> None:
        """End the connection; `lost` is not called. Safe to call twice."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
