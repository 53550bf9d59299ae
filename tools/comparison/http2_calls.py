"""gRPC calls over one HTTP/2 connection, at as little cost to the caller's CPU as Python allows.

Decides how calls and answers look on the wire, and what counts as an answer: status 0 alone. Many calls are
under way on a connection, each a stream of its own. It is for a load on the loopback: calls are small, and
the server is believed. A general client would take several times the CPU, which on one machine the server
would lack. Runs where paxmux is not installed: it imports the standard library and `hpack` alone.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from hpack import Decoder, Encoder

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK, _PADDED, _PRIORITY = 0x1, 0x4, 0x1, 0x8, 0x20
_HEADER_BYTES = 9
_WINDOW_BYTES = 1 << 30
_TABLE_SIZE_SETTING, _WINDOW_SETTING = 1, 4
_RECEIVE_BYTES = 1 << 18

Answered = Callable[[int, bytes], None]


class CallFailed(Exception):
    """A call, or the whole connection, did not end with status 0."""


class Calls:
    """The calls of one connection. A call has a number that its caller chose."""

    def __init__(self, address: tuple[str, int], path: str, answered: Answered) -> None:
        """
        Args:
            address: of the server.
            path: of the method, as `/package.Service/Method`.
            answered: told the number and the answer's message of each call, from within `receive`.
        """
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answered = answered
        self._headers = _header_block(address, path)
        self._stream = 1
        self._numbers: dict[int, int] = {}
        self._messages: dict[int, bytes] = {}
        self._known: dict[bytes, dict[str, str]] = {}
        self._input = b""
        self._block: bytes | None = None
        self._taken = 0
        # Without a table the meaning of a block of headers depends on that block alone: see `_read_block`.
        settings = struct.pack(">HIHI", _TABLE_SIZE_SETTING, 0, _WINDOW_SETTING, _WINDOW_BYTES)
        self._output = [_PREFACE, _frame(_SETTINGS, 0, 0, settings), _window(_WINDOW_BYTES)]

    def call(self, number: int, message: bytes) -> None:
        """Queue a call; `flush` sends it."""
        stream = self._stream
        self._stream += 2
        self._numbers[stream] = number
        self._output.append(_frame(_HEADERS, _END_HEADERS, stream, self._headers))
        body = struct.pack(">BI", 0, len(message)) + message
        self._output.append(_frame(_DATA, _END_STREAM, stream, body))

    def flush(self) -> None:
        """Send what is queued."""
        if self._output:
            self.socket.sendall(b"".join(self._output))
            self._output.clear()

    def receive(self) -> None:
        """Take in what has arrived, at least something.

        Raises:
            CallFailed: a call failed, or the server has closed the connection.
        """
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise CallFailed("the server has closed the connection")
        self._taken += len(data)
        data = self._input + data
        place, end = 0, len(data)
        while end - place >= _HEADER_BYTES:
            length = int.from_bytes(data[place : place + 3], "big")
            body = place + _HEADER_BYTES
            if end - body < length:
                break
            stream = int.from_bytes(data[place + 5 : body], "big") & 0x7FFFFFFF
            place = body + length
            self._frame(data[body - 6], data[body - 5], stream, data[body:place])
        self._input = data[place:]
        if self._taken > _WINDOW_BYTES // 2:
            self._output.append(_window(self._taken))
            self._taken = 0

    def _frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == _DATA:
            self._messages[stream] = self._messages.get(stream, b"") + body
        elif kind == _HEADERS:
            if flags & (_PADDED | _PRIORITY) or not flags & _END_HEADERS:
                raise CallFailed("the server sends headers in a way that this client does not read")
            if flags & _END_STREAM:
                self._finish(stream, body)
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._output.append(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING:
            if not flags & _ACK:
                self._output.append(_frame(_PING, _ACK, 0, body))
        elif kind in (_RST_STREAM, _GOAWAY):
            raise CallFailed(f"the server sent an HTTP/2 frame of type {kind}: {body!r}")

    def _finish(self, stream: int, block: bytes) -> None:
        trailers = self._read_block(block)
        number = self._numbers.pop(stream)
        message = self._messages.pop(stream, b"")
        if trailers.get("grpc-status") != "0":
            raise CallFailed(f"a call ended with {trailers}")
        self._answered(number, message[5:])

    def _read_block(self, block: bytes) -> dict[str, str]:
        known = self._known.get(block)
        if known is None:
            decoder = Decoder()
            decoder.max_allowed_table_size = 0
            decoder.header_table_size = 0
            known = self._known[block] = {_text(name): _text(value) for name, value in decoder.decode(block)}
        return known


def _text(part: str | bytes) -> str:
    return part if isinstance(part, str) else part.decode("ascii", "replace")


def _header_block(address: tuple[str, int], path: str) -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", f"{address[0]}:{address[1]}"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    return bytes(encoder.encode(headers))


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">IBI", len(body) << 8 | kind, flags, stream) + body


def _window(more_bytes: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", more_bytes))
