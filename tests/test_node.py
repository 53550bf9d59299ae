"""The node's calls over a worker that answers at once: outcomes, refusals, timeouts, accounting."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from paxmux.engine.errors import (
    Code,
    ConfigError,
    Conflict,
    DataDirError,
    ExecuteFailed,
    GroupWrong,
    InstanceNotChosen,
    InvalidRequest,
    NodeStopped,
    Overloaded,
    PaxmuxError,
    QueryFailed,
    Refused,
    StorageFailed,
    Timeout,
    UnknownStateMachine,
    ValueTooLarge,
)
from paxmux.engine.options import LimitOptions
from paxmux.shards import post
from paxmux.shards.done import Done
from paxmux.shards.node import Node
from tests.event_loop import in_loop, until
from tests.node_fixtures import check_traces, lone_options, running, traces

Ports = Callable[[int], list[int]]


@pytest.fixture(autouse=True)
def _fake_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post, "WORKER_MODULE", "tests.fake_worker")


@in_loop
async def test_a_proposal_comes_back_with_its_result(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], workers=2)) as node:
        assert await node.propose(0, b"one") == Done(0, b"one", 0)
        assert await node.propose(0, b"two", smid=3, context=b"ctx") == Done(1, b"two|ctx", 0)
        assert await node.propose(1, b"") == Done(0, b"", 0)
        assert await node.now_instance_id(0) == 2
        assert await node.instance_value(0, 1) == [(b"two", 3)]
        assert await node.query(3, b"abc") == b"cba"
        options = lone_options(tmp_path, 1)
        assert node.my_node_id() != 0
        assert options.groups == 4


@in_loop
async def test_a_submitted_request_is_a_future_of_its_reply(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], workers=2)) as node:
        futures = [node.submit(group, b"v", 3, b"ctx", 5) for group in (0, 0, 1)]
        replies = [(await future)[1:] for future in futures]
        # What comes in one turn shares an instance, as with `propose`.
        assert [(code, result) for code, _, _, result in replies] == [(0, b"v|ctx")] * 3
        assert (await node.submit_query(3, b"abc", 1, "local", 5))[4] == b"cba"
        assert (await node.submit(0, b"code:14", 0, None, 5))[1] == Code.CONFLICT, "an error is a reply, too"
        assert (await node.submit(0, b"silent", 0, None, 0.05))[1] == Code.TIMEOUT
        with pytest.raises(GroupWrong):
            node.submit(99, b"", 0, None, 5)
        with pytest.raises(GroupWrong):
            node.submit_query(99, b"", 1, "local", 5)
        with pytest.raises(InvalidRequest, match="consistency"):
            node.submit_query(0, b"", 1, "soon", 5)
        with pytest.raises(InvalidRequest, match="state machine id"):
            node.submit_query(0, b"", 0, "local", 5)
        held = (await node.status())["pending"]["admitted"]
    with pytest.raises(NodeStopped):
        node.submit(0, b"", 0, None, 5)
    with pytest.raises(NodeStopped):
        node.submit_query(0, b"", 1, "local", 5)
    assert held >= 5


@in_loop
async def test_many_callers_each_get_their_own(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], workers=2)) as node:

        async def caller(name: int) -> list[bytes | None]:
            return [(await node.propose(name % 4, b"%d-%d" % (name, turn))).result for turn in range(20)]

        answers = await asyncio.gather(*(caller(name) for name in range(50)))
        assert answers == [[b"%d-%d" % (name, turn) for turn in range(20)] for name in range(50)]
        status = await node.status()
        assert status["pending"]["admitted"] >= 1000
        assert status["pending"]["count"] == 0
        assert status["pending"]["bytes"] == 0


@in_loop
async def test_values_larger_than_a_ring_pass_in_order(tmp_path: Path, free_ports: Ports) -> None:
    limits = LimitOptions(ring_bytes=65536, max_value_bytes=3_000_000)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], limits=limits)) as node:
        values = [bytes([number]) * size for number, size in enumerate((3_000_000, 10, 400_000, 65_536, 1))]
        outcomes = await node.propose_many(0, values, timeout_s=30)
        assert [outcome.result for outcome in outcomes if isinstance(outcome, Done)] == values
        places = [(each.instance_id, each.batch_index) for each in outcomes if isinstance(each, Done)]
        assert places == [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)], "halves, until a pack is small enough"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.CONFLICT, Conflict),
        (Code.EXECUTE_FAILED, ExecuteFailed),
        (Code.TIMEOUT, Timeout),
        (Code.OVERLOADED, Overloaded),
        (Code.REFUSED, Refused),
        (Code.UNKNOWN_STATE_MACHINE, UnknownStateMachine),
        (Code.STORAGE_FAILED, StorageFailed),
        (777, PaxmuxError),
    ],
)
def test_a_code_becomes_its_error(tmp_path: Path, free_ports: Ports, code: int, error: type) -> None:
    @in_loop
    async def scenario() -> None:
        async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
            with pytest.raises(error, match="as asked") as caught:
                await node.propose(0, b"code:%d" % code)
            assert type(caught.value) is error

    scenario()


@in_loop
async def test_a_wrong_call_is_refused_before_anything_is_noted(tmp_path: Path, free_ports: Ports) -> None:
    limits = LimitOptions(max_value_bytes=100)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], limits=limits)) as node:
        for group in (-1, 4, "0", None, True):
            with pytest.raises(GroupWrong, match=r"expected a group of 0 \.\. 3"):
                await node.propose(group, b"x")
            with pytest.raises(GroupWrong):
                await node.now_instance_id(group)
        with pytest.raises(InvalidRequest, match="expected bytes, got str"):
            await node.propose(0, "text")
        with pytest.raises(InvalidRequest, match="as context"):
            await node.propose(0, b"x", context="text")
        with pytest.raises(InvalidRequest, match="state machine id"):
            await node.propose(0, b"x", smid=100_000_000)
        with pytest.raises(InvalidRequest, match="state machine id of 1"):
            await node.query(0, b"x", smid=0)
        with pytest.raises(ValueTooLarge, match="101 bytes, at most 100"):
            await node.propose(0, b"x" * 101)
        with pytest.raises(ValueTooLarge, match="101 bytes of context"):
            await node.propose(0, b"x" * 100, context=b"x" * 101)
        for timeout_s in (0, -1, float("nan")):
            with pytest.raises(InvalidRequest, match="timeout"):
                await node.propose(0, b"x", timeout_s=timeout_s)
        with pytest.raises(InvalidRequest, match="'local', 'master', 'linearizable', got 'strict'"):
            await node.query(0, b"x", consistency="strict")
        with pytest.raises(InvalidRequest, match="instance id"):
            await node.instance_value(0, -1)
        with pytest.raises(InvalidRequest, match="context for each"):
            await node.propose_many(0, [b"x"], contexts=[])
        assert (await node.status())["pending"]["admitted"] == 1, "the status alone was admitted"
        assert await node.propose(0, b"x" * 100, context=b"x" * 100, timeout_s=float("inf"))


@in_loop
async def test_a_deadline_raises_404_and_holds_its_slot(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        with pytest.raises(Timeout) as caught:
            await node.propose(0, b"late:1500", timeout_s=0.05)
        assert caught.value.code == 404
        admission, pending = node._admission, node._assembly.pending
        assert (admission.count, pending.owed, admission.bytes) == (1, 1, len(b"late:1500"))
        await until(lambda: admission.count == 0)
        status = (await node.status())["pending"]
        assert (status["count"], status["owed"], status["timeouts"], status["unmatched"]) == (0, 0, 1, 0)


@in_loop
async def test_cancelling_the_call_cancels_only_the_waiting(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        call = asyncio.create_task(node.propose(0, b"cancelled"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await node.propose(0, b"next")).instance_id == 1
        assert await node.instance_value(0, 0) == [(b"cancelled", 0)]
        assert (await node.status())["pending"]["count"] == 0


@in_loop
async def test_the_door_is_closed_at_each_bound(tmp_path: Path, free_ports: Ports) -> None:
    limits = LimitOptions(max_pending=4, max_pending_bytes=1000, max_value_bytes=900, batch_max_bytes=64)
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], limits=limits)) as node:
        waiting = [asyncio.create_task(node.propose(0, b"silent", timeout_s=None)) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded, match="max_pending_bytes"):
            await node.propose(0, b"x" * 900 + b"y" * 0, context=b"c" * 200)
        with pytest.raises(Overloaded, match=r"max_pending\)"):
            await node.propose_many(0, [b"a" * 40, b"b" * 40])
        with pytest.raises(InvalidRequest, match="at most 4 packs of 64 bytes"):
            await node.propose_many(0, [b"a" * 40] * 5)
        assert (await node.propose(0, b"one more fits")).instance_id == 0
        waiting.append(asyncio.create_task(node.propose(0, b"silent", timeout_s=None)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await node.propose(0, b"x")
        assert caught.value.code == 405
        assert caught.value.retryable
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(Overloaded):
            await node.propose(0, b"cancelled callers keep their slots")


@in_loop
async def test_a_ring_that_stays_full_closes_the_door_until_it_drains(
    tmp_path: Path, free_ports: Ports
) -> None:
    limits = LimitOptions(
        ring_bytes=65536, ring_backlog_bytes=100_000, max_value_bytes=60_000, batch_max_bytes=60_000
    )
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], limits=limits)) as node:
        (pid,) = [entry["pid"] for entry in (await node.status())["workers"]]
        os.kill(pid, signal.SIGSTOP)
        calls = [asyncio.create_task(node.propose(0, b"x" * 50_000, timeout_s=30)) for _ in range(5)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded, match="backlog"):
            await node.propose(0, b"x")
        os.kill(pid, signal.SIGCONT)
        assert [done.instance_id for done in await asyncio.gather(*calls)] == [0, 1, 2, 3, 4]
        assert (await node.propose(0, b"open again")).instance_id == 5
        assert (await node.status())["pending"]["refused"]["ring"] == 1


@in_loop
async def test_many_values_keep_their_order_and_have_their_own_outcomes(
    tmp_path: Path, free_ports: Ports
) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        assert list(await node.propose_many(0, [])) == []
        outcomes = await node.propose_many(0, [b"a", b"refused", b"b"])
        assert (len(outcomes), outcomes.failed) == (3, 1)
        assert outcomes[0] == Done(0, b"a", 0)
        assert outcomes[-1] == Done(0, b"b", 2)
        assert isinstance(outcomes[1], Refused)
        with pytest.raises(Refused, match="as asked"):
            outcomes.raise_first()
        for fate, error in ((b"silent", Timeout), (b"code:14", Conflict)):
            outcomes = await node.propose_many(0, [fate, b"a"], timeout_s=0.3)
            assert outcomes.failed == 2
            assert [type(each) for each in outcomes[:]] == [error, error], "a pack has one fate"
        with pytest.raises(IndexError):
            outcomes[2]


@in_loop
async def test_queries_and_instances_have_their_errors(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        with pytest.raises(QueryFailed, match="as asked"):
            await node.query(0, b"fail")
        with pytest.raises(Timeout):
            await node.query(0, b"silent", timeout_s=0.05)
        with pytest.raises(InstanceNotChosen):
            await node.instance_value(0, 7)


@in_loop
async def test_a_reply_given_twice_is_counted_and_harms_nothing(tmp_path: Path, free_ports: Ports) -> None:
    async with running(lone_options(tmp_path / "n", free_ports(1)[0])) as node:
        assert (await node.propose(0, b"twice")).result == b"twice"
        assert (await node.propose(0, b"x")).result == b"x"
        assert (await node.status())["pending"]["unmatched"] == 1


@in_loop
async def test_the_status_has_every_part(tmp_path: Path, free_ports: Ports) -> None:
    """Weakness B17 of the reference."""
    async with running(lone_options(tmp_path / "n", free_ports(1)[0], workers=2)) as node:
        await node.propose(2, b"x")
        status = await node.status()
        assert [row["group"] for row in status["groups"]] == [0, 1, 2, 3]
        assert [row["instance"] for row in status["groups"]] == [0, 0, 1, 0]
        assert status["groups_unknown_of_workers"] == []
        assert [entry["state"] for entry in status["workers"]] == ["serving", "serving"]
        assert [entry["generation"] for entry in status["workers"]] == [1, 1]
        assert all(entry["counters"]["heartbeat_ns"] for entry in status["workers"])
        assert status["rings"]["client"]["0"]["to_worker"]["messages"] >= 2
        assert status["layout"]["workers"][1]["groups"] == (1, 3)
        assert status["router"]["mode"] == "inline"
        assert status["node"]["node_id"] == node.my_node_id()
        assert status["loop"]["lag_max_ms"] >= 0


@in_loop
async def test_before_the_start_and_after_the_stop_calls_are_refused(
    tmp_path: Path, free_ports: Ports
) -> None:
    node = Node(lone_options(tmp_path / "n", free_ports(1)[0]))
    with pytest.raises(NodeStopped, match="not started"):
        await node.propose(0, b"x")
    with pytest.raises(NodeStopped):
        await node.status()
    await node.stop()
    await node.start(30)
    with pytest.raises(RuntimeError, match="starts once"):
        await node.start()
    await node.stop()
    await node.stop()
    with pytest.raises(NodeStopped, match="stopp"):
        await node.propose(0, b"x")
    with pytest.raises(NodeStopped):
        await node.status()


@in_loop
async def test_wrong_options_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="groups"):
        Node(lone_options(tmp_path / "n", 7000, groups=0))


@in_loop
async def test_a_data_directory_in_use_and_a_taken_port_end_the_start_cleanly(
    tmp_path: Path, free_ports: Ports
) -> None:
    one, two = free_ports(2)
    async with running(lone_options(tmp_path / "n", one)):
        before = traces()
        with pytest.raises(DataDirError, match="in use"):
            await Node(lone_options(tmp_path / "n", two)).start()
        with pytest.raises(OSError, match=str(one)):
            await Node(lone_options(tmp_path / "m", one)).start()
        await asyncio.sleep(0)
        check_traces(before)


@in_loop
async def test_a_start_without_the_other_members_gives_up_and_names_them(
    tmp_path: Path, free_ports: Ports
) -> None:
    mine, other = free_ports(2)
    before = traces()
    options = lone_options(tmp_path / "n", mine)
    addresses = [f"127.0.0.1:{mine}", f"127.0.0.1:{other}", "127.0.0.1:1"]
    node = Node(msgspec.structs.replace(options, members=addresses))
    with pytest.raises(PaxmuxError, match="waits for the founding"):
        await node.start(0.3)
    with pytest.raises(NodeStopped):
        await node.propose(0, b"x")
    check_traces(before)


@in_loop
async def test_stop_while_starting_ends_the_start(tmp_path: Path, free_ports: Ports) -> None:
    mine, other = free_ports(2)
    before = traces()
    addresses = [f"127.0.0.1:{mine}", f"127.0.0.1:{other}"]
    node = Node(msgspec.structs.replace(lone_options(tmp_path / "n", mine), members=addresses))
    start = asyncio.create_task(node.start())
    await asyncio.sleep(0.1)
    await node.stop()
    with pytest.raises(NodeStopped, match="before it had started"):
        await start
    check_traces(before)
