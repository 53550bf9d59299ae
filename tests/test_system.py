"""The inner state machines' operations and state, as bytes and as rules."""

from __future__ import annotations

import random

import pytest

from paxmux.engine.paxos import system, value
from paxmux.engine.paxos.system import (
    LEASE_MAX,
    NO_REIGN,
    NO_TERM,
    Change,
    Membership,
    Reign,
    ReignOp,
    SystemState,
    after,
    decode_change,
    decode_reign_op,
    decode_state,
    encode_change,
    encode_reign_op,
    encode_state,
    may_be,
)

TWO = {1: (11, ""), 2: (12, "[::1]:9000")}
MOST = 2**64 - 1


@pytest.mark.parametrize(
    "change", [Change(7, -1, TWO), Change(MOST, 2**62, {MOST: (MOST, "é" * 150)})], ids=["small", "large"]
)
def test_a_change_comes_back_as_it_was(change: Change) -> None:
    assert decode_change(encode_change(change)) == change


@pytest.mark.parametrize(
    "op",
    [
        ReignOp(1, 2, -1, 10**9),
        ReignOp(MOST, MOST, 2**62, LEASE_MAX, fresh=True),
        ReignOp(3, 4, 5, 0, release=True, heir=9),
    ],
)
def test_an_operation_of_the_master_comes_back_as_it_was(op: ReignOp) -> None:
    assert decode_reign_op(encode_reign_op(op)) == op


def test_a_lease_that_is_too_long_is_none() -> None:
    assert decode_reign_op(encode_reign_op(ReignOp(1, 2, -1, LEASE_MAX + 1))) is None
    assert decode_reign_op(encode_reign_op(ReignOp(1, 2, -1, 0))) is None


@pytest.mark.parametrize("reign", [NO_REIGN, Reign(1, 2, 30, 20, 10**9)])
def test_a_state_comes_back_as_it_was(reign: Reign) -> None:
    state = SystemState(Membership(30, TWO), reign, [(4, 3), (21, 20), (25, NO_TERM)])
    assert decode_state(encode_state(state)) == state


def test_no_bytes_raise_anything_unexpected() -> None:
    rng = random.Random(6)
    change = encode_change(Change(7, -1, TWO))
    op = encode_reign_op(ReignOp(1, 2, -1, 10**9))
    state = encode_state(SystemState(Membership(30, TWO), NO_REIGN, [(1, 2)]))
    refused = 0
    for whole in (change, op, state):
        for _ in range(3000):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            cut = bytes(data[: rng.randrange(len(data) + 1)]) if rng.random() < 0.5 else bytes(data)
            decode_change(cut)
            decode_reign_op(cut)
            try:
                found = decode_state(cut)
            except ValueError:
                refused += 1
            else:
                assert may_be(found.membership.members)
    assert refused > 6000, "what two of three kinds of bytes are not is a state"


@pytest.mark.parametrize(
    "members",
    [
        {},
        {0: (1, "")},
        {1: (0, "")},
        {1: (7, ""), 2: (7, "")},
        {node: (node, "") for node in range(1, 65)},
        {1: (1, "x" * 301)},
    ],
    ids=["nobody", "node 0", "seat 0", "one seat for two", "too many", "a long address"],
)
def test_members_that_cannot_be(members: dict[int, tuple[int, str]]) -> None:
    assert not may_be(members)
    assert decode_change(encode_change(Change(7, -1, members))) is None


def test_a_reign_goes_on_and_ends() -> None:
    first = after(NO_REIGN, ReignOp(1, 100, -1, 50), 5)
    assert first == Reign(1, 100, 5, 5, 50)
    renewed = after(first, ReignOp(1, 100, 5, 60), 9)
    assert renewed == Reign(1, 100, 9, 5, 60), "the same reign: the same term"
    assert after(renewed, ReignOp(1, 100, 5, 60), 10) is None, "it names a version that is not any more"
    assert after(renewed, ReignOp(1, 101, 9, 60), 10) == Reign(1, 101, 10, 10, 60), "another process"
    assert after(renewed, ReignOp(1, 100, 9, 60, fresh=True), 10) == Reign(1, 100, 10, 10, 60)
    assert after(renewed, ReignOp(2, 100, 9, 60), 10) == Reign(2, 100, 10, 10, 60)
    assert after(renewed, ReignOp(2, 100, 9, 0, release=True), 10) is None, "not its own"
    assert after(renewed, ReignOp(1, 100, 9, 0, release=True), 10) == Reign(version=10)


def test_inner_entries_are_counted_in_the_value() -> None:
    inner = (1, 0, 77, 0, system.MASTER_SMID, b"op")
    own = (1, 900, 1, 0, 1, b"v")
    data = value.encode([inner, own], inner=1)
    entries = value.decode(data)
    assert entries == [inner, own]
    assert value.inner_of(data, entries) == [inner]
    assert value.decode(data[:1] + b"\x03" + data[2:]) == [], "more than there are entries"
    assert not value.inner_of(b"\x01\x05", value.decode(b"\x01\x05"))
