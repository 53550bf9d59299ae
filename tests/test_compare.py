"""`tools/compare`: what it says of what it measured, the README's table, and each system for a moment."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from array import array
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from rich.console import Console

from paxmux.engine.errors import ExitCode, PaxmuxError
from paxmux.tools.comparison import measure
from paxmux.tools.comparison.__main__ import ENVIRONMENT, PAGE, RESULT, main, read
from paxmux.tools.comparison.environment import PACKAGES
from paxmux.tools.comparison.foreign_process import ForeignProcess
from paxmux.tools.comparison.measure import Comparison, Line, compare, joined
from paxmux.tools.comparison.protobuf import field, fields
from paxmux.tools.comparison.systems import SYSTEMS, Ready, System, find
from paxmux.tools.comparison.table import BEGIN, END, markdown, put, within
from paxmux.tools.comparison.work import LoadAnswer, Outcome, Work
from paxmux.tools.latency import LatencyMs
from paxmux.tools.progress import Steps
from paxmux.tools.repeats import Spread, turns
from tests.command import run_command
from tests.event_loop import in_loop
from tests.source_tree import ROOT

TINY = ("--seconds", "0.5", "--warmup-s", "0.2", "--runs", "1", "--callers", "4")


def outcome_of(values_per_s: float, **more: Any) -> Outcome:
    latency = LatencyMs(avg=2, p50=2, p90=3, p99=4, p999=5, max=6)
    said = {"errors": 0, "agree": True, "foreign_cpu_percent": 1.0, **more}
    return Outcome(values_per_s=values_per_s, latency_ms=latency, **said)


def line_of(name: str, callers: int, *runs: Outcome, version: str = "1") -> Line:
    words = {word: f"the {word} of {name}" for word in ("synced", "order", "reads", "callers")}
    system = System(name=name, title=f"{name}, 1 group", version=version, **words)
    return Line(system=system, callers=callers, runs=list(runs))


def comparison_of(*lines: Line, missing: dict[str, str] | None = None, **more: Any) -> Comparison:
    settings = {"nodes": 3, "size": 100, "seconds": 8.0, "warmup_s": 2.0, "cpus": 2}
    settings |= {"file_system": "ext4", "fdatasync_p50_us": 120.4}
    return Comparison(lines=list(lines), missing=missing or {}, settings=settings | more)


def test_a_spread_is_the_median_with_its_ends() -> None:
    assert Spread.of([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0)
    assert Spread.of(iter([4.0, 2.0])) == Spread(3.0, 2.0, 4.0)


def test_each_begins_as_often_as_the_others() -> None:
    assert turns("abc", 3) == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert turns("ab", 2, done=1) == [["b", "a"], ["a", "b"]]


def test_the_table_says_what_was_measured() -> None:
    text = markdown(
        comparison_of(
            line_of("paxmux", 100, outcome_of(30_000), outcome_of(10_000), outcome_of(20_000)),
            line_of("paxmux", 1000, outcome_of(50_000.4)),
            line_of("etcd", 100, outcome_of(9000, errors=3)),
            missing={"pysyncobj": "it is not there"},
        )
    )
    rows = text.splitlines()
    assert rows[2] == (
        "| paxmux, 1 group | **20,000** (10,000 … 30,000) | 2.0 | 4.0 | "
        "**50,000** (50,000 … 50,000) | 2.0 | 4.0 |"
    )
    assert rows[3] == "| etcd, 1 group | **9,000** (9,000 … 9,000) | 2.0 | 4.0 | - | - | - |"
    assert len({row.count("|") for row in rows[:4]}) == 1
    words = " ".join(text.split())
    assert "**etcd** 1: a value is the synced of etcd before" in words
    assert "Not measured: pysyncobj, since it is not there." in words
    assert "Doubtful: etcd, 1 group, 100 callers: 3 errors." in words
    assert "of 1 to 3 run(s) each" in words
    assert "an `fdatasync` of 120 µs" in words
    assert max(map(len, rows)) <= 120


def test_what_must_not_be_believed_is_named() -> None:
    sound = comparison_of(line_of("etcd", 100, outcome_of(9000)))
    assert sound.doubts == []
    doubtful = comparison_of(
        line_of("etcd", 100, outcome_of(1, agree=False), outcome_of(1, errors=2)),
        file_system="tmpfs",
    )
    told = " ".join(doubtful.doubts)
    for words in ("in memory (tmpfs)", "the nodes differ", "2 errors"):
        assert words in told


def test_runs_of_two_measurements_are_put_together() -> None:
    earlier = comparison_of(line_of("etcd", 100, outcome_of(1)), missing={"pysyncobj": "x", "paxmux": "y"})
    later = comparison_of(
        line_of("etcd", 100, outcome_of(3)), line_of("pysyncobj", 100, outcome_of(7)), fdatasync_p50_us=99.0
    )
    both = joined(earlier, later)
    assert [[run.values_per_s for run in line.runs] for line in both.lines] == [[1, 3], [7]]
    assert both.missing == {"paxmux": "y"}
    assert both.rounds == 2
    with pytest.raises(PaxmuxError, match=r"seconds was 8\.0 and is 4\.0"):
        joined(earlier, comparison_of(seconds=4.0))
    with pytest.raises(PaxmuxError, match="etcd, 1 group is another one"):
        joined(earlier, comparison_of(line_of("etcd", 100, outcome_of(1), version="2")))


def test_a_result_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(PaxmuxError, match="expected a result of tools/compare"):
        read(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b'{"lines": 1}')
    with pytest.raises(PaxmuxError, match="expected a result of tools/compare"):
        read(tmp_path / "bad")


def test_the_table_goes_between_the_markers_of_the_page() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert put(page, "new\n") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert within(put(page, "new\n")) == "new\n"
    for bad in ("before\n", f"{BEGIN}\n", f"{END}\n"):
        with pytest.raises(PaxmuxError, match="no place for the table"):
            put(bad, "new\n")


def test_the_readme_shows_what_the_result_file_says() -> None:
    stored = read(ROOT / RESULT)
    assert within((ROOT / PAGE).read_text(encoding="utf-8")) == markdown(stored)
    assert {line.system.name for line in stored.lines} == set(SYSTEMS)
    assert {line.callers for line in stored.lines} == {100, 1000}
    assert min(len(line.runs) for line in stored.lines) >= 3
    assert (stored.doubts, stored.missing) == ([], {})


def test_the_versions_are_those_that_are_installed() -> None:
    stored = read(ROOT / RESULT)
    (version,) = {line.system.version for line in stored.lines if line.system.name == "pysyncobj"}
    assert f"pysyncobj=={version}" in PACKAGES
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", package) for package in PACKAGES)


def test_what_is_not_there_is_named_and_nothing_is_installed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ready, missing = asyncio.run(find(["paxmux", "etcd"], tmp_path / "environment"))
    assert [each.system.title for each in ready] == ["paxmux, 100 groups", "paxmux, 1 group"]
    assert "apt-get install etcd-server" in missing["etcd"]
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_cannot_be_made_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "environment").write_text("a file", encoding="utf-8")
    ready, missing = asyncio.run(find(["paxmux", "pysyncobj"], tmp_path / "environment"))
    assert len(ready) == 2
    assert "cannot make the environment" in missing["pysyncobj"]


def test_latencies_of_another_process_count_as_ones_own(tmp_path: Path) -> None:
    with open(tmp_path / "latencies", "wb") as file:
        array("Q", [1_000_000, 2_000_000, 9_000_000]).tofile(file)
    answer = LoadAnswer(window_s=2.0, errors=1, latencies=str(tmp_path / "latencies"))
    outcome = answer.outcome(agree=True, foreign_cpu_percent=0.5)
    assert (outcome.values_per_s, outcome.errors, outcome.latency_ms["max"]) == (1.5, 1, 9.0)
    assert msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome) == outcome


def test_messages_of_etcd_are_read() -> None:
    message = field(1, b"\x10\x96\x01") + b"\x20\x07" + field(300, b"x" * 200)
    assert fields(message) == {1: b"\x10\x96\x01", 4: 7, 300: b"x" * 200}
    assert fields(fields(message)[1]) == {2: 150}
    with pytest.raises(ValueError, match="kind 1"):
        fields(b"\x09" + bytes(8))


PROGRAM = """\
import sys
print('{"n": 1}', flush=True)
for line in sys.stdin:
    if "die" in line: sys.exit("I have seen enough")
    print(line, end="", flush=True)
