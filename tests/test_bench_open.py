"""`paxmux bench` with open loops on tiny clusters: its files, its words, and a node that is stopped."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from time import monotonic_ns
from typing import Any

import msgspec
import orjson
import pytest
from pyarrow import parquet

from paxmux.engine.errors import ExitCode, PaxmuxError
from paxmux.tools.bench_open import OpenOptions, specs, targets
from paxmux.tools.bench_run import MACHINE, BenchOptions
from paxmux.tools.cluster import Cluster
from paxmux.tools.load_process import LoadProcess
from paxmux.tools.main import INTERRUPTED
from paxmux.tools.skew import weights
from paxmux.tools.time_series import latencies_of
from tests.command import DEADLINE_S, Command, run_command, wait_gone
from tests.event_loop import in_loop
from tests.test_cmd_bench import family_of
from tests.test_open_load import dues_of, spec_of, total

TINY = ("--groups", 6, "--seconds", 1.5, "--warmup-s", 0.3, "--seed", 4)
OPEN = OpenOptions(from_per_s=90, to_per_s=180)


def report_of(folder: Path, *words: object) -> tuple[dict[str, Any], str]:
    done = run_command("bench", *TINY, *words, "--json", "out.json", folder=folder)
    assert done.returncode == ExitCode.OK, done.stderr
    report: dict[str, Any] = orjson.loads((folder / "out.json").read_bytes())
    assert report["consistent"] is True
    return report, done.stdout


@pytest.mark.parametrize("proposer", ["one", "all", "mixed"])
@pytest.mark.parametrize("processes", [0, 1, 3])
def test_the_whole_rate_is_shared_out(proposer: Any, processes: int) -> None:
    options = BenchOptions(nodes=3, groups=7, proposer=proposer)
    wanted = msgspec.structs.replace(OPEN, skew=0.99, client_processes=processes, under_way=30)
    found = targets(options, wanted)
    assert sum(target.share for target in found) == pytest.approx(1)
    assert {group for target in found for group in target.groups} == set(range(7))
    whole = weights(7, 0.99)
    assert all(
        weight == whole[group]
        for target in found
        for group, weight in zip(target.groups, target.weights, strict=True)
    )
    made = specs(options, wanted)
    assert len(made) == max(1, processes)
    flat = [spec for each in made for spec in each]
    assert sum(spec.from_per_s for spec in flat) == pytest.approx(90)
    assert sum(spec.to_per_s for spec in flat) == pytest.approx(180)
    assert len({spec.seed for spec in flat}) == len({spec.number for spec in flat}) == len(flat)
    assert all(sum(spec.under_way_max for spec in each) == 30 for each in made if processes)
    assert all(spec.under_way_max == 30 for spec in flat if not processes)


@pytest.mark.xdist_group("cluster")
def test_a_load_inside_the_node_reports_everything(tmp_path: Path) -> None:
    files = ("--parquet", "out.parquet", "--report", "out.html")
    report, words = report_of(tmp_path, "--rate", 300, "--skew", "zipf", "--read", 0.3, *files)
    told = report["open_loop"]
    assert told["offered"] == told["answered"] > 300
    assert (told["refused"], told["timed_out"], told["failed"], told["not_sent"]) == (0, 0, 0, 0)
    assert report["errors"] == {}
    assert 0 < report["values_per_s"] < report["qps"]
    assert told["reads_ms"]["p50"] > 0
    groups = told["groups"]
    assert groups[0]["offered"] > groups[5]["offered"] > 0
    assert sum(group["offered"] for group in groups) == told["offered"]
    rows = report["series"]
    assert rows[0]["t_s"] == -0.3
    assert sum(row["offered"] for row in rows if row["t_s"] >= 0) == told["offered"]
    processes = {name for row in rows for name in row["processes"]}
    assert processes == {
        "bench",
        *(f"node{node} {name}" for node in (1, 2, 3) for name in ("host", "worker0")),
    }
    assert report["settings"]["open_loop"]["skew"] == 0.99
    assert report["written_bytes_per_value"].keys() == report["cpu_s"].keys() == {"node1", "node2", "node3"}
    for text in ("not sent", "requests were due per second", "group 0 was offered", "linearizable reads p99"):
        assert text in words
    assert parquet.read_table(tmp_path / "out.parquet").num_rows > len(rows) * 8
    assert "300 requests per second over 6 groups" in (tmp_path / "out.html").read_text(encoding="utf-8")


@pytest.mark.xdist_group("cluster")
def test_processes_of_clients_reach_all_nodes(tmp_path: Path) -> None:
    more = ("--proposer", "all", "--client-processes", 2, "--work-us", 50, "--work-on", "0-1", "--workers", 2)
    report, _ = report_of(tmp_path, "--ramp", "100:300", *more)
    told = report["open_loop"]
    assert told["offered"] == told["answered"] + told["timed_out"] + told["refused"] > 150
    assert told["answered"] > 0
    assert {group["worker"] for group in told["groups"]} == {0, 1}
    assert all(group["answered"] for group in told["groups"])
    names = {name for row in report["series"] for name in row["processes"]}
    assert {"client1", "client2", "node3 worker1"} <= names
    assert {path.name for path in tmp_path.iterdir()} == {"out.json"}, "a temporary folder is left"


@pytest.mark.xdist_group("cluster")
@in_loop
async def test_a_node_that_is_stopped_delays_all_that_was_due_meanwhile(tmp_path: Path) -> None:
    spec = spec_of(seconds=2.0, warmup_s=0.0, from_per_s=400.0, to_per_s=400.0)
    async with Cluster(tmp_path, workers=[1], groups=2, machines=[MACHINE]) as cluster:
        (node,) = cluster.nodes
        client = LoadProcess("client1", tmp_path, cluster.mark)
        try:
            name = await node.ask("serve_loads")
            await client.start([{"socket": name, "spec": msgspec.to_builtins(spec)}])
            start_ns = monotonic_ns() + 100_000_000
            running = asyncio.create_task(client.run(start_ns, 60))
            await asyncio.sleep(0.6)
            node.send_signal(signal.SIGSTOP)
            begin = monotonic_ns() - start_ns
            await asyncio.sleep(0.8)
            end = monotonic_ns() - start_ns
            node.send_signal(signal.SIGCONT)
            (result,) = await running
        finally:
            await client.close()
        await cluster.stop()
    dues = dues_of(spec)
    least = 300_000_000
    # A signal may take a moment to work: not counted as stopped are the first 100 ms.
    waited = sum(begin + 100_000_000 <= due <= end - least for due in dues)
    assert waited > 20
    assert total(result.rows, "offered") == total(result.rows, "answered") == len(dues)
    slow = sum(count for upper, count in latencies_of(result.rows, "latencies").bars() if upper >= least)
    assert slow >= waited


@pytest.mark.xdist_group("cluster")
@in_loop
async def test_a_node_or_a_client_that_dies_is_told(tmp_path: Path) -> None:
    spec = msgspec.to_builtins(spec_of(seconds=60.0))
    async with Cluster(tmp_path, workers=[1], groups=2, machines=[MACHINE]) as cluster:
        (node,) = cluster.nodes
        name = await node.ask("serve_loads")
        first, second, third = (LoadProcess(f"client{n}", tmp_path, cluster.mark) for n in (1, 2, 3))
        try:
            with pytest.raises(PaxmuxError, match="client3"):
                await third.start([{"socket": "\0nobody", "spec": spec}])
            running = []
            for client in (first, second):
                await client.start([{"socket": name, "spec": spec}])
                running.append(asyncio.create_task(client.run(monotonic_ns(), 60)))
            assert first.pid is not None
            await first.close()
            with pytest.raises(PaxmuxError, match="client1 has ended"):
                await running[0]
            assert not running[1].done()
            await node.kill()
            with pytest.raises(PaxmuxError, match="closed the connection of a load"):
                await running[1]
        finally:
            for client in (first, second, third):
                await client.close()


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_client_is_left_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    words = ("--groups", 4, "--seconds", 60, "--rate", 50, "--client-processes", 2)
    with Command("bench", *words, folder=tmp_path) as bench:
        family = family_of(bench, 9)
        bench.until_error("measuring")
        bench.process.send_signal(number)
        assert bench.process.wait(DEADLINE_S) == (INTERRUPTED if number == signal.SIGINT else -number)
        wait_gone(family)
    assert "Traceback" not in bench.errors()
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == [], "a temporary folder is left"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--rate", 0), "expected a number of 0.1 .. 1e+07, got '0'"),
        (("--rate", 5, "--ramp", "1:2"), "not allowed with argument"),
        (("--ramp", "5"), "expected FROM:TO, got '5'"),
        (("--ramp", "0:0"), "expected FROM or TO above 0"),
        (("--ramp", "1:x"), "expected a number of 0 .. 1e+07, got 'x'"),
        (("--rate", 5, "--read", 1.5), "expected a number of 0 .. 1, got '1.5'"),
        (("--rate", 5, "--skew", "pareto"), "expected `uniform`, `zipf` or `zipf:S`"),
        (("--rate", 5, "--surge", "2:1"), "expected F:FROM:TO, got '2:1'"),
        (("--rate", 5, "--surge", "2:3:1"), "expected FROM before TO, got '2:3:1'"),
        (("--rate", 5, "--seconds", 4, "--surge", "2:3:5"), "expected it to end within --seconds (4), got 5"),
        (("--ramp", "1:2", "--surge", "2:1:2"), "--surge: expected --rate too"),
        (("--surge", "2:1:2"), "--surge: expected --rate or --ramp too"),
        (("--rate", 5, "--mode", "batch"), "--mode: expected `propose`"),
        (("--rate", 5, "--behind", 10), "--behind: expected neither --rate nor --ramp"),
        (("--ramp", "1:2", "--recovery", 10), "--recovery: expected neither --rate nor --ramp"),
        (("--rate", 5, "--report", "no/x.html"), "--report: expected a file in a folder that exists"),
        (("--json", "no/x.json"), "--json: expected a file in a folder that exists"),
        (("--client-processes", 2), "--client-processes: expected --rate or --ramp too"),
        (("--report", "x.html"), "--report: expected --rate or --ramp too"),
        (("--read", 0.5), "--read: expected --rate or --ramp too"),
        (("--groups", 4, "--work-us", 5, "--work-on", "3-4"), "--work-on: expected groups of 0 .. 3"),
    ],
)
def test_wrong_arguments_are_usage_errors(words: tuple[object, ...], expected: str, tmp_path: Path) -> None:
    done = run_command("bench", *words, folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert expected in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_says_how_an_open_loop_counts(tmp_path: Path) -> None:
    done = run_command("bench", "--help", folder=tmp_path)
    for words in (
        "from the moment at which the request was due",
        "--ramp FROM:TO",
        "Zipf's law",
        "--report FILE",
    ):
        assert words in done.stdout
