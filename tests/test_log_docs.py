"""docs/log.md says what is: its commands and queries run, its columns and exit codes are the real ones."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from paxmux.engine.errors import ExitCode
from paxmux.tools.log.rows import COLUMNS
from tests import duck
from tests.log_world import replicas
from tests.source_tree import ROOT

PAGE = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's commands have run, in their order."""
    folder = tmp_path_factory.mktemp("docs")
    for each in replicas(folder / "data", 3):
        each.fill(40).settle().close()
    for line in COMMANDS:
        program, *words = shlex.split(line)
        assert program == "paxmux"
        output = None
        if ">" in words:
            words, output = words[: words.index(">")], words[-1]
        done = subprocess.run(
            [sys.executable, "-m", "paxmux", *words], cwd=folder, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b""), line
        assert done.stdout, line
        if output is not None:
            (folder / output).write_bytes(done.stdout)
    return folder


def test_the_page_has_commands_for_everything() -> None:
    called = {shlex.split(line)[2] for line in COMMANDS}
    assert called == {"show", "get", "dump", "verify", "export"}


def test_every_command_runs_and_leaves_what_it_says(folder: Path) -> None:
    made = {path.name for path in folder.iterdir()}
    assert made == {
        "data", "value.bin", "records.jsonl", "decided.parquet", "decided.arrow", "decided.jsonl"
    }  # fmt: skip
    assert all((folder / name).stat().st_size for name in made - {"data"})


def test_every_query_runs(folder: Path) -> None:
    found = [duck.rows(query, folder) for query in blocks("sql")]
    assert len(found) == 2
    assert [row[0] for row in found[0]] == [0, 1, 2]
    assert all(int(row[1]) > 0 and int(row[2]) > 0 for row in found[0])
    assert len(duck.rows("SELECT * FROM 'decided.jsonl'", folder)[0]) == len(COLUMNS)


def test_the_python_runs(folder: Path) -> None:
    (code,) = blocks("python")
    program = [sys.executable, "-c", f"{code}\nprint(len(largest))"]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"


def test_the_columns_are_the_real_ones() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ((?:uint\d+|binary|, )+) \| ", PAGE, re.MULTILINE)
    told: list[tuple[str, str]] = []
    for names, kinds in rows:
        columns = re.findall(r"\w+", names)
        types = re.findall(r"\w+", kinds)
        told += zip(columns, types if len(types) == len(columns) else types * len(columns), strict=True)
    assert told == [(name, kind) for name, kind, _ in COLUMNS]


def test_the_exit_codes_are_the_real_ones() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)}
    assert told == {ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.CANNOT_BOOT}


def test_the_page_can_be_found() -> None:
    assert "docs/log.md" in (ROOT / "README.md").read_text(encoding="utf-8")
