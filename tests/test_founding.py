"""The founding: examples, and a model in which anything may be lost, late, doubled, restarted or wiped."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import pytest
from msgspec.structs import replace

from paxmux.engine.frame import FrameKind, pack_frame, parse_frame
from paxmux.engine.frame_header import FrameError
from paxmux.shards.boot import Founding
from paxmux.shards.cluster import cluster_id, is_sound, make_founding
from paxmux.shards.founding import Founder, Step
from paxmux.shards.hello import MAX_HELLO_BYTES, Hello, OtherVersion, pack_hello, parse_hello

GROUPS = 7
A, B, C, D = 1, 2, 3, 4


def founder(
    node: int,
    seat: int,
    *,
    members: tuple[int, ...] = (A, B, C),
    groups: int = GROUPS,
    step: Step | None = None,
    founds: bool = True,
    follower: bool = False,
) -> Founder:
    return Founder(
        node_id=node,
        seat=seat,
        incarnation=9,
        groups=groups,
        members=members,
        founding=step.founding if step else None,
        active=step.active if step else False,
        address=f"127.0.0.1:{node % 60_000 + 1}",
        founds=founds,
        follower=follower,
    )


def settle(node: Founder) -> list[Step]:
    steps = []
    while (step := node.wanted()) is not None:
        node.recorded(step)
        steps.append(step)
        assert len(steps) <= 2
    return steps


def exchange(*nodes: Founder) -> None:
    """Everybody tells everybody, until nothing changes."""
    for _ in range(4):
        for sender, receiver in itertools.permutations(nodes, 2):
            receiver.heard(sender.hello(ask=True))
            settle(receiver)


F = make_founding({A: 11, B: 12, C: 13}, GROUPS)


# --- examples ---------------------------------------------------------------------------------------


def test_a_single_node_founds_at_once() -> None:
    node = founder(A, 11, members=(A,))
    alone = make_founding({A: 11}, GROUPS)
    assert settle(node) == [Step(alone, False), Step(alone, True)]
    assert node.active
    assert not node.unseated


def test_three_fresh_nodes_found_one_cluster() -> None:
    nodes = [founder(A, 11), founder(B, 12), founder(C, 13)]
    exchange(*nodes)
    assert all(node.active and node.founding == F and not node.unseated for node in nodes)
    assert not any(node.waiting_for() for node in nodes)
    assert not any(node.refusals or node.notices for node in nodes)


def test_two_of_three_never_found() -> None:
    nodes = [founder(A, 11), founder(B, 12)]
    exchange(*nodes)
    assert all(node.founding is None for node in nodes)
    assert "0.0.0.0" not in (nodes[0].waiting_for() or "")
    assert nodes[0].waiting_for() == "no usable hello yet from 3"


def test_nothing_is_active_before_all_have_recorded() -> None:
    a, b, c = founder(A, 11), founder(B, 12), founder(C, 13)
    a.heard(b.hello(ask=True))
    a.heard(c.hello(ask=True))
    assert settle(a) == [Step(F, False)]
    b.heard(a.hello(ask=True))
    assert settle(b) == [Step(F, False)]
    a.heard(b.hello(ask=True))
    assert settle(a) == []
    assert a.waiting_for() == "not known to have recorded the founding: 3"
    c.heard(b.hello(ask=True))
    assert settle(c) == [Step(F, False)], "the founding of others names this very seat"
    a.heard(c.hello(ask=True))
    assert settle(a) == [Step(F, True)]
    b.heard(a.hello(ask=True))
    assert settle(b) == [Step(F, True)], "told by a member that is active"


def test_nothing_changes_before_the_step_is_durable() -> None:
    a = founder(A, 11)
    a.heard(founder(B, 12).hello(ask=True))
    a.heard(founder(C, 13).hello(ask=True))
    assert a.wanted() == Step(F, False)
    assert a.hello(ask=True).founding is None
    assert a.wanted() == Step(F, False)


def test_a_wiped_node_learns_once_a_majority_is_active() -> None:
    active = Step(F, True)
    a, b, c = founder(A, 11, step=active), founder(B, 12, step=active), founder(C, 99)
    c.heard(a.hello(ask=False))
    assert settle(c) == []
    assert "seat 0xd, this one is 0x63" in (c.waiting_for() or "")
    c.heard(b.hello(ask=False))
    assert settle(c) == [active]
    assert c.unseated
    a.heard(c.hello(ask=False))
    assert "its votes do not count" in a.notices[C]
    assert a.heard_from(C) == c.hello(ask=False)


def test_an_unseated_node_does_not_count_as_a_seat_that_recorded() -> None:
    active = Step(F, True)
    a, c = founder(A, 99), founder(C, 98, step=active)
    a.heard(c.hello(ask=True))
    a.heard(founder(B, 12).hello(ask=True))
    assert settle(a) == [], "one seated witness is needed for each of a majority"
    a.heard(founder(B, 12, step=active).hello(ask=True))
    assert settle(a) == [], "the learner is no witness"


def test_two_wiped_of_three_never_found_a_new_history() -> None:
    for step in (Step(F, False), Step(F, True)):
        a, b, c = founder(A, 11, step=step), founder(B, 98), founder(C, 99)
        exchange(a, b, c)
        assert a.founding == F
        assert b.founding is None
        assert c.founding is None


def test_a_seat_that_changes_before_the_founding_is_complete_is_named() -> None:
    a, b, c = founder(A, 11), founder(B, 12), founder(C, 13)
    a.heard(b.hello(ask=True))
    a.heard(c.hello(ask=True))
    settle(a)
    wiped = founder(C, 99)
    b.heard(wiped.hello(ask=True))
    exchange(a, b, wiped)
    assert a.founding == F
    assert not a.active
    assert b.founding is None, "useless, so not recorded"
    assert "node 3 changed its data directory (seat 0xd, now 0x63)" in a.notices[C]
    exchange(a, b, c)
    assert a.active
    assert b.active
    assert c.active
    assert a.notices == {}


def test_an_old_copy_of_a_directory_is_not_taken_back() -> None:
    active = Step(F, True)
    a, b, c = founder(A, 11, step=active), founder(B, 12, step=active), founder(C, 13)
    exchange(a, b, c)
    assert c.founding is None
    assert "an old copy" in (c.waiting_for() or "")


def test_other_groups_versions_members_and_clusters_are_refused_by_name() -> None:
    a = founder(A, 11)
    b = founder(B, 12).hello(ask=True)
    other = make_founding({A: 31, B: 12, C: 33}, GROUPS)
    mine = "this node 1 and 1"
    for other_b, text in (
        (replace(b, groups=8), "node 2 has 8 groups, this node 7"),
        (replace(b, groups=300, wire=2), "node 2 has 300 groups, this node 7"),
        (replace(b, wire=2), f"node 2 speaks wire version 2 and disk version 1, {mine}"),
        (replace(b, disk=3), f"node 2 speaks wire version 1 and disk version 3, {mine}"),
        (replace(b, members=[A, B]), "node 2 has the members 1, 2, this node 1, 2, 3"),
    ):
        a.heard(b)
        assert a.refusals == {}
        a.heard(other_b)
        assert a.refusals == {B: text}
        a.heard(founder(C, 13).hello(ask=True))
        assert a.wanted() is None, "what B said before counts no more"
    a.heard(b)
    settle(a)
    assert a.founding == F
    a.heard(founder(B, 12, step=Step(other, False)).hello(ask=True))
    assert a.refusals == {B: f"node 2 belongs to cluster {other.cluster:#x}, this node to {F.cluster:#x}"}


def test_a_stored_founding_counts_and_not_the_members_of_the_config() -> None:
    a = founder(A, 11, members=(A, B), step=Step(F, False))
    b = founder(B, 12, step=Step(F, True))
    a.heard(b.hello(ask=False))
    assert a.refusals == {}
    assert settle(a) == [Step(F, True)]


def test_a_recorded_founding_is_never_replaced() -> None:
    a = founder(A, 11, step=Step(F, False))
    with pytest.raises(ValueError, match="never replaced"):
        a.recorded(Step(make_founding({A: 11, B: 22, C: 23}, GROUPS), False))
    with pytest.raises(ValueError, match="this node's own"):
        a.heard(founder(A, 11).hello(ask=True))
    with pytest.raises(ValueError, match="not among the members"):
        founder(4, 14)
    with pytest.raises(ValueError, match="not in the founding that it recorded"):
        founder(4, 14, founds=False, step=Step(F, False))


# --- who comes later --------------------------------------------------------------------------------


def active_three() -> list[Founder]:
    return [founder(node, seat, step=Step(F, True)) for node, seat in F.seats.items()]


@pytest.mark.parametrize("members", [(A, B, C), (A, B, C, D), (B, C)])
@pytest.mark.parametrize("follower", [False, True])
def test_who_joins_waits_for_a_majority_that_is_active(members: tuple[int, ...], follower: bool) -> None:
    late = founder(D, 14, members=members, founds=False, follower=follower)
    assert late.role == ("follower" if follower else "joining")
    fresh = [founder(node, seat) for node, seat in F.seats.items()]
    for node in fresh:
        late.heard(node.hello(ask=True))
        assert not node.admits(late.hello(ask=True)), "there is no cluster to be a guest of"
        recorded = founder(node.node_id, node.seat, step=Step(F, False))
        assert not recorded.admits(late.hello(ask=True))
        late.heard(recorded.hello(ask=True))
        assert late.wanted() is None
    assert late.waiting_for() == "the members have not founded a cluster yet"
    active = active_three()
    assert all(node.admits(late.hello(ask=True)) == (node.node_id in members) for node in active)
    late.heard(active[2].hello(ask=False))
    assert late.wanted() is None, "one may be wrong"
    assert late.waiting_for() == "too few members say that they are in a founded cluster: only 3"
    late.heard(active[1].hello(ask=False))
    assert settle(late) == [Step(F, True)]
    assert late.unseated
    assert not late.lost_seat
    assert late.role == ("follower" if follower else "joining")
    for node in active:
        assert node.admits(late.hello(ask=True))
        node.heard(late.hello(ask=True))
        assert node.refusals == node.notices == {}
    again = founder(D, 14, members=members, founds=False, follower=follower, step=Step(F, True))
    assert again.active, "what it has recorded stays"


def test_a_joiner_is_in_no_founding() -> None:
    a, b, late = founder(A, 11, members=(A, B)), founder(B, 12, members=(A, B)), founder(C, 13, founds=False)
    exchange(a, b)
    assert a.active
    assert set(a.founding.seats if a.founding else ()) == {A, B}
    other = [founder(node, seat) for node, seat in ((A, 11), (B, 12))]
    exchange(*other, late)
    assert all(node.founding is None for node in (*other, late)), "the third founder does not want to be one"


def test_what_is_seated_later_is_a_member_and_counts_as_one() -> None:
    """All founders were replaced: who comes then learns of the founding from their successors."""
    successors = [
        founder(node, 10 + node, members=(A, B, C), founds=False, step=Step(F, True)) for node in (4, 5, 6)
    ]
    late = founder(7, 17, members=(4, 5, 6), founds=False)
    for node in successors:
        late.heard(node.hello(ask=False))
    assert late.wanted() is None, "none of them votes, as founded"
    for node in successors:
        node.seated = True
        assert node.role == "member"
        late.heard(node.hello(ask=False))
    assert settle(late) == [Step(F, True)]
    wiped = founder(B, 98, members=(A, B, C), step=Step(F, True))
    assert (wiped.role, wiped.lost_seat) == ("joining", True)
    successors[0].heard(wiped.hello(ask=False))
    assert "until a membership operation has seated it" in successors[0].notices[B]
    wiped.seated = True
    successors[0].heard(wiped.hello(ask=False))
    assert (wiped.role, wiped.lost_seat, successors[0].notices) == ("member", False, {})
    removed = founder(A, 11, step=Step(F, True))
    removed.seated = False
    assert removed.role == "joining"


def test_lists_that_differ_later_refuse_nobody() -> None:
    a, b, c = active_three()
    others = [
        founder(B, 12, members=(B,), step=Step(F, True)),
        founder(B, 12, members=(B, 7, 8), step=Step(F, True)),
        founder(B, 99, members=(A, B)),
        founder(D, 14, members=(A, B, C, D)),
        founder(D, 14, members=(A,), founds=False),
        founder(D, 14, members=(C,), founds=False, step=Step(F, True)),
    ]
    for other in others:
        a.heard(other.hello(ask=True))
        assert a.refusals == {}
        other.heard(c.hello(ask=False))
        assert other.refusals == {}
    other = make_founding({A: 31, B: 12, C: 33}, GROUPS)
    for stranger in (
        founder(D, 14, members=(B, C), founds=False),
        founder(D, 14, members=(A,), founds=False, groups=8),
        founder(D, 14, members=(A,), founds=False, step=Step(other, True)),
    ):
        assert not a.admits(stranger.hello(ask=True))
    configured_for_four = founder(D, 14, members=(A, B, C, D))
    for node in (a, b):
        configured_for_four.heard(node.hello(ask=False))
    assert settle(configured_for_four) == [Step(F, True)], "it comes too late to found, and joins"
    assert configured_for_four.unseated


def test_the_cluster_id_depends_on_all_it_names() -> None:
    ids = {
        cluster_id({A: 11, B: 12}, 7),
        cluster_id({A: 11, B: 12}, 8),
        cluster_id({A: 11, B: 13}, 7),
        cluster_id({A: 12, B: 11}, 7),
        cluster_id({A: 11, C: 12}, 7),
        cluster_id({A: 11}, 7),
    }
    assert len(ids) == 6
    assert cluster_id({B: 12, A: 11}, 7) == cluster_id({A: 11, B: 12}, 7)
    assert is_sound(F, GROUPS)
    assert not is_sound(F, GROUPS + 1)
    assert not is_sound(Founding(cluster=cluster_id({}, 1), seats={}), 1)


# --- the hello on the wire --------------------------------------------------------------------------


def read(frame: bytes) -> Hello:
    return parse_hello(parse_frame(frame), frame[128:])


def framed(body: bytes, *, sender: int = A, cluster: int = 0, groups: int = 0) -> bytes:
    return pack_frame(
        FrameKind.HELLO, body, cluster=cluster, sender=sender, seat=11, incarnation=9, dest=B, groups=groups
    )


def test_a_hello_survives_the_wire() -> None:
    for step in (None, Step(F, False), Step(F, True)):
        for ask in (True, False):
            hello = founder(A, 11, step=step).hello(ask=ask)
            assert read(pack_hello(hello, B)) == hello
    hello = founder(A, 11).hello(ask=True, addresses={2**64 - 1: "[::1]:5", 7: "db-1.example:65535"})
    assert read(pack_hello(hello, B)) == hello
    hello = founder(D, 11, founds=False, step=Step(F, True)).hello(ask=True)
    assert read(pack_hello(hello, B)) == hello
    big = make_founding({A: 2**64 - 1, 2**64 - 1: 5}, 256)
    hello = founder(A, 2**64 - 1, members=(A, 2**64 - 1), groups=256, step=Step(big, True)).hello(ask=True)
    assert read(pack_hello(hello, B)) == hello


def test_a_hello_of_another_version_is_named() -> None:
    body = b'{"wire":3,"disk":5,"node_id":1,"news":[{}]}'
    with pytest.raises(OtherVersion, match="node 1 speaks wire version 3 and disk version 5, this"):
        read(framed(body))
    with pytest.raises(FrameError, match="different nodes"):
        read(framed(body, sender=C))


def _bad_bodies() -> Iterator[tuple[str, bytes]]:
    good = msgspec.to_builtins(founder(A, 11, step=Step(F, True)).hello(ask=True))

    def changed(**fields: object) -> bytes:
        return msgspec.json.encode({**good, **fields})

    yield "empty", b""
    yield "no json", b"\xff\xfe\x00"
    yield "bad utf-8", b'{"wire":1,"disk":1,"node_id":1,"x":"\xff"}'
    yield "array", b"[1,2,3]"
    yield "deep", b"[" * 60_000
    yield "too long", b" " * MAX_HELLO_BYTES + changed()
    yield "huge number", b'{"wire":1,"disk":1,"node_id":' + b"9" * 5000 + b"}"
    yield "unknown field", changed(extra=1)
    yield "no seat", msgspec.json.encode({k: v for k, v in good.items() if k != "seat"})
    yield "text for a number", changed(groups="7")
    yield "float", changed(groups=7.0)
    yield "other seat", changed(seat=12)
    yield "other incarnation", changed(incarnation=10)
    yield "other node", changed(node_id=2)
    yield "member 0", changed(members=[0, A, B, C])
    yield "member too large", changed(members=[A, B, C, 2**64])
    yield "members not sorted", changed(members=[B, A, C])
    yield "members doubled", changed(members=[A, A, B, C])
    yield "a founder that is not a member", changed(members=[B, C], founding=None, active=False)
    yield "another role", changed(role="master")
    yield "a member that asks for a seat", changed(rejoin=True)
    yield "too many addresses", changed(addresses=dict.fromkeys(range(1, 66), "127.0.0.1:1"))
    yield "an address of nobody", changed(addresses={0: "127.0.0.1:1"})
    yield "an address without a port", changed(addresses={5: "127.0.0.1"})
    yield "an address that names a node", changed(address="1@127.0.0.1:1")
    yield "an address that nobody reaches", changed(address="0.0.0.0:1")
    yield "an endless address", changed(address="a" * 400 + ":1")
    yield "active without founding", changed(founding=None)
    yield "wrong cluster", changed(founding={"cluster": 5, "seats": {"1": 11, "2": 12, "3": 13}})
    yield "other groups", changed(groups=8)
    yield "seat 0", changed(founding=msgspec.to_builtins(make_founding({A: 0, B: 12}, GROUPS)))
    yield (
        "sender not in the founding that it waits for",
        changed(founding=msgspec.to_builtins(make_founding({B: 12}, GROUPS)), active=False),
    )


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in _bad_bodies()])
def test_what_is_no_hello_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        read(framed(body))
    assert caught.value.reason == "hello"


def test_a_hello_names_no_cluster_and_no_groups() -> None:
    body = msgspec.json.encode(founder(A, 11).hello(ask=True))
    assert read(framed(body)).seat == 11
    for frame in (framed(body, cluster=5), framed(body, groups=1)):
        with pytest.raises(FrameError, match="cluster or groups"):
            read(frame)


# --- the model --------------------------------------------------------------------------------------


class Disk(NamedTuple):
    """What survives a crash of one node."""

    seat: int
    step: Step | None = None


class World:
    """Nodes with disks, and a network that may deliver any hello ever sent, at any time, to anybody,
    any number of times, or never. Nodes crash (also between a write and what follows it) and are
    wiped at any point. One more node may join, which is in nobody's list."""

    def __init__(self, size: int, *, joiner: bool = False) -> None:
        self.founders = tuple(range(1, size + 1))
        self.nodes = (*self.founders, size + 1) if joiner else self.founders
        self.next_seat = 100
        self.disks: dict[int, Disk] = {}
        self.up: dict[int, Founder] = {}
        self.sent: dict[tuple[object, ...], Hello] = {}
        self.voted: dict[tuple[int, int], Founding] = {}
        """Every seat that ever voted, and the founding under which it did."""
        for node in self.nodes:
            self.wipe(node)

    def clone(self) -> World:
        other = copy.copy(self)
        other.disks = dict(self.disks)
        other.sent = dict(self.sent)
        other.voted = dict(self.voted)
        other.up = {}
        for node, old in self.up.items():
            new = other.up[node] = copy.copy(old)
            new._heard = dict(old._heard)
            new._recorded_by = dict(old._recorded_by)
            new.refusals = dict(old.refusals)
            new.notices = dict(old.notices)
        return other

    def wipe(self, node: int) -> None:
        self.disks[node] = Disk(self.next_seat)
        self.next_seat += 1
        self.restart(node)

    def restart(self, node: int) -> None:
        disk = self.disks[node]
        founds = node in self.founders
        self.up[node] = founder(node, disk.seat, members=self.founders, step=disk.step, founds=founds)
        self._say(node)

    def deliver(self, node: int, hello: Hello, *, crash: str | None = None) -> None:
        me = self.up[node]
        if hello.node_id in self.founders or me.admits(hello):
            me.heard(hello)
        while (step := me.wanted()) is not None:
            if crash == "before the write":
                self.restart(node)
                break
            assert step.active or node in self.founders, "a joiner records what is complete"
            assert step.founding.seats.keys() == set(self.founders)
            self.disks[node] = Disk(self.disks[node].seat, step)
            self.check()
            if crash == "after the write":
                self.restart(node)
                break
            me.recorded(step)
            self._say(node)
        assert self.disks[node].step is None or self.disks[node].step.founding is not None

    def _say(self, node: int) -> None:
        hello = self.up[node].hello(ask=True)
        self.sent[(node, hello.seat, hello.founding and hello.founding.cluster, hello.active)] = hello

    def check(self) -> None:
        """Never two active foundings among the directories that exist and may vote; never one seat
        under two foundings; and an old active founding has no seat left."""
        voters = {
            node: disk.step.founding
            for node, disk in self.disks.items()
            if disk.step is not None and disk.step.active and disk.step.founding.seats.get(node) == disk.seat
        }
        assert len({founding.cluster for founding in voters.values()}) <= 1
        for node, founding in voters.items():
            seat = self.disks[node].seat
            assert self.voted.setdefault((node, seat), founding) == founding
        for node, disk in self.disks.items():
            for founding in voters.values():
                other = disk.step is not None and disk.step.founding != founding
                if other and disk.step is not None and disk.step.active:
                    # Only a learner, and only by hellos of dead directories, may be behind.
                    assert disk.step.founding.seats.get(node) != disk.seat
        for founding in self.voted.values():
            alive = [n for n in self.founders if founding.seats[n] == self.disks[n].seat]
            believed = [f for f in voters.values() if f != founding]
            assert not (alive and believed), "a seat of an older founding outlived it"

    def key(self) -> tuple[object, ...]:
        return (
            tuple(
                (node, disk.seat, disk.step and (disk.step.founding.cluster, disk.step.active))
                for node, disk in sorted(self.disks.items())
            ),
            tuple(
                (
                    node,
                    tuple(sorted((p, h.seat, _id(h.founding), h.active) for p, h in me._heard.items())),
                    tuple(sorted((p, _id(f)) for p, f in me._recorded_by.items())),
                )
                for node, me in sorted(self.up.items())
            ),
            frozenset(self.sent),
        )


