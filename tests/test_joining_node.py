"""A fourth node, with real workers, beside a cluster of three that is founded: it joins, or follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.options import LayoutOptions, MachineOptions, Options
from paxmux.shards.node import Node
from tests.event_loop import DEADLINE_S, in_loop
from tests.node_fixtures import QUICK_RESTARTS, check_traces, member_options, traces

Ports = Callable[[int], list[int]]

LIKE_ALL: dict[str, Any] = {
    "groups": 2,
    "layout": LayoutOptions(workers=1),
    "state_machines": [MachineOptions(class_="paxmux.plugins.machines.echo:Echo")],
    "worker": QUICK_RESTARTS,
}


def options_of_fourth(folder: Path, ports: list[int], **more: Any) -> Options:
    return Options(
        node=f"127.0.0.1:{ports[3]}",
        members=[f"127.0.0.1:{port}" for port in ports[:3]],
        data_dir=str(folder / "fourth"),
        bootstrap=True,
        **LIKE_ALL,
        **more,
    )


async def until_peers(node: Node, holds: Callable[[dict[str, Any]], object], what: str) -> None:
    """Wait until a node's peers are as they should be."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while not holds((await node.status())["peers"]):
        assert asyncio.get_running_loop().time() < deadline, f"never: {what}"
        await asyncio.sleep(0.02)


@in_loop
@pytest.mark.parametrize(("role", "router"), [("joining", "inline"), ("follower", "process")])
async def test_a_fourth_node_is_a_guest_of_all_three_and_learns(
    tmp_path: Path, free_ports: Ports, role: str, router: str
) -> None:
    ports, before = free_ports(4), traces()
    nodes = [Node(member_options(tmp_path, ports[:3], number, **LIKE_ALL)) for number in range(3)]
    fourth = Node(
        options_of_fourth(tmp_path, ports, router=router, join=role == "joining", follower=role == "follower")
    )
    try:
        starting = asyncio.create_task(fourth.start(60))
        await asyncio.gather(*(node.start(60) for node in nodes))
        await starting
        own = str(fourth.my_node_id())
        for node in nodes:
            await until_peers(node, lambda peers: peers.get(own, {}).get("connected"), "it is a guest")
            found = (await node.status())["peers"][own]
            assert (found["guest"], found["role"]) == (True, role)
        await until_peers(
            fourth, lambda peers: all(peer["connected"] for peer in peers.values()), "it reaches all"
        )
        assert len((await fourth.status())["peers"]) == 3
        last = 0
        for number in range(30):
            done = await nodes[number % 3].propose(0, b"%d" % number, smid=1, timeout_s=30)
            last = max(last, done.instance_id)
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        while await fourth.now_instance_id(0) <= last:
            assert asyncio.get_running_loop().time() < deadline, "it does not learn"
            await asyncio.sleep(0.02)
        for instance in range(last + 1):
            assert await fourth.instance_value(0, instance) == await nodes[0].instance_value(0, instance)
    finally:
        await asyncio.gather(*(node.stop(1) for node in (*nodes, fourth)))
    check_traces(before)
