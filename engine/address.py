"""Node ids and the addresses that they stand for.

Decides how `host:port` becomes a 64-bit node id (PhxPaxos's packing), which texts are addresses at
all, and how an id is written in messages. Never resolves a name and never opens a socket: what a
host name points to is asked by the network when it connects.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from paxmux.engine.errors import ConfigError

MAX_NODE_ID = 2**64 - 1
MAX_PORT = 65_535

_NUMBER = re.compile(r"[1-9][0-9]*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_HOST_NAME_MAX = 253


class Member(NamedTuple):
    """A member as an address: who it is and where its port is."""

    node_id: int
    host: str
    """IPv4 literal, IPv6 literal without brackets, or a host name in lower case."""
    port: int

    @property
    def address(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def pack_node_id(ip: str, port: int) -> int:
    """The node id of an IPv4 literal and a port: the address's four bytes read as a little-endian
    number, shifted left by 32, or-ed with the port (as in PhxPaxos).

    Raises:
        ConfigError: not an IPv4 literal, or a port outside 1 .. 65535.
    """
    try:
        packed = IPv4Address(ip).packed
    except AddressValueError as error:
        raise ConfigError(f"expected an IPv4 address, got {ip!r} ({error})") from None
    if not 1 <= port <= MAX_PORT:
        raise ConfigError(f"expected a port of 1 .. {MAX_PORT}, got {port}")
    return int.from_bytes(packed, "little") << 32 | port


def unpack_node_id(node_id: int) -> tuple[str, int] | None:
    """(IPv4 literal, port) packed in an id; None if the id cannot be such a packing."""
    port = node_id & 0xFFFF_FFFF
    if not 1 <= port <= MAX_PORT or node_id > MAX_NODE_ID:
        return None
    ip = IPv4Address((node_id >> 32).to_bytes(4, "little"))
    return (str(ip), port) if _unreachable(ip) is None else None


def node_text(node_id: int) -> str:
    """An id as people read it in messages: `ip:port` where it packs one, else the number."""
    packed = unpack_node_id(node_id)
    return f"{packed[0]}:{packed[1]}" if packed is not None else str(node_id)


def parse_member(text: str, node_id: int | None = None) -> Member:
    """Read `host:port` or `id@host:port`.

    Args:
        text: an IPv4 literal, or with an explicit id also a host name or an IPv6 literal in brackets.
        node_id: the explicit id, where it is told beside the text.

    Raises:
        ConfigError: what was expected and what the text is; it never names file or key.
    """
    id_text, at, address = text.rpartition("@")
    if at:
        written = _parse_node_id(id_text, text)
        if node_id is not None and node_id != written:
            raise ConfigError(f"expected the node id {node_id}, got {text!r}")
        node_id = written
    elif node_id is not None and not 1 <= node_id <= MAX_NODE_ID:
        raise ConfigError(f"expected a node id of 1 .. 2^64-1, got {node_id}")
    host, port = _split(address, text)
    if node_id is None:
        if _as_ipv4(host) is None:
            raise ConfigError(
                f"expected an IPv4 address before the port, or an explicit id (`id@host:port`), got {text!r}"
            )
        node_id = pack_node_id(host, port)
    return Member(node_id, host, port)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a host, as `Member` has it. Of names `localhost` alone does."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _parse_node_id(id_text: str, text: str) -> int:
    if len(id_text) > 20 or not _NUMBER.fullmatch(id_text) or int(id_text) > MAX_NODE_ID:
        raise ConfigError(f"expected a node id of 1 .. 2^64-1 before the `@`, got {text!r}")
    return int(id_text)


def _split(address: str, text: str) -> tuple[str, int]:
    host, colon, port_text = address.rpartition(":")
    if not colon or not host:
        raise ConfigError(f"expected `host:port` or `id@host:port`, got {text!r}")
    if len(port_text) > 5 or not _NUMBER.fullmatch(port_text) or int(port_text) > MAX_PORT:
        raise ConfigError(f"expected a port of 1 .. {MAX_PORT} after the last colon, got {text!r}")
    return _check_host(host, text), int(port_text)


def _check_host(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            ipv6 = IPv6Address(host[1:-1])
        except AddressValueError as error:
            raise ConfigError(f"expected an IPv6 address in the brackets, got {text!r} ({error})") from None
        return _reachable(ipv6, text)
    if ":" in host or "[" in host or "]" in host:
        raise ConfigError(f"expected an IPv6 address in brackets (`id@[address]:port`), got {text!r}")
    ipv4 = _as_ipv4(host)
    if ipv4 is not None:
        return _reachable(ipv4, text)
    name = host.lower()
    labels = name.split(".")
    if labels[-1].isdigit():
        raise ConfigError(f"expected an IPv4 address of four numbers of 0 .. 255, got {text!r}")
    if len(name) > _HOST_NAME_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise ConfigError(f"expected a host name or an IP address before the port, got {text!r}")
    return name


def _as_ipv4(host: str) -> IPv4Address | None:
    try:
        return IPv4Address(host)
    except AddressValueError:
        return None


def _reachable(ip: IPv4Address | IPv6Address, text: str) -> str:
    reason = _unreachable(ip)
    if reason is not None:
        raise ConfigError(f"expected an address that the other members can reach, got {text!r} ({reason})")
    return str(ip)


def _unreachable(ip: IPv4Address | IPv6Address) -> str | None:
    """Why no peer can send to this address; None if one can."""
    if ip.is_unspecified:
        return "the unspecified address"
    if ip.is_multicast:
        return "a multicast address"
    if isinstance(ip, IPv4Address) and (ip.packed[0] == 0 or ip.packed == b"\xff\xff\xff\xff"):
        return "not the address of one host"
    return None
