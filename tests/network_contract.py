"""What every network must do: the tests of `paxmux.engine.network.Network`, run over each plugin.

A subclass says how a network is built, and on which event loop and host it is tried. Counters that
every network has: `drop_*` by reason, `connects`, `connect_failures`, `connection_losses`,
`now_queued_bytes` and `now_queued_frames`.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from paxmux.engine.frame import VERSION, FrameKind, pack_frame, parse_frame, parse_header
from paxmux.engine.frame_header import HEADER_BYTES
from paxmux.engine.network import Network, OnFrame, OnPeer
from paxmux.engine.options import NetworkOptions

Address = tuple[str, int]
FreePorts = Callable[[int], list[int]]

MAX_FRAME_BYTES = 16 * 1024 * 1024
DEADLINE_S = 30.0
"""How long a condition is waited for. It never comes near that unless something is broken."""


def frame_of(body: bytes, sender: int = 1, version: int = VERSION) -> bytes:
    """A good frame."""
    return pack_frame(
        FrameKind.PAXOS,
        body,
        cluster=7,
        sender=sender,
        seat=1,
        incarnation=1,
        dest=2,
        groups=1,
        version=version,
    )


def body_of(frame: bytes) -> bytes:
    """Its body; fails if a bit of the frame is wrong."""
    parse_frame(frame)
    return frame[HEADER_BYTES:]


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, looking again and again."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < end, f"never: {what}"
        await asyncio.sleep(0.002)


def open_descriptors() -> int:
    """Descriptors that this process has open."""
    return len(os.listdir("/proc/self/fd"))


class Node:
    """A network and what it handed up."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self.frames: list[bytes] = []
        self.events: list[tuple[int, bool]] = []
        self.network: Network

    def bodies(self) -> list[bytes]:
        """Bodies of the frames so far."""
        return [body_of(frame) for frame in self.frames]

    def counter(self, name: str) -> int:
        """One counter now."""
        return self.network.counters()[name]

    def drops(self) -> int:
        """Frames dropped, whatever the reason."""
        return sum(count for name, count in self.network.counters().items() if name.startswith("drop_"))


