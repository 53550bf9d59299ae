"""Datagram or stream, versions of IP, names, arguments and counters of the UDP and TCP plugin."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

import pytest

from paxmux.engine.frame import MAX_FRAME_BYTES
from paxmux.engine.frame_header import HEADER_BYTES
from paxmux.engine.options import NetworkOptions
from paxmux.plugins.network.counts import Counts
from paxmux.plugins.network.trust import Trust
from paxmux.plugins.network.udp import UdpPort
from paxmux.plugins.network.udp_tcp import UdpTcp
from tests.network_contract import FreePorts, Node, frame_of, until
from tests.network_world import BENCH, client
from tests.test_network_contract import has_ipv6


def test_a_datagram_that_is_refused_goes_by_stream(free_ports: FreePorts) -> None:
    """Weakness B12 of the reference."""

    async def test() -> None:
        one, two = await BENCH.pair(free_ports, udp_max_bytes=70_000)
        body = os.urandom(66_000)
        assert one.network.send(2, frame_of(body))
        await until(lambda: two.frames, "it arrives")
        assert two.bodies() == [body]
        assert one.counter("udp_errors_out") == 1
        assert one.counter("tcp_frames_out") == 1
        await BENCH.stop(one, two)

    BENCH.run(test)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
def test_a_full_datagram_buffer_is_counted(number: int) -> None:
    class Full(socket.socket):
        def sendto(self, *_: Any) -> int:
            raise OSError(number, os.strerror(number))

    counts = Counts()
    with Full(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        port = UdpPort(sock, counts, 1000, lambda _: None, Trust(counts))
        assert not port.send(b"x", ("127.0.0.1", 9))
    assert (counts.udp_full, counts.udp_errors_out, counts.udp_frames_out) == (1, 0, 0)


def test_small_frames_go_by_datagram_and_only_those(free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await BENCH.pair(free_ports, udp_max_bytes=1000)
        for size, reliable in ((0, False), (872, False), (873, False), (10, True)):
            assert one.network.send(2, frame_of(bytes(size)), reliable=reliable)
        await until(lambda: len(two.frames) == 4, "all arrive")
        assert (one.counter("udp_frames_out"), two.counter("udp_frames_in")) == (2, 2)
        assert (one.counter("tcp_frames_out"), two.counter("tcp_frames_in")) == (2, 2)
        assert one.counter("udp_bytes_out") == two.counter("udp_bytes_in") == 1000 + HEADER_BYTES
        assert one.counter("tcp_bytes_out") == two.counter("tcp_bytes_in") == 1001 + HEADER_BYTES + 10
        await BENCH.stop(one, two)

    BENCH.run(test)


def test_udp_off(free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await BENCH.pair(free_ports, udp_max_bytes=0)
        assert one.network.send(2, frame_of(b""))
        await until(lambda: two.frames, "it arrives")
        assert one.counter("udp_frames_out") == 0
        await BENCH.stop(one, two)

    BENCH.run(test)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")
def test_both_versions_of_ip_on_one_port(free_ports: FreePorts) -> None:
    async def test() -> None:
        ports = free_ports(2)
        one, two = Node(1), Node(2)
        hosts = {1: ("::", "::1"), 2: ("127.0.0.1", "127.0.0.1")}
        for node, other in ((one, two), (two, one)):
            listen = (hosts[node.node_id][0], ports[node.node_id - 1])
            # Node 1 listens on everything and is called by its IPv4 address.
            peers = {other.node_id: ("127.0.0.1", ports[other.node_id - 1])}
            node.network = UdpTcp(
                node.node_id, listen, peers, NetworkOptions(), 10_000, node.frames.append, lambda *_: None
            )
        await BENCH.connected(one, two)
        assert one.network.send(2, frame_of(b"datagram"))
        assert two.network.send(1, frame_of(b"datagram"))
        await until(lambda: one.frames and two.frames, "datagrams arrive across versions")
        assert one.counter("udp_frames_in") == two.counter("udp_frames_in") == 1
        sock = await client(ports[0], frame_of(b"by the other version"), host="::1")
        await until(lambda: len(one.frames) == 2, "IPv6 is heard on the same port")
        sock.close()
        await BENCH.stop(one, two)

    BENCH.run(test)


def test_a_name_gets_datagrams_once_the_stream_got_through(free_ports: FreePorts) -> None:
    async def test() -> None:
        ports = free_ports(2)
        node = Node(1)
        node.network = UdpTcp(
            1,
            ("127.0.0.1", ports[0]),
            {2: ("localhost", ports[1])},
            NetworkOptions(reconnect_first_ms=5),
            10_000,
            node.frames.append,
            lambda *_: None,
        )
        two = BENCH.node(2, ports)
        await node.network.start()
        assert node.network.send(2, frame_of(b"early"))
        assert node.counter("udp_frames_out") == 0
        await two.network.start()
        await until(lambda: node.network.peers()[2], "it connects")
        assert node.network.send(2, frame_of(b"late"))
        assert node.counter("udp_frames_out") == 1
        await until(lambda: sorted(two.bodies()) == [b"early", b"late"], "both arrive")
        await BENCH.stop(node, two)

    BENCH.run(test)


def test_an_address_of_nobody_cannot_be_listened_on(free_ports: FreePorts) -> None:
    (port,) = free_ports(1)

    def network(host: str) -> UdpTcp:
        return UdpTcp(1, (host, port), {}, NetworkOptions(), 10_000, lambda _: None, lambda *_: None)

    async def test() -> None:
        for host in ("240.1.2.3", "a" * 64):
            with pytest.raises(OSError, match=f"{host}:{port}"):
                await network(host).start()
        started = network("127.0.0.1")
        await started.start()
        with pytest.raises(RuntimeError, match="once"):
            await started.start()
        await started.stop()

    BENCH.run(test)


@pytest.mark.parametrize(
    ("listen", "peer", "max_frame_bytes", "words"),
    [
        (0, 1, 1000, "port 0"),
        (1, 70_000, 1000, "port 70000"),
        (1, 2, HEADER_BYTES - 1, "max_frame_bytes"),
        (1, 2, MAX_FRAME_BYTES + 1, "max_frame_bytes"),
    ],
)
def test_arguments_that_cannot_be(listen: int, peer: int, max_frame_bytes: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UdpTcp(
            1,
            ("127.0.0.1", listen),
            {2: ("127.0.0.1", peer)},
            NetworkOptions(),
            max_frame_bytes,
            lambda _: None,
            lambda *_: None,
        )


def test_what_callbacks_raise_does_not_end_the_network(free_ports: FreePorts) -> None:
    caught: list[dict[str, Any]] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
        ports = free_ports(2)

        def raising(*_: object) -> None:
            raise RuntimeError("a bug of the caller")

        options = NetworkOptions(reconnect_first_ms=5, reconnect_max_ms=20)
        broken = UdpTcp(
            1, ("127.0.0.1", ports[0]), {2: ("127.0.0.1", ports[1])}, options, 10_000, raising, raising
        )
        for _ in range(2):
            two = BENCH.node(2, ports)
            await broken.start() if not broken._started else None
            await two.network.start()
            await until(lambda: broken.peers()[2], "it connects")
            await until(lambda two=two: two.network.peers()[1], "it is connected to")
            assert broken.send(2, frame_of(b"still here"), reliable=True)
            await until(lambda two=two: two.bodies() == [b"still here"], "it sends")
            assert two.network.send(1, frame_of(b"x"))
            await until(lambda: caught, "the loop is told")
            await two.network.stop()
            await until(lambda: not broken.peers()[2], "the loss is noticed")
        await broken.stop()

    with asyncio.Runner() as runner:
        runner.run(test())
    assert {type(context["exception"]) for context in caught} == {RuntimeError}


def test_counters_are_flat_and_complete(free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await BENCH.pair(free_ports)
        counters = one.network.counters()
        assert all(type(value) is int for value in counters.values())
        assert set(Counts.__slots__) < set(counters)
        assert counters["now_connected"] == 1
        await until(lambda: one.counter("now_incoming") == 1, "the peer's connection is accepted")
        assert counters["connects"] == 1
        await BENCH.stop(one, two)

    BENCH.run(test)
