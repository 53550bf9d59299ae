"""A man in the middle: he passes TCP connections and datagrams on, notes and changes what he likes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

Change = Callable[[bytes], bytes]
KEPT_BYTES = 8 * 1024 * 1024
"""Of each direction of a connection."""


class WireTap:
    """Listens in place of a node and passes on to it. Used in one event loop."""

    def __init__(self, port: int, target_port: int) -> None:
        self._listen = ("127.0.0.1", port)
        self._target = ("127.0.0.1", target_port)
        self.forth: list[bytearray] = []
        """What each connection brought, in the direction of the node: the first `KEPT_BYTES`."""
        self.back: list[bytearray] = []
        self.change_forth: Change = bytes
        """Applied to each piece that passes towards the node."""
        self.change_back: Change = bytes
        self.datagrams: list[bytes] = []
        self.twice = False
        """Whether each datagram passes two times."""
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, *self._listen)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setblocking(False)
        self._udp.bind(self._listen)
        asyncio.get_running_loop().add_reader(self._udp, self._datagram)

    async def stop(self) -> None:
        """End it, and all connections."""
        asyncio.get_running_loop().remove_reader(self._udp)
        self._udp.close()
        self._server.close()
        self.cut()
        await asyncio.sleep(0)

    def cut(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def inject(self, data: bytes) -> None:
        """Put something into every connection, towards the node."""
        for writer in self._to_node:
            writer.write(data)

    @property
    def _to_node(self) -> list[asyncio.StreamWriter]:
        return [one for one in self._writers if one.get_extra_info("peername")[1] == self._target[1]]

    def send(self, datagram: bytes) -> None:
        """Send the node a datagram."""
        self._udp.sendto(datagram, self._target)

    def _datagram(self) -> None:
        with suppress(BlockingIOError):
            while True:
                data = self._udp.recv(65_535)
                self.datagrams.append(data)
                for _ in range(1 + self.twice):
                    self.send(self.change_forth(data))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, far_writer}
        number = len(self.forth)
        self.forth.append(bytearray())
        self.back.append(bytearray())

        async def pass_on(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, heard: bytearray, towards: bool
        ) -> None:
            with suppress(OSError):
                while data := await source.read(1 << 16):
                    heard.extend(data[: KEPT_BYTES - len(heard)])
                    sink.write((self.change_forth if towards else self.change_back)(data))
            writer.close()
            far_writer.close()

        await asyncio.gather(
            pass_on(reader, far_writer, self.forth[number], True),
            pass_on(far_reader, writer, self.back[number], False),
        )
