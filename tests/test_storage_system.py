"""States of inner state machines in the segment log: what damage leaves of them, and what is told of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from paxmux.engine.storage import HardState, Record
from tests.fault_rows import fault
from tests.storage_model import LEARNED, PROMISE, SYSTEM, feed
from tests.test_storage_damage import FIRST, flip, opened


def with_systems(path: Path) -> list[int]:
    """A log of one segment, without an index; where its batches begin. Batches 1 and 3 say something of inner
    machines, 5 and 6 nothing."""
    log = opened(path)
    log.recover()
    begins = []
    for number in range(7):
        begins.append(log._offset)
        records: list[Record] = [(LEARNED, group, number, 1, 1, b"v") for group in (0, 1)]
        if number in (1, 3):
            records += [(SYSTEM, group, number + 1, 0, 0, b"%d/%d" % (group, number)) for group in (0, 1)]
        feed(log, [records])
    log.close(clean=False)
    shutil.rmtree(path / "index")
    return begins


def systems(states: dict[int, HardState]) -> list[tuple[bytes, int, bool]]:
    return [states[group][6:] for group in (0, 1)]


KNOWN = [(b"0/3", 4, False), (b"1/3", 4, False)]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (1, KNOWN),
        (2, KNOWN),
        (3, [(b"0/1", 2, True), (b"1/1", 2, True)]),
        (4, KNOWN),
        (5, KNOWN),
    ],
)
@fault(
    "flipped bits",
    "log: what the members of a group are, in the newest segment",
    "named; an older one is told as such, if one may be lost: the group learns from there on, without a vote",
)
def test_a_lost_state_of_inner_machines_is_known_to_be(
    tmp_path: Path, bad: int, expected: list[tuple[bytes, int, bool]]
) -> None:
    """Each batch has in its header how many there were: what stands behind the gap tells if one is lost."""
    path = tmp_path / "log"
    flip(path / FIRST, with_systems(path)[bad] + 50)
    for _ in range(2):
        log = opened(path)
        states = log.recover()
        assert systems(states) == expected
        assert states[0].suspect, "promises may be lost all the same"
        assert log.system(0) == ((4, b"0/3") if expected == KNOWN else None)
        log.close(clean=True)
        # The index has it too, and so has each segment from now on.
        log = opened(path)
        assert systems(log.recover()) == expected
        log.close(clean=False)
        shutil.rmtree(path / "index")
    log = opened(path)
    log.recover()
    feed(log, [[(SYSTEM, 1, 9, 0, 0, b"told")]])
    log.close(clean=False)
    log = opened(path)
    assert systems(log.recover()) == [expected[0], (b"told", 9, False)]
    log.close(clean=True)


def test_with_no_batch_behind_a_gap_any_state_of_inner_machines_may_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "log"
    begins = with_systems(path)
    log = opened(path)
    log.recover()
    log.close(clean=True)
    shutil.rmtree(path / "index")
    flip(path / FIRST, begins[6] + 50)
    log = opened(path)
    assert systems(log.recover()) == [(b"0/3", 4, True), (b"1/3", 4, True)]
    log.close(clean=True)


def test_a_segment_opened_behind_damage_says_all_states_of_inner_machines_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    begins = with_systems(path)
    log = opened(path)
    log.recover()
    while log._segment.number == 0:
        feed(log, [[(LEARNED, 9, 0, 1, 1, b"x" * 1000)]])
    log.close(clean=False)
    shutil.rmtree(path / "index")
    flip(path / FIRST, begins[3] + 50)
    log = opened(path)
    assert systems(log.recover()) == KNOWN
    assert log.doubt() is None
    log.close(clean=True)


def test_the_count_goes_on_where_the_index_ends(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with_systems(path)
    for clean in (True, False):
        log = opened(path)
        log.recover()
        log.close(clean=clean)
    log = opened(path)
    log.recover()
    begin = log._offset
    feed(log, [[(PROMISE, 0, 7, 1, 1, b"")], [(PROMISE, 0, 7, 2, 1, b"")]])
    log.close(clean=False)
    shutil.rmtree(path / "index")
    flip(path / FIRST, begin + 50)
    log = opened(path)
    assert systems(log.recover()) == KNOWN
    log.close(clean=True)
