"""What becomes of faults of processes: real workers, routers and servers, killed, stopped and hung."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from paxmux.engine.errors import ExecuteFailed, Overloaded, Timeout
from paxmux.engine.options import LimitOptions, MachineOptions, NetworkOptions, Options, WorkerOptions
from paxmux.shards.done import Done
from paxmux.shards.node import Node
from paxmux.shards.standstill import process_state
from tests.event_loop import DEADLINE_S, in_loop, until
from tests.fault_rows import fault
from tests.node_fixtures import lone_options, running, started

Ports = Callable[[int], list[int]]

OBEDIENT = [MachineOptions(class_="tests.obedient_machine:Obedient")]
HEAD_AT, TAIL_AT = 128, 256
"""Words of a ring's header."""
QUICK = WorkerOptions(restart_first_ms=1, restart_max_ms=20, hang_warn_ms=500, hang_kill_ms=2000)
PATIENT = WorkerOptions(restart_first_ms=1, restart_max_ms=20)
STALLED = (
    "reported with its phase after `worker.hang_warn_ms`; killed after `worker.hang_kill_ms` and replaced"
)


def options_of(folder: Path, ports: Ports, **more: Any) -> Options:
    more.setdefault("worker", QUICK)
    more.setdefault("state_machines", OBEDIENT)
    more.setdefault("workers", 2)
    return lone_options(folder / "n", ports(1)[0], **more)


async def rows(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await node.status())["workers"]
    return found


async def life(node: Node, worker: int, generation: int) -> dict[str, Any]:
    """The status of a worker once that life of it serves."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            row = (await rows(node))[worker]
            if row["state"] == "serving" and row["generation"] >= generation:
                return row
            await asyncio.sleep(0.01)


async def served(node: Node, group: int, value: bytes) -> bytes | None:
    """Propose until it is taken: a worker may be down for the moment."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return (await node.propose(group, value, smid=1)).result
            except Overloaded:
                await asyncio.sleep(0.01)


class Neighbour:
    """Callers of the other slice: it must not notice anything."""

    def __init__(self, node: Node, group: int) -> None:
        self.answered = 0
        self._node, self._group = node, group
        self._ends = False
        self._task = asyncio.create_task(self._call())

    async def _call(self) -> None:
        while not self._ends:
            value = b"%d" % self.answered
            assert (await self._node.propose(self._group, value, smid=1)).result == value
            self.answered += 1

    async def more(self) -> None:
        """It is answered now as well."""
        before = self.answered
        await until(lambda: self._task.done() or self.answered > before + 20)

    async def end(self) -> None:
        self._ends = True
        await self._task


