"""How slow machines are found out, with a clock of the test's own."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from paxmux.plugins.machines.echo import Echo
from paxmux.shards.pace import CLOSE_LOOK_TURNS, TOLD_EVERY_S, Pace
from paxmux.shards.standstill import WATCH_S, Standstill

MS = 1_000_000
SECOND = 1000 * MS


class HasMachines:
    """As much of an applier as is asked for."""

    def __init__(self, group: int) -> None:
        self.machines = {1: Echo(group)}


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000 * SECOND
        self.looks = 0

    def __call__(self) -> int:
        self.looks += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    appliers: Any = {group: HasMachines(group) for group in range(5)}
    made = Pace(appliers)
    made.start(clock, 200 * MS)
    return made


def turn(
    pace: Pace,
    clock: Clock,
    took_ms: dict[int, int],
    carried_on_ms: dict[int, int] | None = None,
    *,
    behind: bool = False,
) -> None:
    """A turn that decides one instance of one value in each group, each of which takes so long."""
    decided: Any = [(group, 7, [(1, 1, 1, 0, 1, b"x")], None) for group in took_ms]
    for group, *_ in pace.begin(decided):
        clock.now += took_ms[group] * MS
    carried_on = {group: took * MS for group, took in (carried_on_ms or {}).items()}
    clock.now += sum(carried_on.values())
    pace.end(decided, carried_on, behind=behind)


def test_a_turn_costs_two_looks_at_the_clock(pace: Pace, clock: Clock) -> None:
    turn(pace, clock, dict.fromkeys(range(5), 30))
    assert clock.looks == 2
    assert (pace.slow_turns, pace.slow) == (0, {})


def test_the_only_group_of_a_slow_turn_is_charged_at_once(pace: Pace, clock: Clock) -> None:
    turn(pace, clock, {3: 250})
    assert pace.slow[3].machines == "1 (Echo)"
    assert (pace.slow[3].turns, pace.slow[3].longest_ms) == (1, 250.0)


def test_of_several_groups_the_slow_one_is_found_in_the_next_turn(pace: Pace, clock: Clock) -> None:
    turn(pace, clock, {0: 1, 1: 250, 2: 1})
    assert (pace.slow_turns, pace.slow) == (1, {})
    turn(pace, clock, {0: 1, 1: 260, 2: 1})
    turn(pace, clock, {0: 1, 1: 240, 2: 1})
    assert set(pace.slow) == {1}
    assert (pace.slow[1].turns, pace.slow[1].total_ms, pace.slow[1].longest_ms) == (2, 500.0, 260.0)


def test_the_close_look_ends(pace: Pace, clock: Clock) -> None:
    turn(pace, clock, {0: 1, 1: 250})
    for _ in range(CLOSE_LOOK_TURNS):
        turn(pace, clock, {0: 1, 1: 1})
    clock.looks = 0
    turn(pace, clock, {0: 1, 1: 1})
    assert clock.looks == 2


def test_a_replay_is_charged_to_its_group(pace: Pace, clock: Clock) -> None:
    turn(pace, clock, {}, {4: 300})
    assert pace.slow[4].longest_ms == 300.0
    assert set(pace.slow) == {4}


def test_short_turns_of_one_stretch_count_together(pace: Pace, clock: Clock) -> None:
    for _ in range(70):
        turn(pace, clock, {1: 1}, {1: 1, 4: 2}, behind=True)
    assert pace.slow_turns == 1
    assert set(pace.slow) == {4}, "what was carried on is known by group"
    for _ in range(70):
        turn(pace, clock, {1: 1}, {1: 1, 4: 2}, behind=False)
    assert pace.slow_turns == 1, "whoever keeps up is not slow"


def test_the_log_is_told_seldom(pace: Pace, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        turn(pace, clock, {3: 250})
    assert caplog.text.count("execution is slow") == 1
    clock.now += int(TOLD_EVERY_S * SECOND)
    turn(pace, clock, {3: 250})
    assert caplog.text.count("execution is slow") == 2
    assert "state machine 1 (Echo) of group 3 took 250 ms at a stretch, 5000 ms in 20" in caplog.messages[-1]


def looks(
    still: Standstill, ages_s: list[float], *, gap_s: float = WATCH_S, pid: int = 1, **more: bool
) -> str:
    """Look at heartbeats of these ages; why the process is given up at last."""
    now, given_up = 50 * SECOND, ""
    for age_s in ages_s:
        now += int(gap_s * SECOND)
        given_up = still.check(now, age_s, age_s, pid, "in a test", boots=more.get("boots", False)).give_up
    return given_up


def test_who_stands_still_is_told_of_once_and_given_up_later(caplog: pytest.LogCaptureFixture) -> None:
    still = Standstill("it", 500, 1500)
    assert looks(still, [0.1, 0.5, 1.0, 1.5]) == ""
    assert caplog.text.count("it has not turned for 1.0 s: in a test") == 1
    assert "it stood still for 2.0 s" in looks(Standstill("it", 500, 1500), [0.1, 0.5, 1.0, 1.5, 2.0])
    with caplog.at_level(logging.WARNING):
        looks(still, [0.1])
    assert "it goes on after it had stood still" in caplog.text


def test_who_boots_is_not_given_up_and_nobody_with_0() -> None:
    ages_s = [0.5 * count for count in range(20)]
    assert looks(Standstill("it", 500, 1500), ages_s, boots=True) == ""
    assert looks(Standstill("it", 500, 0), ages_s) == ""


def test_only_time_that_was_watched_counts() -> None:
    ages_s = [5.0 * count for count in range(20)]
    assert looks(Standstill("it", 500, 1500), ages_s, gap_s=5.0) == ""
