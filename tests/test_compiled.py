"""A compiled installation: what is compiled, that it does the same, and what is refused.

`tools/test-compiled` runs all tests in one; here stands what is about compiling itself.
"""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from paxmux.engine.compiled import COMPILED
from paxmux.engine.errors import ConfigError, ExitCode
from paxmux.shards import stages
from tests.command import run_command
from tests.source_tree import ROOT, tree

SEEDS = "1..6"
NO_COMPILER = {"CC": "no-such-compiler-anywhere"}

HOOK = """
import json, sys
sys.path.insert(0, sys.argv[1])
import build_backend
print(json.dumps(getattr(build_backend, sys.argv[2])()))
"""

FROM_A_PLACE = """
import sys
place = sys.argv.pop(1)
if place:
    sys.modules.pop("paxmux", None)
    sys.path.insert(0, place)
from paxmux.engine.compiled import COMPILED
print("compiled:", COMPILED, flush=True)
from paxmux.tools.main import main
sys.exit(main())
"""
"""`paxmux`, of what is installed or of what is in a folder."""


def listed() -> list[str]:
    """The modules that setup.py compiles, as it names them."""
    for node in tree(ROOT / "setup.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            return list(ast.literal_eval(node.value))
    raise AssertionError("setup.py has no COMPILED")


def hook(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call a hook of the build backend, in a process of its own, as a build front end does."""
    kept = {key: text for key, text in os.environ.items() if key not in ("PAXMUX_COMPILED", "CC")}
    return subprocess.run(
        [sys.executable, "-P", "-c", HOOK, str(ROOT), name],
        cwd=ROOT,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_listed_module_exists_once() -> None:
    files = listed()
    assert len(set(files)) == len(files) > 30
    assert [file for file in files if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize("file", listed())
def test_the_listed_modules_are_the_compiled_ones(file: str) -> None:
    module = importlib.import_module("paxmux." + file.removesuffix(".py").replace("/", "."))
    assert module.__file__ is not None
    place = Path(module.__file__)
    assert (place.suffix == ".so", place.suffix == ".py") == (COMPILED, not COMPILED)
    assert not (COMPILED and place.is_relative_to(ROOT) and ".venv" not in str(place)), "from the sources"


def test_nothing_else_derives_from_what_is_compiled() -> None:
    """A class of a compiled module allows that to none outside, and says so only when it is made or used."""
    compiled = {"paxmux." + file.removesuffix(".py").replace("/", ".") for file in listed()}
    found = []
    for package in ("engine", "shards", "plugins", "tools"):
        for info in pkgutil.walk_packages([str(ROOT / package)], f"paxmux.{package}."):
            if info.name.startswith("paxmux.tools.comparison"):
                continue  # They run in the environments of other systems.
            module = importlib.import_module(info.name)
            for cls in vars(module).values():
                if isinstance(cls, type) and cls.__module__ == info.name and info.name not in compiled:
                    found += [(cls, base) for base in cls.__mro__ if base.__module__ in compiled]
    assert found == []


@pytest.mark.slow
@pytest.mark.skipif(not COMPILED, reason="it compares a compiled installation with plain Python")
def test_a_campaign_is_the_same_compiled_and_not(tmp_path: Path) -> None:
    """One digest over everything that happens in some clusters, with all kinds of fault."""
    sources = tmp_path / "sources" / "paxmux"
    sources.mkdir(parents=True)
    folders = [ROOT / name for name in ("engine", "shards", "plugins", "tools")]
    for entry in (*(ROOT / "paxmux").glob("*.py"), *folders):
        (sources / entry.name).symlink_to(entry)
    reports = {}
    for name, place in (("compiled", ""), ("plain", str(sources.parent))):
        words = (place, "sim", "--seeds", SEEDS, "--json", tmp_path / name)
        done = run_command(*words, folder=tmp_path, program=FROM_A_PLACE)
        assert done.returncode == ExitCode.OK, done.stdout + done.stderr
        assert done.stdout.startswith(f"compiled: {name == 'compiled'}\n")
        reports[name] = orjson.loads((tmp_path / name).read_bytes())
    assert len(reports["plain"]["digest"]) == 16
    for figure in ("digest", "events", "decided", "acked", "reads", "simulated_ms", "faults", "points"):
        assert reports["compiled"][figure] == reports["plain"][figure], figure


@pytest.mark.skipif(not COMPILED, reason="plain Python can be measured by stage")
def test_stages_are_refused_not_measured_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_command("bench", "--profile", "--seconds", "1", folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert "--profile: the stages of a compiled installation cannot be measured" in done.stderr
    assert "Install without PAXMUX_COMPILED" in done.stderr
    monkeypatch.setenv(stages.VARIABLE, "1")
    with pytest.raises(ConfigError, match="PAXMUX_PROFILE: the stages of a compiled installation"):
        stages.wanted()


@pytest.mark.parametrize("text", ["", "0"])
def test_a_plain_build_needs_nothing_more(text: str) -> None:
    pytest.importorskip("setuptools")
    done = hook("needed_to_compile", **NO_COMPILER, PAXMUX_COMPILED=text)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_compiled_build_says_what_it_needs() -> None:
    pytest.importorskip("setuptools")
    done = hook("needed_to_compile", PAXMUX_COMPILED="1", CC=f"{sys.executable} -O2")
    assert done.returncode == 0, done.stderr
    assert {word.split(">")[0] for word in orjson.loads(done.stdout)} == {"mypy", "msgspec", "zlib-ng"}


@pytest.mark.parametrize(
    ("name", "environment", "words"),
    [
        (
            "get_requires_for_build_wheel",
            {"PAXMUX_COMPILED": "1", **NO_COMPILER},
            "needs a C compiler, and no-such-compiler-anywhere is not found",
        ),
        ("get_requires_for_build_editable", {"PAXMUX_COMPILED": "1"}, "not for an editable installation"),
        ("get_requires_for_build_wheel", {"PAXMUX_COMPILED": "yes"}, "PAXMUX_COMPILED=yes: expected 1"),
    ],
)
def test_what_cannot_be_compiled_is_refused_ahead(name: str, environment: dict[str, str], words: str) -> None:
    pytest.importorskip("setuptools")
    done = hook(name, **environment)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
