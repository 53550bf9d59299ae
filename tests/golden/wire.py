"""Formats between nodes: frames, the messages in them, the hello, the stream that carries them, values."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from paxmux.engine import frame, pack
from paxmux.engine.frame import FrameKind, pack_frame, parse_frame
from paxmux.engine.frame_header import HEADER_BYTES, Header, WideHeader
from paxmux.engine.options import NetworkOptions
from paxmux.engine.paxos import system, value
from paxmux.engine.paxos.messages import KINDS, Batch
from paxmux.plugins.network.counts import Counts
from paxmux.plugins.network.incoming import Incoming
from paxmux.plugins.network.outgoing import Outgoing
from paxmux.plugins.network.trust import Trust
from paxmux.shards.cluster import make_founding
from paxmux.shards.codec import decode_sections, encode_section
from paxmux.shards.hello import Hello, pack_hello, parse_hello
from paxmux.shards.identity import FORMAT
from tests.event_loop import DEADLINE_S
from tests.golden.format import Fields, Format, cut

WIRE = "VERSION in engine/frame.py"
MOST = 2**64 - 1
HIGH = 2**62

FRAME = (
    ("magic", 4),
    ("version", 1),
    ("kind", 1),
    ("flags", 2),
    ("body length", 4),
    ("log", 2),
    ("reserved", 2),
    ("generation", 4),
    ("reserved", 4),
    ("cluster", 8),
    ("sender", 8),
    ("seat", 8),
    ("incarnation", 8),
    ("dest", 8),
    ("groups", 32),
    ("reserved", 28),
    ("crc", 4),
)
WIDE_FRAME = tuple((name, 128 if name == "groups" else size) for name, size in FRAME)


def wire_version() -> int:
    return frame.VERSION


def wide_version() -> int:
    return frame.WIDE_VERSION


def framed(
    body: bytes, kind: int = FrameKind.PAXOS, version: int = frame.VERSION, highest: int = 255
) -> bytes:
    return pack_frame(
        kind,
        body,
        cluster=0x8182838485868788,
        sender=0x9192939495969798,
        seat=0xA1A2A3A4A5A6A7A8,
        incarnation=0xB1B2B3B4B5B6B7B8,
        dest=0xC1C2C3C4C5C6C7C8,
        groups=1 << highest | 0b101,
        log=0xD1D2,
        generation=0xE1E2E3E4,
        version=version,
    )


def _wide(body: bytes) -> bytes:
    return framed(body, version=frame.WIDE_VERSION, highest=1023)


def _header(data: bytes, body: bytes, highest: int) -> Header:
    crc = parse_frame(data).crc
    ids = (0x8182838485868788, 0x9192939495969798, 0xA1A2A3A4A5A6A7A8, 0xB1B2B3B4B5B6B7B8, 0xC1C2C3C4C5C6C7C8)
    kind = Header if highest == 255 else WideHeader
    return kind(2, len(body), 0xD1D2, 0xE1E2E3E4, *ids, 1 << highest | 0b101, crc)


_BODIES = {"with a body": b"body", "without": b""}


def _encode_frames(_: Path) -> dict[str, Fields]:
    return {name: cut(framed(body), FRAME, "body") for name, body in _BODIES.items()}


def _decode_frames(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    return {name: (parse_frame(data), data[HEADER_BYTES:]) for name, data in cases.items()}


FRAMES = Format(
    "frame",
    "header and body of what travels between nodes",
    WIRE,
    wire_version,
    _encode_frames,
    _decode_frames,
    {name: (_header(framed(body), body, 255), body) for name, body in _BODIES.items()},
)


def _encode_wide_frames(_: Path) -> dict[str, Fields]:
    return {name: cut(_wide(body), WIDE_FRAME, "body") for name, body in _BODIES.items()}


def _decode_wide_frames(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    return {name: (parse_frame(data), data[parse_frame(data).start :]) for name, data in cases.items()}


WIDE_FRAMES = Format(
    "wide-frame",
    "the same in a cluster of more than 256 groups",
    "WIDE_VERSION in engine/frame.py",
    wide_version,
    _encode_wide_frames,
    _decode_wide_frames,
    {name: (_header(_wide(body), body, 1023), body) for name, body in _BODIES.items()},
)


MESSAGES: dict[str, list[tuple[Any, ...]]] = {
    "learned": [(0, 0, 1, 2, b""), (255, HIGH, HIGH, MOST, b"value")],
    "chosen": [(1, 2, 3), (255, HIGH, HIGH)],
    "prepares": [(1, 2, 3), (255, HIGH, HIGH)],
    "prepare_replies": [(1, 2, 3, 0, 0, 0, b""), (255, HIGH, HIGH, HIGH, HIGH, MOST, b"value")],
    "accepts": [(1, 2, 3, b""), (255, HIGH, HIGH, b"value")],
    "accept_replies": [(1, 2, 3, 0, 0), (255, HIGH, HIGH, HIGH, MOST)],
    "positions": [(1, 2, 3), (255, HIGH, 2**32 - 1)],
    "asks": [(1, 2), (255, HIGH)],
    "top_asks": [(1, 2), (255, MOST)],
    "top_replies": [(1, 2, -1, 0), (255, MOST, 2**63 - 1, HIGH)],
    "forwards": [(1, 2, b""), (255, HIGH, b"value")],
    "forward_refusals": [(1, 2, 3, 4), (255, HIGH, HIGH, MOST)],
    "chain_asks": [(1, 2, 3), (255, HIGH, 2**32 - 1)],
    "chain_replies": [(1, 2, 3), (255, HIGH, 2**32 - 1)],
    "vow_asks": [(1, 2), (255, MOST)],
    "vow_replies": [(1, 2, 3, 4, 5), (255, MOST, HIGH, MOST, HIGH)],
    "mend_asks": [(1, 2, 3), (255, HIGH, HIGH)],
    "inner_forwards": [(1, b""), (255, b"value")],
    "recall_asks": [(1,), (255,)],
    "recall_replies": [(1, 2, b""), (255, HIGH, b"value")],
}


def _batch(kind: str) -> Batch:
    batch = Batch()
    for name in KINDS:
        if kind in (name, "every kind"):
            setattr(batch, name, MESSAGES[name])
    return batch


def _encode_messages(_: Path) -> dict[str, Fields]:
    cases: dict[str, Fields] = {"none": _lists(encode_section(Batch()))}
    for at, kind in enumerate(KINDS):
        data = encode_section(_batch(kind))
        empty = (("section length", 4), ("so many kinds", 1), ("kinds before it, empty", at))
        own = len(data) - 5 - (len(KINDS) - 1)
        cases[kind] = cut(data, (*empty, (kind, own), ("kinds behind it, empty", len(KINDS) - 1 - at)))
    cases["every kind"] = cut(encode_section(_batch("every kind")), (("section length", 4),), "messages")
    return cases


def _lists(data: bytes) -> Fields:
    return cut(data, (("section length", 4), ("so many kinds", 1)), "all empty")


def _decode_messages(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    return {name: list(decode_sections(data, 0)) for name, data in cases.items()}


BODIES = Format(
    "messages",
    "the body of a frame of kind PAXOS: sections of msgpack (shards/codec.py), every kind of message",
    WIRE,
    wire_version,
    _encode_messages,
    _decode_messages,
    {kind: [_batch(kind).body()] for kind in ("none", *KINDS, "every kind")},
)


_SEATS = {0x7F00000100002B67: 11, 0x7F00000100002B68: MOST}
_HELLOS = {
    name: Hello(
        wire=frame.VERSION,
        disk=FORMAT,
        node_id=0x7F00000100002B67,
        seat=11,
        incarnation=13,
        groups=100,
        address="node-1.example:11111",
        role="member" if founded else "joining",
        rejoin=not founded,
        members=sorted(_SEATS),
        addresses={0x7F00000100002B68: "[::1]:11112"} if founded else {},
        founding=make_founding(_SEATS, 100) if founded else None,
        active=founded,
        ask=not founded,
    )
    for name, founded in (("founded", True), ("not founded yet", False))
}


def _encode_hellos(_: Path) -> dict[str, Fields]:
    return {
        name: cut(pack_hello(hello, 0x7F00000100002B68), FRAME, "JSON") for name, hello in _HELLOS.items()
    }


def _decode_hellos(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    return {name: parse_hello(parse_frame(data), data[HEADER_BYTES:]) for name, data in cases.items()}


HELLOS = Format(
    "hello",
    "how a node says who it is: JSON in a frame of kind HELLO (shards/hello.py)",
    WIRE,
    wire_version,
    _encode_hellos,
    _decode_hellos,
    _HELLOS,
)


_WIDE_HELLOS = {
    name: msgspec.structs.replace(
        hello,
        wire=frame.WIDE_VERSION,
        groups=1000,
        founding=None if hello.founding is None else make_founding(_SEATS, 1000),
    )
    for name, hello in _HELLOS.items()
}


def _encode_wide_hellos(_: Path) -> dict[str, Fields]:
    return {
        name: cut(pack_hello(hello, 0x7F00000100002B68), FRAME, "JSON")
        for name, hello in _WIDE_HELLOS.items()
    }


WIDE_HELLOS = Format(
    "wide-hello",
    "the same of a node of more than 256 groups: in a frame of version 1, as all hellos",
    "WIDE_VERSION in engine/frame.py",
    wide_version,
    _encode_wide_hellos,
    _decode_hellos,
    _WIDE_HELLOS,
)


_STREAM = [pack_hello(_HELLOS["founded"], 2), framed(b"first"), framed(b""), framed(b"last")]


async def _sent() -> bytes:
    """What arrives at a peer that was sent these frames, the hello as the connection is made."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        def on_peer(_: int, connected: bool) -> None:
            if connected:
                peer.send(_STREAM[0])

        port = server.getsockname()[1]
        counts = Counts()
        peer = Outgoing(2, "127.0.0.1", port, NetworkOptions(), counts, on_peer, Trust(counts), 1)
        for frame_ in _STREAM[1:]:
            peer.send(frame_)
        peer.start(loop, socket.AF_INET)
        try:
            connection, _ = await asyncio.wait_for(loop.sock_accept(server), DEADLINE_S)
            with connection:
                data = b""
                while len(data) < sum(map(len, _STREAM)):
                    more = await asyncio.wait_for(loop.sock_recv(connection, 1 << 16), DEADLINE_S)
                    if not more:
                        break
                    data += more
                return data
        finally:
            task = peer.close()
            if task is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _received(data: bytes) -> list[bytes]:
    """The frames that a node takes out of a connection."""
    loop = asyncio.get_running_loop()
    frames: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    counts = Counts()
    incoming = Incoming(listener, (1,), counts, 1 << 16, frames.append, Trust(counts), 1)
    incoming.start(loop)
    try:
        with socket.create_connection(listener.getsockname()) as connection:
            connection.sendall(data)
        async with asyncio.timeout(DEADLINE_S):
            while sum(map(len, frames)) < len(data):
                await asyncio.sleep(0.001)
    finally:
        incoming.close()
    return frames


