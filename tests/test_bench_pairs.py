"""`tools/bench-pairs`: whose turn it is, what a run comes to, the table, and the command with real runs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import orjson
import psutil
import pytest

from paxmux.engine.errors import ExitCode, PaxmuxError
from paxmux.tools.bench_pairs import SETTINGS, _rounds, main, run_once
from paxmux.tools.main import INTERRUPTED, _parser
from paxmux.tools.pairs_table import PairRun, Pairs, markdown
from tests.command import DEADLINE_S, wait_gone

PROGRAM = str(Path(sys.executable).with_name("paxmux"))


def report_of(values_per_s: float, **more: Any) -> dict[str, Any]:
    return {
        "values_per_s": values_per_s,
        "latency_ms": {"avg": 1, "p50": 2, "p90": 3, "p99": 4, "p999": 5, "max": 6},
        "cpu_s": {"node1": {"host": 1.0, "worker0": 2.0}, "node2": {"host": 1.0}},
        "callers": {"longest_wait_by_p50": 7.5},
        "settings": {"seconds": 10.0},
        "errors": {},
        "differences": [],
        "invalid_because": [],
        "consistent": True,
        **more,
    }


def test_versions_take_turns_within_each_setting() -> None:
    first, second = _rounds(["a", "b"], ["old", "new"], 2)
    assert first == [("a", "old"), ("a", "new"), ("b", "old"), ("b", "new")]
    assert second == [("a", "new"), ("a", "old"), ("b", "new"), ("b", "old")]
    assert _rounds(["a"], ["new"], 2) == [[("a", "new")], [("a", "new")]]


def test_what_is_kept_of_a_run() -> None:
    run = PairRun.of("--x", "new", report_of(1000.0))
    assert (run.cpu_us_per_value, run.longest_wait_by_p50, run.sound) == (400.0, 7.5, True)
    older = report_of(0.0)
    del older["callers"]
    assert PairRun.of("--x", "old", older).longest_wait_by_p50 is None
    for bad in (
        {"errors": {"404": 3}},
        {"invalid_because": ["why"]},
        {"consistent": False, "differences": ["d"]},
    ):
        run = PairRun.of("--x", "new", report_of(1.0, **bad))
        assert not run.sound
        assert run.why_not


def test_the_table_has_medians_and_ratios() -> None:
    runs = [PairRun.of("--x", "old", report_of(values)) for values in (100.0, 300.0, 200.0)]
    runs += [PairRun.of("--x", "new", report_of(values)) for values in (400.0, 500.0)]
    runs.append(PairRun.of("--y", "new", report_of(1234.5, errors={"404": 1})))
    programs = {"old": "one", "new": "other"}
    text = markdown(Pairs(programs=programs, common=[], settings=["--x", "--y"], runs=runs))
    rows = text.splitlines()
    assert "| `--x` | old | **200** (100 … 300) | **2.00** (2.00 … 2.00) |" in rows[2]
    assert "| new / old | 2.25 | 1.00 | 1.00 | 0.45 |" in rows[4]
    assert "| `--y` | new | **1,234** (1,234 … 1,234) |" in rows[5]
    assert len({row.count("|") for row in rows[:6]}) == 1
    assert rows[-1] == "* new `--y`: 1 errors 404"


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_settings_are_accepted(setting: str) -> None:
    assert _parser(["bench"]).parse_args(["bench", *setting.split()]).command == "bench"


def test_a_run_that_gives_no_report_says_why() -> None:
    with pytest.raises(PaxmuxError, match=r"bench --nodes 99 .* ended with 2:(?s:.)*expected a whole number"):
        run_once([], PROGRAM, ["--nodes", "99"])


@pytest.mark.xdist_group("cluster")
def test_two_versions_for_a_moment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, seen = tmp_path / "pairs.json", tmp_path / "seen"
    lock = tmp_path / "lock"
    lock.write_text(f'#!/bin/sh\necho >>{seen}\nexec "$@"\n', encoding="utf-8")
    lock.chmod(0o755)
    words = ["--old", PROGRAM, "--runs", "1", "--json", str(file), "--through", str(lock)]
    words += ["--common", "--nodes 1 --seconds 0.3 --warmup-s 0.1 --clients 2", "--groups 2"]
    code = main(words)
    pairs = msgspec.convert(orjson.loads(file.read_bytes()), Pairs)
    assert [run.version for run in pairs.runs] == ["old", "new"]
    assert all(run.values_per_s > 0 and run.longest_wait_by_p50 for run in pairs.runs)
    assert code == (ExitCode.OK if all(run.sound for run in pairs.runs) else ExitCode.FAILED)
    assert seen.read_text(encoding="utf-8") == "\n\n"
    assert capsys.readouterr().out == markdown(pairs)


def test_nothing_is_left_of_a_run_that_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 600\n", encoding="utf-8")
    program.chmod(0o755)
    tool = subprocess.Popen([sys.executable, "-P", "-m", "paxmux.tools.bench_pairs", "--new", str(program)])
    deadline = time.monotonic() + DEADLINE_S
    # The program, and what it runs.
    while len(family := psutil.Process(tool.pid).children(recursive=True)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    tool.terminate()
    assert tool.wait(DEADLINE_S) == INTERRUPTED
    wait_gone(family)


def test_wrong_programs_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as usage:
        main(["--old", "no-such-program"])
    assert usage.value.code == ExitCode.USAGE
    assert "expected a program, got 'no-such-program'" in capsys.readouterr().err
