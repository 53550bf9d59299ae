"""The dialled connection: its queue, its errors, and when it is dialled again."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from paxmux.engine.options import NetworkOptions
from paxmux.plugins.network import endpoint, outgoing
from paxmux.plugins.network.udp_tcp import UdpTcp
from tests.network_contract import DEADLINE_S, FreePorts, Node, frame_of, until
from tests.network_world import BENCH, alone, closed


def test_old_frames_are_not_sent_to_a_peer_that_comes_back(
    free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "STALE_S", 0.1)

    async def test() -> None:
        ports = free_ports(2)
        one = BENCH.node(1, ports, queue_max_bytes=10_000)
        await one.network.start()
        for _ in range(20):
            one.network.send(2, frame_of(b"old" + bytes(1000)), reliable=True)
        await asyncio.sleep(0.15)
        # Full of old frames, it takes new ones all the same.
        assert one.network.send(2, frame_of(b"new" + bytes(1000)), reliable=True)
        stale = one.counter("drop_stale")
        assert stale == 8
        monkeypatch.setattr(outgoing, "STALE_S", 30)
        two = BENCH.node(2, ports)
        await two.network.start()
        await until(lambda: two.frames, "the new one arrives")
        assert [body[:3] for body in two.bodies()] == [b"new"]
        await two.network.stop()
        await until(lambda: not one.network.peers()[2], "the loss is noticed")
        for _ in range(3):
            assert one.network.send(2, frame_of(b"old again"), reliable=True)
        monkeypatch.setattr(outgoing, "STALE_S", 0.05)
        await asyncio.sleep(0.1)
        two = BENCH.node(2, ports)
        await BENCH.connected(two)
        await until(lambda: one.network.peers()[2], "it reconnects")
        assert one.counter("drop_stale") == stale + 3
        assert one.counter("now_queued_bytes") == 0
        await BENCH.stop(one, two)

    BENCH.run(test)


def test_a_peer_that_speaks_on_our_connection_is_dropped(free_ports: FreePorts) -> None:
    async def test() -> None:
        ports = free_ports(2)
        with socket.create_server(("127.0.0.1", ports[1])) as server:
            server.setblocking(False)
            node = BENCH.node(1, ports)
            await node.network.start()
            loop = asyncio.get_running_loop()
            for _ in range(3):
                connection, _ = await asyncio.wait_for(loop.sock_accept(server), DEADLINE_S)
                await loop.sock_sendall(connection, frame_of(b"not here"))
                assert await closed(connection)
            assert node.frames == []
            assert node.counter("connection_losses") >= 3
            await node.network.stop()

    BENCH.run(test)


def test_nothing_is_watched_for_writing_once_the_queue_is_empty(free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await BENCH.pair(free_ports)
        for _ in range(4):
            assert one.network.send(2, frame_of(bytes(8_000_000)))
        peer = one.network._peers[2]
        assert peer.queued_frames > 0
        await until(lambda: len(two.frames) == 4, "all arrive")
        assert peer.queued_frames == 0
        assert not asyncio.get_running_loop().remove_writer(peer._socket)
        await BENCH.stop(one, two)

    BENCH.run(test)


@pytest.mark.parametrize(
    "host",
    ["fe80::1", "a" * 64, "127.0.0.1"],
    ids=["error-at-once", "no-name", "refused"],
)
def test_errors_of_dialling_stay_inside(
    free_ports: FreePorts, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Weakness L12 of the reference."""

    async def test() -> None:
        ports = free_ports(3)
        node, three = Node(1), Node(3)
        options = NetworkOptions(reconnect_first_ms=1, reconnect_max_ms=5)
        here, there = ("127.0.0.1", ports[0]), ("127.0.0.1", ports[2])
        for one, listen, peers in ((node, here, {2: (host, ports[1]), 3: there}), (three, there, {1: here})):
            one.network = UdpTcp(
                one.node_id, listen, peers, options, 10_000, one.frames.append, lambda *_: None
            )
        await node.network.start()
        assert node.network.send(2, frame_of(b"into the void"))
        await until(lambda: node.counter("connect_failures") > 20, "it tries on")
        await three.network.start()
        await until(lambda: node.network.peers()[3], "the good peer is reached")
        assert not node.network.peers()[2]
        await BENCH.stop(node, three)

    with caplog.at_level(logging.WARNING):
        BENCH.run(test)
    warnings = [record for record in caplog.records if "node 2" in record.getMessage()]
    assert len(warnings) == 1, "only the first failure of a row is worth a warning"


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The dialler's waits, which pass at once."""
    waits: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)
        await real_sleep(0)

    class Asyncio:
        """The module as the dialler sees it."""

        def __getattr__(self, name: str) -> Any:
            return sleep if name == "sleep" else getattr(asyncio, name)

    monkeypatch.setattr(outgoing, "asyncio", Asyncio())
    return waits


def test_back_off_grows_and_is_bounded(free_ports: FreePorts, delays: list[float]) -> None:
    async def test() -> None:
        node, _ = await alone(free_ports, reconnect_first_ms=10, reconnect_max_ms=200)
        await until(lambda: len(delays) > 50, "it tries on")
        await node.network.stop()

    BENCH.run(test)
    for number, delay_s in enumerate(delays):
        full = min(0.01 * 2**number, 0.2)
        assert full / 2 <= delay_s <= full
    assert len(set(delays)) > 40, "without jitter all nodes dial at once"


@pytest.mark.parametrize("steady", [False, True])
def test_only_a_connection_that_held_starts_the_back_off_afresh(
    free_ports: FreePorts,
    delays: list[float],
    steady: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing, "STEADY_S", 0.0 if steady else 60.0)

    async def test() -> None:
        ports = free_ports(2)
        with socket.create_server(("127.0.0.1", ports[1])) as server:
            server.setblocking(False)
            node = BENCH.node(1, ports, reconnect_first_ms=10, reconnect_max_ms=200)
            await node.network.start()
            for _ in range(10):
                connection, _ = await asyncio.wait_for(
                    asyncio.get_running_loop().sock_accept(server), DEADLINE_S
                )
                connection.close()
            await until(lambda: len(delays) >= 10, "it tries on")
            await node.network.stop()

    BENCH.run(test)
    if steady:
        assert max(delays) <= 0.01
    else:
        assert delays[9] >= 0.1


def test_a_socket_connected_to_itself_is_no_connection(
    free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)

    class SamePort(socket.socket):
        """Has by force the local port that the kernel sometimes gives by chance."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            if self.family == socket.AF_INET and self.type == socket.SOCK_STREAM and named == {}:
                self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.bind(("127.0.0.1", port))

    async def test() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(endpoint.socket, "socket", SamePort)
        try:
            with pytest.raises(ConnectionRefusedError, match="itself"):
                await endpoint.dial(loop, ("127.0.0.1", port), socket.AF_INET, 5.0)
        finally:
            monkeypatch.undo()

    asyncio.run(test())
    with socket.create_server(("127.0.0.1", port)):
        pass
