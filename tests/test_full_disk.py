"""Three real nodes under load, and the file system of one of them is full: its callers are refused, the
others go on, and once there is room it takes part again, without a restart. Nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import Overloaded, PaxmuxError
from paxmux.engine.options import LayoutOptions, Options, StorageOptions
from paxmux.shards.node import Node
from tests.event_loop import DEADLINE_S, in_loop
from tests.fault_rows import fault
from tests.node_fixtures import check_traces, traces
from tests.small_disk import FLAG
from tests.test_node_cluster import caught_up, history, options_of

Ports = Callable[[int], list[int]]
GROUPS = 2
SEGMENT_BYTES = 1 << 20
DISK_BYTES = 16 << 20
BALLAST_BYTES = 8 << 20
FILL_BYTES = 10 << 20
"""So many bytes of values fill it; what follows, and what the node missed, must fit once there is room."""
VALUE_BYTES = 20_000
LARGE_BYTES = 1_000_000
LARGE_SEGMENT_BYTES = 256 << 10
"""Each turn with a large value needs a segment of its own: there never is one ahead that would do."""
LARGE_DISK_BYTES = 48 << 20
LARGE_BALLAST_BYTES = 28 << 20
LARGE_FILL_BYTES = 24 << 20
SMALL_BYTES = 100
"""Of a value from when it is full."""
TIMEOUT_S = 1.0
"""What is under way when the disk is full has no outcome at that node until its time is up."""
WHILE_FULL = 20
"""So many values the others must decide meanwhile."""


class Load:
    """Callers at each node, and what they were told."""

    def __init__(self, nodes: list[Node], value_bytes: int, fill_bytes: int) -> None:
        """Values of `value_bytes` each, up to `fill_bytes` together, and small ones from then on."""
        self._nodes = nodes
        self.acknowledged: list[tuple[int, bytes]] = []
        self.ok: Counter[int] = Counter()
        self.errors: Counter[tuple[int, int]] = Counter()
        """By node and code."""
        self.words = ""
        """What the first node's callers were told last."""
        self.only: int | None = None
        """The node whose caller goes on alone."""
        self._going = True
        self.value_bytes = value_bytes
        self._fill_bytes = fill_bytes
        self._callers = [asyncio.create_task(self._call(number)) for number in range(len(nodes))]

    def refill(self, size: int) -> None:
        self._fill_bytes = size

    async def stop(self) -> None:
        self._going = False
        await asyncio.gather(*self._callers)

    async def _call(self, number: int) -> None:
        count = 0
        while self._going:
            if self.only is not None and number != self.only:
                await asyncio.sleep(0.01)
                continue
            count += 1
            group = count % GROUPS
            value = b"%d/%d " % (number, count)
            size = self.value_bytes if self._fill_bytes > 0 else SMALL_BYTES
            self._fill_bytes -= size
            try:
                await self._nodes[number].propose(group, value.ljust(size, b"."), smid=1, timeout_s=TIMEOUT_S)
            except PaxmuxError as error:
                self.errors[number, error.code] += 1
                if isinstance(error, Overloaded):
                    self.words = str(error)
                await asyncio.sleep(0.01)
                continue
            self.acknowledged.append((group, value))
            self.ok[number] += 1


async def until(condition: Callable[[], bool], load: Load) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, (load.ok, load.errors, load.words)
        await asyncio.sleep(0.02)


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


def three(
    folder: Path, ports: list[int], data_dir: Path, plugin: str, segment_bytes: int = SEGMENT_BYTES
) -> list[Options]:
    """Options of three nodes; the first has its data elsewhere."""
    found = []
    for number in range(3):
        storage = StorageOptions(segment_bytes=segment_bytes)
        if number == 0:
            storage = StorageOptions(segment_bytes=segment_bytes, plugin=plugin)
        options = options_of(folder, ports, number, layout=LayoutOptions(workers=1), storage=storage)
        changed: dict[str, Any] = {"groups": GROUPS} | ({"data_dir": str(data_dir)} if number == 0 else {})
        found.append(
            Options(**{name: getattr(options, name) for name in options.__struct_fields__} | changed)
        )
    return found


