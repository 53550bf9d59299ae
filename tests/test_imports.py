"""The import rule: who may import whom. A breach names the line and the way out.

engine.paxos <- a short list of the standard library; engine <- engine.paxos; shards <- engine;
plugins <- the contracts in engine; paxmux <- engine, shards; tools <- all; nothing <- tools, tests.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import BARE_NAMES
from tests.source_tree import PACKAGES, ROOT, place, python_files, tree

PURE_FUNCTIONS = {"zlib_ng"}
"""Of other packages: what computes as the standard library does, only faster."""
PURE_STANDARD_LIBRARY = frozenset(
    {
        "__future__",
        "abc",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "heapq",
        "itertools",
        "operator",
        "random",
        "struct",
        "typing",
        "zlib",
    }
)
"""What the protocol may use: nothing here reads a clock, a file or a socket. `random` is there for the
type of the seeded source that is passed in; using the module's own source is a breach."""

MAY_IMPORT = {
    "engine.paxos": ("paxmux.engine.paxos",),
    "engine": ("paxmux.engine",),
    "shards": ("paxmux.engine", "paxmux.shards"),
    "plugins": ("paxmux.engine",),
    "paxmux": ("paxmux.engine", "paxmux.shards"),
    "tools": ("paxmux",),
}

ADVICE = {
    "engine.paxos": "the protocol is pure: take clock, randomness and I/O as arguments, return effects",
    "engine": "contracts know no process and no plugin: move the code to shards, or load it by dotted path",
    "shards": "name the plugin in the options and load it with paxmux.engine.plugin",
    "plugins": "a plugin sees the contracts in paxmux.engine alone: let the shards pass in what it needs",
    "paxmux": "the public face re-exports from engine and shards",
    "tools": "tests are imported by nothing",
}

INSTALLED_AS = {"yaml": "pyyaml", "zlib_ng": "zlib-ng"}
"""Import name -> distribution, where they differ."""

RUN_ELSEWHERE = {
    "tools/comparison/etcd_load.py": {"http2_calls", "protobuf"},
    "tools/comparison/http2_calls.py": {"hpack"},
    "tools/comparison/pysyncobj_node.py": {"pysyncobj"},
}
"""Scripts that nothing imports where paxmux is installed, and what the environment that runs them has."""


class Import(NamedTuple):
    file: Path
    line: int
    module: str


