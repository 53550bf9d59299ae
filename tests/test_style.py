"""Rules of style that no linter knows. A breach names the line and the way out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source_tree import FOLDERS, PACKAGES, lines_of, place, python_files, text_files, tree

MAX_LINES = 500
VAGUE_NAMES = frozenset({"common", "helper", "helpers", "manager", "misc", "util", "utils"})

# The classes of one letter keep this file from tripping over itself.
MACHINE_PATHS = re.compile(r"(?<![\w.$}~-])/(?:[r]oot|[h]ome|[w]ork|[t]mp)\b")
UNFINISHED = re.compile(r"\b(?:[T]ODO|[F]IXME|[X]XX|[H]ACK)\b")
FORBIDDEN = re.compile(r"\b(?:[Ii]ssue #?\d+|[Tt]his (?:session|issue)\b|A[I]\b|L[L]Ms?\b)")
ADDRESSES = re.compile(r"https?://([^/\s)\"'>`]+)")
KNOWN_HOSTS = frozenset({"www.apache.org", "www.w3.org", "127.0.0.1", "localhost"})


def matches(pattern: re.Pattern[str], files: tuple[Path, ...]) -> Iterator[str]:
    for file in files:
        for number, line in lines_of(file):
            match = pattern.search(line)
            if match is not None:
                yield f"{place(file, number)}: {match[0]!r}"


def test_no_path_of_one_machine() -> None:
    found = list(matches(MACHINE_PATHS, text_files()))
    assert not found, "\ntake tmp_path, tempfile or a relative path:\n" + "\n".join(found)


def test_nothing_is_marked_as_unfinished() -> None:
    found = list(matches(UNFINISHED, text_files()))
    assert not found, "\nfinish it, or describe the limit where users read it:\n" + "\n".join(found)


def test_the_text_speaks_of_the_project_alone() -> None:
    found = list(matches(FORBIDDEN, text_files()))
    assert not found, "\nsay what the code does, not who wrote it, when or where:\n" + "\n".join(found)


def test_no_address_of_a_host_that_may_change() -> None:
    found = [
        f"{place(file, number)}: {host}"
        for file in text_files()
        for number, line in lines_of(file)
        for host in ADDRESSES.findall(line)
        if host.split(":")[0] not in KNOWN_HOSTS
    ]
    assert not found, "\nname the thing instead of its address:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (MACHINE_PATHS, f"open('/{'tmp'}/x')", True),
        (MACHINE_PATHS, f"cd /{'root'}", True),
        (MACHINE_PATHS, f"a /{'home'}/me/b", True),
        (MACHINE_PATHS, f"/proc/self /dev/shm src/{'tmp'}/x /worker /rooted $X/{'tmp'}", False),
        (UNFINISHED, f"# {'todo'.upper()}: later", True),
        (UNFINISHED, "todos and hacks", False),
        (FORBIDDEN, f"see issue {12}", True),
        (FORBIDDEN, f"found in {'this'} session", True),
        (FORBIDDEN, "the issue is that a session ends; FAIL", False),
    ],
)
def test_the_patterns_tell_right_from_wrong(pattern: re.Pattern[str], text: str, found: bool) -> None:
    assert (pattern.search(text) is not None) == found


def test_no_file_is_too_long() -> None:
    files = python_files("engine", "shards", "plugins", "tools")
    assert len(files) > 20
    sizes = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    found = [f"{place(file)}: {size} lines" for file, size in sizes.items() if size > MAX_LINES]
    assert not found, f"\nmore than {MAX_LINES} lines: give each job a file of its own:\n" + "\n".join(found)


def test_every_module_says_what_it_is() -> None:
    found = [place(file) for file in python_files(*PACKAGES, "tests") if not ast.get_docstring(tree(file))]
    assert not found, "\nopen with a docstring: what it decides, what it must never do:\n" + "\n".join(found)


def test_no_name_says_nothing() -> None:
    paths = [*python_files(*PACKAGES, "tests")]
    found = [place(path) for path in paths if VAGUE_NAMES.intersection(re.split(r"[_/.]", place(path)))]
    assert not found, "\nname the one job of the file:\n" + "\n".join(found)


def test_only_the_command_line_prints() -> None:
    """Weakness B20 of the reference."""
    found = [
        place(file, node.lineno)
        for file in python_files("paxmux", "engine", "shards", "plugins")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not found, "\nuse logging, or return the text:\n" + "\n".join(found)


def test_no_exception_is_swallowed() -> None:
    found = [
        place(file, node.lineno)
        for file in python_files(*PACKAGES, "tests")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ExceptHandler) and _swallows(node)
    ]
    assert not found, "\nname the exception that is expected, and say what follows from it:\n" + "\n".join(
        found
    )


def _swallows(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(isinstance(name, ast.Name) and name.id in {"Exception", "BaseException"} for name in names)
    return broad and all(isinstance(part, ast.Pass | ast.Continue) for part in handler.body)


@pytest.mark.parametrize(
    ("handler", "swallowed"),
    [
        ("except: raise", True),
        ("except Exception: pass", True),
        ("except (OSError, BaseException): pass", True),
        ("except Exception: raise X from None", False),
        ("except OSError: pass", False),
    ],
)
def test_swallowing_is_told_from_handling(handler: str, swallowed: bool) -> None:
    parsed = ast.parse(f"try: x\n{handler}")
    handlers = [node for node in ast.walk(parsed) if isinstance(node, ast.ExceptHandler)]
    assert [_swallows(node) for node in handlers] == [swallowed]


def test_the_files_are_found() -> None:
    tops = {place(file).split("/")[0] for file in text_files()}
    assert {*FOLDERS, "README.md", "pyproject.toml"} <= tops


@pytest.mark.parametrize(
    ("folder", "page"), [("shards", "ARCHITECTURE.md"), ("plugins/storage", "plugins/storage/README.md")]
)
def test_each_module_has_its_place_on_the_page(folder: str, page: str) -> None:
    root = Path(__file__).parent.parent
    words = (root / page).read_text(encoding="utf-8")
    names = [path.name for path in sorted((root / folder).glob("*.py")) if path.name != "__init__.py"]
    assert len(names) > 10
    missing = [name for name in names if f"`{name}`" not in words]
    assert not missing, f"{page} does not say what these are for: {missing}"
