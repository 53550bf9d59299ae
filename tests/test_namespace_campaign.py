"""Partitions between network namespaces: which there are, how masters are judged, and a short campaign."""

from __future__ import annotations

import random

import pytest
from rich.console import Console

from paxmux.engine.errors import Code
from paxmux.tools.namespaces import missing
from paxmux.tools.progress import Steps
from paxmux.tools.term_judge import TermJudge
from paxmux.tools.term_machine import Row, Terms, ask_rows, make_value, read_rows
from paxmux.tools.term_writers import Reign, Written
from tests.namespace_campaign import CampaignOptions, campaign
from tests.partitions import BRIDGE, DEAF, FLAPPING, KINDS, MASTER, MINORITY, ONE_WAY, SLOW, partition


@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("seed", range(20))
def test_who_sees_a_majority_goes_on(nodes: int, seed: int) -> None:
    master = seed % nodes
    made = {kind: partition(kind, nodes, master, random.Random(seed)) for kind in KINDS}
    assert len(made[MINORITY].going_on) > nodes // 2
    assert len(made[ONE_WAY].cuts) == 1
    assert len(made[ONE_WAY].going_on) == nodes
    for kind in (MINORITY, DEAF):
        few = set(range(nodes)) - set(made[kind].going_on)
        assert 0 < len(few) <= nodes // 2
        assert all((one in few) != (other in few) for one, other in made[kind].cuts)
    assert all((other, one) not in made[DEAF].cuts for one, other in made[DEAF].cuts)
    # Every node sees the one in the middle, and nobody of the other half.
    assert made[BRIDGE].going_on == tuple(range(nodes))
    assert len(made[BRIDGE].cuts) == 2 * (nodes // 2) ** 2
    for kind in KINDS:
        if "master" in kind:
            assert made[kind].going_on == tuple(node for node in range(nodes) if node != master)
    assert len(made[MASTER].cuts) == 2 * (nodes - 1)
    assert made[FLAPPING].cuts
    assert made[FLAPPING].going_on == ()
    assert not made[SLOW].cuts


def judged(reigns: list[Reign], rows: list[Row], written: list[Written]) -> list[str]:
    found: list[str] = []
    judge = TermJudge(found.append)
    for reign in reigns:
        judge.begun(reign)
        judge.ended(reign)
    for each in written:
        judge.take_written(each)
    judge.judge_reigns()
    judge.judge_rows(0, rows)
    return found


def ok(writer: int, term: int, number: int, instance: int) -> Written:
    return Written(writer, 0, term, number, instance, Code.OK, False)


SOUND_REIGNS = [Reign(0, 0, 3, 100, 200), Reign(1, 0, 9, 201, 300), Reign(0, 0, 20, 400, 390)]
SOUND_ROWS = [Row(5, 3, 0, 1), Row(12, 9, 1, 1), Row(12, 9, 1, 2), Row(30, 20, 0, 3)]
SOUND_WRITTEN = [
    ok(0, 3, 1, 5),
    Written(0, 0, 3, 2, 0, Code.STALE_TERM, True),
    Written(1, 0, 9, 1, 0, Code.TIMEOUT, False),
    ok(1, 9, 2, 12),
    ok(0, 20, 3, 30),
]


def test_reigns_one_after_the_other_are_sound() -> None:
    assert judged(SOUND_REIGNS, SOUND_ROWS, SOUND_WRITTEN) == []


@pytest.mark.parametrize(
    ("reign", "words"),
    [
        (Reign(1, 0, 9, 150, 300), "node 1 believed itself master in term 3 for 0.0 ms after node 2"),
        (Reign(1, 0, 3, 500, 600), "nodes 1 and 2 were both masters in term 3"),
        (Reign(1, 0, 2, 500, 600), "node 2 believed itself master in term 2"),
    ],
)
def test_two_masters_are_found(reign: Reign, words: str) -> None:
    (found,) = judged([SOUND_REIGNS[0], reign], [], [])
    assert words in found


def test_the_same_node_may_see_one_term_twice() -> None:
    assert judged([Reign(0, 0, 3, 1, 2), Reign(0, 0, 3, 5, 6)], [], []) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*SOUND_ROWS, Row(31, 9, 1, 3)], "term 9 after term 20"),
        ([*SOUND_ROWS, Row(31, 20, 1, 3)], "node 2 wrote in term 20 of node 1"),
        ([*SOUND_ROWS, Row(31, 31, 0, 4)], "term 31 has not begun there"),
        ([*SOUND_ROWS, Row(30, 20, 0, 3)], "write 3 of node 1 was executed twice"),
        ([*SOUND_ROWS, Row(31, 20, 0, 4)], "told by nobody"),
        ([SOUND_ROWS[0], Row(6, 3, 0, 2), *SOUND_ROWS[1:]], "was executed, and ended with code 2007"),
        ([*SOUND_ROWS[:3], Row(29, 20, 0, 3)], "was acknowledged for instance 30"),
        (SOUND_ROWS[:3], "is lost"),
    ],
)
def test_a_log_that_cannot_be_is_found(rows: list[Row], words: str) -> None:
    found = judged(SOUND_REIGNS, rows, SOUND_WRITTEN)
    assert any(words in each for each in found), found


def test_an_outcome_that_nothing_causes_is_found() -> None:
    (found,) = judged([], [], [Written(0, 0, 1, 1, 0, Code.SYSTEM_ERROR, True)])
    assert "nothing here should cause" in found


def test_the_machine_keeps_what_it_executes() -> None:
    machine = Terms(0)
    for number in range(3):
        machine.execute(10 + number, make_value(7, 1, number), None)
    assert read_rows(machine.query(ask_rows(1))) == [Row(11, 7, 1, 1), Row(12, 7, 1, 2)]


@pytest.mark.xdist_group("cluster")
def test_a_short_campaign_is_sound() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(f"no network namespaces can be made here: {reason}")
    with Steps(Console(stderr=True)) as steps:
        report = campaign(CampaignOptions(rounds=1, seed=1, lease_ms=1000), steps)
    assert report["sound"], report
    without = {SLOW} if report["skipped"] else set()
    assert report["rounds"] == {kind: 1 for kind in KINDS if kind not in without}
    assert all("netem" in words for words in report["skipped"])
    assert report["outcomes"]["0"] > 100
    assert report["fenced_writes"]["0"] > 20
    assert report["reigns"] > 4
    assert report["new_master_leases"]["rounds"] == 3
