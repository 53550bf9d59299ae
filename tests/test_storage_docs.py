"""docs/storage.md says what is: its plugins exist and can be selected, its commands and its program run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from paxmux.engine import plugin
from paxmux.engine.options import Options, StorageOptions
from paxmux.engine.storage import Log
from paxmux.plugins.storage.kind import LMDB, SEGMENTS
from paxmux.tools.main import _parser
from tests.source_tree import ROOT

PAGE = (ROOT / "docs" / "storage.md").read_text(encoding="utf-8")
METHODS = {name for name in vars(Log) if not name.startswith("_")}


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_every_plugin_is_there_and_the_first_is_the_default() -> None:
    named = list(dict.fromkeys(re.findall(r"paxmux\.plugins\.storage\.\w+:\w+", PAGE)))
    assert {SEGMENTS, LMDB} < set(named)
    for each in named:
        assert set(dir(plugin.load(each))) >= METHODS
    assert StorageOptions().plugin == SEGMENTS


def test_the_contract_names_every_method() -> None:
    contract = PAGE.split("## The contract in short", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"`(\w+)`", contract))
    assert named >= METHODS - {"stats"}


def test_the_yaml_selects_the_other_one(tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    own = {"node": "127.0.0.1:1", "members": ["127.0.0.1:1"], "data_dir": "data"}
    file = tmp_path / "node.yaml"
    file.write_text(yaml.safe_dump(own | yaml.safe_load(block)), encoding="utf-8")
    assert Options.from_yaml(file).storage.plugin == LMDB


def test_the_commands_exist() -> None:
    lines = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    benches = [words[1:] for words in lines if words[0] == "paxmux"]
    asked = [_parser(words).parse_args(words) for words in benches]
    assert [(each.storage, each.recovery is None) for each in asked] == [
        (SEGMENTS, True),
        (LMDB, True),
        (SEGMENTS, False),
        (LMDB, False),
    ]
    assert [words[:3] for words in lines if words[0] == "python"] == [
        ["python", "alone.py", SEGMENTS],
        ["python", "alone.py", LMDB],
    ]


@pytest.mark.parametrize("path", [SEGMENTS, LMDB])
def test_the_program_runs(tmp_path: Path, path: str) -> None:
    (program,) = blocks("python")
    (tmp_path / "alone.py").write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "alone.py", path, "5"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"[\d.]+ µs of CPU .*\n\d+ MB\n[\d.]+ s to open it.*\n", done.stdout)
    assert [file.name for file in tmp_path.iterdir()] == ["alone.py"]
