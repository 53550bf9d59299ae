"""Routers of nodes that come later: guests of a founded cluster, members elsewhere, and strangers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.address import pack_node_id
from paxmux.shards import greeter, peers, reception
from paxmux.shards.boot import MemberPlace
from paxmux.shards.founding import Founder
from paxmux.shards.hello import pack_hello
from tests.router_harness import (
    GROUPS,
    FakeWorker,
    RouterNode,
    options_for,
    run,
    start_cluster,
    stop_all,
    until,
)

Ports = Callable[[int], list[int]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds or minutes takes no more than one."""
    monkeypatch.setattr(greeter, "ACTIVE_PAUSE_S", 0.1)
    monkeypatch.setattr(peers, "GUEST_S", 1.0)
    monkeypatch.setattr(peers, "NEXT_ADDRESS_S", 0.2)
    monkeypatch.setattr(reception, "LOOK_S", 0.05)
    monkeypatch.setattr(reception, "CHANGE_PAUSE_S", 0.01)


def row(node: RouterNode, of: int) -> dict[str, Any]:
    """What a node's status says of a peer; nothing if it knows none."""
    found = node.router.status()["peers"].get(str(of), {})
    assert isinstance(found, dict)
    return found


def joining(ports: list[int], folder: Path, **changes: Any) -> RouterNode:
    """A node with the last of the ports, which knows the others."""
    members = [f"127.0.0.1:{port}" for port in ports[:-1]]
    return RouterNode(options_for(ports, len(ports) - 1, folder, members=members, **changes))


