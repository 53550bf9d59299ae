"""Rows of open loads: how they add up, what the report makes of them, and the table as a file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic_ns
from typing import Any

import duckdb
import orjson
import psutil
import pytest
from pyarrow import parquet

from paxmux.engine.errors import Code
from paxmux.tools.latency import Latencies
from paxmux.tools.open_load import OpenResult
from paxmux.tools.open_report import answers, interval_of, open_loop, series
from paxmux.tools.process_samples import ProcessSamples, Sample, used_cpu_ns
from paxmux.tools.report_points import points
from paxmux.tools.series_file import write_series
from paxmux.tools.time_series import OpenRow, Row, Rows, latencies_of, merge
from tests.event_loop import in_loop, until

MS = 1_000_000


def result_of(rows: list[Row], late_ms: int = 1) -> OpenResult:
    late = Latencies()
    late.add(late_ms * MS)
    return OpenResult(rows=rows, unmatched=1, late=late.dump())


def row_of(index: int, group: int, *, reads: int = 0, refused: int = 0, ms: int = 10, values: int = 2) -> Row:
    row = OpenRow(index)
    for number in range(values + reads + refused):
        row.offer(group)
        if number < refused:
            row.fail(group, Code.OVERLOADED)
        else:
            row.answer(group, ms * MS, number >= refused + values)
            row.row.completed += 1
            row.row.completed_values += number < refused + values
    return row.close()


def test_rows_of_several_loads_become_one_table() -> None:
    mine = [row_of(-1, 0), row_of(0, 0, ms=5)]
    theirs = [row_of(0, 3, refused=1, reads=1, ms=20), row_of(2, 3)]
    rows = merge([mine, theirs])
    assert [row.index for row in rows] == [-1, 0, 1, 2]
    assert rows[1].groups == {0: [2, 2, 0], 3: [4, 3, 1]}
    assert (rows[1].offered, rows[1].answered, rows[1].refused) == (6, 5, 1)
    assert rows[1].errors == {405: 1}
    assert all(row.settled for row in rows)
    assert latencies_of(rows[1:2], "latencies", "read_latencies").count == 5
    assert latencies_of(rows[1:2], "read_latencies").max_ns == 20 * MS
    assert merge([[], []]) == []


def test_a_row_is_closed_once_it_is_past_and_settled() -> None:
    rows = Rows(1000, 100)
    first, end = rows.at(950)
    assert (first.row.index, end) == (-1, 1000)
    second, end = rows.at(1000)
    assert (second.row.index, end) == (0, 1100)
    first.offer(0)
    second.offer(0)
    second.answer(0, 5, False)
    rows.close_before(1200)
    assert rows.at(950)[0] is first, "it still waits for an answer"
    assert rows.at(1000)[0] is not second
    first.fail(0, Code.TIMEOUT)
    assert sum(row.offered for row in rows.close()) == 2


@pytest.mark.parametrize(
    ("seconds", "interval"),
    [(0.1, 0.1), (10.0, 0.1), (10.1, 1.0), (3600.0, 1.0), (7000.0, 2.0), (86_400.0, 24.0)],
)
def test_short_runs_have_short_intervals_and_long_ones_not_too_many(seconds: float, interval: float) -> None:
    assert interval_of(seconds) == interval


def test_rates_are_of_whole_intervals_and_latencies_of_all_that_was_due() -> None:
    rows = [
        row_of(-1, 0, ms=500),
        *(row_of(index, 0, reads=1, ms=10) for index in range(3)),
        row_of(3, 0, ms=90),
    ]
    # 350 ms measured: the fourth interval is cut.
    report = answers([result_of(rows)], 0.1, 0.35)
    assert report["ok"] == 9
    assert report["qps"] == 30.0
    assert report["values_per_s"] == 20.0
    assert report["latency_ms"]["max"] == 90.0
    assert report["errors"] == {}
    warm = [row_of(-1, 0, refused=2), *rows[1:]]
    assert answers([result_of(warm)], 0.1, 0.35)["errors"] == {"405": 2}, "errors count at any time"
    assert answers([result_of([])], 0.1, 1.0)["qps"] == 0.0


def test_what_was_offered_is_told_by_outcome_and_by_group() -> None:
    lost = Row(
        index=0, offered=3, not_sent=1, timed_out=1, failed=1, errors={404: 1, 14: 1}, groups={1: [3, 0, 0]}
    )
    results = [result_of([row_of(-1, 0), row_of(0, 0, refused=2, reads=3)], 3), result_of([lost], 7)]
    told = open_loop(results, 0.5, [0, 1], [0.75, 0.25])
    assert {name: told[name] for name in ("offered", "admitted", "answered", "refused", "timed_out")} == {
        "offered": 10,
        "admitted": 7,
        "answered": 5,
        "refused": 2,
        "timed_out": 1,
    }
    assert (told["failed"], told["not_sent"], told["retries"], told["unmatched"]) == (1, 1, 0, 2)
    assert told["offered_per_s"] == 20.0
    assert told["late_ms"]["max"] == 7.0
    assert sum(count for _, count in told["latency_histogram"]) == 5
    assert told["groups"] == [
        {"group": 0, "worker": 0, "weight": 0.75, "offered": 7, "answered": 5, "refused": 2},
        {"group": 1, "worker": 1, "weight": 0.25, "offered": 3, "answered": 0, "refused": 0},
    ]
    assert told["reads_ms"]["max"] == told["proposals_ms"]["max"] == 10.0


def table() -> list[dict[str, Any]]:
    samples = {
        0: {"node1 host": Sample(50.0, 1000)},
        1: {"node1 host": Sample(70.0, 900), "bench": Sample(1.0, 5)},
    }
    rows = [row_of(0, 0, refused=2), row_of(1, 5, ms=30), Row(index=2, completed=4)]
    return series([result_of(rows)], samples, 0.1)


def test_the_table_can_be_queried_as_parquet(tmp_path: Path) -> None:
    file = tmp_path / "out.parquet"
    write_series({"series": table(), "settings": {"seed": 5}}, file)
    metadata = parquet.read_schema(file).metadata
    assert orjson.loads(metadata[b"paxmux.settings"]) == {"seed": 5}

    def ask(sql: str) -> list[tuple[Any, ...]]:
        return duckdb.sql(sql.replace("FILE", f"'{file}'")).fetchall()

    assert ask("select t_s, value from FILE where metric = 'refused' and scope = 'all' order by t_s") == [
        (0.0, 2.0),
        (0.1, 0.0),
        (0.2, 0.0),
    ]
    assert ask(
        "select t_s, name, value from FILE where scope = 'group' and metric = 'offered' order by t_s"
    ) == [
        (0.0, "0", 4.0),
        (0.1, "5", 2.0),
    ]
    assert ask("select max(value) from FILE where metric = 'cpu_percent'") == [(70.0,)]
    assert ask("select count(*) from FILE where metric = 'latency_p99_ms'") == [(2,)], "none without answers"
    write_series({"series": [], "settings": {}}, file)
    assert ask("select count(*) from FILE") == [(0,)]


def test_points_are_few_and_lose_no_peak() -> None:
    rows = table()
    assert points(rows) == rows
    (one,) = points(rows, 1)
    assert one["t_s"] == 0.0
    assert one["length_s"] == pytest.approx(0.3)
    assert (one["offered"], one["refused"], one["completed"]) == (6, 2, 8)
    assert one["latency_ms"]["max"] == 30.0
    assert one["processes"] == {
        "bench": {"cpu_percent": 1.0, "rss_bytes": 5},
        "node1 host": {"cpu_percent": 70.0, "rss_bytes": 1000},
    }
    assert points([], 5) == []
    (quiet,) = points([rows[2], rows[2]], 1)
    assert quiet["latency_ms"] is None


def test_cpu_time_is_finer_than_ticks() -> None:
    pid = os.getpid()
    before = used_cpu_ns(pid)
    while used_cpu_ns(pid) - before < 2 * MS:
        pass
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(ProcessLookupError):
        used_cpu_ns(ended.pid)


@in_loop
async def test_a_process_that_is_started_again_is_found_again() -> None:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    child = start()

    async def find() -> dict[str, psutil.Process]:
        return {"bench": psutil.Process(), "child": psutil.Process(child.pid)}

    samples = ProcessSamples(find, monotonic_ns() + 20 * MS, 0.01)
    running = asyncio.create_task(samples.run())
    try:
        await until(lambda: any("child" in each for each in samples.by_interval.values()))
        child.kill()
        child.wait()
        old, child = child, start()
        assert old.stdin is not None
        old.stdin.close()
        seen = len(samples.by_interval)
        await until(lambda: any("child" in each for each in list(samples.by_interval.values())[seen + 2 :]))
        found = [each["bench"] for each in samples.by_interval.values() if "bench" in each]
        assert all(each.rss_bytes > 1_000_000 and each.cpu_percent >= 0 for each in found)
        assert min(samples.by_interval) < 0
    finally:
        running.cancel()
        child.communicate()
