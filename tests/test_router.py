"""The router over real sockets, rings and data directories."""

from __future__ import annotations

import asyncio
import mmap
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from paxmux.engine.errors import StorageFailed
from paxmux.engine.options import LimitOptions, NetworkOptions
from paxmux.shards.founding import Founder
from paxmux.shards.greeter import ANSWER_PAUSE_S
from paxmux.shards.hello import pack_hello
from paxmux.shards.identity import IDENTITY_FILE, read_identity
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


def test_three_routers_found_a_cluster_and_keep_it(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(3)

    async def test() -> None:
        nodes = await start_cluster(ports, tmp_path)
        founding = nodes[0].founded[0]
        assert founding.seats == {node.node_id: node.seat for node in nodes}
        for index, node in enumerate(nodes):
            assert node.founded == [founding]
            identity = read_identity(tmp_path / f"node{index}")
            assert (identity.founding, identity.active) == (founding, True)
            status = node.router.status()
            assert status["founding"]["active"]
            assert not status["founding"]["unseated"]
            assert status["founding"]["waiting_for"] is None
            assert set(status["peers"]) == {str(peer.node_id) for peer in nodes if peer is not node}
            assert all(peer["connected"] and peer["refused"] is None for peer in status["peers"].values())
            assert msgspec.json.decode(msgspec.json.encode(status)) == status
        await stop_all(nodes)
        # All of them start again, one alone first: what is founded stays founded.
        first = RouterNode(options_for(ports, 0, tmp_path))
        await first.router.start()
        assert first.founded == [founding]
        others = [RouterNode(options_for(ports, index, tmp_path)) for index in (1, 2)]
        for node in others:
            await node.router.start()
            assert node.founded == [founding]
        await until(lambda: all(p["seat"] for p in first.router.status()["peers"].values()))
        await stop_all([first, *others])

    run(test())


def test_a_single_node_is_founded_at_once(tmp_path: Path, free_ports: Ports) -> None:
    async def test() -> None:
        node = RouterNode(options_for(free_ports(1), 0, tmp_path))
        await node.router.start()
        assert [founding.seats for founding in node.founded] == [{node.node_id: node.seat}]
        await node.stop()

    run(test())


def test_a_node_that_comes_late_and_one_that_restarts_meanwhile(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(3)

    async def test() -> None:
        nodes = [RouterNode(options_for(ports, index, tmp_path)) for index in (0, 1)]
        for node in nodes:
            await node.router.start()
        await until(lambda: nodes[0].router.status()["counters"]["hellos_in"] >= 3)
        waiting = nodes[0].router.status()["founding"]["waiting_for"]
        assert waiting == f"no usable hello yet from 127.0.0.1:{ports[2]}"
        assert not nodes[0].founded
        seat = nodes[1].seat
        await nodes[1].stop()
        nodes[1] = RouterNode(options_for(ports, 1, tmp_path), incarnation=2)
        assert nodes[1].seat == seat
        nodes.append(RouterNode(options_for(ports, 2, tmp_path)))
        for node in nodes[1:]:
            await node.router.start()
        await until(lambda: all(node.founded for node in nodes))
        assert nodes[2].founded[0].seats[nodes[1].node_id] == seat
        await stop_all(nodes)

    run(test())


def test_a_wiped_node_learns_and_two_wiped_nodes_found_nothing(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(3)

    async def test() -> None:
        nodes = await start_cluster(ports, tmp_path)
        founding = nodes[0].founded[0]
        old_seat = nodes[2].seat
        await nodes[2].stop()
        shutil.rmtree(tmp_path / "node2")
        wiped = nodes[2] = RouterNode(options_for(ports, 2, tmp_path))
        assert wiped.seat != old_seat
        await wiped.router.start()
        await until(lambda: wiped.founded)
        assert wiped.founded == [founding]
        assert wiped.router.status()["founding"]["unseated"]
        peer = str(wiped.node_id)
        await until(lambda: nodes[0].router.status()["peers"][peer]["notice"])
        assert "its votes do not count" in nodes[0].router.status()["peers"][peer]["notice"]
        await wiped.stop()
        await nodes[1].stop()
        for index in (1, 2):
            shutil.rmtree(tmp_path / f"node{index}")
            nodes[index] = RouterNode(options_for(ports, index, tmp_path))
            await nodes[index].router.start()
        before = [node.counters["hellos_in"] for node in nodes[1:]]
        await until(
            lambda: all(n.counters["hellos_in"] > b + 6 for n, b in zip(nodes[1:], before, strict=True))
        )
        for node in nodes[1:]:
            assert node.founded == []
            assert node.data_dir.identity.founding is None
            assert "may not vote" in node.router.status()["founding"]["waiting_for"]
        assert nodes[0].data_dir.identity.founding == founding
        await stop_all(nodes)

    run(test())


def test_other_group_counts_and_member_lists_are_refused_by_name(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(4)

    async def test() -> None:
        a = RouterNode(options_for(ports[:3], 0, tmp_path))
        b = RouterNode(options_for(ports[:3], 1, tmp_path, groups=GROUPS + 1))
        other = [f"127.0.0.1:{port}" for port in ports]
        c = RouterNode(options_for(ports[:3], 2, tmp_path, members=other))
        for node in (a, b, c):
            await node.router.start()
        await until(lambda: all(p["refused"] for p in a.router.status()["peers"].values()))
        refused = {node: peer["refused"] for node, peer in a.router.status()["peers"].items()}
        assert refused[str(b.node_id)] == f"node 127.0.0.1:{ports[1]} has 9 groups, this node 8"
        assert f"127.0.0.1:{ports[3]}" in refused[str(c.node_id)]
        await until(lambda: b.router.status()["peers"][str(a.node_id)]["refused"])
        assert not a.founded
        # The operator mends both: they are asked for ever.
        for index, node in ((1, b), (2, c)):
            await node.stop()
            shutil.rmtree(tmp_path / f"node{index}")
        mended = [RouterNode(options_for(ports[:3], index, tmp_path)) for index in (1, 2)]
        for node in mended:
            await node.router.start()
        await until(lambda: all(node.founded for node in (a, *mended)))
        assert all(peer["refused"] is None for peer in a.router.status()["peers"].values())
        await stop_all([a, *mended])

    run(test())


def test_a_founding_that_cannot_be_written_is_told_to_nobody(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        nodes = [RouterNode(options_for(ports, index, tmp_path)) for index in (0, 1)]
        (tmp_path / "node0" / (IDENTITY_FILE + ".tmp")).mkdir()
        for node in nodes:
            await node.router.start()
        await until(lambda: nodes[0].failed)
        assert isinstance(nodes[0].failed[0], StorageFailed)
        await until(lambda: nodes[1].data_dir.identity.founding is not None)
        hellos = nodes[1].counters["hellos_in"]
        await asyncio.sleep(0.3)
        assert nodes[1].counters["hellos_in"] <= hellos + 1
        assert not nodes[1].founded
        assert len(nodes[0].failed) == 1
        await stop_all(nodes)

    run(test())


def test_frames_travel_from_ring_to_ring(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        a, b = await start_cluster(ports, tmp_path)
        everything = list(range(GROUPS))
        from_a, at_b = a.worker(0, everything), b.worker(0, everything)
        frames = [
            a.frame(b.node_id, bytes([n % 251]) * size)
            for n, size in enumerate([0, 1, 100, 3000, 4096, 70_000, 1_000_000, 3_000_000] + [200] * 300)
        ]
        from_a.send(*frames)
        await until(lambda: len(at_b.got) == len(frames), at_b, from_a)
        assert sorted(at_b.got) == sorted(frames), "unchanged, each once"
        network = a.router.status()["network"]
        assert network["udp_frames_out"] >= 300
        assert network["tcp_frames_out"] >= 3
        assert a.counters["frames_out"] == len(frames)
        assert b.counters["delivered"] == len(frames)
        back = b.frame(a.node_id, b"back")
        at_b.send(back)
        await until(lambda: from_a.read() == [back])
        assert a.drops == b.drops == {}
        await stop_all([a, b])

    run(test())


def test_each_worker_gets_what_concerns_its_groups(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        a, b = await start_cluster(ports, tmp_path)
        from_a = a.worker(0, list(range(GROUPS)))
        even, odd = b.worker(0, [0, 2, 4, 6]), b.worker(1, [1, 3, 5, 7])
        for_even, for_odd, for_both = (
            a.frame(b.node_id, b"even", 0b0101),
            a.frame(b.node_id, b"odd", 0b1000_0000),
            a.frame(b.node_id, b"both", 0b0011),
        )
        from_a.send(for_even, for_odd, for_both)
        await until(lambda: len(even.read()) == 2 and len(odd.read()) == 2)
        assert sorted(even.got) == sorted([for_even, for_both])
        assert sorted(odd.got) == sorted([for_odd, for_both])
        b.router.detach_worker(1)
        from_a.send(for_odd, for_both)
        await until(lambda: len(even.read()) == 3)
        assert b.drops == {"no_worker": 1}
        assert len(odd.read()) == 2
        successor = b.worker(1, [1, 3, 5, 7], generation=2)
        from_a.send(for_odd)
        await until(lambda: successor.read() == [for_odd])
        workers = b.router.status()["workers"]
        assert {name: (w["generation"], w["groups"]) for name, w in workers.items()} == {
            "0": (1, 4),
            "1": (2, 4),
        }
        await stop_all([a, b])

    run(test())


def test_frames_that_a_worker_may_not_send_are_dropped(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        a, b = await start_cluster(ports, tmp_path)
        at_b = b.worker(0, list(range(GROUPS)))
        worker = a.worker(0, list(range(GROUPS)), generation=3)
        good = a.frame(b.node_id, b"good", generation=3)
        worker.send(
            a.frame(b.node_id, b"an earlier life", generation=2),
            b"too short",
            a.frame(77, b"nobody", generation=3),
            good,
        )
        await until(lambda: at_b.read() == [good])
        assert a.drops == {"own_generation": 1, "own_short": 1, "not_sent": 1}
        assert a.counters["frames_out"] == 1
        await stop_all([a, b])

    run(test())


def test_a_worker_that_does_not_read_costs_its_own_frames_only(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        a, b = await start_cluster(ports, tmp_path, network=NetworkOptions(udp_max_bytes=0))
        from_a = a.worker(0, list(range(GROUPS)), ring_bytes=1 << 20)
        stuck = FakeWorker(b.bell, ring_bytes=4096)
        stuck.attach(b.router, 0, [0], backlog_max_bytes=100_000)
        busy = b.worker(1, [1])
        for_stuck = a.frame(b.node_id, bytes(1000), 0b01)
        for_busy = a.frame(b.node_id, bytes(1000), 0b10)
        from_a.send(*[frame for _ in range(200) for frame in (for_stuck, for_busy)])
        await until(lambda: len(busy.read()) == 200)
        await until(lambda: b.counters["delivered"] + b.drops.get("ring_full", 0) == 400)
        assert b.drops["ring_full"] > 50
        # It reads again: the backlog follows by itself, since its end of the ring asks for it.
        expected = 200 - b.drops["ring_full"]
        assert expected * len(for_stuck) > 100_000 - 4096
        await until(lambda: len(stuck.read()) == expected)
        await stop_all([a, b])

    run(test())


def test_one_bell_for_all_that_arrive_together(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        a, b = await start_cluster(ports, tmp_path)
        from_a, at_b = a.worker(0, [0]), b.worker(0, [0])
        rounds = 20
        for count in range(1, rounds + 1):
            while not at_b.receiver.prepare_sleep():
                at_b.read()
            from_a.send(*[a.frame(b.node_id, bytes(100))] * 50)
            await until(at_b.bell.clear)
            at_b.receiver.wake()
            await until(lambda want=50 * count: len(at_b.read()) == want)  # type: ignore[misc]
        rings = b.router.status()["workers"]["0"]["to_worker"]["rings"]
        assert rings == rounds, "one bell for each time that the worker slept"
        await stop_all([a, b])

    run(test())


def test_damaged_rings_break_one_link_and_are_reported(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        a, b = await start_cluster(ports, tmp_path)
        from_a = a.worker(1, [1])
        good, bad = b.worker(0, [0]), b.worker(1, [1])
        bad.send(b.frame(a.node_id, b"x" * 100, 0b10))
        await until(lambda: len(from_a.read()) == 1)
        with mmap.mmap(bad.from_worker, 0) as memory:
            memory[4096 + 300] ^= 1
            # The head moves on over what no producer wrote.
            head = int.from_bytes(memory[128:136], "little")
            memory[128:136] = (head + 160).to_bytes(8, "little")
        b.bell.ring()
        await until(lambda: b.broken)
        assert b.broken[0][0] == 1
        assert list(b.router.status()["workers"]) == ["0"]
        good.send(b.frame(a.node_id, b"still here", 0b10))
        await until(lambda: len(from_a.read()) == 2)
        # The other direction: a consumer whose position cannot be.
        with mmap.mmap(good.to_worker, 0) as memory:
            memory[256:264] = (1 << 40).to_bytes(8, "little")
        filler = a.frame(b.node_id, bytes(60_000), 0b01)
        from_a.send(*[filler] * 6)
        await until(lambda: len(b.broken) == 2, from_a)
        assert b.broken[1][0] == 0
        successor = b.worker(0, [0], generation=2)
        last = a.frame(b.node_id, b"last", 0b01)
        from_a.send(last)
        await until(lambda: last in successor.read())
        assert len(b.broken) == 2
        await stop_all([a, b])

    run(test())


def test_frames_before_the_founding_are_dropped(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        node = RouterNode(options_for(ports, 0, tmp_path))
        await node.router.start()
        peer = options_for(ports, 1, tmp_path).own_member().node_id
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for cluster in (0, 1, 2**64 - 1):
                frame = node.frame(node.node_id, b"", cluster=cluster, sender=peer)
                sender.sendto(frame, ("127.0.0.1", ports[0]))
        await until(lambda: node.drops.get("cluster") == 3)
        await node.stop()

    run(test())


def test_answers_to_hellos_are_rare_however_often_somebody_asks(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        a, b = await start_cluster(ports, tmp_path)
        asker = Founder(
            node_id=a.node_id,
            seat=a.seat,
            incarnation=1,
            groups=GROUPS,
            members=b.founded[0].seats,
            founding=b.founded[0],
            active=True,
            address=a.options.node,
        )
        # The last hellos of the founding arrive, and answers are given again.
        await asyncio.sleep(3 * ANSWER_PAUSE_S)
        before, heard = b.counters["hellos_in"], a.counters["hellos_in"]
        earlier = b.router.status()["founding"]["answers_dropped"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for ask in (False, True):
                for _ in range(100):
                    sender.sendto(pack_hello(asker.hello(ask=ask), b.node_id), ("127.0.0.1", ports[1]))
                await until(lambda want=before + 100: b.counters["hellos_in"] >= want)  # type: ignore[misc]
                before += 100
                if not ask:
                    assert b.router.status()["founding"]["answers_dropped"] == earlier
        dropped = b.router.status()["founding"]["answers_dropped"] - earlier
        assert 0 < dropped < 100
        await until(lambda: a.counters["hellos_in"] >= heard + 100 - dropped)
        assert a.counters["hellos_in"] == heard + 100 - dropped, "no answer is answered"
        await stop_all([a, b])

    run(test())


def test_stop_frees_the_port_and_sends_what_was_left(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        a, b = await start_cluster(ports, tmp_path)
        at_b = b.worker(0, [0])
        last = a.frame(b.node_id, b"last words")
        worker = FakeWorker(a.bell)
        worker.send(last)
        worker.attach(a.router, 0, [0])
        await a.router.stop()
        await a.router.stop()
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", ports[0]))
        await until(lambda: at_b.read() == [last])
        await stop_all([a, b])

    run(test())


def test_a_port_that_is_taken_is_named(tmp_path: Path, free_ports: Ports) -> None:
    (port,) = free_ports(1)

    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
            holder.bind(("127.0.0.1", port))
            node = RouterNode(options_for([port], 0, tmp_path))
            with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
                await node.router.start()
        node.data_dir.close()

    run(test())


def test_members_in_the_options_that_are_not_those_of_the_cluster_are_reported(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    ports = free_ports(3)

    async def test() -> None:
        await stop_all(await start_cluster(ports[:2], tmp_path, limits=LimitOptions(ring_bytes=4096)))
        caplog.clear()
        changed = options_for([ports[0], ports[2]], 0, tmp_path)
        node = RouterNode(changed)
        await node.router.start()
        assert [len(founding.seats) for founding in node.founded] == [2]
        text = caplog.text
        assert f"not in the options: 127.0.0.1:{ports[1]}; only in the options: 127.0.0.1:{ports[2]}" in text
        await node.stop()

    run(test())
