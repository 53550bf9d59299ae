"""The 27 unit tests of the reference (9.4), in the form that their subject has here.

Each test says its number and name there. Where the same thing exists it is tested; where another one has its
place, that one is:

| reference | here |
| --- | --- |
| 1, 2, 4, 5 acceptor | the same; an equal ballot that is durable already is not written again |
| 3, 6 PersistFail | a failed write stops the worker: nothing is answered, nothing is tried again |
| 7 ClearAllLog | logs are not cleared: one that is gone is never begun anew, and its data are gone with it |
| 9 Del | nothing is deleted yet: only a later record takes the place of an earlier one |
| 8, 10 | the same, over each implementation of a log; `HardState.instance` is the maximum |
| 11 MinChosen | nothing is removed from a log yet: the smallest is 0, the largest decided one is stored |
| 12 SystemVariables | the membership: the founding in the data directory |
| 13 MasterVariables | there is no master yet; what one stores will be values, which come back unchanged |
| 14, 15 node ids | the same |
| 16-22 proposer | the same, but that after a reject no ballot is held (the reference skips Prepare there) |
| 23, 24 timers | the deadlines of a turn: exact, in the order of time |
| 25, 26 lock | what is proposed while an instance is open waits for the next one, until its deadline |
| 27 too many waiters | admission |
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from paxmux.engine.address import pack_node_id, unpack_node_id
from paxmux.engine.errors import Code, Overloaded, StorageFailed
from paxmux.engine.options import LimitOptions, ProposalOptions, TimerOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.acceptor import Acceptor
from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.effects import ACCEPT, DECIDED, LEARNED, PROMISE, Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.proposer import Phase
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import DEFAULT_TIMERS, EXPIRE_GAP, MS
from paxmux.engine.storage import Log, LogIdentity, StorageDamaged
from paxmux.plugins.storage.memory import MemoryDisk, MemoryLog
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.shards.admission import Admission
from paxmux.shards.cluster import make_founding
from paxmux.shards.identity import create, open_data_dir, read_identity
from tests.scenario_world import Node, World

A, B, C, D, E = 1, 2, 3, 4, 5
NOW = 10_000 * MS
LATER = NOW + 60_000 * MS
MINE, FIRST, SECOND = (
    values.encode([(node, 1, 1, 0, 1, payload)])
    for node, payload in ((A, b"mine"), (B, b"first"), (D, b"second"))
)

# Acceptor


def test_01_on_prepare_promise() -> None:
    """1, OnPrepare_Promise: higher, equal and again higher ballots are promised."""
    acceptor, fx = Acceptor(0), Effects()
    for ballot in ((8, B), (8, B), (10, B)):
        assert acceptor.promise(0, ballot, fx) == NULL
        assert acceptor.promised == ballot
    assert fx.records == [(PROMISE, 0, 0, 8, B, b""), (PROMISE, 0, 0, 10, B, b"")]


def test_02_on_prepare_reject() -> None:
    """2, OnPrepare_Reject: a lower ballot changes and writes nothing, and is told the promise."""
    acceptor, fx = Acceptor(0, promised=(10, B)), Effects()
    for ballot in ((9, C), (10, A)):
        assert acceptor.promise(0, ballot, fx) == (10, B)
    assert acceptor.promised == (10, B)
    assert fx.records == []


def test_04_on_accept_pass() -> None:
    """4, OnAccept_Pass: higher, higher and equal ballots; each stores promise, ballot and value."""
    acceptor, fx = Acceptor(0), Effects()
    for ballot, value in (((8, B), b"one"), ((10, B), b"two"), ((10, B), b"two")):
        assert acceptor.accept(0, ballot, value, fx) == NULL
        assert (acceptor.promised, acceptor.accepted, acceptor.value) == (ballot, ballot, value)
    assert fx.records == [(ACCEPT, 0, 0, 8, B, b"one"), (ACCEPT, 0, 0, 10, B, b"two")]


def test_05_on_accept_reject() -> None:
    """5, OnAccept_Reject: a lower ballot writes nothing and accepts nothing."""
    acceptor, fx = Acceptor(0, promised=(10, B)), Effects()
    assert acceptor.accept(0, (9, C), b"late", fx) == (10, B)
    assert (acceptor.promised, acceptor.accepted, acceptor.value) == ((10, B), NULL, b"")
    assert fx.records == []


def two_nodes(**limits: int) -> tuple[World, Node, Node]:
    """Nodes 1 and 2 of a cluster of two, up, with nothing on the wire."""
    world = World(2, 1, TimerOptions(), ProposalOptions(), LimitOptions(**limits))
    for node in world.nodes.values():
        node.start()
        node.run()
    world.settle()
    world.take_events()
    return world, world.nodes[1], world.nodes[2]


def fail_the_write(world: World, node: Node) -> None:
    """What is on the wire reaches `node`, whose disk fails in this turn."""
    packets, world.wire = world.wire, []
    world.arrive(packets)
    node.step()
    node.send_now()
    node.log.fail("the write failed")
    with pytest.raises(StorageFailed):
        node.turn.persist()
    with pytest.raises(StorageFailed):
        node.turn.persist()


def test_03_on_prepare_persist_fail() -> None:
    """3, OnPrepare_PersistFail: the worker stops. No promise is written or sent, then or later."""
    world, one, two = two_nodes()
    one.propose(b"x", 0, 60_000)
    one.run()
    fail_the_write(world, two)
    assert world.wire == []
    assert two.disk.batches == []


def test_06_on_accept_persist_fail() -> None:
    """6, OnAccept_PersistFail: the same with an accept; what was promised before stays."""
    world, one, two = two_nodes()
    one.propose(b"x", 0, 60_000)
    for node in (one, two, one):
        packets, world.wire = world.wire, []
        world.arrive(packets)
        node.run()
    fail_the_write(world, two)
    assert world.wire == []
    assert [record[0] for batch in two.disk.batches for record in batch] == [PROMISE]
    assert one.turn.groups[0].instance == 0


# Storage

IDENTITY = LogIdentity(cluster=7, node=A, seat=11, log=0)


class Logs:
    """Logs of one kind: what is opened again has what was synced."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.disk = MemoryDisk(IDENTITY)
        self.log = self.open()
        self.log.recover()

    def open(self, *, create: bool = True) -> Log:
        if self.kind == "memory":
            return MemoryLog(self.path, IDENTITY, create=create, disk=self.disk)
        return SegmentLog(self.path, IDENTITY, segment_bytes=1 << 20, create=create)

    def lose(self) -> None:
        """The log is closed and its data are removed."""
        self.log.close(clean=True)
        self.disk = MemoryDisk(IDENTITY)
        self.path = self.path.with_name("elsewhere")


