"""The contract of a network over the UDP and TCP plugin: both event loops, both versions of IP."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from paxmux.engine.network import Network, OnFrame, OnPeer
from paxmux.engine.options import NetworkOptions
from paxmux.engine.secret_file import keys_of
from paxmux.plugins.network.udp_tcp import UdpTcp
from tests.network_contract import Address, NetworkContract


def has_ipv6() -> bool:
    """Whether this system has an IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class TestUdpTcp(NetworkContract):
    """On asyncio's own loop."""

    def build(
        self,
        node_id: int,
        listen: Address,
        peers: dict[int, Address],
        options: NetworkOptions,
        max_frame_bytes: int,
        on_frame: OnFrame,
        on_peer: OnPeer,
    ) -> Network:
        return UdpTcp(node_id, listen, peers, options, max_frame_bytes, on_frame, on_peer)


class TestUdpTcpOnUvloop(TestUdpTcp):
    """On uvloop, where it is installed."""

    def new_loop(self) -> asyncio.AbstractEventLoop:
        uvloop = pytest.importorskip("uvloop")
        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")
class TestUdpTcpOverIPv6(TestUdpTcp):
    """Over the other version of IP."""

    host = "::1"


class TestUdpTcpByName(TestUdpTcp):
    """With a host name that is resolved."""

    host = "localhost"


class TestUdpTcpWithASecret(TestUdpTcp):
    """With everything authenticated. The peers of some tests are bare sockets, which prove nothing."""

    test_a_peer_that_does_not_read_harms_nobody_else = None  # type: ignore[assignment]
    test_each_connection_starts_with_a_whole_frame = None  # type: ignore[assignment]
    test_a_loss_found_while_sending_loses_no_frame_and_is_told_later = None  # type: ignore[assignment]

    def build(self, *arguments: Any) -> Network:
        network = UdpTcp(*arguments)
        network.set_keys([keys_of(bytes(40)), keys_of(b"x" * 40)])
        return network