def _id(founding: Founding | None) -> int:
    return founding.cluster if founding is not None else 0


CRASHES = (None, "before the write", "after the write")


@pytest.mark.parametrize(
    ("founders", "joiner", "wipes", "crashes"),
    [(2, False, 2, CRASHES), (1, True, 2, CRASHES), (2, True, 0, CRASHES[:1])],
    ids=["two", "one and a joiner", "two and a joiner"],
)
def test_every_order_of_a_few_nodes(
    founders: int, joiner: bool, wipes: int, crashes: tuple[str | None, ...]
) -> None:
    """Exhaustive: all reachable states of a few nodes, each of whose hellos may arrive at any time."""
    start = World(founders, joiner=joiner)
    last_seat = start.next_seat + wipes
    seen = {start.key()}
    todo = [start]
    active, joined = 0, False
    while todo:
        world = todo.pop()
        for node in world.nodes:
            choices = [("restart", None, None)]
            if world.next_seat < last_seat:
                choices.append(("wipe", None, None))
            choices += [
                ("deliver", hello, crash)
                for hello in world.sent.values()
                if hello.node_id != node
                for crash in crashes
            ]
            for what, hello, crash in choices:
                after = world.clone()
                if what == "wipe":
                    after.wipe(node)
                elif what == "restart":
                    after.restart(node)
                else:
                    assert hello is not None
                    after.deliver(node, hello, crash=crash)
                after.check()
                key = after.key()
                if key not in seen:
                    seen.add(key)
                    todo.append(after)
                    active += bool(after.voted)
                    joined |= any(after.up[node].active for node in after.nodes if node not in after.founders)
    assert len(seen) > 1000
    assert active > 100
    assert joined == joiner


