"""What is known to go wrong in the reference, tried here: one test for each item of its weaknesses.

The items are those of `docs/reference-weaknesses.md`, whose table names the tests of all of them, also
where they are in other files, and says which items belong to parts that are not built yet.
"""

from __future__ import annotations

import ast
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from paxmux.engine.errors import Code, Overloaded, StorageFailed
from paxmux.engine.options import LimitOptions, ProposalOptions, StorageOptions, TimerOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.quorum import Members
from paxmux.engine.paxos.timers import MS
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import Log, LogIdentity, Record, RecordKind, StorageDamaged
from paxmux.plugins.storage.memory import MemoryLog
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.shards.admission import Admission
from paxmux.shards.requests import Batch, Reply
from paxmux.shards.slice import Identity, build_turn
from paxmux.shards.turn import Turn
from tests.scenario_commands import Commands
from tests.scenario_world import Node, World
from tests.source_tree import ROOT

TABLE = ROOT / "docs" / "reference-weaknesses.md"
IDENTITY = LogIdentity(7, 1, 11, 0)
NOW = 10_000 * MS
PROMISE, ACCEPT, LEARNED, *_ = map(int, RecordKind)
SAFETY = [f"S{number}" for number in range(1, 13)]
LIVENESS = [f"L{number}" for number in range(1, 18)]
SMALLER = [f"B{number}" for number in range(1, 22)]


class Cluster:
    """A cluster of production turns that does what it is told, in the commands of scenario files."""

    def __init__(self, options: str = "nodes=3") -> None:
        self._commands = Commands()
        self("cluster " + options)

    def __call__(self, *lines: str) -> list[str]:
        """Everything that happened, one line each."""
        return [line.strip() for command in lines for line in self._commands.run(command)]

    @property
    def world(self) -> World:
        return self._commands.world

    def node(self, number: int) -> Node:
        return self.world.nodes[number]


class Deaf:
    """A wire to nobody."""

    def send(self, data: bytes, *, droppable: bool) -> bool:
        return True

    def send_pieces(self, pieces: Sequence[bytes], *, droppable: bool, sealed: bool) -> bool:
        """A large one."""
        return self.send(b"".join(pieces), droppable=droppable)

    def commit(self) -> bool:
        return True


class Journal(StateMachine):
    """Notes what it executes; may claim to have kept what it executed in an earlier life."""

    smid = 1

    def __init__(self, group: int, applied: int | None = None) -> None:
        super().__init__(group)
        self.applied = applied
        self.done: list[tuple[int, bytes]] = []
        self.calls = 0

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        self.calls += 1
        if value.startswith(b"raise"):
            raise RuntimeError("broken")
        self.done.append((instance_id, value))
        return None

    def applied_instance_id(self) -> int | None:
        return self.applied


class Second(Journal):
    smid = 2


def alone(log: Log, machines: Mapping[int, list[Journal]]) -> tuple[Turn, list[Reply]]:
    """The turn of a cluster of one over `log`."""
    replies: list[Reply] = []
    turn = build_turn(
        Identity(7, 1, 11, 900, 0, 1),
        {group: {machine.smid: machine for machine in several} for group, several in machines.items()},
        log,
        Deaf(),
        replies,
        members=Members({1: 11}),
        rng=random.Random(1),
        now=NOW,
        timers=TimerOptions(),
        proposals=ProposalOptions(),
        limits=LimitOptions(),
        storage=StorageOptions(),
    )
    turn.start(NOW)
    run(turn)
    return turn, replies


def run(
    turn: Turn, now: int = NOW, *proposals: tuple[int, int, bytes], deadline: int = NOW + 60_000 * MS
) -> None:
    """Turns until nothing is left to do; a proposal is (seq, group, value)."""
    batch = Batch([(seq, group, deadline, 1, value, None) for seq, group, value in proposals])
    turn.run(now, [], [batch])
    while turn.busy:
        turn.run(now)


def stored(log: Log, *records: Record) -> None:
    """Written and synced."""
    log.append(records)
    log.sync()


def segments(path: Path) -> SegmentLog:
    return SegmentLog(path, IDENTITY, segment_bytes=64 << 10)


def chained(*payloads: bytes) -> list[bytes]:
    """Values for the first instances, each with one proposal of node 2."""
    made: list[bytes] = []
    for seq, payload in enumerate(payloads, 1):
        chain = values.chain_after(made[-1]) if made else values.FIRST
        made.append(values.encode([(2, 5, seq, 0, 1, payload)], chain))
    return made


# Safety