@pytest.fixture(params=["memory", "segment"])
def logs(request: pytest.FixtureRequest, tmp_path: Path) -> Logs:
    """Two kinds of logs, each with two groups in it, as the reference's test has."""
    return Logs(request.param, tmp_path / "log")


def put(log: Log, *records: tuple[int, int, int, int, int, bytes]) -> None:
    log.append(records)
    log.sync()


def test_07_clear_all_log(logs: Logs) -> None:
    """7, ClearAllLog: once a log is gone its values are. It is begun anew only where none has ever been:
    with it went promises."""
    put(logs.log, (ACCEPT, 0, 0, 1, A, b"zero"), (ACCEPT, 1, 0, 1, A, b"one"))
    logs.lose()
    gone = logs.open(create=False)
    with pytest.raises(StorageDamaged):
        gone.recover()
    gone.close(clean=False)
    fresh = logs.open()
    assert fresh.recover() == {}
    assert fresh.read(0, 0) is None
    assert fresh.read(1, 0) is None
    fresh.close(clean=True)


def test_08_put_get(logs: Logs) -> None:
    """8, PUT_GET: nothing before, the value after, in each group its own."""
    assert logs.log.read(0, 3) is None
    assert logs.log.read(1, 3) is None
    put(logs.log, (ACCEPT, 0, 3, 5, A, b"zero"), (ACCEPT, 1, 3, 6, B, b"one"))
    assert logs.log.read(0, 3) == (5, A, b"zero")
    assert logs.log.read(1, 3) == (6, B, b"one")
    logs.log.close(clean=True)


def test_09_del(logs: Logs) -> None:
    """9, Del: what a later record replaces is gone, and replacing it twice is once; its neighbours stay."""
    put(logs.log, (ACCEPT, 0, 3, 5, A, b"three"), (ACCEPT, 0, 4, 5, A, b"old"))
    for _ in range(2):
        put(logs.log, (LEARNED, 0, 4, 2, B, b"new"))
        assert logs.log.read(0, 4) == (2, B, b"new")
    assert logs.log.read(0, 3) == (5, A, b"three")
    logs.log.close(clean=True)


def test_10_get_max_instance_id(logs: Logs) -> None:
    """10, GetMaxInstanceID: after 4 and 6 it is 6, in this group alone."""
    put(logs.log, (ACCEPT, 0, 4, 5, A, b"four"), (ACCEPT, 1, 2, 5, A, b"two"), (ACCEPT, 0, 6, 5, A, b"six"))
    logs.log.close(clean=True)
    again = logs.open()
    states = again.recover()
    assert {group: state.instance for group, state in states.items()} == {0: 6, 1: 2}
    again.close(clean=True)


