"""Members of real nodes: added, replaced, seated anew by themselves, removed; callbacks and codes."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import (
    GroupWrong,
    LastMember,
    MemberExists,
    MemberMissing,
    MemberNotHeard,
    MembershipUnchanged,
    NodeStopped,
    NotAMember,
    PaxmuxError,
)
from paxmux.engine.options import LayoutOptions, Options
from paxmux.shards.blocking import BlockingNode
from paxmux.shards.membership import Member
from paxmux.shards.node import Node
from tests.event_loop import DEADLINE_S, in_loop, until
from tests.node_fixtures import check_traces, lone_options, running, traces

Ports = Callable[[int], list[int]]
pytestmark = pytest.mark.xdist_group("cluster")


class Growing:
    """Nodes that come one after the other; the first one founds."""

    def __init__(self, folder: Path, ports: list[int], more: dict[str, Any]) -> None:
        self.folder = folder
        self.addresses = [f"127.0.0.1:{port}" for port in ports]
        self.nodes: dict[int, Node] = {}
        self._more = more

    async def start(self, number: int) -> Node:
        """With the nodes that run as those that it asks."""
        seeds = [self.addresses[other] for other in self.nodes if other != number]
        options = Options(
            node=self.addresses[number],
            members=seeds or [self.addresses[number]],
            join=bool(seeds),
            data_dir=str(self.folder / f"node{number}"),
            bootstrap=True,
            groups=3,
            layout=LayoutOptions(workers=1),
            **self._more,
        )
        node = self.nodes[number] = Node(options)
        await node.start(DEADLINE_S)
        return node

    async def stop(self, number: int) -> None:
        await self.nodes.pop(number).stop(1)


@asynccontextmanager
async def growing(folder: Path, ports: list[int], **more: Any) -> AsyncIterator[Growing]:
    before = traces()
    cluster = Growing(folder, ports, more)
    try:
        yield cluster
    finally:
        await asyncio.gather(*(node.stop(0) for node in cluster.nodes.values()))
    check_traces(before)


async def add(node: Node, address: str) -> list[int]:
    """As soon as the new node has said hello."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await node.add_member(None, address, DEADLINE_S)
        except MemberNotHeard:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def proposed(node: Node, group: int, value: bytes) -> None:
    """As soon as the node knows that it is a member."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            await node.propose(group, value)
            return
        except PaxmuxError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


@in_loop
async def test_a_lone_node_and_its_codes(tmp_path: Path, free_ports: Ports) -> None:
    (port,) = free_ports(1)
    options, heard = lone_options(tmp_path / "n", port), list[tuple[int, list[Member]]]()
    cold = Node(options)
    with pytest.raises(NodeStopped):
        await cold.members(0)
    async with running(options) as node:
        node.on_membership_change(lambda group, members: heard.append((group, members)))
        (member,) = await node.members(0)
        assert (member.node_id, member.address) == (node.my_node_id(), f"127.0.0.1:{port}")
        assert heard == [(group, [member]) for group in range(4)]
        me = member.node_id
        for error, call in (
            (LastMember, node.remove_member(0, me)),
            (MemberMissing, node.remove_member(0, 17)),
            (MemberMissing, node.change_member(0, "9@h:1", 17)),
            (MemberExists, node.add_member(0, me)),
            (MemberNotHeard, node.add_member(0, 17)),
            (MemberNotHeard, node.change_member(0, me, 17)),
            (MembershipUnchanged, node.change_member(0, me, me)),
            (GroupWrong, node.members(4)),
            (GroupWrong, node.remove_member(9, me)),
        ):
            with pytest.raises(error):
                await call
        assert await node.change_member(0, me, f"{me}@localhost:{port}") == [0]
        assert await node.change_member(None, me, f"{me}@localhost:{port}") == [1, 2, 3]
        await until(lambda: len(heard) == 8)
        assert {members[0].address for _, members in heard[4:]} == {f"localhost:{port}"}
        # Groups that go to another worker take their members along.
        await node.reload(lone_options(tmp_path / "n", port, workers=2))
        assert [(await node.members(group))[0].address for group in range(4)] == [f"localhost:{port}"] * 4
        assert (await node.propose(1, b"v")).instance_id == 1
    async with running(lone_options(tmp_path / "n", port, workers=2)) as node:
        assert (await node.members(3))[0].address == f"localhost:{port}"


@in_loop
async def test_one_is_three_one_is_replaced_and_one_removes_itself(tmp_path: Path, free_ports: Ports) -> None:
    async with growing(tmp_path, free_ports(4)) as cluster:
        first = await cluster.start(0)
        await first.propose(0, b"before")
        second = await cluster.start(1)
        with pytest.raises(NotAMember):
            await second.propose(0, b"too early")
        assert await add(first, cluster.addresses[1]) == [0, 1, 2]
        with pytest.raises(MemberExists):
            await first.add_member(0, cluster.addresses[1])
        third = await cluster.start(2)
        assert await add(first, cluster.addresses[2]) == [0, 1, 2]
        for number, node in enumerate((first, second, third)):
            await proposed(node, 0, b"from %d" % number)
        # One is dead, and two of three are enough.
        await cluster.stop(1)
        fourth = await cluster.start(3)
        seen: list[list[Member]] = []
        end = third.on_membership_change(lambda group, members: seen.append(members) if not group else None)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                await first.change_member(None, cluster.addresses[1], cluster.addresses[3], DEADLINE_S)
                break
            except MemberNotHeard:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        await proposed(fourth, 0, b"replaced")
        await until(lambda: [len(members) for members in seen] == [3, 3])
        end()
        assert {member.address for member in seen[-1]} == {cluster.addresses[at] for at in (0, 2, 3)}
        with pytest.raises(MembershipUnchanged):
            await first.change_member(0, cluster.addresses[1], cluster.addresses[3])
        with pytest.raises(MemberMissing):
            await first.change_member(0, cluster.addresses[1], cluster.addresses[1])
        # One that removes itself learns on, and proposes nothing more.
        assert await third.remove_member(None, cluster.addresses[2], DEADLINE_S) == [0, 1, 2]
        with pytest.raises(NotAMember):
            await third.propose(0, b"gone")
        done = await first.propose(0, b"two are left")
        deadline = time.monotonic() + DEADLINE_S
        while await third.now_instance_id(0) <= done.instance_id:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


@in_loop
async def test_a_wiped_member_is_seated_anew_by_itself(tmp_path: Path, free_ports: Ports) -> None:
    async with growing(tmp_path, free_ports(3), rejoin="auto") as cluster:
        first = await cluster.start(0)
        for number in (1, 2):
            await cluster.start(number)
            await add(first, cluster.addresses[number])
        await first.propose(0, b"before")
        before = await first.members(0)
        await cluster.stop(2)
        shutil.rmtree(tmp_path / "node2")
        wiped = await cluster.start(2)
        with pytest.raises(NotAMember):
            await wiped.propose(0, b"too early")
        await proposed(wiped, 0, b"back")
        now = await first.members(0)
        assert [member.node_id for member in now] == [member.node_id for member in before]
        assert len({*now} - {*before}) == 1, "one of them has another seat"


def test_the_blocking_facade_has_all_of_it(tmp_path: Path, free_ports: Ports) -> None:
    (port,) = free_ports(1)
    node, heard = BlockingNode(lone_options(tmp_path / "n", port, groups=1)), list[list[Member]]()
    end = node.on_membership_change(lambda group, members: heard.append(members))
    with node:
        (me,) = node.members(0)
        assert heard == [[me]]
        assert node.change_member(None, me.node_id, f"{me.node_id}@localhost:{port}") == [0]
        end()
        with pytest.raises(LastMember):
            node.remove_member(0, me.node_id)
        with pytest.raises(MemberNotHeard):
            node.add_member(0, 17)
        node.on_membership_change(lambda group, members: heard.append(members))
        assert heard[-1][0].address == f"localhost:{port}"