def test_s1_the_durable_promise_never_goes_backwards(tmp_path: Path) -> None:
    log = segments(tmp_path / "log")
    log.recover()
    (value,) = chained(b"x")
    stored(log, (PROMISE, 0, 0, 9, 3, b""))
    stored(log, (LEARNED, 0, 0, 2, 2, value))
    log.close(clean=False)
    turn, _ = alone(segments(tmp_path / "log"), {0: [Journal(0)]})
    group = turn.groups[0]
    assert (group.instance, group.acceptor.promised) == (1, (9, 3))
    run(turn, NOW, (1, 0, b"y"))
    assert group.acceptor.promised == (10, 1), "its own ballots begin above it"


def test_s2_a_message_of_the_next_instance_is_no_proof_for_this_one() -> None:
    c = Cluster("nodes=5 forward=off")
    # Node 2 has accepted the value of a ballot that was lost; its node goes on under the same one.
    c("forge 1->2 kind=Accept instance=0 round=1 value=lost", "deliver 1->2", "drop all")
    c("forge 1->2 kind=Accept instance=1 round=1 value=next", "deliver 1->2")
    c("forge 1->2 kind=Prepare instance=1 round=1", "deliver 1->2")
    group = c.node(2).turn.groups[0]
    assert (group.instance, group.acceptor.accepted) == (0, (1, 1))


def test_s3_what_could_not_be_written_is_never_executed() -> None:
    c = Cluster()
    c("propose 1 x", "deliver 1->2", "deliver 2->1")
    c("deliver 1->2 queued", "step 2", "send-now 2", "disk 2 fails")
    told = c("persist 2")
    assert any("stops" in line for line in told)
    assert not any("sends" in line or "executes" in line for line in told)
    assert not c.node(2).up, "nothing follows a failed write, not even the notice of its value"
    with pytest.raises(StorageFailed):
        c.node(2).turn.persist()


@pytest.mark.parametrize("place", range(8))
def test_s4_a_record_with_any_wrong_byte_is_never_believed(tmp_path: Path, place: int) -> None:
    path = tmp_path / "log"
    log = segments(path)
    log.recover()
    payload = b"0123456789abcdef"
    stored(log, (ACCEPT, 0, 0, 1, 2, payload))
    stored(log, (PROMISE, 0, 0, 2, 3, b""))
    log.close(clean=True)
    segment = path / "0000000000.seg"
    data = bytearray(segment.read_bytes())
    # The reference's checksum looks at one byte of eight.
    data[data.index(payload) + place] ^= 1
    segment.write_bytes(data)
    log = segments(path)
    with pytest.raises(StorageDamaged):
        _read_all(log)
    log.close(clean=False)


def test_s5_what_is_learned_is_synced_before_it_is_executed() -> None:
    c = Cluster()
    c("cut 1,2->3", "propose 1 x", "settle", "heal 1,2->3", "forge 2->3 kind=Position instance=1")
    lines = c("deliver 2->3", "deliver 3->2", "deliver 2->3")
    synced, executed = lines.index("syncs"), next(i for i, line in enumerate(lines) if "executes" in line)
    assert any(line.startswith("writes   Learned") for line in lines[:synced])
    assert synced < executed
    c("crash 3 lose-unsynced", "restart 3")
    assert c.node(3).turn.groups[0].instance == 1


def test_s6_equal_bytes_of_two_proposers_are_two_proposals() -> None:
    c = Cluster("nodes=3 forward=off")
    c("propose 1 same queued", "propose 2 same queued")
    told = c("run 2000")
    answers = [line for line in told if "answers" in line]
    assert len(answers) == 2
    assert all("[same] done" in line for line in answers)
    assert len({line.split("done at ")[1] for line in answers}) == 2, (
        "each at an instance or place of its own"
    )
    assert [payload for _, payload in c.world.sequence[0]] == [b"same", b"same"]


def test_s7_each_machine_is_replayed_from_where_it_stands() -> None:
    log = MemoryLog(Path("disk"), IDENTITY)
    log.recover()
    history = chained(b"a", b"b", b"c")
    stored(log, *[(LEARNED, 0, at, 1, 2, value) for at, value in enumerate(history)])
    log.close(clean=False)
    ahead, behind = Journal(0, applied=1), Second(0)
    entries = [values.decode(value)[0] for value in history]
    assert {entry[4] for entry in entries} == {1}
    turn, _ = alone(log.reopen(), {0: [ahead, behind]})
    assert ahead.done == [(2, b"c")]
    assert turn.appliers[0].next == 3
    log.close(clean=False)


