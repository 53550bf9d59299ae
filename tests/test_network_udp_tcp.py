"""The UDP and TCP plugin against a hostile or broken world, which the contract does not know."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import socket
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxmux.engine.frame import HEADER_BYTES, MAGIC, MAX_BODY_BYTES
from paxmux.engine.options import NetworkOptions
from paxmux.plugins.network import endpoint, incoming, outgoing
from paxmux.plugins.network.counts import Counts
from paxmux.plugins.network.incoming import Incoming
from paxmux.plugins.network.udp import UdpPort
from paxmux.plugins.network.udp_tcp import UdpTcp
from tests.network_contract import (
    DEADLINE_S,
    FreePorts,
    NetworkContract,
    Node,
    frame_of,
    until,
)
from tests.test_network_contract import has_ipv6


class Bench(NetworkContract):
    """Builds nodes; its tests are not run again here."""

    __test__ = False

    def build(self, *arguments: Any) -> UdpTcp:
        return UdpTcp(*arguments)


@pytest.fixture
def bench() -> Bench:
    return Bench()


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


def mutated(rng: random.Random) -> bytes:
    """Bytes that are no frame, or nearly one."""
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(400))
    good = bytearray(frame_of(rng.randbytes(rng.randrange(300))))
    if kind == 1:
        for _ in range(rng.randrange(1, 4)):
            good[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del good[rng.randrange(len(good)) :]
    elif kind == 3:
        struct.pack_into("<I", good, 8, rng.choice((0, 1, 301, 1 << 20, 1 << 31, (1 << 32) - 1)))
    elif kind == 4:
        good += rng.randbytes(rng.randrange(1, 200))
    elif kind == 5:
        good[rng.randrange(HEADER_BYTES) : 0] = rng.randbytes(rng.randrange(1, 20))
    else:
        good = bytearray(MAGIC + rng.randbytes(rng.randrange(300)))
    return bytes(good)


def test_10000_bad_inputs_over_udp_and_tcp_do_not_stop_it(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await bench.pair(free_ports)
        port = two.network._listen[1]
        rng = random.Random(11)
        good = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for number in range(10_000):
                data = mutated(rng)
                if number % 4:
                    udp.sendto(data, ("127.0.0.1", port))
                else:
                    sock = await client(port, rng.choice((b"", frame_of(b"from a stranger"))) + data)
                    sock.close()
                if number % 20 == 0:
                    # Let it read: full buffers would make the test a smaller one than it says.
                    await asyncio.sleep(0)
                if number % 500 == 0:
                    good += 1
                    assert one.network.send(2, frame_of(b"good %d" % good), reliable=True)
                    word = b"good %d" % good
                    await until(lambda word=word: any(word in frame for frame in two.frames), "it arrives")
        await until(lambda: two.counter("now_incoming") <= 1, "only the peer's connection is left")
        counters = two.network.counters()
        assert counters["tcp_bad_header"] > 500
        assert counters["udp_bad_length"] > 500
        assert counters["udp_frames_in"] + counters["udp_bad_length"] > 7000
        assert counters["tcp_accepts"] >= 2500
        assert counters["connection_losses"] == one.counter("connection_losses") == 0
        assert two.network._incoming.partial_bytes == 0
        await bench.stop(one, two)

    bench.run(test)


class Stream:
    """An `Incoming` with one connection that is fed by hand."""

    def __init__(self, max_frame_bytes: int = 5000) -> None:
        self.frames: list[bytes] = []
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        listener = socket.socket()
        self.incoming = Incoming(listener, {1}, 1, Counts(), max_frame_bytes, self.frames.append)
        self.loop = asyncio.new_event_loop()
        self.incoming._loop = self.loop
        self.connection = incoming._Connection(self.near, "test", 0.0)
        self.incoming._connections.add(self.connection)

    def feed(self, data: bytes) -> None:
        self.far.sendall(data)
        self.incoming._readable(self.connection)

    @property
    def open(self) -> bool:
        return len(self.incoming) == 1

    def close(self) -> None:
        self.incoming.close()
        self.far.close()
        self.loop.close()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 4000), min_size=1, max_size=6),
    st.lists(st.integers(1, 3000), min_size=1, max_size=8),
    st.one_of(st.none(), st.binary(min_size=HEADER_BYTES, max_size=200)),
)
def test_frames_are_cut_out_of_any_chunks(bodies: list[int], chunks: list[int], tail: bytes | None) -> None:
    stream = Stream()
    frames = [frame_of(os.urandom(size)) for size in bodies]
    data = b"".join(frames) + (tail or b"")
    at = turn = 0
    while at < len(data) and stream.open:
        size = chunks[turn % len(chunks)]
        stream.feed(data[at : at + size])
        at += size
        turn += 1
    assert stream.frames == frames
    # No tail that hypothesis finds is a header: it would need the magic.
    assert stream.open == (tail is None)
    assert stream.incoming.partial_bytes == len(stream.connection.partial) == 0
    assert stream.incoming._counts.tcp_bad_header == (tail is not None)
    stream.close()


@pytest.mark.parametrize(
    "length", [5000 - HEADER_BYTES + 1, MAX_BODY_BYTES, MAX_BODY_BYTES + 1, (1 << 32) - 1]
)
def test_an_absurd_length_closes_and_allocates_nothing(length: int) -> None:
    stream = Stream()
    header = bytearray(frame_of(b"")[:HEADER_BYTES])
    struct.pack_into("<I", header, 8, length)
    stream.feed(bytes(header[:100]))
    assert stream.open
    stream.feed(bytes(header[100:]) + b"some of the body")
    assert not stream.open
    assert stream.incoming._counts.tcp_bad_header == 1
    assert stream.frames == []
    stream.close()


def test_an_announced_frame_takes_memory_only_as_it_arrives() -> None:
    stream = Stream(max_frame_bytes=HEADER_BYTES + MAX_BODY_BYTES)
    header = bytearray(frame_of(b"")[:HEADER_BYTES])
    struct.pack_into("<I", header, 8, MAX_BODY_BYTES)
    stream.feed(bytes(header))
    assert stream.open
    assert stream.connection.need == HEADER_BYTES + MAX_BODY_BYTES
    for _ in range(10):
        stream.feed(bytes(1000))
    assert len(stream.connection.partial) == HEADER_BYTES + 10_000
    assert stream.connection.partial.__alloc__() < 20_000
    stream.close()


def test_each_wake_up_reads_a_bounded_amount() -> None:
    stream = Stream(max_frame_bytes=HEADER_BYTES + MAX_BODY_BYTES)
    stream.near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    stream.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    frame = frame_of(bytes(100_000))
    stream.far.setblocking(False)
    sent = 0
    try:
        while sent < 60:
            stream.far.sendall(frame)
            sent += 1
    except BlockingIOError:
        pytest.skip("the system gives sockets too little buffer to show it")
    stream.incoming._readable(stream.connection)
    most = incoming.READ_BYTES * incoming.READS_PER_TURN // len(frame)
    assert 0 < len(stream.frames) <= most < sent
    for _ in range(20):
        stream.incoming._readable(stream.connection)
    assert len(stream.frames) == sent
    stream.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules about time, made quick."""
    monkeypatch.setattr(incoming, "SWEEP_S", 0.02)
    monkeypatch.setattr(incoming, "FIRST_FRAME_S", 0.2)
    monkeypatch.setattr(incoming, "FRAME_S", 0.3)
    monkeypatch.setattr(incoming, "STRANGER_IDLE_S", 0.4)