async def full_and_empty(
    options: list[Options],
    fill: Callable[[], None],
    free: Callable[[], None],
    value_bytes: int = VALUE_BYTES,
    fill_bytes: int = FILL_BYTES,
) -> None:
    async with started(options) as nodes:
        load = Load(nodes, value_bytes, fill_bytes)
        await until(lambda: load.ok[0] > 3, load)
        pid = (await nodes[0].status())["workers"][0]["pid"]
        fill()
        await until(lambda: load.errors[0, Overloaded.code] > 0, load)
        assert os.strerror(errno.ENOSPC) in load.words
        before = load.ok.copy()
        await until(lambda: all(load.ok[n] > before[n] + WHILE_FULL for n in (1, 2)), load)
        assert load.ok[0] == before[0]
        free()
        # What the others go on deciding would have to fit too.
        load.only = 0
        load.refill(3 * value_bytes)
        await until(lambda: load.ok[0] > before[0] + 3, load)
        await load.stop()
        assert (await nodes[0].status())["workers"][0]["pid"] == pid, "its worker was started again"
        assert {code for number, code in load.errors if number == 0} <= {Overloaded.code, 404}
        assert not [key for key in load.errors if key[0] != 0], load.errors
        ends = [max([await node.now_instance_id(group) for node in nodes]) for group in range(GROUPS)]
        for node in nodes:
            for group, end in enumerate(ends):
                await caught_up(node, group, end)
                values = Counter(value.rstrip(b".") for value, _ in await history(node, group))
                told = [value.rstrip() for its, value in load.acknowledged if its == group]
                kept = Counter({value.rstrip(): count for value, count in values.items()})
                assert [kept[value] for value in told] == [1] * len(told)


@contextmanager
def small_file_system(folder: Path, size: int = DISK_BYTES) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "paxmux-test", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@fault(
    "full file system under load", "node: a real small file system", "405 to its callers; goes on with room"
)
@in_loop
async def test_a_file_system_that_is_really_full(tmp_path: Path, free_ports: Ports) -> None:
    small = tmp_path / "small"
    with small_file_system(small):
        ballast = small / "ballast"
        ballast.write_bytes(bytes(BALLAST_BYTES))
        options = three(tmp_path, free_ports(3), small / "node0", StorageOptions().plugin)
        # The load fills it.
        await full_and_empty(options, lambda: None, ballast.unlink)


@fault(
    "full file system under load", "node: an allocation that fails", "405 to its callers; goes on with room"
)
@in_loop
async def test_a_disk_that_allocates_nothing(tmp_path: Path, free_ports: Ports) -> None:
    data_dir = tmp_path / "node0"
    options = three(tmp_path, free_ports(3), data_dir, "tests.small_disk:SmallDiskLog")
    await full_and_empty(options, (data_dir / FLAG).touch, (data_dir / FLAG).unlink)


@fault(
    "full file system under load",
    "node: turns that are larger than what is left",
    "405 to its callers; goes on with room, in the same process",
)
@pytest.mark.parametrize("plugin", [StorageOptions().plugin, "paxmux.plugins.storage.lmdb_log:LmdbLog"])
@in_loop
async def test_large_values_on_a_full_file_system(tmp_path: Path, free_ports: Ports, plugin: str) -> None:
    small = tmp_path / "small"
    with small_file_system(small, LARGE_DISK_BYTES):
        ballast = small / "ballast"
        ballast.write_bytes(bytes(LARGE_BALLAST_BYTES))
        options = three(tmp_path, free_ports(3), small / "node0", plugin, LARGE_SEGMENT_BYTES)
        await full_and_empty(options, lambda: None, ballast.unlink, LARGE_BYTES, LARGE_FILL_BYTES)
