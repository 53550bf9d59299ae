"""Every datagram of a cluster once more: at once, later in any order, and to nodes that have begun anew."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from paxmux.engine.address import pack_node_id
from paxmux.engine.frame import parse_header
from paxmux.engine.frame_header import FrameError
from paxmux.engine.options import LayoutOptions, MachineOptions, NetworkOptions, Options, WorkerOptions
from paxmux.engine.paxos.messages import KINDS
from paxmux.engine.secret_file import new_secret_file
from paxmux.plugins.network.seal import SEAL_BYTES
from paxmux.shards.codec import BodyError, decode_sections
from paxmux.shards.node import Node
from paxmux.tools.bench_machine import Chain, read_answer
from tests.event_loop import DEADLINE_S, in_loop
from tests.wire_tap import WireTap

Ports = Callable[[int], list[int]]
GROUPS = 4
AT_LEAST = {
    "chosen",
    "prepares",
    "prepare_replies",
    "accepts",
    "accept_replies",
    "positions",
    "top_asks",
    "top_replies",
    "forwards",
}
"""Kinds of messages that this load always has."""


def options_of(folder: Path, ports: list[int], taps: dict[tuple[int, int], int], number: int) -> Options:
    """Node `number`, whose way to each other one leads through a tap."""
    ids = [pack_node_id("127.0.0.1", port) for port in ports]
    return Options(
        node=f"127.0.0.1:{ports[number]}",
        members=[
            f"{ids[other]}@127.0.0.1:{ports[other] if other == number else taps[number, other]}"
            for other in range(3)
        ],
        data_dir=str(folder / f"node{number}"),
        bootstrap=True,
        groups=GROUPS,
        layout=LayoutOptions(workers=2),
        state_machines=[MachineOptions(class_="paxmux.tools.bench_machine:Chain")],
        network=NetworkOptions(secret_file=str(folder / "secret")),
        worker=WorkerOptions(restart_first_ms=1, restart_max_ms=50),
    )


def kinds_of(datagrams: list[bytes]) -> set[str]:
    """Which kinds of messages they have."""
    found: set[str] = set()
    for data in datagrams:
        try:
            header = parse_header(data)
            bodies = decode_sections(data[:-SEAL_BYTES], header.start)
        except (FrameError, BodyError) as error:
            raise AssertionError("a node has sent what is no frame") from error
        for body in bodies:
            found |= {kind for kind, messages in zip(KINDS, body, strict=True) if messages}
    return found


@in_loop
async def test_nothing_comes_of_a_datagram_that_is_repeated(tmp_path: Path, free_ports: Ports) -> None:
    rng = random.Random(5)
    new_secret_file(tmp_path / "secret")
    ports = free_ports(9)
    ways = [(sender, dest) for sender in range(3) for dest in range(3) if sender != dest]
    taps = {way: WireTap(port, ports[way[1]]) for way, port in zip(ways, ports[3:], strict=True)}
    tap_ports = dict(zip(ways, ports[3:], strict=True))
    for tap in taps.values():
        await tap.start()
    nodes = [Node(options_of(tmp_path, ports[:3], tap_ports, number)) for number in range(3)]
    acknowledged = 0

    async def load(count: int) -> None:
        nonlocal acknowledged

        async def one(number: int) -> None:
            nonlocal acknowledged
            node, group = nodes[number % 3], number % GROUPS
            await node.propose(group, number.to_bytes(8, "little") * 4, smid=Chain.smid, timeout_s=30)
            acknowledged += 1
            if number % 5 == 0:
                before = acknowledged
                answer = await node.query(group, b"", smid=Chain.smid, consistency="linearizable")
                assert read_answer(answer)[0] <= before + count

        for start in range(0, count, 20):
            await asyncio.gather(*(one(number) for number in range(start, start + 20)))

    async def marks(node: Node) -> list[tuple[int, str]]:
        return [
            read_answer(await node.query(group, b"", smid=Chain.smid, consistency="local"))
            for group in range(GROUPS)
        ]

    async def agree() -> None:
        """All replicas have executed what was acknowledged, each once, in one order."""
        end = time.monotonic() + DEADLINE_S
        while True:
            found = [await marks(node) for node in nodes]
            if found[0] == found[1] == found[2] and sum(mark[0] for mark in found[0]) == acknowledged:
                return
            assert time.monotonic() < end, (found, acknowledged)
            await asyncio.sleep(0.1)

    async def again(datagrams: dict[tuple[int, int], list[bytes]]) -> int:
        sent = 0
        for way, heard in datagrams.items():
            mixed = list(heard)
            rng.shuffle(mixed)
            for data in mixed:
                taps[way].send(data)
                sent += 1
                if sent % 50 == 0:
                    await asyncio.sleep(0.001)
        return sent

    try:
        await asyncio.gather(*(node.start(60) for node in nodes))
        for tap in taps.values():
            tap.twice = True
        await load(400)
        await agree()
        for tap in taps.values():
            tap.twice = False
        heard = {way: list(tap.datagrams) for way, tap in taps.items()}
        everything = [data for datagrams in heard.values() for data in datagrams]
        assert kinds_of(everything) >= AT_LEAST
        assert await again(heard) == len(everything) > 500
        await load(100)
        await agree()
        # While the load goes on, and what was said before a node began anew, in its seat.
        replaying = asyncio.create_task(again(heard))
        await load(100)
        await replaying
        await agree()
        await nodes[1].stop(1)
        nodes[1] = Node(options_of(tmp_path, ports[:3], tap_ports, 1))
        await nodes[1].start(60)
        await again(heard)
        for number in (0, 2, 1):
            await nodes[number].propose(0, b"after", smid=Chain.smid, timeout_s=30)
            acknowledged += 1
        await again(heard)
        await agree()
        for node in nodes:
            status = await node.status()
            drops = {reason: count for reason, count in status["router"]["drops"].items() if count}
            assert set(drops) <= {"ring_full", "no_worker", "not_sent", "cluster"}, drops
            assert status["router"]["network"]["drop_auth"] == 0
            assert not any(worker["restarts"] for worker in status["workers"])
    finally:
        await asyncio.gather(*(node.stop(1) for node in nodes))
        for tap in taps.values():
            await tap.stop()