"""


@in_loop
async def test_a_foreign_process_answers_and_says_why_it_ended(tmp_path: Path) -> None:
    process = ForeignProcess("other", [sys.executable, "-c", PROGRAM], tmp_path / "log", "mark")
    await process.kill()
    await process.start()
    try:
        assert await process.ask(60) == {"n": 1}
        assert await process.ask(60, op="x") == {"op": "x"}
        (child,) = psutil.Process().children()
        with pytest.raises(PaxmuxError, match=r"other has ended(?s:.)*seen enough"):
            await process.ask(60, op="die")
    finally:
        await process.kill()
    assert not child.is_running()


@in_loop
async def test_runs_that_others_disturb_do_not_count(tmp_path: Path) -> None:
    disturbed = [True, False, True, True, True]
    folders = []

    async def run(work: Work, folder: Path, mark: str, steps: Steps) -> Outcome:
        folders.append(folder)
        assert list(folder.iterdir()) == []
        (folder / "data").write_bytes(b"left behind")
        return outcome_of(len(folders), foreign_cpu_percent=10.1 if disturbed[len(folders) - 1] else 10.0)

    ready = Ready(line_of("etcd", 4, outcome_of(1)).system, run)
    work = Work(callers=4, size=100, seconds=1, warmup_s=0)
    with Steps(Console(file=StringIO())) as steps:
        result = await compare([ready], {}, [work], 2, 0, tmp_path, steps)
    assert [[run.values_per_s for run in line.runs] for line in result.lines] == [[2]]
    assert len(folders) == len(disturbed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.xdist_group("cluster")
def test_a_tiny_comparison_with_what_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All systems whose programs are here already; nothing is installed for a test."""
    # Other tests run beside this one.
    monkeypatch.setattr(measure, "FOREIGN_CPU_MAX_PERCENT", 100.0)
    names = ["paxmux"]
    if (ROOT / ENVIRONMENT / "stamp").is_file():
        names += ["pysyncobj", *(["etcd"] if shutil.which("etcd") else [])]
    file, data = tmp_path / "result.json", tmp_path / "data"
    words = ["--root", str(ROOT), "--systems", ",".join(names), "--add", str(file), "--data-dir", str(data)]
    code = main([*words, *TINY])
    result = read(file)
    assert {line.system.name for line in result.lines} == set(names)
    assert len(result.lines) == len(names) + 1
    assert code == (ExitCode.FAILED if result.doubts else ExitCode.OK)
    for line in result.lines:
        assert line.values_per_s.min > 0
        assert 0 < line.latency_ms("p50").min <= line.latency_ms("max").max
    assert not any("differ" in doubt or "errors" in doubt for doubt in result.doubts)
    assert list(data.iterdir()) == []
    assert capsys.readouterr().out == markdown(result)


def test_wrong_arguments_are_usage_errors(tmp_path: Path) -> None:
    program = "import sys; from paxmux.tools.comparison.__main__ import main; sys.exit(main())"
    done = run_command("--root", tmp_path, "--systems", "zab", folder=tmp_path, program=program)
    assert done.returncode == ExitCode.USAGE
    assert "expected names of paxmux, etcd, pysyncobj, got 'zab'" in done.stderr
