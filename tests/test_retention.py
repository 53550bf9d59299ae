"""What groups forget, and what a node does with it: the bounds of rules, members, bytes and disk."""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import DataDirError, ExitCode, Overloaded, PaxmuxError, Timeout
from paxmux.engine.options import (
    LimitOptions,
    MachineOptions,
    Options,
    ProposalOptions,
    StorageOptions,
    TimerOptions,
)
from paxmux.engine.paxos.effects import FORGOTTEN, LEARNED, Effects
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.value import FIRST
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import LogIdentity
from paxmux.plugins.storage.memory import MemoryDisk, MemoryLog
from paxmux.shards.node import Node
from paxmux.shards.slice import Identity, build_turn
from paxmux.shards.turn import Turn
from paxmux.tools.main import main
from tests.event_loop import DEADLINE_S, in_loop
from tests.node_fixtures import lone_options, running
from tests.test_node_cluster import caught_up

Ports = Callable[[int], list[int]]
NOW = 1_000_000_000
IDENTITY = LogIdentity(7, 1, 11, 0)


class Durable(StateMachine):
    """Says that it has stored whatever it is told to say."""

    smid = 1
    applied: int | None = None

    def applied_instance_id(self) -> int | None:
        return self.applied

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        return b""


class Other(Durable):
    smid = 2


class Deaf:
    """Takes every frame."""

    def send(self, data: bytes, *, droppable: bool = True) -> bool:
        return True

    def commit(self) -> bool:
        """Nobody waits."""
        return True


def decided(disk: MemoryDisk, instances: int) -> None:
    """Instances of group 0 as a peer would have told them."""
    log = MemoryLog(Path(), IDENTITY, disk=disk)
    log.recover()
    log.append([(LEARNED, 0, i, 1, 1, value_of(i)) for i in range(instances)])
    log.close(clean=True)


def value_of(instance: int) -> bytes:
    from zlib import crc32

    from paxmux.engine.paxos import value as values

    value = b""
    for each in range(instance + 1):
        chain = FIRST if each == 0 else crc32(value).to_bytes(4, "little")
        value = values.encode([(1, 5, each, each, 1, b"v%d" % each)], chain)
    return value


def turn_over(log: MemoryLog, machines: list[Durable], storage: StorageOptions, *, members: int = 1) -> Turn:
    return build_turn(
        Identity(7, 1, 11, 99, 0, 1),
        {0: {machine.smid: machine for machine in machines}},
        log,
        Deaf(),
        [],
        members=Members({node: 10 + node for node in range(1, members + 1)}),
        rng=random.Random(1),
        now=NOW,
        timers=TimerOptions(),
        proposals=ProposalOptions(),
        limits=LimitOptions(),
        storage=storage,
    )


def first(turn: Turn) -> int:
    """What the group would forget now; 0: nothing."""
    records = turn.retention.records([0])
    assert len(records) <= 1
    if not records:
        return 0
    kind, group, instance, *_ = records[0]
    assert (kind, group) == (FORGOTTEN, 0)
    return instance


@pytest.fixture
def disk() -> MemoryDisk:
    made = MemoryDisk(IDENTITY)
    decided(made, 20)
    return made


def over(
    disk: MemoryDisk, applied: list[int | None], *, members: int = 1, executed: bool = True, **options: Any
) -> Turn:
    machines: list[Durable] = [Durable(0), Other(0)][: len(applied)]
    log = MemoryLog(Path(), IDENTITY, disk=disk)
    turn = turn_over(log, machines, StorageOptions(**options), members=members)
    if executed:
        while turn.appliers[0].replay(turn.groups[0].instance):
            pass
    for machine, claim in zip(machines, applied, strict=True):
        machine.applied = claim
    return turn


@pytest.mark.parametrize(
    ("applied", "keep", "expected"),
    [
        ([None], 0, 0),
        ([9], 0, 10),
        ([9], 4, 6),
        ([9], 10, 0),
        ([9, 5], 0, 6),
        ([9, None], 0, 0),
        # The last decided value is kept, whatever has been stored: the next one carries its checksum.
        ([19], 0, 19),
        # A machine cannot have stored what was not executed.
        ([500], 0, 19),
        # Nothing is executed: nothing is needed again.
        ([], 0, 19),
    ],
)
def test_no_more_than_every_machine_has_stored_is_forgotten(
    disk: MemoryDisk, applied: list[int | None], keep: int, expected: int
) -> None:
    assert first(over(disk, applied, keep_instances=keep)) == expected


