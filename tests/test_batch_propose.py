"""`batch_propose`: values of many callers that share a pack, over a worker that answers as it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from paxmux.engine.errors import Conflict, InvalidRequest, NodeStopped, Overloaded, Refused, Timeout
from paxmux.engine.options import LimitOptions, ProposalOptions
from paxmux.shards import post
from paxmux.shards.done import Done
from paxmux.shards.node import Node
from tests.event_loop import in_loop
from tests.node_fixtures import lone_options, running

Ports = Callable[[int], list[int]]

LONG_MS = 10_000


@pytest.fixture(autouse=True)
def _fake_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "WORKER_MODULE", "tests.fake_worker")


async def outcomes(node: Node, *values: bytes, group: int = 0, timeout_s: float = 30) -> list[object]:
    calls = [node.batch_propose(group, value, timeout_s=timeout_s) for value in values]
    return list(await asyncio.gather(*calls, return_exceptions=True))


@in_loop
async def test_what_comes_at_the_same_moment_shares_an_instance(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        assert await outcomes(node, b"a", b"b", b"c") == [
            Done(0, b"a", 0),
            Done(0, b"b", 1),
            Done(0, b"c", 2),
        ]
        assert await node.batch_propose(0, b"d") == Done(1, b"d", 0), "nothing waits without a delay"
        assert await outcomes(node, b"e", group=1) == [Done(0, b"e", 0)]
        assert node._admission.count == node._admission.bytes == 0


@in_loop
async def test_the_count_ends_a_batch(tmp_path: Path, free_ports: Ports) -> None:
    options = ProposalOptions(batch_count=2, batch_delay_ms=LONG_MS)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], proposals=options)) as node:
        assert await outcomes(node, b"a", b"b", b"c", b"d") == [
            Done(0, b"a", 0),
            Done(0, b"b", 1),
            Done(1, b"c", 0),
            Done(1, b"d", 1),
        ]
        node.set_batch_count(0, 1)
        assert await outcomes(node, b"e", b"f") == [Done(2, b"e", 0), Done(3, b"f", 0)]


@in_loop
async def test_the_bytes_end_a_batch(tmp_path: Path, free_ports: Ports) -> None:
    options = lone_options(
        tmp_path / "n",
        free_ports(1)[0],
        proposals=ProposalOptions(batch_delay_ms=LONG_MS),
        limits=LimitOptions(batch_max_bytes=1000),
    )
    async with running(options) as node:
        first, second = await outcomes(node, bytes(600), bytes(400))
        assert isinstance(first, Done)
        assert isinstance(second, Done)
        assert (first.instance_id, second.instance_id) == (0, 0)


@in_loop
async def test_the_delay_ends_a_batch(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        node.set_batch_delay(0, 50)
        first = asyncio.create_task(node.batch_propose(0, b"a", timeout_s=30))
        await asyncio.sleep(0.01)
        assert await outcomes(node, b"b") == [Done(0, b"b", 1)]
        assert await first == Done(0, b"a", 0)


@in_loop
async def test_only_the_same_machine_and_timeout_go_together(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        calls = [
            node.batch_propose(0, b"a", smid, timeout_s=timeout_s)
            for smid, timeout_s in ((1, 5), (2, 5), (2, 6))
        ]
        assert [done.instance_id for done in await asyncio.gather(*calls)] == [0, 1, 2]


@in_loop
async def test_each_has_its_own_outcome_and_all_share_a_failure(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        first, refused, last = await outcomes(node, b"a", b"refused", b"b")
        assert (first, last) == (Done(0, b"a", 0), Done(0, b"b", 2))
        assert isinstance(refused, Refused)
        for fate, error in ((b"code:14", Conflict), (b"silent", Timeout)):
            failed = await outcomes(node, fate, b"a", timeout_s=0.1)
            assert [type(each) for each in failed] == [error, error]
            assert failed[0] is not failed[1], "a traceback belongs to one caller"


@in_loop
async def test_a_caller_that_leaves_does_not_take_the_others_along(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        node.set_batch_delay(0, 50)
        calls = [asyncio.create_task(node.batch_propose(0, value)) for value in (b"a", b"b")]
        await asyncio.sleep(0)
        calls[0].cancel()
        assert await calls[1] == Done(0, b"b", 1)
        with pytest.raises(asyncio.CancelledError):
            await calls[0]


@in_loop
async def test_what_waits_holds_slots(tmp_path: Path, free_ports: Ports) -> None:
    limits = LimitOptions(max_pending=2)
    options = lone_options(tmp_path / "n", free_ports(1)[0], limits=limits)
    async with running(options) as node:
        node.set_batch_delay(0, 100)
        first, second, third = await outcomes(node, b"a", b"b", b"c")
        assert (first, second) == (Done(0, b"a", 0), Done(0, b"b", 1))
        assert isinstance(third, Overloaded)


@in_loop
async def test_a_batch_that_meets_a_closed_door_was_not_proposed(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        node.set_batch_delay(0, LONG_MS)
        calls = [asyncio.create_task(node.batch_propose(0, value)) for value in (b"a", b"b")]
        await asyncio.sleep(0)
        node._admission.close_worker(0, "closed by the test")
        assert node._batcher is not None
        node._batcher.flush()
        for call in calls:
            with pytest.raises(Overloaded, match="closed by the test"):
                await call
        assert node._admission.count == node._admission.bytes == 0
        node._admission.open_worker(0)
        assert await node.now_instance_id(0) == 0


@pytest.mark.plain("it puts a method of its own into the admission")
def test_the_hint_of_a_refusal_reaches_each_caller(
    tmp_path: Path, free_ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Overloaded("later", retry_after_s=0.5)

    @in_loop
    async def scenario() -> None:
        async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
            node.set_batch_delay(0, LONG_MS)
            calls = [asyncio.create_task(node.batch_propose(0, value)) for value in (b"a", b"b")]
            await asyncio.sleep(0)
            assert node._batcher is not None
            with monkeypatch.context() as patched:
                patched.setattr(node._admission, "enter", refuse)
                node._batcher.flush()
            for call in calls:
                with pytest.raises(Overloaded, match="later") as caught:
                    await call
                assert caught.value.retry_after_s == 0.5

    scenario()


@in_loop
async def test_a_stop_proposes_what_waits(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        node.set_batch_delay(0, LONG_MS)
        call = asyncio.create_task(node.batch_propose(0, b"last"))
        await asyncio.sleep(0)
        await node.stop(5)
        assert await call == Done(0, b"last", 0)
        with pytest.raises(NodeStopped):
            await node.batch_propose(0, b"later")


@in_loop
async def test_wrong_calls_are_refused(tmp_path: Path, free_ports: Ports) -> None:
    options = lone_options(tmp_path / "n", free_ports(1)[0])
    with pytest.raises(NodeStopped):
        await Node(options).batch_propose(0, b"too early")
    async with running(options) as node:
        for wrong in (("text",), (b"x", -1), (b"x", 0, "text")):
            with pytest.raises(InvalidRequest):
                await node.batch_propose(0, *wrong)  # type: ignore[arg-type]
        for count in (0, 65_537, 1.5):
            with pytest.raises(InvalidRequest, match=r"1 \.\. 65536"):
                node.set_batch_count(0, count)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=r"0 \.\. 10000"):
            node.set_batch_delay(0, -1)
        with pytest.raises(InvalidRequest):
            node.set_batch_delay(99, 1)
