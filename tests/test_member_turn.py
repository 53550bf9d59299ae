"""Members in a worker's turn: what is asked, who hears of the next instance, what the node is told."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from paxmux.engine.errors import Code
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.messages import Batch as Messages
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS, NEVER
from paxmux.shards import membership
from paxmux.shards.boot import MembersTold
from paxmux.shards.child import ControlError
from paxmux.shards.members_teller import MembersTeller, messages
from paxmux.shards.membership import Membership
from paxmux.shards.requests import Batch, CallKind, Reply
from paxmux.shards.turn import Turn
from tests.test_turn import LATER, NOW, SEATS, frame, make, single

Places = Mapping[int, tuple[int, str]]


def ask(turn: Turn, kind: CallKind, payload: bytes = b"", deadline: int = LATER, seq: int = 77) -> None:
    turn.run(NOW, [], [Batch([], [(seq, kind, 0, deadline, 0, payload)])])
    for _ in range(6):
        turn.run(NOW)


def change(turn: Turn, members: Places, version: int = -1, cluster: int = 0) -> Reply:
    """A change that is proposed and, where it can be, decided."""
    ask(turn, CallKind.CHANGE_MEMBERS, membership.encode(Membership(cluster, version, dict(members))))
    return turn.replies.pop()


def read(turn: Turn) -> Membership:
    ask(turn, CallKind.MEMBERS)
    reply = turn.replies.pop()
    assert reply[1] == Code.OK
    return membership.decode(reply[4] or b"")


def test_the_members_are_told_with_how_long_they_are_silent() -> None:
    turn, *_ = make()
    assert read(turn) == Membership(0, -1, {1: (11, ""), 2: (12, ""), 3: (13, "")}, {1: 0, 2: 0, 3: 0})
    turn.run(NOW + 30 * MS, [frame(Messages(), 2, 12), frame(Messages(), 3, 99)])
    turn.run(NOW + 50 * MS, [], [Batch([], [(5, CallKind.MEMBERS, 0, LATER, 0, b"")])])
    said = membership.decode(turn.replies.pop()[4] or b"")
    # Who comes in another seat is not the member.
    assert said.silent_ms == {1: 0, 2: 20, 3: 50}


def test_a_change_is_decided_and_answered_once_it_is() -> None:
    turn, _, _ = single()
    seq, code, instance, _, _ = change(turn, {1: (11, "a:1")})
    assert (seq, code, instance) == (77, Code.OK, 0)
    assert read(turn) == Membership(0, 0, {1: (11, "a:1")}, {1: 0})


@pytest.mark.parametrize(
    ("members", "version", "cluster", "code"),
    [
        ({1: (11, "a:1")}, 5, 0, Code.MEMBERSHIP_CHANGED),
        ({1: (11, "a:1")}, -1, 9, Code.OTHER_CLUSTER),
        ({}, -1, 0, Code.BAD_OPTIONS),
    ],
)
def test_what_cannot_be_proposed_is_answered_at_once(
    members: Places, version: int, cluster: int, code: Code
) -> None:
    turn, _, _ = single()
    reply = change(turn, members, version, cluster)
    assert (reply[1], bool(reply[4])) == (code, True)
    assert read(turn).version == -1


def test_what_is_no_change_is_an_error() -> None:
    turn, _, _ = single()
    ask(turn, CallKind.CHANGE_MEMBERS, b"nonsense")
    assert turn.replies.pop()[1] == Code.SYSTEM_ERROR
    ask(turn, CallKind.CHANGE_MEMBERS, msgspec.msgpack.encode([1, 2]))
    assert turn.replies.pop()[1] == Code.SYSTEM_ERROR


def test_a_node_without_a_seat_changes_nothing() -> None:
    turn, *_ = make({2: 12, 3: 13})
    assert change(turn, {1: (11, "")})[1] == Code.NOT_A_MEMBER


def test_whoever_is_added_and_never_catches_up_is_a_timeout() -> None:
    turn, _, _ = single()
    wanted = membership.encode(Membership(0, -1, {1: (11, ""), 2: (12, "")}))
    ask(turn, CallKind.CHANGE_MEMBERS, wanted, deadline=NOW + 10 * MS)
    assert not turn.replies
    turn.run(NOW + 20 * MS)
    (reply,) = turn.replies
    assert reply[:2] == (77, Code.TIMEOUT)
    assert b"caught up" in (reply[4] or b"")
    assert turn.calls.members.take_out(0) == []


def test_a_change_without_an_answer_goes_with_its_group() -> None:
    turn, _, _ = single()
    wanted = membership.encode(Membership(0, -1, {1: (11, ""), 2: (12, "")}))
    ask(turn, CallKind.CHANGE_MEMBERS, wanted)
    _, _, calls = turn.let_go(0)
    assert calls == [(77, CallKind.CHANGE_MEMBERS, 0, LATER, 0, wanted)]
    turn.close()
    assert not turn.replies, "it is another worker's to answer"


def test_the_end_of_a_worker_answers_what_is_left() -> None:
    turn, _, _ = single()
    wanted = membership.encode(Membership(0, -1, {1: (11, ""), 2: (12, "")}))
    ask(turn, CallKind.CHANGE_MEMBERS, wanted, deadline=NEVER)
    turn.close()
    assert [reply[:2] for reply in turn.replies] == [(77, Code.TIMEOUT)]


def test_new_members_hear_of_the_next_instance_and_old_ones_do_not() -> None:
    turn, events, *_ = make()
    assert turn.peers.nodes == (2, 3)
    group = turn.groups[0]
    group.members = Members({1: 11, 3: 13, 4: 14}, since=1)
    turn.fx.members_changed.append(group)
    turn.fx.now.all.asks.append((0, 1))
    turn.run(NOW)
    assert turn.peers.nodes == (3, 4)
    assert len(events.frames) == 2
    assert set(turn.intake.heard) == {(3, 13), (4, 14)}


def test_the_node_is_told_at_the_start_and_at_each_change_until_it_reads() -> None:
    turn, *_ = make()
    said: list[MembersTold] = []
    deaf = [True]

    def tell(message: MembersTold) -> None:
        if deaf[0]:
            raise ControlError("it does not read")
        said.append(message)

    teller = MembersTeller(turn, tell)
    teller.tell()
    assert teller.waiting
    assert not said
    deaf[0] = False
    teller.tell()
    founded = {node: (seat, "") for node, seat in SEATS.items()}
    assert said == [MembersTold(members=founded, versions={0: -1})]
    for version in (3, 9):
        assert not teller.waiting
        turn.groups[0].members = Members({1: 11}, since=version + 1, addresses={1: "a:1"})
        turn.fx.members_changed.append(turn.groups[0])
        turn.run(NOW)
        assert teller.waiting
        teller.tell()
        assert said[-1] == MembersTold(members={1: (11, "a:1")}, versions={0: version})
    turn.peers.changed.add(5)
    teller.tell()
    assert not teller.waiting, "who is not here is another worker's to tell of"
    assert len(said) == 3


def test_groups_with_the_same_members_share_a_message() -> None:
    groups = [make()[0].groups[0] for _ in range(5)]
    for index, group in enumerate(groups):
        group.index = index
    groups[3].members = Members({1: 11}, since=8)
    told = messages(groups)
    assert [message.versions for message in told] == [{0: -1, 1: -1, 2: -1, 4: -1}, {3: 7}]


def test_answers_of_a_turn_are_handed_on_once() -> None:
    turn, _, _ = single()
    fx = Effects()
    fx.answered.append((5, Code.MEMBERSHIP_CHANGED, 0, None))
    turn.calls.members.answered(fx)
    assert [reply[:2] for reply in turn.replies] == [(5, Code.MEMBERSHIP_CHANGED)]
    assert not fx.answered
