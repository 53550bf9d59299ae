"""The worker process: real rings, a real log, a cluster of one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import Code, ExitCode
from paxmux.engine.frame import parse_frame
from paxmux.engine.options import MachineOptions, Options
from paxmux.shards import requests
from paxmux.shards.boot import Failed, Founding, MembersTold, Ready, SetPeers, Stop, WorkerBoot
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.child import Child, absolute, spawn_child
from paxmux.shards.counters import WORKER, Block
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.lease_board import LeaseBoard
from paxmux.shards.requests import Batch, CallKind, Reply
from paxmux.shards.ring import create_ring

DEADLINE_S = 30.0
ME = 42


class Rig:
    """The other end of everything a worker has."""

    def __init__(
        self,
        data_dir: Path,
        machine: str,
        seats: dict[int, int],
        generation: int,
        cpus: list[int],
        peers: dict[int, str],
    ) -> None:
        self.bell, self.worker_bell, self.router_bell = (Doorbell.create() for _ in range(3))
        rings = [create_ring(1 << 16, generation=generation) for _ in range(4)]
        counters = Block.create(WORKER)
        self.block = Block(counters, WORKER)
        self.out = Sender(rings[0], self.worker_bell, backlog_max_bytes=1 << 24)
        self.inbox = Receiver(rings[1], self.bell)
        self.child: Child = spawn_child("paxmux.shards.worker")
        boot = WorkerBoot(
            options=Options(
                node="127.0.0.1:1",
                node_id=ME,
                members=["42@127.0.0.1:1"],
                data_dir=str(data_dir),
                groups=4,
                state_machines=[MachineOptions(class_=machine)],
            ),
            worker=0,
            generation=generation,
            groups=[0, 1, 2, 3],
            node_id=ME,
            seat=7,
            incarnation=generation,
            founding=Founding(cluster=5, seats=seats),
            cleaning=True,
            create_log=generation == 1,
            cpus=cpus,
            peers=peers,
            direct="paxmux.plugins.network.direct:DirectUdp" if peers else None,
            sys_path=absolute(sys.path),
        )
        bells = [bell.fileno() for bell in (self.worker_bell, self.bell, self.router_bell)]
        leases = LeaseBoard.create(4)
        self.board = LeaseBoard(leases, 4)
        self.child.send(boot, [counters, *rings, *bells, leases])
        for fd in (counters, leases, *rings):
            os.close(fd)
        self.seq = generation * 1000

    def wait_message(self) -> object:
        """What it says next, but for who the members are."""
        while True:
            assert self.child.wait(DEADLINE_S), "the worker says nothing"
            for message in self.child.receive_all():
                if not isinstance(message, MembersTold):
                    return message

    def propose(self, *values: bytes, group: int = 0, smid: int = 1, timeout_s: float = 20.0) -> list[Reply]:
        deadline = clock_ns() + int(timeout_s * 1e9)
        first = self.seq + 1
        self.seq += len(values)
        batch = Batch([(first + n, group, deadline, smid, value, None) for n, value in enumerate(values)])
        return self.exchange(batch, len(values))

    def call(self, kind: int, group: int = 0, argument: int = 0, payload: bytes = b"") -> Reply:
        self.seq += 1
        return self.exchange(Batch([], [(self.seq, kind, group, 2**62, argument, payload)]), 1)[0]

    def exchange(self, batch: Batch, expected: int) -> list[Reply]:
        self.out.send(requests.encode(batch), droppable=False)
        replies: list[Reply] = []
        until = time.monotonic() + DEADLINE_S
        while len(replies) < expected:
            assert time.monotonic() < until, "no reply"
            self.out.commit()
            for data in self.inbox.receive():
                replies += requests.decode_replies(data).replies
            time.sleep(0.001)
        return replies

    def exit_code(self) -> int:
        return self.child.popen.wait(DEADLINE_S)

    def close(self) -> None:
        if self.child.popen.poll() is None:
            self.child.popen.kill()
            self.child.popen.wait(DEADLINE_S)
        self.child.close()
        self.out.close()
        self.inbox.close()
        self.block.close()
        self.board.close()
        for bell in (self.bell, self.worker_bell, self.router_bell):
            bell.close()


MakeRig = Callable[..., Rig]
ECHO = "paxmux.plugins.machines.echo:Echo"


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[MakeRig]:
    made: list[Rig] = []

    def make(
        machine: str = ECHO,
        seats: dict[int, int] | None = None,
        cpus: tuple[int, ...] = (),
        peers: dict[int, str] | None = None,
    ) -> Rig:
        rig = Rig(tmp_path, machine, seats or {ME: 7}, len(made) + 1, list(cpus), peers or {})
        made.append(rig)
        return rig

    yield make
    for rig in made:
        rig.close()


def test_a_cluster_of_one_decides_stops_and_comes_back(rigs: MakeRig) -> None:
    rig = rigs()
    assert rig.wait_message() == Ready()
    replies = rig.propose(b"a", b"b")
    assert [(reply[1], reply[2], reply[3], reply[4]) for reply in replies] == [
        (0, 0, 0, b"a"),
        (0, 0, 1, b"b"),
    ]
    assert rig.call(CallKind.NOW_INSTANCE)[2] == 1
    assert rig.call(CallKind.QUERY, 2, 1, b"hello")[4] == b"hello"
    rig.child.send(Stop(drain_s=5.0))
    assert rig.exit_code() == ExitCode.OK
    assert rig.block.snapshot()["values_applied"] == 2

    again = rigs()
    assert again.wait_message() == Ready()
    assert again.call(CallKind.NOW_INSTANCE)[2] == 1
    found = again.call(CallKind.INSTANCE_VALUE)[4]
    assert msgspec.msgpack.decode(found or b"", type=list[tuple[bytes, int]]) == [(b"a", 1), (b"b", 1)]
    assert again.propose(b"c")[0][2] == 1


def test_its_own_datagrams_go_where_the_members_are_now(rigs: MakeRig) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as first, socket.socket(type=socket.SOCK_DGRAM) as second:
        at = []
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(DEADLINE_S)
            at.append(f"127.0.0.1:{sock.getsockname()[1]}")
        own = "127.0.0.1:1"
        rig = rigs(seats={ME: 7, 2: 8, 3: 9}, peers={ME: own, 2: at[0], 3: "name.example:1"})
        assert rig.wait_message() == Ready()
        assert parse_frame(first.recv(65_535)).dest == 2
        rig.child.send(SetPeers(peers={ME: own, 3: at[1]}))
        assert parse_frame(second.recv(65_535)).dest == 3
        rig.child.send(Stop(drain_s=0.0))
        assert rig.exit_code() == ExitCode.OK


def test_kill_9_loses_nothing_that_was_answered(rigs: MakeRig) -> None:
    acknowledged: list[bytes] = []
    for life in range(4):
        rig = rigs()
        assert rig.wait_message() == Ready()
        for number in range(10):
            value = b"%d-%d" % (life, number)
            assert rig.propose(value)[0][1] == Code.OK
            acknowledged.append(value)
        rig.child.popen.send_signal(signal.SIGKILL)
        assert rig.exit_code() == -signal.SIGKILL
    rig = rigs()
    assert rig.wait_message() == Ready()
    assert rig.propose(b"last")[0][1] == Code.OK
    seen: list[bytes] = []
    for instance in range(rig.call(CallKind.NOW_INSTANCE)[2]):
        found = rig.call(CallKind.INSTANCE_VALUE, 0, instance)[4]
        seen += [value for value, _ in msgspec.msgpack.decode(found or b"", type=list[tuple[bytes, int]])]
    assert seen == [*acknowledged, b"last"]


def test_values_larger_than_the_ring_go_through(rigs: MakeRig) -> None:
    rig = rigs()
    assert rig.wait_message() == Ready()
    value = os.urandom(1 << 20)
    assert rig.propose(value, group=3)[0][4] == value


def test_without_a_majority_a_proposal_times_out(rigs: MakeRig) -> None:
    rig = rigs(seats={ME: 7, 43: 8, 44: 9})
    assert rig.wait_message() == Ready()
    assert rig.propose(b"x", timeout_s=0.2)[0][1] == Code.TIMEOUT
    rig.child.send(Stop(drain_s=0.1))
    assert rig.exit_code() == ExitCode.OK


def test_in_another_seat_it_does_not_propose(rigs: MakeRig) -> None:
    rig = rigs(seats={ME: 1234, 43: 8, 44: 9})
    assert rig.wait_message() == Ready()
    assert rig.propose(b"x")[0][1] == Code.NOT_A_MEMBER


@pytest.mark.parametrize(
    ("machine", "word"),
    [
        ("no_such_module:Class", "no_such_module"),
        ("paxmux.engine.errors:Code", "StateMachine"),
        ("tests.broken_machines:Raises", "no table for group"),
        ("tests.broken_machines:Exits", "SystemExit"),
        ("tests.broken_machines:Surrogate", "no such file"),
        ("tests.broken_machines:Confused", "applied_instance_id"),
    ],
)
def test_a_machine_that_cannot_be_built_is_a_boot_failure(rigs: MakeRig, machine: str, word: str) -> None:
    rig = rigs(machine)
    message = rig.wait_message()
    assert isinstance(message, Failed)
    assert message.kind == "cannot_boot"
    assert word in message.reason
    assert rig.exit_code() == ExitCode.CANNOT_BOOT


def test_a_damaged_record_that_must_be_executed_ends_it_as_a_failure_of_the_log(
    rigs: MakeRig, tmp_path: Path
) -> None:
    rig = rigs()
    assert rig.wait_message() == Ready()
    for value in (b"to be damaged", b"next", b"last"):
        assert rig.propose(value)[0][1] == Code.OK
    rig.child.send(Stop(drain_s=5.0))
    assert rig.exit_code() == ExitCode.OK
    (segment,) = [
        path for path in tmp_path.rglob("*") if path.is_file() and b"to be damaged" in path.read_bytes()
    ]
    segment.write_bytes(segment.read_bytes().replace(b"to be damaged", b"to be Damaged"))
    again = rigs()
    assert again.exit_code() == ExitCode.STORAGE_FAILED
    messages = [each for each in again.child.receive_all() if not isinstance(each, MembersTold)]
    assert messages[0] == Ready()
    assert isinstance(messages[1], Failed)
    assert messages[1].kind == "storage"
    assert segment.name in messages[1].reason


def test_it_ends_with_its_parent(rigs: MakeRig) -> None:
    rig = rigs()
    assert rig.wait_message() == Ready()
    rig.child.close()
    assert rig.exit_code() == ExitCode.PARENT_GONE


def test_a_log_that_was_lost_is_not_begun_anew(rigs: MakeRig, tmp_path: Path) -> None:
    """Design, rule 7: with the log went the promises; in the same seat they would be broken."""
    rig = rigs()
    assert rig.wait_message() == Ready()
    rig.child.send(Stop(drain_s=5.0))
    assert rig.exit_code() == ExitCode.OK
    shutil.rmtree(tmp_path / "logs" / "0")
    again = rigs()
    message = again.wait_message()
    assert isinstance(message, Failed)
    assert message.kind == "storage"
    assert "must not vote in its present seat again" in message.reason
    assert again.exit_code() == ExitCode.CANNOT_BOOT


def test_it_is_bound_to_its_cpus_with_all_of_its_threads(rigs: MakeRig) -> None:
    cpu = max(os.sched_getaffinity(0))
    rig = rigs(cpus=(cpu,))
    assert rig.wait_message() == Ready()
    threads = [int(name) for name in os.listdir(f"/proc/{rig.child.pid}/task")]
    assert len(threads) > 1
    assert [os.sched_getaffinity(thread) for thread in threads] == [{cpu}] * len(threads)


def test_a_cpu_that_is_not_there_is_a_boot_failure(rigs: MakeRig) -> None:
    rig = rigs(cpus=(1023,))
    message = rig.wait_message()
    assert isinstance(message, Failed)
    assert message.kind == "cannot_boot"
    assert rig.exit_code() == ExitCode.CANNOT_BOOT
