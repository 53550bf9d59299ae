"""Sockets: how they are bound, dialled and set up.

It never sends or receives, but to prove at a new connection who is there.
"""

from __future__ import annotations

import asyncio
import errno
import socket

from paxmux.engine.address import is_loopback
from paxmux.engine.options import NetworkOptions
from paxmux.plugins.network.addresses import UDP_BUFFER_BYTES, SocketAddress, shown
from paxmux.plugins.network.handshake import ANSWER_BYTES, HANDSHAKE_S, Dialler, Stranger
from paxmux.plugins.network.session import Session
from paxmux.plugins.network.trust import Trust

LISTEN_BACKLOG = 128
KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3
UNSENT_TIMEOUT_MS = 15_000
"""An outgoing connection is given up when what it sent is not acknowledged for so long."""


async def bind(loop: asyncio.AbstractEventLoop, host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP socket and a TCP listener on one address and port, both non-blocking.

    Raises:
        OSError: names protocol, address and reason. A port that another process has, in either
            protocol, is one; so the UDP socket does not share its address.
    """
    opened: list[socket.socket] = []
    where = shown(host, port)
    what = "resolve"
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        what = "bind UDP port"
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        opened.append(udp)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UDP_BUFFER_BYTES)
        _accept_both_versions(udp, address)
        udp.bind(address)
        what = "bind TCP port"
        tcp = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        opened.append(tcp)
        # Connections of an earlier run that still linger must not keep the port; a listener does.
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _accept_both_versions(tcp, address)
        tcp.bind(address)
        tcp.listen(LISTEN_BACKLOG)
    except (OSError, UnicodeError) as error:
        for one in opened:
            one.close()
        number = getattr(error, "errno", None) or errno.EINVAL
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(number, f"cannot {what} {where}: {reason}") from error
    return udp, tcp


def _accept_both_versions(sock: socket.socket, address: SocketAddress) -> None:
    if sock.family == socket.AF_INET6 and address[0] == "::":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel notice a peer that is gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)


def check_reach(address: SocketAddress, trust: Trust, options: NetworkOptions) -> None:
    """Nothing goes beyond this machine without a secret, whatever a name leads to.

    Raises:
        OSError: it would.
    """
    if not trust.keys and not options.insecure and not is_loopback(address[0]):
        raise OSError(
            f"{address[0]} is beyond this machine, and the options have no network.secret_file "
            "(or network.insecure: true)"
        )


async def dial(
    loop: asyncio.AbstractEventLoop, address: SocketAddress, family: int, timeout_s: float
) -> socket.socket:
    """A connected socket, ready for use.

    Raises:
        OSError: refused, unreachable, timed out, or connected to itself.
    """
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(timeout_s):
            await loop.sock_connect(sock, address)
        # The kernel joins a socket that dials a free local port to itself if it happens to get
        # that very port as its own; the peer could then never bind it.
        if sock.getsockname() == sock.getpeername():
            raise ConnectionRefusedError("connected to itself")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_TIMEOUT_MS)
        keep_alive(sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def prove(loop: asyncio.AbstractEventLoop, sock: socket.socket, dialler: Dialler) -> Session:
    """Have both ends of a fresh connection prove that they know the secret; closes it if they do not.

    Raises:
        OSError: the other end does not, or not in time; the text says so.
    """
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            await loop.sock_sendall(sock, dialler.call)
            answer = b""
            while len(answer) < ANSWER_BYTES:
                part = await loop.sock_recv(sock, ANSWER_BYTES - len(answer))
                if not part:
                    raise OSError("it hung up at the handshake: it has another secret, or none")
                answer += part
            proof, session = dialler.answered(answer)
            await loop.sock_sendall(sock, proof)
    except Stranger as error:
        sock.close()
        raise OSError(f"it failed the handshake: {error}") from None
    except BaseException:
        sock.close()
        raise
    return session
