"""When the cleaner moves what lives: the bound it keeps, and what its mistakes may cost."""

from __future__ import annotations

from paxmux.plugins.storage.passes import MOVE_BYTES_PER_S, Passes

SEGMENT_BYTES = 1000
SPARE_BYTES = 3 * SEGMENT_BYTES
LIVE = 10_000
TOTAL = 2 * LIVE + SPARE_BYTES
BEGIN_S = 50.0


def after_a_pass(*, moved: int, left: int, live: int = LIVE, taken: int = 0) -> tuple[Passes, float | None]:
    """One pass over a log that seemed to have `LIVE`, until segment 9: what then comes, and what it says."""
    passes = Passes(SEGMENT_BYTES)
    assert passes.wait_s(0, TOTAL + 1, LIVE, 0, BEGIN_S) == 0.0
    passes.begin(9, LIVE, 0, BEGIN_S)
    passes.moved(moved)
    assert passes.wait_s(8, TOTAL + 1, LIVE, taken, BEGIN_S) == 0.0
    return passes, passes.wait_s(9, left, live, taken, BEGIN_S)


def test_a_log_within_its_bound_is_left_alone() -> None:
    assert Passes(SEGMENT_BYTES).wait_s(0, TOTAL, LIVE, 0, BEGIN_S) is None
    assert Passes(SEGMENT_BYTES).wait_s(0, TOTAL + 1, LIVE, 0, BEGIN_S) == 0.0


def test_a_pass_pauses_where_the_log_is_small_and_goes_on_where_it_is_not() -> None:
    passes = Passes(SEGMENT_BYTES)
    passes.begin(9, LIVE, 0, BEGIN_S)
    passes.moved(1 << 30)
    assert passes.wait_s(5, TOTAL, LIVE, 0, BEGIN_S) is None
    assert passes.wait_s(5, TOTAL + 1, LIVE, 0, BEGIN_S) == 0.0


def test_what_a_quiet_pass_has_left_is_what_lives() -> None:
    """An estimate of a fifth of the truth costs one pass."""
    passes, pause = after_a_pass(moved=5 * LIVE, left=5 * LIVE + SPARE_BYTES)
    assert pause is None
    assert passes.wait_s(9, 10 * LIVE + SPARE_BYTES, LIVE, 0, BEGIN_S + 1e6) is None
    assert passes.wait_s(9, 10 * LIVE + SPARE_BYTES + 1, LIVE, 5 * LIVE, BEGIN_S) == 0.0


def test_what_was_forgotten_meanwhile_is_no_reason_to_keep_more() -> None:
    """What was moved and is forgotten by now is garbage; the next pass waits, but not for ever."""
    moved = 4 * MOVE_BYTES_PER_S
    passes, pause = after_a_pass(moved=moved, left=moved, live=LIVE // 2)
    assert pause == 4.0
    assert passes.wait_s(9, moved, LIVE // 2, 0, BEGIN_S + 3.5) == 0.5
    assert passes.wait_s(9, moved, LIVE // 2, 0, BEGIN_S + 4.5) == 0.0


def test_no_more_is_moved_than_comes_in() -> None:
    passes, pause = after_a_pass(moved=MOVE_BYTES_PER_S, left=TOTAL + 1, taken=MOVE_BYTES_PER_S - 1)
    assert pause == 1.0
    assert passes.wait_s(9, TOTAL + 1, LIVE, MOVE_BYTES_PER_S, BEGIN_S) == 0.0
