"""What a user installs: sdist -> wheel -> an empty environment -> run from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

import paxmux
from tests.command import Command
from tests.source_tree import PACKAGES, ROOT, python_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("packaging")]

LEFT_OUT = (".*", "build", "dist", "*.egg-info", "__pycache__", "data")


class Installed(NamedTuple):
    """A wheel in an environment that has nothing else."""

    wheel: Path
    python: Path
    paxmux: Path
    folder: Path
    """A folder that is not the project's, to run from."""

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program there, seeing nothing of this project; output is captured."""
        return run(*words, cwd=self.folder)


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built from a copy, so that building leaves nothing in the project and disturbs nobody there."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", source, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    shutil.rmtree(source)
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    return Installed(wheel, python, environment / "bin" / "paxmux", elsewhere)


def test_the_wheel_has_every_module_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = set(archive.namelist())
    ours = {name for name in names if ".dist-info/" not in name}
    expected = {"paxmux/py.typed"}
    for file in python_files(*PACKAGES):
        name = file.relative_to(ROOT).as_posix()
        expected.add(name if name.startswith("paxmux/") else f"paxmux/{name}")
    assert ours == expected
    about = f"paxmux-{paxmux.__version__}.dist-info"
    assert {f"{about}/licenses/LICENSE", f"{about}/entry_points.txt"} <= names


def test_the_version_is_told_once_only() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == paxmux.__version__


def test_the_wheel_imports_from_its_own_environment(installed: Installed) -> None:
    program = (
        "import paxmux, paxmux.engine.config, paxmux.shards.layout, importlib.util as u\n"
        "assert not any(u.find_spec(name) for name in ('engine', 'shards', 'plugins', 'tools'))\n"
        "print(paxmux.__file__)"
    )
    place = Path(installed.run(installed.python, "-c", program).stdout.strip())
    assert place.is_relative_to(installed.python.parent.parent)


def test_the_command_is_installed(installed: Installed) -> None:
    assert installed.run(installed.paxmux, "--help").stdout.startswith("usage: paxmux")
    version = installed.run(installed.python, "-m", "paxmux", "--version").stdout
    assert version == f"paxmux {paxmux.__version__}\n"


def test_an_echo_cluster_runs_from_the_wheel(
    installed: Installed, free_ports: Callable[[int], list[int]]
) -> None:
    ports = free_ports(3)
    members = ",".join(f"127.0.0.1:{port}" for port in ports)
    prompt = "please input: <echo req value>"
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                Command(
                    "echo", f"127.0.0.1:{port}", members, folder=installed.folder, python=installed.python
                )
            )
            for port in ports
        ]
        for node in nodes:
            node.until(prompt)
        nodes[1].type("from a wheel")
        assert "echo resp value from a wheel" in nodes[1].until(prompt)
        for node in (nodes[0], nodes[2]):
            node.until("[SM Execute] ok, smid 1 instanceid 0 value from a wheel")
        assert [node.end() for node in nodes] == [0, 0, 0]
