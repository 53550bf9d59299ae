"""Masters as a server sees them: what the lease board says, and what must end when a lease does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import Code, InvalidRequest, LeadershipLost, NotMaster, Timeout
from paxmux.engine.fence import FENCED, fenced
from paxmux.engine.options import MasterOptions
from paxmux.engine.pack import PACK
from paxmux.shards import post
from paxmux.shards.blocking import BlockingNode
from paxmux.shards.lease_board import NOBODY, LeaseBoard
from paxmux.shards.node import Node
from paxmux.shards.outcomes import error_of
from tests.event_loop import DEADLINE_S, in_loop, until
from tests.node_fixtures import lone_options, running

Ports = Callable[[int], list[int]]
OTHER = 77
LONG_MS = 3_600_000


@pytest.fixture(autouse=True)
def _fake_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "WORKER_MODULE", "tests.fake_worker")


@pytest.fixture
def started(tmp_path: Path, free_ports: Ports) -> Callable[..., Any]:
    @asynccontextmanager
    async def start(**more: Any) -> AsyncIterator[Node]:
        more.setdefault("master", MasterOptions(groups="all"))
        async with running(lone_options(tmp_path / "n", free_ports(1)[0], workers=2, **more)) as node:
            yield node

    return start


async def reign(
    node: Node, group: int, master: int, version: int, term: int, lease_ms: int = LONG_MS
) -> None:
    """Have the group's worker write that on the board."""
    await node.propose(group, b"master:%d,%d,%d,%d" % (master, version, term, lease_ms))


@in_loop
async def test_who_is_master_is_read_from_the_board(started: Any) -> None:
    async with started() as node:
        me = node.my_node_id()
        assert (node.master(0), node.master_with_version(0), node.term(0)) == (0, (0, -1), None)
        await reign(node, 0, me, version=9, term=7)
        await reign(node, 1, OTHER, version=5, term=5)
        assert node.master_with_version(0) == (me, 9)
        assert node.is_master(0)
        assert node.term(0) == 7
        assert node.master_with_version(1) == (OTHER, 5)
        assert not node.is_master(1)
        assert node.term(1) is None, "another node's term is nobody's business here"
        with pytest.raises(InvalidRequest, match="expected a group"):
            node.master(4)
    assert (node.master(0), node.is_master(0), node.term(0)) == (0, False, None), "the node has stopped"


@in_loop
async def test_a_lease_ends_without_anybody_saying_so(started: Any) -> None:
    async with started() as node:
        await reign(node, 0, node.my_node_id(), version=9, term=7, lease_ms=100)
        await until(lambda: not node.is_master(0))
        assert node.master_with_version(0) == (0, 9), "the version stays, whoever is master"


@in_loop
async def test_what_a_dead_worker_was_master_of_is_nobodys_at_once(started: Any) -> None:
    async with started() as node:
        me = node.my_node_id()
        await reign(node, 0, me, version=9, term=7)
        await reign(node, 1, me, version=9, term=7)
        os.kill((await node.status())["workers"][0]["pid"], signal.SIGKILL)
        await until(lambda: not node.is_master(0))
        assert node.is_master(1), "of another worker"


