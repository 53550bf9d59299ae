"""The blocking facade: the same calls from any thread, and an end that comes whatever threads do."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paxmux.engine.errors import Conflict, DataDirError, NodeStopped, Overloaded, Timeout
from paxmux.shards import blocking, post
from paxmux.shards.blocking import BlockingNode
from paxmux.shards.done import Done
from tests.node_fixtures import check_traces, lone_options, traces
from tests.source_tree import ROOT

Ports = Callable[[int], list[int]]
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def _fake_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "WORKER_MODULE", "tests.fake_worker")


@pytest.fixture
def node(tmp_path: Path, free_ports: Ports) -> Iterator[BlockingNode]:
    (port,) = free_ports(1)
    # libuv, if it is there, keeps a pipe for the life of the process once it was used.
    blocking.new_loop().close()
    before = traces()
    with BlockingNode(lone_options(tmp_path / "n", port, workers=2)) as started:
        yield started
    check_traces(before)
    assert "paxmux-node" not in [thread.name for thread in threading.enumerate()]


def test_every_call_has_its_blocking_form(node: BlockingNode) -> None:
    assert node.propose(0, b"a", smid=2, context=b"c") == Done(0, b"a|c", 0)
    assert list(node.propose_many(0, [b"b", b"d"])) == [Done(1, b"b", 0), Done(1, b"d", 1)]
    assert node.query(0, b"abc") == b"cba"
    assert node.now_instance_id(0) == 2
    assert node.instance_value(0, 1) == [(b"b", 0), (b"d", 0)]
    assert node.my_node_id() == node.status()["node"]["node_id"]
    with pytest.raises(Conflict):
        node.propose(0, b"code:14")
    with pytest.raises(Timeout):
        node.propose(0, b"silent", timeout_s=0.05)


def test_threads_share_it(node: BlockingNode) -> None:
    """Weakness B14 of the reference."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: node.propose(number % 4, b"%d" % number).result, range(300)))
    assert answers == [b"%d" % number for number in range(300)]


def test_a_caller_that_is_blocked_when_the_node_stops_gets_an_error(node: BlockingNode) -> None:
    outcomes: list[BaseException] = []

    def caller() -> None:
        try:
            node.propose(0, b"silent", timeout_s=None)
        except (NodeStopped, Timeout) as error:
            outcomes.append(error)

    threads = [threading.Thread(target=caller) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while node.status()["pending"]["waiting"] < 3:
        assert time.monotonic() < deadline
    stopper = threading.Thread(target=node.stop, args=(0.1,))
    stopper.start()
    for thread in [*threads, stopper]:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert [type(error) for error in outcomes] == [Timeout] * 3, "what was sent has an unknown outcome"
    with pytest.raises(NodeStopped):
        node.propose(0, b"x")


def test_calls_that_race_with_stop_all_end(node: BlockingNode) -> None:
    ended = []

    def caller() -> None:
        try:
            while True:
                node.propose(0, b"x")
        except (NodeStopped, Timeout, Overloaded) as error:
            ended.append(error)

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    node.propose(0, b"x")
    node.stop()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    assert [type(error) for error in ended] == [NodeStopped] * 8


def test_a_start_that_fails_leaves_nothing(tmp_path: Path, node: BlockingNode) -> None:
    before = traces()
    broken = BlockingNode(lone_options(tmp_path / "n", 7000))
    with pytest.raises(DataDirError, match="in use"):
        broken.start()
    with pytest.raises(NodeStopped):
        broken.propose(0, b"x")
    with pytest.raises(RuntimeError, match="starts once"):
        broken.start()
    broken.stop()
    check_traces(before)


def test_before_the_start_calls_are_refused(tmp_path: Path) -> None:
    node = BlockingNode(lone_options(tmp_path / "n", 7000))
    with pytest.raises(NodeStopped, match="not started"):
        node.propose(0, b"x")
    node.stop()


PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path
from paxmux.shards import post
from paxmux.shards.blocking import BlockingNode
from tests.node_fixtures import lone_options

post.WORKER_MODULE = "tests.fake_worker"
node = BlockingNode(lone_options(Path(sys.argv[1]), int(sys.argv[2])))
node.start()
print(node.status()["workers"][0]["pid"], flush=True)
if sys.argv[3] == "forgets":
    sys.exit(3)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    node.propose(0, b"silent", timeout_s=None)
except KeyboardInterrupt:
    assert node.propose(0, b"still works").result == b"still works"
    node.stop(0)
    sys.exit(4)
"""


@pytest.mark.parametrize(("case", "code"), [("forgets", 3), ("is interrupted", 4)])
def test_a_program_that(case: str, code: int, tmp_path: Path, free_ports: Ports) -> None:
    (port,) = free_ports(1)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "n"), str(port), case],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert not Path(f"/proc/{done.stdout.strip()}").exists(), "the worker is gone"
    assert not (tmp_path / "n" / "control.sock").exists(), "the stop was a clean one"
    assert ("without having stopped its node" in done.stderr) == (case == "forgets")
