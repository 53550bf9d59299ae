"""The decoders that a search runs, and what each must never do but refuse by its own error."""

from __future__ import annotations

import asyncio
import socket
from types import ModuleType
from typing import Any

from paxmux.engine import frame, pack, secret_file
from paxmux.engine.frame_header import HEADER_BYTES, FrameError
from paxmux.engine.paxos import value
from paxmux.engine.paxos.messages import KINDS, Batch
from paxmux.plugins.network import handshake, incoming, seal, session
from paxmux.plugins.network.addresses import SocketAddress
from paxmux.plugins.network.counts import Counts
from paxmux.plugins.network.handshake import (
    ANSWER_BYTES,
    CALL_BYTES,
    PROOF_BYTES,
    Dialler,
    Listener,
    Stranger,
)
from paxmux.plugins.network.seal import DatagramSeal
from paxmux.plugins.network.trust import Trust
from paxmux.shards import cluster, codec, hello
from paxmux.shards.boot import Founding
from paxmux.shards.codec import BodyError
from paxmux.shards.hello import Hello, pack_hello
from tests.fuzz_decoders import Target, mend_frame
from tests.network_contract import frame_of

KEYS = secret_file.keys_of(b"k" * 40)
FEIGNED = b"\xa5" * 32
BODY_MAX = 3000


def files_of(*modules: ModuleType) -> tuple[str, ...]:
    return tuple(str(module.__file__) for module in modules)


def _frame(data: bytes) -> None:
    """Three ways to read a frame; they must agree."""
    answers: list[Any] = []
    for read in (frame.parse_frame, frame.parse_route):
        try:
            answers.append(read(data, BODY_MAX))
        except FrameError as error:
            answers.append(error.reason)
    header, route = answers
    assert isinstance(header, str) == isinstance(route, str), answers
    if isinstance(header, str):
        assert header == route, answers
        return
    assert route[:4] == (header.kind, header.cluster, header.sender, header.dest)
    assert int.from_bytes(route[4], "little") == header.groups
    assert header.body_length == len(data) - header.start <= BODY_MAX
    assert frame.is_intact(data)
    length, sender = frame.parse_start(data[:HEADER_BYTES], HEADER_BYTES + BODY_MAX + 96)
    assert (length, sender) == (len(data), header.sender)


def _batches() -> list[bytes]:
    samples: dict[str, Any] = {
        "learned": (1, 2, 3, 4, b"value"),
        "chosen": (1, 2, 3),
        "prepares": (1, 2, 3),
        "prepare_replies": (1, 2, 3, 0, 3, 4, b"value"),
        "accepts": (1, 2, 3, b"value"),
        "accept_replies": (1, 2, 3, 0, 4),
        "positions": (1, 2, 3),
        "asks": (1, 2),
        "top_asks": (1, 2),
        "top_replies": (1, 2, -1, 3),
        "forwards": (1, 2, b"value"),
        "forward_refusals": (1, 2, 3, 4),
        "chain_asks": (1, 2, 3),
        "chain_replies": (1, 2, 3),
        "vow_asks": (1, 2),
        "vow_replies": (1, 2, 3, 4, 5),
        "mend_asks": (1, 2, 3),
        "inner_forwards": (1, b"operation"),
        "recall_asks": (1,),
        "recall_replies": (1, 2, b"state"),
    }
    made = [b"", codec.encode_section(Batch())]
    for kind in KINDS:
        batch = Batch()
        setattr(batch, kind, [samples[kind]] * 2)
        made.append(codec.encode_section(batch))
    return [*made, b"".join(made)]


def _body(data: bytes) -> None:
    try:
        bodies = list(codec.decode_sections(data, 0))
    except BodyError:
        return
    for body in bodies:
        assert len(body) == len(KINDS)
        for messages in body:
            for message in messages:
                assert all(isinstance(part, bytes) or -1 <= part < 1 << 64 for part in message)


def _hello(data: bytes) -> None:
    try:
        header = frame.parse_frame(data)
        said = hello.parse_hello(header, memoryview(data)[header.start :])
    except FrameError:
        return
    assert (said.node_id, said.seat) == (header.sender, header.seat)
    assert said.founding is not None or said.role != "member" or said.node_id in said.members


def _hellos() -> list[bytes]:
    def made(founding: Founding | None, *, active: bool, ask: bool) -> bytes:
        said = Hello(
            wire=1,
            disk=1,
            node_id=1,
            seat=11,
            incarnation=5,
            groups=4,
            address="127.0.0.1:9",
            role="member",
            rejoin=False,
            members=[1, 2],
            addresses={2: "127.0.0.1:10"},
            founding=founding,
            active=active,
            ask=ask,
        )
        return pack_hello(said, 2)

    founding = cluster.make_founding({1: 11, 2: 12}, 4)
    return [made(None, active=False, ask=True), made(founding, active=True, ask=False)]


