"""`paxmux status`: a running node in tables and as JSON, and a node that is down."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from paxmux.engine.errors import ExitCode
from paxmux.tools.cmd_status import rates
from paxmux.tools.status_tables import Status, tables
from tests.command import Command, run_command

Ports = Callable[[int], list[int]]


@pytest.fixture
def config(tmp_path: Path, free_ports: Ports) -> Path:
    (port,) = free_ports(1)
    file = tmp_path / "node.yaml"
    file.write_text(
        f"node: 127.0.0.1:{port}\nmembers: [127.0.0.1:{port}]\ndata_dir: data\nbootstrap: true\n"
        "groups: 3\nlayout: {workers: 2}\nstate_machines:\n  - class: paxmux.plugins.machines.echo:Echo\n",
        encoding="utf-8",
    )
    return file


@pytest.fixture
def node(config: Path) -> Iterator[Command]:
    with Command("serve", config, folder=config.parent) as serving:
        assert (serving.line() or "").startswith("serving ")
        yield serving


def status_of(config: Path) -> Status:
    done = run_command("status", config, "--json", folder=config.parent)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    status: Status = orjson.loads(done.stdout)
    return status


@pytest.mark.xdist_group("cluster")
def test_a_running_node(node: Command, config: Path) -> None:
    status = status_of(config)
    assert status["node"]["pid"] == node.process.pid
    assert [row["group"] for row in status["groups"]] == [0, 1, 2]
    assert {row["state"] for row in status["workers"]} == {"serving"}
    assert status["cleaning"] is True
    assert status["log_max_bytes"] is None
    assert {row["first"] for row in status["groups"]} == {0}
    for row in status["workers"]:
        assert row["counters"]["no_room"] == 0
        assert row["counters"]["disk_bytes"] > row["counters"]["live_bytes"] == 0

    # The data directory does as well as the config.
    brief = run_command("status", config.parent / "data", folder=config.parent)
    assert (brief.returncode, brief.stderr) == (ExitCode.OK, "")
    for words in (
        f"process {node.process.pid}",
        "workers",
        "logs",
        "peers",
        "rings",
        "requests: ",
        "groups: 3, ",
    ):
        assert words in brief.stdout.replace("\n", " ")
    for worker in status["workers"]:
        assert str(worker["pid"]) in brief.stdout

    full = run_command("status", config, "--groups", folder=config.parent)
    assert full.returncode == ExitCode.OK
    assert "promised" in full.stdout

    with Command("status", config, "--watch", "0.1", folder=config.parent) as watch:
        for _ in range(3):
            while not (watch.line() or "").startswith("groups: 3, "):
                assert watch.process.poll() is None, watch.errors()
        watch.process.send_signal(signal.SIGINT)
        assert watch.end() == ExitCode.OK

    with Command("status", config, "--watch", "0.1", "--json", folder=config.parent) as watch:
        uptimes = [orjson.loads(watch.line() or "")["node"]["uptime_s"] for _ in range(3)]
        assert uptimes == sorted(set(uptimes))
        # The node goes down: so says the next look.
        node.process.send_signal(signal.SIGTERM)
        assert node.end() == ExitCode.OK
        while watch.line() is not None:
            pass
        assert watch.process.wait(30) == ExitCode.FAILED
    assert "the node is down" in watch.errors()

    down = run_command("status", config, folder=config.parent)
    assert (down.returncode, down.stdout) == (ExitCode.FAILED, "")
    assert down.stderr == (f"paxmux status: the node is down: no node runs on {config.parent / 'data'}\n")


def test_a_place_without_a_node(tmp_path: Path) -> None:
    done = run_command("status", "nowhere", folder=tmp_path)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.startswith("paxmux status: the node is down: nowhere: ")


def test_a_wrong_config_is_a_usage_error(config: Path) -> None:
    config.write_text("nodes: x\n", encoding="utf-8")
    done = run_command("status", config, folder=config.parent)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith(f"{config}:1: nodes: ")


LOG = {"live_bytes": 1_250_000, "disk_bytes": 67_100_000, "segments": 17, "removed_segments": 5, "no_room": 0}


def worker(number: int, values: int | None, generation: int = 1, **more: object) -> dict[str, object]:
    counters = None if values is None else {"values_applied": values, "syncs": 7, **LOG}
    return {
        "worker": number,
        "pid": 100 + number,
        "state": "serving",
        "reason": "",
        "generation": generation,
        "heartbeat_age_s": 0.001,
        "phase": "sleep",
        "counters": counters,
        **more,
    }


def test_speed_is_that_of_the_same_process() -> None:
    before = {"workers": [worker(0, 100), worker(1, 100), worker(2, 100), worker(3, None)]}
    now = {"workers": [worker(0, 350), worker(1, 20, generation=2), worker(2, None), worker(3, 5)]}
    assert rates(before, now, 0.5) == {0: 500.0}
    assert rates(before, now, 0.0) == {}


def test_trouble_is_shown() -> None:
    slow = {"machines": "1 (Echo)", "turns": 3, "total_ms": 900.0, "longest_ms": 350.4}
    ring = {"fill": 0.5, "messages": 1, "bytes": 2, "drops": 3, "backlog_bytes": 4}
    group = {
        "group": 1,
        "worker": 0,
        "first": 1234,
        "instance": 9,
        "applied": 4,
        "promised": [3, 72058139498775529],
        "phase": "idle",
        "holds_ballot": False,
        "waiting": 2,
        "voter": True,
        "durable": True,
        "suspect": None,
        "repairing": None,
        "stopped": {"1": "state machine 1 stopped: boom"},
        "slow": None,
        "master": {"wanted": False, "master": 0, "own": False, "left_ms": 0},
    }
    status: Status = {
        "node": {
            "address": "127.0.0.1:1001",
            "node_id": 5,
            "seat": "0x1",
            "pid": 9,
            "uptime_s": 3661.5,
            "compiled": True,
            "cluster": None,
        },
        "layout": {"workers": [{"worker": 0, "groups": [1]}, {"worker": 1, "groups": [0]}]},
        "groups": [
            group,
            {**group, "group": 0, "voter": False, "stopped": {}, "promised": [0, 0], "slow": slow},
            {**group, "group": 2, "durable": False, "stopped": {}},
            {**group, "group": 3, "voter": False, "suspect": "promises may be lost", "stopped": {}},
        ],
        "groups_unknown_of_workers": [1],
        "workers": [
            worker(0, 10),
            worker(1, None, state="down", reason="it died", pid=None, heartbeat_age_s=None),
            worker(2, 10, counters={"values_applied": 10, "syncs": 7, **LOG, "no_room": 1}),
        ],
        "cleaning": False,
        "log_max_bytes": 100_000_000,
        "rings": {"client": {"0": {"to_worker": ring, "from_worker": ring}, "1": None}, "network": None},
        "peers": None,
        "router": {
            "mode": "process",
            "pid": 8,
            "generation": 2,
            "answered": False,
            "founding": {"waiting_for": "node 7", "role": "joining"},
            "drops": {"crc": 4},
        },
        "loop": {"lag_ms": 1.0, "lag_max_ms": 70.0, "late_ticks": 2},
        "pending": {
            "waiting": 1,
            "owed": 2,
            "admitted": 3,
            "timeouts": 4,
            "refused": {"count": 5, "bytes": 0},
        },
    }
    console = Console(width=200, record=True, file=io.StringIO())
    for table in tables(status, groups=True, rates={0: 12_345.6}):
        console.print(table)
    for table in tables(status, groups=False):
        console.print(table)
    shown = console.export_text()
    for words in (
        "up 1:01:01",
        "cluster not founded, waits for node 7, joining: the node only learns",
        "router process, process 8, generation 2, does not answer",
        "2 times above 50 ms",
        "down: it died",
        "no room in the log: refuses",
        "paused",
        "1.2 MB",
        "67.1 MB",
        "100.0 MB",
        "1,234",
        "12,346",
        "peers: not known",
        "0 client",
        "refused: count 5",
        "frames dropped: crc 4",
        "state machine 1 stopped: boom",
        "only learns",
        "127.0.0.1:1001",
        "worker 1 does not answer: its groups are not shown",
        "promises may be lost",
        "not synced groups [2]",
        "promises may be lost in groups [3]",
        "4 groups still execute",
        "state machines stopped in groups [1]",
        "state machines were slow in groups [0]",
        "1 (Echo) took up to 350 ms in a turn",
    ):
        assert words in shown, f"{words!r} in\n{shown}"
    assert "bytes 0" not in shown