@pytest.mark.parametrize("joiner", [False, True])
@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_random_lives_of_a_cluster(size: int, seed: int, joiner: bool) -> None:
    """Any hello ever sent may arrive; now and then a node, or all of them, is wiped."""
    rng = random.Random(f"{size} {seed}")
    founded = refounded = learners = joined = 0
    for _ in range(250):
        world = World(size, joiner=joiner)
        calm = rng.random()
        came = False
        for _ in range(rng.randrange(30, 200) * (2 if joiner else 1)):
            node = rng.choice(world.nodes)
            dice = rng.random()
            if dice < 0.01:
                for each in world.nodes:
                    world.wipe(each)
            elif dice < 0.01 + 0.06 * calm:
                world.wipe(node)
            elif dice < 0.1:
                world.restart(node)
            else:
                hellos = [hello for hello in world.sent.values() if hello.node_id != node]
                if rng.random() < 0.7:
                    hellos = hellos[-2 * size :]
                world.deliver(node, rng.choice(hellos), crash=rng.choices(CRASHES, (8, 1, 1))[0])
            came |= joiner and world.up[size + 1].active
            world.check()
        clusters = {founding.cluster for founding in world.voted.values()}
        founded += bool(clusters)
        refounded += len(clusters) > 1
        learners += any(me.active and me.lost_seat for me in world.up.values())
        joined += came
    assert (joined > 2) == joiner
    assert founded > 25, "the model must reach what it is about"
    assert learners > 0
    if size == 3:
        assert refounded > 0


