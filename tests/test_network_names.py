"""Peers known by name: a name leads somewhere else after a while, and frames follow."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from paxmux.engine.options import NetworkOptions
from paxmux.plugins.network import outgoing
from paxmux.plugins.network.udp_tcp import UdpTcp
from tests.network_contract import FreePorts, Node, frame_of, until
from tests.network_world import BENCH

NAME = "paxmux-1.example"
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


class Resolver:
    """Answers for one name as the test says; everything else is as ever."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answers: list[str] = []
        """Without any, it fails as a resolver that nobody answers."""
        self.asked = 0
        self._real = loop.getaddrinfo
        loop.getaddrinfo = self._getaddrinfo  # type: ignore[method-assign,assignment]

    async def _getaddrinfo(self, host: Any, port: Any, **named: Any) -> list[Any]:
        if host != NAME:
            return await self._real(host, port, **named)
        self.asked += 1
        if not self.answers:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, port)) for answer in self.answers]


def node(node_id: int, listen: tuple[str, int], peers: dict[int, tuple[str, int]]) -> Node:
    made = Node(node_id)
    options = NetworkOptions(reconnect_first_ms=5, reconnect_max_ms=50)
    made.network = UdpTcp(
        node_id,
        listen,
        peers,
        options,
        1_000_000,
        made.frames.append,
        lambda peer, connected: made.events.append((peer, connected)),
    )
    return made


async def arrives(one: Node, other: Node, reliable: bool) -> None:
    """A frame from node 1 to this life of node 2."""
    body = b"frame %d" % len(other.frames)
    assert one.network.send(2, frame_of(body), reliable=reliable)
    await until(lambda: body in other.bodies(), "it arrives")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "RESOLVE_EVERY_S", 0.02)


def test_a_peer_that_comes_back_with_another_address_is_found(free_ports: FreePorts) -> None:
    """As a pod of a StatefulSet does."""

    async def test() -> None:
        here, there = free_ports(2)
        resolver = Resolver(asyncio.get_running_loop())
        one = node(1, (FIRST, here), {2: (NAME, there)})
        await one.network.start()
        await until(lambda: one.counter("connect_failures") > 2, "nobody knows the name yet")
        assert one.network.send(2, frame_of(b"waits"))
        assert one.counter("udp_frames_out") == 0, "where datagrams go is not known"
        for life, host in enumerate((FIRST, SECOND, FIRST)):
            resolver.answers = [host]
            two = node(2, (host, there), {})
            await two.network.start()
            await until(lambda: one.network.peers()[2], "it is found")
            await arrives(one, two, reliable=True)
            sent = one.counter("udp_frames_out")
            await arrives(one, two, reliable=False)
            assert one.counter("udp_frames_out") == sent + 1, "its datagrams follow"
            assert two.counter("udp_frames_in") == 1
            assert (b"waits" in two.bodies()) == (life == 0)
            await two.network.stop()
            resolver.answers = []
            await until(lambda: not one.network.peers()[2], "the loss is noticed")
        await one.network.stop()

    BENCH.run(test)


@pytest.mark.usefixtures("at_once")
def test_a_name_that_leads_elsewhere_ends_a_connection_that_still_stands(free_ports: FreePorts) -> None:
    async def test() -> None:
        here, there = free_ports(2)
        resolver = Resolver(asyncio.get_running_loop())
        one = node(1, (FIRST, here), {2: (NAME, there)})
        old, new = node(2, (FIRST, there), {}), node(2, (SECOND, there), {})
        for each in (one, old, new):
            await each.network.start()
        resolver.answers = [FIRST]
        await until(lambda: one.network.peers()[2], "it is found")
        await arrives(one, old, reliable=True)
        for answers in ([], [SECOND, FIRST]):
            resolver.answers = answers
            asked = resolver.asked
            await until(lambda asked=asked: resolver.asked > asked + 3, "it is asked again and again")
            assert one.events == [(2, True)], "no answer, or one that still has the address, changes nothing"
        resolver.answers = [SECOND]
        await until(lambda: len(one.events) == 3 and one.network.peers()[2], "it has moved")
        assert one.events == [(2, True), (2, False), (2, True)]
        for reliable in (True, False):
            await arrives(one, new, reliable)
        assert len(old.frames) == 1
        await BENCH.stop(one, old, new)

    BENCH.run(test)


@pytest.mark.usefixtures("at_once")
def test_a_literal_address_is_not_asked_for(free_ports: FreePorts, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = []
    monkeypatch.setattr(outgoing.Outgoing, "_watch_name", lambda self: watched.append(self.host))

    async def test() -> None:
        one, two = await BENCH.pair(free_ports)
        assert watched == []
        await BENCH.stop(one, two)

    BENCH.run(test)