async def alone(bench: Bench, free_ports: FreePorts, **options: Any) -> tuple[Node, int]:
    """A started node whose peer, node 2, does not run."""
    ports = free_ports(2)
    node = bench.node(1, ports, **options)
    await node.network.start()
    return node, ports[0]


@pytest.mark.usefixtures("impatient")
def test_mute_and_dribbling_connections_are_closed(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        node, port = await alone(bench, free_ports)
        loop = asyncio.get_running_loop()

        async def dribble() -> bool:
            """A good frame, a byte at a time: it never becomes whole."""
            sock = await client(port)
            for byte in frame_of(bytes(100_000)):
                try:
                    await loop.sock_sendall(sock, bytes([byte]))
                except OSError:
                    break
                await asyncio.sleep(0.005)
            return await closed(sock)

        mute = closed(await client(port))
        begun = closed(await client(port, frame_of(b"whole") + frame_of(bytes(5000))[:4000]))
        assert all(await asyncio.gather(mute, begun, dribble()))
        assert node.counter("tcp_slow") == 3
        assert node.bodies() == [b"whole"]
        await node.network.stop()

    bench.run(test)


@pytest.mark.usefixtures("impatient")
def test_silent_strangers_are_closed_and_silent_peers_are_not(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        node, port = await alone(bench, free_ports)
        peer = await client(port, frame_of(b"from a peer", sender=2))
        stranger = await client(port, frame_of(b"from a stranger", sender=99))
        await until(lambda: len(node.frames) == 2, "frames of strangers are handed up as well")
        assert await closed(stranger)
        assert node.counter("tcp_idle") == 1
        await asyncio.sleep(0.5)
        assert is_open(peer)
        assert node.counter("tcp_slow") == 0
        peer.close()
        await node.network.stop()

    bench.run(test)


def test_connections_are_bounded_and_strangers_go_first(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        node, port = await alone(bench, free_ports)
        most = node.network._incoming.connections_max
        assert most == 8 + 32
        peer = await client(port, frame_of(b"peer", sender=2))
        await until(lambda: node.frames, "the peer's frame arrives")
        strangers = []
        for number in range(3 * most):
            strangers.append(await client(port, frame_of(b"%d" % number, sender=99)))
            await until(lambda number=number: len(node.frames) == number + 2, "the frame arrives")
            assert node.counter("now_incoming") <= most
        assert node.counter("tcp_evicted") == 2 * most + 1
        assert is_open(peer)
        assert [is_open(sock) for sock in strangers] == [False] * (2 * most + 1) + [True] * (most - 1)
        for sock in (peer, *strangers):
            sock.close()
        await node.network.stop()

    bench.run(test)


def test_unfinished_frames_are_bounded_together(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        node, port = await alone(bench, free_ports, max_frame_bytes=100_000)
        assert node.network._incoming.partial_max_bytes == 300_000
        peer = await client(port, frame_of(b"peer", sender=2) + frame_of(bytes(90_000), sender=2)[:80_000])
        await until(lambda: node.frames, "the peer's frame arrives")
        strangers = []
        for _ in range(8):
            strangers.append(await client(port, frame_of(bytes(99_000))[:70_000]))
            await asyncio.sleep(0.01)
            assert node.network._incoming.partial_bytes <= 300_000
        await until(lambda: node.counter("tcp_evicted") >= 5, "strangers are closed")
        assert is_open(peer)
        await asyncio.get_running_loop().sock_sendall(peer, frame_of(bytes(90_000), sender=2)[80_000:])
        await until(lambda: node.bodies() == [b"peer", bytes(90_000)], "the peer's frame is whole")
        for sock in (peer, *strangers):
            sock.close()
        await until(lambda: node.network._incoming.partial_bytes == 0, "nothing is kept of the closed")
        await node.network.stop()

    bench.run(test)


def test_no_descriptors_left_is_survived(
    bench: Bench, free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses to accept for a while, then accepts again."""
    monkeypatch.setattr(incoming, "ACCEPT_PAUSE_S", 0.05)

    async def test() -> None:
        node, port = await alone(bench, free_ports)
        refusing = True

        class Exhausted(socket.socket):
            def accept(self) -> tuple[socket.socket, Any]:
                if refusing:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                return super().accept()

        watched = node.network._incoming
        loop = asyncio.get_running_loop()
        loop.remove_reader(watched._listener)
        real = watched._listener
        watched._listener = Exhausted(fileno=real.detach())
        watched._listener.setblocking(False)
        loop.add_reader(watched._listener, watched._accept)
        waiting = await client(port, frame_of(b"patient"))
        await until(lambda: node.counter("tcp_accept_failures") >= 3, "it is refused")
        assert node.counter("tcp_accept_failures") < 1000, "it rests in between"
        refusing = False
        await until(lambda: node.frames, "it is accepted in the end")
        waiting.close()
        await node.network.stop()

    bench.run(test)


def test_old_frames_are_not_sent_to_a_peer_that_comes_back(
    bench: Bench, free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "STALE_S", 0.1)

    async def test() -> None:
        ports = free_ports(2)
        one = bench.node(1, ports, queue_max_bytes=10_000)
        await one.network.start()
        for _ in range(20):
            one.network.send(2, frame_of(b"old" + bytes(1000)), reliable=True)
        await asyncio.sleep(0.15)
        # Full of old frames, it takes new ones all the same.
        assert one.network.send(2, frame_of(b"new" + bytes(1000)), reliable=True)
        stale = one.counter("drop_stale")
        assert stale == 8
        monkeypatch.setattr(outgoing, "STALE_S", 30)
        two = bench.node(2, ports)
        await two.network.start()
        await until(lambda: two.frames, "the new one arrives")
        assert [body[:3] for body in two.bodies()] == [b"new"]
        await two.network.stop()
        await until(lambda: not one.network.peers()[2], "the loss is noticed")
        for _ in range(3):
            assert one.network.send(2, frame_of(b"old again"), reliable=True)
        monkeypatch.setattr(outgoing, "STALE_S", 0.05)
        await asyncio.sleep(0.1)
        two = bench.node(2, ports)
        await bench.connected(two)
        await until(lambda: one.network.peers()[2], "it reconnects")
        assert one.counter("drop_stale") == stale + 3
        assert one.counter("now_queued_bytes") == 0
        await bench.stop(one, two)

    bench.run(test)


def test_a_datagram_that_is_refused_goes_by_stream(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await bench.pair(free_ports, udp_max_bytes=70_000)
        body = os.urandom(66_000)
        assert one.network.send(2, frame_of(body))
        await until(lambda: two.frames, "it arrives")
        assert two.bodies() == [body]
        assert one.counter("udp_errors_out") == 1
        assert one.counter("tcp_frames_out") == 1
        await bench.stop(one, two)

    bench.run(test)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS])
def test_a_full_datagram_buffer_is_counted(number: int) -> None:
    class Full(socket.socket):
        def sendto(self, *_: Any) -> int:
            raise OSError(number, os.strerror(number))

    counts = Counts()
    with Full(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        port = UdpPort(sock, counts, 1000, lambda _: None)
        assert not port.send(b"x", ("127.0.0.1", 9))
    assert (counts.udp_full, counts.udp_errors_out, counts.udp_frames_out) == (1, 0, 0)


def test_small_frames_go_by_datagram_and_only_those(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await bench.pair(free_ports, udp_max_bytes=1000)
        for size, reliable in ((0, False), (872, False), (873, False), (10, True)):
            assert one.network.send(2, frame_of(bytes(size)), reliable=reliable)
        await until(lambda: len(two.frames) == 4, "all arrive")
        assert (one.counter("udp_frames_out"), two.counter("udp_frames_in")) == (2, 2)
        assert (one.counter("tcp_frames_out"), two.counter("tcp_frames_in")) == (2, 2)
        assert one.counter("udp_bytes_out") == two.counter("udp_bytes_in") == 1000 + HEADER_BYTES
        assert one.counter("tcp_bytes_out") == two.counter("tcp_bytes_in") == 1001 + HEADER_BYTES + 10
        await bench.stop(one, two)

    bench.run(test)


def test_udp_off(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await bench.pair(free_ports, udp_max_bytes=0)
        assert one.network.send(2, frame_of(b""))
        await until(lambda: two.frames, "it arrives")
        assert one.counter("udp_frames_out") == 0
        await bench.stop(one, two)

    bench.run(test)


def test_a_peer_that_speaks_on_our_connection_is_dropped(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        ports = free_ports(2)
        with socket.create_server(("127.0.0.1", ports[1])) as server:
            server.setblocking(False)
            node = bench.node(1, ports)
            await node.network.start()
            loop = asyncio.get_running_loop()
            for _ in range(3):
                connection, _ = await asyncio.wait_for(loop.sock_accept(server), DEADLINE_S)
                await loop.sock_sendall(connection, frame_of(b"not here"))
                assert await closed(connection)
            assert node.frames == []
            assert node.counter("connection_losses") >= 3
            await node.network.stop()

    bench.run(test)


@pytest.mark.parametrize(
    "host",
    ["fe80::1", "a" * 64, "127.0.0.1"],
    ids=["error-at-once", "no-name", "refused"],
)
def test_errors_of_dialling_stay_inside(
    bench: Bench, free_ports: FreePorts, host: str, caplog: pytest.LogCaptureFixture
) -> None:
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
        await bench.stop(node, three)

    with caplog.at_level(logging.WARNING):
        bench.run(test)
    warnings = [record for record in caplog.records if "node 2" in record.getMessage()]
    assert len(warnings) == 1, "only the first failure of a row is worth a warning"


def test_back_off_grows_and_is_bounded(
    bench: Bench, free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(delay_s: float) -> None:
        delays.append(delay_s)
        await real_sleep(0)

    class Asyncio:
        """The module as the dialler sees it, with sleeps that only count."""

        def __getattr__(self, name: str) -> Any:
            return sleep if name == "sleep" else getattr(asyncio, name)

    monkeypatch.setattr(outgoing, "asyncio", Asyncio())

    async def test() -> None:
        node, _ = await alone(bench, free_ports, reconnect_first_ms=10, reconnect_max_ms=200)
        await until(lambda: len(delays) > 50, "it tries on")
        await node.network.stop()

    bench.run(test)
    for number, delay_s in enumerate(delays):
        full = min(0.01 * 2**number, 0.2)
        assert full / 2 <= delay_s <= full
    assert len(set(delays)) > 40, "without jitter all nodes dial at once"


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


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 loopback")
def test_both_versions_of_ip_on_one_port(bench: Bench, free_ports: FreePorts) -> None:
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
        await bench.connected(one, two)
        assert one.network.send(2, frame_of(b"datagram"))
        assert two.network.send(1, frame_of(b"datagram"))
        await until(lambda: one.frames and two.frames, "datagrams arrive across versions")
        assert one.counter("udp_frames_in") == two.counter("udp_frames_in") == 1
        sock = await client(ports[0], frame_of(b"by the other version"), host="::1")
        await until(lambda: len(one.frames) == 2, "IPv6 is heard on the same port")
        sock.close()
        await bench.stop(one, two)

    bench.run(test)


def test_a_name_gets_datagrams_once_the_stream_got_through(bench: Bench, free_ports: FreePorts) -> None:
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
        two = bench.node(2, ports)
        await node.network.start()
        assert node.network.send(2, frame_of(b"early"))
        assert node.counter("udp_frames_out") == 0
        await two.network.start()
        await until(lambda: node.network.peers()[2], "it connects")
        assert node.network.send(2, frame_of(b"late"))
        assert node.counter("udp_frames_out") == 1
        await until(lambda: sorted(two.bodies()) == [b"early", b"late"], "both arrive")
        await bench.stop(node, two)

    bench.run(test)


def test_an_address_of_nobody_cannot_be_listened_on(bench: Bench, free_ports: FreePorts) -> None:
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

    bench.run(test)


@pytest.mark.parametrize(
    ("listen", "peer", "max_frame_bytes", "words"),
    [
        (0, 1, 1000, "port 0"),
        (1, 70_000, 1000, "port 70000"),
        (1, 2, HEADER_BYTES - 1, "max_frame_bytes"),
        (1, 2, HEADER_BYTES + MAX_BODY_BYTES + 1, "max_frame_bytes"),
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


def test_what_callbacks_raise_does_not_end_the_network(bench: Bench, free_ports: FreePorts) -> None:
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
            two = bench.node(2, ports)
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


def test_counters_are_flat_and_complete(bench: Bench, free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await bench.pair(free_ports)
        counters = one.network.counters()
        assert all(type(value) is int for value in counters.values())
        assert set(Counts.__slots__) < set(counters)
        assert counters["now_connected"] == 1
        await until(lambda: one.counter("now_incoming") == 1, "the peer's connection is accepted")
        assert counters["connects"] == 1
        await bench.stop(one, two)

    bench.run(test)
