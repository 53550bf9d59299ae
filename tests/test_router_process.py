"""The router in a process of its own: told by the control socket, founding by itself, gone with its node."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from paxmux.engine.errors import ExitCode
from paxmux.engine.options import Options
from paxmux.shards.boot import (
    AttachWorker,
    DetachWorker,
    Failed,
    Founded,
    FromChild,
    MemberPlace,
    PeersTold,
    Ready,
    RingBroken,
    RouterBoot,
    SetMembers,
    StatusAsk,
    StatusReply,
    Stop,
)
from paxmux.shards.child import Child, ControlClosed, absolute, spawn_child
from paxmux.shards.counters import ROUTER, Block
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.identity import IDENTITY_FILE, DataDir, read_identity
from tests.router_harness import GROUPS, FakeWorker, RouterNode, open_dir, options_for, run, until

Ports = Callable[[int], list[int]]


class ProcessNode:
    """A node whose router is a process."""

    def __init__(self, options: Options, *, seat: int | None = None) -> None:
        self.options = options
        self.data_dir: DataDir = open_dir(options)
        self.bell = Doorbell.create()
        self.counters_fd = Block.create(ROUTER)
        self.block = Block(self.counters_fd, ROUTER)
        self.said: list[FromChild] = []
        self.child: Child = spawn_child("paxmux.shards.router_process")
        identity = self.data_dir.identity
        self.child.send(
            RouterBoot(
                options=options,
                node_id=identity.node_id,
                seat=identity.seat if seat is None else seat,
                incarnation=5,
                workers=1,
                founding=identity.founding,
                sys_path=absolute(sys.path),
            ),
            [self.counters_fd, self.bell.fileno()],
        )

    @property
    def node_id(self) -> int:
        return self.data_dir.identity.node_id

    def hear(self) -> list[FromChild]:
        """Everything that the process has said so far."""
        with contextlib.suppress(ControlClosed):
            self.said += self.child.receive_all()
        return self.said

    def of(self, kind: type[FromChild]) -> list[FromChild]:
        return [message for message in self.hear() if isinstance(message, kind)]

    def attach(self, worker: int, groups: list[int], fake: FakeWorker) -> None:
        fds = [fake.from_worker, fake.to_worker, fake.bell.fileno()]
        self.child.send(AttachWorker(worker=worker, generation=fake.generation, groups=groups), fds)

    async def status(self) -> StatusReply:
        ask = len(self.of(StatusReply)) + 1
        self.child.send(StatusAsk(ask=ask))
        await until(lambda: len(self.of(StatusReply)) >= ask)
        reply = self.of(StatusReply)[-1]
        assert isinstance(reply, StatusReply)
        assert reply.ask == ask
        return reply

    async def ended(self) -> int:
        await until(lambda: self.child.popen.poll() is not None)
        self.hear()
        assert self.child.popen.returncode is not None
        return self.child.popen.returncode

    def clean_up(self) -> None:
        self.child.popen.kill()
        self.child.popen.wait()
        self.child.close()
        self.bell.close()
        self.block.close()
        os.close(self.counters_fd)
        self.data_dir.close()


def test_a_router_process_founds_serves_and_stops(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        inline = RouterNode(options_for(ports, 0, tmp_path))
        await inline.router.start()
        node = ProcessNode(options_for(ports, 1, tmp_path))
        await until(lambda: node.of(Founded) and inline.founded)
        founding = inline.founded[0]
        assert node.hear() == [Ready(), Founded(founding=founding)]
        assert read_identity(tmp_path / "node1").active
        assert node.data_dir.reload().founding == founding

        here, there = inline.worker(0, list(range(GROUPS))), FakeWorker(node.bell)
        node.attach(0, list(range(GROUPS)), there)
        await until(lambda: inline.connected)
        frames = [inline.frame(node.node_id, bytes([n]) * 500, 1 << n % GROUPS) for n in range(200)]
        here.send(*frames)
        await until(lambda: len(there.got) == 200, there, here)
        assert sorted(there.got) == sorted(frames)
        back = inline.frame(inline.node_id, b"back", sender=node.node_id)
        there.send(back)
        await until(lambda: here.got == [back], there, here)

        status = (await node.status()).status
        assert status["counters"]["delivered"] == 200
        assert status["workers"]["0"]["groups"] == GROUPS
        assert status["peers"][str(inline.node_id)]["connected"]
        await until(lambda: node.block.snapshot()["delivered"] == 200)
        counted = node.block.snapshot()
        assert counted["frames_out"] == 1
        await until(lambda: node.block.snapshot()["heartbeat_ns"] > counted["heartbeat_ns"])

        node.child.send(DetachWorker(worker=0))
        here.send(frames[0])
        await until(lambda: node.block.snapshot()["dropped"] == 1)
        assert (await node.status()).status["drops"] == {"no_worker": 1}
        successor = FakeWorker(node.bell, generation=2)
        node.attach(0, [0], successor)
        await node.status()
        here.send(frames[0])
        await until(lambda: successor.got == [frames[0]], successor)

        places = {
            node.node_id: MemberPlace(seats=[1], address=""),
            inline.node_id: MemberPlace(seats=[inline.seat], address=inline.options.node),
            7: MemberPlace(seats=[7], address="[::1]:7"),
        }
        node.child.send(SetMembers(members=places))
        await until(lambda: node.of(PeersTold))
        assert node.of(PeersTold) == [PeersTold(peers={7: "[::1]:7", inline.node_id: inline.options.node})]
        status = (await node.status()).status
        assert status["peers"]["7"]["address"] == "[::1]:7"
        assert status["founding"]["role"] == "joining", "it is a member in another seat"

        node.child.send(Stop(drain_s=1.0))
        assert await node.ended() == ExitCode.OK
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", ports[1]))
        node.clean_up()

        # It starts again: the founding is known, and still nothing is said before `Ready`.
        again = ProcessNode(options_for(ports, 1, tmp_path))
        await until(lambda: again.of(Founded))
        assert again.hear() == [Ready(), Founded(founding=founding)]
        again.clean_up()
        await inline.stop()

    run(test())


def test_sigterm_stops_it_and_ctrl_c_does_not(tmp_path: Path, free_ports: Ports) -> None:
    async def test() -> None:
        node = ProcessNode(options_for(free_ports(1), 0, tmp_path))
        await until(lambda: node.of(Founded))
        os.kill(node.child.pid, signal.SIGINT)
        await node.status()
        os.kill(node.child.pid, signal.SIGTERM)
        assert await node.ended() == ExitCode.OK
        node.clean_up()

    run(test())


def test_it_ends_with_its_node(tmp_path: Path, free_ports: Ports) -> None:
    async def test() -> None:
        node = ProcessNode(options_for(free_ports(1), 0, tmp_path))
        await until(lambda: node.of(Founded))
        node.child.close()
        await until(lambda: node.child.popen.poll() is not None)
        assert node.child.popen.returncode == ExitCode.PARENT_GONE
        node.clean_up()

    run(test())


def test_what_keeps_it_from_booting_is_said(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
            holder.bind(("127.0.0.1", ports[0]))
            holder.listen()
            taken = ProcessNode(options_for(ports[:1], 0, tmp_path))
            assert await taken.ended() == ExitCode.CANNOT_BOOT
        (failed,) = taken.said
        assert isinstance(failed, Failed)
        assert failed.kind == "cannot_boot"
        assert f"127.0.0.1:{ports[0]}" in failed.reason
        other_seat = ProcessNode(options_for(ports[1:], 0, tmp_path / "b"), seat=1)
        assert await other_seat.ended() == ExitCode.CANNOT_BOOT
        (failed,) = other_seat.said
        assert isinstance(failed, Failed)
        assert "changed under the running node" in failed.reason
        for node in (taken, other_seat):
            node.clean_up()

    run(test())


def test_a_founding_that_cannot_be_written_ends_it(tmp_path: Path, free_ports: Ports) -> None:
    async def test() -> None:
        options = options_for(free_ports(1), 0, tmp_path)
        open_dir(options).close()
        (tmp_path / "node0" / (IDENTITY_FILE + ".tmp")).mkdir()
        node = ProcessNode(options)
        assert await node.ended() == ExitCode.STORAGE_FAILED
        last = node.said[-1]
        assert isinstance(last, Failed)
        assert last.kind == "storage"
        assert "cannot write" in last.reason
        assert not node.of(Founded)
        node.clean_up()
        shutil.rmtree(tmp_path / "node0")

    run(test())


def test_damaged_rings_are_reported_with_their_generation(tmp_path: Path, free_ports: Ports) -> None:
    async def test() -> None:
        node = ProcessNode(options_for(free_ports(1), 0, tmp_path))
        await until(lambda: node.of(Founded))
        used, damaged = FakeWorker(node.bell, generation=3), FakeWorker(node.bell, generation=4)
        used.send(b"x" * 200)
        node.attach(0, [0], used)
        await until(lambda: node.block.snapshot()["dropped"] == 1)
        node.attach(1, [1], damaged)
        await node.status()
        # The same ring a second time is not fresh.
        node.attach(0, [0], used)
        with mmap.mmap(damaged.from_worker, 0) as memory:
            memory[128:136] = (1 << 40).to_bytes(8, "little")
        node.bell.ring()
        await until(lambda: len(node.of(RingBroken)) == 2)
        broken = {m.worker: m.generation for m in node.hear() if isinstance(m, RingBroken)}
        assert broken == {0: 3, 1: 4}
        assert (await node.status()).status["workers"] == {}
        node.clean_up()

    run(test())


def test_nothing_is_inherited_but_what_was_given(tmp_path: Path, free_ports: Ports) -> None:
    """Descriptors of workers that were detached do not pile up."""

    async def test() -> None:
        node = ProcessNode(options_for(free_ports(1), 0, tmp_path))
        await until(lambda: node.of(Founded))

        async def descriptors() -> int:
            await node.status()
            return len(os.listdir(f"/proc/{node.child.pid}/fd"))

        before = await descriptors()
        for generation in range(1, 30):
            fake = FakeWorker(node.bell, generation=generation)
            node.attach(0, [0], fake)
            for fd in (fake.from_worker, fake.to_worker):
                os.close(fd)
            await asyncio.sleep(0)
        node.child.send(DetachWorker(worker=0))
        assert await descriptors() == before
        node.clean_up()

    run(test())
