"""The tables of faults in `docs/faults.md`, made from the tests that prove their rows.

    python -m tests.fault_table --write

Without `--write` it says whether the file is as it should be, by its exit code.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fault_rows import ATTRIBUTE, Row
from tests.fault_rows_elsewhere import ELSEWHERE
from tests.fault_rows_of_processes import ROWS
from tests.source_tree import ROOT

PAGE = ROOT / "docs" / "faults.md"
FAULTS_OF_DISKS = (
    "kill -9 at every call that changes the disk",
    "kill -9 at random moments",
    "torn and reordered unsynced writes",
    "flipped bits",
    "missing file",
    "truncated file",
    "duplicated or swapped file",
    "foreign file",
    "file of a newer version",
    "ENOSPC and EIO at each call",
    "ENOSPC and EIO at each call: append, sync",
    "ENOSPC and EIO at each call: next segment",
    "ENOSPC and EIO at each call: roll-over",
    "ENOSPC and EIO at each call: index",
    "ENOSPC and EIO at each call: cleaner",
    "ENOSPC and EIO at each call: recovery",
    "ENOSPC and EIO at each call: clean stop",
    "full file system under load",
    "read-only directory",
    "second process on the same directory",
    "LMDB map full",
    "data directory of another node or cluster",
    "random single faults",
)
FAULTS_OF_PROCESSES = (
    "killed (SIGKILL)",
    "stopped (SIGSTOP)",
    "stopped (SIGSTOP), and continued",
    "crash loop",
    "cannot boot",
    "out of memory: killed by the system",
    "out of memory: in a state machine",
    "out of memory: elsewhere",
    "a state machine raises",
    "a state machine is slow",
    "a state machine never returns",
    "handlers block the embedding server",
    "a ring is full",
    "a ring's header is damaged",
    "random corruptions of a ring's header and records",
    "a ring's memory is made smaller",
    "what a worker says makes no sense",
    "does not stop when asked",
)
TABLES = {"table": FAULTS_OF_DISKS, "table of processes": FAULTS_OF_PROCESSES}
"""The mark of each table in the page, and its faults in their order; each must have a row."""
FAULTS = FAULTS_OF_DISKS + FAULTS_OF_PROCESSES


class Proven(NamedTuple):
    """A row with its test."""

    row: Row
    file: str
    test: str


def proven() -> list[Proven]:
    """Every row that a test proves, in the order of the tables."""
    found = [Proven(*each) for each in (*ELSEWHERE, *ROWS)]
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        if "@fault(" in file.read_text(encoding="utf-8"):
            module = importlib.import_module(f"tests.{file.stem}")
            for name, test in vars(module).items():
                if name.startswith("test_"):
                    rows: tuple[Row, ...] = getattr(test, ATTRIBUTE, ())
                    found += [Proven(row, f"tests/{file.name}", name) for row in rows]
    return sorted(found, key=lambda each: (FAULTS.index(each.row.fault), each.row.where, each.test))


def names_in(file: Path) -> Iterator[str]:
    """The names of the tests in a file."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name


def table(faults: tuple[str, ...]) -> str:
    """The table of these faults, as it must stand in the page."""
    lines = ["| fault | where | outcome | test |", "| --- | --- | --- | --- |"]
    before = ""
    for row, file, test in proven():
        if row.fault in faults:
            shown = "" if row.fault == before else row.fault
            before = row.fault
            lines.append(
                f"| {shown} | {row.where} | {row.outcome} | `{file.removeprefix('tests/')}::{test}` |"
            )
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the tables in it."""
    text = PAGE.read_text(encoding="utf-8")
    for mark, faults in TABLES.items():
        begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        text = f"{head}{begin}\n{table(faults)}\n{end}{tail}"
    return text


def main() -> int:
    """The command."""
    text = page()
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if sys.argv[1:]:
        sys.stderr.write("usage: python -m tests.fault_table [--write]\n")
        return 2
    return 0 if text == PAGE.read_text(encoding="utf-8") else 1


if __name__ == "__main__":
    sys.exit(main())
