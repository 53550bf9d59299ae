"""More groups than the small set in a frame's header has bits for: from the router up to whole nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from paxmux.engine.frame import GROUPS_MAX, NARROW_GROUPS, VERSION, WIDE_VERSION
from paxmux.engine.options import LayoutOptions, MachineOptions, Options
from paxmux.engine.storage import LogIdentity
from paxmux.shards.node import Node
from paxmux.shards.sync_mark import SyncMark
from tests.event_loop import in_loop
from tests.node_fixtures import check_traces, traces
from tests.router_harness import FakeWorker, RouterNode, options_for, run, start_cluster, stop_all, until

Ports = Callable[[int], list[int]]
GROUPS = NARROW_GROUPS + 44
ECHO = MachineOptions(class_="paxmux.plugins.machines.echo:Echo")


def test_a_router_takes_frames_of_its_clusters_version_alone(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        a, b = await start_cluster(ports, tmp_path, groups=GROUPS)
        low = b.worker(0, list(range(NARROW_GROUPS)))
        high = b.worker(1, list(range(NARROW_GROUPS, GROUPS)))
        from_a = FakeWorker(a.bell)
        from_a.attach(a.router, 0, list(range(GROUPS)))
        frames = [
            a.frame(b.node_id, b"low", 1 << 255, version=WIDE_VERSION),
            a.frame(b.node_id, b"high", 1 << 256, version=WIDE_VERSION),
            a.frame(b.node_id, b"both" * 10_000, 1 << 299 | 1, version=WIDE_VERSION),
        ]
        narrow = a.frame(b.node_id, b"a frame of a smaller cluster", 1, version=VERSION)
        from_a.send(*frames[:2], narrow, frames[2])
        await until(lambda: len(low.got) >= 2 and len(high.got) >= 2, low, high)
        await until(lambda: b.drops.get("version", 0) == 1, low, high)
        assert low.got == [frames[0], frames[2]]
        assert high.got == [frames[1], frames[2]]
        beyond = a.frame(b.node_id, b"", 1 << GROUPS, version=WIDE_VERSION)
        from_a.send(beyond)
        await until(lambda: b.drops.get("group", 0) == 1, low, high)
        assert b.drops == {"version": 1, "group": 1}
        await stop_all([a, b])

    run(test())


def test_nodes_with_few_and_many_groups_refuse_each_other_by_name(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        nodes = [
            RouterNode(options_for(ports, index, tmp_path, groups=groups))
            for index, groups in enumerate((8, GROUPS))
        ]
        for node in nodes:
            await node.router.start()

        def refused(node: RouterNode) -> list[str | None]:
            return [peer["refused"] for peer in node.router.status()["peers"].values()]

        await until(lambda: all(all(refused(node)) for node in nodes))
        assert f"has {GROUPS} groups, this node 8" in str(refused(nodes[0]))
        assert f"has 8 groups, this node {GROUPS}" in str(refused(nodes[1]))
        assert not any(node.founded for node in nodes)
        await stop_all(nodes)

    run(test())


def test_the_mark_of_an_unsynced_log_holds_any_group(tmp_path: Path) -> None:
    owner = LogIdentity(1, 2, 3, 0)
    mark = SyncMark(tmp_path, owner)
    sizes = []
    for groups in ({0, NARROW_GROUPS - 1}, {0, NARROW_GROUPS, GROUPS_MAX - 1}, {1}):
        mark.write(groups)
        sizes.append((tmp_path / "UNSYNCED").stat().st_size)
        stored = SyncMark(tmp_path, owner)._stored
        assert stored is not None
        assert stored[1] == groups
    assert sizes[0] == sizes[2] < sizes[1], "only what needs it has the large sets"
    mark._boot = UUID(int=1)
    mark.write({NARROW_GROUPS})
    assert SyncMark(tmp_path, owner).lost == {NARROW_GROUPS}, "it was written under another boot"


@in_loop
async def test_a_cluster_of_many_groups_decides_in_each_and_starts_again(
    tmp_path: Path, free_ports: Ports
) -> None:
    ports = free_ports(3)
    before = traces()
    some = (0, NARROW_GROUPS - 1, NARROW_GROUPS, GROUPS - 1)
    for life in (1, 2):
        nodes = [
            Node(
                Options(
                    node=f"127.0.0.1:{port}",
                    members=[f"127.0.0.1:{one}" for one in ports],
                    data_dir=str(tmp_path / f"node{port}"),
                    groups=GROUPS,
                    bootstrap=True,
                    layout=LayoutOptions(workers=2),
                    state_machines=[ECHO],
                )
            )
            for port in ports
        ]
        try:
            await asyncio.gather(*(node.start(60) for node in nodes))
            for number, group in enumerate(some):
                done = await nodes[number % 3].propose(group, b"value of %d" % life, smid=1, timeout_s=30)
                assert done.instance_id >= life - 1
            for group in some:
                count = await nodes[0].now_instance_id(group)
                found = [await nodes[0].instance_value(group, instance) for instance in range(count)]
                assert [value for entries in found for value, _ in entries] == [
                    b"value of %d" % each for each in range(1, life + 1)
                ]
            status = await nodes[1].status()
            assert [row["group"] for row in status["groups"]] == list(range(GROUPS))
        finally:
            await asyncio.gather(*(node.stop(1) for node in nodes))
    check_traces(before)