class NetworkContract:
    """Subclass it as `Test...`."""

    host = "127.0.0.1"

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
        """A network that was not started yet."""
        raise NotImplementedError

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop to try it on."""
        return asyncio.new_event_loop()

    def run(self, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a test; whatever the loop had to catch fails it."""
        caught: list[dict[str, Any]] = []

        async def guarded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
            await asyncio.wait_for(test(), 100)

        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(guarded())
        assert not caught, caught

    def node(
        self,
        node_id: int,
        ports: list[int],
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        on_peer: OnPeer | None = None,
        **options: Any,
    ) -> Node:
        """Node `node_id` of the cluster whose node i has port i - 1."""
        options = {"reconnect_first_ms": 5, "reconnect_max_ms": 50, **options}
        node = Node(node_id)

        def tell(peer: int, connected: bool) -> None:
            node.events.append((peer, connected))
            if on_peer is not None:
                on_peer(peer, connected)

        node.network = self.build(
            node_id,
            (self.host, ports[node_id - 1]),
            {i + 1: (self.host, port) for i, port in enumerate(ports)},
            NetworkOptions(**options),
            max_frame_bytes,
            node.frames.append,
            tell,
        )
        return node

    async def connected(self, *nodes: Node) -> None:
        """Start nodes and wait until each has a connection to all peers."""
        for node in nodes:
            await node.network.start()
        for node in nodes:
            await until(lambda node=node: all(node.network.peers().values()), f"node {node.node_id} connects")

    async def pair(self, free_ports: FreePorts, **options: Any) -> tuple[Node, Node]:
        """Two connected nodes."""
        ports = free_ports(2)
        one, two = self.node(1, ports, **options), self.node(2, ports, **options)
        await self.connected(one, two)
        return one, two

    async def stop(self, *nodes: Node) -> None:
        """Stop them."""
        for node in nodes:
            await node.network.stop()

    @pytest.mark.parametrize("reliable", [False, True])
    def test_frames_of_every_size_arrive_intact(self, free_ports: FreePorts, reliable: bool) -> None:
        sizes = [0, 1, 2, 100, 3967, 3968, 3969, 65_000, 65_536, 1_000_000, 8 * 1024 * 1024]

        async def test() -> None:
            one, two = await self.pair(free_ports)
            sent = [os.urandom(size) for size in sizes]
            for number, body in enumerate(sent):
                assert one.network.send(2, frame_of(body), reliable=reliable)
                await until(lambda number=number: len(two.frames) > number, f"{len(body)} bytes arrive")
            assert two.bodies() == sent
            assert two.network.send(1, frame_of(b"back"))
            await until(lambda: one.bodies() == [b"back"], "the answer arrives")
            assert one.drops() == two.drops() == 0
            await self.stop(one, two)

        self.run(test)

    def test_reliable_frames_keep_their_order(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            one, two = await self.pair(free_ports)
            rng = random.Random(5)
            sent = []
            for number in range(3000):
                size = 300_000 if number % 500 == 250 else rng.randrange(2000)
                body = struct.pack("<I", number) + bytes(size)
                sent.append(body)
                assert one.network.send(2, frame_of(body), reliable=True)
            await until(lambda: len(two.frames) == len(sent), "all arrive")
            assert two.bodies() == sent
            assert one.counter("now_queued_bytes") == one.counter("now_queued_frames") == 0
            await self.stop(one, two)

        self.run(test)

    def test_both_directions_and_three_nodes(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(3)
            nodes = [self.node(i, ports) for i in (1, 2, 3)]
            await self.connected(*nodes)
            for node in nodes:
                others = {1, 2, 3} - {node.node_id}
                assert set(node.network.peers()) == others, "a node is no peer of itself"
                for other in others:
                    assert node.network.send(
                        other,
                        frame_of(b"%d to %d" % (node.node_id, other), sender=node.node_id),
                        reliable=True,
                    )
            for node in nodes:
                expected = {b"%d to %d" % (i, node.node_id) for i in {1, 2, 3} - {node.node_id}}
                await until(lambda node=node, expected=expected: set(node.bodies()) == expected, "all arrive")
            await self.stop(*nodes)

        self.run(test)

    def test_peers_come_and_go_while_frames_flow(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(3)
            at = {i + 1: (self.host, port) for i, port in enumerate(ports)}
            nodes = [self.node(i, ports) for i in (1, 2, 3)]
            one, two, three = nodes
            before = open_descriptors()
            one.network.set_peers({1: at[1], 2: at[2]})
            assert set(one.network.peers()) == {2}, "before the start, too"
            await self.connected(*nodes)
            sent = 0

            def flow() -> None:
                nonlocal sent
                for _ in range(10):
                    assert one.network.send(2, frame_of(struct.pack("<I", sent)), reliable=True)
                    sent += 1

            flow()
            assert not one.network.send(3, frame_of(b"unknown"))
            for turn in range(3):
                lost = three.counter("connection_losses")
                one.network.set_peers(at)
                flow()
                assert one.network.send(3, frame_of(b"known"), reliable=True), "it waits for the connection"
                await until(lambda: one.network.peers()[3], "the new peer is connected")
                await until(lambda turn=turn: len(three.frames) == turn + 1, "what waited arrives")
                await until(lambda: three.network.peers()[1], "the other way as well")
                assert three.network.send(1, frame_of(b"from 3", sender=3), reliable=True)
                await until(lambda turn=turn: len(one.frames) == turn + 1, "it is heard")
                one.network.set_peers({2: at[2]})
                flow()
                assert set(one.network.peers()) == {2}
                assert not one.network.send(3, frame_of(b"gone"))
                # A frame that came on it tells whose connection an accepted one is.
                await until(
                    lambda lost=lost: three.counter("connection_losses") > lost, "what it dialled is closed"
                )
            await until(lambda: len(two.frames) == sent, "all arrive")
            assert [struct.unpack("<I", body)[0] for body in two.bodies()] == list(range(sent))
            assert [event for event in one.events if event[0] == 2] == [(2, True)], "not touched"
            await until(lambda: len(one.events) == 7, "each end is told")
            assert [event for event in one.events if event[0] == 3] == [(3, True), (3, False)] * 3
            assert one.drops() == one.counter("drop_unknown_peer") == 4
            await self.stop(*nodes)
            one.network.set_peers(at)
            assert not any(one.network.peers().values())
            assert open_descriptors() == before

        self.run(test)

    def test_a_peer_that_moves_gets_what_waited_for_it(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(4)
            at = [(self.host, port) for port in ports]
            one, two = await self.pair(lambda _: ports[:2])
            three = self.node(3, ports)
            await three.network.start()
            one.network.set_peers({2: at[1], 3: at[2]})
            await until(lambda: all(one.network.peers().values()), "it knows both")
            two_elsewhere = self.node(2, [ports[0], ports[3], ports[2]])
            sent = []
            for number in range(40):
                if number == 10:
                    await until(lambda: len(two.frames) == 10, "those before arrive")
                    await two.network.stop()
                    await until(lambda: not one.network.peers()[2], "the loss is noticed")
                if number == 20:
                    one.network.set_peers({2: at[3], 3: at[2]})
                if number == 30:
                    await two_elsewhere.network.start()
                body = struct.pack("<I", number) + bytes(2000)
                assert one.network.send(2, frame_of(body), reliable=True)
                sent.append(body)
                await asyncio.sleep(0)
            await until(lambda: len(two_elsewhere.frames) == 30, "all arrive at the new address")
            assert two.bodies() + two_elsewhere.bodies() == sent
            # And from a place that still answers.
            lost = two_elsewhere.network
            await self.connected(again := self.node(2, [ports[0], ports[1], ports[2]]))
            one.network.set_peers({2: at[1], 3: at[2]})
            assert not one.network.peers()[2]
            assert one.network.send(2, frame_of(b"back"), reliable=True)
            await until(lambda: again.bodies() == [b"back"], "it is at the old address again")
            assert [event for event in one.events if event[0] == 2] == [
                (2, True),
                *([(2, False), (2, True)] * 2),
            ]
            assert [event for event in one.events if event[0] == 3] == [(3, True)], "not touched"
            assert one.drops() == 0
            await lost.stop()
            await self.stop(one, three, again)

        self.run(test)

    def test_addresses_that_cannot_be_change_nothing(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            one, two = await self.pair(free_ports)
            for port in (0, 65_536):
                with pytest.raises(ValueError, match=f"port {port} of {self.host}"):
                    one.network.set_peers({3: (self.host, port)})
            assert one.network.peers() == {2: True}
            assert one.events == [(2, True)]
            await self.stop(one, two)

        self.run(test)

    def test_unknown_peer_and_too_large_frame_are_refused(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            one, two = await self.pair(free_ports, max_frame_bytes=10_000)
            for dest in (0, 1, 3, 2**64 - 1):
                assert not one.network.send(dest, frame_of(b"x"))
            assert one.counter("drop_unknown_peer") == 4
            assert not one.network.send(2, frame_of(bytes(10_000)))
            assert one.counter("drop_too_large") == 1
            assert one.network.send(2, frame_of(bytes(10_000 - HEADER_BYTES)))
            await until(lambda: two.frames, "the largest frame arrives")
            await self.stop(one, two)
            assert not one.network.send(2, frame_of(b"stopped"))
            assert one.counter("drop_stopped") == 1

        self.run(test)

    def test_two_on_one_port_is_an_error_that_names_the_address(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(2)
            one, other = self.node(1, ports), self.node(1, ports)
            await one.network.start()
            before = open_descriptors()
            with pytest.raises(OSError, match=f"{ports[0]}.*in use"):
                await other.network.start()
            assert open_descriptors() == before
            await self.stop(one, other)

        self.run(test)

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
    def test_a_port_taken_in_one_protocol_is_taken(self, free_ports: FreePorts, kind: int) -> None:
        async def test() -> None:
            ports = free_ports(1)
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            with socket.socket(family, kind) as taken:
                taken.bind((self.host, ports[0]))
                if kind == socket.SOCK_STREAM:
                    taken.listen()
                one = self.node(1, ports)
                with pytest.raises(OSError, match=str(ports[0])):
                    await one.network.start()
                await self.stop(one)

        self.run(test)

    def test_the_port_is_free_after_stop_and_no_descriptor_stays(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(2)
            # The first resolution starts a thread and may open files that stay open.
            await asyncio.get_running_loop().getaddrinfo(self.host, 1)
            before = open_descriptors()
            for _ in range(5):
                one, two = self.node(1, ports), self.node(2, ports)
                await self.connected(one, two)
                for body in (b"small", bytes(3_000_000)):
                    assert one.network.send(2, frame_of(body), reliable=True)
                await until(lambda two=two: two.frames, "a frame arrives")
                await self.stop(one, two)
                assert open_descriptors() == before
                assert not any(one.network.peers().values())
                await self.stop(one)

        self.run(test)

    def test_stop_before_anything_is_reachable(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(3)
            before = open_descriptors()
            one = self.node(1, ports)
            await one.network.stop()
            one = self.node(1, ports)
            await one.network.start()
            await one.network.stop()
            one = self.node(1, ports)
            await one.network.start()
            await until(lambda: one.counter("connect_failures") > 6, "it goes on dialling")
            await one.network.stop()
            assert open_descriptors() == before
            assert one.events == []

        self.run(test)

    def test_a_full_queue_drops_the_newest(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(2)
            one = self.node(1, ports, queue_max_bytes=100_000)
            await one.network.start()
            taken = 0
            for number in range(200):
                if one.network.send(2, frame_of(struct.pack("<I", number) + bytes(10_000))):
                    taken += 1
                else:
                    break
            assert 5 < taken < 11
            assert one.counter("now_queued_bytes") <= 100_000
            for _ in range(10):
                assert not one.network.send(2, frame_of(bytes(10_000)))
            assert one.counter("drop_queue_full") == 11
            two = self.node(2, ports)
            await two.network.start()
            await until(lambda: len(two.frames) >= taken, "what waited arrives")
            assert [struct.unpack_from("<I", body)[0] for body in two.bodies()] == list(range(taken))
            await self.stop(one, two)

        self.run(test)

    def test_a_frame_above_the_queues_bound_passes_an_empty_queue(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            one, two = await self.pair(free_ports, queue_max_bytes=1000)
            body = os.urandom(9_000_000)
            assert one.network.send(2, frame_of(body))
            await until(lambda: two.frames, "it arrives")
            assert two.bodies() == [body]
            await self.stop(one, two)

        self.run(test)

    def test_it_reconnects_after_the_peer_restarts(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(2)
            one, two = self.node(1, ports), self.node(2, ports)
            await self.connected(one, two)
            for life in range(3):
                await two.network.stop()
                await until(lambda: not one.network.peers()[2], "the loss is noticed")
                two = self.node(2, ports)
                await self.connected(two)
                await until(lambda: one.network.peers()[2], "it reconnects")
                assert one.network.send(2, frame_of(b"life %d" % life), reliable=True)
                await until(lambda two=two: two.frames, "a frame arrives")
                assert two.bodies() == [b"life %d" % life]
            assert one.events == [(2, True), *([(2, False), (2, True)] * 3)]
            await self.stop(one, two)
            assert len(one.events) == 7, "nothing is told after stop"

        self.run(test)

    def test_what_is_sent_on_connecting_goes_first(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(2)

            def greet(peer: int, connected: bool) -> None:
                if connected:
                    # Above the bound of the queue, were it added to what waits.
                    assert one.network.send(peer, frame_of(b"hello" + bytes(900)), reliable=True)

            one = self.node(1, ports, on_peer=greet, queue_max_bytes=2000)
            await one.network.start()
            while one.network.send(2, frame_of(b"waited" + bytes(300)), reliable=True):
                pass
            two = self.node(2, ports)
            await two.network.start()
            await until(lambda: len(two.frames) >= 5, "all arrive")
            words = [body.rstrip(b"\0") for body in two.bodies()]
            assert words == [b"hello"] + [b"waited"] * 4
            await self.stop(one, two)

        self.run(test)

    def test_a_peer_that_does_not_read_harms_nobody_else(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(3)
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            with socket.create_server((self.host, ports[2]), family=family) as silent:
                silent.setblocking(False)
                one, two = (self.node(i, ports, queue_max_bytes=2_000_000) for i in (1, 2))
                loop = asyncio.get_running_loop()
                await one.network.start()
                # Before the other one starts: it dials the silent peer too.
                stuck, _ = await asyncio.wait_for(loop.sock_accept(silent), DEADLINE_S)
                await two.network.start()
                await until(lambda: all(one.network.peers().values()), "one is connected to all")
                sent = 0
                while one.network.send(3, frame_of(struct.pack("<I", sent) + bytes(100_000))):
                    sent += 1
                    await asyncio.sleep(0)
                assert one.counter("now_queued_bytes") <= 2_000_000
                for number in range(100):
                    assert one.network.send(2, frame_of(b"%d" % number), reliable=True)
                await until(lambda: len(two.frames) == 100, "others are served")
                # Once it reads, it gets whole frames in order.
                stuck.setblocking(False)
                stream = bytearray()
                size = len(frame_of(bytes(100_004)))
                while len(stream) < sent * size:
                    stream += await asyncio.wait_for(loop.sock_recv(stuck, 1 << 20), DEADLINE_S)
                for number in range(sent):
                    body = body_of(bytes(stream[number * size : (number + 1) * size]))
                    assert struct.unpack_from("<I", body)[0] == number
                await self.stop(one, two)
                stuck.close()

        self.run(test)

    def test_each_connection_starts_with_a_whole_frame(self, free_ports: FreePorts) -> None:
        """A peer that breaks off in the middle of a frame again and again."""

        async def test() -> None:
            ports = free_ports(2)
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            with socket.create_server((self.host, ports[1]), family=family) as server:
                server.setblocking(False)
                one = self.node(1, ports)
                await one.network.start()
                loop = asyncio.get_running_loop()
                for number in range(10):
                    connection, _ = await asyncio.wait_for(loop.sock_accept(server), DEADLINE_S)
                    await until(lambda: one.network.peers()[2], "it knows that it is connected")
                    while one.counter("now_queued_bytes") < 20_000_000:
                        assert one.network.send(2, frame_of(bytes(1_000_000)))
                    start = b""
                    while len(start) < HEADER_BYTES:
                        start += await asyncio.wait_for(loop.sock_recv(connection, 4096), DEADLINE_S)
                    assert parse_header(start).body_length == 1_000_000, f"connection {number}"
                    connection.close()
                    await until(lambda: not one.network.peers()[2], "the loss is noticed")
                assert one.counter("drop_torn") > 0
                await one.network.stop()

        self.run(test)

    def test_a_loss_found_while_sending_loses_no_frame_and_is_told_later(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            ports = free_ports(2)
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            with socket.create_server((self.host, ports[1]), family=family) as server:
                server.setblocking(False)
                one = self.node(1, ports)
                await one.network.start()
                loop = asyncio.get_running_loop()

                async def accept_then_reset() -> None:
                    connection, _ = await asyncio.wait_for(loop.sock_accept(server), DEADLINE_S)
                    await until(lambda: one.network.peers()[2], "it knows that it is connected")
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()

                await accept_then_reset()
                told = list(one.events)
                frame = frame_of(b"saved")
                # No turn of the loop lies between the reset and this: only the system call can tell.
                assert one.network.send(2, frame, reliable=True)
                assert not one.network.peers()[2]
                assert one.events == told == [(2, True)]
                connection, _ = await asyncio.wait_for(loop.sock_accept(server), DEADLINE_S)
                assert await asyncio.wait_for(loop.sock_recv(connection, 4096), DEADLINE_S) == frame
                assert one.events == [(2, True), (2, False), (2, True)]
                connection.close()
                await until(lambda: len(one.events) == 4, "the loss is told")
                await accept_then_reset()
                told = list(one.events)
                assert one.network.send(2, frame, reliable=True)
                assert not one.network.peers()[2]
                await one.network.stop()
                assert one.events == told, "nothing is told after stop"

        self.run(test)

    def test_a_flood_in_both_directions_loses_nothing_reliable(self, free_ports: FreePorts) -> None:
        async def test() -> None:
            one, two = await self.pair(free_ports)
            rng = random.Random(9)
            sent: dict[int, list[bytes]] = {1: [], 2: []}
            for _ in range(60):
                for node, dest in ((one, 2), (two, 1)):
                    for _ in range(20):
                        body = rng.randbytes(rng.choice((10, 1000, 20_000)))
                        sent[dest].append(body)
                        assert node.network.send(dest, frame_of(body, sender=node.node_id), reliable=True)
                await asyncio.sleep(0)
            await until(lambda: len(one.frames) == len(two.frames) == 1200, "all arrive")
            assert one.bodies() == sent[1]
            assert two.bodies() == sent[2]
            await self.stop(one, two)

        self.run(test)