def test_a_machine_that_cannot_say_keeps_everything(
    disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turn = over(disk, [9], keep_instances=0)

    def fail(self: Durable) -> int:
        raise SystemExit("its database is gone")

    monkeypatch.setattr(Durable, "applied_instance_id", fail)
    assert first(turn) == 0
    assert "applied_instance_id of state machine 1 failed" in caplog.text


def test_members_that_lag_keep_what_they_lack(disk: MemoryDisk) -> None:
    turn = over(disk, [15], members=3, keep_instances=0)
    # Nobody was heard of yet.
    assert first(turn) == 0
    learner, fx = turn.groups[0].learner, Effects()
    learner.on_position(2, 20, turn.groups[0].chain, NOW, fx)
    assert first(turn) == 0
    learner.on_ask(3, 7, NOW, fx)
    assert first(turn) == 7
    learner.on_position(3, 12, FIRST, NOW, fx)
    assert first(turn) == 12
    learner.on_position(3, 20, turn.groups[0].chain, NOW, fx)
    assert first(turn) == 16
    # One that lost its data asks from the start again.
    learner.on_ask(3, 0, NOW, fx)
    assert first(turn) == 0


def test_members_are_not_waited_for_if_the_options_say_so(disk: MemoryDisk) -> None:
    assert first(over(disk, [15], members=3, keep_instances=0, keep_for_members=False)) == 16


def test_a_bound_of_bytes_goes_before_members_and_counts(disk: MemoryDisk) -> None:
    live = over(disk, [19], members=3).log.stats()["live_bytes"]
    disk.owner.close(clean=True)  # type: ignore[union-attr]
    assert first(over(disk, [19], members=3, keep_bytes=live)) == 0
    disk.owner.close(clean=True)  # type: ignore[union-attr]
    assert first(over(disk, [19], members=3, keep_bytes=live // 2)) in (9, 10)
    disk.owner.close(clean=True)  # type: ignore[union-attr]
    # But not before what a machine would have to execute again.
    assert first(over(disk, [3], members=3, keep_bytes=1)) == 4


def test_forgetting_goes_into_the_log_with_the_next_mark(disk: MemoryDisk) -> None:
    turn = over(disk, [9], keep_instances=0)
    turn.start(NOW)
    turn._resting.add(0)
    turn.mark_at = NOW
    turn.run(NOW)
    assert turn.log.first(0) == 10
    assert turn.log.read(0, 9) is None
    assert turn.log.read(0, 10) is not None
    assert first(turn) == 0


def test_a_paused_worker_forgets_nothing(disk: MemoryDisk) -> None:
    turn = over(disk, [9], keep_instances=0)
    turn.calls.set_cleaning(False)
    assert first(turn) == 0
    turn.calls.set_cleaning(True)
    assert first(turn) == 10


def test_machines_that_lost_what_they_stored_cannot_start(disk: MemoryDisk) -> None:
    log = MemoryLog(Path(), IDENTITY, disk=disk)
    log.recover()
    log.append([(FORGOTTEN, 0, 10, 0, 0, b"")])
    log.close(clean=True)
    with pytest.raises(DataDirError, match="go on from instance 0, but the log begins at 10"):
        turn_over(MemoryLog(Path(), IDENTITY, disk=disk), [Durable(0)], StorageOptions())
    assert disk.owner is not None
    disk.owner.close(clean=False)
    machine = Durable(0)
    machine.applied = 9
    turn = turn_over(MemoryLog(Path(), IDENTITY, disk=disk), [machine], StorageOptions())
    turn.start(NOW)
    for _ in range(3):
        turn.run(NOW)
    assert turn.appliers[0].next == 20


def test_what_is_forgotten_is_not_served_and_said_once(
    disk: MemoryDisk, caplog: pytest.LogCaptureFixture
) -> None:
    turn = over(disk, [19], members=3, keep_instances=0, keep_for_members=False)
    turn.log.append(turn.retention.records([0]))
    turn.start(NOW)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            turn.groups[0].learner.on_ask(2, 5, NOW, turn.fx)
            turn.run(NOW)
    words = [record.message for record in caplog.records if "forgotten" in record.message]
    assert len(words) == 1
    assert "instance 5" in words[0]


def durable_options(folder: Path, port: int, **storage: Any) -> Options:
    return lone_options(
        folder / "node",
        port,
        groups=4,
        state_machines=[
            MachineOptions(
                class_="tests.durable_machine:Counted", args={"folder": str(folder / "state"), "every": 2}
            )
        ],
        storage=StorageOptions(segment_bytes=64 << 10, keep_instances=2, **storage),
    )


async def load(node: Node, count: int, timeout_s: float = 30) -> int:
    """Values until so many were executed; how many were refused."""
    done = refused = 0
    while done < count:
        results = await asyncio.gather(
            *(node.propose(each % 4, bytes(1000), smid=1, timeout_s=timeout_s) for each in range(40)),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                # What is under way when the log is full has no outcome until there is room.
                assert isinstance(result, (Overloaded, Timeout)), result
                refused += 1
            else:
                done += 1
        if refused:
            break
    return refused


def counters(status: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = status["workers"][0]["counters"]
    return found


async def settled(node: Node, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    while not condition(status := await node.status()):
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.05)
    return status


@in_loop
async def test_the_disk_of_a_node_stays_flat(tmp_path: Path, free_ports: Ports) -> None:
    options = durable_options(tmp_path, free_ports(1)[0])
    async with running(options) as node:
        for _ in range(4):
            assert await load(node, 400) == 0
        status = await settled(node, lambda status: counters(status)["removed_segments"] > 5)
        assert all(row["first"] > 0 for row in status["groups"])
        assert status["cleaning"] is True
        assert counters(status)["live_bytes"] < 10 * 4 * 20_000
        with pytest.raises(PaxmuxError, match="no longer in the log"):
            await node.instance_value(0, 0)
        before = [await node.query(group, b"") for group in range(4)]
    async with running(options) as node:
        assert [await node.query(group, b"", consistency="linearizable") for group in range(4)] == before
        assert await load(node, 40) == 0
    shutil.rmtree(tmp_path / "state")
    node = Node(options)
    with pytest.raises(PaxmuxError, match="what they had stored durably before is not there"):
        await node.start(30)
    await node.stop()


@in_loop
async def test_cleaning_is_paused_over_a_death_of_the_worker(
    tmp_path: Path, free_ports: Ports, capsys: pytest.CaptureFixture[str]
) -> None:
    import os
    import signal

    options = durable_options(tmp_path, free_ports(1)[0])
    async with running(options) as node:
        loop = asyncio.get_running_loop()
        place = str(options.data_dir)
        assert await loop.run_in_executor(None, main, ["cleaner", "pause", place]) == ExitCode.OK
        assert capsys.readouterr().out == "the node makes no room until it is resumed\n"
        old = (await node.status())["workers"][0]["pid"]
        os.kill(old, signal.SIGKILL)
        await settled(node, lambda status: status["workers"][0]["pid"] not in (None, old))
        deadline = time.monotonic() + DEADLINE_S
        while await load(node, 400):
            # A worker that has just been started again refuses for a while.
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        status = await node.status()
        assert status["cleaning"] is False
        assert counters(status)["removed_segments"] == 0
        assert all(row["first"] == 0 for row in status["groups"])
        assert await loop.run_in_executor(None, main, ["cleaner", "resume", place]) == ExitCode.OK
        await load(node, 40)
        await settled(node, lambda status: counters(status)["removed_segments"] > 0)


@in_loop
async def test_a_log_at_its_limit_refuses_until_there_is_room(tmp_path: Path, free_ports: Ports) -> None:
    limit = 16 * 64 << 10
    options = durable_options(tmp_path, free_ports(1)[0], max_bytes=limit)
    async with running(options) as node:
        await node.set_cleaning(False)
        assert await load(node, 2000, timeout_s=2) > 0
        with pytest.raises(Overloaded, match=r"storage\.max_bytes"):
            await node.propose(0, b"more", smid=1)
        folder = Path(options.data_dir) / "logs" / "0"
        assert sum(each.stat().st_size for each in folder.glob("*.seg")) <= limit
        assert await node.query(0, b"")
        await node.set_cleaning(True)
        deadline = time.monotonic() + DEADLINE_S
        for _ in range(30):
            while await load(node, 40, timeout_s=2):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)


@in_loop
async def test_a_member_that_was_away_finds_what_it_lacks(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(3)
    members = [f"127.0.0.1:{port}" for port in ports]

    def options(number: int) -> Options:
        machine = MachineOptions(
            class_="tests.durable_machine:Counted", args={"folder": str(tmp_path / f"state{number}")}
        )
        return Options(
            node=members[number],
            members=members,
            data_dir=str(tmp_path / f"node{number}"),
            bootstrap=True,
            groups=4,
            state_machines=[machine],
            storage=StorageOptions(segment_bytes=64 << 10, keep_instances=0),
            timers=TimerOptions(ask_ms=50),
        )

    nodes = [Node(options(number)) for number in range(3)]
    try:
        await asyncio.gather(*(node.start(60) for node in nodes))
        assert await load(nodes[0], 200) == 0
        await nodes[2].stop()
        assert await load(nodes[0], 1200) == 0
        ends = [await nodes[0].now_instance_id(group) for group in range(4)]
        nodes[2] = Node(options(2))
        await nodes[2].start(60)
        for group in range(4):
            await caught_up(nodes[2], group, ends[group])
            assert await nodes[2].query(group, b"") == await nodes[0].query(group, b"")
        assert await load(nodes[0], 200) == 0
        await settled(nodes[0], lambda status: counters(status)["removed_segments"] > 0)
    finally:
        await asyncio.gather(*(node.stop(1) for node in nodes))
