"""`rejoin: auto`: who is seated anew by itself, by whom, and when not."""

from __future__ import annotations

from itertools import pairwise

import pytest

from paxmux.engine.errors import Code
from paxmux.shards.heard import Heard
from paxmux.shards.rejoin import AGAIN_S, FAILED_FIRST_S, SILENT_MS, TURN_S, Rejoin
from tests.event_loop import in_loop
from tests.member_world import MemberWorld

S = 1_000_000_000
BACK = Heard(3, 23, "c:9", rejoin=True)


class World(MemberWorld):
    """With a node that has come back, and whose old seat is silent."""

    def __init__(self, me: int = 1, groups: int = 3) -> None:
        super().__init__(groups)
        self.heard[3] = BACK
        self.silent_ms = {3: SILENT_MS}
        self.rejoin = Rejoin(me, self.changes, self.listen, self.memberships, lambda: self.now)

    async def look(self, after_s: float = 0.0) -> int:
        """Some time later: the groups that were asked to change."""
        self.now += int(after_s * S)
        before = len(self.proposed)
        await self.rejoin.look()
        return len(self.proposed) - before


@in_loop
async def test_who_asks_is_seated_in_all_groups_and_then_left_alone() -> None:
    world = World()
    assert [await world.look(), await world.look(TURN_S / 2), await world.look(TURN_S / 2)] == [0, 0, 3]
    assert all(world.members(group)[3] == (23, "c:9") for group in range(3))
    assert await world.look(TURN_S) == 0


@pytest.mark.parametrize(("me", "turn"), [(1, 1), (2, 2), (3, 0), (4, 0)])
@in_loop
async def test_members_take_turns_and_others_do_nothing(me: int, turn: int) -> None:
    world = World(me)
    looks = [await world.look(TURN_S if at else 0) for at in range(4)]
    assert looks.index(3) == turn if turn else not any(looks)


@in_loop
async def test_nobody_is_seated_while_the_old_seat_is_heard() -> None:
    world = World()
    world.silent_ms[3] = SILENT_MS - 1
    assert [await world.look(AGAIN_S) for _ in range(3)] == [0, 0, 0]
    world.silent_ms[3] = SILENT_MS
    assert await world.look() == 3


@pytest.mark.parametrize(
    "heard",
    [
        BACK._replace(rejoin=False),
        BACK._replace(seat=13),
        Heard(9, 19, "i:9", rejoin=True),
    ],
)
@in_loop
async def test_who_does_not_ask_or_has_no_old_seat_gets_none(heard: Heard) -> None:
    world = World()
    world.heard = {heard.node_id: heard}
    assert [await world.look(AGAIN_S) for _ in range(3)] == [0, 0, 0]


@in_loop
async def test_two_directories_with_one_id_do_not_take_turns() -> None:
    world = World()
    await world.look()
    assert await world.look(TURN_S) == 3
    world.heard[3] = BACK._replace(seat=33)
    waited = [await world.look(TURN_S) for _ in range(int(AGAIN_S / TURN_S) - 1)]
    assert not any(waited)
    assert await world.look(2 * TURN_S) == 3


@in_loop
async def test_what_is_left_of_an_interrupted_change_is_done_at_once() -> None:
    world = World()
    world.before = lambda group: Code.TIMEOUT if group == 1 else Code.OK
    await world.look()
    assert await world.look(TURN_S) == 3
    assert [world.members(group)[3][0] for group in range(3)] == [23, 13, 23]
    world.before = lambda group: Code.OK
    assert await world.look(FAILED_FIRST_S - 1) == 0, "but not sooner than the pause after a failure"
    assert await world.look(1) == 1
    assert world.members(1)[3] == (23, "c:9")


@in_loop
async def test_failures_are_tried_ever_less_often() -> None:
    world = World(groups=1)
    world.before = lambda group: Code.TIMEOUT
    await world.look()
    at = [second for second in range(1, 100) if await world.look(1)]
    assert at[0] == int(TURN_S)
    gaps = [later - sooner for sooner, later in pairwise(at)]
    assert gaps == [5, 10, 20, 40]


@in_loop
async def test_a_group_that_meanwhile_has_other_members_is_left_alone() -> None:
    """The operation names the old seat: whoever took its place meanwhile keeps it."""
    world = World(groups=1)
    await world.look()

    def taken(group: int) -> int:
        world.change(group, {1: (11, ""), 2: (12, ""), 3: (43, "")})
        return Code.OK

    world.before = taken
    assert await world.look(TURN_S) == 1
    assert world.members()[3] == (43, "")
