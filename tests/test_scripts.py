"""The scripts of the project, with a false python3 in the place of the real one: what they do before
any tool runs. The environment is made once, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_tree import ROOT

SCRIPTS = ("tools/check", "tools/test", ".ci/run")

FALSE_PYTHON = """\
#!{bash}
# Answers as python3 does for tools/venv, and writes down what it is asked to install.
case "$*" in
*version_info*) exit {too_old} ;;
*python_version*) echo {version} ;;
*base_prefix*) echo "{version}" ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
*"pip install"*)
    echo "${{@: -1}}" >>"$PIP_LOG"
    sleep "${{PIP_SECONDS-0}}"
    if [[ -n ${{PIP_FAILS-}} ]]; then echo "no such package" >&2; exit 1; fi
    ;;
*pytest*) echo "pytest $*" ;;
*) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


class FalseProject:
    """The scripts in a folder of their own, and a python3 that only pretends."""

    def __init__(self, folder: Path, *, version: str = "3.12.1", too_old: bool = False) -> None:
        self.root = folder / "a project"
        for script in (*SCRIPTS, "tools/venv", "pyproject.toml"):
            (self.root / script).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / script, self.root / script)
        (folder / "bin").mkdir()
        python = folder / "bin" / "python3"
        python.write_text(
            FALSE_PYTHON.format(bash=shutil.which("bash"), version=version, too_old=int(too_old)),
            encoding="ascii",
        )
        python.chmod(0o755)
        self.pip_log = folder / "pip.log"
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PIP_LOG": str(self.pip_log),
        }

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Run tools/test from another folder."""
        return subprocess.Popen(
            [str(self.root / "tools" / "test"), *words],
            cwd=os.path.sep,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def installs(self) -> int:
        return len(self.pip_log.read_text(encoding="utf-8").splitlines()) if self.pip_log.exists() else 0


def test_scripts_are_sound_bash_and_can_be_called() -> None:
    scripts = [file for file in (ROOT / "tools").iterdir() if file.is_file() and not file.suffix]
    assert {ROOT / script for script in SCRIPTS} - {ROOT / ".ci" / "run"} < set(scripts)
    for script in [*scripts, ROOT / ".ci" / "run"]:
        subprocess.run(["bash", "-n", script], check=True, capture_output=True)
        assert os.access(script, os.X_OK) == (script.name != "venv"), script


def test_the_environment_is_made_once_and_arguments_reach_pytest(tmp_path: Path) -> None:
    project = FalseProject(tmp_path)
    first = project.run("tests/test_x.py", "-k", "a b")
    assert (first.returncode, project.installs()) == (0, 1)
    assert first.stdout.splitlines() == ["pytest -m pytest -q -n 2 --dist loadgroup tests/test_x.py -k a b"]
    again = project.run()
    assert (again.returncode, again.stderr, project.installs()) == (0, "", 1)


@pytest.mark.parametrize("changed", ["pyproject.toml", "stamp", "interpreter"])
def test_the_environment_is_made_anew_when_it_is_out_of_date(tmp_path: Path, changed: str) -> None:
    project = FalseProject(tmp_path)
    project.run()
    leftover = project.root / ".venv" / "leftover"
    leftover.touch()
    if changed == "pyproject.toml":
        with open(project.root / changed, "a", encoding="utf-8") as file:
            file.write("# changed\n")
    elif changed == "stamp":
        (project.root / ".venv" / "stamp").unlink()
    else:
        (project.root / ".venv" / "bin" / "python").unlink()
    assert project.run().returncode == 0
    assert (project.installs(), leftover.exists()) == (2, False)


def test_two_at_once_make_one_environment(tmp_path: Path) -> None:
    project = FalseProject(tmp_path)
    runs = [project.start(PIP_SECONDS="0.5") for _ in range(4)]
    for run in runs:
        out, err = run.communicate(timeout=60)
        assert (run.returncode, out.startswith("pytest")) == (0, True), err
    assert project.installs() == 1


def test_a_failed_install_is_shown_and_tried_again(tmp_path: Path) -> None:
    project = FalseProject(tmp_path)
    failed = project.run(PIP_FAILS="yes")
    assert failed.returncode == 1
    assert "no such package" in failed.stderr
    assert failed.stdout == ""
    assert project.run().returncode == 0
    assert project.installs() == 2


def test_an_interpreter_that_is_too_old_is_named(tmp_path: Path) -> None:
    project = FalseProject(tmp_path, version="3.9.2", too_old=True)
    done = project.run()
    assert (done.returncode, project.installs()) == (1, 0)
    assert done.stderr == "paxmux: python3 is Python 3.9.2: Python 3.11 or newer is needed\n"


def test_check_takes_one_option_only() -> None:
    done = subprocess.run([ROOT / "tools" / "check", "--nope"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: tools/check [--fix]\n")


def test_the_scripts_ask_for_the_python_that_the_project_declares() -> None:
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "(3, 11)" in (ROOT / "tools" / "venv").read_text(encoding="utf-8")
    assert sys.version_info >= (3, 11)
