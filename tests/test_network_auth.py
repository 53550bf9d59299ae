"""The network with a secret, over real sockets: strangers, men in the middle, rotation."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from paxmux.engine.network import Network
from paxmux.engine.options import NetworkOptions
from paxmux.engine.secret_file import Keys, keys_of
from paxmux.plugins.network import endpoint, incoming
from paxmux.plugins.network.direct import DirectUdp
from paxmux.plugins.network.handshake import Dialler, Listener
from paxmux.plugins.network.seal import DatagramSeal
from paxmux.plugins.network.session import Session
from paxmux.plugins.network.udp_tcp import UdpTcp
from tests.network_contract import FreePorts, Node, frame_of, until
from tests.test_network_contract import TestUdpTcp as _Contract
from tests.wire_tap import WireTap

OLD, NEW, OTHER = (keys_of(letter * 40) for letter in (b"a", b"b", b"c"))


class Bench(_Contract):
    """Builds nodes that know `OLD`; its tests are run by who derives from it."""

    __test__ = False

    def build(self, *arguments: Any) -> Network:
        network = UdpTcp(*arguments)
        network.set_keys([OLD])
        return network


BENCH = Bench()


def other_node(node_id: int, ports: list[int], keys: Sequence[Keys], **options: Any) -> Node:
    """A node with other secrets, or none."""
    node = _Contract().node(node_id, ports, **options)
    if keys:
        node.network.set_keys(keys)
    return node


async def knock(port: int, data: bytes) -> bytes:
    """What a node answers to a stranger before it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_nothing_but_what_is_sealed_is_heard_by_datagram(free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await BENCH.pair(free_ports)
        port = int(two.network._listen[1])  # type: ignore[attr-defined]
        good = DatagramSeal([OLD]).seal(frame_of(b"good"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            forged = [frame_of(b"plain"), frame_of(b"plain") + bytes(16), good[:-1], good[1:]]
            forged.append(DatagramSeal([OTHER]).seal(frame_of(b"other")))
            forged += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
            for datagram in forged:
                sock.sendto(datagram, ("127.0.0.1", port))
            sock.sendto(good, ("127.0.0.1", port))
            await until(lambda: two.frames, "the good one arrives")
        assert two.bodies() == [b"good"]
        assert two.counter("drop_auth") + two.counter("udp_bad_length") == len(forged)
        assert two.counter("udp_bad_length") == 1, "a frame without a body and without a seal is too short"
        await BENCH.stop(one, two)

    BENCH.run(test)


@pytest.mark.parametrize("keys", [[], [OTHER]])
def test_who_has_another_secret_or_none_is_not_heard_and_hears_nothing(
    keys: list[Keys],
    free_ports: FreePorts,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(endpoint, "HANDSHAKE_S", 0.1)

    async def test() -> None:
        ports = free_ports(2)
        one, two = BENCH.node(1, ports), other_node(2, ports, keys)
        await one.network.start()
        await two.network.start()
        await until(lambda: one.counter("connect_failures") > 2, "node 1 gets nowhere")
        for _ in range(5):
            one.network.send(2, frame_of(b"small"))
            two.network.send(1, frame_of(b"small", 2))
            two.network.send(1, frame_of(bytes(10_000), 2))
            one.network.send(2, frame_of(bytes(10_000)))
            await asyncio.sleep(0.05)
        await until(lambda: one.counter("drop_auth") > 5, "strangers are counted")
        assert one.frames == []
        assert not any(one.network.peers().values())
        if keys:
            assert two.frames == []
            assert two.counter("drop_auth")
            assert not any(two.network.peers().values())
        await BENCH.stop(one, two)

    BENCH.run(test)
    warned = [record.getMessage() for record in caplog.records if "refused: " in record.getMessage()]
    assert 1 <= len(warned) <= 4, "each source once, at either node"


def test_nothing_is_said_before_the_proof_and_little_after(free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await BENCH.pair(free_ports)
        port = int(two.network._listen[1])  # type: ignore[attr-defined]
        # As a node without a secret begins, and anything else that is no call.
        assert await knock(port, frame_of(b"hello")) == b""
        assert await knock(port, bytes(64)) == b""
        assert await knock(port, Dialler(OTHER, 1, 2).call) == b""
        assert await knock(port, Dialler(OLD, 1, 7).call) == b""
        # A call can be heard and repeated by anybody; its answer is of no use without the secret.
        answer = await knock(port, Dialler(OLD, 1, 2).call + bytes(32) + frame_of(b"hello"))
        assert len(answer) in (0, 72)
        assert two.frames == []
        assert two.counter("drop_auth") == 5
        assert two.counter("tcp_proofs") == 1, "that of node 1"
        await BENCH.stop(one, two)

    BENCH.run(test)


def test_who_proves_nothing_is_cut_off_in_time_and_in_number(
    free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "HANDSHAKE_S", 0.2)
    monkeypatch.setattr(incoming, "SWEEP_S", 0.05)
    monkeypatch.setattr(incoming, "UNPROVED_MAX", 5)

    async def test() -> None:
        ports = free_ports(2)
        two = BENCH.node(2, ports)
        await two.network.start()
        opened = [await asyncio.open_connection("127.0.0.1", ports[1]) for _ in range(20)]
        for number, (_, writer) in enumerate(opened):
            # Some say nothing, some a little, some all but the proof.
            writer.write(Dialler(OLD, 1, 2).call[: 32 * (number % 3)])
        assert two.counter("now_incoming") <= 5
        await until(lambda: two.counter("now_incoming") == 0, "all are closed")
        assert two.counter("tcp_evicted") + two.counter("drop_auth") == 20
        one = BENCH.node(1, ports)
        await BENCH.connected(one)
        for _, writer in opened:
            writer.close()
        await BENCH.stop(one, two)

    BENCH.run(test)


def test_a_node_speaks_for_itself_alone(free_ports: FreePorts) -> None:
    async def test() -> None:
        ports = free_ports(2)
        two = BENCH.node(2, ports)
        await two.network.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", ports[1])
        dialler = Dialler(OLD, 1, 2)
        writer.write(dialler.call)
        proof, session = dialler.answered(await reader.readexactly(72))
        writer.write(proof)
        for frame in (frame_of(b"mine", 1), frame_of(b"not mine", 3), frame_of(b"after", 1)):
            writer.write(frame + session.tag(frame))
        assert await reader.read() == b"", "it is closed"
        assert two.bodies() == [b"mine"]
        assert two.counter("drop_auth") == 1
        writer.close()
        await BENCH.stop(two)

    BENCH.run(test)


@pytest.mark.parametrize("size", [10, 5000, 300_000])
def test_a_man_in_the_middle_can_only_cut(size: int, free_ports: FreePorts) -> None:
    async def test() -> None:
        tapped, first, second = free_ports(3)
        tap = WireTap(tapped, second)
        await tap.start()
        one, two = BENCH.node(1, [first, tapped]), BENCH.node(2, [first, second])
        await BENCH.connected(two, one)

        async def passes(what: str) -> None:
            before = len(two.frames)
            loop = asyncio.get_running_loop()
            again_at = loop.time()

            def arrives() -> bool:
                # What was sent before it was known that the connection is cut is lost with it.
                nonlocal again_at
                if one.network.peers()[2] and loop.time() >= again_at:
                    assert one.network.send(2, frame_of(bytes(size)), reliable=True)
                    again_at = loop.time() + 0.3
                return len(two.frames) > before

            await until(arrives, what)
            assert two.bodies()[-1] == bytes(size)

        await passes("through the tap")
        heard = bytes(tap.forth[-1])
        frame_bytes = len(frame_of(bytes(size))) + 16

        # Something put in: a frame again, one without a tag, one with a tag of his own.
        own = frame_of(bytes(size))
        for data in (heard[-frame_bytes:], own, own + Session(bytes(32), poly=True).tag(own)):
            drops, frames = two.counter("drop_auth"), len(two.frames)
            tap.inject(data + bytes(frame_bytes))
            await until(lambda drops=drops: two.counter("drop_auth") > drops, "it is refused")
            assert len(two.frames) == frames
            await passes("after that")

        # Something changed, in a body and in a header that still makes sense.
        for at in (size // 2 + 128, 60, frame_bytes - 1):
            passed = 0

            def change(data: bytes, at: int = at) -> bytes:
                nonlocal passed
                here, passed = at - passed, passed + len(data)
                if not 0 <= here < len(data):
                    return data
                return data[:here] + bytes([data[here] ^ 4]) + data[here + 1 :]

            refused, frames = two.counter("drop_auth") + two.counter("tcp_bad_header"), len(two.frames)
            tap.change_forth = change
            one.network.send(2, frame_of(bytes(size)), reliable=True)
            await until(
                lambda refused=refused: two.counter("drop_auth") + two.counter("tcp_bad_header") > refused,
                "it is refused",
            )
            tap.change_forth = bytes
            assert len(two.frames) == frames
            await passes("after that")

        # The whole of an earlier connection again.
        frames = len(two.frames)
        assert len(await knock(second, heard)) in (0, 72)
        assert len(two.frames) == frames
        # A handshake that somebody changes on the way comes to nothing, at either end.
        tap.change_back = lambda data: data[:-1] + bytes([data[-1] ^ 1])
        failures = one.counter("connect_failures")
        tap.cut()
        await until(lambda: one.counter("connect_failures") > failures, "the answer is not believed")
        tap.change_back = bytes
        await passes("after that")
        # One who swallows frames, and passes the next ones on.
        frames, heard_bytes = len(two.frames), len(tap.forth[-1])
        tap.change_forth = lambda _: b""
        one.network.send(2, frame_of(bytes(size)), reliable=True)
        await until(lambda: len(tap.forth[-1]) == heard_bytes + frame_bytes, "it is swallowed")
        tap.change_forth = bytes
        drops = two.counter("drop_auth")
        one.network.send(2, frame_of(bytes(size)), reliable=True)
        await until(lambda: two.counter("drop_auth") > drops, "a frame is missing before it")
        assert len(two.frames) == frames
        await passes("after that")
        await BENCH.stop(one, two)
        await tap.stop()

    BENCH.run(test)


def test_a_frame_sent_back_to_its_sender_is_not_from_his_peer(free_ports: FreePorts) -> None:
    async def test() -> None:
        tapped, first, second = free_ports(3)
        tap = WireTap(tapped, second)
        await tap.start()
        one, two = BENCH.node(1, [first, tapped]), BENCH.node(2, [first, second])
        await BENCH.connected(two, one)
        assert one.network.send(2, frame_of(b"datagram"))
        await until(lambda: two.frames, "it arrives")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(tap.datagrams[0], ("127.0.0.1", first))
            await until(lambda: one.frames, "it is sealed well: the router sees for whom it is")
        assert one.frames == two.frames == [frame_of(b"datagram")]
        # By stream: what node 1 said as a dialler is nothing that it takes as a listener.
        assert await knock(first, bytes(tap.forth[0])) == b""
        assert len(one.frames) == 1
        await BENCH.stop(one, two)
        await tap.stop()

    BENCH.run(test)


def test_a_rotation_under_load_loses_nothing(free_ports: FreePorts) -> None:
    steps: list[list[Keys]] = [[OLD, NEW], [NEW, OLD], [NEW]]
    sizes = (10, 6000, 50_000)

    async def test() -> None:
        one, two = await BENCH.pair(free_ports)
        sent = 0
        direct = DirectUdp({2: two.network._listen}, NetworkOptions())  # type: ignore[attr-defined]
        direct.set_keys([OLD])

        async def load(count: int) -> None:
            nonlocal sent
            for _ in range(count):
                size = sizes[sent % len(sizes)]
                body = sent.to_bytes(8, "little") + bytes(size)
                assert one.network.send(2, frame_of(body), reliable=size > 10)
                sent += 1
                if sent % 7 == 0:
                    assert direct.send(2, frame_of(sent.to_bytes(8, "little") + b"direct"))
                    sent += 1
                if sent % 20 == 0:
                    await asyncio.sleep(0)

        await load(200)
        for keys in steps:
            for node in (one, two):
                node.network.set_keys(keys)
                await load(100)
                if node is one:
                    direct.set_keys(keys)
                await load(100)
            await until(lambda: one.network.peers()[2], "connected by the new keys")
            await until(lambda: two.network.peers()[1], "connected by the new keys")
        await until(lambda: len(two.frames) >= sent, "all have arrived")
        numbers = sorted(int.from_bytes(body[:8], "little") for body in two.bodies())
        assert len(set(numbers)) == len(numbers) == sent
        assert two.counter("drop_auth") == one.counter("drop_auth") == 0
        # The old one is worth nothing any more.
        stranger = other_node(1, [one.network._listen[1], two.network._listen[1]], [OLD])  # type: ignore[attr-defined]
        await one.network.stop()
        await stranger.network.start()
        await until(lambda: two.counter("drop_auth") > 0, "it is refused")
        direct.close()
        await BENCH.stop(two, stranger)

    BENCH.run(test)


def test_what_was_proved_by_a_secret_that_is_gone_is_closed(free_ports: FreePorts) -> None:
    async def test() -> None:
        one, two = await BENCH.pair(free_ports)
        two.network.set_keys([NEW])
        await until(lambda: not one.network.peers()[2], "the connection is closed")
        one.network.set_keys([NEW])
        await until(lambda: one.network.peers()[2], "there is a new one")
        with pytest.raises(ValueError, match="as before"):
            one.network.set_keys([])
        await BENCH.stop(one, two)

    BENCH.run(test)


def test_a_network_without_a_secret_cannot_get_one_while_it_runs(free_ports: FreePorts) -> None:
    async def test() -> None:
        node = _Contract().node(1, free_ports(2))
        await node.network.start()
        with pytest.raises(ValueError, match="without a secret"):
            node.network.set_keys([OLD])
        await node.network.stop()

    BENCH.run(test)


def test_one_node_has_few_connections(free_ports: FreePorts) -> None:
    async def test() -> None:
        ports = free_ports(2)
        two = BENCH.node(2, ports)
        await two.network.start()
        opened = []
        for _ in range(12):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[1])
            dialler = Dialler(OLD, 1, 2)
            writer.write(dialler.call)
            writer.write(dialler.answered(await reader.readexactly(72))[0])
            opened.append(writer)
        await until(lambda: two.counter("tcp_proofs") == 12, "all have proved themselves")
        assert two.counter("now_incoming") == incoming.PROVED_MAX
        for writer in opened:
            writer.close()
        await BENCH.stop(two)

    BENCH.run(test)


def test_beyond_this_machine_nothing_is_dialled_without_a_secret(
    free_ports: FreePorts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def test() -> None:
        for keys, insecure, refused in (([], False, True), ([], True, False), ([OLD], False, False)):
            caplog.clear()
            network = UdpTcp(
                1,
                ("127.0.0.1", free_ports(1)[0]),
                # For documentation: nobody has it.
                {2: ("192.0.2.1", 9)},
                NetworkOptions(insecure=insecure, reconnect_first_ms=5, reconnect_max_ms=5),
                10_000,
                lambda _: None,
                lambda *_: None,
            )
            if keys:
                network.set_keys(keys)
            await network.start()
            if refused:
                await until(lambda network=network: network.counters()["connect_failures"] > 1, "it fails")
                assert "network.secret_file" in caplog.text
            await network.stop()
            assert refused or "network.secret_file" not in caplog.text

    BENCH.run(test)


def test_a_listener_is_good_for_one_call() -> None:
    listener = Listener([OLD], 2)
    listener.called(Dialler(OLD, 1, 2).call)
    assert listener.expects == 32
