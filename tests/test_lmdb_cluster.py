"""Three real nodes whose YAML selects the log in plain LMDB: workers killed, nodes restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from paxmux.engine.errors import ExitCode, Overloaded, PaxmuxError
from paxmux.engine.options import Options, StorageOptions
from paxmux.plugins.storage.kind import LMDB, SEGMENTS
from paxmux.shards.done import Done
from paxmux.shards.node import Node
from paxmux.tools.main import main
from tests.event_loop import DEADLINE_S, in_loop
from tests.node_fixtures import check_traces, traces
from tests.test_node_cluster import caught_up, history

Ports = Callable[[int], list[int]]
GROUPS = 3


def config(folder: Path, ports: list[int], number: int, plugin: str = LMDB) -> Options:
    file = folder / f"node{number}.yaml"
    document = {
        "node": f"127.0.0.1:{ports[number]}",
        "members": [f"127.0.0.1:{port}" for port in ports],
        "data_dir": str(folder / f"node{number}"),
        "bootstrap": True,
        "groups": GROUPS,
        "state_machines": [{"class": "paxmux.plugins.machines.echo:Echo"}],
        "storage": {"plugin": plugin},
        "worker": {"restart_first_ms": 1, "restart_max_ms": 50},
    }
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return Options.from_yaml(file)


@asynccontextmanager
async def started(options: list[Options]) -> AsyncIterator[list[Node]]:
    before = traces()
    nodes = [Node(each) for each in options]
    try:
        await asyncio.gather(*(node.start(60) for node in nodes))
        yield nodes
    finally:
        await asyncio.gather(*(node.stop(1) for node in nodes))
    check_traces(before)


async def accepted(node: Node, group: int, value: bytes) -> Done:
    """Propose until the node takes it: a worker that has just been started again refuses for a while."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return await node.propose(group, value, smid=1, timeout_s=30)
        except Overloaded:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def restarted(node: Node, old: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while (await node.status())["workers"][0]["pid"] in (None, old):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def published(node: Node, name: str) -> None:
    """A worker publishes its counters every 100 ms, not with each answer."""
    deadline = time.monotonic() + DEADLINE_S
    while not (await node.status())["workers"][0]["counters"][name]:
        assert time.monotonic() < deadline, name
        await asyncio.sleep(0.02)


@in_loop
async def test_a_cluster_on_lmdb_loses_nothing(
    tmp_path: Path, free_ports: Ports, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = free_ports(3)
    options = [config(tmp_path, ports, number) for number in range(3)]
    values = {group: [] for group in range(GROUPS)}  # type: dict[int, list[tuple[bytes, int]]]
    ends = dict.fromkeys(range(GROUPS), 0)

    async def propose(nodes: list[Node], name: str) -> None:
        for number in range(12):
            group, value = number % GROUPS, f"{name} {number}".encode()
            done = await accepted(nodes[number % len(nodes)], group, value)
            assert done.result == value
            values[group].append((value, 1))
            ends[group] = done.instance_id + 1

    async with started(options) as nodes:
        await propose(nodes, "first")
        for node in nodes[:2]:
            pid = (await node.status())["workers"][0]["pid"]
            os.kill(pid, signal.SIGKILL)
            await restarted(node, pid)
        await propose(nodes[2:], "after two workers died")
        await nodes[2].stop()
        await propose(nodes[:2], "without one")
    async with started(options) as nodes:
        await propose(nodes, "after all were away")
        for node in nodes:
            for group in range(GROUPS):
                await caught_up(node, group, ends[group])
                assert await history(node, group) == values[group]
            await published(node, "syncs")
            await published(node, "disk_bytes")

    log = tmp_path / "node0" / "logs" / "0"
    assert (log / "lmdb" / "data.mdb").is_file()
    assert main(["log", "show", str(tmp_path / "node0")]) == ExitCode.CANNOT_BOOT
    assert f"{log}: this log is of another storage plugin, {LMDB}" in capsys.readouterr().err
    assert StorageOptions().plugin == SEGMENTS
    other = Node(config(tmp_path, ports, 0, SEGMENTS))
    with pytest.raises(PaxmuxError, match="made by another storage plugin"):
        await other.start(30)
    await other.stop()
