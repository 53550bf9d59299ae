"""Groups that change their worker under load: nothing lost, nothing doubled, whoever dies at which step."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from paxmux.engine.errors import ConfigError, InvalidRequest, NodeStopped
from paxmux.engine.options import LayoutOptions, MachineOptions, Options, StorageOptions, WorkerOptions
from paxmux.plugins.storage.kind import LMDB
from paxmux.shards import live_move
from paxmux.shards.identity import read_identity
from paxmux.shards.live_move import LiveMove, MoveFailed
from paxmux.shards.node import Node
from paxmux.shards.rearranging import Rearranger
from paxmux.tools.bench_machine import Chain, read_answer
from paxmux.tools.main import main
from tests.event_loop import DEADLINE_S, in_loop, until
from tests.moving_load import Clients, options_for
from tests.node_fixtures import check_traces, running, started, traces
from tests.test_node_cluster import caught_up, history

Ports = Callable[[int], list[int]]
GROUPS = 4


def by_hand(*workers: str) -> LayoutOptions:
    return LayoutOptions(strategy="explicit", groups=dict(enumerate(workers)))


FIRST = by_hand("0,1", "2,3")
QUICK = WorkerOptions(restart_first_ms=1, restart_max_ms=50, crash_budget=1000)


def options_of(folder: Path, ports: list[int], number: int, **more: Any) -> Options:
    layout = FIRST if number == 0 else LayoutOptions(workers=1)
    return options_for(folder, ports, number, GROUPS, **{"layout": layout, "worker": QUICK, **more})


@asynccontextmanager
async def cluster(folder: Path, ports: list[int], **more: Any) -> AsyncIterator[list[Node]]:
    before = traces()
    nodes = [Node(options_of(folder, ports, number, **more)) for number in range(len(ports))]
    try:
        await asyncio.gather(*(node.start(60) for node in nodes))
        yield nodes
    finally:
        await asyncio.gather(*(node.stop(1) for node in nodes))
    check_traces(before)


async def reload(node: Node, layout: LayoutOptions) -> dict[str, Any]:
    return await node.reload(msgspec.structs.replace(node._options, layout=layout))


async def answers(clients: Clients, count: int = 20) -> None:
    """Until every group has had so many more answers."""
    before = {group: len(values) for group, values in clients.acknowledged.items()}
    await until(
        lambda: (
            all(len(clients.acknowledged[group]) >= before[group] + count for group in before)
            or clients.errors
        )
    )
    assert not clients.errors


async def check_all(nodes: list[Node], clients: Clients) -> None:
    """What was acknowledged is decided once, alike and in the same order at every node, and executed."""
    await clients.stop()
    assert not clients.errors
    for group in range(GROUPS):
        # A linearizable read has everything acknowledged before; it brings a group to rest too.
        for node in nodes:
            await node.query(group, b"", Chain.smid, "linearizable", timeout_s=30)
        end = max([await node.now_instance_id(group) for node in nodes])
        for node in nodes:
            await caught_up(node, group, end)
        histories = [await history(node, group) for node in nodes]
        assert histories.count(histories[0]) == len(nodes)
        clients.check(group, [value for value, _ in histories[0]])
        executed = [read_answer(await node.query(group, b"", Chain.smid, timeout_s=30)) for node in nodes]
        assert executed.count(executed[0]) == len(nodes)
        assert executed[0][0] == len(histories[0])


async def all_serve(node: Node) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while {row["state"] for row in (await node.status())["workers"]} != {"serving"}:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("router", ["inline", "process"])
def test_groups_move_under_load(tmp_path: Path, free_ports: Ports, router: str) -> None:
    """Also to a worker that was not there before, and away from one until it has none."""

    @in_loop
    async def scenario() -> None:
        async with cluster(tmp_path, free_ports(3), router=router) as nodes:
            node = nodes[0]
            clients = Clients(nodes, GROUPS, each=2)
            await answers(clients)
            for layout in (
                by_hand("0", "1,2,3"),
                by_hand("0,1,2", "3"),
                by_hand("0,2", "3", "1"),
                LayoutOptions(workers=1),
                LayoutOptions(workers=4, strategy="range"),
                FIRST,
            ):
                report = await reload(node, layout)
                assert report["groups"] == len(report["held_ms"]) > 0
                await answers(clients)
                assert clients.refused == 0
            picture = (await node.status())["layout"]
            assert picture["hosts"] == (0, 0, 1, 1) == read_identity(tmp_path / "node0").hosts
            assert [row["groups"] for row in picture["workers"]] == [(0, 1), (2, 3), (), ()]
            assert picture["moves"] == picture["epoch"] > 8
            assert picture["failed_moves"] == 0
            assert picture["moving"] is None
            await check_all(nodes, clients)
            assert not any(clients.unknown.values())

    scenario()
    assert main(["log", "verify", str(tmp_path / "node0"), "--against", str(tmp_path / "node1")]) == 0


@in_loop
async def test_plain_lmdb_and_a_restart(tmp_path: Path, free_ports: Ports) -> None:
    """The log of a group is where it went, whatever the options of the next start say."""
    ports = free_ports(1)
    options = options_of(tmp_path, ports, 0, storage=StorageOptions(plugin=LMDB))
    values: list[bytes] = []
    for turn in range(3):
        async with running(options) as node:
            for layout in (by_hand("0", "1,2,3"), by_hand("1,2", "3", "0")):
                await reload(node, layout)
                values.append(b"%d-%d" % (turn, len(values)))
                await node.propose(0, values[-1], smid=Chain.smid, timeout_s=30)
                assert [value for value, _ in await history(node, 0)] == values


POINTS = ["begun", "near", "held", "complete", "switching", "switched", "taken up", "done"]


class Sword:
    """Kills workers of a node at one point of its next move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.point = ""
        self.whom = ""
        self.fell = 0
        patch = monkeypatch.setattr
        self._after(patch, "_begin", "begun")
        self._after(patch, "_hold", "held")
        self._after(patch, "_release", "done")
        told, order, switch = LiveMove.told, live_move.Exchange.order, Rearranger.switch

        def on_told(move: LiveMove, worker: int, message: Any) -> None:
            told(move, worker, message)
            if message.what in ("near", "complete"):
                self.fall(message.what, move)

        def on_order(exchange: Any, worker: int, kind: Any, group: int, number: int) -> bool:
            done = order(exchange, worker, kind, group, number)
            if kind.name == "TAKE_UP" and self.move is not None:
                self.fall("taken up", self.move)
            return done

        async def on_switch(rearranger: Rearranger) -> None:
            self.fall("switching", rearranger._move)
            await switch(rearranger)
            self.fall("switched", rearranger._move)

        self.move: LiveMove | None = None
        patch(LiveMove, "told", on_told)
        patch(live_move.Exchange, "order", on_order)
        patch(Rearranger, "switch", on_switch)

    def _after(self, patch: Callable[..., None], name: str, point: str) -> None:
        real = getattr(LiveMove, name)

        def then(move: LiveMove, *args: Any) -> None:
            self.move = move
            real(move, *args)
            self.fall(point, move)

        patch(LiveMove, name, then)

    def fall(self, point: str, move: LiveMove | None) -> None:
        assert move is not None
        if point != self.point:
            return
        self.point = ""
        for name, post in (("source", move.source), ("target", move.target)):
            if self.whom in (name, "both") and post.pid is not None:
                os.kill(post.pid, signal.SIGKILL)
                self.fell += 1


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["source", "target", "both"])
def test_a_worker_dies_at_each_step(
    tmp_path: Path, free_ports: Ports, whom: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @in_loop
    async def scenario() -> None:
        sword = Sword(monkeypatch)
        async with cluster(tmp_path, free_ports(3)) as nodes:
            node = nodes[0]
            clients = Clients(nodes, GROUPS)
            await answers(clients)
            there = by_hand("0", "1,2,3")
            for point in POINTS:
                hosts = (await node.status())["layout"]["hosts"]
                wanted, worker = (there, 1) if hosts[1] == 0 else (FIRST, 0)
                sword.point, sword.whom = point, whom
                try:
                    await reload(node, wanted)
                except MoveFailed as error:
                    failed = str(error)
                else:
                    failed = ""
                assert not sword.point, "it never got there"
                stays = POINTS.index(point) < POINTS.index("complete")
                assert bool(failed) == stays, f"{point}: {failed}"
                await all_serve(node)
                await answers(clients, 5)
                after = (await node.status())["layout"]["hosts"]
                assert after[1] == (hosts[1] if stays else worker), point
                assert after == read_identity(tmp_path / "node0").hosts
            assert sword.fell == len(POINTS) * (2 if whom == "both" else 1)
            await check_all(nodes, clients)

    scenario()


@pytest.mark.slow
@in_loop
async def test_workers_die_at_random_moments_of_moves(tmp_path: Path, free_ports: Ports) -> None:
    """Between the steps that the node sees, too: in the middle of a handover, before a sync, after it."""
    rng = random.Random(7)
    async with cluster(tmp_path, free_ports(3)) as nodes:
        node = nodes[0]
        clients = Clients(nodes, GROUPS)
        await answers(clients, 5)
        layouts = [FIRST, by_hand("0", "1,2,3"), by_hand("0,1,2", "3"), by_hand("1,3", "0,2")]
        for _ in range(15):
            layout = rng.choice(layouts)
            change = asyncio.create_task(reload(node, layout))
            await asyncio.sleep(rng.random() * 0.08)
            for row in (await node.status())["workers"]:
                if row["pid"] is not None and rng.random() < 0.6:
                    os.kill(row["pid"], signal.SIGKILL)
            (outcome,) = await asyncio.gather(change, return_exceptions=True)
            assert isinstance(outcome, dict | MoveFailed)
            await all_serve(node)
            await answers(clients, 2)
            assert (await node.status())["layout"]["hosts"] == read_identity(tmp_path / "node0").hosts
        await check_all(nodes, clients)


PROGRAM = """
import asyncio, os, signal, sys
import msgspec
from paxmux import Node, Options
from paxmux.shards import identity, live_move, rearranging
from paxmux.tools.bench_machine import Chain

point = sys.argv[2]
def die(*_args, **_more):
    os.kill(os.getpid(), signal.SIGKILL)

def die_after(owner, name):
    real = getattr(owner, name)
    def then(*args):
        real(*args)
        die()
    setattr(owner, name, then)

if point == "begun":
    die_after(live_move.LiveMove, "_begin")
elif point == "held":
    die_after(live_move.LiveMove, "_hold")
elif point == "complete":
    die_after(rearranging.Rearranger, "commit")
elif point == "the new map has no name yet":
    identity.replace_file = die
elif point == "after the new map":
    identity.DataDir._mark_epoch = die
elif point == "switched":
    die_after(rearranging.Rearranger, "reroute")
elif point == "done":
    die_after(live_move.LiveMove, "_release")

async def call(node, group):
    for number in range(10 ** 9):
        value = b"%d-%d" % (group, number)
        # One call for each line: it is killed while it writes, and half a line would say nothing.
        os.write(1, b"asked %d %b\\n" % (group, value))
        await node.propose(group, value, smid=Chain.smid, timeout_s=30)
        os.write(1, b"done %d %b\\n" % (group, value))

async def main():
    options, wanted = (msgspec.json.decode(text, type=Options) for text in sys.argv[1].split("\\n"))
    node = Node(options)
    await node.start(60)
    calls = [asyncio.create_task(call(node, group)) for group in range(options.groups)]
    await asyncio.sleep(0.3)
    await node.reload(wanted)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("point", "worker"),
    [
        ("begun", 0),
        ("held", 0),
        ("complete", 0),
        ("the new map has no name yet", 0),
        ("after the new map", 1),
        ("switched", 1),
        ("done", 1),
    ],
)
def test_the_node_dies_at_each_step(tmp_path: Path, free_ports: Ports, point: str, worker: int) -> None:
    @in_loop
    async def scenario() -> None:
        ports = free_ports(1)
        options = options_of(tmp_path, ports, 0)
        async with running(options):
            pass
        wanted = msgspec.structs.replace(options, layout=by_hand("0", "1,2,3"))
        both = "\n".join(msgspec.json.encode(each).decode() for each in (options, wanted))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            both,
            point,
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert process.returncode == -signal.SIGKILL
        lines = [line.split() for line in said.splitlines()]
        assert read_identity(tmp_path / "node0").hosts == (0, worker, 1, 1)
        node = await started(options)
        try:
            for group in range(GROUPS):
                answer = await node.query(group, b"", Chain.smid, "linearizable", timeout_s=30)
                decided = [value for value, _ in await history(node, group)]
                done = [value for word, at, value in lines if (word, at) == (b"done", b"%d" % group)]
                asked = [value for word, at, value in lines if (word, at) == (b"asked", b"%d" % group)]
                assert len(done) > 3
                assert decided[: len(done)] == done
                assert decided in (done, asked), "the last one may be there or not"
                assert read_answer(answer)[0] == len(decided)
        finally:
            await node.stop(1)

    scenario()


@in_loop
async def test_a_target_that_is_not_complete_in_time_does_not_get_the_group(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old worker takes it up again, with all that waits; machines that keep their state too."""
    ports = free_ports(1)
    machines = [MachineOptions(class_="tests.lone_machine:Lone", args={"folder": str(tmp_path)})]
    options = options_of(tmp_path, ports, 0, state_machines=machines)
    async with running(options) as node:
        for number in range(5):
            await node.propose(1, b"%d" % number, smid=1, timeout_s=30)
        hold = LiveMove._hold

        def hold_and_stop(move: LiveMove) -> None:
            os.kill(move.target.pid or 0, signal.SIGSTOP)
            hold(move)

        with monkeypatch.context() as patch:
            patch.setattr(LiveMove, "_hold", hold_and_stop)
            patch.setattr(live_move, "HOLD_S", 0.3)
            patch.setattr(live_move, "END_S", 0.3)
            changing = asyncio.create_task(reload(node, by_hand("0", "1,2,3")))
            await until(lambda: node._worker_of[1] < 0)
            waiting = [asyncio.create_task(node.propose(1, b"%d" % n, smid=1, timeout_s=30)) for n in (5, 6)]
            asked = asyncio.create_task(node.query(1, b"", 1, "linearizable", timeout_s=30))
            with pytest.raises(MoveFailed, match=r"group 1 stays with worker 0: worker 1 did not have all"):
                await changing
        assert [(await done).result for done in waiting] == [b"6", b"7"]
        assert await asked in (b"5", b"7")
        # It might have opened the machine at any moment.
        assert (await node.status())["workers"][1]["last_exit"] == "killed by SIGKILL"
        await all_serve(node)
        report = await reload(node, by_hand("0", "1,2,3"))
        assert report["groups"] == 1
        assert (await node.propose(1, b"7", smid=1, timeout_s=30)).result == b"8"
        assert await node.query(1, b"", 1) == b"8"
        assert (tmp_path / "lone-1").read_text().split()[0] == "8"


@in_loop
async def test_a_machine_that_keeps_its_state_is_open_once(tmp_path: Path, free_ports: Ports) -> None:
    machines = [
        MachineOptions(class_="tests.lone_machine:Lone", args={"folder": str(tmp_path)}),
        *options_of(tmp_path, [1], 0).state_machines,
    ]
    ports = free_ports(1)
    async with running(options_of(tmp_path, ports, 0, state_machines=machines)) as node:
        sent = 0
        for layout in (by_hand("0", "1,2,3"), FIRST, by_hand("0,1,2", "3"), FIRST):
            for number in range(20):
                smid = 1 if number % 2 else Chain.smid
                done = await node.propose(1, b"x", smid=smid, timeout_s=30)
                if smid == 1:
                    sent += 1
                    assert done.result == b"%d" % sent
            await reload(node, layout)
            assert await node.query(1, b"", 1, timeout_s=30) == b"%d" % sent
            assert read_answer(await node.query(1, b"", Chain.smid, timeout_s=30))[0] == sent


@in_loop
async def test_what_cannot_change_is_named(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(1)
    options = options_of(tmp_path, ports, 0)
    node = Node(options)
    with pytest.raises(NodeStopped):
        await node.reload(options)
    async with running(options) as node:
        with pytest.raises(ConfigError, match="groups, router: cannot change while the node runs"):
            await node.reload(
                msgspec.structs.replace(options, groups=5, router="process", layout=LayoutOptions())
            )
        with pytest.raises(ConfigError, match="expected each group on exactly one worker"):
            await reload(node, by_hand("0", "1,2"))
        assert await reload(node, FIRST) == {"groups": 0, "workers": 2, "held_ms": []}
        both = await asyncio.gather(
            reload(node, by_hand("1", "0,2,3")), reload(node, FIRST), return_exceptions=True
        )
        assert [type(each) for each in both] == [dict, InvalidRequest]
        assert "being changed already" in str(both[1])
    with pytest.raises(NodeStopped):
        await node.reload(options)


@in_loop
async def test_a_group_whose_votes_do_not_wait_for_the_disk_stays(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has promised may be nowhere but in one worker's page cache: it moves at a start alone."""
    ports = free_ports(1)
    async with running(options_of(tmp_path, ports, 0)) as node:
        await node.set_log_sync(1, False)
        with pytest.raises(MoveFailed, match="the sync of group 1 is given up"):
            await reload(node, by_hand("0", "1,2,3"))
        await node.set_log_sync(1, True)
        hold = LiveMove._hold
        begun = asyncio.Event()

        async def give_up() -> None:
            await begun.wait()
            await node.set_log_sync(1, False)

        def begin_and_say(move: LiveMove) -> None:
            begun.set()
            hold(move)

        with monkeypatch.context() as patch:
            patch.setattr(LiveMove, "_hold", begin_and_say)
            giving_up = asyncio.create_task(give_up())
            report = await reload(node, by_hand("0", "1,2,3"))
        await giving_up
        # It came while the group was on its way, and holds where that has gone.
        assert report["groups"] == 1
        rows = (await node.status())["groups"]
        assert [row["durable"] for row in rows] == [True, False, True, True]
        await node.set_log_sync(1, True)
        await reload(node, FIRST)
        rows = (await node.status())["groups"]
        assert [row["durable"] for row in rows] == [True] * 4
        assert (await node.propose(1, b"x", smid=Chain.smid, timeout_s=30)).instance_id == 0


@in_loop
async def test_a_node_stops_in_the_middle_of_a_change(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports(1)
    options = options_of(tmp_path, ports, 0)
    hold = LiveMove._hold

    def hold_and_stop(move: LiveMove) -> None:
        os.kill(move.target.pid or 0, signal.SIGSTOP)
        hold(move)

    with monkeypatch.context() as patch:
        patch.setattr(LiveMove, "_hold", hold_and_stop)
        patch.setattr(live_move, "END_S", 0.1)
        async with running(options) as node:
            changing = asyncio.create_task(reload(node, by_hand("0", "1,2,3")))
            await until(lambda: node._worker_of[1] < 0)
            call = asyncio.create_task(node.propose(1, b"x", smid=Chain.smid, timeout_s=30))
            await asyncio.sleep(0)
    with pytest.raises(MoveFailed, match="the node is stopping"):
        await changing
    done = await call
    async with running(options) as node:
        assert await node.instance_value(1, done.instance_id) == [(b"x", Chain.smid)]
