"""Timers of many groups: rung when they are due, in one order, and the others are not looked at."""

from __future__ import annotations

import random

import pytest

from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.reader import Reader
from paxmux.engine.paxos.timers import MS, NEVER
from paxmux.engine.paxos.value import encode
from paxmux.shards.alarms import Alarms

pytestmark = pytest.mark.plain("its groups derive from the class of groups")

NOW = 10**12
MEMBERS = Members({1: 11, 2: 12, 3: 13})


class Counted(Group):
    """Counts how often its timers are looked at, and has a timer of its own that is due again and again."""

    __slots__ = ("again", "rung")

    def on_timer(self, now: int, fx: Effects) -> int:
        self.rung.append(now)
        return min(super().on_timer(now, fx), now + self.again)


def groups_of(count: int, again: int = NEVER) -> dict[int, Group]:
    made: dict[int, Group] = {}
    for index in range(count):
        group = Counted(
            index, me=1, seat=11, incarnation=5, members=MEMBERS, rng=random.Random(index), now=NOW
        )
        group.again, group.rung = again, []
        made[index] = group
    return made


def rung(groups: dict[int, Group]) -> list[int]:
    """Which groups were looked at since the last call."""
    found = []
    for index, group in groups.items():
        assert isinstance(group, Counted)
        found += [index] * len(group.rung)
        group.rung.clear()
    return found


def started(groups: dict[int, Group]) -> Alarms:
    alarms, fx = Alarms(groups), Effects()
    for group in groups.values():
        group.start(NOW, fx)
    assert alarms.note(fx.timers) == NOW
    alarms.ring(NOW, Effects())
    assert rung(groups) == list(groups)
    return alarms


def test_only_who_is_due_is_looked_at() -> None:
    groups = groups_of(100)
    alarms, fx = started(groups), Effects()
    groups[7].wake(NOW + 5 * MS, fx)
    groups[3].wake(NOW + 5 * MS, fx)
    groups[9].wake(NOW + 6 * MS, fx)
    assert alarms.note(fx.timers) == NOW + 5 * MS == alarms.next_at
    alarms.ring(NOW + 4 * MS, Effects())
    assert rung(groups) == []
    alarms.ring(NOW + 5 * MS, Effects())
    assert rung(groups) == [3, 7]
    assert alarms.next_at == NOW + 6 * MS


def test_a_later_timer_than_the_one_asked_for_costs_nothing() -> None:
    groups = groups_of(1)
    alarms, fx = started(groups), Effects()
    groups[0].wake(NOW + 5 * MS, fx)
    groups[0].wake(NOW + 6 * MS, fx)
    assert fx.timers == [groups[0]]
    alarms.note(fx.timers)
    alarms.ring(NOW + 7 * MS, Effects())
    assert rung(groups) == [0], "once: the later one is looked at with the earlier one"


def test_where_a_timer_was_brought_forward_the_later_moment_still_rings_once() -> None:
    groups = groups_of(2)
    alarms = started(groups)
    learner = groups[0].learner
    position_at = learner.position_at
    for ahead in range(1, 20):
        fx = Effects()
        groups[0].wake(NOW + ahead * MS, fx)
        alarms.note(fx.timers)
        alarms.ring(NOW + ahead * MS, Effects())
    assert rung(groups) == [0] * 19
    assert groups[0].due == position_at, "what it had asked for before still stands"
    assert sum(len(there) for there in alarms._at.values()) == 2, "nothing is kept twice"
    alarms.ring(position_at, Effects())
    assert rung(groups).count(0) == 1
    assert learner.position_at > position_at


def test_who_is_not_hosted_any_more_is_passed_over_and_rings_when_it_is_back() -> None:
    groups = groups_of(2)
    alarms, fx = started(groups), Effects()
    groups[0].wake(NOW + 5 * MS, fx)
    alarms.note(fx.timers)
    gone = groups.pop(0)
    alarms.ring(NOW + 50 * MS, Effects())
    assert isinstance(gone, Counted)
    assert gone.rung == []
    groups[0] = gone
    fx = Effects()
    gone.start(NOW + 60 * MS, fx)
    alarms.note(fx.timers)
    alarms.ring(NOW + 60 * MS, Effects())
    assert gone.rung == [NOW + 60 * MS], "although its due of before has passed unheard"


