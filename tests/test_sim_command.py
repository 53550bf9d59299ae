"""`paxmux sim`: its words, its exit codes, and what it makes of a mistake in the code under test."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from paxmux.engine.errors import ExitCode
from paxmux.engine.paxos.acceptor import Acceptor
from paxmux.tools.cmd_sim import KINDS
from paxmux.tools.main import main
from paxmux.tools.sim.campaign import Failure, Tally, campaign, judge
from paxmux.tools.sim.minimize import minimize
from paxmux.tools.sim.plan import ALIASES, FAULTS, VALUES_MIN, Asked
from paxmux.tools.sim.reach import Reach


def forgetful(self: Acceptor, *_: object) -> tuple[int, int]:
    """An acceptor that promises everything and records nothing."""
    return (0, 0)


def test_a_seed_says_what_it_did(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    assert main(["sim", "--seed", "6", "--json", str(file)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.startswith("seed 6, options as by default\n")
    assert "nodes, " in out
    assert out.endswith("passed\n")
    report = orjson.loads(file.read_bytes())
    assert report["passed"]
    assert report["decided"] >= VALUES_MIN
    assert f"digest {report['digest']}\n" in out


def test_a_campaign_over_processes_is_that_of_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    reports = []
    for jobs in ("1", "2"):
        file = tmp_path / f"{jobs}.json"
        assert main(["sim", "--seeds", "1..12", "--jobs", jobs, "--json", str(file)]) == ExitCode.OK
        out = capsys.readouterr().out
        assert out.startswith(f"seeds 1..12, options as by default, {jobs} processes\n")
        assert out.endswith("all seeds passed\n")
        reports.append(orjson.loads(file.read_bytes()))
    assert reports[0]["digest"] == reports[1]["digest"]
    assert reports[0]["faults"] == reports[1]["faults"]
    assert reports[0]["seeds"] == 12


@pytest.mark.plain("it changes the code of functions")
def test_a_failing_seed_shows_its_trace_and_how_to_reproduce_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(Acceptor, "promise", forgetful)
    file = tmp_path / "report.json"
    words = ["sim", "--seeds", "1..3", "--nodes", "3", "--events", "5", "--json", str(file)]
    assert main(words) == ExitCode.FAILED
    out = capsys.readouterr().out
    assert "the last 5 events before the failure:" in out
    assert re.search(r"\d+\.\d{3} ms  n\d\.w\d is about to send: Prepare g\d i0 b\(\d+,\d\)", out)
    assert "nothing before its sync" in out
    assert out.endswith("reproduce: paxmux sim --seed 1 --nodes 3\n")
    report = orjson.loads(file.read_bytes())
    assert not report["passed"]
    assert [failure["seed"] for failure in report["failures"]] == [1, 2, 3]
    assert main(["sim", "--seed", "1", "--nodes", "3"]) == ExitCode.FAILED


def test_a_campaign_fails_if_a_marked_line_was_never_reached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Tally, "unreached", lambda self: ["forwarded", "value-adopted"])
    assert main(["sim", "--seeds", "1..2"]) == ExitCode.FAILED
    out = capsys.readouterr().out
    assert out.endswith(
        "all seeds passed, but the campaign FAILED: never reached: forwarded, value-adopted\n"
    )


@pytest.mark.plain("it changes the code of functions")
def test_a_failing_seed_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptor, "promise", forgetful)
    said: list[str] = []
    found = minimize(1, Asked(nodes=3), said.append)
    assert found is not None
    small, failure = found
    assert small.faults == ()
    assert small.groups == 1
    assert small.proposals < VALUES_MIN
    assert said
    assert failure == judge(1, small)


def test_a_passing_seed_is_not_made_smaller() -> None:
    assert minimize(6, Asked(), print) is None


@pytest.mark.plain("it changes the code of functions")
def test_code_that_raises_fails_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(Acceptor, "accept", raises)
    tally = campaign(range(1, 2), Asked(), 1, lambda tally: None)
    assert tally.failures == [Failure(1, "ZeroDivisionError", "ZeroDivisionError: a mistake")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seeds", "5"], "expected seeds as in 1..300"),
        (["--seeds", "9..1"], "expected seeds as in 1..300"),
        (["--seed", "1", "--faults", "rain"], "expected kinds of fault"),
        (["--seed", "1", "--nodes", "8"], "expected a whole number of 1 .. 7"),
        ([], "one of the arguments --seed --seeds is required"),
    ],
)
def test_wrong_arguments_are_named(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sim", *words])
    assert ended.value.code == ExitCode.USAGE
    assert expected in capsys.readouterr().err


def test_every_kind_of_fault_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(KINDS) == FAULTS
    with pytest.raises(SystemExit):
        main(["sim", "--help"])
    out = capsys.readouterr().out
    for name in (*FAULTS, *ALIASES):
        assert f"\n  {name} " in out


def test_arguments_that_do_not_go_together_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "--seed", "1", "--jobs", "2"]) == ExitCode.USAGE
    assert main(["sim", "--seeds", "1..2", "--minimize"]) == ExitCode.USAGE
    assert "expected --seed" in capsys.readouterr().err


@pytest.mark.plain("it changes the code of functions")
def test_marks_are_counted_only_meanwhile() -> None:
    acceptor, before = Acceptor(0), Acceptor.promise.__code__
    with Reach() as reach:
        assert len(reach.names) >= 30
        assert judge(1, Asked()) == judge(1, Asked())
        counted = reach.counts.total()
        assert counted > 1000
        assert reach.counts.keys() <= set(reach.names)
    assert Acceptor.promise.__code__ is before
    assert acceptor.promised == (0, 0)
    assert not isinstance(judge(1, Asked()), Failure)
    assert reach.counts.total() == counted
