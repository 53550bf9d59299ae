"""What others may do to a node that listens: bad bytes, slow, mute and many connections."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxmux.engine.frame import MAGIC, MAX_BODY_BYTES
from paxmux.engine.frame_header import HEADER_BYTES
from paxmux.plugins.network import incoming
from paxmux.plugins.network.counts import Counts
from paxmux.plugins.network.incoming import Incoming
from paxmux.plugins.network.trust import Trust
from tests.network_contract import DEADLINE_S, FreePorts, Node, frame_of, until
from tests.network_world import BENCH, alone, client, closed, is_open


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


def test_10000_bad_inputs_over_udp_and_tcp_do_not_stop_it(free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await BENCH.pair(free_ports)
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
        await BENCH.stop(one, two)

    BENCH.run(test)


class Stream:
    """An `Incoming` with one connection that is fed by hand."""

    def __init__(self, max_frame_bytes: int = 5000) -> None:
        self.frames: list[bytes] = []
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        listener = socket.socket()
        counts = Counts()
        self.incoming = Incoming(listener, {1}, counts, max_frame_bytes, self.frames.append, Trust(counts), 2)
        self.loop = asyncio.new_event_loop()
        self.incoming._loop = self.loop
        self.connection = incoming._Connection(self.near, ("test", 0), 0.0, None)
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
    # Of both versions, as behind the hello of a cluster with many groups.
    frames = [frame_of(os.urandom(size), version=1 + size % 2) for size in bodies]
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
    assert stream.incoming.partial_bytes == stream.connection.got == len(stream.connection.partial) == 0
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


def test_an_announced_frame_takes_little_memory_ahead_of_its_arrival() -> None:
    stream = Stream(max_frame_bytes=HEADER_BYTES + MAX_BODY_BYTES)
    header = bytearray(frame_of(b"")[:HEADER_BYTES])
    struct.pack_into("<I", header, 8, MAX_BODY_BYTES)
    stream.feed(bytes(header))
    assert stream.open
    assert stream.connection.need == HEADER_BYTES + MAX_BODY_BYTES
    for _ in range(10):
        stream.feed(bytes(1000))
    assert stream.connection.got == HEADER_BYTES + 10_000
    assert stream.connection.partial.__alloc__() < incoming.ROOM_BYTES + 1000
    stream.close()


def test_bytes_that_continue_a_frame_count_as_well() -> None:
    stream = Stream(max_frame_bytes=100_000)
    stream.incoming.partial_max_bytes = 20_000
    frame = frame_of(bytes(50_000))
    for at in range(0, 20_000, 1000):
        stream.feed(frame[at : at + 1000])
        assert stream.open
    stream.feed(frame[20_000:21_000])
    assert not stream.open
    assert stream.incoming._counts.tcp_evicted == 1
    assert stream.incoming.partial_bytes == 0
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
    most = (incoming.TURN_BYTES + incoming.READ_BYTES) // len(frame)
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


@pytest.mark.usefixtures("impatient")
def test_mute_and_dribbling_connections_are_closed(free_ports: FreePorts) -> None:
    async def test() -> None:
        node, port = await alone(free_ports)
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

    BENCH.run(test)


@pytest.mark.usefixtures("impatient")
def test_silent_strangers_are_closed_and_silent_peers_are_not(free_ports: FreePorts) -> None:
    async def test() -> None:
        node, port = await alone(free_ports)
        peer = await client(port, frame_of(b"from a peer", sender=2))
        stranger = await client(port, frame_of(b"from a stranger", sender=99))
        await until(lambda: len(node.frames) == 2, "frames of strangers are handed up as well")
        assert await closed(stranger)
        assert node.counter("tcp_idle") == 1
        await asyncio.sleep(0.5)
        assert is_open(peer)
        # The time for a frame counts from its own first byte.
        loop, last = asyncio.get_running_loop(), frame_of(b"slow but whole", sender=2)
        await loop.sock_sendall(peer, last[:50])
        await asyncio.sleep(0.1)
        await loop.sock_sendall(peer, last[50:])
        await until(lambda: len(node.frames) == 3, "it arrives")
        assert node.counter("tcp_slow") == 0
        peer.close()
        await node.network.stop()

    BENCH.run(test)


def test_connections_are_bounded_and_strangers_go_first(free_ports: FreePorts) -> None:
    async def test() -> None:
        node, port = await alone(free_ports)
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

    BENCH.run(test)


def test_unfinished_frames_are_bounded_together(free_ports: FreePorts) -> None:
    async def test() -> None:
        node, port = await alone(free_ports, max_frame_bytes=100_000)
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

    BENCH.run(test)


def accept_fails(node: Node, failing: Callable[[], int]) -> None:
    """From now on `accept` of the node fails with what `failing` returns, unless that is 0."""
    watched = node.network._incoming

    class Failing(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            number = failing()
            if number:
                raise OSError(number, os.strerror(number))
            return super().accept()

    loop = asyncio.get_running_loop()
    loop.remove_reader(watched._listener)
    watched._listener = Failing(fileno=watched._listener.detach())
    watched._listener.setblocking(False)
    loop.add_reader(watched._listener, watched._accept)


def test_no_descriptors_left_is_survived(free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses to accept for a while, then accepts again."""
    monkeypatch.setattr(incoming, "ACCEPT_PAUSE_S", 0.05)

    async def test() -> None:
        node, port = await alone(free_ports)
        number = errno.EMFILE
        accept_fails(node, lambda: number)
        waiting = await client(port, frame_of(b"patient"))
        await until(lambda: node.counter("tcp_accept_failures") >= 3, "it is refused")
        await asyncio.sleep(0.3)
        assert node.counter("tcp_accept_failures") < 50, "it rests in between"
        number = 0
        await until(lambda: node.frames, "it is accepted in the end")
        waiting.close()
        await node.network.stop()

    BENCH.run(test)


def test_a_connection_that_is_gone_before_it_is_accepted_is_no_reason_to_rest(
    free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "ACCEPT_PAUSE_S", 2 * DEADLINE_S)

    async def test() -> None:
        node, port = await alone(free_ports)
        numbers = [errno.ECONNABORTED, errno.EPERM]
        accept_fails(node, lambda: numbers.pop() if numbers else 0)
        sock = await client(port, frame_of(b"next"))
        await until(lambda: node.frames, "the next one is accepted")
        assert node.counter("tcp_accept_failures") == 2
        sock.close()
        await node.network.stop()

    BENCH.run(test)
