"""The files of the project, for the tests that read them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("paxmux", "engine", "shards", "plugins", "tools")
FOLDERS = (*PACKAGES, "tests", "configs", ".ci")
_SKIPPED = frozenset({"__pycache__", "data"})


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Every Python file below some top-level folders."""
    return tuple(file for file in text_files() if file.suffix == ".py" and _top(file) in folders)


@cache
def text_files() -> tuple[Path, ...]:
    """Every file that people write: those of the known folders, and those beside them."""
    files = [file for file in ROOT.iterdir() if file.is_file()]
    for folder in FOLDERS:
        files += [file for file in (ROOT / folder).rglob("*") if file.is_file()]
    return tuple(
        sorted(
            file
            for file in files
            if not _SKIPPED.intersection(file.relative_to(ROOT).parts)
            and (file.suffix in {".py", ".md", ".toml", ".yaml", ".typed", ".in"} or file.suffix == "")
            and not file.name.startswith((".venv", ".coverage"))
            and file.name != ".git"
        )
    )


@cache
def tree(file: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def place(file: Path, line: int | None = None) -> str:
    """`engine/config.py:12`, as it stands in messages."""
    name = file.relative_to(ROOT).as_posix()
    return name if line is None else f"{name}:{line}"


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines."""
    yield from enumerate(file.read_text(encoding="utf-8").splitlines(), 1)


def _top(file: Path) -> str:
    return file.relative_to(ROOT).parts[0]
