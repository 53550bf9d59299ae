"""The examples, as their users run them: three members, each a process of its own."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.source_tree import ROOT

Ports = Callable[[int], list[int]]

DEADLINE_S = 60.0


def write_configs(folder: Path, ports: list[int], more: str = "") -> list[Path]:
    members = "".join(f"\n  - 127.0.0.1:{port}" for port in ports)
    files = []
    for number, port in enumerate(ports):
        file = folder / f"node{number}.yaml"
        file.write_text(
            f"node: 127.0.0.1:{port}\nmembers:{members}\ndata_dir: data{number}\nbootstrap: true\n"
            f"groups: 1\nstate_machines:\n  - class: counter:CounterMachine\n{more}"
        )
        files.append(file)
    return files


class Member:
    """One running example."""

    def __init__(self, script: str, *args: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / script), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.line()

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def members(script: str, calls: list[tuple[object, ...]]) -> Iterator[list[Member]]:
    with contextlib.ExitStack() as stack:
        running = []
        for args in calls:
            member = Member(script, *args)
            stack.callback(member.close)
            running.append(member)
        for member in running:
            assert member.line() == "ready"
        yield running


def until_equal(ask: Callable[[], str], expected: str) -> None:
    """A local read may lag behind what another member has been told."""
    deadline = time.monotonic() + DEADLINE_S
    while (answer := ask()) != expected:
        assert time.monotonic() < deadline, f"{answer!r} instead of {expected!r}"
        time.sleep(0.02)


@pytest.mark.timeout(180)
def test_counter(tmp_path: Path, free_ports: Ports) -> None:
    configs = write_configs(tmp_path, free_ports(3))
    with members("counter.py", [(config,) for config in configs]) as (one, two, three):
        assert one.ask("add 5") == "5 at instance 0"
        assert two.ask("add 2") == "7 at instance 1"
        until_equal(lambda: three.ask("get"), "7")
        assert three.ask("add x") == "Refused (2001): expected a whole number, got b'x'"
        assert three.ask("dance") == "expected `add NUMBER` or `get`"
        for member in (one, two, three):
            assert member.process.stdin is not None
            member.process.stdin.close()
        assert [member.process.wait(DEADLINE_S) for member in (one, two, three)] == [0, 0, 0]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("script", ["asyncio_server.py", "threaded_server.py"])
@pytest.mark.parametrize("router", ["inline", "process"])
def test_servers(tmp_path: Path, free_ports: Ports, script: str, router: str) -> None:
    ports = free_ports(6)
    configs = write_configs(tmp_path, ports[:3], f"router: {router}\n")
    calls = list(zip(configs, ports[3:], strict=True))
    with members(script, calls) as running, contextlib.ExitStack() as stack:
        clients = []
        for port in ports[3:]:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S))
            clients.append(stack.enter_context(connection.makefile("rw")))

        def ask(client: int, command: str) -> str:
            clients[client].write(command + "\n")
            clients[client].flush()
            return clients[client].readline().strip()

        assert [ask(turn % 3, "incr") for turn in range(6)] == ["1", "2", "3", "4", "5", "6"]
        for client in range(3):
            until_equal(lambda client=client: ask(client, "get"), "6")
        assert ask(0, "dance") == "expected incr or get"
        for member in running:
            member.process.send_signal(signal.SIGTERM)
        assert [member.process.wait(DEADLINE_S) for member in running] == [0, 0, 0]
