"""The socket of loads: what crosses it, what it refuses, and that one bad end harms nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
from time import monotonic_ns
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxmux.engine.errors import Code, Overloaded
from paxmux.shards.node import Node
from paxmux.shards.requests import Reply
from paxmux.tools import load_socket
from paxmux.tools.load_gate import Answer, GateSpec, LoadGate, Request
from paxmux.tools.load_socket import MAX_BYTES, Frames, LoadServer, SocketGate, WrongFrame, frame
from paxmux.tools.open_load import OpenLoad
from tests.event_loop import DEADLINE_S, in_loop, until
from tests.test_open_load import dues_of, spec_of, total

SPEC = GateSpec(smid=2, timeout_s=3.0, consistency="linearizable")


class FakeNode:
    """Takes requests as a node does; answers when it is told, or at once."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.futures: list[asyncio.Future[Reply]] = []
        self.refuse = False
        self._at_once = at_once

    def submit(self, *call: Any) -> asyncio.Future[Reply]:
        return self._take(call)

    def submit_query(self, *call: Any) -> asyncio.Future[Reply]:
        return self._take(call)

    def _take(self, call: tuple[Any, ...]) -> asyncio.Future[Reply]:
        if self.refuse:
            raise Overloaded("full")
        self.calls.append(call)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        if self._at_once:
            future.set_result((1, 0, 5, 0, None))
        return future

    def node(self) -> Node:
        return cast("Node", self)


def never(reason: str) -> None:
    raise AssertionError(f"lost: {reason}")


@given(
    documents=st.lists(st.binary(max_size=50), max_size=20),
    cuts=st.lists(st.integers(1, 30), min_size=1, max_size=20),
)
def test_a_stream_is_cut_into_its_frames(documents: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(document) for document in documents)
    frames, found, at, turn = Frames(), [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        found += frames.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert [load_socket._LENGTH.pack(len(each)) + each for each in found] == [
        frame(each) for each in documents
    ]


def test_a_frame_that_is_too_long_is_refused_before_it_is_there() -> None:
    with pytest.raises(WrongFrame, match="at most"):
        Frames().feed((MAX_BYTES + 1).to_bytes(4, "little"))


@in_loop
async def test_a_gate_hands_outcomes_over_once_per_turn() -> None:
    fake, given = FakeNode(at_once=False), []
    gate = LoadGate(fake.node(), SPEC, given.append)
    gate.send([(7, 1, b"value"), (8, 2, None), (9, 3, b"x")])
    assert fake.calls == [
        (1, b"value", 2, None, 3.0),
        (2, b"", 2, "linearizable", 3.0),
        (3, b"x", 2, None, 3.0),
    ]
    assert given == []
    for future, code in zip(fake.futures, (0, int(Code.TIMEOUT), 0), strict=True):
        future.set_result((1, code, 0, 0, None))
    fake.refuse = True
    gate.send([(10, 0, b"y")])
    await until(lambda: sum(map(len, given)) == 4)
    assert sorted(answer for batch in given for answer in batch) == [
        (7, 0),
        (8, Code.TIMEOUT),
        (9, 0),
        (10, Code.OVERLOADED),
    ]
    assert len(given) <= 2


@in_loop
async def test_a_load_runs_through_the_socket() -> None:
    fake = FakeNode()
    server = LoadServer(fake.node())
    name = await server.start()
    spec = spec_of(read_share=0.2)
    load = OpenLoad(spec)
    gate = await SocketGate.connect(name, spec.gate, load.answered, never)
    result = await asyncio.wait_for(load.run(gate, monotonic_ns()), DEADLINE_S)
    assert total(result.rows, "answered") == len(dues_of(spec)) == len(fake.calls)
    assert server.progress()["values"] == len(fake.calls)
    gate.close()
    gate.close()
    server.close()
    server.close()
    with pytest.raises(OSError, match="refused"):
        await SocketGate.connect(name, SPEC, load.answered, never)


@in_loop
async def test_large_values_travel_in_several_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counting(document: Any) -> bytes:
        data = frame(document)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(load_socket, "frame", counting)
    fake, answers = FakeNode(), []
    server = LoadServer(fake.node())
    gate = await SocketGate.connect(await server.start(), SPEC, answers.extend, never)
    requests: list[Request] = [(number, 0, bytes(700_000)) for number in range(5)]
    gate.send(requests)
    await until(lambda: len(answers) == 5)
    assert sorted(answers) == [(number, 0) for number in range(5)]
    assert 3 <= sum(size > 100_000 for size in sizes) <= 5
    assert max(sizes) < 2_000_000
    gate.close()
    server.close()


@in_loop
async def test_the_end_of_the_node_is_told_once() -> None:
    server, lost = LoadServer(FakeNode().node()), []
    gate = await SocketGate.connect(await server.start(), SPEC, lambda answers: None, lost.append)
    await until(lambda: server._connections)
    server.close()
    await until(lambda: lost)
    gate.send([(1, 0, b"x")])
    await asyncio.sleep(0.01)
    assert len(lost) == 1
    assert "closed the connection" in lost[0]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        frame(["no spec"]),
        frame(SPEC) + frame([[1, "no group", b""]]),
        frame(SPEC) + frame({"no": "list"}),
        frame(SPEC) + frame([[1, 2]]),
    ],
)
def test_what_makes_no_sense_ends_that_connection_alone(data: bytes) -> None:
    async def check() -> None:
        fake, answers = FakeNode(), []
        server = LoadServer(fake.node())
        name = await server.start()
        good = await SocketGate.connect(name, SPEC, answers.extend, never)
        reader, writer = await _connect(name)
        writer.write(data)
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        writer.close()
        good.send([(1, 0, b"x")])
        await until(lambda: answers)
        assert answers == [(1, 0)]
        good.close()
        server.close()

    asyncio.run(check())


@in_loop
async def test_another_user_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNode()
    server = LoadServer(fake.node())
    name = await server.start()
    monkeypatch.setattr(load_socket.os, "geteuid", lambda: os.getuid() + 1)
    reader, writer = await _connect(name)
    writer.write(frame(SPEC) + frame([(1, 0, b"x")]))
    # With or without a word: nothing was read of what it said.
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), DEADLINE_S)
    assert fake.calls == []
    assert not server._connections
    writer.close()
    server.close()


@in_loop
async def test_who_does_not_read_is_not_read_from() -> None:
    fake = FakeNode()
    server = LoadServer(fake.node())
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.connect(await server.start())
    end.setblocking(False)
    loop = asyncio.get_running_loop()
    batch: list[Request] = [(number, 0, b"") for number in range(5000)]
    data, sent = frame(batch), 0
    await loop.sock_sendall(end, frame(SPEC))
    sending = asyncio.create_task(loop.sock_sendall(end, data * 400))
    await until(lambda: any(each._paused for each in server._connections))
    sent = len(fake.calls)
    assert 0 < sent < 400 * 5000
    assert not sending.done()
    assert not any(each._transport.is_reading() for each in server._connections if each._transport)
    # Reading again sets it going again.
    got = 0
    while len(fake.calls) == sent:
        got += len(await asyncio.wait_for(loop.sock_recv(end, 1 << 20), DEADLINE_S))
    assert got > 0
    sending.cancel()
    server.close()
    end.close()


async def _connect(name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.connect(name)
    return await asyncio.open_unix_connection(sock=end)


def test_an_answer_is_a_pair() -> None:
    answers: list[Answer] = [(1, 0), (2**40, 405)]
    assert load_socket._decode_answers(frame(answers)[4:]) == answers
