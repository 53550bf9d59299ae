"""`set_log_sync` and `storage.sync` on real nodes: status, restart of the worker, clean stop."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from uuid import UUID

import pytest

from paxmux.engine.errors import GroupWrong, InvalidRequest, Overloaded
from paxmux.engine.options import LayoutOptions, StorageOptions
from paxmux.engine.storage import LogIdentity
from paxmux.shards.blocking import BlockingNode
from paxmux.shards.identity import LOGS, read_identity
from paxmux.shards.node import Node
from paxmux.shards.sync_mark import FILE, SyncMark
from tests.event_loop import DEADLINE_S, in_loop
from tests.network_contract import FreePorts
from tests.node_fixtures import lone_options, running
from tests.test_node_cluster import cluster, options_of


async def durable(node: Node) -> list[bool]:
    return [row["durable"] for row in (await node.status())["groups"]]


async def syncs(node: Node) -> int:
    return int((await node.status())["workers"][0]["counters"]["syncs"])


async def kill_worker(node: Node) -> None:
    (worker,) = (await node.status())["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    generation = worker["generation"]
    async with asyncio.timeout(DEADLINE_S):
        while worker["generation"] == generation or worker["state"] != "serving":
            await asyncio.sleep(0.01)
            (worker,) = (await node.status())["workers"]


def machine_died(data_dir: Path, *groups: int) -> None:
    """Leave the mark of groups that were not synced when it did."""
    identity = read_identity(data_dir)
    assert identity.founding is not None
    owner = LogIdentity(identity.founding.cluster, identity.node_id, identity.seat, 0)
    mark = SyncMark(data_dir / LOGS / "0", owner)
    mark._boot = UUID(int=1)
    mark.write(groups)


@in_loop
async def test_switched_at_run_time(tmp_path: Path, free_ports: FreePorts) -> None:
    options = lone_options(tmp_path / "node", free_ports(1)[0], groups=3)
    mark = tmp_path / "node" / LOGS / "0" / FILE
    async with running(options) as node:
        assert await durable(node) == [True, True, True]
        with pytest.raises(GroupWrong):
            await node.set_log_sync(3, False)
        with pytest.raises(InvalidRequest, match="True or False"):
            await node.set_log_sync(0, 1)  # type: ignore[arg-type]
        await node.set_log_sync(1, False)
        assert await durable(node) == [True, False, True]
        assert mark.exists()
        assert (await node.propose(1, b"v")).instance_id == 0
        await kill_worker(node)
        assert await durable(node) == [True, False, True], "it holds until the node stops"
        assert (await node.propose(1, b"w")).instance_id == 1
        await node.set_log_sync(1, True)
        assert await durable(node) == [True, True, True]
        assert not mark.exists()
        await node.set_log_sync(2, False)
    assert not mark.exists()
    async with running(options) as node:
        assert await durable(node) == [True, True, True], "a start begins with the options"


@in_loop
async def test_without_syncs_the_index_follows_and_a_lost_machine_costs_the_vote(
    tmp_path: Path, free_ports: FreePorts
) -> None:
    data_dir = tmp_path / "node"
    storage = StorageOptions(sync=False, sync_interval_ms=20)
    options = lone_options(data_dir, free_ports(1)[0], groups=2, storage=storage)
    async with running(options) as node:
        await node.set_log_sync(0, True)
        for number in range(20):
            await node.propose(1, b"%d" % number)
        before = await syncs(node)
        await node.propose(1, b"last")
        async with asyncio.timeout(DEADLINE_S):
            while await syncs(node) == before:
                await asyncio.sleep(0.01)
    machine_died(data_dir, 1)
    async with running(options) as node:
        rows = (await node.status())["groups"]
        assert [row["voter"] for row in rows] == [True, False]
        assert rows[0]["suspect"] is None
        assert "not synced when the machine stopped" in rows[1]["suspect"]
        await node.propose(0, b"v")
        with pytest.raises(Overloaded, match="there is no other member to ask"):
            await node.propose(1, b"v")
        assert await node.now_instance_id(1) == 21


@in_loop
async def test_the_other_members_give_the_vote_back(tmp_path: Path, free_ports: FreePorts) -> None:
    ports = free_ports(3)
    one = LayoutOptions(workers=1)
    async with cluster(tmp_path, ports, layout=one) as nodes:
        for number in range(12):
            await nodes[number % 3].propose(number % 4, b"%d" % number, timeout_s=30)
    machine_died(tmp_path / "node2", 1, 3)
    async with running(options_of(tmp_path, ports, 2, layout=one)) as node:
        suspects = [row["suspect"] for row in (await node.status())["groups"]]
    assert [words is not None for words in suspects] == [False, True, False, True]
    assert "0 of 2 others have answered" in suspects[1]
    async with cluster(tmp_path, ports, layout=one) as nodes:
        for node in nodes:
            async with asyncio.timeout(DEADLINE_S):
                while not all(row["voter"] for row in (await node.status())["groups"]):
                    await asyncio.sleep(0.01)
        assert not (tmp_path / "node2" / LOGS / "0" / FILE).exists()
        # With one of the others gone, nothing is decided without it.
        await nodes[0].stop(1)
        await nodes[2].propose(1, b"v", timeout_s=30)
        await nodes[2].propose(3, b"v", timeout_s=30)


def test_the_blocking_node_has_it_too(tmp_path: Path, free_ports: FreePorts) -> None:
    with BlockingNode(lone_options(tmp_path / "node", free_ports(1)[0], groups=1)) as node:
        node.set_log_sync(0, False)
        assert node.status()["groups"][0]["durable"] is False
        node.set_log_sync(0, True)
        assert node.status()["groups"][0]["durable"] is True
