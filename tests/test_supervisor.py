"""Supervision: what the death, silence or madness of a child means for callers and for its successor."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import ExitCode, NodeStopped, Overloaded, PaxmuxError, Timeout
from paxmux.engine.options import MachineOptions, WorkerOptions
from paxmux.shards import post, watched_child
from paxmux.shards.node import Node
from paxmux.shards.restarts import RestartPolicy
from paxmux.shards.watched_child import exit_text
from tests.event_loop import in_loop, until
from tests.node_fixtures import check_traces, lone_options, running, traces

Ports = Callable[[int], list[int]]


@pytest.fixture(autouse=True)
def _fake_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "WORKER_MODULE", "tests.fake_worker")


async def workers(node: Node) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await node.status())["workers"]
    return rows


async def serving(node: Node, worker: int, generation: int) -> None:
    """Wait until this generation of a worker serves."""
    for _ in range(2000):
        row = (await workers(node))[worker]
        if row["state"] == "serving" and row["generation"] >= generation:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"worker {worker} does not serve: {row}")


async def state_of(node: Node, worker: int, state: str) -> dict[str, Any]:
    for _ in range(2000):
        row = (await workers(node))[worker]
        if row["state"] == state:
            return row
        await asyncio.sleep(0.01)
    raise AssertionError(f"worker {worker} is never {state}: {row}")


@in_loop
async def test_kill_9_of_a_worker_ends_what_is_in_flight_there_and_nothing_else(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], workers=2)) as node:
        first, second = [row["pid"] for row in await workers(node)]
        here = [asyncio.create_task(node.propose(0, b"silent", timeout_s=None)) for _ in range(3)]
        there = asyncio.create_task(node.propose(1, b"late:500", timeout_s=30))
        cancelled = asyncio.create_task(node.propose(0, b"silent"))
        await asyncio.sleep(0.05)
        cancelled.cancel()
        os.kill(first, signal.SIGKILL)
        for call in here:
            with pytest.raises(Timeout, match=r"worker 0 died: killed by SIGKILL.*not known"):
                await call
        assert (await there).result == b"late:500"
        await serving(node, 0, 2)
        assert (await node.propose(0, b"again")).result == b"again"
        rows = await workers(node)
        assert [row["restarts"] for row in rows] == [1, 0]
        assert rows[0]["last_exit"] == "killed by SIGKILL"
        assert rows[1]["pid"] == second
        assert (await node.status())["pending"]["count"] == 0
    assert "worker 0 died: killed by SIGKILL; 4 outcomes unknown" in caplog.text


@in_loop
async def test_while_a_worker_is_down_its_door_is_closed(tmp_path: Path, free_ports: Ports) -> None:
    slow = WorkerOptions(restart_first_ms=60_000, restart_max_ms=60_000)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], workers=2, worker=slow)) as node:
        os.kill((await workers(node))[0]["pid"], signal.SIGKILL)
        row = await state_of(node, 0, "waiting")
        assert row["pid"] is None
        with pytest.raises(Overloaded, match=r"worker 0 is being restarted: killed by SIGKILL"):
            await node.propose(0, b"x")
        assert (await node.propose(1, b"x")).result == b"x"
        status = await node.status()
        assert status["groups_unknown_of_workers"] == [0]
        assert [row["group"] for row in status["groups"]] == [1, 3]


@in_loop
async def test_a_crash_loop_ends_with_a_worker_that_stays_down(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    loop_of_three = WorkerOptions(restart_first_ms=1, restart_max_ms=5, crash_budget=3)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], worker=loop_of_three)) as node:
        (tmp_path / "n" / "boot_exit").write_text("9")
        os.kill((await workers(node))[0]["pid"], signal.SIGKILL)
        row = await state_of(node, 0, "down")
        assert (row["generation"], row["restarts"]) == (3, 2)
        assert row["last_exit"] == "exit code 9"
        with pytest.raises(Overloaded, match="stays down until the node is started again"):
            await node.propose(0, b"x")
    assert "worker 0 stays down" in caplog.text


@in_loop
async def test_a_worker_that_cannot_boot_fails_the_first_start_with_its_reason(
    tmp_path: Path, free_ports: Ports
) -> None:
    (port,) = free_ports(1)
    before = traces()
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "boot_exit").write_text(str(int(ExitCode.CANNOT_BOOT)))
    node = Node(lone_options(tmp_path / "n", port, workers=2))
    with pytest.raises(PaxmuxError, match="cannot start: no such machine"):
        await node.start(30)
    check_traces(before)


@in_loop
async def test_a_worker_that_crashes_at_every_boot_fails_the_first_start_in_the_end(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    before = traces()
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "boot_exit").write_text("9")
    budget = WorkerOptions(restart_first_ms=1, restart_max_ms=1, crash_budget=3)
    with pytest.raises(PaxmuxError, match="cannot start: exit code 9"):
        await Node(lone_options(tmp_path / "n", port, worker=budget)).start(30)
    assert caplog.text.count("worker 0 died: exit code 9") == 3
    check_traces(before)


@in_loop
async def test_a_boot_message_that_is_too_large_fails_the_start_and_says_so(
    tmp_path: Path, free_ports: Ports
) -> None:
    (port,) = free_ports(1)
    before = traces()
    machine = MachineOptions(class_="paxmux.plugins.machines.echo:Echo", args={"text": "x" * 300_000})
    with pytest.raises(PaxmuxError, match="arguments of a state machine in the options that large"):
        await Node(lone_options(tmp_path / "n", port, state_machines=[machine])).start(30)
    check_traces(before)


@in_loop
async def test_later_a_worker_that_cannot_boot_is_tried_again(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        (tmp_path / "n" / "boot_exit").write_text(str(int(ExitCode.CANNOT_BOOT)))
        os.kill((await workers(node))[0]["pid"], signal.SIGKILL)
        await until(lambda: "no such machine" in caplog.text)
        (tmp_path / "n" / "boot_exit").unlink()
        await serving(node, 0, 3)
        assert (await node.propose(0, b"x")).result == b"x"


@in_loop
async def test_a_failed_log_is_told_loudly_and_the_worker_starts_again(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        with pytest.raises(Timeout, match=r"as asked \(exit code 71, storage failed\)"):
            await node.propose(0, b"exit:71")
        await serving(node, 0, 2)
    loud = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert any("worker 0 died: as asked" in record.getMessage() for record in loud)


@in_loop
async def test_replies_that_make_no_sense_replace_the_worker(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        with pytest.raises(Timeout, match="worker 0 died"):
            await node.propose(0, b"garbage", timeout_s=None)
        await serving(node, 0, 2)
        assert (await node.propose(0, b"x")).result == b"x"
    assert "worker 0 is killed: the replies of worker 0 are damaged" in caplog.text


@in_loop
async def test_replies_given_before_the_death_still_count(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        pid = (await workers(node))[0]["pid"]
        call = asyncio.create_task(node.propose(0, b"decided"))
        await asyncio.sleep(0)  # the call is noted
        await asyncio.sleep(0)  # and has left
        # The loop stands still here: the reply reaches the ring, then its worker dies, before either
        # is seen.
        answers = node._assembly.exchange._links[0]._receiver
        deadline = time.monotonic() + 10
        while not answers.fill:
            assert time.monotonic() < deadline
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert (await call).result == b"decided"
        await serving(node, 0, 2)


@in_loop
async def test_a_loop_that_stands_still_is_named_with_its_phase(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    patient = WorkerOptions(hang_warn_ms=1000)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], worker=patient)) as node:
        pid = (await workers(node))[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: "has not turned for" in caplog.text)
        assert f": process {pid}, in phase " in caplog.text
        assert "in phase sleep" in caplog.text or "in phase step" in caplog.text
        os.kill(pid, signal.SIGCONT)
        await until(lambda: "worker 0 goes on" in caplog.text)
        assert caplog.text.count("has not turned for") == 1


@in_loop
async def test_stop_is_bounded_though_a_worker_is_stopped(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(post, "STOP_GRACE_S", 0.1)
    monkeypatch.setattr(watched_child, "ABORT_S", 0.1)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], workers=2)) as node:
        os.kill((await workers(node))[0]["pid"], signal.SIGSTOP)
        call = asyncio.create_task(node.propose(0, b"x", timeout_s=None))
        other = asyncio.create_task(node.propose(1, b"late:150", timeout_s=None))
        await asyncio.sleep(0.05)
        await node.stop(1.5)
        with pytest.raises(Timeout, match="not known"):
            await call
        assert (await other).result == b"late:150", "the drain waited for it"
    assert "worker 0 did not stop within" in caplog.text
    assert "1 requests have no answer after a drain" in caplog.text


@in_loop
async def test_a_worker_deaf_to_stop_is_aborted_and_says_where_it_hangs(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(post, "STOP_GRACE_S", 0.1)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        with pytest.raises(Timeout):
            await node.propose(0, b"hang", timeout_s=0.1)
        await node.stop(0)
    assert "fake_worker.py" in capfd.readouterr().err


@in_loop
async def test_stop_refuses_new_work_while_it_drains(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        open_call = asyncio.create_task(node.propose(0, b"late:300", timeout_s=None))
        await asyncio.sleep(0.05)
        stop = asyncio.create_task(node.stop(30))
        await asyncio.sleep(0.05)
        with pytest.raises(NodeStopped, match="stopping"):
            await node.propose(0, b"x")
        assert (await open_call).result == b"late:300"
        await stop


@in_loop
async def test_a_stop_that_is_cancelled_goes_on(tmp_path: Path, free_ports: Ports) -> None:
    (port,) = free_ports(1)
    before = traces()
    node = Node(lone_options(tmp_path / "n", port))
    await node.start(30)
    call = asyncio.create_task(node.propose(0, b"late:200", timeout_s=None))
    await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(node.stop(30), 0.05)
    assert (await call).result == b"late:200"
    await node.stop()
    check_traces(before)


@in_loop
async def test_a_dead_worker_does_not_keep_the_node_from_stopping(tmp_path: Path, free_ports: Ports) -> None:
    slow = WorkerOptions(restart_first_ms=60_000, restart_max_ms=60_000)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], worker=slow)) as node:
        os.kill((await workers(node))[0]["pid"], signal.SIGKILL)
        await state_of(node, 0, "waiting")


@in_loop
async def test_without_process_descriptors_children_are_polled(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        os.kill((await workers(node))[0]["pid"], signal.SIGKILL)
        await serving(node, 0, 2)
        assert (await node.propose(0, b"x")).result == b"x"


@in_loop
async def test_a_router_process_that_dies_takes_the_workers_along_and_all_come_back(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    options = lone_options(tmp_path / "n", free_ports(1)[0], workers=2, router="process")
    async with running(options) as node:
        router = (await node.status())["router"]
        assert router["mode"] == "process"
        assert router["founding"]["active"]
        call = asyncio.create_task(node.propose(0, b"silent", timeout_s=None))
        await asyncio.sleep(0.05)
        os.kill(router["pid"], signal.SIGKILL)
        with pytest.raises(Timeout):
            await call
        await serving(node, 0, 2)
        await serving(node, 1, 2)
        assert (await node.propose(1, b"x")).result == b"x"
        status = await node.status()
        assert status["router"]["restarts"] == 1
        assert status["router"]["pid"] != router["pid"]
        assert sorted(status["rings"]["network"]) == ["0", "1"]
        assert [row["restarts"] for row in status["workers"]] == [0, 0], "no crash of their own"
    assert "the router process died: killed by SIGKILL" in caplog.text


@in_loop
async def test_a_router_process_that_stands_still_is_named(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    options = lone_options(tmp_path / "n", free_ports(1)[0], router="process")
    async with running(options) as node:
        pid = (await node.status())["router"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: "the router process has not turned for" in caplog.text)
        status = await node.status()
        assert not status["router"]["answered"]
        assert status["router"]["heartbeat_age_s"] > 0.3
        os.kill(pid, signal.SIGCONT)
        await until(lambda: "the router process goes on" in caplog.text)


@in_loop
async def test_a_router_process_without_its_port_fails_the_start(tmp_path: Path, free_ports: Ports) -> None:
    (port,) = free_ports(1)
    async with running(lone_options(tmp_path / "n", port)):
        before = traces()
        with pytest.raises(PaxmuxError, match=str(port)):
            await Node(lone_options(tmp_path / "m", port, router="process")).start(30)
        check_traces(before)


def test_the_back_off_doubles_and_the_budget_ends_it() -> None:
    policy = RestartPolicy(
        WorkerOptions(restart_first_ms=100, restart_max_ms=500, crash_budget=5, crash_window_s=60)
    )
    assert [policy.died(float(second)) for second in range(5)] == [0.1, 0.2, 0.4, 0.5, None]
    assert policy.restarts == 4


def test_a_death_outside_the_window_counts_no_more() -> None:
    policy = RestartPolicy(WorkerOptions(restart_first_ms=100, crash_budget=2, crash_window_s=60))
    assert [policy.died(at) for at in (0.0, 60.0, 120.0, 121.0)] == [0.1, 0.1, 0.1, None]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "exit code 0, ok"),
        (70, "exit code 70, cannot boot"),
        (9, "exit code 9"),
        (-9, "killed by SIGKILL"),
        (-200, "killed by signal 200"),
    ],
)
def test_exit_codes_are_said_in_words(code: int, text: str) -> None:
    assert exit_text(code) == text