def test_s7_a_machine_without_a_memory_of_its_own_gets_everything() -> None:
    log = MemoryLog(Path("disk"), IDENTITY)
    log.recover()
    first = values.encode([(2, 5, 1, 0, 1, b"a"), (2, 5, 2, 0, 2, b"b")])
    second = values.encode([(2, 5, 3, 0, 2, b"c")], values.chain_after(first))
    stored(log, (LEARNED, 0, 0, 1, 2, first), (LEARNED, 0, 1, 1, 2, second))
    log.close(clean=False)
    ahead, behind = Journal(0, applied=1), Second(0)
    alone(log.reopen(), {0: [ahead, behind]})
    assert (ahead.done, behind.done) == ([], [(0, b"b"), (1, b"c")])


def test_s8_groups_stand_each_for_themselves() -> None:
    log = MemoryLog(Path("disk"), IDENTITY)
    log.recover()
    history = chained(b"a", b"b", b"c")
    for group in (0, 1, 2):
        stored(log, *[(LEARNED, group, at, 1, 2, value) for at, value in enumerate(history)])
    log.close(clean=False)
    machines = [Journal(0, applied=2), Journal(1, applied=0), Journal(2)]
    alone(log.reopen(), {group: [machine] for group, machine in enumerate(machines)})
    assert [len(machine.done) for machine in machines] == [0, 2, 3]


def test_s9_nobody_is_believed_before_or_outside_the_founding() -> None:
    c = Cluster()
    for kind in ("Prepare round=9", "Accept round=9 value=q", "Chosen round=9"):
        told = c(f"forge 2->1 kind={kind} instance=0 seat=77", "deliver 2->1")
        assert not any("sends" in line or "writes" in line or "decides" in line for line in told), kind
    group = c.node(1).turn.groups[0]
    assert (group.instance, group.acceptor.promised, group.acceptor.accepted) == (0, (0, 0), (0, 0))


def test_s12_a_peer_with_another_history_stops_nobody() -> None:
    c = Cluster()
    c("propose 1 x", "settle")
    for node in (1, 2, 3):
        peer = 1 + node % 3
        for message in ("Accept instance=1 round=5 value=q", "Learned instance=1 round=5 value=q"):
            c(f"forge {peer}->{node} kind={message} history=else", f"deliver {peer}->{node}")
    c("settle", "propose 1 y", "settle")
    assert [payload for _, payload in c.world.sequence[0]] == [b"x", b"y"]
    for it in c.world.nodes.values():
        assert it.up
        assert it.turn.groups[0].inquiry.mismatches == 2
        assert it.turn.groups[0].inquiry.fenced is None, "one peer's word is no majority"


# Liveness


def test_l1_without_a_majority_everything_ends_at_its_deadline_and_a_stop_ends_it_at_once() -> None:
    c = Cluster()
    c("cut 1->2,3", "cut 2,3->1")
    told = c("propose 1 x timeout=300", "run 5000")
    assert sum("[x] TIMEOUT" in line for line in told) == 1
    c("propose 1 y timeout=600000")
    assert any("[y] TIMEOUT: the node stopped" in line for line in c("stop 1"))


def test_l2_a_deadline_holds_while_the_node_lags() -> None:
    c = Cluster()
    c("cut 2,3->1", "propose 2 a", "settle")
    c("forge 2->1 kind=Position instance=500", "deliver 2->1")
    began = c.world.now
    c("propose 1 x timeout=250 quiet")
    expired = c("tick 249")
    assert not any("TIMEOUT" in line for line in expired)
    expired = c("tick 1")
    assert any("[x] TIMEOUT" in line for line in expired)
    assert c.world.now - began == 250 * MS


def test_l3_a_bogus_instance_stops_nobody() -> None:
    c = Cluster()
    for kind in ("Position", "Ask", "Accept round=9 value=q", "Prepare round=9", "Chosen round=9"):
        c(f"forge 2->1 kind={kind} instance={1 << 61}", "deliver 2->1")
    told = c("propose 1 x", "settle")
    assert any("[x] done at i0" in line for line in told)


