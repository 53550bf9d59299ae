"""Another number of workers, another layout at a restart: all data, whoever is killed on the way."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paxmux.engine.errors import DataDirError, PaxmuxError, StorageFailed
from paxmux.engine.options import LayoutOptions, MachineOptions, Options, StorageOptions
from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.kind import LMDB
from paxmux.shards import control
from paxmux.shards.identity import IDENTITY_FILE, read_identity
from paxmux.shards.node import Node
from paxmux.shards.sync_mark import SyncMark
from paxmux.tools.bench_machine import Chain, read_answer
from paxmux.tools.log.directory import read_directory
from paxmux.tools.main import main
from tests.event_loop import DEADLINE_S, in_loop
from tests.node_fixtures import check_traces, member_options, running, started, traces
from tests.test_node_cluster import caught_up, history

Ports = Callable[[int], list[int]]
GROUPS = 5
MACHINES = [
    MachineOptions(class_="paxmux.plugins.machines.echo:Echo"),
    MachineOptions(class_="paxmux.tools.bench_machine:Chain"),
]
ONE = LayoutOptions(workers=1)
THREE = LayoutOptions(workers=3)
TWO_RANGES = LayoutOptions(workers=2, strategy="range")
BY_HAND = LayoutOptions(strategy="explicit", groups={0: "4", 1: "0,2", 2: "1", 3: "3"})


def options_of(folder: Path, ports: list[int], number: int, layout: LayoutOptions, **more: Any) -> Options:
    more |= {"groups": GROUPS, "layout": layout, "state_machines": MACHINES}
    return member_options(folder, ports, number, **more)


def killing(folder: Path, ports: list[int], layout: LayoutOptions) -> Options:
    plugin = "tests.killing_log:KillingLog"
    return options_of(folder, ports, 0, layout, storage=StorageOptions(plugin=plugin))


class Written:
    """What was acknowledged."""

    def __init__(self) -> None:
        self.values: dict[int, list[bytes]] = {group: [] for group in range(GROUPS)}
        self.ends = dict.fromkeys(range(GROUPS), 0)

    async def more(self, nodes: list[Node], name: str, count: int = 15) -> None:
        for number in range(count):
            group, value = number % GROUPS, f"{name} {number}".encode()
            done = await nodes[number % len(nodes)].propose(group, value, smid=Chain.smid, timeout_s=30)
            self.values[group].append(value)
            self.ends[group] = done.instance_id + 1

    async def check(self, node: Node) -> None:
        """All of it is there, once, in order; for the machines too, and for a reader that asks a majority."""
        for group, expected in self.values.items():
            await caught_up(node, group, self.ends[group])
            assert [value for value, _ in await history(node, group)] == expected
            answer = await node.query(group, b"", Chain.smid, "linearizable", timeout_s=30)
            assert read_answer(answer)[0] == len(expected)


def log_folders(data_dir: str) -> list[str]:
    return sorted(os.listdir(Path(data_dir) / "logs"))


def test_a_cluster_changes_its_layouts_and_keeps_everything(
    tmp_path: Path, free_ports: Ports, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 -> 3 -> 2 workers, spread -> range -> explicit, each node in another order."""
    ports = free_ports(3)
    written = Written()
    layouts = [ONE, THREE, TWO_RANGES, BY_HAND, ONE]

    async def scenario(turn: int) -> None:
        before = traces()
        each = [layouts[(turn + number) % len(layouts)] for number in range(3)]
        nodes = [Node(options_of(tmp_path, ports, number, layout)) for number, layout in enumerate(each)]
        try:
            await asyncio.gather(*(node.start(60) for node in nodes))
            for node in nodes:
                await written.check(node)
            await written.more(nodes, f"turn {turn}")
            for number, node in enumerate(nodes):
                await written.check(node)
                picture = (await node.status())["layout"]
                assert picture["hosts"] == read_identity(tmp_path / f"node{number}").hosts
                assert picture["epoch"] == read_identity(tmp_path / f"node{number}").epoch
                if turn and each[number] is not layouts[(turn + number - 1) % len(layouts)]:
                    moved = picture["moved"]
                    assert 0 < moved["groups"] == moved["groups_done"]
                    assert moved["values"] > 0
        finally:
            await asyncio.gather(*(node.stop(1) for node in nodes))
        check_traces(before)

    for turn in range(len(layouts)):
        asyncio.run(scenario(turn))
    for number in range(3):
        # What moved away is nobody's second truth: each value is found once, in the log of its group.
        identity = read_identity(tmp_path / f"node{number}")
        assert identity.epoch >= 3
        assert log_folders(str(tmp_path / f"node{number}")) == sorted(
            {str(log) for log in identity.hosts or ()}
        )
        assert main(["log", "verify", str(tmp_path / f"node{number}")]) == 0
    assert main(["log", "verify", str(tmp_path / "node0"), "--against", str(tmp_path / "node2")]) == 0
    said = capsys.readouterr().out
    assert "fault" not in said


