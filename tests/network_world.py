"""What surrounds a network under test: strangers who connect to it, and a node that is alone."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from paxmux.plugins.network.udp_tcp import UdpTcp
from tests.network_contract import DEADLINE_S, FreePorts, NetworkContract, Node


class Bench(NetworkContract):
    """Builds nodes; its tests are not run again here."""

    __test__ = False

    def build(self, *arguments: Any) -> UdpTcp:
        return UdpTcp(*arguments)


BENCH = Bench()


async def alone(free_ports: FreePorts, **options: Any) -> tuple[Node, int]:
    """A started node whose peer, node 2, does not run."""
    ports = free_ports(2)
    node = BENCH.node(1, ports, **options)
    await node.network.start()
    return node, ports[0]


async def client(port: int, data: bytes = b"", host: str = "127.0.0.1") -> socket.socket:
    """A connection of a stranger, on which `data` was sent."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    await loop.sock_connect(sock, (host, port))
    if data:
        await loop.sock_sendall(sock, data)
    return sock


async def closed(sock: socket.socket) -> bool:
    """Wait until the other side has closed the connection."""
    loop = asyncio.get_running_loop()
    try:
        return await asyncio.wait_for(loop.sock_recv(sock, 1), DEADLINE_S) == b""
    except ConnectionResetError:
        return True
    finally:
        sock.close()


def is_open(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