@pytest.mark.parametrize("seed", range(3))
def test_with_a_network_in_order_it_ends_well(seed: int) -> None:
    """Fresh hellos only, restarts at any point, no wipe: all become active with one founding. After
    that, a wiped minority learns, and a wiped majority waits for ever."""
    rng = random.Random(seed)
    for _ in range(60):
        size = rng.choice((1, 2, 3, 5))
        world = World(size)
        for _ in range(40):
            node = rng.choice(world.nodes)
            if size == 1:
                settle(world.up[node])
                world.disks[node] = Disk(world.disks[node].seat, Step(world.up[node].founding, True))  # type: ignore[arg-type]
                break
            peer = rng.choice([other for other in world.nodes if other != node])
            world.deliver(node, world.up[peer].hello(ask=True), crash=rng.choice(CRASHES))
        _all_to_all(world)
        foundings = {_id(world.up[node].founding) for node in world.nodes}
        assert len(foundings) == 1
        assert all(me.active and not me.unseated for me in world.up.values())
        if size < 3:
            continue
        lost = rng.sample(world.nodes, rng.randrange(1, size))
        for node in lost:
            world.wipe(node)
        _all_to_all(world)
        majority = size - len(lost) > size // 2
        for node in lost:
            me = world.up[node]
            assert (me.active, me.unseated) == (majority, majority)
            assert _id(me.founding) in ({*foundings} if majority else {0})


def _all_to_all(world: World) -> None:
    for _ in range(4):
        for sender, receiver in itertools.permutations(world.nodes, 2):
            world.deliver(receiver, world.up[sender].hello(ask=True))
