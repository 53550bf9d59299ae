"""Addresses are not identities: clusters of explicit ids over IPv6 and host names, and a node that moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import DataDirError
from paxmux.engine.options import LayoutOptions, MachineOptions, Options
from paxmux.shards.node import Node
from tests.event_loop import DEADLINE_S, in_loop
from tests.node_fixtures import QUICK_RESTARTS, check_traces, traces

Ports = Callable[[int], list[int]]

ECHO = MachineOptions(class_="paxmux.plugins.machines.echo:Echo")


def options_of(folder: Path, host: str, ports: list[int], number: int, **more: Any) -> Options:
    fields: dict[str, Any] = {
        "node": f"{host}:{ports[number]}",
        "node_id": 7 + number,
        "members": [f"{7 + each}@{host}:{port}" for each, port in enumerate(ports)],
        "data_dir": str(folder / f"node{number}"),
        "bootstrap": True,
        "groups": 2,
        "layout": LayoutOptions(workers=1),
        "state_machines": [ECHO],
        "worker": QUICK_RESTARTS,
        **more,
    }
    return Options(**fields)


@in_loop
@pytest.mark.parametrize(
    ("host", "router"), [("[::1]", "inline"), ("localhost", "inline"), ("127.0.0.1", "process")]
)
async def test_a_node_keeps_its_id_and_its_values_at_another_port(
    tmp_path: Path, free_ports: Ports, host: str, router: str
) -> None:
    ports, before = free_ports(4), traces()
    nodes = [Node(options_of(tmp_path, host, ports[:3], number, router=router)) for number in range(3)]
    try:
        await asyncio.gather(*(node.start(60) for node in nodes))
        assert [node.my_node_id() for node in nodes] == [7, 8, 9]
        for number in range(6):
            done = await nodes[number % 3].propose(number % 2, b"%d" % number, smid=1, timeout_s=30)
            assert done.result == b"%d" % number
        history = await values(nodes[0])
        await nodes[2].stop(1)
        moved = nodes[2] = Node(options_of(tmp_path, host, [*ports[:2], ports[3]], 2, router=router))
        await moved.start(60)
        # It hears of both others, and one of them answers for it, only if they have found it.
        for number in range(6, 12):
            done = await nodes[number % 3].propose(number % 2, b"%d" % number, smid=1, timeout_s=30)
            assert done.result == b"%d" % number
        if host != "localhost":
            await all_leaves_directly(nodes[0])
        await nodes[1].stop(1)
        await moved.propose(0, b"a majority with it alone", smid=1, timeout_s=30)
        peers = (await nodes[0].status())["peers"]
        assert {node: peer["address"] for node, peer in peers.items()} == {
            "8": f"{host}:{ports[1]}",
            "9": f"{host}:{ports[3]}",
        }
        assert peers["9"]["connected"]
        assert (await values(moved))[: len(history)] == history
    finally:
        await asyncio.gather(*(node.stop(1) for node in nodes))
    check_traces(before)


async def all_leaves_directly(node: Node) -> None:
    """What a worker sends goes to where the members are now, all of it without the router."""
    before = await counters(node)
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while True:
        await node.propose(0, b"x", smid=1, timeout_s=30)
        now = await counters(node)
        sent, direct = (now[name] - before[name] for name in ("frames_out", "frames_direct"))
        if sent == direct >= 20:
            return
        if sent != direct:
            before = now
        assert asyncio.get_running_loop().time() < deadline, "a worker sends to where a member was"


async def counters(node: Node) -> dict[str, int]:
    """Those of its worker."""
    found = (await node.status())["workers"][0]["counters"]
    assert isinstance(found, dict)
    return found


async def values(node: Node) -> list[tuple[bytes, int]]:
    """What group 0 has decided, in order."""
    found: list[tuple[bytes, int]] = []
    for instance in range(await node.now_instance_id(0)):
        found += await node.instance_value(0, instance)
    return found


@in_loop
async def test_a_data_directory_belongs_to_the_id_and_not_to_the_address(
    tmp_path: Path, free_ports: Ports
) -> None:
    first, second = free_ports(2)
    packed: dict[str, Any] = {
        "data_dir": str(tmp_path / "node"),
        "bootstrap": True,
        "layout": LayoutOptions(workers=1),
        "state_machines": [ECHO],
    }
    here, there = f"127.0.0.1:{first}", f"127.0.0.1:{second}"
    node = Node(Options(node=here, members=[here], **packed))
    await node.start(60)
    own = node.my_node_id()
    await node.propose(0, b"kept", smid=1, timeout_s=30)
    await node.stop(1)
    with pytest.raises(DataDirError, match=f"`node_id: {own}`"):
        await Node(Options(node=there, members=[there], **packed)).start(60)
    node = Node(Options(node=there, node_id=own, members=[f"{own}@{there}"], **packed))
    await node.start(60)
    assert await values(node) == [(b"kept", 1)]
    await node.stop(1)
