"""Addresses: what a host and port become. A host may be a literal of either IP version or a name.

It opens nothing, and loads little: workers have it too.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

SocketAddress = tuple[Any, ...]
"""As the socket module has it: (host, port), with two more numbers for IPv6."""

UDP_BUFFER_BYTES = 4 * 1024 * 1024
"""Asked of the kernel for either direction; it may grant less."""


def shown(host: str, port: int) -> str:
    """`host:port` for messages, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_literal(host: str) -> bool:
    """Whether it is an address of either IP version, and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def literal_address(host: str, port: int, family: int) -> SocketAddress | None:
    """What a socket of `family` sends to for this host, if it is a literal; None for names."""
    try:
        found = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    return address_for(found[0][4], family)


def address_for(address: SocketAddress, family: int) -> SocketAddress | None:
    """The same destination as a socket of `family` wants it; None if it cannot reach it."""
    is_ipv6 = ":" in address[0]
    if is_ipv6 == (family == socket.AF_INET6):
        return address
    if is_ipv6:
        return None
    return (f"::ffff:{address[0]}", address[1], 0, 0)
