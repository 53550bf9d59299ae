"""Routers for tests: real ports, real rings, real data directories, and workers that only send and read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from paxmux.engine.errors import PaxmuxError
from paxmux.engine.frame import FrameKind, is_intact, pack_frame
from paxmux.engine.options import LimitOptions, Options
from paxmux.shards.boot import Founding
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.identity import DataDir, open_data_dir
from paxmux.shards.ring import create_ring
from paxmux.shards.router import Router, left_to_peer

GROUPS = 8
DEADLINE_S = 20.0


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run one test; what goes wrong in a callback of the loop fails it."""
    caught: list[dict[str, Any]] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
        await asyncio.wait_for(test, 100)

    asyncio.run(guarded())
    assert caught == []


async def until(condition: Callable[[], object], *workers: FakeWorker) -> None:
    """Wait for a condition, while these workers move on; it must come true in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while True:
        for worker in workers:
            worker.read()
        if condition():
            return
        assert loop.time() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.002)


def options_for(ports: list[int], index: int, folder: Path, **changes: Any) -> Options:
    """Options of the node that has `ports[index]`."""
    fields: dict[str, Any] = {
        "node": f"127.0.0.1:{ports[index]}",
        "members": [f"127.0.0.1:{port}" for port in ports],
        "data_dir": str(folder / f"node{index}"),
        "groups": GROUPS,
        "limits": LimitOptions(ring_bytes=256 * 1024),
        **changes,
    }
    return Options(**fields)


def open_dir(options: Options) -> DataDir:
    """The node's data directory; made if it is missing."""
    return open_data_dir(
        Path(options.data_dir),
        node_id=options.own_member().node_id,
        groups=options.groups,
        hosts=(0,) * options.groups,
        bootstrap=True,
    )


class FakeWorker:
    """A worker's ends of its network rings, and their descriptors."""

    def __init__(self, router_bell: Doorbell, *, generation: int = 1, ring_bytes: int = 256 * 1024) -> None:
        self.generation = generation
        self.bell = Doorbell.create()
        self.from_worker = create_ring(ring_bytes, generation=generation)
        self.to_worker = create_ring(ring_bytes, generation=generation)
        self.sender = Sender(self.from_worker, router_bell, backlog_max_bytes=1 << 30)
        self.receiver = Receiver(self.to_worker, router_bell, intact=is_intact)
        self.got: list[bytes] = []

    def attach(
        self, router: Router, worker: int, groups: list[int], backlog_max_bytes: int = 1 << 26
    ) -> None:
        router.attach_worker(
            worker,
            self.generation,
            groups,
            Receiver(self.from_worker, self.bell, intact=left_to_peer),
            Sender(self.to_worker, self.bell, backlog_max_bytes=backlog_max_bytes),
        )

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.sender.send(frame, droppable=False)
        self.sender.commit()

    def read(self) -> list[bytes]:
        """Everything that has come so far."""
        self.sender.commit()
        while messages := self.receiver.receive():
            self.got += messages
        return self.got


class RouterNode:
    """One node's router in this process, and what it reported."""

    def __init__(self, options: Options, *, incarnation: int = 1) -> None:
        self.options = options
        self.data_dir = open_dir(options)
        self.bell = Doorbell.create()
        self.counters: dict[str, int] = {}
        self.founded: list[Founding] = []
        self.failed: list[PaxmuxError] = []
        self.broken: list[tuple[int, str]] = []
        self.peers: list[dict[int, str]] = []
        self.incarnation = incarnation
        self.router = Router(
            options,
            self.data_dir,
            incarnation=incarnation,
            bell=self.bell,
            counters=self.counters,
            on_founded=self.founded.append,
            on_failed=self.failed.append,
            on_broken=lambda worker, reason: self.broken.append((worker, reason)),
            on_peers=self.peers.append,
        )

    @property
    def node_id(self) -> int:
        return self.data_dir.identity.node_id

    @property
    def seat(self) -> int:
        return self.data_dir.identity.seat

    @property
    def drops(self) -> dict[str, int]:
        drops = self.router.status()["drops"]
        assert isinstance(drops, dict)
        return drops

    @property
    def connected(self) -> bool:
        """Whether all peers are."""
        return all(peer["connected"] for peer in self.router.status()["peers"].values())

    def worker(self, worker: int, groups: list[int], **changes: Any) -> FakeWorker:
        fake = FakeWorker(self.bell, **changes)
        fake.attach(self.router, worker, groups)
        return fake

    def frame(self, dest: int, body: bytes, groups: int = 1, **changes: Any) -> bytes:
        """A frame as a worker of this node makes it."""
        fields: dict[str, Any] = {
            "cluster": self.founded[0].cluster if self.founded else 1,
            "sender": self.node_id,
            "seat": self.seat,
            "incarnation": self.incarnation,
            "dest": dest,
            "groups": groups,
            "generation": 1,
            **changes,
        }
        return pack_frame(fields.pop("kind", FrameKind.PAXOS), body, **fields)

    async def stop(self) -> None:
        await self.router.stop()
        self.data_dir.close()
        self.bell.close()


async def start_cluster(ports: list[int], folder: Path, **changes: Any) -> list[RouterNode]:
    """Nodes that have founded a cluster, each connected to all others."""
    nodes = [RouterNode(options_for(ports, index, folder, **changes)) for index in range(len(ports))]
    for node in nodes:
        await node.router.start()
    await until(lambda: all(node.founded and node.connected for node in nodes))
    return nodes


async def stop_all(nodes: list[RouterNode]) -> None:
    for node in nodes:
        await node.stop()
