"""What a worker sends by itself: it arrives as it is, and what cannot leave is left to the router."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping

import pytest

from paxmux.engine.options import NetworkOptions
from paxmux.engine.paxos.effects import Outbox
from paxmux.plugins.network.direct import DirectUdp
from paxmux.shards.outlet import Outlet
from tests.event_loop import DEADLINE_S

MAX_BYTES = 2000
OPTIONS = NetworkOptions(udp_max_bytes=MAX_BYTES)


@pytest.fixture
def opened() -> Iterator[list[socket.socket | DirectUdp]]:
    found: list[socket.socket | DirectUdp] = []
    yield found
    for one in found:
        one.close()


def listener(opened: list[socket.socket | DirectUdp], host: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    opened.append(sock)
    sock.bind((host, 0))
    sock.settimeout(DEADLINE_S)
    return sock


def direct(opened: list[socket.socket | DirectUdp], peers: dict[int, tuple[str, int]]) -> DirectUdp:
    made = DirectUdp(peers, OPTIONS)
    opened.append(made)
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_frame_arrives_as_it_is(opened: list[socket.socket | DirectUdp], host: str) -> None:
    first, second = listener(opened, host), listener(opened, host)
    port = direct(opened, {7: (host, first.getsockname()[1]), 8: (host, second.getsockname()[1])})
    for sock, node in ((first, 7), (second, 8)):
        for frame in (bytes([node]) * 128, bytes(MAX_BYTES)):
            assert port.send(node, frame)
            assert sock.recv(65_535) == frame


def test_what_is_large_or_for_nobody_known_is_left_to_the_router(
    opened: list[socket.socket | DirectUdp],
) -> None:
    sock = listener(opened)
    where = sock.getsockname()[1]
    port = direct(opened, {7: ("127.0.0.1", where), 8: ("localhost", where)})
    assert not port.send(7, bytes(MAX_BYTES + 1))
    assert not port.send(8, bytes(200)), "a name leads where the router last heard that it does"
    assert not port.send(9, bytes(200))
    assert port.send(7, b"only this")
    assert sock.recv(65_535) == b"only this"


def test_a_closed_port_and_an_end_raise_nothing(
    opened: list[socket.socket | DirectUdp], free_ports: Callable[[int], list[int]]
) -> None:
    port = direct(opened, {7: ("127.0.0.1", free_ports(1)[0])})
    sent = [port.send(7, bytes(200)) for _ in range(20)]
    assert sent[0]
    assert not all(sent), "the refusal of an earlier datagram must be noticed"
    port.close()
    port.close()
    assert not port.send(7, bytes(200))


def test_peers_come_go_and_move(opened: list[socket.socket | DirectUdp]) -> None:
    first, second, third = (listener(opened) for _ in range(3))
    at = [("127.0.0.1", sock.getsockname()[1]) for sock in (first, second, third)]
    port = direct(opened, {7: at[0], 8: at[1]})
    kept = port._sockets[7]
    port.set_peers({7: at[0], 8: at[2], 9: at[1], 10: ("localhost", 1)})
    assert port._sockets[7] is kept, "what leads to the same place stays"
    for node, sock in ((7, first), (8, third), (9, second)):
        assert port.send(node, b"to %d" % node)
        assert sock.recv(65_535) == b"to %d" % node
    gone = port._sockets[9]
    port.set_peers({8: at[2]})
    assert gone.fileno() == -1
    assert [port.send(node, b"x") for node in (7, 8, 9, 10)] == [False, True, False, False]


class Some:
    """A `Direct` that takes what goes to one node."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.frames: list[bytes] = []

    def send(self, dest: int, frame: bytes) -> bool:
        if dest == self.node:
            self.frames.append(frame)
        return dest == self.node

    def set_peers(self, peers: Mapping[int, tuple[str, int]]) -> None:
        raise AssertionError("nobody changes them here")

    def close(self) -> None:
        pass


class Ring:
    """Takes what the outlet gives to the router."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, data: bytes, *, droppable: bool) -> bool:
        self.frames.append(data)
        return True

    def commit(self) -> bool:
        return True


def test_the_outlet_gives_each_frame_to_one_of_the_two() -> None:
    some, ring = Some(3), Ring()
    outlet = Outlet(
        ring,
        [2, 3],
        me=1,
        seat=11,
        incarnation=99,
        cluster=7,
        worker=0,
        generation=1,
        groups=1,
        direct=some,
    )
    box = Outbox()
    box.all.chosen.append((0, 5, 6))
    outlet.send(box)
    assert (len(ring.frames), len(some.frames)) == (1, 1)
    assert ring.frames[0][128:] == some.frames[0][128:]
    assert (outlet.sent, outlet.sent_direct, outlet.dropped) == (2, 1, 0)