def test_11_min_chosen_instance_id(logs: Logs) -> None:
    """11, Set_Get_MinChosenInstanceID: the mark of what is decided is stored, for each group."""
    put(logs.log, *[(ACCEPT, group, instance, 1, A, b"v") for group in (0, 1) for instance in range(4)])
    put(logs.log, (DECIDED, 0, 3, 0, 0, b""), (DECIDED, 1, 2, 0, 0, b""))
    logs.log.close(clean=True)
    again = logs.open()
    states = again.recover()
    assert {group: state.instance for group, state in states.items()} == {0: 4, 1: 3}
    assert [item[0] for item in again.read_range(0, 0, 10, 1 << 20)] == [0, 1, 2, 3], "the smallest is kept"
    again.close(clean=True)


def test_12_system_variables(tmp_path: Path) -> None:
    """12, Set_Get_SystemVariables: the membership that a cluster was founded with comes back as stored."""
    path = tmp_path / "data"
    seat = create(path, A, 2).seat
    founding = make_founding({A: seat, B: 12, C: 13}, 2)
    assert read_identity(path).founding is None
    with open_data_dir(path, node_id=A, groups=2, hosts=(0, 0), bootstrap=False) as data:
        data.record(founding, active=True)
    assert read_identity(path).founding == founding


def test_13_master_variables(logs: Logs) -> None:
    """13, Set_Get_MasterVariables: bytes for a state machine of the system come back as they went in."""
    value = values.encode([(A, 77, 1, 0, 100_000_001, bytes(range(256))), (B, 78, 9, 2, 1, b"")])
    put(logs.log, (ACCEPT, 0, 0, 1, A, value))
    logs.log.close(clean=True)
    again = logs.open()
    again.recover()
    stored = again.read(0, 0)
    again.close(clean=True)
    assert stored == (1, A, value)
    assert [entry[4:] for entry in values.decode(stored[2])] == [(100_000_001, bytes(range(256))), (1, b"")]


# Node ids


def test_14_ip_port_to_node_id() -> None:
    """14, IPPort2NodeID: the vector of the reference."""
    assert pack_node_id("10.123.102.77", 8001) == 5577280471424835393


def test_15_node_id_to_ip_port() -> None:
    """15, NodeID2IPPort: the same, backwards."""
    assert unpack_node_id(5577280471424835393) == ("10.123.102.77", 8001)


# Proposer


def group(nodes: int = 3, promised: tuple[int, int] = (99, B)) -> Group:
    """Node 1 of so many, whose next ballot is (100, 1); proposals are not handed on."""
    return Group(
        0,
        me=A,
        seat=10 + A,
        incarnation=900,
        members=Members({node: 10 + node for node in range(1, nodes + 1)}),
        rng=random.Random(1),
        now=NOW,
        promised=promised,
        timers=DEFAULT_TIMERS._replace(forward=0),
    )


def opened(it: Group, seq: int = 1) -> Effects:
    """Propose something, and count the own vote if there is one."""
    fx = Effects()
    it.propose(seq, LATER, 1, b"mine", None, fx)
    it.open(NOW, fx)
    return fx


def own_vote(it: Group) -> Effects:
    fx = Effects()
    it.proposer.on_synced(NOW, fx)
    return fx


def preparing(nodes: int = 3) -> Group:
    it = group(nodes)
    opened(it)
    own_vote(it)
    return it


