"""Changes of members from a node: one group and many, again where the wish still holds, and never blindly."""

from __future__ import annotations

import pytest

from paxmux.engine.errors import (
    Code,
    GroupsFailed,
    InvalidRequest,
    MemberExists,
    MemberMissing,
    MemberNotHeard,
    MembershipUnchanged,
    Overloaded,
    Timeout,
)
from paxmux.shards.heard import Heard, heard_of
from paxmux.shards.member_intents import Add, Move, Remove, Replace
from paxmux.shards.membership import Member
from tests.event_loop import in_loop
from tests.member_world import MemberWorld

LATER = 10**18
FIVE = Heard(5, 15, "e:5", rejoin=False)


@in_loop
async def test_one_group_is_changed_and_the_second_time_it_is_an_error() -> None:
    world = MemberWorld()
    world.heard[5] = FIVE
    add = await world.changes.adding(5)
    assert add == Add(Member(5, 15, "e:5"))
    assert await world.changes.carry_out([0], add, LATER, strict=True) == [0]
    assert world.members()[5] == (15, "e:5")
    with pytest.raises(MemberExists):
        await world.changes.carry_out([0], add, LATER, strict=True)
    assert await world.changes.carry_out([0], add, LATER, strict=False) == []
    assert world.proposed == [0]


@in_loop
async def test_who_is_named_by_an_address_is_found_there() -> None:
    world = MemberWorld()
    world.heard[5] = FIVE
    assert await world.changes.adding("5@elsewhere:9") == Add(Member(5, 15, "elsewhere:9"))
    assert world.changes.removing("2") == Remove(2) == world.changes.removing("2@b:2")
    assert await world.changes.changing(2, "5") == Replace(2, Member(5, 15, "e:5"))
    for wrong in ("", "x", "0", "elsewhere:9", 0, 2**64, -1, 1.5, None, True, b"5"):
        with pytest.raises(InvalidRequest):
            await world.changes.adding(wrong)  # type: ignore[arg-type]


@in_loop
async def test_who_was_not_heard_has_no_seat() -> None:
    world = MemberWorld(groups=2)
    for intent in (await world.changes.adding(5), await world.changes.changing(2, "5@e:5")):
        for groups in ([0], [0, 1]):
            with pytest.raises(MemberNotHeard, match="5 has not said hello"):
                await world.changes.carry_out(groups, intent, LATER, strict=True)
    assert not world.proposed
    # Who is a member already need not be heard: it may be down.
    assert await world.changes.carry_out([0], await world.changes.adding(3), LATER, strict=False) == []
    assert await world.changes.carry_out([0], await world.changes.changing(1, 3), LATER, strict=True) == [0]
    assert sorted(world.members()) == [2, 3]
    # But a member that has moved keeps its own.
    assert await world.changes.changing(2, "2@there:7") == Move(2, 0, "there:7")
    world.heard[2] = Heard(2, 22, "b:9", rejoin=False)
    assert await world.changes.changing(2, 2) == Move(2, 22, "b:9")


@in_loop
async def test_a_change_that_came_first_is_looked_at() -> None:
    """The wish is tried again on what has become of the members."""
    world = MemberWorld()
    other = [{**world.members(), 9: (19, "")}]

    def first(group: int) -> int:
        if other:
            world.change(group, other.pop())
        return Code.OK

    world.before = first
    assert await world.changes.carry_out([0], Add(Member(5, 15, "")), LATER, strict=True) == [0]
    assert sorted(world.members()) == [1, 2, 3, 5, 9]
    assert world.proposed == [0, 0]


@pytest.mark.parametrize("strict", [True, False])
@in_loop
async def test_a_change_that_came_first_and_did_the_same_is_enough(strict: bool) -> None:
    world = MemberWorld()

    def same(group: int) -> int:
        world.change(group, {**world.members(), 5: (15, "")})
        return Code.OK

    world.before = same
    assert await world.changes.carry_out([0], Add(Member(5, 15, "")), LATER, strict=strict) == []
    assert (world.proposed, sorted(world.members())) == ([0], [1, 2, 3, 5])


@in_loop
async def test_a_wish_that_does_not_fit_any_more_is_given_up() -> None:
    """Whom somebody else has removed is not replaced: that would add a member nobody wants."""
    world = MemberWorld()

    def gone(group: int) -> int:
        world.change(group, {1: (11, ""), 3: (13, "")})
        return Code.OK

    world.before = gone
    with pytest.raises(MemberMissing):
        await world.changes.carry_out([0], Replace(2, Member(5, 15, "")), LATER, strict=True)
    assert sorted(world.members()) == [1, 3]


@in_loop
async def test_an_unknown_outcome_is_not_repeated() -> None:
    world = MemberWorld()
    world.before = lambda group: Code.TIMEOUT
    with pytest.raises(Timeout):
        await world.changes.carry_out([0], Remove(2), LATER, strict=True)
    assert world.proposed == [0]


@in_loop
async def test_many_groups_and_what_is_left_of_them() -> None:
    world = MemberWorld(groups=100)
    world.change(7, {1: (11, ""), 3: (13, "")})
    world.before = lambda group: Code.OVERLOADED if group in (3, 50) else Code.OK
    with pytest.raises(GroupsFailed, match="2 groups failed; group 3: as asked") as failed:
        await world.changes.carry_out(range(100), Remove(2), LATER, strict=False)
    error = failed.value
    assert {group: type(each) for group, each in error.errors.items()} == {3: Overloaded, 50: Overloaded}
    assert (len(error.changed), error.unchanged) == (97, [7])
    world.before = lambda group: Code.OK
    assert await world.changes.carry_out(range(100), Remove(2), LATER, strict=False) == [3, 50]
    assert all(sorted(world.members(group)) == [1, 3] for group in range(100))
    with pytest.raises(MembershipUnchanged):
        await world.changes.carry_out([7], Replace(2, Member(3, 13, "")), LATER, strict=True)


def test_who_is_heard_is_what_the_router_says() -> None:
    status = {
        "peers": {
            "1": {"seat": "0x0b", "announced": "a:1", "rejoin": True, "address": "a:2"},
            "2": {"seat": None, "announced": None, "rejoin": False, "address": "b:2"},
        },
    }
    assert heard_of(status) == {1: Heard(1, 11, "a:1", rejoin=True)}
    assert heard_of({}) == heard_of(None) == {}
