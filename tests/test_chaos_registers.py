"""`paxmux chaos --linearizable`: a sound cluster passes, and what is deliberately wrong is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from paxmux.engine.errors import ExitCode
from paxmux.tools.chaos_history import read_history, write_history
from paxmux.tools.linear import Operation
from tests.command import run_command

# A machine that answers as if it had written, and has not: alike on all nodes, so that only a reader
# can tell.
FORGETFUL_MACHINE = """\
from paxmux.tools.register_machine import Registers

class Forgetful(Registers):
    count = 0

    def execute(self, instance_id, value, context):
        self.count += 1
        before = dict(self._values)
        answer = super().execute(instance_id, value, context)
        if self.count % 5 == 0:
            self._values = before
        return answer
"""

WITH_FORGETFUL_MACHINE = """\
import sys
from paxmux.tools import chaos_registers
chaos_registers.MACHINE = "forgetful_machine:Forgetful"
from paxmux.tools.main import main
sys.exit(main(["chaos", *sys.argv[1:]]))
"""

# One node alone is cut off from both others, while its clients and theirs go on.
ONE_CUT_OFF = """\
import sys
from paxmux.tools import chaos_registers
from paxmux.tools.chaos_faults import Action, Fault, Faults, Plan

class OneCutOff(Faults):
    def next(self):
        around = ((0, 1), (1, 0), (2, 1), (1, 2))
        return Plan("cut off", [Fault(0.3, Action.CUT, 1, cuts=around), Fault(3.5, Action.HEAL, 1)])

chaos_registers.Faults = OneCutOff
from paxmux.tools.main import main
sys.exit(main(["chaos", *sys.argv[1:]]))
"""


def report_of(folder: Path, *words: object, program: str | None = None, **environment: str) -> dict[str, Any]:
    words = words if program is not None else ("chaos", *words)
    done = run_command(*words, "--linearizable", "--json", folder=folder, program=program, **environment)
    report: dict[str, Any] = orjson.loads(done.stdout or "{}")
    assert report, done.stderr
    assert done.returncode == (ExitCode.OK if report["sound"] else ExitCode.FAILED), done.stderr
    assert done.stderr.startswith(f"seed {report['settings']['seed']}\n")
    return report


def checked(folder: Path, file: Path) -> dict[str, Any]:
    done = run_command("chaos", "--check", file, "--json", folder=folder)
    report: dict[str, Any] = orjson.loads(done.stdout or "{}")
    assert report, done.stderr
    assert done.returncode == (ExitCode.OK if report["sound"] else ExitCode.FAILED)
    return report


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize(("seed", "router"), [(1, "inline"), (5, "process")])
def test_registers_are_linearizable(seed: int, router: str, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    words = ("--seed", seed, "--seconds", 12, "--router", router, "--clients", 5, "--groups", 4)
    report = report_of(tmp_path, *words, "--workers", "1,2,3", "--history", file)
    assert report["sound"] is True, report
    assert (report["violations"], report["left_behind"], report["problem"]) == (0, [], None)
    assert sum(report["rounds"].values()) >= 2
    assert sum(report["faults"].values()) >= 2
    assert report["operations"] >= 500
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"], "a temporary folder is left"
    again = checked(tmp_path, file)
    for figure in ("operations", "unknown", "linearizable", "longest_silence_s"):
        assert again[figure] == report[figure]
    # The very same run with one answer that is out of date.
    operations = list(read_history(file))
    write_history(file, [*operations, stale_read(operations)])
    assert checked(tmp_path, file)["sound"] is False


def stale_read(operations: list[Operation]) -> Operation:
    """A read, after everything else, of a value that was overwritten."""
    key = operations[0].key
    seen = [one.result for one in operations if one.key == key and one.kind == "get"]
    stale = next(value for value in seen if value not in (None, seen[-1]))
    now_ns = 1 + max(one.returned_ns or one.invoked_ns for one in operations)
    return Operation(-1000, "get", key, None, stale, now_ns, now_ns + 1)


@pytest.mark.xdist_group("cluster")
def test_linearizable_reads_hold_where_local_ones_are_found_out(tmp_path: Path) -> None:
    """The same cut with both kinds of reads: a node that is cut off goes on answering local ones."""
    words = ("--seed", 1, "--seconds", 0, "--groups", 2, "--workers", "1,1,1", "--clients", 6)
    sound = report_of(tmp_path, *words, program=ONE_CUT_OFF)
    assert sound["sound"] is True, sound
    assert sound["faults"] == {"cut of connections": 1, "end of all cuts": 1}
    # Longer than any call waits: alone, a node decides nothing and reads nothing.
    assert sound["outcomes"]["404"] > 0
    assert list(tmp_path.iterdir()) == []
    local = report_of(tmp_path, *words, "--reads", "local", program=ONE_CUT_OFF)
    assert local["sound"] is local["linearizable"] is False
    assert local["violations"] == 0, local["examples"]
    assert "<- cannot be" in local["problem"]
    (kept,) = tmp_path.iterdir()
    assert {"history.jsonl", "node1.log", "node2", "node3.yaml"} <= {file.name for file in kept.iterdir()}
    assert checked(tmp_path, kept / "history.jsonl")["problem"] == local["problem"]


@pytest.mark.xdist_group("cluster")
def test_a_lost_write_is_found_though_all_replicas_agree(tmp_path: Path) -> None:
    (tmp_path / "forgetful_machine.py").write_text(FORGETFUL_MACHINE, encoding="utf-8")
    words = ("--seed", 4, "--seconds", 0, "--groups", 2, "--workers", "1,1,1", "--clients", 4)
    report = report_of(tmp_path, *words, program=WITH_FORGETFUL_MACHINE, PYTHONPATH=str(tmp_path))
    assert report["sound"] is report["linearizable"] is False
    assert report["violations"] == 0, report["examples"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--keys", 3), "--keys: expected only with --linearizable"),
        (("--reads", "local"), "--reads: expected only with --linearizable"),
        (("--history", "h"), "--history: expected only with --linearizable"),
        (("--linearizable", "--workers", "1,2,9"), "expected at most one worker per group (8)"),
        (("--linearizable", "--history", "no/h"), "no/h: expected a file for the history: No such file"),
        (("--check", "h"), "h: expected a history: No such file"),
    ],
)
def test_wrong_arguments_are_usage_errors(words: tuple[object, ...], expected: str, tmp_path: Path) -> None:
    done = run_command("chaos", *words, folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert expected in done.stderr


def test_a_history_that_makes_no_sense_is_a_usage_error(tmp_path: Path) -> None:
    write_history(tmp_path / "h", [Operation(0, "get", "k", None, None, 5, 4)])
    done = run_command("chaos", "--check", "h", folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert "h: expected a history of registers: returned before it was called" in done.stderr