def imports_of(file: Path) -> list[Import]:
    found = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found += [Import(file, node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from paxmux import tools` imports a package, as `import paxmux.tools` does.
            names = [f"{module}.{name.name}" for name in node.names] if module == "paxmux" else [module]
            found += [Import(file, node.lineno, name) for name in names]
    return found


def layer_of(file: Path) -> str:
    parts = file.relative_to(ROOT).parts
    return "engine.paxos" if parts[:2] == ("engine", "paxos") else parts[0]


def breach(layer: str, module: str, file: Path) -> str | None:
    """What is wrong with importing a module in a file of a layer; None if nothing is."""
    top = module.split(".")[0]
    if module.startswith("."):
        return "write the absolute name, `paxmux.…`"
    if top in BARE_NAMES:
        return f"write `paxmux.{module}`: the bare name loads a second copy of the module"
    if top != "paxmux":
        if layer == "engine.paxos" and top not in PURE_STANDARD_LIBRARY | PURE_FUNCTIONS:
            return ADVICE[layer]
        return None
    allowed = MAY_IMPORT[layer]
    if layer == "plugins":
        # Files of one plugin folder (such as plugins/storage) belong together.
        allowed += (f"paxmux.plugins.{file.relative_to(ROOT).parts[1].removesuffix('.py')}",)
        if is_below(module, ("paxmux.engine.paxos",)):
            return ADVICE[layer]
    if layer == "paxmux":
        own = module.removeprefix("paxmux.").split(".")[0]
        if (ROOT / "paxmux" / f"{own}.py").exists() or (file.name == "__main__.py" and own == "tools"):
            return None
        if own not in PACKAGES and module.startswith("paxmux."):
            return None  # a name of paxmux/__init__.py itself
    return None if is_below(module, allowed) else ADVICE[layer]


def is_below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_every_import_keeps_the_rule() -> None:
    breaches = []
    files = python_files(*PACKAGES)
    assert len(files) > 20
    for file in files:
        layer = layer_of(file)
        for one in imports_of(file):
            advice = breach(layer, one.module, file)
            if advice is not None:
                breaches.append(f"{place(file, one.line)}: {layer} may not import {one.module}: {advice}")
    assert not breaches, "\n" + "\n".join(breaches)


@pytest.mark.parametrize(
    ("file", "module", "allowed"),
    [
        ("engine/paxos/group.py", "paxmux.engine.paxos.ballot", True),
        ("engine/paxos/group.py", "collections.abc", True),
        ("engine/paxos/group.py", "paxmux.engine.options", False),
        ("engine/paxos/group.py", "time", False),
        ("engine/paxos/group.py", "os.path", False),
        ("engine/paxos/group.py", "msgspec", False),
        ("engine/config.py", "paxmux.engine.paxos.ballot", True),
        ("engine/config.py", "yaml", True),
        ("engine/config.py", "paxmux.shards.layout", False),
        ("engine/config.py", "paxmux.plugins.storage", False),
        ("engine/config.py", "paxmux", False),
        ("engine/config.py", "engine.options", False),
        ("engine/config.py", ".options", False),
        ("shards/layout.py", "paxmux.engine.options", True),
        ("shards/layout.py", "paxmux.engineering", False),
        ("shards/layout.py", "paxmux.plugins.storage.segment", False),
        ("shards/layout.py", "paxmux.tools.main", False),
        ("plugins/storage/segment.py", "paxmux.engine.storage", True),
        ("plugins/storage/segment.py", "paxmux.plugins.storage.record", True),
        ("plugins/storage/segment.py", "paxmux.plugins.network.udp", False),
        ("plugins/storage/segment.py", "paxmux.engine.paxos.ballot", False),
        ("plugins/storage/segment.py", "paxmux.shards.ring", False),
        ("paxmux/__init__.py", "paxmux.shards.node", True),
        ("paxmux/__init__.py", "paxmux.tools", False),
        ("paxmux/__init__.py", "paxmux.plugins.machines.echo", False),
        ("paxmux/__main__.py", "paxmux.tools.main", True),
        ("tools/main.py", "paxmux.plugins.storage.segment", True),
        ("tools/main.py", "tests.conftest", True),
        ("tools/main.py", "tools.cmd_init", False),
    ],
)
def test_the_rule_tells_right_from_wrong(file: str, module: str, allowed: bool) -> None:
    path = ROOT / file
    assert (breach(layer_of(path), module, path) is None) == allowed


def test_nothing_imports_the_tests() -> None:
    for file in python_files(*PACKAGES):
        for one in imports_of(file):
            assert one.module.split(".")[0] not in {"tests", "conftest"}, place(file, one.line)


def test_the_protocol_draws_no_randomness_of_its_own() -> None:
    for file in python_files("engine"):
        if layer_of(file) != "engine.paxos":
            continue
        for node in ast.walk(tree(file)):
            used = (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "random"
                and node.attr != "Random"
            ) or (
                isinstance(node, ast.ImportFrom)
                and node.module == "random"
                and [name.name for name in node.names] != ["Random"]
            )
            assert not used, f"{place(file, getattr(node, 'lineno', None))}: take the seeded source instead"


def test_every_third_party_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for name, extra in project["optional-dependencies"].items():
        wanted += extra if name not in {"test", "check"} else []
    declared = {re.split(r"[^\w.-]", one)[0].lower() for one in wanted}
    for file in python_files(*PACKAGES):
        for one in imports_of(file):
            top = one.module.split(".")[0]
            if top in RUN_ELSEWHERE.get(file.relative_to(ROOT).as_posix(), ()):
                continue
            if top != "paxmux" and top not in sys.stdlib_module_names:
                name = INSTALLED_AS.get(top, top)
                assert name in declared, f"{place(file, one.line)}: {top} is no dependency in pyproject.toml"


def test_no_test_imports_a_package_by_its_bare_name() -> None:
    for file in python_files("tests"):
        for one in imports_of(file):
            assert one.module.split(".")[0] not in BARE_NAMES, f"{place(file, one.line)}: paxmux.{one.module}"
            assert not one.module.startswith("."), place(file, one.line)
    assert not BARE_NAMES & sys.modules.keys()


def test_a_bare_import_is_a_lint_error(tmp_path: Path) -> None:
    # A file of its own outside the project, since the rule has to bite whatever the project contains.
    source = "".join(f"import {name}\n" for name in sorted(BARE_NAMES))
    options = ["--select", "TID251", "--output-format", "concise", "--stdin-filename", "x.py"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), *options, "-"],
        input=source,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("TID251") == len(BARE_NAMES)