def _encode_stream(_: Path) -> dict[str, Fields]:
    layout = [("hello", len(_STREAM[0]))]
    layout += [(f"frame {number}", len(data)) for number, data in enumerate(_STREAM[1:], 1)]
    return {"connection": cut(asyncio.run(_sent()), layout)}


def _decode_stream(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    return {name: asyncio.run(_received(data)) for name, data in cases.items()}


STREAM = Format(
    "stream",
    "a TCP connection between nodes: a hello, then frames, back to back (plugins/network)",
    WIRE,
    wire_version,
    _encode_stream,
    _decode_stream,
    {"connection": _STREAM},
)


_CHANGE = system.Change(7, -1, {1: (11, ""), MOST: (12, "[::1]:9000")})
_LEASE = system.ReignOp(2, 13, 5, 10**10, fresh=True)
_RELEASE = system.ReignOp(2, 13, 6, 0, release=True, heir=1)

_ENTRIES: dict[str, tuple[list[value.Entry], bytes]] = {
    "no-op, first instance": ([], value.FIRST),
    "one entry": ([(1, 2, 3, 4, 5, b"payload")], b"\x01\x02\x03\x04"),
    "largest numbers, no payload": ([(MOST, MOST, MOST, MOST, 2**32 - 1, b"")], b"\xff" * 4),
    "two entries": ([(1, 2, 3, 0, 0, b"a"), (1, 2, 4, 0, 1, b"bc")], b"\x01\x02\x03\x04"),
    "a change of members, a lease, and an entry": (
        [
            (1, 0, MOST, 0, system.MEMBERSHIP_SMID, system.encode_change(_CHANGE)),
            (2, 0, 4, 0, system.MASTER_SMID, system.encode_reign_op(_LEASE)),
            (2, 0, 5, 0, system.MASTER_SMID, system.encode_reign_op(_RELEASE)),
            (1, 2, 3, 0, 1, b"a"),
        ],
        b"\x01\x02\x03\x04",
    ),
}


def _encode_values(_: Path) -> dict[str, Fields]:
    head = [("version", 1), ("inner", 1), ("zero", 2), ("count", 4), ("chain", 4)]
    cases: dict[str, Fields] = {}
    for name, (entries, chain) in _ENTRIES.items():
        layout = list(head)
        for entry in entries:
            layout += [("origin", 8), ("incarnation", 8), ("seq", 8), ("born", 8), ("smid", 4), ("length", 4)]
            layout.append(("payload", len(entry[5])))
        inner = sum(not entry[1] for entry in entries)
        cases[name] = cut(value.encode(entries, chain, inner), layout)
    return cases


def _decode_values(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    return {name: (value.decode(data), value.chain_in(data)) for name, data in cases.items()}


VALUES = Format(
    "value",
    "what an instance decides: a batch of proposals (engine/paxos/value.py)",
    "VERSION in engine/paxos/value.py",
    lambda: value.VERSION,
    _encode_values,
    _decode_values,
    _ENTRIES,
)


_PACKS: dict[str, list[bytes]] = {
    "no values": [],
    "three values, one without bytes": [b"one", b"", b"three"],
}


def _encode_packs(_: Path) -> dict[str, Fields]:
    cases: dict[str, Fields] = {}
    for name, payloads in _PACKS.items():
        layout = [("count", 4), *[("offset", 4)] * (len(payloads) + 1)]
        layout += [("value", len(payload)) for payload in payloads]
        cases[name] = cut(pack.encode(payloads), layout)
    return cases


def _decode_packs(cases: Mapping[str, bytes], _: Path) -> dict[str, Any]:
    return {name: pack.decode(data) for name, data in cases.items()}


PACKS = Format(
    "pack",
    "many values proposed as one: payload of an entry with 0x80000000 in its smid (engine/pack.py)",
    "VERSION in engine/pack.py",
    lambda: pack.VERSION,
    _encode_packs,
    _decode_packs,
    _PACKS,
)

FORMATS = (FRAMES, WIDE_FRAMES, BODIES, HELLOS, WIDE_HELLOS, STREAM, VALUES, PACKS)
