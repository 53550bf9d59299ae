"""What comes from a wire, a ring or a disk is data: nothing in the product turns bytes into code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("engine", "shards", "plugins", "paxmux", "tools")
NO_WIRE = ROOT / "tools" / "sim"
"""The simulator shares its work among processes of its own, and reads nothing but its own sources."""
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "copyreg"}
"""Of these, and of what pickles behind one's back, none is imported."""
PICKLING = {"multiprocessing", "concurrent.futures.process"}
CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "full_load", "UnsafeLoader", "FullLoader", "Loader"}


def suspicious(source: str) -> Iterator[str]:
    """What in a module could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found = [name.name for name in names]
            case ast.ImportFrom(module=str(module)):
                found = [module]
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                yield f"line {node.lineno}: {name}()"
                continue
            case ast.Attribute(value=ast.Name(id="yaml"), attr=name) if name in UNSAFE_YAML:
                yield f"line {node.lineno}: yaml.{name}"
                continue
            case _:
                continue
        for name in found:
            if name.split(".")[0] in MODULES or name in PICKLING or name.split(".")[0] in PICKLING:
                yield f"line {node.lineno}: import {name}"


def test_nothing_reads_code_from_bytes() -> None:
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 150
    found = {
        str(file.relative_to(ROOT)): words
        for file in files
        if NO_WIRE not in file.parents and (words := list(suspicious(file.read_text(encoding="utf-8"))))
    }
    assert found == {}


def test_the_search_finds_what_it_is_for() -> None:
    for source in (
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "import multiprocessing.connection",
        "eval(data)",
        "exec(data)",
        "yaml.load(data)",
        "yaml.unsafe_load(data)",
    ):
        assert list(suspicious(source)), source
    assert not list(suspicious("import yaml\nyaml.safe_load(data)\nre.compile('x')"))
