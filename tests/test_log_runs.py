"""Which instances have a value, however they come."""

from __future__ import annotations

import random

import pytest

from paxmux.engine.paxos.value import FIRST, Chain
from paxmux.tools.log.runs import Broken, Runs


def checksum(instance: int) -> Chain:
    """Of the value of an instance, in a history where nothing is wrong."""
    return FIRST if instance < 0 else (instance + 1).to_bytes(4, "little")


def add(runs: Runs, instance: int) -> None:
    assert list(runs.add(instance, checksum(instance - 1), checksum(instance))) == []


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_a_set_in_any_order(seed: int) -> None:
    rng = random.Random(seed)
    order = list(range(rng.randrange(3), 40))
    if seed:
        rng.shuffle(order)
    runs, have = Runs(), set[int]()
    for instance in order:
        assert instance not in runs
        add(runs, instance)
        have.add(instance)
        low, high = rng.randrange(40), rng.randrange(60)
        assert [each in runs for each in range(41)] == [each in have for each in range(41)]
        assert runs.count(low, high) == len([each for each in have if low <= each < high])
        assert runs.lowest(low) == min((each for each in have if each >= low), default=None)
        assert runs.highest() == max(have)
        begins = [each for each in have if each >= max(1, low) and each - 1 not in have]
        assert runs.beginnings(low) == len(begins)
        for each in range(41):
            ends = each in have and each + 1 not in have
            assert runs.checksum(each) == (checksum(each) if ends else None)
    assert len(runs._runs) == 1


def test_what_does_not_fit_is_told_for_each_side() -> None:
    runs = Runs()
    assert runs.highest() is None
    add(runs, 3)
    add(runs, 5)
    odd = b"oddy"
    assert list(runs.add(4, odd, odd)) == [Broken(4, odd, checksum(3)), Broken(5, checksum(4), odd)]
    assert list(runs.add(6, odd, checksum(6))) == [Broken(6, odd, checksum(5))]
    assert list(runs.add(0, odd, checksum(0))) == [Broken(0, odd, FIRST)]
    assert [each in runs for each in range(8)] == [True, False, False, True, True, True, True, False]
