"""Values of exactly the limit, one byte below and one above, on every way there is: what the check lets in
gets through (reference, L4)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from paxmux.engine.bounds import MAX_VALUE_BYTES, MIB
from paxmux.engine.errors import Code, ValueTooLarge
from paxmux.engine.options import LayoutOptions, LimitOptions, MachineOptions, NetworkOptions, Options
from paxmux.shards.node import Node
from paxmux.shards.packer import Packer
from paxmux.shards.requests import TOGETHER_MAX_BYTES
from paxmux.tools.bench_machine import Chain, read_answer
from tests.event_loop import DEADLINE_S, in_loop
from tests.node_fixtures import check_traces, lone_options, member_options, running, started, traces

Ports = Callable[[int], list[int]]

LIMIT = LimitOptions().max_value_bytes
CHAIN = MachineOptions(class_="paxmux.tools.bench_machine:Chain")
WAIT_S = 4 * DEADLINE_S


def options_of(folder: Path, ports: list[int], number: int) -> Options:
    one = LayoutOptions(workers=1)
    return member_options(folder, ports, number, groups=2, layout=one, state_machines=[CHAIN])


def value_of(size: int, number: int) -> bytes:
    return number.to_bytes(4, "little") + os.urandom(1024) + bytes(size - 1028)


async def applied(node: Node, group: int) -> tuple[int, str]:
    return read_answer(await node.query(group, b"", Chain.smid, timeout_s=WAIT_S))


async def all_applied(nodes: list[Node], group: int, count: int) -> None:
    """Every node has executed `count` values, the same ones in the same order."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = [await applied(node, group) for node in nodes]
        if min(each[0] for each in found) >= count:
            break
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)
    assert {each[0] for each in found} == {count}
    assert len({each[1] for each in found}) == 1


@in_loop
async def test_values_of_exactly_the_limit_get_everywhere(tmp_path: Path, free_ports: Ports) -> None:
    """Proposed where the ballot is and elsewhere, alone, batched, in packs, with contexts; and to a node that
    was away."""
    ports = free_ports(3)
    before = traces()
    nodes = [Node(options_of(tmp_path, ports, number)) for number in range(3)]
    await asyncio.gather(*(node.start(60) for node in nodes))
    try:
        first, second, _ = nodes
        below, exact, above = (value_of(LIMIT + more, more + 1) for more in (-1, 0, 1))
        small = [b"small %d" % number for number in range(20)]
        for node in (first, second):
            for call in (node.propose, node.batch_propose):
                with pytest.raises(ValueTooLarge) as refused:
                    await call(0, above, Chain.smid)
                assert refused.value.code == Code.VALUE_TOO_LARGE == 18
            with pytest.raises(ValueTooLarge):
                await node.propose_many(0, [b"fine", above], Chain.smid)
            with pytest.raises(ValueTooLarge):
                await node.query(0, above, Chain.smid)

        done = await first.propose(0, exact, Chain.smid, timeout_s=WAIT_S)
        assert await first.instance_value(0, done.instance_id, WAIT_S) == [(exact, Chain.smid)]
        # Together with others, which share instances as far as they may.
        many = [below, *small, exact, *small]
        together = await asyncio.gather(
            *(first.propose(0, value, Chain.smid, timeout_s=WAIT_S) for value in many)
        )
        assert len({(each.instance_id, each.batch_index) for each in together}) == len(many)
        # From a node that has not got the ballot.
        await second.propose(0, exact, Chain.smid, timeout_s=WAIT_S)
        count = 1 + len(many) + 1
        await all_applied(nodes, 0, count)

        await nodes[2].stop(1)
        batched = await asyncio.gather(
            *(first.batch_propose(0, value, Chain.smid, exact, timeout_s=WAIT_S) for value in (exact, *small))
        )
        assert len(batched) == len(small) + 1
        packed = await first.propose_many(
            0, [exact, *small, below], Chain.smid, [exact, *small, below], WAIT_S
        )
        assert packed.failed == 0
        count += len(batched) + len(packed)
        nodes[2] = await started(options_of(tmp_path, ports, 2))
        await all_applied(nodes, 0, count)
        last = await nodes[2].now_instance_id(0) - 1
        assert await nodes[2].instance_value(0, last, WAIT_S) == await first.instance_value(0, last, WAIT_S)
    finally:
        await asyncio.gather(*(node.stop(1) for node in nodes))
    check_traces(before)


@in_loop
async def test_what_is_too_much_together_is_refused_before_it_is_anywhere(
    tmp_path: Path, free_ports: Ports
) -> None:
    """A value and a context that are fine each, and no ring takes as one message."""
    limits = LimitOptions(
        max_value_bytes=MAX_VALUE_BYTES, max_pending_bytes=1 << 30, ring_backlog_bytes=256 * MIB
    )
    network = NetworkOptions(queue_max_bytes=256 * MIB)
    options = lone_options(tmp_path, free_ports(1)[0], limits=limits, network=network)
    half = bytes(TOGETHER_MAX_BYTES // 2)
    async with running(options) as node:
        for value, context in ((half, half + b"x"), (half + b"xy", half)):
            with pytest.raises(ValueTooLarge):
                await node.propose(0, value, 0, context)
            with pytest.raises(ValueTooLarge):
                await node.batch_propose(0, value, 0, context)
            with pytest.raises(ValueTooLarge):
                await node.propose_many(0, [value], 0, [context])
        done = await node.propose(0, half, 0, half, WAIT_S)
        assert (await node.propose(0, b"next", timeout_s=WAIT_S)).instance_id > done.instance_id


def test_contexts_of_the_limit_fit_beside_a_pack() -> None:
    """Each is fine by itself; what holds them together must not make them too large."""
    packer = Packer(LimitOptions(max_value_bytes=100_000, batch_max_bytes=1000))
    context = bytes(100_000)
    assert len(packer.packs([b"a", b"b"], [context, context])) == 1
    with pytest.raises(ValueTooLarge, match="100001 bytes of context"):
        packer.packs([b"a", b"b"], [context, context + b"x"])