def test_a_group_that_is_due_again_at_once_does_not_keep_the_others_waiting() -> None:
    groups = groups_of(3, again=0)
    alarms = started(groups)
    for later in range(3):
        alarms.ring(NOW + later, Effects())
        assert rung(groups) == [0, 1, 2], "one look for each in one ring"
        assert alarms.next_at == NOW + later


def test_what_an_instance_asked_for_wakes_no_other_role_once_it_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = Group(0, me=1, seat=11, incarnation=5, members=MEMBERS, rng=random.Random(3), now=NOW)
    fx = Effects()
    group.start(NOW, fx)
    position_at = group.on_timer(NOW, fx)
    group.due = position_at
    group.on_accept(2, (0, 0, 7, encode((), group.chain)), NOW + MS, fx)
    due = group.due
    assert due < position_at
    group.on_chosen(2, 0, 7, NOW + 2 * MS, fx)
    assert group.instance == 1
    looked: list[int] = []
    monkeypatch.setattr(Reader, "on_timer", lambda _reader, now, _fx: looked.append(now) or NEVER)
    assert group.on_timer(due, fx) == position_at
    assert looked == []
    assert group.on_timer(position_at, fx) > position_at
    assert looked == [position_at]


def test_no_groups_ring_never() -> None:
    alarms = Alarms({})
    alarms.ring(NOW, Effects())
    assert alarms.next_at == NEVER


def test_every_timer_of_a_group_is_asked_for() -> None:
    """Whatever a group waits for, `due` is not later: nobody else would look."""
    rng = random.Random(5)
    for seed in range(200):
        group = groups_of(1)[0]
        fx, now = Effects(), NOW
        group.start(now, fx)
        group.due = group.on_timer(now, fx)
        for step in range(30):
            now += rng.randrange(1, 400) * MS
            act = rng.randrange(8)
            peer, round = rng.choice((2, 3)), rng.randrange(1, 5)
            if act == 0:
                group.propose(seed * 100 + step, now + rng.randrange(1, 3000) * MS, 1, b"x", None, fx)
            elif act == 1:
                group.reader.join(1 << 20 | step, now + rng.randrange(1, 3000) * MS, fx)
            elif act == 2:
                group.on_prepare(peer, (0, group.instance, round), now, fx)
            elif act == 3:
                group.on_accept(peer, (0, group.instance, round, b"\0" * 8 + group.chain), now, fx)
            elif act == 4:
                group.proposer.on_synced(now, fx)
            elif act == 5:
                group.proposer.on_prepare_reply(peer, group.instance, round, 0, (0, 0), b"", now, fx)
            elif act == 6:
                group.proposer.on_accept_reply(peer, group.instance, round, (round, 3), now, fx)
            elif act == 7:
                group.forwarder.on_refusal(peer, (round, peer), now, fx)
            for ready in dict.fromkeys(fx.ready):
                ready.open(now, fx)
            fx.ready.clear()
            if group.due <= now:
                group.due = NEVER
                group.wake(group.on_timer(now, fx), fx)
            assert group.due <= soonest(group, now), f"seed {seed}, act {act}"


def soonest(group: Group, now: int) -> int:
    """The earliest timer that is set."""
    proposer, forwarder = group.proposer, group.forwarder
    due = [group.expire_at, group.learner.position_at, group.learner.leftover_at, group.reader.expire_at]
    if proposer.phase:
        due += [proposer.resend_at, proposer.phase_until]
    elif proposer.backoff_until > now and (group.own or proposer.completing):
        due.append(proposer.backoff_until)
    if forwarder.resend_at != NEVER:
        due += [forwarder.resend_at, forwarder.until or NEVER]
    for round in group.reader.rounds.values():
        due += [round.resend_at, round.complete_at]
    return min(due)
