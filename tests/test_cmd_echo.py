"""`paxmux echo` as its users see it: three nodes, each with its input and its output."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from paxmux.engine.errors import ExitCode
from tests.command import DEADLINE_S, Command, run_command

PROMPT = "please input: <echo req value>"

Ports = Callable[[int], list[int]]


class EchoCluster:
    """Three nodes, of which some run."""

    def __init__(self, folder: Path, ports: list[int], stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.ports = ports
        self._list = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.nodes: list[Command] = [self.start(index, ready=False) for index in range(len(ports))]
        for node in self.nodes:
            node.until(PROMPT)

    def start(self, index: int, *, ready: bool = True) -> Command:
        """Start a node (again)."""
        words = ("echo", f"127.0.0.1:{self.ports[index]}", self._list, "--timeout-s", "2")
        node = self._stack.enter_context(Command(*words, folder=self._folder))
        if ready:
            self.nodes[index] = node
            node.until(PROMPT)
        return node


@pytest.fixture
def cluster(tmp_path: Path, free_ports: Ports) -> Iterator[EchoCluster]:
    with ExitStack() as stack:
        yield EchoCluster(tmp_path, free_ports(3), stack)


def executed(node: Command) -> list[str]:
    return [line for line in node.lines if line.startswith("[SM Execute]")]


@pytest.mark.xdist_group("cluster")
def test_the_transcript_of_three_nodes(cluster: EchoCluster, tmp_path: Path) -> None:
    first, second, third = cluster.nodes
    assert first.lines == [
        "run paxos ok",
        f"echo server start, ip 127.0.0.1 port {cluster.ports[0]}",
        "",
        PROMPT,
    ]
    first.type("hello")
    hello = "[SM Execute] ok, smid 1 instanceid 0 value hello"
    assert first.until(PROMPT) == [hello, "echo resp value hello", "", PROMPT]
    assert second.line() == third.line() == hello
    second.type("grüß dich")
    greeting = "[SM Execute] ok, smid 1 instanceid 1 value grüß dich"
    assert second.until(PROMPT) == [greeting, "echo resp value grüß dich", "", PROMPT]
    assert first.line() == third.line() == greeting
    assert (tmp_path / f"logpath_127.0.0.1_{cluster.ports[0]}" / "identity.json").is_file()

    # One killed: work goes on.
    third.kill()
    first.type("two of three")
    assert "echo resp value two of three" in first.until(PROMPT)
    assert second.line() == executed(first)[-1]

    # Two killed: nobody can know what becomes of it.
    second.kill()
    first.type("alone")
    assert first.until(PROMPT) == ["paxos propose fail, ret 404", "Echo fail, ret 404", "", PROMPT]
    first.until_error("deadline")

    # A second one is back: what waited is decided, or what is typed now.
    second = cluster.start(1)
    for attempt in range(10):
        first.type(f"again {attempt}")
        if f"echo resp value again {attempt}" in first.until(PROMPT):
            break
    else:
        raise AssertionError(f"nothing is decided: {first.lines}")

    # Everybody has executed the same sequence, whatever it was.
    third = cluster.start(2)
    third.type("end")
    third.until("echo resp value end")
    sequence = executed(third)
    assert sequence[:3] == executed(first)[:3]
    for node in (first, second):
        while len(executed(node)) < len(sequence):
            node.line()
        assert executed(node) == sequence
    assert [node.end() for node in (first, second, third)] == [0, 0, 0]
    assert [executed(node) for node in (first, second, third)] == [sequence] * 3


@pytest.mark.xdist_group("cluster")
def test_a_proposal_completes_once_the_second_node_is_back(cluster: EchoCluster) -> None:
    first, second, third = cluster.nodes
    second.type("warm")
    second.until("echo resp value warm")
    third.kill()
    second.kill()
    # It waits, and is not given up, as long as its time lasts; the restart takes part of it.
    deadline = time.monotonic() + DEADLINE_S
    tries = 0
    while True:
        tries += 1
        first.type(f"patience {tries}")
        if tries == 1:
            second = cluster.start(1)
        if f"echo resp value patience {tries}" in first.until(PROMPT):
            break
        assert time.monotonic() < deadline, first.lines
    sequence = executed(first)
    while len(executed(second)) < len(sequence):
        second.line()
    assert executed(second) == sequence


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(tmp_path: Path, free_ports: Ports, number: signal.Signals) -> None:
    (port,) = free_ports(1)
    with Command("echo", f"127.0.0.1:{port}", f"127.0.0.1:{port},", folder=tmp_path) as node:
        node.until(PROMPT)
        node.process.send_signal(number)
        assert node.end() == ExitCode.OK
    assert node.errors() == ""


@pytest.mark.xdist_group("cluster")
def test_a_signal_ends_it_while_it_waits_for_the_others(tmp_path: Path, free_ports: Ports) -> None:
    mine, other = (f"127.0.0.1:{port}" for port in free_ports(2))
    with Command("echo", mine, f"{mine},{other}", folder=tmp_path) as node:
        identity = tmp_path / f"logpath_{mine.replace(':', '_')}" / "identity.json"
        deadline = time.monotonic() + DEADLINE_S
        while not identity.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        node.process.send_signal(signal.SIGINT)
        assert node.end() == ExitCode.OK
        assert "run paxos ok" not in node.lines


@pytest.mark.xdist_group("cluster")
def test_input_from_a_file_ends_it(tmp_path: Path, free_ports: Ports) -> None:
    (port,) = free_ports(1)
    mine = f"127.0.0.1:{port}"
    done = run_command("echo", mine, mine, folder=tmp_path)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert done.stdout == f"run paxos ok\necho server start, ip 127.0.0.1 port {port}\n\n{PROMPT}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nonsense", "127.0.0.1:1001"), "parse myip:myport fail\n"),
        (("127.0.0.1:99999", "127.0.0.1:1001"), "parse myip:myport fail\n"),
        (("127.0.0.1:1001", "127.0.0.1:1001;127.0.0.1:1002"), "parse ip/port list fail\n"),
        (("127.0.0.1:1001", ","), "parse ip/port list fail\n"),
        (("127.0.0.1:1001", "127.0.0.1:1002"), "run paxos fail, ret -2\n"),
    ],
)
def test_wrong_addresses_are_told_as_the_reference_does(
    words: tuple[str, str], said: str, tmp_path: Path
) -> None:
    done = run_command("echo", *words, folder=tmp_path)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, said)
    assert done.stderr.startswith("paxmux echo: ")


def test_a_taken_port_is_told(tmp_path: Path, free_ports: Ports) -> None:
    (port,) = free_ports(1)
    mine = f"127.0.0.1:{port}"
    with socket.create_server(("127.0.0.1", port)):
        done = run_command("echo", mine, mine, folder=tmp_path)
    assert done.returncode == ExitCode.CANNOT_BOOT
    assert done.stdout == "run paxos fail, ret -1\n"
    assert str(port) in done.stderr


@pytest.mark.parametrize("value", ["0", "-1", "x", "nan", "inf"])
def test_a_wrong_timeout_is_a_usage_error(value: str, tmp_path: Path) -> None:
    done = run_command("echo", "127.0.0.1:1", "127.0.0.1:1", f"--timeout-s={value}", folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert "expected seconds" in done.stderr