async def talk(one: RouterNode, other: RouterNode) -> None:
    """A frame from each worker to the other node's."""
    for sender, receiver in ((one, other), (other, one)):
        reader = receiver.worker(0, list(range(GROUPS)))
        writer = FakeWorker(sender.bell)
        writer.attach(sender.router, 1, [])
        writer.send(sender.frame(receiver.node_id, b"hear me"))
        await until(lambda reader=reader: reader.got, reader)
        assert [frame[128:] for frame in reader.got] == [b"hear me"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("role", ["joining", "follower"])
def test_a_node_that_comes_later_is_a_guest_of_all_until_it_is_silent(
    tmp_path: Path, free_ports: Ports, role: str
) -> None:
    ports = free_ports(4)

    async def test() -> None:
        late = joining(ports, tmp_path, **({"join": True} if role == "joining" else {"follower": True}))
        await late.router.start()
        nodes = await start_cluster(ports[:3], tmp_path)
        await until(lambda: late.founded)
        assert late.founded == nodes[0].founded
        assert late.data_dir.identity.active
        await until(
            lambda: late.connected and all(row(node, late.node_id).get("connected") for node in nodes)
        )
        for node in nodes:
            found = row(node, late.node_id)
            assert (found["guest"], found["role"], found["refused"]) == (True, role, None)
            assert (found["address"], found["seat"]) == (late.options.node, f"{late.seat:#018x}")
            await until(lambda node=node: row(late, node.node_id)["role"] == "member")
            assert not row(late, node.node_id)["guest"]
            await talk(late, node)
        assert late.router.status()["founding"]["role"] == role
        assert late.router.status()["founding"]["unseated"]
        connects = [node.router.status()["network"]["connects"] for node in nodes]
        # It says who it is now and then: so it stays for much longer than a silent one.
        heard = [node.counters["hellos_in"] for node in nodes]
        await until(
            lambda: all(n.counters["hellos_in"] > before + 50 for n, before in zip(nodes, heard, strict=True))
        )
        assert all(row(node, late.node_id)["connected"] for node in nodes)
        await late.stop()
        await until(lambda: not any(row(node, late.node_id) for node in nodes))
        for node, before in zip(nodes, connects, strict=True):
            assert node.connected
            assert node.router.status()["network"]["connects"] == before, "nobody else was disturbed"
            assert all(late.node_id not in told for told in node.peers), "workers hear of members alone"
        again = joining(ports, tmp_path, **({"join": True} if role == "joining" else {"follower": True}))
        assert again.data_dir.identity.founding == nodes[0].founded[0]
        await again.router.start()
        assert again.founded, "it belongs to the cluster, whoever is there"
        await until(lambda: all(row(node, late.node_id).get("connected") for node in nodes))
        await stop_all([*nodes, again])

    run(test())


@pytest.mark.usefixtures("quick")
def test_a_guest_is_seated_and_a_member_removed(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(4)

    async def test() -> None:
        nodes = await start_cluster(ports[:3], tmp_path)
        late = joining(ports, tmp_path, join=True)
        await late.router.start()
        everybody = [*nodes, late]
        await until(lambda: late.founded and all(row(node, late.node_id).get("connected") for node in nodes))
        places = {node.node_id: MemberPlace(seats=[node.seat], address="") for node in everybody}
        for node in everybody:
            node.router.set_members(places)
        for node in nodes:
            assert not row(node, late.node_id)["guest"]
            await until(lambda node=node: row(node, late.node_id)["role"] == "member")
            await until(
                lambda node=node: node.peers and node.peers[-1].get(late.node_id) == late.options.node
            )
        assert late.router.status()["founding"]["role"] == "member"
        # The last one goes from the membership: it is in no options of the others, so it is a guest now.
        del places[late.node_id]
        for node in everybody:
            node.router.set_members(places)
        await until(lambda: all(row(node, late.node_id).get("guest") for node in nodes))
        await until(lambda: all(row(node, late.node_id)["role"] == "joining" for node in nodes))
        await until(lambda: all(row(node, late.node_id)["connected"] for node in nodes))
        for node in nodes:
            await until(lambda node=node: late.node_id not in node.peers[-1])
            await talk(late, node)
        await stop_all(everybody)

    run(test())


def explicit(ports: list[int], index: int, folder: Path, host: str, **changes: Any) -> RouterNode:
    """A node with an explicit id: its index and one."""
    members = [f"{number + 1}@{host}:{port}" for number, port in enumerate(ports)]
    fields = {"node": f"{host}:{ports[index]}", "node_id": index + 1, "members": members, **changes}
    return RouterNode(options_for(ports, index, folder, **fields))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_a_member_that_moves_is_found_by_what_it_says(tmp_path: Path, free_ports: Ports, host: str) -> None:
    ports = free_ports(4)

    async def test() -> None:
        nodes = [explicit(ports[:3], index, tmp_path, host) for index in range(3)]
        for node in nodes:
            await node.router.start()
        await until(lambda: all(node.founded and node.connected for node in nodes))
        await nodes[2].stop()
        moved = nodes[2] = explicit([*ports[:2], ports[3]], 2, tmp_path, host)
        await moved.router.start()
        assert moved.founded == nodes[0].founded
        await until(lambda: all(node.connected for node in nodes))
        for node in nodes[:2]:
            assert row(node, 3)["address"] == f"{host}:{ports[3]}"
            assert node.peers[-1] == {
                other: row(node, other)["address"] for other in {1, 2, 3} - {node.node_id}
            }
            await talk(moved, node)
        # One that starts again knows the old address alone, and hears of the new one.
        await nodes[0].stop()
        nodes[0] = explicit(ports[:3], 0, tmp_path, host)
        await nodes[0].router.start()
        await until(lambda: all(node.connected for node in nodes))
        assert row(nodes[0], 3)["address"] == f"{host}:{ports[3]}"
        await talk(nodes[0], moved)
        await stop_all(nodes)

    run(test())


@pytest.mark.usefixtures("quick")
def test_other_lists_of_members_later_refuse_nobody(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    ports = free_ports(4)

    async def test() -> None:
        nodes = await start_cluster(ports[:3], tmp_path)
        await nodes[0].stop()
        own, stranger = nodes[0].options.node, f"127.0.0.1:{ports[3]}"
        nodes[0] = RouterNode(options_for(ports, 0, tmp_path, members=[own, stranger]))
        await nodes[0].router.start()
        ids = {node.node_id for node in nodes[1:]}
        await until(lambda: all(row(nodes[0], node).get("connected") for node in ids))
        assert all(row(nodes[0], node)["refused"] is None for node in ids)
        for node in nodes[1:]:
            await until(lambda node=node: node.connected)
            assert row(node, nodes[0].node_id)["refused"] is None
            await talk(nodes[0], node)
        await stop_all(nodes)

    run(test())
    (difference,) = [text for text in caplog.messages if "the members in the options are not" in text]
    assert f"not in the options: 127.0.0.1:{min(ports[1:3])}" in difference
    assert f"only in the options: 127.0.0.1:{ports[3]}" in difference


def strangers(node: RouterNode, port: int, count: int, **changes: Any) -> list[bytes]:
    """Hellos of as many nodes that nobody knows and that say they are in the node's cluster."""
    frames = []
    for number in range(count):
        fields: dict[str, Any] = {
            "node_id": pack_node_id("127.0.0.1", 1 + number),
            "seat": 1000 + number,
            "incarnation": 1,
            "groups": GROUPS,
            "members": [node.node_id],
            "founding": node.founded[0],
            "active": True,
            "address": f"127.0.0.1:{port}",
            "founds": False,
            **changes,
        }
        frames.append(pack_hello(Founder(**fields).hello(ask=True), node.node_id))
    return frames


async def throw(node: RouterNode, port: int, frames: list[bytes]) -> None:
    """Send them, and wait until the last one was counted."""
    before = node.counters["frames_in"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number, frame in enumerate(frames, 1):
            sender.sendto(frame, ("127.0.0.1", port))
            if number % 50 == 0:
                await until(lambda number=number: node.counters["frames_in"] >= before + number)
    await until(lambda: node.counters["frames_in"] >= before + len(frames))


def test_strangers_cost_little_and_guests_are_few(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports(3)
    monkeypatch.setattr(reception, "LOOK_S", 1000.0)

    async def test() -> None:
        nodes = await start_cluster(ports[:2], tmp_path)
        node = nodes[0]
        read = []
        real = reception.parse_hello
        monkeypatch.setattr(reception, "parse_hello", lambda *parts: read.append(1) or real(*parts))
        monkeypatch.setattr(reception, "STRANGERS_PER_S", 0.2)
        other = {"founding": None, "active": False, "members": [5]}
        await throw(node, ports[0], strangers(node, ports[2], 500, **other))
        assert len(read) == 200, "no more than the budget is looked into"
        assert node.drops == {"sender": 500}
        monkeypatch.setattr(reception, "STRANGERS_PER_S", 10.0)
        await throw(node, ports[0], strangers(node, ports[2], 500))
        assert node.drops == {"sender": 500, "guests": 500 - peers.GUESTS_MAX}
        status = node.router.status()
        assert sum(each["guest"] for each in status["peers"].values()) == peers.GUESTS_MAX
        member = row(node, nodes[1].node_id)
        assert (member["connected"], member["guest"]) == (True, False)
        await talk(*nodes)
        await stop_all(nodes)

    run(test())


def test_no_guest_without_a_hello_of_this_very_cluster(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        (node,) = await start_cluster(ports[:1], tmp_path)
        elsewhere = RouterNode(options_for(ports, 1, tmp_path, members=[f"127.0.0.1:{ports[1]}"]))
        await elsewhere.router.start()
        other = elsewhere.founded[0]
        for wrong in (
            {"founding": other},
            {"groups": GROUPS + 1, "founding": None, "active": False},
            {"founding": None, "active": False, "members": [elsewhere.node_id]},
            {"node_id": node.node_id},
        ):
            await throw(node, ports[0], strangers(node, ports[1], 1, **wrong))
        assert node.drops == {"sender": 4}
        late = pack_node_id("127.0.0.1", 1)
        frame = node.frame(node.node_id, b"before", sender=late)
        await throw(node, ports[0], [frame])
        assert node.drops == {"sender": 5}
        worker = node.worker(0, list(range(GROUPS)))
        await throw(node, ports[0], [*strangers(node, ports[1], 1), frame])
        assert node.drops == {"sender": 5}
        await until(lambda: worker.got == [frame], worker)
        assert row(node, late)["role"] == "joining"
        await asyncio.sleep(0)
        await stop_all([node, elsewhere])

    run(test())
