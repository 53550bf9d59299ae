"""Callers of a closed loop: what each of them waited, also where attempts failed."""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec
import pytest

from paxmux.engine.errors import Overloaded
from paxmux.shards.node import Node
from paxmux.tools.callers import Caller, evenness, told
from paxmux.tools.latency import Latencies
from paxmux.tools.load import PAUSE_S, Load, LoadResult, LoadSpec
from tests.event_loop import in_loop

SPEC = LoadSpec(clients=3, groups=[0], size=20, seconds=0.3, smid=2)
REFUSALS = 5


class UnevenNode:
    """Answers callers 0 and 1; refuses caller 2 some times, or for ever."""

    def __init__(self, refusals: int) -> None:
        self._left = refusals

    async def propose(self, group: int, value: bytes, smid: int, context: None, timeout_s: float) -> None:
        await asyncio.sleep(0.001)
        if int.from_bytes(value[:4], "big") == 2 and self._left:
            self._left -= 1
            raise Overloaded("not now")


async def load_of(refusals: int) -> LoadResult:
    return await Load(cast(Node, UnevenNode(refusals)), SPEC).run()


@in_loop
async def test_a_wait_goes_over_the_attempts_that_failed() -> None:
    result = await load_of(REFUSALS)
    assert sum(caller.answers for caller in result.callers) == result.ok > 0
    assert result.errors == {405: REFUSALS}
    latencies = Latencies()
    latencies.take(**result.latencies)
    longest_ns = max(caller.longest_wait_ns for caller in result.callers)
    assert longest_ns >= REFUSALS * PAUSE_S * 1e9
    assert longest_ns >= latencies.max_ns


@in_loop
async def test_a_caller_that_gets_nothing_has_waited_all_the_time() -> None:
    result = await load_of(1_000_000)
    (starved,) = (caller for caller in result.callers if not caller.answers)
    assert starved.longest_wait_ns >= SPEC.seconds * 1e9 * 0.99
    found = evenness(result.callers, 1_000_000)
    assert found["answers_min"] == 0
    assert found["longest_wait_by_p50"] == pytest.approx(starved.longest_wait_ns / 1e6, abs=0.01)


def test_what_is_said_of_the_callers() -> None:
    found = evenness([Caller(30, 2_000_000), Caller(10, 8_000_000), Caller(20, 4_000_000)], 1_600_000)
    assert found == {
        "count": 3,
        "answers_min": 10,
        "answers_median": 20,
        "longest_wait_ms": 8.0,
        "longest_wait_median_ms": 4.0,
        "longest_wait_by_p50": 5.0,
    }
    assert told(found) == (
        "longest wait of any of 3 callers 8.0 ms, 5.0 times the p50; "
        "the slowest had 10 answers, the median 20"
    )
    nothing = evenness([Caller(0, 5)], 0)
    assert nothing["longest_wait_by_p50"] is None
    assert "p50" not in told(nothing)


def test_clients_apart_share_no_group() -> None:
    spec = msgspec.structs.replace(
        SPEC, clients=3, groups=[5, 6, 7, 8, 9, 10, 11], first_client=100, apart=True
    )
    load = Load(cast(Node, None), spec)
    rounds = [load._round(number) for number in (100, 101, 102)]
    assert [sorted(groups) for groups in rounds] == [[5, 8, 11], [6, 9], [7, 10]]
    crowd = Load(cast(Node, None), msgspec.structs.replace(spec, clients=9))
    assert [crowd._round(100 + number) for number in range(9)] == [[5 + number % 7] for number in range(9)]
