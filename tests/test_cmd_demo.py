"""`paxmux demo`, shortened: what it shows, what it says, and that it leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import orjson
import pytest

from paxmux.engine.errors import ExitCode
from tests.command import run_command
from tests.source_tree import ROOT

QUICK = """\
import sys
from paxmux.tools import demo_run
demo_run.STEADY_S = demo_run.DOWN_S = 1.0
demo_run.AFTER_S = 2.0
from paxmux.tools.main import main
sys.exit(main(["demo", *sys.argv[1:]]))
"""


@pytest.mark.xdist_group("cluster")
def test_it_shows_a_cluster_that_survives(tmp_path: Path) -> None:
    done = run_command(folder=tmp_path, program=QUICK)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert done.stderr == ""
    for words in (
        "three nodes serve",
        "echo, group 1, instance 0: hello from node2",
        "kill -9 of node2 under load",
        "node2 is back after",
        "kill -9 of worker 0 of node3",
        "values/s",
        "values executed",
        "latency p50",
    ):
        assert words in done.stdout
    assert "all replicas applied the same sequence" in done.stdout
    assert list(tmp_path.iterdir()) == [], "a temporary folder is left"


@pytest.mark.xdist_group("cluster")
def test_its_report_as_json(tmp_path: Path) -> None:
    done = run_command("--json", folder=tmp_path, program=QUICK)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    report = orjson.loads(done.stdout)
    assert report["consistent"] is True
    assert report["left_behind"] == report["differences"] == []
    assert [phase["name"] for phase in report["phases"]][1:] == [
        "without node2",
        "node2 back",
        "worker 0 of node3 killed",
    ]
    assert all(phase["values_per_s"] > 0 for phase in report["phases"])
    assert len(set(report["applied"].values())) == 1
    assert report["applied"]["node2"] >= report["ok"] > 0
    # A worker that is killed owes answers; nothing else may go wrong.
    assert set(report["errors"]) <= {"404", "405"}


def test_the_script_runs_the_command_of_its_own_environment(tmp_path: Path) -> None:
    """With a false environment: making the real one is tools/venv's, which has its own tests."""
    root = tmp_path / "project"
    (root / "tools").mkdir(parents=True)
    (root / "tools" / "demo").write_bytes((ROOT / "tools" / "demo").read_bytes())
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="ascii")
    for script in (root / "tools" / "demo", python):
        script.chmod(0o755)
    (root / "tools" / "venv").write_text(f"python={python}\n", encoding="ascii")
    done = subprocess.run(
        [root / "tools" / "demo", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n") == ["-m", "paxmux", "demo", "--json", ""]
    assert os.access(ROOT / "tools" / "demo", os.X_OK)