def _call(data: bytes) -> None:
    listener = Listener([KEYS], 2)
    if len(data) < CALL_BYTES:
        return
    call, rest = data[:CALL_BYTES], data[CALL_BYTES:]
    try:
        answer = listener.called(call)
        assert len(answer) == ANSWER_BYTES
        if len(rest) >= PROOF_BYTES:
            listener.proved(rest[:PROOF_BYTES])
    except Stranger:
        return
    assert len(rest) < PROOF_BYTES, "nobody who knows no secret can prove anything"


def _answer(data: bytes) -> None:
    if len(data) < ANSWER_BYTES:
        return
    try:
        Dialler(KEYS, 1, 2).answered(data[:ANSWER_BYTES])
    except Stranger:
        return
    raise AssertionError("an answer to another call was believed")


def _datagram(data: bytes) -> None:
    opened = DatagramSeal([KEYS]).open(memoryview(data))
    assert opened is None or data == DATAGRAM, "only what was sealed is opened"


def _value(data: bytes) -> None:
    entries = value.decode(data)
    if entries:
        assert value.encode(entries, value.chain_in(data)) == data, "each value has one way to be written"
    for entry in entries:
        expanded = pack.expand([entry])
        assert len(pack.column(entry[5])) in (0, len(pack.decode(entry[5])))
        assert sum(len(one[5]) for one in expanded) <= len(entry[5])


class _Stream:
    """An accepted connection that is fed by hand."""

    def __init__(self, *, secret: bool) -> None:
        self.frames: list[bytes] = []
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        counts = Counts()
        trust = Trust(counts)
        if secret:
            trust.set_keys([KEYS])
        self.listener = socket.socket()
        self.incoming = incoming.Incoming(
            self.listener, {1}, counts, HEADER_BYTES + BODY_MAX, self.frames.append, trust, 2
        )
        self.loop = LOOP
        self.incoming._loop = self.loop
        where: SocketAddress = ("test", 0)
        proof = Listener(trust.keys, 2) if secret else None
        self.connection = incoming._Connection(self.near, where, 0.0, proof)
        self.incoming._connections.add(self.connection)

    def close(self) -> None:
        for sock in (self.near, self.far, self.listener):
            sock.close()


LOOP = asyncio.new_event_loop()


def _stream(data: bytes) -> None:
    """The first byte says in which pieces the rest comes."""
    stream = _Stream(secret=False)
    try:
        size = 1 + data[0] * 4 if data else 1
        for at in range(1, len(data), size):
            stream.far.send(data[at : at + size])
            stream.incoming._readable(stream.connection)
            if stream.connection not in stream.incoming._connections:
                break
        assert 0 <= stream.incoming.partial_bytes <= HEADER_BYTES + BODY_MAX
        for one in stream.frames:
            length, _ = frame.parse_start(one[:HEADER_BYTES], HEADER_BYTES + BODY_MAX)
            assert length == len(one)
        assert b"".join(map(bytes, stream.frames)) == data[1 : 1 + sum(map(len, stream.frames))]
    finally:
        stream.close()


def _proved_stream(data: bytes) -> None:
    stream = _Stream(secret=True)
    try:
        stream.far.send(data or b"\0")
        stream.incoming._readable(stream.connection)
        stream.incoming._readable(stream.connection)
        assert stream.frames == [], "nobody has proved anything"
    finally:
        stream.close()


WIDE = frame_of(b"body", version=frame.WIDE_VERSION)
DATAGRAM = DatagramSeal([KEYS]).seal(frame_of(b"body"))
CALL = Dialler(KEYS, 1, 2).call
STREAM = frame_of(b"") + frame_of(b"x" * 700) + WIDE
PACKED = pack.encode([b"a", b"", b"ccc"])
ENTRIES: list[value.Entry] = [(1, 2, 3, 4, 5, b"one"), (1, 2, 4, 4, 0, b"")]
TARGETS = {
    "frame": Target(files_of(frame), [frame_of(b""), frame_of(b"body"), WIDE], _frame, mend_frame),
    "stream": Target(files_of(incoming, frame), [b"\xff" + STREAM, b"\x05" + STREAM], _stream),
    "stream with a secret": Target(
        files_of(incoming, handshake, session),
        [CALL, CALL + FEIGNED + frame_of(b"x"), STREAM],
        _proved_stream,
    ),
    "body": Target(files_of(codec), _batches(), _body),
    "hello": Target(files_of(hello, cluster, frame), _hellos(), _hello, mend_frame),
    "call and proof": Target(files_of(handshake), [CALL, CALL + FEIGNED], _call),
    "answer": Target(files_of(handshake), [Listener([KEYS], 2).called(CALL)], _answer),
    "datagram": Target(files_of(seal), [DATAGRAM, bytes(16), b""], _datagram),
    "value": Target(
        files_of(value, pack),
        [
            value.encode(ENTRIES),
            value.encode([]),
            value.encode([(1, 2, 3, 4, pack.PACK | 7, pack.encode([b"a", b"", b"ccc"]))]),
        ],
        _value,
    ),
}
