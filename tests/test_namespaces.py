"""Networks of namespaces: a cut is silent and one-way, also for connections; nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import psutil
import pytest

from paxmux.tools import namespaces
from paxmux.tools.namespaces import PORT, Cut, Namespaces, NamespacesMissing, missing, used
from tests.command import run_command
from tests.event_loop import DEADLINE_S

NODES = 3
LISTENER = """\
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
    port.bind((sys.argv[1], int(sys.argv[2])))
    print("bound", flush=True)
    ends = 0
    while ends < int(sys.argv[3]):
        word = port.recv(100).decode()
        ends += word == "end"
        print(word, flush=True)
"""
SENDER = """\
import socket, sys
word, port, *hosts = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    for host in hosts:
        one.sendto(word.encode(), (host, int(port)))
"""
STREAM = """\
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
if sys.argv[3] == "listen":
    with socket.create_server((host, port)) as server:
        print("bound", flush=True)
        stream, _ = server.accept()
    while data := stream.recv(100):
        print(data.decode(), flush=True)
else:
    with socket.create_connection((host, port), timeout=60) as stream:
        print("connected", flush=True)
        for line in sys.stdin:
            stream.sendall(line.strip().encode())
            print("sent", flush=True)
"""


@pytest.fixture
def network() -> Iterator[Namespaces]:
    reason = missing()
    if reason is not None:
        pytest.skip(f"no network namespaces can be made here: {reason}")
    with Namespaces(NODES) as made:
        yield made


def ip(network: Namespaces, number: int) -> str:
    return network.hosts[number].address.removesuffix(f":{PORT}")


def start(network: Namespaces, number: int, program: str, *words: object) -> subprocess.Popen[str]:
    command = [*network.hosts[number].command, sys.executable, "-c", program, *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def heard(network: Namespaces, cuts: set[Cut]) -> set[Cut]:
    """The directions in which a datagram arrives that is sent while these are cut."""
    listeners = [start(network, one, LISTENER, ip(network, one), PORT, NODES - 1) for one in range(NODES)]
    assert [line_of(each) for each in listeners] == ["bound"] * NODES
    network.cut(cuts)
    for word in ("", "end"):
        for one in range(NODES):
            others = [ip(network, other) for other in range(NODES) if other != one]
            network.run(one, [sys.executable, "-c", SENDER, word or str(one), str(PORT), *others])
        # What comes now is behind what came, or did not come, before.
        network.cut([])
    outputs = [each.communicate(timeout=DEADLINE_S)[0].split() for each in listeners]
    return {(int(word), one) for one, words in enumerate(outputs) for word in words if word != "end"}


def sent_again(network: Namespaces, number: int) -> int:
    """How many segments a host has sent once more."""
    names, figures = [
        line.split()
        for line in network.run(number, ["cat", "/proc/net/snmp"]).splitlines()
        if line.startswith("Tcp:")
    ]
    return int(figures[names.index("RetransSegs")])


EVERY = set(permutations(range(NODES), 2))


@pytest.mark.parametrize(
    "cuts", [set(), {(0, 1)}, {(0, 1), (1, 0), (2, 0)}, EVERY], ids=["none", "one", "three", "all"]
)
def test_exactly_the_directions_that_are_cut_are_silent(network: Namespaces, cuts: set[Cut]) -> None:
    assert heard(network, cuts) == EVERY - cuts


def test_a_connection_that_exists_is_cut_as_well_and_heals(network: Namespaces) -> None:
    server = start(network, 1, STREAM, ip(network, 1), PORT, "listen")
    assert line_of(server) == "bound"
    client = start(network, 0, STREAM, ip(network, 1), PORT, "connect")
    assert line_of(client) == "connected"
    assert client.stdin is not None
    client.stdin.write("before\n")
    client.stdin.flush()
    assert line_of(server) == "before"
    before = sent_again(network, 0)
    network.cut([(0, 1)])
    client.stdin.write("within\n")
    client.stdin.flush()
    assert line_of(client) == line_of(client) == "sent", "nobody tells the sender"
    deadline = time.monotonic() + DEADLINE_S
    # What arrives is confirmed, and not sent again: the way back is open.
    while sent_again(network, 0) == before:
        assert time.monotonic() < deadline
    network.cut([])
    assert line_of(server) == "within", "it is sent again"
    client.stdin.close()
    assert client.wait(DEADLINE_S) == server.wait(DEADLINE_S) == 0
    for process in (client, server):
        assert process.stdout is not None
        process.stdout.close()


def test_without_root_a_user_namespace_does(network: Namespaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "WAYS", (("false",), namespaces.WAYS[1]))
    reason = missing()
    if reason is not None:
        pytest.skip(f"no user namespaces can be made here: {reason}")
    with Namespaces(NODES) as other:
        assert not set(other.ids) & set(network.ids)
        assert heard(other, {(1, 2)}) == EVERY - {(1, 2)}


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sh = shutil.which("sh")
    assert sh is not None
    with monkeypatch.context() as patch:
        patch.setattr(namespaces, "WAYS", ((sh, "-c", "echo forbidden >&2; exit 1"),) * 2)
        for name in namespaces.PROGRAMS:
            (tmp_path / name).symlink_to(sh)
        patch.setenv("PATH", str(tmp_path))
        words = missing()
        assert words is not None
        assert words.endswith("makes no network namespace here: forbidden")
        (tmp_path / "nsenter").unlink()
        assert missing() == "network namespaces need the program nsenter"
        program = "import sys, tests.namespace_campaign as one; sys.exit(one.main([]))"
        done = run_command(folder=Path.cwd(), program=program, TMPDIR=str(tmp_path))
        assert done.returncode == 77, done.stderr
        assert "skipped: network namespaces need the program nsenter" in done.stderr
    with pytest.raises(ValueError, match="hosts"):
        Namespaces(0)


def test_delay_needs_netem_or_is_there(network: Namespaces) -> None:
    reason = ""
    try:
        network.slow_down([1], 30, 0, 0)
    except NamespacesMissing as error:
        reason = str(error)
    if reason:
        assert "delay and loss need tc and the kernel's netem" in reason
        assert heard(network, set()) == EVERY
    else:
        assert "netem" in network.router("tc", "qdisc", "show")
        network.slow_down([], 0, 0, 0)
        assert "netem" not in network.router("tc", "qdisc", "show")


def test_namespaces_end_with_their_block(network: Namespaces) -> None:
    with Namespaces(2) as other:
        ids = other.ids
        assert len(set(ids)) == 3
        assert used(ids) == set(ids)
        assert str(Path("/proc/self/ns/net").readlink()) not in ids
    assert used(ids) == set()
    assert used(network.ids) == set(network.ids)


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_campaign_that_is_ended(
    network: Namespaces, number: signal.Signals, tmp_path: Path
) -> None:
    """Processes and namespaces go with it; the folder too, unless it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.namespace_campaign"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        while "starting the cluster" not in (line := process.stdout.readline()):
            assert line, "it has ended"
        deadline = time.monotonic() + DEADLINE_S
        family: list[psutil.Process] = []
        # Holders, nodes, and their workers.
        while len(family) < (NODES + 1) + 2 * NODES:
            assert time.monotonic() < deadline
            assert process.poll() is None
            family = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.01)
        here = str(Path("/proc/self/ns/net").readlink())
        ids = {namespace_of(each) for each in family} - {here, ""}
        assert len(ids) == NODES + 1
        process.send_signal(number)
        process.stdout.read()
        assert process.wait(DEADLINE_S) != 0
    finally:
        process.kill()
        process.stdout.close()
    _, alive = psutil.wait_procs(family, DEADLINE_S)
    assert alive == []
    assert used(ids) == set()
    if number == signal.SIGTERM:
        assert list(tmp_path.iterdir()) == []


def namespace_of(process: psutil.Process) -> str:
    try:
        return str(Path(f"/proc/{process.pid}/ns/net").readlink())
    except OSError:
        return ""
