"""Open loads over gates made for it: what counts as what, and that a stall hides nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

import msgspec
import pytest

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.tools.arrivals import Arrivals
from paxmux.tools.load_gate import Answer, GateSpec, Request
from paxmux.tools.open_load import OpenLoad, OpenResult, OpenSpec
from paxmux.tools.time_series import Row, latencies_of
from tests.event_loop import DEADLINE_S, in_loop

SECOND_NS = 1_000_000_000


def spec_of(**changed: Any) -> OpenSpec:
    timeout_s = changed.pop("timeout_s", 10.0)
    wanted: dict[str, Any] = {
        "groups": [0, 1],
        "weights": [0.5, 0.5],
        "from_per_s": 2000.0,
        "to_per_s": 2000.0,
        "seconds": 0.3,
        "warmup_s": 0.1,
        "interval_s": 0.1,
        "size": 24,
        "read_share": 0.0,
        "gate": GateSpec(smid=2, timeout_s=timeout_s, consistency="local"),
        "under_way_max": 50_000,
        "seed": "1",
        "number": 3,
    }
    return OpenSpec(**{**wanted, **changed})


def dues_of(spec: OpenSpec) -> list[int]:
    stream = Arrivals(
        from_per_s=spec.from_per_s,
        to_per_s=spec.to_per_s,
        warmup_s=spec.warmup_s,
        seconds=spec.seconds,
        groups=spec.groups,
        weights=spec.weights,
        read_share=spec.read_share,
        seed=spec.seed,
    )
    return [due for due, _, _ in stream.take(10**15, 10**9)]


class FakeGate:
    """Does with each batch what a test wants."""

    def __init__(self, do: Callable[[list[Request]], None]) -> None:
        self.requests: list[Request] = []
        self._do = do

    def send(self, requests: list[Request]) -> None:
        self.requests += requests
        self._do(requests)


async def run(
    spec: OpenSpec, do: Callable[[OpenLoad, list[Request]], None]
) -> tuple[OpenLoad, FakeGate, OpenResult]:
    load = OpenLoad(spec)
    gate = FakeGate(lambda requests: do(load, requests))
    result = await asyncio.wait_for(load.run(gate, monotonic_ns()), DEADLINE_S)
    # It travels as this.
    assert msgspec.convert(msgspec.to_builtins(result), OpenResult) == result
    return load, gate, result


def coded(requests: list[Request], code: int = 0) -> list[Answer]:
    return [(request[0], code) for request in requests]


def total(rows: list[Row], name: str) -> int:
    return sum(getattr(row, name) for row in rows)


@in_loop
async def test_every_request_is_sent_and_counted_where_it_was_due() -> None:
    spec = spec_of(read_share=0.25)
    load, gate, result = await run(spec, lambda load, requests: load.answered(coded(requests)))
    dues = dues_of(spec)
    assert len(gate.requests) == len({request[0] for request in gate.requests}) == len(dues)
    reads = [request for request in gate.requests if request[2] is None]
    values = [request[2] for request in gate.requests if request[2] is not None]
    assert len(set(values)) == len(values)
    assert {len(value) for value in values} == {24}
    rows = {row.index: row for row in result.rows if row.offered}
    assert list(rows) == [-1, 0, 1, 2]
    for index, row in rows.items():
        start = (index + 1) * 100_000_000
        assert row.offered == row.answered == sum(start <= due < start + 100_000_000 for due in dues)
        assert sum(counts[0] for counts in row.groups.values()) == row.offered
        assert all(offered == answered and not refused for offered, answered, refused in row.groups.values())
    assert total(result.rows, "completed") == load.progress()["values"] == len(dues)
    assert total(result.rows, "completed_values") == len(dues) - len(reads)
    assert latencies_of(result.rows, "read_latencies").count == len(reads) > 0
    assert latencies_of(result.rows, "latencies").count == len(values)
    assert result.unmatched == 0
    assert all(not row.errors for row in result.rows)


@in_loop
async def test_a_stall_of_the_whole_process_shows_in_every_request_that_was_due_in_it() -> None:
    """Coordinated omission: measured from when they were sent, all of these would look quick."""
    spec = spec_of(seconds=1.0, warmup_s=0.0, from_per_s=1000.0, to_per_s=1000.0)
    stalls: list[tuple[int, int]] = []

    def answer(load: OpenLoad, requests: list[Request]) -> None:
        if not stalls and requests[-1][0] > 200:
            begin = monotonic_ns()
            time.sleep(0.4)
            stalls.append((begin, monotonic_ns()))
        load.answered(coded(requests))

    load = OpenLoad(spec)
    start_ns = monotonic_ns()
    gate = FakeGate(lambda requests: answer(load, requests))
    result = await asyncio.wait_for(load.run(gate, start_ns), DEADLINE_S)
    ((begin, end),) = stalls
    dues = dues_of(spec)
    waited = [end - start_ns - due for due in dues if begin - start_ns <= due <= end - start_ns]
    assert len(waited) > 100, "they were due while nothing could be sent"
    assert total(result.rows, "answered") == len(dues)
    for least_ms in (50, 100, 200, 300):
        slow = sum(
            count for upper, count in latencies_of(result.rows, "latencies").bars() if upper >= least_ms * 1e6
        )
        assert slow >= sum(each >= least_ms * 1e6 for each in waited) > 0
    assert result.late["max_ns"] >= 300_000_000


@in_loop
async def test_answers_that_wait_count_from_when_the_request_was_due() -> None:
    spec = spec_of(seconds=0.2, warmup_s=0.0)
    held: list[Request] = []
    load = OpenLoad(spec)
    start_ns = monotonic_ns()
    running = asyncio.create_task(load.run(FakeGate(held.extend), start_ns))
    dues = dues_of(spec)
    while len(held) < len(dues):
        await asyncio.sleep(0.01)
    load.answered(coded(held))
    given = monotonic_ns()
    result = await asyncio.wait_for(running, DEADLINE_S)
    latencies = latencies_of(result.rows, "latencies")
    assert latencies.count == len(dues)
    assert latencies.max_ns <= given - start_ns - dues[0]
    assert latencies.sum_ns >= sum(dues[-1] - due for due in dues)
    # The rows in which they were due have the latencies, that of the answers the throughput.
    assert total([row for row in result.rows if row.index in (0, 1)], "answered") == len(dues)
    assert next(row.index for row in result.rows if row.completed) >= 1


@in_loop
async def test_what_is_under_way_is_bounded() -> None:
    spec = spec_of(seconds=0.2, warmup_s=0.0, under_way_max=10, timeout_s=0.05)
    _, gate, result = await run(spec, lambda load, requests: None)
    offered = len(dues_of(spec))
    timed_out = total(result.rows, "timed_out")
    assert total(result.rows, "offered") == offered
    assert timed_out == len(gate.requests)
    assert total(result.rows, "not_sent") == offered - timed_out > 0
    # Ten at a time, each for 50 ms at least.
    assert timed_out <= 10 * 6
    assert sum(row.errors.get(Code.TIMEOUT, 0) for row in result.rows) == timed_out
    assert result.rows[0].settled


@in_loop
async def test_large_values_have_less_under_way() -> None:
    spec = spec_of(seconds=0.1, warmup_s=0.0, size=128 * 1024 * 1024, timeout_s=0.3, from_per_s=100.0)
    _, gate, _ = await run(spec, lambda load, requests: None)
    assert len(gate.requests) == 2


@in_loop
async def test_refusals_timeouts_and_errors_are_told_apart() -> None:
    codes = [Code.OK, Code.OVERLOADED, Code.TIMEOUT, Code.CONFLICT]

    def answer(load: OpenLoad, requests: list[Request]) -> None:
        load.answered([(number, int(codes[number % 4])) for number, _, _ in requests])

    _, gate, result = await run(spec_of(), answer)
    by_code = {code: sum(codes[number % 4] == code for number, _, _ in gate.requests) for code in codes}
    assert total(result.rows, "answered") == by_code[Code.OK]
    assert total(result.rows, "refused") == by_code[Code.OVERLOADED]
    assert total(result.rows, "timed_out") == by_code[Code.TIMEOUT]
    assert total(result.rows, "failed") == by_code[Code.CONFLICT]
    assert all(row.settled for row in result.rows)
    assert sum(counts[2] for row in result.rows for counts in row.groups.values()) == by_code[Code.OVERLOADED]
    errors: dict[int, int] = {}
    for row in result.rows:
        for code, count in row.errors.items():
            errors[code] = errors.get(code, 0) + count
    assert errors == {int(code): by_code[code] for code in codes[1:]}


@in_loop
async def test_an_answer_after_the_timeout_is_not_one() -> None:
    spec = spec_of(seconds=0.5, warmup_s=0.0, timeout_s=0.1)
    dues, load, late = dues_of(spec), OpenLoad(spec), 0
    start_ns = monotonic_ns()

    def answer_what_has_waited_too_long(requests: list[Request]) -> None:
        nonlocal late
        until_ns = monotonic_ns() - start_ns - 100_000_001
        while late < len(dues) and dues[late] < until_ns:
            late += 1
            load.answered([(late, 0)])

    gate = FakeGate(answer_what_has_waited_too_long)
    result = await asyncio.wait_for(load.run(gate, start_ns), DEADLINE_S)
    assert total(result.rows, "timed_out") == total(result.rows, "offered") == len(gate.requests)
    assert result.unmatched == late > 0
    assert total(result.rows, "answered") == total(result.rows, "completed") == 0


@in_loop
async def test_a_lost_way_and_a_defect_end_it() -> None:
    with pytest.raises(PaxmuxError, match="gone"):
        await run(spec_of(), lambda load, requests: load.lost("gone"))
    before = OpenLoad(spec_of())
    before.lost("gone before it began")
    with pytest.raises(PaxmuxError, match="gone before it began"):
        await asyncio.wait_for(before.run(FakeGate(lambda requests: None), monotonic_ns()), DEADLINE_S)

    def fail(load: OpenLoad, requests: list[Request]) -> None:
        raise ZeroDivisionError

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    with pytest.raises(ZeroDivisionError):
        await run(spec_of(), fail)
