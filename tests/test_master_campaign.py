"""The campaign about masters in short, and what its judgement would find."""

from __future__ import annotations

import pytest

from tests.master_campaign import FAULTS, Claim, campaign, overlaps, setbacks


def test_two_masters_at_one_moment_are_found() -> None:
    good = [Claim(10, 20, 0, 1), Claim(21, 30, 1, 2), Claim(40, 50, 0, 9)]
    assert overlaps(good) == []
    assert overlaps(good[::-1]) == []
    (words,) = overlaps([Claim(10, 21, 0, 1), *good[1:]])
    assert words.startswith("two masters at once")
    (words,) = overlaps([*good[:2], Claim(40, 50, 0, 2)])
    assert words.startswith("a term that does not grow")


def test_a_term_that_goes_back_in_the_log_is_found() -> None:
    assert setbacks([1, 1, 4, 4, 9]) == []
    assert setbacks([1, 4, 1, 9]) == ["term 1 was written after term 4"]


@pytest.mark.slow
@pytest.mark.xdist_group("cluster")
def test_each_fault_once() -> None:
    said: list[str] = []
    assert campaign(3, len(FAULTS), 1, 1000, said.append) == []
    assert all(any(fault in words for words in said) for fault in FAULTS)
