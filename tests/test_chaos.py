"""`paxmux chaos` with fixed seeds, and that it finds what is wrong when something is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from paxmux.engine.errors import ExitCode
from tests.command import run_command

# A state machine that does wrong: on one node, or on all of them alike.
WRONG_MACHINE = """\
import os
from paxmux.tools.journal_machine import Journal
from paxmux.tools.processes import MARK

class WrongMachine(Journal):
    count = 0

    def execute(self, instance_id, value, context):
        self.count += 1
        if self.count == 20:
            if {wrong!r} == "skip on one node" and os.environ[MARK].endswith("/node2"):
                return None
            if {wrong!r} == "skip everywhere":
                return None
            if {wrong!r} == "raise":
                raise RuntimeError("boom")
        if self.count == 20 and {wrong!r} == "twice everywhere":
            super().execute(instance_id, value, context)
        return super().execute(instance_id, value, context)
"""

WITH_WRONG_MACHINE = """\
import sys
from paxmux.tools import chaos_run
chaos_run.MACHINE = "wrong_machine:WrongMachine"
from paxmux.tools.main import main
sys.exit(main(["chaos", *sys.argv[1:]]))
"""


def chaos(folder: Path, *words: object) -> dict[str, Any]:
    done = run_command("chaos", *words, "--json", folder=folder)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    report: dict[str, Any] = orjson.loads(done.stdout)
    assert done.stderr.startswith(f"seed {report['settings']['seed']}\n")
    assert "sound: nothing acknowledged was lost" in done.stderr
    assert list(folder.iterdir()) == [], "a temporary folder is left"
    return report


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (1, ("--workers", "1,2,3")),
        (2, ("--workers", "2,1,4", "--router", "process", "--size", 5000)),
        (5, ("--router", "process", "--faults", "crash loop,ring,until it is replaced,router killed")),
    ],
)
def test_nothing_is_lost_or_doubled(seed: int, words: tuple[object, ...], tmp_path: Path) -> None:
    report = chaos(tmp_path, "--seed", seed, "--seconds", 7, "--clients", 6, *words)
    assert report["sound"] is True
    assert (report["violations"], report["examples"], report["left_behind"]) == (0, [], [])
    assert len(report["rounds"]) >= 1
    assert sum(kind["rounds"] for kind in report["kinds"].values()) == len(report["rounds"])
    assert report["longest_gap_s"] == max(kind["longest_gap_s"] for kind in report["kinds"].values())
    assert report["acknowledged_lost"] == 0
    assert sum(report["faults"].values()) >= len(report["rounds"])
    acknowledged = report["outcomes"]["0"]
    assert acknowledged >= 100
    assert report["executed"] >= acknowledged


@pytest.mark.xdist_group("cluster")
def test_the_last_values_are_checked_too(tmp_path: Path) -> None:
    """Without any second round, and with one node: what was acknowledged was executed, all of it."""
    report = chaos(tmp_path, "--seed", 3, "--seconds", 0, "--workers", "2", "--groups", 2)
    assert len(report["rounds"]) == 1
    unknown = sum(count for code, count in report["outcomes"].items() if code == "404")
    assert report["outcomes"]["0"] <= report["executed"]
    # Of a killed node's values the last ones are known to nobody.
    assert report["executed"] <= report["outcomes"]["0"] + unknown + report["settings"]["clients"]


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ("skip on one node", "node2 has executed"),
        ("skip everywhere", "and is lost"),
        ("twice everywhere", "was executed twice"),
        ("raise", "ended with code 15, which nothing here should cause"),
    ],
)
def test_what_is_wrong_is_found(wrong: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "wrong_machine.py").write_text(WRONG_MACHINE.format(wrong=wrong), encoding="utf-8")
    words = ("--seed", 4, "--seconds", 0, "--groups", 4, "--workers", "1,1,1", "--json")
    done = run_command(*words, folder=tmp_path, program=WITH_WRONG_MACHINE, PYTHONPATH=str(tmp_path))
    assert done.returncode == ExitCode.FAILED, done.stdout + done.stderr
    report = orjson.loads(done.stdout)
    assert report["sound"] is False
    assert any(found in words for words in report["examples"]), report["examples"]
    assert "UNSOUND: seed 4" in done.stderr
    # Whoever looks into it finds everything there.
    (kept,) = (tmp_path / folder for folder in tmp_path.iterdir() if folder.name.startswith("paxmux-"))
    assert f"data and logs are kept in {kept}" in done.stderr
    assert {"node1.log", "node2", "node3.yaml"} <= {file.name for file in kept.iterdir()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--workers", "1,2,9"), "expected at most one worker per group (8)"),
        (("--workers", "1,x"), "expected a whole number of 1 .. 64, got 'x'"),
        (("--workers", ",".join("1" * 10)), "expected 1 .. 9 nodes, got 10"),
        (("--seed", "-1"), "expected a whole number"),
        (("--size", 11), "expected a whole number of 12"),
        (("--faults", "rocks"), "--faults: expected words from"),
    ],
)
def test_wrong_arguments_are_usage_errors(words: tuple[object, ...], expected: str, tmp_path: Path) -> None:
    done = run_command("chaos", *words, folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert expected in done.stderr
