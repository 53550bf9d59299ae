"""What must not get in: more than 10,000 bad frames by UDP and TCP against a running router.

Each generator knows under which reason its frames have to be counted; good frames travel in between
and afterwards, and nothing but them may reach a worker's ring.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from paxmux.engine.frame import WIDE_VERSION, FrameKind, pack_frame
from paxmux.engine.frame_header import HEADER_BYTES, WIDE_HEADER_BYTES
from paxmux.shards.cluster import make_founding
from paxmux.shards.founding import Founder
from paxmux.shards.hello import pack_hello
from paxmux.shards.router import max_body_bytes
from tests.router_harness import GROUPS, FakeWorker, RouterNode, run, start_cluster, stop_all, until

Ports = Callable[[int], list[int]]
Bad = tuple[str, bytes]
"""(reason, frame)"""

CLOSES = ("magic", "version", "length")
"""Reasons for which a stream is not read on: it is closed, and counted by the network."""


class Forge:
    """Makes frames that pass for those of peer `a` at node `b`, and all kinds that do not."""

    def __init__(self, seed: int, a: RouterNode, b: RouterNode) -> None:
        self.rng = random.Random(seed)
        self.a = a
        self.b = b
        self.cluster = b.founded[0].cluster
        self.kinds: tuple[Callable[[], Bad], ...] = (
            self.crc,
            self.flipped_bit,
            self.other_cluster,
            self.no_group,
            self.group_beyond,
            self.other_dest,
            self.unknown_sender,
            self.own_sender,
            self.unknown_kind,
            self.absurd_length,
            self.wrong_length,
            self.other_version,
            self.version_of_another_cluster,
            self.random_bytes,
            self.hello_of_noise,
            self.hello_of_another_version,
            self.hello_that_lies,
            self.hello_in_a_cluster,
        )

    def body(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((0, 1, 7, 100, 1000)))

    def pack(self, body: bytes | None = None, kind: int = FrameKind.PAXOS, **changes: int) -> bytes:
        fields = {
            "cluster": self.cluster,
            "sender": self.a.node_id,
            "seat": self.a.seat,
            "incarnation": 1,
            "dest": self.b.node_id,
            "groups": self.rng.randrange(1, 1 << GROUPS),
            **changes,
        }
        return pack_frame(kind, self.body() if body is None else body, **fields)

    def seal(self, frame: bytearray) -> bytes:
        """Make the CRC right again."""
        frame[124:128] = struct.pack("<I", crc32(frame[HEADER_BYTES:], crc32(frame[:124])))
        return bytes(frame)

    def any(self) -> Bad:
        return self.rng.choice(self.kinds)()

    def crc(self) -> Bad:
        frame = bytearray(self.pack())
        frame[124 + self.rng.randrange(4)] ^= self.rng.randrange(1, 256)
        return "crc", bytes(frame)

    def flipped_bit(self) -> Bad:
        frame = bytearray(self.pack())
        at = self.rng.randrange(len(frame))
        frame[at] ^= 1 << self.rng.randrange(8)
        reason = "magic" if at < 4 else "version" if at == 4 else "length" if 8 <= at < 12 else "crc"
        return reason, bytes(frame)

    def other_cluster(self) -> Bad:
        return "cluster", self.pack(cluster=self.rng.choice((0, self.cluster ^ 1, self.rng.getrandbits(64))))

    def no_group(self) -> Bad:
        return "group", self.pack(groups=0)

    def group_beyond(self) -> Bad:
        return "group", self.pack(groups=self.rng.getrandbits(GROUPS) | 1 << self.rng.randrange(GROUPS, 256))

    def other_dest(self) -> Bad:
        return "dest", self.pack(dest=self.rng.choice((0, self.a.node_id, self.rng.getrandbits(64))))

    def unknown_sender(self) -> Bad:
        return "sender", self.pack(sender=self.rng.choice((0, self.rng.getrandbits(64))))

    def own_sender(self) -> Bad:
        return "sender", self.pack(sender=self.b.node_id)

    def unknown_kind(self) -> Bad:
        return "kind", self.pack(kind=self.rng.choice((0, 3, self.rng.randrange(4, 256))))

    def absurd_length(self) -> Bad:
        frame = bytearray(self.pack())
        most = max_body_bytes(self.b.options.limits)
        struct.pack_into("<I", frame, 8, self.rng.choice((most + 1, 1 << 31, 0xFFFFFFFF)))
        return "length", self.seal(frame)

    def wrong_length(self) -> Bad:
        frame = bytearray(self.pack())
        length = len(frame) - HEADER_BYTES
        wrong = self.rng.choice(
            [n for n in (0, length - 1, length + 1, length + 1000) if n != length and n >= 0]
        )
        struct.pack_into("<I", frame, 8, wrong)
        return "length", self.seal(frame)

    def other_version(self) -> Bad:
        frame = bytearray(self.pack())
        frame[4] = self.rng.choice((0, 3, 255))
        return "version", self.seal(frame)

    def version_of_another_cluster(self) -> Bad:
        return "version", self.pack(version=WIDE_VERSION)

    def random_bytes(self) -> Bad:
        return "magic", b"\x00" + self.rng.randbytes(self.rng.randrange(HEADER_BYTES, 1500))

    def hello(self, body: bytes, **changes: int) -> bytes:
        return self.pack(body, FrameKind.HELLO, **{"cluster": 0, "groups": 0, **changes})

    def hello_of_noise(self) -> Bad:
        noise = (b"", b"null", b"{}", b"[" * 1400, b'{"wire":1,"disk":1,"node_id":' + b"9" * 900 + b"}")
        return "hello", self.hello(self.rng.choice((*noise, self.body() + b"\xff")))

    def hello_of_another_version(self) -> Bad:
        versions = {"wire": self.rng.randrange(3, 9), "disk": 1, "node_id": self.a.node_id, "new": [1]}
        return "version", self.hello(msgspec.json.encode(versions))

    def hello_that_lies(self) -> Bad:
        seats = {self.a.node_id: self.rng.getrandbits(64) or 1, self.b.node_id: 5}
        founder = Founder(
            node_id=self.a.node_id,
            seat=self.a.seat,
            incarnation=1,
            groups=GROUPS,
            members=seats,
            founding=make_founding(seats, GROUPS),
            active=True,
            address="127.0.0.1:1",
        )
        good = msgspec.to_builtins(founder.hello(ask=True))
        lie = self.rng.choice(
            (
                {"founding": {**good["founding"], "cluster": self.cluster}},
                {"seat": self.a.seat ^ 1},
                {"node_id": self.b.node_id},
                {"members": [self.b.node_id, self.b.node_id]},
                {"addresses": {str(self.b.node_id): "127.0.0.1:0"}},
                {"address": f"{self.a.node_id}@127.0.0.1:1"},
                {"role": "master"},
                {"founding": None},
                {"groups": -1},
            )
        )
        return "hello", self.hello(msgspec.json.encode({**good, **lie}))

    def hello_in_a_cluster(self) -> Bad:
        frame = pack_hello(self.a_founder().hello(ask=True), self.b.node_id)
        body = frame[HEADER_BYTES:]
        return "hello", self.hello(body, **self.rng.choice(({"cluster": self.cluster}, {"groups": 1})))

    def a_founder(self) -> Founder:
        return Founder(
            node_id=self.a.node_id,
            seat=self.a.seat,
            incarnation=1,
            groups=GROUPS,
            members=[self.a.node_id, self.b.node_id],
            founding=self.b.founded[0],
            active=True,
            address="127.0.0.1:1",
        )


class Target:
    """A running router under attack, and what it must have counted."""

    def __init__(self, nodes: list[RouterNode], port: int, seed: int) -> None:
        self.a, self.b = nodes
        self.port = port
        self.forge = Forge(seed, *nodes)
        self.worker = self.b.worker(0, list(range(GROUPS)))
        self.from_a = FakeWorker(self.a.bell)
        self.from_a.attach(self.a.router, 0, list(range(GROUPS)))
        self.before = self.b.router.status()
        self.expected: Counter[str] = Counter()
        self.good: list[bytes] = []

    def counted(self) -> Counter[str]:
        """What was counted since the attack began."""
        status = self.b.router.status()
        counted = Counter(status["drops"])
        for name in ("tcp_bad_header", "udp_bad_length"):
            counted[name] = status["network"][name] - self.before["network"][name]
        return +counted

    async def check(self) -> None:
        """Everything bad is counted under its reason, and nothing else has happened."""
        await until(lambda: self.counted().total() >= self.expected.total(), self.worker)
        assert self.counted() == +self.expected

    async def send_good(self) -> None:
        """A frame by the real way, from worker to worker."""
        frame = self.a.frame(self.b.node_id, b"good %d" % len(self.good), 1 << len(self.good) % GROUPS)
        self.good.append(frame)
        self.from_a.send(frame)
        await until(lambda: len(self.worker.got) >= len(self.good), self.worker)
        assert self.worker.got == self.good

    def still_the_same(self) -> None:
        status = self.b.router.status()
        assert status["founding"] == self.before["founding"]
        peer = str(self.a.node_id)
        assert (
            status["peers"][peer]["seat"] == self.before["peers"][peer]["seat"]
            or status["peers"][peer]["refused"]
        )
        assert not self.b.broken
        assert not self.b.failed


async def attacked(ports: list[int], folder: Path, seed: int) -> Target:
    nodes = await start_cluster(ports, folder)
    await until(lambda: all(p["seat"] for node in nodes for p in node.router.status()["peers"].values()))
    return Target(nodes, ports[1], seed)


def truncated(forge: Forge) -> Iterator[bytes]:
    while True:
        frame = forge.pack(forge.rng.randbytes(300))
        yield frame[: forge.rng.randrange(1, len(frame))]


@pytest.mark.parametrize("seed", range(2))
def test_bad_datagrams_are_counted_and_dropped(tmp_path: Path, free_ports: Ports, seed: int) -> None:
    ports = free_ports(2)

    async def test() -> None:
        target = await attacked(ports, tmp_path, seed)
        forge, short = target.forge, truncated(target.forge)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for number in range(5000):
                if number % 10 == 0:
                    frame = next(short)
                    reason = "length" if len(frame) >= HEADER_BYTES else "udp_bad_length"
                else:
                    reason, frame = forge.any()
                target.expected[reason] += 1
                udp.sendto(frame, ("127.0.0.1", target.port))
                if number % 50 == 49:
                    # The kernel drops datagrams when nobody reads: no test of this router.
                    await target.check()
                if number % 500 == 499:
                    await target.send_good()
        await target.check()
        await target.send_good()
        target.still_the_same()
        assert len(target.expected) >= 10
        await stop_all([target.a, target.b])

    run(test())


@pytest.mark.parametrize("seed", range(2))
def test_bad_frames_in_a_stream_are_counted_and_dropped(tmp_path: Path, free_ports: Ports, seed: int) -> None:
    ports = free_ports(2)

    async def test() -> None:
        target = await attacked(ports, tmp_path, seed)
        forge = target.forge
        _, writer = await asyncio.open_connection("127.0.0.1", target.port)
        sent = 0
        while sent < 3000:
            reason, frame = forge.any()
            if reason in CLOSES and not _framed(frame):
                continue
            target.expected[reason] += 1
            writer.write(frame)
            sent += 1
            if sent % 200 == 0:
                await writer.drain()
                await target.check()
            if sent % 500 == 0:
                await target.send_good()
        await target.check()
        await target.send_good()
        target.still_the_same()
        writer.close()
        await stop_all([target.a, target.b])

    run(test())


def _framed(frame: bytes) -> bool:
    """Whether a stream can be read on after it."""
    magic, length = frame[:5], struct.unpack_from("<I", frame, 8)[0]
    if magic == b"PXM\x01\x02":
        return bool(length == len(frame) - WIDE_HEADER_BYTES)
    return magic == b"PXM\x01\x01" and length == len(frame) - HEADER_BYTES


def test_streams_that_make_no_sense_are_closed(tmp_path: Path, free_ports: Ports) -> None:
    ports = free_ports(2)

    async def test() -> None:
        target = await attacked(ports, tmp_path, 7)
        forge, short = target.forge, truncated(target.forge)
        for number in range(600):
            reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
            if number % 3 == 0:
                # Cut off in the middle: there is nothing to count but the bytes.
                writer.write(next(short))
                writer.write_eof()
            else:
                while True:
                    reason, frame = forge.any()
                    if reason in CLOSES and not _framed(frame) and reason != "length":
                        break
                writer.write(frame if number % 3 == 1 else _absurd(forge))
                target.expected["tcp_bad_header"] += 1
            assert await reader.read() == b"", "closed without a word"
            writer.close()
            if number % 100 == 99:
                await target.send_good()
        await target.check()
        await target.send_good()
        target.still_the_same()
        await stop_all([target.a, target.b])

    run(test())


def _absurd(forge: Forge) -> bytes:
    return forge.absurd_length()[1]
