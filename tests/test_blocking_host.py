"""A server whose handlers block its event loop embeds a node, in both router modes.

Two of three nodes run, so nothing is decided without the vote of the one whose host blocks. The
block lasts until the test ends it: what happens meanwhile happened during the block, for certain.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from paxmux.engine.errors import Timeout
from paxmux.engine.options import MachineOptions, Options
from paxmux.shards.node import Node
from tests.event_loop import in_loop
from tests.node_fixtures import member_options

HOST = Path(__file__).with_name("blocking_host.py")
Ports = Callable[[int], list[int]]


class Host:
    """The server process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def end(self) -> str:
        """Let it end; returns what it logged."""
        _, log = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, log
        return log


@contextmanager
def host(config: Path) -> Iterator[Host]:
    process = subprocess.Popen(
        [sys.executable, str(HOST), str(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    try:
        yield Host(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def options_of(folder: Path, ports: list[int], number: int) -> Options:
    machines = [MachineOptions(class_="paxmux.plugins.machines.echo:Echo")]
    return member_options(folder, ports, number, groups=2, state_machines=machines)


def config_of(folder: Path, ports: list[int], router: str) -> Path:
    path = folder / "host.yaml"
    members = [f"127.0.0.1:{port}" for port in ports]
    document = {
        "node": members[2],
        "members": members,
        "data_dir": str(folder / "host"),
        "groups": 2,
        "bootstrap": True,
        "router": router,
        "state_machines": [{"class": "paxmux.plugins.machines.echo:Echo"}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.xdist_group("cluster")
@pytest.mark.parametrize("router", ["inline", "process"])
def test_votes_while_the_host_is_blocked(tmp_path: Path, free_ports: Ports, router: str) -> None:
    @in_loop
    async def scenario() -> None:
        ports = free_ports(3)
        first, second = (Node(options_of(tmp_path, ports, number)) for number in (0, 1))
        with host(config_of(tmp_path, ports, router)) as server:
            try:
                await asyncio.gather(first.start(60), second.start(60))
                assert await asyncio.to_thread(server.hear) == "ready"
                await second.stop()
                await first.propose(0, b"before", smid=1, timeout_s=30)
                server.say("block")
                assert await asyncio.to_thread(server.hear) == "blocked"
                if router == "process":
                    for number in range(50):
                        done = await first.propose(number % 2, b"during", smid=1, timeout_s=30)
                        assert done.result == b"during"
                else:
                    with pytest.raises(Timeout):
                        await first.propose(0, b"during", smid=1, timeout_s=0.6)
                server.say("go on")
                assert await asyncio.to_thread(server.hear) == "unblocked"
                done = await first.propose(0, b"after", smid=1, timeout_s=30)
                server.say("count")
                count = int((await asyncio.to_thread(server.hear)).removeprefix("count "))
                assert count >= done.instance_id
                log = await asyncio.to_thread(server.end)
            finally:
                await asyncio.gather(first.stop(1), second.stop(1))
        assert "event loop was blocked for" in log
        assert ("`router: process` keeps them out of it" in log) == (router == "inline")

    scenario()
