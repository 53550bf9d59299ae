"""Whole nodes with a secret: who has none stays outside, and it is changed while they serve."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from paxmux.engine.errors import ConfigError
from paxmux.engine.options import LayoutOptions, MachineOptions, NetworkOptions, WorkerOptions
from paxmux.engine.secret_file import new_secret_file, read_keys
from paxmux.shards.node import Node
from tests.event_loop import DEADLINE_S, in_loop
from tests.node_fixtures import check_traces, member_options, traces

Ports = Callable[[int], list[int]]
ECHO = MachineOptions(class_="paxmux.plugins.machines.echo:Echo")


def write(file: Path, *secrets: str) -> None:
    """Put a file in its place, in one step."""
    new = file.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text("".join(f"{secret}\n" for secret in secrets), encoding="ascii")
    new.replace(file)


def fingerprints(file: Path) -> list[str]:
    return [keys.fingerprint for keys in read_keys(file)]


@asynccontextmanager
async def cluster(folder: Path, ports: list[int], **more: Any) -> AsyncIterator[list[Node]]:
    """Three nodes, each with a file of its own, of the same content."""
    before = traces()
    write(folder / "secret0", "o" * 40)
    for number in (1, 2):
        write(folder / f"secret{number}", "o" * 40)
    nodes = [
        Node(
            member_options(
                folder,
                ports,
                number,
                groups=4,
                layout=LayoutOptions(workers=2),
                state_machines=[ECHO],
                worker=WorkerOptions(restart_first_ms=1, restart_max_ms=50),
                network=NetworkOptions(secret_file=str(folder / f"secret{number}")),
                **more,
            )
        )
        for number in range(3)
    ]
    try:
        await asyncio.gather(*(node.start(60) for node in nodes))
        yield nodes
    finally:
        await asyncio.gather(*(node.stop(1) for node in nodes))
    check_traces(before)


async def all_say(nodes: list[Node], condition: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Wait until the status of each node keeps a condition."""
    end = time.monotonic() + DEADLINE_S
    while not all([condition(await node.status()) for node in nodes]):
        assert time.monotonic() < end, f"never: {what}"
        await asyncio.sleep(0.05)


@in_loop
@pytest.mark.parametrize("router", ["inline", "process"])
async def test_the_secret_is_changed_under_load_and_nobody_notices(
    tmp_path: Path, free_ports: Ports, router: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    old, new = "o" * 40, "n" * 40
    async with cluster(tmp_path, free_ports(3), router=router) as nodes:
        ends = False
        done = 0

        async def load(node: Node, group: int) -> None:
            nonlocal done
            size = 20_000 if group == 3 else 100
            while not ends:
                await node.propose(group, bytes(size), smid=1, timeout_s=30)
                done += 1

        tasks = [asyncio.create_task(load(nodes[group % 3], group)) for group in range(4)]
        for secrets in ((old, new), (new, old), (new,)):
            for number in range(3):
                write(tmp_path / f"secret{number}", *secrets)
                before = done
                while done < before + 20:
                    await asyncio.sleep(0.01)
            wanted = fingerprints(tmp_path / "secret0")
            await all_say(
                nodes,
                lambda status, wanted=wanted: (
                    status["secrets"]["fingerprints"] == wanted
                    and all(peer["connected"] for peer in status["peers"].values())
                ),
                "it is taken",
            )
        # A worker that starts now seals by the new one.
        status = await nodes[0].status()
        os.kill(status["workers"][0]["pid"], 9)
        await all_say(
            nodes[:1],
            lambda status: (
                status["workers"][0]["generation"] > 1 and status["workers"][0]["state"] == "serving"
            ),
            "another worker takes its place",
        )
        ends = True
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            # What was under way in the worker that was killed has no known outcome.
            assert outcome is None or type(outcome).__name__ in ("Timeout", "Overloaded"), outcome
        for group in range(4):
            await nodes[0].propose(group, b"after", smid=1, timeout_s=30)
        for node in nodes:
            told = orjson.dumps(await node.status(), option=orjson.OPT_NON_STR_KEYS).decode()
            assert old not in told
            assert new not in told
            network = (await node.status())["router"]["network"]
            assert network["drop_auth"] == 0
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = " ".join(child.cmdline()) + "".join(child.environ().values())
                assert old not in words
                assert new not in words
    assert old not in caplog.text
    assert new not in caplog.text


@in_loop
async def test_a_broken_file_changes_nothing_and_is_told(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tmp_path, free_ports(3)) as nodes:
        before = fingerprints(tmp_path / "secret0")
        write(tmp_path / "secret0", "short")
        await all_say(nodes[:1], lambda status: status["secrets"]["problem"] is not None, "it is told")
        status = await nodes[0].status()
        assert status["secrets"]["fingerprints"] == before
        assert "secret0:1: expected a secret of at least 32" in status["secrets"]["problem"]
        assert "the secrets stay as they are" in caplog.text
        await nodes[0].propose(0, b"x", smid=1, timeout_s=30)
        write(tmp_path / "secret0", "o" * 40)
        await all_say(nodes[:1], lambda status: status["secrets"]["problem"] is None, "it is well again")


@in_loop
async def test_a_node_does_not_start_with_a_secret_that_others_may_read(
    tmp_path: Path, free_ports: Ports
) -> None:
    (port,) = free_ports(1)
    before = traces()
    file = tmp_path / "secret"
    new_secret_file(file)
    file.chmod(0o644)
    options = member_options(tmp_path, [port], 0, network=NetworkOptions(secret_file=str(file)), groups=1)
    node = Node(options)
    with pytest.raises(ConfigError, match="secret: expected a file that its owner alone may use"):
        await node.start(30)
    await node.stop(1)
    assert not (tmp_path / "node0").exists()
    check_traces(before)


@in_loop
async def test_a_member_with_another_secret_stays_outside(
    tmp_path: Path, free_ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    ports = free_ports(3)
    write(tmp_path / "ours", "o" * 40)
    write(tmp_path / "other", "x" * 40)

    def node(number: int, secret: str) -> Node:
        network = NetworkOptions(secret_file=str(tmp_path / secret))
        return Node(member_options(tmp_path, ports, number, groups=1, state_machines=[ECHO], network=network))

    nodes = [node(0, "ours"), node(1, "ours"), node(2, "other")]
    starts = [asyncio.create_task(one.start(60)) for one in nodes]
    try:
        # A cluster is founded by all of its members: one that nobody can vouch for is none.
        end = time.monotonic() + DEADLINE_S
        while len([1 for record in caplog.records if "it has another secret; drops" in record.message]) < 3:
            assert time.monotonic() < end, "each of them refuses another one"
            await asyncio.sleep(0.05)
        assert not any(start.done() for start in starts)
    finally:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        await asyncio.gather(*(one.stop(0) for one in nodes))
