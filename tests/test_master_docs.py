"""docs/master.md says what is: its program runs, its calls exist, its options are those that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from paxmux.engine.options import MasterOptions
from paxmux.shards.blocking import BlockingNode
from paxmux.shards.node import Node
from tests.source_tree import ROOT

Ports = Callable[[int], list[int]]
PAGE = (ROOT / "docs" / "master.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_program_runs(tmp_path: Path, free_ports: Ports) -> None:
    code = block("python").replace("21070", str(free_ports(1)[0]))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "only the master says this\n", done.stderr
    assert done.returncode == 0


def test_every_call_exists() -> None:
    named = set(re.findall(r"`(?:await )?node\.(\w+)\(", PAGE))
    assert len(named) >= 8
    assert named <= set(dir(Node)) & set(dir(BlockingNode))


def test_the_options_are_there() -> None:
    written = yaml.safe_load(block("yaml"))["master"]
    default = MasterOptions()
    assert written == {"groups": "all", "lease_ms": default.lease_ms, "drift_ppm": default.drift_ppm}