def test_l4_a_value_of_the_largest_size_is_decided() -> None:
    limits = LimitOptions()
    world = World(3, 1, TimerOptions(), ProposalOptions(), limits)
    for node in world.nodes.values():
        node.start()
    world.settle()
    world.nodes[1].propose(b"v" * limits.max_value_bytes, 0, 60_000)
    world.settle()
    assert all(node.turn.groups[0].instance == 1 for node in world.nodes.values())
    assert len(world.sequence[0]) == 1


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(lambda: b"", id="no bytes"),
        pytest.param(lambda: b"\xff" * 40, id="garbage"),
        pytest.param(lambda: values.encode([(2, 5, 1, 0, 1, b"x")])[:-1], id="cut"),
        pytest.param(lambda: values.encode([(2, 5, 1, 0, 4711, b"x")]), id="an unknown machine"),
        pytest.param(lambda: values.encode([(2, 5, 1, 0, 1, b"raise")]), id="its machine raises"),
    ],
)
def test_l5_no_decided_value_wedges_a_group(value: object) -> None:
    assert callable(value)
    data: bytes = value()
    log = MemoryLog(Path("disk"), IDENTITY)
    log.recover()
    after = values.encode([(2, 5, 9, 0, 2, b"after")], values.chain_after(data))
    stored(log, (LEARNED, 0, 0, 1, 2, data), (LEARNED, 0, 1, 1, 2, after))
    log.close(clean=False)
    other = Second(0)
    turn, replies = alone(log.reopen(), {0: [Journal(0), other]})
    assert other.done == [(1, b"after")]
    turn.run(NOW, [], [Batch([(1, 0, NOW + 1000 * MS, 2, b"more", None)])])
    run(turn)
    assert [reply[1] for reply in replies] == [Code.OK]


def test_l6_a_machine_that_raised_is_not_tried_again_and_again() -> None:
    machine = Journal(0)
    turn, replies = alone(_empty(), {0: [machine]})
    run(turn, NOW, (1, 0, b"raise"))
    for seq in range(2, 20):
        run(turn, NOW, (seq, 0, b"v"))
    assert machine.calls == 1
    assert [reply[1] for reply in replies] == [Code.EXECUTE_FAILED] * 19
    assert turn.groups[0].instance == 19, "consensus goes on"


def test_l7_timers_are_exact() -> None:
    c = Cluster("nodes=3 forward=off")
    c("cut 1->2,3", "propose 1 x")
    turn = c.node(1).turn
    began = c.world.now
    assert turn.wake_at == began + TimerOptions().resend_first_ms * MS
    told = c("tick 100")
    assert any("sends" in line or "loses" in line for line in told), "it is sent again on the dot"
    c("forge 2->1 kind=PrepareReply instance=0 round=1 rejected_by=7,2", "deliver 2->1")
    c("forge 3->1 kind=PrepareReply instance=0 round=1 rejected_by=7,2", "deliver 3->1")
    pause = turn.groups[0].proposer.backoff_until - c.world.now
    assert 10 * MS <= pause <= 40 * MS
    assert turn.wake_at <= c.world.now + pause, "and no idle loop makes it a second"


def test_l8_who_lags_catches_up_without_a_timer_and_several_at_once() -> None:
    c = Cluster("nodes=5")
    c("cut 1,2,3->4,5", "propose 1 a", "settle", "propose 1 b", "settle", "heal 1,2,3->4,5")
    assert [c.node(number).turn.groups[0].instance for number in (4, 5)] == [0, 0]
    began = c.world.now
    c("propose 1 c")
    while c.world.deliver_round():
        assert c.world.now == began
    assert [c.node(number).turn.groups[0].instance >= 2 for number in (4, 5)] == [True, True]


def test_l8_a_lost_notice_is_made_up_for_by_the_next_message() -> None:
    c = Cluster()
    c("propose 1 x", "deliver 1->2,3", "deliver 2,3->1", "deliver 1->2,3", "deliver 2,3->1", "tick 2")
    c("drop 1->3")
    assert c.node(3).turn.groups[0].instance == 0
    # Nothing but the early Accept of the next instance, which is not decided, tells node 3 of it.
    c("propose 1 y", "drop 1->2", "deliver 1->3")
    assert c.node(3).turn.groups[0].instance == 0
    c("run 30")
    assert c.node(3).turn.groups[0].instance == 2, "caught up, and the Accept that was kept counted"


def test_l11_without_its_index_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for life in range(3):
        log = segments(path)
        log.recover()
        stored(log, (ACCEPT, 0, life, 1, 1, b"value %d" % life))
        log.close(clean=True)
        index = path / "index"
        assert index.is_dir()
        shutil.rmtree(index)
    log = segments(path)
    assert log.recover()[0].instance == 2
    found = log.read_range(0, 0, 10, 1 << 20)
    log.close(clean=False)
    assert [value for *_, value in found] == [b"value 0", b"value 1", b"value 2"]


