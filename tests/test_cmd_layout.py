"""`paxmux layout` and SIGHUP: groups of a served node move, and what is wrong is said."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from paxmux.engine.errors import ExitCode
from paxmux.shards.identity import read_identity
from paxmux.tools.cmd_layout import ranges
from tests.command import Command, run_command
from tests.event_loop import DEADLINE_S

Ports = Callable[[int], list[int]]
pytestmark = pytest.mark.xdist_group("cluster")


@pytest.fixture
def config(tmp_path: Path, free_ports: Ports) -> Path:
    (port,) = free_ports(1)
    file = tmp_path / "node.yaml"
    file.write_text(
        f"node: 127.0.0.1:{port}\nmembers: [127.0.0.1:{port}]\ndata_dir: data\nbootstrap: true\n"
        "groups: 4\nlayout: {workers: 2}\nstate_machines:\n  - class: paxmux.plugins.machines.echo:Echo\n",
        encoding="utf-8",
    )
    return file


@pytest.fixture
def node(config: Path) -> Iterator[Command]:
    with Command("serve", config, folder=config.parent) as serving:
        assert (serving.line() or "").startswith("serving ")
        yield serving


def said(config: Path, *words: object) -> str:
    done = run_command("layout", *words, folder=config.parent)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    return done.stdout


def hosts(config: Path) -> tuple[int, ...] | None:
    return read_identity(config.parent / "data").hosts


@pytest.mark.usefixtures("node")
def test_show_and_move(config: Path) -> None:
    shown = said(config, "show", config)
    assert "0,2" in shown
    assert "1,3" in shown
    assert said(config, "move", config, "0-2", "--to", 2).startswith(
        "3 groups moved to worker 2, held for at most "
    )
    assert hosts(config) == (2, 2, 2, 1)
    layout = orjson.loads(said(config, "show", config.parent / "data", "--json"))
    assert [row["groups"] for row in layout["workers"]] == [[], [3], [0, 1, 2]]
    assert (layout["hosts"], layout["epoch"], layout["moving"]) == ([2, 2, 2, 1], 3, None)
    shown = said(config, "show", config)
    assert "none" in shown
    assert "0-2" in shown
    done = orjson.loads(said(config, "move", config, "all", "--to", 0, "--json"))
    assert (done["groups"], done["workers"], len(done["held_ms"])) == (4, 3, 4)
    assert said(config, "move", config, "3", "--to", 0) == "0 groups moved to worker 0\n"


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["4", "--to", "0"], "expected groups of 0 .. 3, got '4'"),
        (["x", "--to", "0"], "expected `all`, or groups and ranges"),
        (["0", "--to", "3"], "expected a worker of 0 .. 2, got 3"),
        (["0", "--to", "-1"], "expected a worker of 0 .. 2, got -1"),
    ],
)
def test_what_cannot_be_moved_is_said(config: Path, words: list[str], expected: str) -> None:
    done = run_command("layout", "move", config, *words, folder=config.parent)
    assert done.returncode == ExitCode.FAILED
    assert expected in done.stderr
    assert hosts(config) == (0, 1, 0, 1)


def test_a_node_that_is_down(config: Path) -> None:
    for words in (["show", config], ["move", config, "0", "--to", "1"]):
        done = run_command("layout", *words, folder=config.parent)
        assert done.returncode == ExitCode.FAILED
        assert "the node is down" in done.stderr


def test_sighup_takes_over_the_layout_of_the_yaml(node: Command, config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("{workers: 2}", "{workers: 4, strategy: range}"), encoding="utf-8")
    node.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + DEADLINE_S
    while hosts(config) != (0, 1, 2, 3):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for wrong, expected in (("groups: 5", "groups: cannot change"), ("group: 4", "did you mean `groups`?")):
        config.write_text(text.replace("groups: 4", wrong), encoding="utf-8")
        node.process.send_signal(signal.SIGHUP)
        while expected not in node.errors():
            assert time.monotonic() < deadline, node.errors()
            time.sleep(0.05)
    assert node.process.poll() is None
    assert hosts(config) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("groups", "text"), [([], ""), ([3], "3"), ([0, 1, 2], "0-2"), ([0, 2, 3, 9], "0,2-3,9")]
)
def test_groups_are_written_as_in_the_options(groups: list[int], text: str) -> None:
    assert ranges(groups) == text
