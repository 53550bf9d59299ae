"""Masters of three nodes over real workers and logs, and of three processes that are killed and stopped."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import orjson
import pytest

from paxmux.engine.errors import LeadershipLost, NotMaster, StaleTerm
from paxmux.engine.options import LayoutOptions, MachineOptions, MasterOptions, WorkerOptions
from paxmux.shards.control import request
from paxmux.shards.node import Node
from paxmux.tools.cmd_election import NO_VERSION
from tests.command import Command, run_command
from tests.event_loop import DEADLINE_S, in_loop, until
from tests.node_fixtures import check_traces, member_options, traces

Ports = Callable[[int], list[int]]
GROUPS = 4
JOURNAL = MachineOptions(class_="tests.term_journal:TermJournal")


@asynccontextmanager
async def cluster(folder: Path, ports: list[int], lease_ms: int = 1000) -> AsyncIterator[list[Node]]:
    before = traces()
    nodes = [
        Node(
            member_options(
                folder,
                ports,
                number,
                groups=GROUPS,
                layout=LayoutOptions(workers=1),
                state_machines=[JOURNAL],
                worker=WorkerOptions(restart_first_ms=1, restart_max_ms=50),
                master=MasterOptions(groups="all", lease_ms=lease_ms),
            )
        )
        for number in range(len(ports))
    ]
    try:
        await asyncio.gather(*(node.start(60) for node in nodes))
        yield nodes
    finally:
        await asyncio.gather(*(node.stop(1) for node in nodes))
    check_traces(before)


def owners(nodes: list[Node], group: int) -> list[Node]:
    return [node for node in nodes if node.is_master(group)]


async def master_of(nodes: list[Node], group: int) -> Node:
    await until(lambda: len(owners(nodes, group)) == 1)
    (found,) = owners(nodes, group)
    return found


@pytest.mark.xdist_group("cluster")
@in_loop
async def test_masters_of_three_nodes(tmp_path: Path, free_ports: Ports) -> None:
    async with cluster(tmp_path, free_ports(3)) as nodes:
        ids = [node.my_node_id() for node in nodes]
        masters = [await master_of(nodes, group) for group in range(GROUPS)]
        first = masters[0]
        others = [node for node in nodes if node is not first]
        term = first.term(0)
        assert term is not None
        # Fenced writes, by the master and by somebody who knows its term.
        done = await first.propose(0, b"%d" % term, smid=1, term=term)
        assert done.instance_id > term
        await others[0].propose(0, b"%d" % term, smid=1, term=term)
        with pytest.raises(StaleTerm):
            await first.propose(0, b"-1", smid=1, term=term + 1)
        # Reads.
        assert orjson.loads(await first.query(0, b"", consistency="master")) == [term, term]
        await until(lambda: others[0].master(0) == first.my_node_id())
        with pytest.raises(NotMaster) as caught:
            await others[0].query(0, b"", consistency="master")
        assert caught.value.master == first.my_node_id()
        assert caught.value.address is not None
        assert caught.value.address.endswith(f":{first.my_node_id() & 0xFFFF}")
        # An heir, whose leadership begins, while that of the one before ends.
        heard: list[tuple[int, int, int]] = []
        others[1].on_master_change(lambda *change: heard.append(change))
        heir = others[1]
        entered: list[int] = []

        async def lead(node: Node) -> None:
            async with node.leadership(0) as own:
                entered.append(own)
                await node.propose(0, b"%d" % own, smid=1, term=own)
                await asyncio.sleep(DEADLINE_S)

        old = asyncio.create_task(lead(first))
        await until(lambda: entered == [term])
        new = asyncio.create_task(lead(heir))
        assert await first.transfer_master(0, heir.my_node_id()) == heir.my_node_id()
        with pytest.raises(LeadershipLost):
            await old
        await until(lambda: len(entered) == 2)
        assert entered[1] > term
        assert (0, heir.my_node_id()) in [change[:2] for change in heard]
        with pytest.raises(StaleTerm):
            await first.propose(0, b"-1", smid=1, term=term)
        new.cancel()
        # All that it has is given back at a stop, and somebody else is master at once.
        version = heir.master_with_version(0)[1]
        await heir.stop(5)
        left = [node for node in nodes if node is not heir]
        await until(lambda: all(len(owners(left, group)) == 1 for group in range(GROUPS)))
        assert left[0].master_with_version(0)[1] > version
        journal = orjson.loads(await (await master_of(left, 0)).query(0, b"", consistency="master"))
        assert journal == sorted(journal)
        assert -1 not in journal
        assert {node.master(0) for node in left} <= set(ids)


@pytest.mark.xdist_group("cluster")
@in_loop
async def test_the_command_shows_and_moves_masters(tmp_path: Path, free_ports: Ports) -> None:
    async with cluster(tmp_path, free_ports(3), lease_ms=3000) as nodes:
        first = await master_of(nodes, 0)
        place = str(tmp_path / f"node{nodes.index(first)}")

        async def paxmux(*words: str) -> str:
            done = await asyncio.to_thread(run_command, *words, folder=tmp_path)
            assert done.returncode == 0, done.stderr
            return done.stdout

        rows = orjson.loads(await paxmux("master", "list", place, "--json"))["groups"]
        assert [row["group"] for row in rows] == list(range(GROUPS))
        assert rows[0]["own"]
        assert rows[0]["master"] == first.my_node_id()
        assert "this node" in await paxmux("master", "list", place, "0")
        heir = nodes[nodes.index(first) - 1]
        answer = orjson.loads(
            await paxmux("master", "transfer", place, "0", "--to", str(heir.my_node_id()), "--json")
        )
        assert answer == {"done": [{"group": 0, "master": heir.my_node_id()}], "errors": []}
        refused = await asyncio.to_thread(run_command, "master", "drop", place, "0", folder=tmp_path)
        assert refused.returncode == 1
        assert "this node is not the master of group 0" in refused.stderr
        mine = str(tmp_path / f"node{nodes.index(heir)}")
        assert await paxmux("master", "drop", mine, "0") == "groups 0: given back\n"
        for number in range(3):
            await paxmux("master", "balance", str(tmp_path / f"node{number}"))
        status = await asyncio.to_thread(request, tmp_path / "node0", {"op": "status"}, 10.0)
        assert {"master", "term", "left_ms", "own"} <= status["groups"][0]["master"].keys()


class Election:
    """Three processes of `paxmux election`."""

    def __init__(self, folder: Path, ports: list[int], stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.ports = ports
        self._list = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.nodes = [self.start(number) for number in range(len(ports))]

    def start(self, number: int, *more: str) -> Command:
        words = ("election", f"127.0.0.1:{self.ports[number]}", self._list, *more)
        return self._stack.enter_context(Command(*words, folder=self._folder))


@pytest.fixture
def election(tmp_path: Path, free_ports: Ports) -> Iterator[Election]:
    with ExitStack() as stack:
        yield Election(tmp_path, free_ports(3), stack)


MASTER = re.compile(r"master: nodeid (\d+) version (\d+) ip ([\d.]+) port (\d+)")
CHANGE = re.compile(r"master change!!! groupidx 0 newmaster ip ([\d.]+) port (\d+) version (\d+)")


def next_master(node: Command, besides: int = 0) -> int:
    """The port of the next master that a node tells of that is not `besides`."""
    while True:
        line = node.line()
        assert line is not None, node.errors()
        match = MASTER.fullmatch(line)
        if match and int(match[1]) and int(match[4]) != besides:
            return int(match[4])


@pytest.mark.xdist_group("cluster")
def test_the_transcript_of_an_election(election: Election) -> None:
    for node in election.nodes:
        assert "run paxos ok" in [node.line() for _ in range(2)], "a change may be told first"
    first = {next_master(node) for node in election.nodes}
    assert len(first) == 1
    (port,) = first
    for node in election.nodes:
        lines = [line for line in node.lines if line != "run paxos ok"]
        assert all(MASTER.fullmatch(line) or CHANGE.fullmatch(line) for line in lines)
        assert [int(found[2]) for line in lines if (found := CHANGE.fullmatch(line))] == [port]
        before = [found for line in lines if (found := MASTER.fullmatch(line)) and found[1] == "0"]
        assert all(found[3] == "0.0.0.0" for found in before)
        assert {int(found[2]) for found in before} <= {NO_VERSION, *range(100)}
    # The master dies, and comes back.
    victim = election.ports.index(port)
    election.nodes[victim].kill()
    others = [node for number, node in enumerate(election.nodes) if number != victim]
    second = {next_master(node, besides=port) for node in others}
    assert len(second) == 1
    back = election.start(victim, "--json")
    said = []
    while not said or said[-1]["event"] != "master" or not said[-1]["node"]:
        line = back.line()
        assert line is not None, back.errors()
        said.append(orjson.loads(line))
    assert said[-1]["port"] in second
    # Stopped for longer than its lease, another one is master; it knows as soon as it goes on.
    (port,) = second
    frozen = election.nodes[election.ports.index(port)]
    family = frozen.family()
    for process in family:
        os.kill(process.pid, signal.SIGSTOP)
    witness = next(node for node in others if node is not frozen)
    third = next_master(witness, besides=port)
    for process in family:
        os.kill(process.pid, signal.SIGCONT)
    assert next_master(frozen, besides=port) == third
