"""Three nodes over real workers and real logs, in one event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pytest

from paxmux.engine.errors import ExecuteFailed, PaxmuxError, Timeout, UnknownStateMachine
from paxmux.engine.options import LayoutOptions, MachineOptions, NetworkOptions, Options, WorkerOptions
from paxmux.shards import control
from paxmux.shards.done import Done
from paxmux.shards.node import Node
from paxmux.tools.bench_machine import Chain, read_answer
from tests.event_loop import in_loop
from tests.node_fixtures import check_traces, member_options, traces

Ports = Callable[[int], list[int]]

ECHO = MachineOptions(class_="paxmux.plugins.machines.echo:Echo")


def options_of(folder: Path, ports: list[int], number: int, **more: Any) -> Options:
    more.setdefault("layout", LayoutOptions(workers=2))
    more.setdefault("state_machines", [ECHO])
    patient = WorkerOptions(restart_first_ms=1, restart_max_ms=50)
    return member_options(folder, ports, number, groups=4, worker=patient, **more)


@asynccontextmanager
async def cluster(folder: Path, ports: list[int], **more: Any) -> AsyncIterator[list[Node]]:
    before = traces()
    nodes = [Node(options_of(folder, ports, number, **more)) for number in range(len(ports))]
    try:
        await asyncio.gather(*(node.start(60) for node in nodes))
        yield nodes
    finally:
        await asyncio.gather(*(node.stop(1) for node in nodes))
    check_traces(before)


async def caught_up(node: Node, group: int, instance_id: int) -> None:
    deadline = time.monotonic() + 30
    while await node.now_instance_id(group) < instance_id:
        assert time.monotonic() < deadline, f"group {group} does not reach instance {instance_id}"
        await asyncio.sleep(0.02)


async def history(node: Node, group: int) -> list[tuple[bytes, int]]:
    """All decided values of a group, in order."""
    found: list[tuple[bytes, int]] = []
    for instance in range(await node.now_instance_id(group)):
        found += await node.instance_value(group, instance)
    return found


@in_loop
@pytest.mark.parametrize(
    ("network", "direct"),
    [
        ({}, True),
        ({"udp_max_bytes": 0}, False),
        ({"plugin": "paxmux.tools.cuttable_network:CuttableNetwork"}, False),
    ],
)
async def test_workers_send_what_is_small_themselves(
    tmp_path: Path, free_ports: Ports, network: dict[str, Any], direct: bool
) -> None:
    async with cluster(tmp_path, free_ports(3), network=NetworkOptions(**network)) as nodes:
        for number in range(20):
            await nodes[0].propose(number % 4, b"x", smid=1, timeout_s=30)

        async def sent(name: str) -> int:
            status = [await node.status() for node in nodes]
            return sum(worker["counters"][name] for each in status for worker in each["workers"])

        deadline = time.monotonic() + 30
        while await sent("frames_out") < 40:
            assert time.monotonic() < deadline, "the counters of workers are published now and then"
            await asyncio.sleep(0.05)
        assert (await sent("frames_direct") > 0) == direct


@in_loop
async def test_a_linearizable_read_sees_what_was_acknowledged_anywhere(
    tmp_path: Path, free_ports: Ports
) -> None:
    counter = MachineOptions(class_="paxmux.tools.bench_machine:Chain")
    acknowledged = dict.fromkeys(range(4), 0)
    async with cluster(tmp_path, free_ports(3), state_machines=[counter]) as nodes:
        for number in range(60):
            group = number % 4
            await nodes[number % 3].propose(group, b"x", smid=Chain.smid, timeout_s=30)
            acknowledged[group] += 1
            for node in nodes:
                answer = await node.query(group, b"", Chain.smid, "linearizable", timeout_s=30)
                assert read_answer(answer)[0] == acknowledged[group]


@in_loop
async def test_values_are_decided_once_and_alike_everywhere(tmp_path: Path, free_ports: Ports) -> None:
    async with cluster(tmp_path, free_ports(3)) as nodes:
        calls = [
            nodes[number % 3].propose(number % 4, b"%d" % number, smid=1, timeout_s=30)
            for number in range(120)
        ]
        outcomes = await asyncio.gather(*calls)
        assert [done.result for done in outcomes] == [b"%d" % number for number in range(120)]
        for group in range(4):
            end = max(done.instance_id for number, done in enumerate(outcomes) if number % 4 == group) + 1
            for node in nodes:
                await caught_up(node, group, end)
            histories = [await history(node, group) for node in nodes]
            assert histories[0] == histories[1] == histories[2]
            assert sorted(histories[0]) == sorted((b"%d" % number, 1) for number in range(group, 120, 4))
            for number in range(group, 120, 4):
                done = outcomes[number]
                values = await nodes[0].instance_value(group, done.instance_id)
                assert values[done.batch_index] == (b"%d" % number, 1)


@in_loop
async def test_many_values_of_one_call_keep_their_order(tmp_path: Path, free_ports: Ports) -> None:
    async with cluster(tmp_path, free_ports(3)) as nodes:
        each = [[b"%d-%d" % (node, number) for number in range(3000)] for node in range(3)]
        each[2].append(bytes(2_000_000))
        calls = [
            node.propose_many(2, pyarrow.array(values) if node is nodes[0] else values, smid=1, timeout_s=30)
            for node, values in zip(nodes, each, strict=True)
        ]
        for values, outcomes in zip(each, await asyncio.gather(*calls), strict=True):
            outcomes.raise_first()
            assert [done.result for done in outcomes if isinstance(done, Done)] == values
            places = [(done.instance_id, done.batch_index) for done in outcomes if isinstance(done, Done)]
            assert places == sorted(set(places))
            assert len(places) == len(values)
            await caught_up(nodes[0], 2, places[-1][0] + 1)
            decided = {instance: await nodes[0].instance_value(2, instance) for instance in dict(places)}
            assert [decided[instance][index] for instance, index in places] == [(each, 1) for each in values]


@pytest.mark.parametrize("router", ["inline", "process"])
def test_two_of_three_go_on_and_one_alone_does_not(tmp_path: Path, free_ports: Ports, router: str) -> None:
    @in_loop
    async def scenario() -> None:
        ports = free_ports(3)
        async with cluster(tmp_path, ports, router=router) as nodes:
            await nodes[0].propose(0, b"all", smid=1)
            await nodes[2].stop()
            assert (await nodes[0].propose(0, b"two", smid=1, timeout_s=30)).result == b"two"
            await nodes[1].stop()
            with pytest.raises(Timeout) as caught:
                await nodes[0].propose(0, b"one", smid=1, timeout_s=0.5)
            assert caught.value.code == 404
            waiting = asyncio.create_task(nodes[0].propose(0, b"waits", smid=1, timeout_s=60))
            await asyncio.sleep(0.1)
            back = Node(options_of(tmp_path, ports, 1, router=router))
            await back.start(30)
            assert (await waiting).result == b"waits"
            await caught_up(back, 0, (await waiting).instance_id + 1)
            decided = [value for value, _ in await history(back, 0)]
            assert decided[:2] == [b"all", b"two"]
            assert decided[-1] == b"waits"
            assert len(decided) == len(set(decided))
            await back.stop()

    scenario()


@in_loop
async def test_a_killed_worker_recovers_while_the_other_slice_goes_on(
    tmp_path: Path, free_ports: Ports
) -> None:
    async with cluster(tmp_path, free_ports(3)) as nodes:
        acknowledged: dict[int, list[bytes]] = {0: [], 1: []}
        unknown: list[bytes] = []
        ended = False

        async def caller(group: int, name: int) -> None:
            turn = 0
            while not ended:
                turn += 1
                value = b"%d-%d" % (name, turn)
                try:
                    await nodes[0].propose(group, value, smid=1, timeout_s=30)
                except Timeout:
                    unknown.append(value)
                except Exception as error:
                    if getattr(error, "code", None) != 405:
                        raise
                    await asyncio.sleep(0.005)
                else:
                    acknowledged[group].append(value)

        callers = [asyncio.create_task(caller(name % 2, name)) for name in range(8)]
        for _ in range(3):
            await asyncio.sleep(0.3)
            row = (await nodes[0].status())["workers"][0]
            if row["pid"] is not None:
                os.kill(row["pid"], signal.SIGKILL)
            before = len(acknowledged[1])
            while len(acknowledged[1]) < before + 20:
                await asyncio.sleep(0.01)
        deadline = time.monotonic() + 30
        while (await nodes[0].status())["workers"][0]["state"] != "serving":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        before = len(acknowledged[0])
        while len(acknowledged[0]) < before + 20:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        ended = True
        await asyncio.gather(*callers)
        end = await nodes[0].now_instance_id(0)
        for node in nodes:
            await caught_up(node, 0, end)
        decided = [value for value, _ in await history(nodes[0], 0)]
        assert len(decided) == len(set(decided)), "nothing is decided twice"
        assert set(acknowledged[0]) <= set(decided)
        assert set(decided) <= set(acknowledged[0]) | set(unknown)
        assert [value for value, _ in await history(nodes[1], 0)][: len(decided)] == decided


@in_loop
async def test_errors_of_machines_reach_the_proposer(tmp_path: Path, free_ports: Ports) -> None:
    async with cluster(tmp_path, free_ports(1)) as (node,):
        with pytest.raises(UnknownStateMachine):
            await node.propose(0, b"x", smid=77)
        with pytest.raises(UnknownStateMachine):
            await node.query(0, b"x", smid=77)
        assert (await node.propose(0, b"x", smid=1, timeout_s=30)).result == b"x"
        assert (await node.status())["groups"][0]["applied"] == 1
        with pytest.raises((UnknownStateMachine, ExecuteFailed)):
            await node.propose(0, b"x", smid=78)


@in_loop
async def test_stop_without_a_quorum_is_bounded_and_clean(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(3)
    async with cluster(tmp_path, ports) as nodes:
        await asyncio.gather(nodes[1].stop(), nodes[2].stop())
        call = asyncio.create_task(nodes[0].propose(0, b"x", smid=1, timeout_s=None))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(30):
            await nodes[0].stop(0.2)
        with pytest.raises(Timeout):
            await call
        assert not (tmp_path / "node0" / "control.sock").exists()


@in_loop
async def test_the_control_socket_tells_the_status(tmp_path: Path, free_ports: Ports) -> None:
    async with cluster(tmp_path, free_ports(3)) as nodes:
        await nodes[1].propose(3, b"x", smid=1)
        status = await asyncio.to_thread(control.request, tmp_path / "node1", {"op": "status"}, 10)
        assert [row["group"] for row in status["groups"]] == [0, 1, 2, 3]
        assert status["groups"][3]["instance"] == 1
        assert sum(peer["connected"] for peer in status["peers"].values()) == 2


@pytest.mark.parametrize("router", ["inline", "process"])
def test_a_blocked_loop_is_named_where_its_votes_suffer(
    tmp_path: Path, free_ports: Ports, router: str, caplog: pytest.LogCaptureFixture
) -> None:
    @in_loop
    async def scenario() -> None:
        async with cluster(tmp_path, free_ports(1), router=router) as (node,):
            await asyncio.sleep(0.05)
            time.sleep(0.3)
            await asyncio.sleep(0.05)
            assert (await node.status())["loop"]["lag_max_ms"] >= 200

    with caplog.at_level(logging.WARNING):
        scenario()
    warnings = [
        record.getMessage() for record in caplog.records if "event loop was blocked" in record.getMessage()
    ]
    assert len(warnings) == 1
    assert ("`router: process`" in warnings[0]) == (router == "inline")


@in_loop
async def test_a_killed_node_comes_back_on_its_data(tmp_path: Path, free_ports: Ports) -> None:
    """The lock, the socket and the log of a node that was killed are no obstacle to the next one."""
    (port,) = free_ports(1)
    options = options_of(tmp_path, [port], 0)
    code = (
        "import asyncio, sys, os, signal\n"
        "import msgspec\n"
        "from paxmux import Node, Options\n"
        "async def main():\n"
        "    node = Node(msgspec.json.decode(sys.argv[1], type=Options))\n"
        "    await node.start(30)\n"
        "    for number in range(20):\n"
        "        await node.propose(0, b'%d' % number, smid=1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, msgspec.json.encode(options).decode()
    )
    assert await process.wait() == -signal.SIGKILL
    assert (tmp_path / "node0" / "control.sock").exists()
    node = Node(options)
    await node.start(30)
    try:
        # The last value is durable; that it was decided is found out anew.
        await caught_up(node, 0, 20)
        assert [value for value, _ in await history(node, 0)] == [b"%d" % number for number in range(20)]
        assert (await node.propose(0, b"more", smid=1)).instance_id == 20
    finally:
        await node.stop()


@in_loop
async def test_a_node_whose_logs_are_gone_does_not_start_again(tmp_path: Path, free_ports: Ports) -> None:
    """Its promises are gone with them: in the same seat it could help to decide a second value."""
    ports = free_ports(1)
    async with cluster(tmp_path, ports) as (node,):
        await node.propose(0, b"x", smid=1, timeout_s=30)
    shutil.rmtree(tmp_path / "node0" / "logs")
    again = Node(options_of(tmp_path, ports, 0))
    with pytest.raises(PaxmuxError, match="must not vote in its present seat again"):
        await again.start(30)
    await again.stop(0)
