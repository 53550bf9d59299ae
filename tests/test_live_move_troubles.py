"""Live moves one after the other, and such as cannot end well: only the group that moves feels it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paxmux.engine.options import MachineOptions, WorkerOptions
from paxmux.shards import live_move
from paxmux.shards.applier import close_machines
from paxmux.shards.live_move import LiveMove, MoveFailed
from paxmux.shards.worker import build_machines
from tests.event_loop import in_loop, until
from tests.moving_load import Clients
from tests.node_fixtures import running
from tests.test_live_move import (
    FIRST,
    GROUPS,
    all_serve,
    answers,
    by_hand,
    check_all,
    cluster,
    options_of,
    reload,
)

Ports = Callable[[int], list[int]]
THERE = by_hand("0", "1,2,3")


def machine(name: str, **args: Any) -> list[MachineOptions]:
    return [MachineOptions(class_=f"tests.slow_machine:{name}", args=args)]


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.slow
def test_back_and_forth_without_a_pause(tmp_path: Path, free_ports: Ports) -> None:
    """What the last move leaves to do never meets the next one; nothing is left behind."""

    @in_loop
    async def scenario() -> None:
        async with cluster(tmp_path, free_ports(3)) as nodes:
            node = nodes[0]
            clients = Clients(nodes, GROUPS)
            await answers(clients)
            pids = [os.getpid(), *[row["pid"] for row in (await node.status())["workers"]]]
            before: list[tuple[int, int]] = []
            tasks = 0
            for turn in range(100):
                report = await reload(node, FIRST if turn % 2 else THERE)
                assert report["groups"] == 1
                if turn == 20:
                    before = [(open_files(pid), threads(pid)) for pid in pids]
                    tasks = len(asyncio.all_tasks())
            for pid, (files, running_threads) in zip(pids, before, strict=True):
                # Segments of the log come and go.
                assert open_files(pid) <= files + 3
                assert threads(pid) <= running_threads + 1
            assert len(asyncio.all_tasks()) <= tasks + 2
            await check_all(nodes, clients)

    scenario()


@in_loop
async def test_a_machine_is_closed_there_before_it_is_opened_here_again(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new worker is late, and opens the machine at the very moment at which the group goes back."""
    machines = machine("SlowToOpen", folder=str(tmp_path))
    async with running(options_of(tmp_path, free_ports(1), 0, state_machines=machines)) as node:
        await node.propose(1, b"x", smid=1, timeout_s=30)
        (tmp_path / "slow_s").write_text("1")
        with monkeypatch.context() as patch:
            patch.setattr(live_move, "HOLD_S", 0.3)
            with pytest.raises(MoveFailed, match="worker 1 did not have all"):
                await reload(node, THERE)
        (tmp_path / "slow_s").unlink()
        assert (await node.propose(1, b"x", smid=1, timeout_s=30)).result == b"2"
        rows = (await node.status())["workers"]
        assert [(row["generation"], row["state"]) for row in rows] == [(1, "serving")] * 2
        assert (await reload(node, THERE))["groups"] == 1
        assert (await node.propose(1, b"x", smid=1, timeout_s=30)).result == b"3"


@in_loop
async def test_a_successor_opens_a_machine_when_it_is_closed_there(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old worker dies while the new one opens the machine: its successor waits for that."""
    machines = machine("SlowToOpen", folder=str(tmp_path))
    quick = WorkerOptions(restart_first_ms=1, restart_max_ms=1, crash_budget=3)
    options = options_of(tmp_path, free_ports(1), 0, state_machines=machines, worker=quick)
    async with running(options) as node:
        await node.propose(1, b"x", smid=1, timeout_s=30)
        source = (await node.status())["workers"][0]["pid"]
        (tmp_path / "slow_s").write_text("1.5")
        changing = asyncio.create_task(reload(node, THERE))
        await until(lambda: node._worker_of[1] < 0)
        # The new worker has the machine's lock, and sleeps.
        await asyncio.sleep(0.5)
        (tmp_path / "slow_s").unlink()
        os.kill(source, signal.SIGKILL)
        with pytest.raises(MoveFailed, match="worker 0 died"):
            await changing
        await all_serve(node)
        rows = (await node.status())["workers"]
        assert [row["restarts"] for row in rows] == [1, 0]
        assert (await node.propose(1, b"x", smid=1, timeout_s=30)).result == b"2"


@in_loop
async def test_a_machine_that_cannot_say_how_far_it_is_breaks_its_move_alone(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [*options_of(tmp_path, [1], 0).state_machines, *machine("Unsure", folder=str(tmp_path))]
    async with running(options_of(tmp_path, free_ports(1), 0, state_machines=machines)) as node:
        await node.propose(1, b"x", smid=1, timeout_s=30)
        (tmp_path / "unsure").touch()
        real = LiveMove.told

        def told(move: LiveMove, worker: int, message: Any) -> None:
            real(move, worker, message)
            if message.what == "broken":
                (tmp_path / "unsure").unlink()

        with monkeypatch.context() as patch:
            patch.setattr(LiveMove, "told", told)
            with pytest.raises(MoveFailed, match="RuntimeError: its table is gone"):
                await reload(node, THERE)
        assert (await node.propose(1, b"x", smid=1, timeout_s=30)).result == b"2"
        assert [row["generation"] for row in (await node.status())["workers"]] == [1, 1]
        assert (await reload(node, THERE))["groups"] == 1
        assert (await node.propose(1, b"x", smid=1, timeout_s=30)).result == b"3"


@in_loop
async def test_machines_that_take_as_long_there_as_here_stay(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group whose machine is never idle cannot be caught up with; it is not held for that."""
    machines = machine("SlowToExecute", seconds=0.3)
    async with running(options_of(tmp_path, free_ports(1), 0, state_machines=machines)) as node:
        for _ in range(6):
            await node.propose(1, b"x", smid=1, timeout_s=30)
        held: list[LiveMove] = []
        monkeypatch.setattr(LiveMove, "_hold", held.append)
        ended = False

        async def call() -> None:
            while not ended:
                await node.propose(1, b"x", smid=1, timeout_s=30)

        calling = [asyncio.create_task(call()) for _ in range(2)]
        with pytest.raises(MoveFailed, match=r"it comes no nearer than \d+ instances of \d+\.\d ms"):
            await reload(node, THERE)
        ended = True
        await asyncio.gather(*calling)
        assert not held


def test_machines_that_were_built_are_closed_where_another_one_cannot_be(tmp_path: Path) -> None:
    """A worker that cannot build them goes on without: it must not keep their files."""
    kept = MachineOptions(class_="tests.lone_machine:Lone", args={"folder": str(tmp_path)})
    wrong = MachineOptions(class_="tests.broken_machines:Raises")
    options = options_of(tmp_path, [1], 0, state_machines=[kept, wrong])
    for _ in range(2):
        with pytest.raises(KeyError):
            build_machines(options, [1])
    built = build_machines(msgspec.structs.replace(options, state_machines=[kept]), [1])
    close_machines(1, built[1].values())
