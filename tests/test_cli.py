"""The command line: subcommands, exit codes, and how errors look."""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

import paxmux
from paxmux.engine.errors import ConfigError, DataDirError, ExitCode, PaxmuxError, StorageFailed
from paxmux.shards.identity import read_identity
from paxmux.tools import systemd
from paxmux.tools.main import COMMANDS, INTERRUPTED, exit_code, main

CONFIG = """\
node: 127.0.0.1:1001
members: ["127.0.0.1:1001"]
data_dir: data
groups: 3
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "node.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: paxmux {name}" in capsys.readouterr().out


def test_help_names_every_subcommand_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"    {name} " in text for name in COMMANDS)
    codes = {ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.CANNOT_BOOT, ExitCode.STORAGE_FAILED}
    assert all(f"  {code:<4} " in text for code in {*codes, INTERRUPTED})


def test_only_the_called_subcommand_is_imported() -> None:
    program = (
        "import sys; from paxmux.tools import main as m\n"
        "try: m.main(['init', '--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('paxmux.tools.cmd_')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['paxmux.tools.cmd_init']"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"paxmux {paxmux.__version__}\n"


@pytest.mark.parametrize("words", [[], ["nope"], ["--nope"], ["init"], ["init", "x", "--nope"]])
def test_wrong_arguments_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == ExitCode.USAGE
    assert "usage: paxmux" in capsys.readouterr().err


def test_a_wrong_config_is_a_usage_error_on_one_line(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG + "grops: 5\n", encoding="utf-8")
    assert main(["init", str(config)]) == ExitCode.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"{config}:5: grops: expected a known key, got `grops`: did you mean `groups`?\n"


def test_init_makes_a_data_directory_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(config), "--json"]) == ExitCode.OK
    report = orjson.loads(capsys.readouterr().out)
    identity = read_identity(config.parent / "data")
    assert report == {
        "data_dir": str(config.parent / "data"),
        "node_id": 72058139498775529,
        "seat": identity.seat,
        "groups": 3,
    }
    assert main(["init", str(config)]) == ExitCode.CANNOT_BOOT
    assert capsys.readouterr().err.startswith("paxmux init: ")
    assert read_identity(config.parent / "data") == identity


def test_init_says_what_it_made(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(config)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.startswith(f"made {config.parent / 'data'} for node 127.0.0.1:1001, seat ")
    assert out.endswith(", 3 groups\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), ExitCode.USAGE),
        (DataDirError("x"), ExitCode.CANNOT_BOOT),
        (StorageFailed("x"), ExitCode.STORAGE_FAILED),
        (PaxmuxError("x"), ExitCode.FAILED),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    error: PaxmuxError, code: ExitCode, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(importlib.import_module("paxmux.tools.cmd_init"), "run", fail)
    assert exit_code(error) == code
    assert main(["init", str(config)]) == code


def test_an_interrupt_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("paxmux.tools.cmd_init"), "run", interrupt)
    assert main(["init", str(config)]) == INTERRUPTED
    assert capsys.readouterr().err == ""


def test_a_reader_that_went_away_is_no_traceback(config: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "paxmux", "init", str(config)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.FAILED, "")


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_where_it_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify(systemd.READY)
    name = f"@paxmux-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name[1:]}" if abstract else name)
        receiver.settimeout(10)
        assert systemd.notify(systemd.READY)
        assert receiver.recv(100) == b"READY=1"
    assert not systemd.notify(systemd.STOPPING)
