"""Wishes about members: what they make of those that there are, when they hold, and when they cannot be."""

from __future__ import annotations

import pytest

from paxmux.engine.errors import (
    Code,
    InvalidRequest,
    LastMember,
    MemberExists,
    MemberMissing,
    MembershipError,
    error_for,
)
from paxmux.engine.paxos.system import MEMBERS_MAX
from paxmux.shards.member_intents import Add, Intent, Move, Remove, Replace
from paxmux.shards.membership import Member

NOW = {1: (11, "a:1"), 2: (12, ""), 3: (13, "c:3")}
FOUR = Member(4, 14, "d:4")
TWO = Member(2, 12, "b:2")


@pytest.mark.parametrize(
    ("intent", "expected"),
    [
        (Add(FOUR), {**NOW, 4: (14, "d:4")}),
        (Add(TWO), None),
        (Remove(2), {1: NOW[1], 3: NOW[3]}),
        (Remove(4), None),
        (Replace(1, FOUR), {2: NOW[2], 3: NOW[3], 4: (14, "d:4")}),
        # Who is there already keeps what he has; the other one goes all the same.
        (Replace(1, TWO), {2: NOW[2], 3: NOW[3]}),
        (Replace(4, TWO), None),
        (Move(2, 0, "b:2"), {**NOW, 2: (12, "b:2")}),
        (Move(2, 22, ""), {**NOW, 2: (22, "")}),
        (Move(2, 12, ""), None),
        (Move(1, 0, "a:1"), None),
        (Move(2, 22, "b:2", only_from=12), {**NOW, 2: (22, "b:2")}),
        (Move(2, 22, "b:2", only_from=99), None),
    ],
)
def test_what_a_wish_makes(intent: Intent, expected: object) -> None:
    before = dict(NOW)
    assert intent.applied(NOW) == expected
    assert before == NOW


@pytest.mark.parametrize(
    ("intent", "error"),
    [
        (Add(Member(2, 22, "")), MemberExists),
        (Add(Member(4, 13, "")), InvalidRequest),
        (Replace(5, FOUR), MemberMissing),
        (Replace(1, Member(4, 13, "")), InvalidRequest),
        (Move(4, 14, "d:4"), MemberMissing),
        (Move(2, 13, ""), InvalidRequest),
    ],
)
def test_what_cannot_be(intent: Intent, error: type[Exception]) -> None:
    with pytest.raises(error):
        intent.applied(NOW)


def test_the_last_member_stays() -> None:
    with pytest.raises(LastMember, match="last member"):
        Remove(1).applied({1: (11, "")})
    assert Remove(2).applied({1: (11, "")}) is None


def test_there_are_no_more_than_a_group_can_have() -> None:
    many = {node: (node + 1000, "") for node in range(1, MEMBERS_MAX + 1)}
    with pytest.raises(InvalidRequest, match=str(MEMBERS_MAX)):
        Add(Member(999, 9, "")).applied(many)


@pytest.mark.parametrize(
    ("intent", "code"), [(Add(TWO), 1002), (Remove(4), 1003), (Replace(4, TWO), 1004), (Move(2, 0, ""), 1004)]
)
def test_the_codes_are_those_of_the_reference(intent: Intent, code: int) -> None:
    assert (intent.holds().code, intent.holds().retryable) == (code, False)


@pytest.mark.parametrize(
    ("code", "retryable"),
    [(1001, True), (1002, False), (1003, False), (1004, False), (-501, False), (-502, True)],
)
def test_a_code_from_a_worker_is_an_error_of_its_own(code: int, retryable: bool) -> None:
    error = error_for(code, "words")
    assert isinstance(error, MembershipError)
    assert (error.code, error.retryable, str(error)) == (code, retryable, "words")
    assert Code(code) == code
