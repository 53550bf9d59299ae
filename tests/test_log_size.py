"""How large the log of a real node grows: with one slow group among many, and with more groups."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import Overloaded
from paxmux.engine.options import MachineOptions, Options, StorageOptions
from paxmux.shards.node import Node
from tests.event_loop import DEADLINE_S, in_loop
from tests.node_fixtures import lone_options, running

Ports = Callable[[int], list[int]]
GROUPS = 100
SLOW = 7
SEGMENT_BYTES = 256 << 10
VALUE_BYTES = 1000
ROUNDS = 4
ROUND_COUNT = 4000
SLOW_EVERY = 40
"""One value in so many is of the slow group: each segment has some of them."""


def segment_bytes(options: Options, log: int) -> int:
    """All segments of a log but the reserved one, which is not a part of it yet."""
    sizes = []
    for path in sorted((Path(options.data_dir) / "logs" / str(log)).glob("*.seg")):
        with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
            sizes.append(path.stat().st_size)
    return sum(sizes[:-1])


async def seen(node: Node, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    while not condition(status := await node.status()):
        assert time.monotonic() < deadline, f"{what}: {status}"
        await asyncio.sleep(0.05)
    return status


@pytest.mark.xdist_group("cluster")
@in_loop
async def test_one_slow_group_among_many_keeps_little_more_than_it_needs(
    tmp_path: Path, free_ports: Ports
) -> None:
    """docs/storage.md: at most twice what lives, and three segments."""
    options = lone_options(
        tmp_path / "node",
        free_ports(1)[0],
        groups=GROUPS,
        state_machines=[MachineOptions(class_="tests.stored_machine:Stored", args={"slow": [SLOW]})],
        storage=StorageOptions(segment_bytes=SEGMENT_BYTES, keep_instances=0),
    )
    async with running(options) as node:
        written = kept = 0
        for turn in range(ROUNDS):
            for begin in range(0, ROUND_COUNT, GROUPS):
                groups = [SLOW if n % SLOW_EVERY == 0 else n % GROUPS for n in range(begin, begin + GROUPS)]
                await asyncio.gather(
                    *(
                        node.propose(group, b"%d " % n + bytes(VALUE_BYTES), smid=1, timeout_s=30)
                        for n, group in enumerate(groups)
                    )
                )
                written += len(groups) * VALUE_BYTES
                kept += groups.count(SLOW) * VALUE_BYTES

            def small(status: dict[str, Any]) -> bool:
                live_bytes = status["workers"][0]["counters"]["live_bytes"]
                return bool(segment_bytes(options, 0) <= 2 * live_bytes + 3 * SEGMENT_BYTES)

            status = await seen(node, small, f"round {turn}: the log is small again")
        counters = status["workers"][0]["counters"]
        assert kept < counters["live_bytes"] < 2 * kept + 2 * GROUPS * VALUE_BYTES
        assert segment_bytes(options, 0) < written // 4
        assert counters["removed_segments"] > written // SEGMENT_BYTES // 2
        rows = {row["group"]: row for row in status["groups"]}
        assert rows[SLOW]["first"] == 0
        assert all(row["first"] > 0 for group, row in rows.items() if group != SLOW)
        values = 0
        for instance in range(rows[SLOW]["instance"]):
            values += len(await node.instance_value(SLOW, instance))
        assert values == kept // VALUE_BYTES


def counted(folder: Path, port: int, workers: int, limit: int) -> Options:
    return lone_options(
        folder / "node",
        port,
        groups=4,
        workers=workers,
        state_machines=[
            MachineOptions(
                class_="tests.durable_machine:Counted", args={"folder": str(folder / "state"), "every": 2}
            )
        ],
        storage=StorageOptions(segment_bytes=64 << 10, keep_instances=2, max_bytes=limit),
    )


@pytest.mark.xdist_group("cluster")
@in_loop
async def test_groups_that_move_at_a_start_may_exceed_the_limit_of_their_new_log(
    tmp_path: Path, free_ports: Ports
) -> None:
    """The node starts, and refuses until enough is forgotten."""
    limit = 16 * 64 << 10
    port = free_ports(1)[0]
    options = counted(tmp_path, port, 2, limit)

    async def load(node: Node, group: int) -> None:
        for _ in range(10_000):
            await node.propose(group, bytes(VALUE_BYTES), smid=1, timeout_s=30)

    async def full(node: Node, group: int) -> None:
        with pytest.raises(Overloaded, match=r"storage\.max_bytes"):
            await load(node, group)

    async with running(options) as node:
        await node.set_cleaning(False)
        await asyncio.gather(full(node, 0), full(node, 1))
        before = [await node.query(group, b"") for group in range(4)]
    both = segment_bytes(options, 0) + segment_bytes(options, 1)
    assert both > 1.5 * limit
    options = counted(tmp_path, port, 1, limit)
    async with running(options) as node:
        assert [layout["groups"] for layout in (await node.status())["layout"]["workers"]] == [(0, 1, 2, 3)]
        assert [await node.query(group, b"", consistency="local") for group in range(4)] == before
        deadline = time.monotonic() + DEADLINE_S
        done = 0
        while done < 40:
            assert time.monotonic() < deadline
            try:
                await node.propose(done % 4, bytes(VALUE_BYTES), smid=1, timeout_s=30)
                done += 1
            except Overloaded:
                await asyncio.sleep(0.02)
        await seen(node, lambda _: segment_bytes(options, 0) <= limit, "it is below the limit")
