"""Scenario files give the trace that they say, and the runner sees it where one does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import scenario
from tests.scenario import ScenarioFailed, difference, replay, scenario_files
from tests.scenario_commands import Commands
from tests.scenario_world import ScenarioError

FILES = scenario_files()
SMALL = """\
# A value.

cluster nodes=1
----
1 node up, a majority is 1

propose 1 x quiet
----
1 executes g0 i0 [x]
1 answers [x] done at i0, place 0: value 1
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    changed = difference(text, replay(text, path.name), path.name)
    assert not changed, f"\n{changed}\nif that is right: python -m tests.scenario --rewrite {path.name}"


def test_scenarios_are_numbered_in_reading_order_and_open_with_words() -> None:
    assert len(FILES) >= 34
    assert [int(path.name[:2]) for path in FILES] == list(range(1, len(FILES) + 1))
    assert [path.name for path in FILES if not path.read_text(encoding="utf-8").startswith("# ")] == []


def test_the_readme_names_every_command() -> None:
    readme = (scenario.FOLDER / "README.md").read_text(encoding="utf-8")
    names = Commands().names()
    assert len(names) > 20
    assert [name for name in names if f"`{name}" not in readme] == []


def test_a_trace_that_differs_is_seen_and_rewritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.txt"
    path.write_text(SMALL.replace("i0 [x]", "i7 [x]"), encoding="utf-8")
    assert scenario.main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "-1 executes g0 i7 [x]\n+1 executes g0 i0 [x]\n" in out
    assert scenario.main(["--rewrite", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == SMALL
    assert scenario.main([str(path)]) == 0


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("propose 1 x\n----\n", 1, "begins with `cluster`"),
        ("cluster\nfly 1\n----\n", 2, "no command 'fly'"),
        ("cluster\ndeliver 1->2\n----\n", 2, "nothing like that is on the wire"),
        ("cluster\ndeliver 1->2 kind=Acept\n----\n", 2, "no kind 'Acept'"),
        ("cluster\ndeliver 1\n----\n", 2, "expected links"),
        ("cluster\npropose 9 x\n----\n", 2, "no node 9"),
        ("cluster\nrestart 1\n----\n", 2, "node 1 is up"),
        ("cluster\npersist 1\n----\n", 2, "cannot persist now"),
        ("cluster\nheal 1->2\n----\n", 2, "nothing to heal"),
        ("cluster\n\npropose 1 x\n----\n", 2, "expected a command or `----`"),
        ("cluster\n", 1, "without `----`"),
    ],
)
def test_what_makes_no_sense_is_named_with_file_and_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ScenarioFailed, match=rf"^x\.txt:{line}: ") as caught:
        replay(text, "x.txt")
    assert words in str(caught.value)


def test_two_values_at_one_instance_are_an_error_whatever_the_file_expects() -> None:
    forged = "forge 2->3 kind=Learned instance=0 round=1 value=other"
    text = f"cluster\npropose 1 x\nsettle\ncrash 3\nrestart 3 without-data\n{forged}\n"
    with pytest.raises(ScenarioFailed, match="two values decided at g0 i0"):
        replay(f"{text}deliver 2->3 kind=Learned\n----\n", "x.txt")


def test_a_replica_that_executes_something_else_is_an_error() -> None:
    commands = Commands()
    commands.run("cluster")
    commands.world.judge_execution(1, 0, 0, b"x")
    commands.world.judge_execution(1, 0, 1, b"y")
    commands.world.judge_execution(2, 0, 0, b"x")
    with pytest.raises(ScenarioError, match="node 2 executes"):
        commands.world.judge_execution(2, 0, 1, b"z")