@in_loop
async def test_callbacks_hear_of_other_masters_and_of_nothing_else(
    started: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with started() as node:
        me = node.my_node_id()
        await reign(node, 1, OTHER, version=1, term=1)
        heard: list[tuple[int, int, int]] = []
        asked: list[tuple[int, int]] = []

        def broken(group: int, master: int, version: int) -> None:
            raise ValueError("as asked")

        node.on_master_change(broken)
        # It may call the node: the reference would wait for its own lock for ever.
        node.on_master_change(lambda group, *_: asked.append(node.master_with_version(group)))
        off = node.on_master_change(lambda *change: heard.append(change))
        await reign(node, 0, me, version=2, term=2)
        await until(lambda: heard == [(0, me, 2)])
        await reign(node, 0, me, version=3, term=2)
        await reign(node, 0, me, version=5, term=5)
        await reign(node, 0, OTHER, version=6, term=6, lease_ms=50)
        await until(lambda: heard == [(0, me, 2), (0, OTHER, 6)])
        await until(lambda: node.master(0) == 0)
        await reign(node, 0, OTHER, version=7, term=7)
        await reign(node, 2, OTHER, version=8, term=8)
        await until(lambda: heard == [(0, me, 2), (0, OTHER, 6), (2, OTHER, 8)])
        off()
        off()
        await reign(node, 3, OTHER, version=8, term=8)
        await until(lambda: (OTHER, 8) in asked[3:])
        assert len(heard) == 3
    assert "a callback failed that was told of the master of group 0" in caplog.text


@in_loop
async def test_a_callback_from_before_the_start_hears_of_who_is_found(
    tmp_path: Path, free_ports: Ports
) -> None:
    node = Node(lone_options(tmp_path / "n", free_ports(1)[0]))
    heard: list[tuple[int, int, int]] = []
    node.on_master_change(lambda *change: heard.append(change))
    async with node:
        await reign(node, 0, OTHER, version=4, term=4)
        await until(lambda: heard == [(0, OTHER, 4)])


@in_loop
async def test_leadership_begins_with_the_lease_and_ends_the_body_with_it(started: Any) -> None:
    async with started() as node:
        me = node.my_node_id()
        entered: list[int] = []
        ended: list[str] = []

        async def lead() -> None:
            async with node.leadership(0) as term:
                entered.append(term)
                try:
                    await asyncio.sleep(DEADLINE_S)
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise

        leading = asyncio.create_task(lead())
        await reign(node, 0, OTHER, version=1, term=1)
        await asyncio.sleep(0.05)
        assert entered == []
        await reign(node, 0, me, version=3, term=3, lease_ms=300)
        await until(lambda: entered == [3])
        await reign(node, 0, me, version=4, term=3, lease_ms=300)
        with pytest.raises(LeadershipLost, match="no longer the master of group 0 in term 3"):
            await leading
        assert ended == ["cancelled"]
        assert not node.is_master(0), "not before the lease was over"
        assert leading.cancelling() == 0


@in_loop
async def test_a_new_reign_of_the_same_node_is_another_one(started: Any) -> None:
    """In between somebody else may have been master."""
    async with started() as node:
        await reign(node, 0, node.my_node_id(), version=3, term=3)
        terms = []

        async def lead() -> None:
            async with node.leadership(0, timeout_s=DEADLINE_S) as term:
                terms.append(term)
                await reign(node, 0, node.my_node_id(), version=9, term=9)
                await asyncio.sleep(DEADLINE_S)

        with pytest.raises(LeadershipLost):
            await lead()
        assert terms == [3]
        assert node.term(0) == 9


@in_loop
async def test_a_loop_that_was_blocked_beyond_the_lease_does_not_hide_it(started: Any) -> None:
    async with started() as node:
        await reign(node, 0, node.my_node_id(), version=3, term=3, lease_ms=500)
        done = []

        async def lead() -> None:
            async with node.leadership(0, timeout_s=DEADLINE_S):
                while node.is_master(0):
                    time.sleep(0.01)
                done.append("without an await")

        with pytest.raises(LeadershipLost):
            await lead()
        assert done


@in_loop
async def test_a_body_that_ends_in_time_ends_well(started: Any) -> None:
    async with started() as node:
        await reign(node, 0, node.my_node_id(), version=3, term=3)
        async with node.leadership(0) as term:
            assert term == 3
        with pytest.raises(ZeroDivisionError):
            async with node.leadership(0):
                raise ZeroDivisionError
        leadership = node.leadership(0)
        async with leadership:
            with pytest.raises(RuntimeError, match="entered once"):
                await leadership.__aenter__()
        await asyncio.sleep(0.1)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


@in_loop
async def test_whoever_cancels_the_body_cancels_it(started: Any) -> None:
    async with started() as node:
        await reign(node, 0, node.my_node_id(), version=3, term=3)
        inside = asyncio.Event()

        async def lead() -> None:
            async with node.leadership(0):
                inside.set()
                await asyncio.sleep(DEADLINE_S)

        leading = asyncio.create_task(lead())
        await inside.wait()
        leading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leading
        assert leading.cancelled()


@in_loop
async def test_who_does_not_become_master_in_time_is_told_who_is(started: Any) -> None:
    async with started() as node:
        await reign(node, 0, OTHER, version=3, term=3)
        with pytest.raises(NotMaster, match="did not become the master of group 0") as caught:
            async with node.leadership(0, timeout_s=0.05):
                raise AssertionError("it is not the master")
        assert (caught.value.master, caught.value.version, caught.value.address) == (OTHER, 3, None)
        assert caught.value.code == Code.NOT_MASTER
        assert not isinstance(caught.value, LeadershipLost)


@in_loop
async def test_a_group_that_the_node_does_not_want_has_no_leadership_here(started: Any) -> None:
    async with started(master=MasterOptions(groups="1-2")) as node:
        with pytest.raises(InvalidRequest, match=r"master\.groups"):
            async with node.leadership(0):
                raise AssertionError("it is not the master")


@in_loop
async def test_a_read_at_the_master_is_refused_elsewhere_with_its_address(started: Any) -> None:
    async with started() as node:
        me = node.my_node_id()
        await reign(node, 0, me, version=3, term=3)
        assert await node.query(0, b"abc", consistency="master") == b"cba"
        await reign(node, 0, OTHER, version=9, term=9)
        with pytest.raises(NotMaster) as caught:
            await node.query(0, b"abc", consistency="master")
        assert (caught.value.master, caught.value.version) == (OTHER, 9)
        assert caught.value.retryable
        assert (await node.query(0, b"abc", consistency="local")) == b"cba"
        known = node._masters.error_of((1, Code.NOT_MASTER, me, 5, b"words"))
        assert isinstance(known, NotMaster)
        assert known.address == f"127.0.0.1:{me & 0xFFFF}"


def test_a_refusal_without_a_master_says_so() -> None:
    error = error_of((1, Code.NOT_MASTER, 0, 0, b"nobody"))
    assert isinstance(error, NotMaster)
    assert (error.master, error.version, error.address) == (0, -1, None)


@in_loop
async def test_a_term_travels_in_front_of_the_value(started: Any) -> None:
    async with started() as node:
        await node.propose(0, b"value", smid=3, term=5)
        assert await node.instance_value(0, 0) == [(fenced(5, b"value"), 3 | FENCED)]
        await node.propose_many(0, [b"a", b"b"], smid=3, term=5)
        for wrong in (-1, 1 << 63, True, "5"):
            with pytest.raises(InvalidRequest, match="expected a term"):
                await node.propose(0, b"value", term=wrong)
        assert PACK > FENCED


@in_loop
async def test_a_lease_that_is_given_back_ends_here_first(started: Any) -> None:
    async with started() as node:
        me = node.my_node_id()
        await reign(node, 0, me, version=3, term=3)
        await node.drop_master(0)
        assert node.master_with_version(0) == (0, 4)
        with pytest.raises(NotMaster):
            await node.drop_master(0)
        with pytest.raises(InvalidRequest, match="another member"):
            await node.transfer_master(0, OTHER)
        with pytest.raises(InvalidRequest, match="another member"):
            await node.transfer_master(0, me)


@in_loop
async def test_a_lease_can_be_set_within_bounds(started: Any) -> None:
    async with started() as node:
        await node.set_master_lease(1, 1000)
        assert node._masters.leases_ms == {1: 1000}
        for wrong in (999, LONG_MS + 1, 1000.0, True):
            with pytest.raises(InvalidRequest, match="expected 1000"):
                await node.set_master_lease(1, wrong)


@in_loop
async def test_a_node_that_stops_gives_its_leases_back(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    close = LeaseBoard.close

    def closed(board: LeaseBoard) -> None:
        seen.append([board.read(group).version for group in range(4)])
        close(board)

    monkeypatch.setattr(LeaseBoard, "close", closed)
    options = lone_options(tmp_path / "n", free_ports(1)[0], workers=2, master=MasterOptions(groups="all"))
    node = Node(options)
    await node.start()
    for group in range(4):
        await reign(node, group, node.my_node_id() if group else OTHER, version=3, term=3)
    await node.stop()
    assert seen == [[3, 4, 4, 4]], "all that were its own"


@in_loop
async def test_a_node_that_cannot_give_its_lease_back_stops_all_the_same(started: Any) -> None:
    async with started() as node:
        await reign(node, 0, node.my_node_id(), version=3, term=3)
        hung = asyncio.create_task(node.propose(0, b"hang", timeout_s=None))
        await asyncio.sleep(0)
        assert node._masters.held(0) != NOBODY
        await node.stop(0.2)
        with pytest.raises(Timeout):
            await hung


def test_the_blocking_facade_has_all_of_it(tmp_path: Path, free_ports: Ports) -> None:
    options = lone_options(tmp_path / "n", free_ports(1)[0], master=MasterOptions(groups="all"))
    with BlockingNode(options) as node:
        me = node.my_node_id()
        heard: list[tuple[int, int, int]] = []
        off = node.on_master_change(lambda *change: heard.append(change))
        node.propose(0, b"master:%d,3,2,%d" % (me, LONG_MS), term=None)
        assert (node.master(0), node.master_with_version(0)) == (me, (me, 3))
        assert node.is_master(0)
        assert node.term(0) == 2
        deadline = time.monotonic() + DEADLINE_S
        while heard != [(0, me, 3)]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        node.propose(1, b"x", term=2)
        assert node.query(0, b"ab", consistency="master") == b"ba"
        with node.leadership(0, timeout_s=DEADLINE_S) as term:
            assert term == 2
        with pytest.raises(LeadershipLost), node.leadership(0):
            node.drop_master(0)
        with pytest.raises(NotMaster), node.leadership(0, timeout_s=0.05):
            raise AssertionError("it is not the master")
        node.set_master_lease(0, 2000)
        with pytest.raises(InvalidRequest):
            node.transfer_master(0, me)
        off()
    assert node.master(0) == 0
