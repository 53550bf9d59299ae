"""`paxmux bench` on tiny clusters: its report, its exit codes, and that it leaves nothing behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from paxmux.engine.compiled import COMPILED
from paxmux.engine.errors import ExitCode
from paxmux.tools.main import INTERRUPTED
from paxmux.tools.surroundings import MEMORY_FILE_SYSTEMS
from tests.command import DEADLINE_S, Command, run_command, wait_gone

LATENCIES = ("avg", "p50", "p90", "p99", "p999", "max")
NODES = {"node1", "node2", "node3"}
TINY = ("--groups", 4, "--clients", 8)


def report_of(folder: Path, *words: object) -> dict[str, Any]:
    done = run_command("bench", *words, "--json", "-", folder=folder)
    assert done.returncode == ExitCode.OK, done.stderr
    report: dict[str, Any] = orjson.loads(done.stdout)
    return report


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("plugin", ["segment:SegmentLog", "lmdb_log:LmdbLog"])
def test_what_a_start_costs(tmp_path: Path, plugin: str) -> None:
    storage = f"paxmux.plugins.storage.{plugin}"
    words = ("--recovery", "400,1000", "--groups", 4, "--size", 10, "--storage", storage)
    report = report_of(tmp_path, *words, "--data-dir", tmp_path / "data")
    assert [log["records"] for log in report["logs"]] == [400, 1000]
    assert list((tmp_path / "data").iterdir()) == []
    has_index = plugin.startswith("segment")
    for log in report["logs"]:
        opened = log["opened"]
        assert set(opened) == {"killed", "stopped", *(["no index"] if has_index else [])}
        if has_index:
            assert opened["stopped"]["recovered_records"] == 0
            assert opened["killed"]["recovered_records"] <= log["built"]["records"]
            assert opened["no index"]["recovered_records"] > log["records"]
        assert all(each["peak_bytes"] > each["own_bytes"] > 0 for each in opened.values())
        assert [each["more"] for each in log["node"]["worker"]][::10] == [0, log["records"]]


@pytest.mark.xdist_group("cluster")
def test_an_idle_cluster_is_measured_as_well(tmp_path: Path) -> None:
    report = report_of(tmp_path, "--clients", 0, "--groups", 300, "--seconds", 2)
    assert report["consistent"]
    idle = report["idle"]
    assert list(idle["cpu_percent"]) == ["node1", "node2", "node3"]
    for used in idle["cpu_percent"].values():
        assert sorted(used) == ["host", "worker0"]
        assert all(0 < percent < 50 for percent in used.values()), "it sleeps"
    each = idle["own_bytes_per_group"]
    assert 1_000 < each["worker"] < 20_000
    assert each["host"] < 10_000


def test_without_clients_nothing_else_is_measured(tmp_path: Path) -> None:
    done = run_command("bench", "--clients", 0, "--behind", 10, folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert "--clients" in done.stderr


def test_wrong_lengths_are_refused(tmp_path: Path) -> None:
    done = run_command("bench", "--recovery", "100,0", folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert "expected a whole number" in done.stderr


@pytest.mark.xdist_group("cluster")
def test_a_tiny_run_reports_everything(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    words = ("--seconds", 2, "--warmup-s", 0.5, *TINY, "--data-dir", tmp_path / "data", "--json", file)
    done = run_command("bench", *words, folder=tmp_path)
    assert done.returncode == ExitCode.OK, done.stderr
    report = orjson.loads(file.read_bytes())
    assert report["consistent"] is True
    assert (report["errors"], report["differences"]) == ({}, [])
    assert report["ok"] > 0
    assert report["qps"] == report["values_per_s"] == pytest.approx(report["ok"] / 2, rel=0.01)
    latency = [report["latency_ms"][name] for name in LATENCIES]
    assert set(report["latency_ms"]) == set(LATENCIES)
    assert 0 < latency[0] <= latency[-1]
    assert latency[1:] == sorted(latency[1:])
    callers = report["callers"]
    assert (callers["count"], callers["answers_min"] <= callers["answers_median"]) == (8, True)
    assert 0 < callers["longest_wait_median_ms"] <= callers["longest_wait_ms"]
    assert callers["longest_wait_ms"] >= report["latency_ms"]["max"]
    assert callers["longest_wait_by_p50"] >= report["latency_ms"]["max"] / report["latency_ms"]["p50"] - 0.01
    for key in ("cpu_s", "rss_bytes"):
        assert set(report[key]) == NODES
        assert all(set(used) == {"host", "worker0"} for used in report[key].values())
        assert all(figure > 0 for used in report["rss_bytes"].values() for figure in used.values())
    assert set(report["fdatasync"]) == set(report["values_per_fdatasync"]) == NODES
    assert all(count > 0 for count in report["fdatasync"].values())
    assert set(report["written_bytes_per_value"]) == NODES
    if report["settings"]["file_system"] not in MEMORY_FILE_SYSTEMS:
        assert all(count > 100 for count in report["written_bytes_per_value"].values())
    settings = report["settings"]
    assert {name: settings[name] for name in ("nodes", "workers", "groups", "clients", "size", "mode")} == {
        "nodes": 3,
        "workers": 1,
        "groups": 4,
        "clients": 8,
        "size": 100,
        "mode": "propose",
    }
    assert settings["compiled"] is COMPILED
    said = " ".join(done.stdout.split())
    assert ("compiled code" in said, "plain Python" in said) == (COMPILED, not COMPILED)
    assert settings["fdatasync_p50_us"] > 0
    assert settings["foreign_cpu_percent"] >= 0
    assert isinstance(settings["file_system"], str)
    assert report["valid"] is not bool(report["invalid_because"])
    # For people.
    assert "all replicas applied the same sequence" in done.stdout
    for words in ("qps", "errors by code", "p999", "longest wait of any of 8 callers", "node3", "fdatasync"):
        assert words in done.stdout
    assert done.stderr.startswith("starting 3 nodes")
    # What was asked to be kept.
    assert {file.name for file in (tmp_path / "data").iterdir()} >= {*NODES, "node1.yaml", "node1.log"}
    assert (tmp_path / "data" / "node1" / "identity.json").is_file()


@pytest.mark.xdist_group("cluster")
def test_batches_from_all_nodes_through_router_processes(tmp_path: Path) -> None:
    report = report_of(
        tmp_path,
        *("--seconds", 1, "--warmup-s", 0.2, "--groups", 5, "--clients", 7, "--workers", 2),
        *("--mode", "batch", "--proposer", "all", "--router", "process", "--size", 33),
    )
    assert report["consistent"] is True
    assert report["errors"] == {}
    assert report["values_per_s"] == pytest.approx(20 * report["qps"], rel=0.01)
    assert report["settings"]["batch"] == 20
    assert set(report["cpu_s"]["node2"]) == {"host", "router", "worker0", "worker1"}
    assert list(tmp_path.iterdir()) == [], "a temporary folder is left"


@pytest.mark.xdist_group("cluster")
def test_large_values_and_one_node_on_another_storage_plugin(tmp_path: Path) -> None:
    words = ("--nodes", 1, "--seconds", 0.5, "--warmup-s", 0, "--groups", 1, "--clients", 2)
    storage = "paxmux.plugins.storage.lmdb_log:LmdbLog"
    report = report_of(tmp_path, *words, "--size", 100_000, "--storage", storage, "--data-dir", "kept")
    assert report["settings"]["storage"] == storage
    assert (tmp_path / "kept" / "node1" / "logs" / "0" / "lmdb" / "data.mdb").is_file()
    assert report["consistent"] is True
    assert report["ok"] > 0


def family_of(bench: Command, wanted: int) -> list[psutil.Process]:
    """Its processes, once there are so many."""
    deadline = time.monotonic() + DEADLINE_S
    while len(family := bench.family()) < wanted:
        assert time.monotonic() < deadline, family
        assert bench.process.poll() is None, bench.errors()
        time.sleep(0.02)
    return family


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_nothing_is_left_however_it_ends(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with Command("bench", "--seconds", 60, *TINY, folder=tmp_path) as bench:
        family = family_of(bench, 7)
        bench.process.send_signal(number)
        assert bench.process.wait(DEADLINE_S) == code
        wait_gone(family)
    assert "Traceback" not in bench.errors()
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == [], "a temporary folder is left"


@pytest.mark.xdist_group("cluster")
def test_a_node_that_dies_ends_it_with_words(tmp_path: Path) -> None:
    with Command("bench", "--seconds", 60, *TINY, folder=tmp_path) as bench:
        family = family_of(bench, 7)
        nodes = [process for process in family if process.ppid() == bench.process.pid]
        nodes[0].kill()
        assert bench.process.wait(DEADLINE_S) == ExitCode.FAILED
        wait_gone(family)
    assert any(
        line.startswith("paxmux bench: ") and "has ended" in line for line in bench.errors().splitlines()
    )
    assert "Traceback" not in bench.errors()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--groups", 0), "expected a whole number of 1 .. 1024, got '0'"),
        (("--groups", 1025), "expected a whole number of 1 .. 1024, got '1025'"),
        (("--nodes", "three"), "expected a whole number of 1 .. 9, got 'three'"),
        (("--seconds", "-1"), "expected seconds of 0.1 .. 86400"),
        (("--seconds", "nan"), "expected seconds of 0.1 .. 86400"),
        (("--size", 0), "expected a whole number of 1 .. 10485760"),
        (("--mode", "fast"), "invalid choice: 'fast'"),
        (("--proposer", "two"), "invalid choice: 'two'"),
        (("--groups", 2, "--workers", 3), "expected at most one worker per group (2), got 3"),
    ],
)
def test_wrong_arguments_are_usage_errors(words: tuple[object, ...], expected: str, tmp_path: Path) -> None:
    done = run_command("bench", *words, folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert expected in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_data_are_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "data" / "node1").mkdir(parents=True)
    done = run_command("bench", "--data-dir", tmp_path / "data", folder=tmp_path)
    assert done.returncode == ExitCode.CANNOT_BOOT
    assert "expected an empty folder or none, found node1 in it" in done.stderr


def test_help_says_what_is_measured(tmp_path: Path) -> None:
    done = run_command("bench", "--help", folder=tmp_path)
    assert done.returncode == ExitCode.OK
    for words in ("group g by node g mod NODES", "--batch values", "memory", "10 % of the CPUs"):
        assert words in done.stdout


@pytest.mark.xdist_group("cluster")
def test_a_node_that_was_away_catches_up_under_load(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = run_command("bench", *TINY, "--behind", 300, "--json", file, folder=tmp_path)
    assert done.returncode == ExitCode.OK, done.stderr
    report = orjson.loads(file.read_bytes())
    assert report["consistent"] is True
    assert report["behind_instances"] >= 300
    assert 0 < report["started_s"] < report["caught_up_s"]
    for part in ("without_it", "while_it_catches_up"):
        assert report[part]["errors"] == {}
        assert report[part]["ok"] > 0
    assert "catches up" in done.stdout
    assert "all replicas applied the same sequence" in done.stdout


def test_a_majority_must_be_left_when_a_node_is_away(tmp_path: Path) -> None:
    done = run_command("bench", "--nodes", 2, "--behind", 300, folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert "--nodes 3 or more" in done.stderr
