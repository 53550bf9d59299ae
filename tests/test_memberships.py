"""What a node knows of its groups' members: addresses, callbacks, and nothing twice."""

from __future__ import annotations

from paxmux.shards.boot import MemberPlace, MembersTold
from paxmux.shards.membership import Member
from paxmux.shards.memberships import Memberships

FOUNDED = {1: (11, ""), 2: (12, "")}
Heard = list[tuple[int, list[Member]]]


def told(version: int, members: dict[int, tuple[int, str]], *groups: int) -> MembersTold:
    return MembersTold(members=members, versions=dict.fromkeys(groups, version))


def test_callbacks_hear_of_each_change_once() -> None:
    known, early, late = Memberships({1: "a:1"}), Heard(), Heard()
    end = known.watch(lambda group, members: early.append((group, members)))
    assert known.members(0) is None
    known.take(told(-1, FOUNDED, 0, 1))
    founded = [Member(1, 11, "a:1"), Member(2, 12, "")]
    assert early == [(0, founded), (1, founded)]
    known.watch(lambda group, members: late.append((group, members)))
    assert late == early, "what is known already is told at once"
    # A worker that has started again says what it has said before.
    known.take(told(-1, FOUNDED, 0, 1))
    assert len(early) == 2
    known.take(told(7, {1: (11, "")}, 1))
    assert early[2:] == [(1, [Member(1, 11, "a:1")])] == late[2:]
    # And one that lags is not heard.
    known.take(told(3, FOUNDED, 1))
    assert known.members(1) == [Member(1, 11, "a:1")]
    end()
    end()
    known.take(told(9, FOUNDED, 0))
    assert (len(early), len(late)) == (3, 4)


def test_a_callback_that_fails_keeps_nobody_from_hearing() -> None:
    known, heard = Memberships({}), Heard()

    def fail(group: int, members: list[Member]) -> None:
        raise ValueError(group)

    known.watch(fail)
    known.watch(lambda group, members: heard.append((group, members)))
    known.take(told(-1, FOUNDED, 0))
    assert len(heard) == 1


def test_all_groups_together_say_who_is_where() -> None:
    known, said = Memberships({}), list[dict[int, MemberPlace]]()
    known.on_places = said.append
    known.take(told(-1, FOUNDED, 0, 1))
    assert said == [{1: MemberPlace([11], ""), 2: MemberPlace([12], "")}]
    known.take(told(4, {**FOUNDED, 3: (13, "c:3")}, 0))
    assert said[-1][3] == MemberPlace([13], "c:3")
    # The address that came last holds, in whichever group.
    known.take(told(5, {1: (11, ""), 3: (13, "c:4")}, 1))
    assert said[-1] == {1: MemberPlace([11], ""), 2: MemberPlace([12], ""), 3: MemberPlace([13], "c:4")}
    # Seated anew in one of two.
    known.take(told(6, {1: (21, ""), 3: (13, "c:4")}, 1))
    assert said[-1][1] == MemberPlace([11, 21], "")
    assert known.in_other_seat(1, 21) == {0: 11}
    assert known.reseated[1][0] == 21
    count = len(said)
    known.take(told(7, {1: (21, ""), 3: (13, "c:4")}, 1))
    assert len(said) == count, "nothing is said that was said before"
    # Who is a member of none is gone; an address that no group has any more is forgotten.
    known.take(told(8, {3: (13, "c:3")}, 1))
    known.take(told(9, {3: (13, "c:3")}, 0))
    assert said[-1] == {3: MemberPlace([13], "c:3")}


def test_the_addresses_of_a_first_start_in_the_middle_of_a_change_are_those_of_one_group() -> None:
    known = Memberships({})
    known.take(told(4, {1: (11, "a:1")}, 0))
    known.take(told(4, {1: (11, "a:2")}, 1))
    assert known.places == {1: MemberPlace([11], "a:1")}
    known.take(told(5, {1: (11, "a:2")}, 0))
    assert known.places == {1: MemberPlace([11], "a:2")}


def test_what_is_no_address_is_none() -> None:
    known = Memberships({})
    known.take(told(4, {1: (11, "nowhere"), 2: (12, "9@b:2"), 3: (13, "c:3")}, 0))
    assert known.places == {1: MemberPlace([11], ""), 2: MemberPlace([12], ""), 3: MemberPlace([13], "c:3")}
