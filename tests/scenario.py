"""Scenario files: commands, `----`, and the whole trace that they must give.

A file is a sequence of blocks with comments between them. A block is one or more command lines, a
line `----`, and the lines that the commands print, up to an empty line. Commands of a file share one
cluster. What is printed is the order in which things happened, down to the phases of a turn, so the
files are tests and documentation of the protocol at once.

    python -m tests.scenario                  checks every file
    python -m tests.scenario FILE ...         checks these
    python -m tests.scenario --rewrite ...    writes the output of today into the files

After a rewrite the diff is what has to be judged: every changed line is a change of behaviour.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.scenario_commands import Commands
from tests.scenario_world import ScenarioError

FOLDER = Path(__file__).parent / "scenarios"
RULE = "----"


class ScenarioFailed(Exception):
    """A command could not be carried out; the message names file and line."""


def scenario_files() -> list[Path]:
    """Every scenario, in reading order."""
    return sorted(FOLDER.glob("*.txt"))


def replay(text: str, name: str) -> str:
    """The text of a scenario file with the output that its commands give now.

    Raises:
        ScenarioFailed: a command makes no sense, or what must always hold does not.
    """
    commands = Commands()
    lines = text.splitlines()
    out: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip() or line.startswith("#"):
            out.append(line)
            at += 1
            continue
        printed: list[str] = []
        while at < len(lines) and lines[at] != RULE:
            if not lines[at].strip():
                raise ScenarioFailed(f"{name}:{at + 1}: expected a command or `{RULE}`")
            try:
                printed += commands.run(lines[at])
            except ScenarioError as error:
                raise ScenarioFailed(f"{name}:{at + 1}: {lines[at]}: {error}") from error
            out.append(lines[at])
            at += 1
        if at == len(lines):
            raise ScenarioFailed(f"{name}:{at}: commands without `{RULE}`")
        out += [RULE, *(printed or ["ok"])]
        at += 1
        while at < len(lines) and lines[at].strip():
            at += 1
    return "\n".join(out) + "\n"


def difference(text: str, now: str, name: str) -> str:
    """What a rewrite would change; empty if nothing."""
    return "".join(
        difflib.unified_diff(
            text.splitlines(True), now.splitlines(True), f"{name} (expected)", f"{name} (now)"
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code: 0 only if every file is as it was."""
    parser = argparse.ArgumentParser(prog="python -m tests.scenario", description="Check scenario files.")
    parser.add_argument("files", nargs="*", type=Path, help="default: all of tests/scenarios")
    parser.add_argument("--rewrite", action="store_true", help="write the output of today into the files")
    args = parser.parse_args(argv)
    # What a fenced group tells the operator belongs into no trace.
    logging.getLogger("paxmux").addHandler(logging.NullHandler())
    failed = changed = 0
    for path in args.files or scenario_files():
        text = path.read_text(encoding="utf-8")
        try:
            now = replay(text, path.name)
        except ScenarioFailed as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        if now == text:
            continue
        changed += 1
        if args.rewrite:
            path.write_text(now, encoding="utf-8")
            print(f"rewritten: {path.name}")
        else:
            print(difference(text, now, path.name))
    return 1 if failed or (changed and not args.rewrite) else 0


if __name__ == "__main__":
    sys.exit(main())