@fault("stopped (SIGSTOP)", "worker", f"{STALLED}; in flight there: 404; other slices go on")
@in_loop
async def test_a_stopped_worker_is_replaced(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(options_of(tmp_path, free_ports)) as node:
        assert await served(node, 0, b"before") == b"before"
        neighbour = Neighbour(node, 1)
        first, second = await rows(node)
        os.kill(first["pid"], signal.SIGSTOP)
        with pytest.raises(
            Timeout, match=r"worker 0 died: it stood still for .* stopped by a signal.*not known"
        ):
            await node.propose(0, b"lost", smid=1, timeout_s=None)
        row = await life(node, 0, 2)
        assert row["last_exit"] == "killed by SIGKILL"
        assert row["hung"] == [], "no machine has anything to do with it"
        assert await served(node, 0, b"after") == b"after"
        await neighbour.more()
        await neighbour.end()
        assert (await rows(node))[1]["pid"] == second["pid"]
    assert "worker 0 has not turned for" in caplog.text
    assert "worker 0 is killed: it stood still for" in caplog.text


@fault("stopped (SIGSTOP), and continued", "worker", "it goes on, and answers; only reported")
@in_loop
async def test_a_worker_that_was_stopped_for_a_moment_goes_on(tmp_path: Path, free_ports: Ports) -> None:
    patient = WorkerOptions(hang_warn_ms=300, hang_kill_ms=60_000)
    async with running(options_of(tmp_path, free_ports, worker=patient)) as node:
        pid = (await rows(node))[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        call = asyncio.create_task(node.propose(0, b"late", smid=1, timeout_s=None))
        await asyncio.sleep(2.0)  # It is asked meanwhile where it is.
        os.kill(pid, signal.SIGCONT)
        assert (await call).result == b"late"
        assert (await rows(node))[0]["pid"] == pid


@fault("stopped (SIGSTOP), and continued", "a node with all its processes", "no worker is blamed for the gap")
@in_loop
async def test_time_that_nobody_watched_does_not_count(tmp_path: Path, free_ports: Ports) -> None:
    async with running(options_of(tmp_path, free_ports)) as node:
        pids = [row["pid"] for row in await rows(node)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(QUICK.hang_kill_ms / 1000 + 1)  # The watcher stands still as well.
        await asyncio.sleep(0.7)  # It looks.
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert await served(node, 0, b"x") == b"x"
        assert [row["pid"] for row in await rows(node)] == pids


@fault(
    "a state machine never returns",
    "worker",
    f"{STALLED}: it says where it hangs; in the successor that machine is stopped (15), all else goes on",
)
@in_loop
async def test_a_machine_that_hangs_is_stopped_in_the_next_worker(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(options_of(tmp_path, free_ports)) as node:
        assert await served(node, 2, b"before") == b"before"
        neighbour = Neighbour(node, 1)
        with pytest.raises(Timeout, match=r"executing state machine 1 of group 0 at instance 0, value 0"):
            await node.propose(0, b"hang", smid=1, timeout_s=None)
        row = await life(node, 0, 2)
        assert (
            "state machine 1 of group 0 is stopped since worker 0 hung in it, at instance 0" in row["hung"][0]
        )
        await neighbour.more()
        await neighbour.end()
        with pytest.raises(ExecuteFailed, match="hung in it"):
            await node.propose(0, b"x", smid=1)
        assert await served(node, 2, b"another group of that worker") == b"another group of that worker"
        stopped = {row["group"]: row["stopped"] for row in (await node.status())["groups"]}
        assert "hung" in stopped[0]["1"]
        assert not stopped[2]
    assert "never_returns" in capfd.readouterr().err, "it said where it was"


@fault(
    "a state machine is slow",
    "worker",
    "named with group and time in the log, at most each 10 s, and in the status; its slice is slower, others "
    "are not",
)
@in_loop
async def test_a_slow_machine_is_named_and_not_taken_for_hung(
    tmp_path: Path, free_ports: Ports, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(options_of(tmp_path, free_ports)) as node:
        pids = [row["pid"] for row in await rows(node)]
        neighbour = Neighbour(node, 1)
        # Each takes less than is allowed without a sign of life, together they take more.
        for _ in range(2):  # In a turn with several groups nobody knows which one it was, the first time.
            calls = [node.propose(0, b"sleep:600", smid=1, timeout_s=None) for _ in range(4)]
            calls.append(node.propose(2, b"quick", smid=1, timeout_s=None))
            await asyncio.gather(*calls)
        await neighbour.more()
        await neighbour.end()
        assert [row["pid"] for row in await rows(node)] == pids
        status = await node.status()
        slow = {row["group"]: row["slow"] for row in status["groups"]}
        assert slow[0]["machines"] == "1 (Obedient)"
        assert slow[0]["longest_ms"] >= 550
        assert (slow[1], slow[2]) == (None, None)
        assert status["workers"][0]["counters"]["slow_turns"] >= 1
    said = capfd.readouterr().err
    assert said.count("execution is slow") == 1
    assert "state machine 1 (Obedient) of group 0 took" in said


@fault("killed (SIGKILL)", "worker", "in flight there: 404; restarted after the back-off; other slices go on")
@fault("out of memory: killed by the system", "worker", "as killed")
@in_loop
async def test_a_killed_worker_is_replaced_with_all_its_data(tmp_path: Path, free_ports: Ports) -> None:
    async with running(options_of(tmp_path, free_ports)) as node:
        neighbour = Neighbour(node, 1)
        instance = (await node.propose(0, b"kept", smid=1)).instance_id
        first, second = await rows(node)
        os.kill(first["pid"], signal.SIGSTOP)  # So that what follows is in flight.
        call = asyncio.create_task(node.propose(0, b"in flight", smid=1, timeout_s=None))
        await asyncio.sleep(0.05)
        os.kill(first["pid"], signal.SIGKILL)
        with pytest.raises(Timeout, match=r"worker 0 died: killed by SIGKILL.*not known"):
            await call
        await life(node, 0, 2)
        assert await served(node, 0, b"more") == b"more"
        assert await node.instance_value(0, instance) == [(b"kept", 1)]
        await neighbour.more()
        await neighbour.end()
        assert (await rows(node))[1]["pid"] == second["pid"]


@fault(
    "out of memory: in a state machine",
    "worker",
    "`MemoryError` stops the machine (15), as any exception does",
)
@in_loop
async def test_a_machine_that_eats_all_memory_is_stopped(tmp_path: Path, free_ports: Ports) -> None:
    async with running(options_of(tmp_path, free_ports)) as node:
        pids = [row["pid"] for row in await rows(node)]
        with pytest.raises(ExecuteFailed, match="MemoryError"):
            await node.propose(0, b"eat", smid=1)
        assert await served(node, 2, b"x") == b"x"
        assert [row["pid"] for row in await rows(node)] == pids


@fault("out of memory: elsewhere", "worker", "it ends, and says where; else as killed")
@in_loop
async def test_a_worker_that_gets_no_memory_is_replaced(
    tmp_path: Path, free_ports: Ports, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(options_of(tmp_path, free_ports)) as node:
        neighbour = Neighbour(node, 1)
        pid = (await rows(node))[0]["pid"]
        size = psutil.Process(pid).memory_info().vms
        resource.prlimit(pid, resource.RLIMIT_AS, (size, size))
        with pytest.raises(Timeout, match="worker 0 died: exit code 1"):
            await asyncio.gather(*(node.propose(0, bytes(10 << 20), smid=1) for _ in range(6)))
        assert "MemoryError" in capfd.readouterr().err
        await life(node, 0, 2)
        assert await served(node, 0, b"x") == b"x"
        await neighbour.more()
        await neighbour.end()


@fault(
    "crash loop",
    "worker",
    "restarts are further and further apart, and counted; after `worker.crash_budget` "
    "deaths it stays down, its groups refuse (405) with the reason; other slices go on",
)
@in_loop
async def test_a_crash_loop_is_shown_and_ends(tmp_path: Path, free_ports: Ports) -> None:
    loop_of_four = WorkerOptions(restart_first_ms=20, restart_max_ms=60, crash_budget=4, crash_window_s=60)
    async with running(options_of(tmp_path, free_ports, worker=loop_of_four)) as node:
        neighbour = Neighbour(node, 1)
        waits: dict[int, float] = {}
        for generation in range(1, 5):
            row = await life(node, 0, generation)
            assert row["recent_deaths"] == generation - 1
            os.kill(row["pid"], signal.SIGKILL)
            await until(lambda: node._assembly._supervisor.posts[0].pid is None)
            row = (await rows(node))[0]
            if row["next_start_s"] is not None:
                waits[generation] = row["next_start_s"]
        row = (await rows(node))[0]
        assert (row["state"], row["generation"], row["restarts"], row["recent_deaths"]) == ("down", 4, 3, 4)
        assert "stays down until the node is started again" in row["reason"]
        assert all(0 <= wait <= 0.06 for wait in waits.values())
        with pytest.raises(Overloaded, match="stays down until the node is started again"):
            await node.propose(0, b"x", smid=1)
        await neighbour.more()
        await neighbour.end()


@fault(
    "a state machine raises",
    "worker",
    "that machine is stopped there (15), until the worker is restarted; else all goes on",
)
@in_loop
async def test_a_machine_that_raises_is_stopped_alone(tmp_path: Path, free_ports: Ports) -> None:
    both = [*OBEDIENT, MachineOptions(class_="tests.obedient_machine:Other")]
    async with running(options_of(tmp_path, free_ports, state_machines=both)) as node:
        pids = [row["pid"] for row in await rows(node)]
        with pytest.raises(ExecuteFailed, match="RuntimeError: as asked"):
            await node.propose(0, b"raise", smid=1)
        with pytest.raises(ExecuteFailed, match="stopped at instance 0"):
            await node.propose(0, b"x", smid=1)
        assert (await node.propose(0, b"x", smid=2)).result == b"x"
        assert (await node.propose(2, b"x", smid=1)).result == b"x"
        assert [row["pid"] for row in await rows(node)] == pids


@fault(
    "killed (SIGKILL)",
    "router process",
    "all workers of the node are ended and begin again with the next one: 404",
)
@fault("stopped (SIGSTOP)", "router process", "reported; killed after `worker.hang_kill_ms`; then as killed")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_router_process_that_is_lost_is_replaced(
    tmp_path: Path, free_ports: Ports, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    @in_loop
    async def scenario() -> None:
        async with running(options_of(tmp_path, free_ports, router="process")) as node:
            instance = (await node.propose(0, b"kept", smid=1)).instance_id
            before = (await node.status())["router"]
            os.kill(before["pid"], number)
            await life(node, 0, 2)
            await life(node, 1, 2)
            assert await served(node, 0, b"x") == b"x"
            assert await served(node, 1, b"x") == b"x"
            assert await node.instance_value(0, instance) == [(b"kept", 1)]
            after = (await node.status())["router"]
            assert (after["generation"], after["restarts"]) == (2, 1)
            assert after["pid"] != before["pid"]

    scenario()
    assert "the router process died:" in caplog.text
    assert ("the router process is killed: it stood still" in caplog.text) == (number == signal.SIGSTOP)


SERVER = """
import asyncio, sys
import msgspec
from paxmux import Node, Options
async def main():
    node = Node(msgspec.json.decode(sys.argv[1], type=Options))
    await node.start(30)
    for number in range(40):
        await node.propose(number % 4, b"%d" % number, smid=1)
    status = await node.status()
    print(status["router"]["pid"], *[row["pid"] for row in status["workers"]], flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@fault(
    "killed (SIGKILL)",
    "embedding server",
    "all its processes die with it, nothing is left; started again it has all data",
)
@in_loop
async def test_with_its_server_all_of_a_node_dies(tmp_path: Path, free_ports: Ports) -> None:
    options = options_of(tmp_path, free_ports, router="process")
    before = set(os.listdir("/dev/shm"))
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, msgspec.json.encode(options).decode(), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        pids = [int(word) for word in (await server.stdout.readline()).split()]
    assert len(pids) == 3
    server.kill()
    await server.wait()
    await until(lambda: not any(map(runs, pids)))
    assert not {name for name in os.listdir("/dev/shm") if "paxmux" in name} - before
    node = await started(options)
    try:
        for group in range(4):
            assert await served(node, group, b"after") == b"after"
            found = [
                value
                for instance in range(await node.now_instance_id(group))
                for value, _ in await node.instance_value(group, instance)
            ]
            assert found == [b"%d" % number for number in range(group, 40, 4)] + [b"after"]
    finally:
        await node.stop(1)


def runs(pid: int) -> bool:
    """Whether it is there, and no zombie: in a container without an init nobody may reap it."""
    return process_state(pid) not in ("", psutil.STATUS_ZOMBIE)


@fault(
    "a ring's header is damaged",
    "worker",
    "noticed by whichever end looks, unless overwritten before; the worker is replaced, on fresh rings: 404",
)
@pytest.mark.parametrize(
    ("which", "word"),
    [(0, HEAD_AT), (1, HEAD_AT), (2, HEAD_AT), (3, TAIL_AT)],
    ids=["client-in", "client-out", "network-in", "network-out-tail"],
)
def test_a_damaged_ring_resets_the_link(tmp_path: Path, free_ports: Ports, which: int, word: int) -> None:
    @in_loop
    async def scenario() -> None:
        members = [f"127.0.0.1:{port}" for port in free_ports(3)]
        # Small ones, so that producers soon look how far consumers are.
        limits = LimitOptions(ring_bytes=65_536)
        # No frame goes past the rings.
        network = NetworkOptions(udp_max_bytes=0)
        own = options_of(tmp_path, free_ports, limits=limits, worker=PATIENT, network=network)
        nodes = [
            Node(
                msgspec.structs.replace(
                    own, node=member, members=members, data_dir=str(tmp_path / member.rpartition(":")[2])
                )
            )
            for member in members
        ]
        async with AsyncExitStack() as stack:
            for node in nodes:
                stack.push_async_callback(node.stop, 0.1)
            await asyncio.gather(*(node.start(30) for node in nodes))
            node = nodes[0]
            instance = (await node.propose(0, b"kept", smid=1)).instance_id
            neighbour = Neighbour(node, 1)
            pid = (await rows(node))[0]["pid"]
            async with asyncio.timeout(DEADLINE_S):
                calls: list[asyncio.Future[Any]] = []
                while node._assembly._supervisor.posts[0].generation == 1:
                    for _ in range(10):  # In between, since whoever writes overwrites it.
                        damage(pid, which, word)
                        await asyncio.sleep(0.002)
                    calls.append(asyncio.ensure_future(node.propose(0, bytes(3000), smid=1, timeout_s=5)))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(each) for each in outcomes} <= {Done, Timeout, Overloaded}
            await life(node, 0, 2)
            assert await served(node, 0, b"more") == b"more"
            assert await node.instance_value(0, instance) == [(b"kept", 1)]
            await neighbour.more()
            await neighbour.end()

    scenario()


def damage(pid: int, which: int, word: int) -> None:
    """Write nonsense into a word of the header of one of a worker's rings, in the order of `WorkerBoot`;
    nothing if it is gone."""
    with contextlib.suppress(OSError):
        rings = [
            entry
            for entry in sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda entry: int(entry.name))
            if "paxmux-ring" in os.readlink(entry)
        ]
        if len(rings) > which:
            fd = os.open(rings[which], os.O_RDWR)
            try:
                os.pwrite(fd, (1 << 40).to_bytes(8, "little"), word)
            finally:
                os.close(fd)
