"""The README says what is: its code is that of the examples, its commands exist, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from paxmux.tools.main import COMMANDS, _parser
from tests.source_tree import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
NARRATION = "## From a plain class to a replicated one"
NARRATION_MAX_LINES = 40
ELLIPSIS = "..."


def section(heading: str) -> str:
    return README.split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]


def quotations() -> list[tuple[str, str]]:
    """(file, code) of each Python block."""
    return re.findall(r"<!-- (\S+) -->\n```python\n(.*?)```", README, re.DOTALL)


def shell_lines() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def pieces(code: str) -> Iterator[str]:
    """The runs of lines between ellipses, without the indentation that they share."""
    piece: list[str] = []
    for line in [*code.splitlines(), ELLIPSIS]:
        if line.strip() == ELLIPSIS:
            if piece:
                yield dedent("\n".join(piece))
            piece = []
        else:
            piece.append(line)


def contains(source: str, piece: str) -> bool:
    """Whether a run of whole lines is in the source, at any indentation."""
    wanted = piece.splitlines()
    lines = source.splitlines()
    runs = ("\n".join(lines[start : start + len(wanted)]) for start in range(len(lines)))
    return any(dedent(run) == piece for run in runs)


def test_every_python_block_is_a_quotation() -> None:
    assert len(quotations()) == README.count("```python") == 3


@pytest.mark.parametrize(("file", "code"), quotations())
def test_quoted_code_is_that_of_the_file(file: str, code: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    found = list(pieces(code))
    assert found
    for piece in found:
        assert contains(source, piece), f"{file} has not:\n{piece}"


@pytest.mark.parametrize(
    ("piece", "found"),
    [("b = 2", True), ("if a:\n    b = 2", True), ("b = 3", False), ("if a:\nb = 2", False), ("b =", False)],
)
def test_quotations_are_told_from_inventions(piece: str, found: bool) -> None:
    assert contains("def f():\n    if a:\n        b = 2\n", piece) == found


def test_the_narration_is_short_and_names_its_files() -> None:
    text = section(NARRATION)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("<!--")]
    assert len(lines) <= NARRATION_MAX_LINES
    for file in ("examples/counter.py", "examples/asyncio_server.py", "examples/threaded_server.py"):
        assert file in text
        assert (ROOT / file).is_file()


def test_the_table_of_commands_is_that_of_the_command() -> None:
    rows = re.findall(r"^\| `paxmux (\w+)` \| (.+) \|$", section("## Commands"), re.MULTILINE)
    assert dict(rows) == COMMANDS


def test_there_are_commands_to_copy() -> None:
    assert {line.split()[0] for line in shell_lines()} == {"tools/demo", "tools/test", "python3", "paxmux"}


@pytest.mark.parametrize("line", shell_lines())
def test_every_command_can_be_run_as_it_stands(line: str) -> None:
    words = shlex.split(line, comments=True)
    match words:
        case ["paxmux", *rest]:
            args = _parser(rest).parse_args(rest)
            assert args.command in COMMANDS
            for word in rest:
                if word.startswith("configs/"):
                    assert (ROOT / word).is_file()
        case ["python3", "-m", "pip", "install", target]:
            project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
            extra = re.fullmatch(r"\.\[(\w+)\]", target)
            assert extra is not None
            assert re.search(rf"^{extra[1]} = \[", project, re.MULTILINE)
        case [script]:
            assert os.access(ROOT / script, os.X_OK)
        case _:
            raise AssertionError(f"a command that nothing checks: {line}")


def test_every_file_that_is_named_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    named = re.findall(r"`((?:configs|examples|tools|tests|engine|shards|plugins)/[\w./-]+)`", README)
    assert links
    assert named
    for name in {*links, *named}:
        assert (ROOT / name).exists(), name


def test_no_line_is_too_wide() -> None:
    wide = [line for line in README.splitlines() if len(line) > 120]
    assert wide == []


def test_the_readme_is_found() -> None:
    assert Path(ROOT / "README.md").read_text(encoding="utf-8").startswith("# paxmux\n")