def test_l13_the_door_opens_as_soon_as_there_is_room() -> None:
    door = Admission(LimitOptions(max_pending=2), 1)
    door.open_node()
    door.open_worker(0)
    for _ in range(1000):
        door.enter(0, 10)
        door.enter(0, 10)
        with pytest.raises(Overloaded):
            door.enter(0, 10)
        door.leave(2, 20)
    assert door.refused["count"] == 1000, "and no refusal makes the next one likelier"


def test_l15_who_does_not_hold_the_ballot_hands_on_instead_of_outbidding() -> None:
    c = Cluster()
    c("propose 1 first", "settle")
    told = []
    for number in range(10):
        told += c(
            f"propose 2 b{number} queued", f"propose 3 c{number} queued", f"propose 1 a{number}", "settle"
        )
    assert not any("Prepare" in line for line in told), "nobody bids while the holder lives"
    assert sum("done at" in line for line in told) == 30


def test_l15_without_forwarding_duels_end_too() -> None:
    c = Cluster("nodes=3 forward=off")
    told = []
    for number in range(10):
        for node in (1, 2, 3):
            told += c(f"propose {node} v{node}{number} queued")
    told += c("run 3000")
    assert sum("done at" in line for line in told) == 30


def test_l16_a_deadline_belongs_to_one_proposal() -> None:
    machine = Journal(0)
    turn, replies = alone(_empty(), {0: [machine]})
    run(turn, NOW, (1, 0, b"raise"), deadline=NOW + 50 * MS)
    late = NOW + 51 * MS
    run(turn, late, (2, 0, b"next"), deadline=late + 1000 * MS)
    turn.run(late + 900 * MS)
    codes = {reply[0]: reply[1] for reply in replies}
    assert codes == {1: Code.EXECUTE_FAILED, 2: Code.EXECUTE_FAILED}
    assert turn.groups[0].instance == 2


# Smaller ones


def test_b1_a_value_alone_in_its_instance_has_its_place() -> None:
    turn, replies = alone(_empty(), {0: [Journal(0)]})
    run(turn, NOW, (1, 0, b"x"))
    run(turn, NOW, (2, 0, b"y"), (3, 0, b"z"))
    assert [(reply[0], reply[2], reply[3]) for reply in replies] == [(1, 0, 0), (2, 1, 0), (3, 1, 1)]


def test_b21_a_conflict_is_told_as_one() -> None:
    c = Cluster("nodes=3 forward=off attempts=1")
    told = c("propose 1 x queued", "propose 2 y queued", "run 3000")
    answers = sorted(line.split("answers")[1].strip() for line in told if "answers" in line)
    assert len(answers) == 2
    executed = {payload for _, payload in c.world.sequence[0]}
    for answer in answers:
        done = answer[1:2].encode() in executed
        assert ("done at" in answer) == done
        assert ("CONFLICT" in answer) == (not done)


def _read_all(log: Log) -> None:
    log.recover()
    log.read(0, 0)


def _empty() -> MemoryLog:
    return MemoryLog(Path("disk"), IDENTITY)


# The table


def rows() -> Iterator[tuple[str, str]]:
    """(id, whole row) of the tables of the page."""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\| ([SLB]\d+) \|", line)
        if match:
            yield match[1], line


def test_every_weakness_has_its_row_and_each_row_its_test_or_reason() -> None:
    table = dict(rows())
    assert list(table) == SAFETY + LIVENESS + SMALLER
    for name, row in table.items():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, f"{name}: id, what goes wrong, what paxmux does, what holds it"
        assert all(cells), name
        assert "::" in cells[3] or cells[3].startswith(("impossible:", "open:")), name


def test_every_test_that_the_table_names_exists_and_one_of_each_row_names_the_weakness() -> None:
    count = 0
    for name, row in rows():
        named = re.findall(r"`(test_[a-z0-9_]+\.py|[a-z_]+_contract\.py)::(test_[a-z0-9_]+)`", row)
        words = []
        for file, test in named:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            found = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == test
            ]
            assert len(found) == 1, f"{file}: {test}"
            words += [f"{test} {ast.get_docstring(found[0])}"]
        count += len(words)
        assert not words or re.search(rf"test_{name.lower()}_|\b{name}\b", " ".join(words)), name
    assert count > 40


def test_every_weakness_tried_here_is_named_in_its_row() -> None:
    table = dict(rows())
    here = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    for node in here.body:
        match = isinstance(node, ast.FunctionDef) and re.match(r"test_([slb]\d+)_", node.name)
        if match and isinstance(node, ast.FunctionDef):
            assert f"test_reference_weaknesses.py::{node.name}`" in table[match[1].upper()]