@in_loop
async def test_plain_lmdb_changes_its_layout_too(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(1)
    written = Written()
    for layout in (ONE, THREE, TWO_RANGES, BY_HAND):
        options = options_of(tmp_path, ports, 0, layout, storage=StorageOptions(plugin=LMDB))
        async with running(options) as node:
            await written.check(node)
            await written.more([node], str(layout))
            await written.check(node)


@in_loop
async def test_a_layout_that_hosts_the_same_moves_nothing(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(1)
    for layout in (ONE, LayoutOptions(workers=1, strategy="range"), LayoutOptions(workers=1, pin={0: [0]})):
        async with running(options_of(tmp_path, ports, 0, layout)) as node:
            assert (await node.status())["layout"]["moved"] is None
    assert read_identity(tmp_path / "node0").epoch == 0


@in_loop
async def test_a_log_that_is_gone_is_not_moved_from(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(1)
    async with running(options_of(tmp_path, ports, 0, THREE)) as node:
        await Written().more([node], "x")
    shutil.rmtree(tmp_path / "node0" / "logs" / "1")
    before = read_identity(tmp_path / "node0")
    node = Node(options_of(tmp_path, ports, 0, ONE))
    with pytest.raises(StorageFailed, match=r"the layout was not changed.*must not vote in its present seat"):
        await node.start(30)
    assert read_identity(tmp_path / "node0") == before
    await node.stop(0)


@in_loop
async def test_an_old_identity_is_refused_after_a_change(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(1)
    async with running(options_of(tmp_path, ports, 0, THREE)) as node:
        await Written().more([node], "x")
    old = (tmp_path / "node0" / IDENTITY_FILE).read_bytes()
    async with running(options_of(tmp_path, ports, 0, ONE)):
        pass
    (tmp_path / "node0" / IDENTITY_FILE).write_bytes(old)
    with pytest.raises(DataDirError, match="a copy from before the last change of layout"):
        await Node(options_of(tmp_path, ports, 0, THREE)).start(30)


@in_loop
async def test_a_node_that_moves_groups_says_so_and_can_be_stopped(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports(1)
    written = Written()
    async with running(options_of(tmp_path, ports, 0, THREE)) as node:
        await written.more([node], "x")
    before = traces()
    with monkeypatch.context() as patch:
        patch.setattr("paxmux.shards.mover.MOVER_MODULE", "tests.mover_that_waits")
        node = Node(options_of(tmp_path, ports, 0, ONE))
        starting = asyncio.create_task(node.start())
        words = ""
        deadline = time.monotonic() + DEADLINE_S
        while "groups to move between logs: 1 of 7 done, 1,000 values" not in words:
            assert time.monotonic() < deadline, words
            await asyncio.sleep(0.02)
            try:
                await asyncio.to_thread(control.request, tmp_path / "node0", {"op": "status"}, 10)
            except PaxmuxError as error:
                words = str(error)
        await node.stop(0)
        with pytest.raises(PaxmuxError, match="stopped before it had started"):
            await starting
    check_traces(before)
    assert read_identity(tmp_path / "node0").epoch == 0
    async with running(options_of(tmp_path, ports, 0, ONE)) as node:
        await written.check(node)


@pytest.mark.slow
@in_loop
async def test_the_mover_is_killed_at_every_call(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(1)
    written = Written()
    async with running(killing(tmp_path, ports, ONE)) as node:
        await written.more([node], "x")
    data = tmp_path / "node0"
    whole = tmp_path / "whole"
    shutil.copytree(data, whole)
    for call in range(1, 1000):
        shutil.rmtree(data)
        shutil.copytree(whole, data)
        (data / "kill_self").write_text(str(call))
        node = Node(killing(tmp_path, ports, THREE))
        failed = ""
        try:
            await node.start(30)
        except PaxmuxError as error:
            failed = str(error)
        await node.stop(1)
        if read_identity(data).epoch:
            # The workers come after the mover: it has lived through all of its calls.
            break
        assert "the layout was not changed, groups stay in their logs: killed by SIGKILL" in failed
        assert read_identity(data).hosts == (0,) * GROUPS, f"switched before all was durable, call {call}"
        (data / "kill_self").unlink()
        # With the old layout, or with the new one.
        async with running(killing(tmp_path, ports, ONE if call % 3 == 0 else THREE)) as node:
            await written.check(node)
            assert (await node.propose(0, b"more", smid=Chain.smid, timeout_s=30)).instance_id == 3
    assert call > 15


PROGRAM = """
import asyncio, os, signal, sys
import msgspec
from paxmux import Node, Options
from paxmux.shards import assembly, durable_file, identity, log_directories

point = sys.argv[2]
def die(*_args, **_more):
    os.kill(os.getpid(), signal.SIGKILL)

if point == "before the switch":
    identity.DataDir.switch = die
elif point == "before the new map has its name":
    durable_file.os.replace = die
elif point == "after the new map":
    identity.DataDir._mark_epoch = die
elif point == "after the epoch":
    assembly.set_unused_aside = die
elif point == "after an unused log was renamed":
    log_directories.sync_directory = die
elif point == "while unused logs are removed":
    log_directories.shutil.rmtree = die
else:
    assert point == "while groups are copied"

async def main():
    await Node(msgspec.json.decode(sys.argv[1], type=Options)).start(60)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("point", "switched"),
    [
        ("while groups are copied", False),
        ("before the switch", False),
        ("before the new map has its name", False),
        ("after the new map", True),
        ("after the epoch", True),
        ("after an unused log was renamed", True),
        ("while unused logs are removed", True),
    ],
)
def test_the_node_is_killed_on_the_way(tmp_path: Path, free_ports: Ports, point: str, switched: bool) -> None:
    @in_loop
    async def scenario() -> None:
        ports = free_ports(1)
        written = Written()
        data = tmp_path / "node0"
        async with running(killing(tmp_path, ports, THREE)) as node:
            await written.more([node], "x")
        if point == "while groups are copied":
            (data / "kill_parent").write_text("9")
        options = msgspec.json.encode(killing(tmp_path, ports, ONE)).decode()
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, options, point)
        assert await process.wait() == -signal.SIGKILL
        (data / "kill_parent").unlink(missing_ok=True)
        assert read_identity(data).hosts == ((0,) * GROUPS if switched else (0, 1, 2, 0, 1))
        for layout in (ONE, TWO_RANGES):
            node = await started(killing(tmp_path, ports, layout))
            try:
                await written.check(node)
                await written.more([node], str(layout))
            finally:
                await node.stop(1)
        assert log_folders(str(data)) == ["0", "1"]
        assert [log.identity.log for log in read_directory(data).logs] == [0, 1]

    scenario()


@in_loop
async def test_a_lost_promise_moves_along(tmp_path: Path, free_ports: Ports) -> None:
    """The log that says so is removed when its last group has left; the group must not vote for all that."""
    ports = free_ports(1)
    async with running(options_of(tmp_path, ports, 0, THREE)) as node:
        await Written().more([node], "x")
    identity = read_identity(tmp_path / "node0")
    assert identity.founding is not None
    log = tmp_path / "node0" / "logs" / "2"
    whose = LogIdentity(identity.founding.cluster, identity.node_id, identity.seat, 2)
    SyncMark(log, whose).lose([2])
    for layout in (ONE, BY_HAND, THREE, TWO_RANGES):
        async with running(options_of(tmp_path, ports, 0, layout)) as node:
            rows = (await node.status())["groups"]
            assert [row["voter"] for row in rows] == [True, True, False, True, True]
            assert [row["suspect"] is None for row in rows] == [True, True, False, True, True]
        assert log.exists() == (layout in (BY_HAND, THREE))