def accepting(nodes: int = 3) -> Group:
    it = preparing(nodes)
    for node in range(2, nodes // 2 + 2):
        it.proposer.on_prepare_reply(node, 0, 100, 0, NULL, b"", NOW, Effects())
    assert it.proposer.phase is Phase.ACCEPTING
    own_vote(it)
    return it


def test_16_new_value() -> None:
    """16, NewValue: prepares with 100; after a refusal with 101; with a ballot in hand it skips Prepare."""
    it = group()
    assert opened(it).after.all.prepares == [(0, 0, 100)]
    own_vote(it)
    for node in (B, C):
        it.proposer.on_prepare_reply(node, 0, 100, 100, (100, C), b"", NOW, Effects())
    assert it.proposer.phase is Phase.IDLE
    fx = Effects()
    it.proposer.on_timer(it.proposer.backoff_until, fx)
    assert fx.after.all.prepares == [(0, 0, 101)]

    it = accepting()
    it.proposer.on_accept_reply(B, 0, 100, NULL, NOW, Effects())
    assert (it.instance, it.proposer.held) == (1, True)
    fx = opened(it, seq=2)
    assert [message[:3] for message in fx.now.all.accepts] == [(0, 1, 100)]
    assert fx.after.all.prepares == []


def test_17_on_prepare_reply_skip() -> None:
    """17, OnPrepareReply_Skip: a promise that nobody waits for, or for another ballot, is no vote."""
    it = group()
    fx = Effects()
    it.proposer.on_prepare_reply(B, 0, 100, 0, NULL, b"", NOW, fx)
    assert it.proposer.phase is Phase.IDLE
    opened(it)
    own_vote(it)
    it.proposer.on_prepare_reply(B, 0, 99, 0, NULL, b"", NOW, fx)
    it.proposer.on_prepare_reply(B, 1, 100, 0, NULL, b"", NOW, fx)
    assert it.proposer.phase is Phase.PREPARING
    assert it.proposer.votes == {A}
    assert not fx.now


def test_18_on_prepare_reply_pass() -> None:
    """18, OnPrepareReply_Pass: takes the value of the highest ballot, 95 then 98, despite one refusal, and
    goes on to Accept. It may finish, but having heard of a higher ballot it holds nothing afterwards."""
    it = preparing(5)
    fx = Effects()
    it.proposer.on_prepare_reply(B, 0, 100, 0, (95, B), FIRST, NOW, fx)
    assert (it.proposer.best, it.proposer.best_value) == ((95, B), FIRST)
    it.proposer.on_prepare_reply(C, 0, 100, 105, (105, C), b"", NOW, fx)
    assert it.proposer.phase is Phase.PREPARING
    it.proposer.on_prepare_reply(D, 0, 100, 0, (98, D), SECOND, NOW, fx)
    assert fx.now.all.accepts == [(0, 0, 100, SECOND)]
    assert it.proposer.phase is Phase.ACCEPTING
    assert not it.proposer.held


def test_18_without_a_refusal_the_ballot_is_held() -> None:
    """18, OnPrepareReply_Pass: CanSkip is set."""
    it = preparing(5)
    fx = Effects()
    it.proposer.on_prepare_reply(B, 0, 100, 0, (95, B), FIRST, NOW, fx)
    it.proposer.on_prepare_reply(D, 0, 100, 0, (98, D), SECOND, NOW, fx)
    assert fx.now.all.accepts == [(0, 0, 100, SECOND)]
    assert it.proposer.held


def test_19_on_prepare_reply_reject() -> None:
    """19, OnPrepareReply_Reject: two refusals of three end the ballot: no Accept, nothing held, a pause, and
    then a full Prepare above what was reported. The value that was seen is asked for anew."""
    it = preparing()
    fx = Effects()
    for node in (B, C):
        it.proposer.on_prepare_reply(node, 0, 100, 105, (105, C), b"", NOW, fx)
    assert (it.proposer.phase, it.proposer.held) == (Phase.IDLE, False)
    assert not fx.now
    pause = it.proposer.backoff_until - NOW
    assert it.timers.backoff_min <= pause <= it.timers.backoff_max
    fx = Effects()
    it.proposer.on_timer(NOW + pause - 1, fx)
    assert fx.after.all.prepares == []
    it.proposer.on_timer(NOW + pause, fx)
    assert fx.after.all.prepares == [(0, 0, 106)]
    assert it.proposer.best == NULL


def test_20_on_accept_reply_skip() -> None:
    """20, OnAcceptReply_Skip: a vote that nobody waits for, or for another ballot, does not count."""
    it = preparing()
    it.proposer.on_accept_reply(B, 0, 100, NULL, NOW, Effects())
    assert (it.instance, it.proposer.phase) == (0, Phase.PREPARING)
    it = accepting()
    for instance, round in ((0, 99), (0, 101), (1, 100)):
        it.proposer.on_accept_reply(B, instance, round, NULL, NOW, Effects())
    assert (it.instance, it.proposer.votes) == (0, {A})


def test_21_on_accept_reply_reject() -> None:
    """21, OnAcceptReply_Reject: two refusals end the ballot, and the next one begins with a Prepare."""
    it = accepting()
    for node in (B, C):
        assert it.proposer.phase is Phase.ACCEPTING
        it.proposer.on_accept_reply(node, 0, 100, (105, C), NOW, Effects())
    assert (it.instance, it.proposer.phase, it.proposer.held) == (0, Phase.IDLE, False)
    fx = Effects()
    it.proposer.on_timer(it.proposer.backoff_until, fx)
    assert fx.after.all.prepares == [(0, 0, 106)]


def test_22_on_accept_reply_pass() -> None:
    """22, OnAcceptReply_Pass: two votes and a refusal: chosen under 100, everybody is told, and the
    proposer is idle."""
    it = accepting()
    fx = Effects()
    it.proposer.on_accept_reply(C, 0, 100, (105, C), NOW, fx)
    assert fx.decided == []
    it.proposer.on_accept_reply(B, 0, 100, NULL, NOW, fx)
    assert fx.now.all.chosen == [(0, 0, 100)]
    assert [entry[5] for entry in fx.decided[0][2]] == [b"mine"]
    assert (it.instance, it.proposer.phase, it.proposer.held) == (1, Phase.IDLE, False)


# Timers


def alone() -> tuple[World, Node]:
    """Node 1 of two, which can reach nobody."""
    world, one, _ = two_nodes()
    world.cut = {(1, 2), (2, 1)}
    return world, one


def test_23_add_timer() -> None:
    """23, AddTimer: what is due in 100 ms does not happen before, and then it does, once."""
    world, one = alone()
    one.propose(b"x", 0, 60_000)
    one.run()
    start, turn = world.now, one.turn
    assert turn.wake_at <= start + 100 * MS
    resent: list[int] = []
    while world.now < start + 200 * MS:
        world.now = max(world.now, min(turn.wake_at, start + 200 * MS))
        before = turn.resends
        one.run()
        resent += [world.now - start] * (turn.resends - before)
    assert resent == [100 * MS]


def test_24_pop_timer() -> None:
    """24, PopTimer: ten random deadlines within 500 ms pass in the order of time, none early, and each
    within the time that they are looked through in."""
    world, one = alone()
    rng = random.Random(24)
    start = world.now
    due = {f"[v{number}]": rng.randint(1, 500) for number in range(10)}
    for label, after_ms in due.items():
        one.propose(label[1:-1].encode(), 0, after_ms)
    one.run()
    world.take_events()
    world.advance(start + 600 * MS)
    answers = [(event.at - start, event.text.split()[0]) for event in world.events if event.verb == "answers"]
    assert {label for _, label in answers} == due.keys()
    for at, label in answers:
        assert due[label] * MS <= at <= due[label] * MS + EXPIRE_GAP, label


# Waiting


def test_25_lock() -> None:
    """25, Lock: what comes while an instance is open waits, and goes on as soon as that is decided."""
    world, one, _ = two_nodes()
    one.propose(b"first", 0, 60_000)
    one.run()
    one.propose(b"second", 0, 60_000)
    one.run()
    assert [len(packet.messages) for packet in world.wire] == [1], "the second one starts nothing"
    world.settle()
    answers = [event.text.split(" place")[0] for event in world.take_events() if event.verb == "answers"]
    assert answers == ["[first] done at i0,", "[second] done at i0,"], "it shares the Accept of the first"

    one.propose(b"third", 0, 60_000)
    one.run()
    one.propose(b"fourth", 0, 60_000)
    one.run()
    assert len(one.turn.groups[0].own) == 2
    world.settle()
    answers = [event.text.split(" place")[0] for event in world.take_events() if event.verb == "answers"]
    assert answers == ["[third] done at i1,", "[fourth] done at i2,"]


def test_26_lock_timeout() -> None:
    """26, LockTimeout: what waits for an open instance is given up at its own deadline, 20 ms from now."""
    world, one = alone()
    one.propose(b"first", 0, 60_000)
    one.run()
    start = world.now
    one.propose(b"second", 0, 20)
    one.run()
    world.take_events()
    world.advance(start + 20 * MS - 1)
    assert [event for event in world.take_events() if event.verb == "answers"] == []
    world.advance(start + 20 * MS)
    answers = [event for event in world.take_events() if event.verb == "answers"]
    assert [(event.at - start, event.text.split(":")[0]) for event in answers] == [
        (20 * MS, f"[second] {Code.TIMEOUT.name}")
    ]
    assert len(one.turn.groups[0].own) == 1, "the first one goes on"


def test_27_too_much_lock_waiting() -> None:
    """27, TooMuchLockWating: one at work and five that wait: of ten, exactly four are refused."""
    admission = Admission(LimitOptions(max_pending=6), workers=1)
    admission.open_node()
    admission.open_worker(0)
    refused = 0
    for _ in range(10):
        try:
            admission.enter(0, 1)
        except Overloaded:
            refused += 1
    assert refused == 4
    admission.leave(1, 1)
    admission.enter(0, 1)
    with pytest.raises(Overloaded):
        admission.enter(0, 1)
