"""The node's ends of the client rings: what travels together, and what broken memory means."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from paxmux.engine.options import LimitOptions
from paxmux.shards import link as link_module
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.link import Link, LinkBroken
from paxmux.shards.requests import Batch, CallKind, Replies, decode_batch, encode
from paxmux.shards.ring import RingCorrupt, create_ring


class Pair:
    """A link and the worker's ends of it."""

    def __init__(self, ring_bytes: int = 1 << 20, backlog_bytes: int = 1 << 20) -> None:
        self.to_worker, self.from_worker = create_ring(ring_bytes, generation=7), create_ring(ring_bytes)
        self.bell = Doorbell.create()
        limits = LimitOptions(ring_backlog_bytes=backlog_bytes)
        self.link = Link(3, self.to_worker, self.from_worker, self.bell, limits)
        self.requests = Receiver(self.to_worker, self.bell)
        self.answers = Sender(self.from_worker, self.bell, backlog_max_bytes=1 << 20)

    def received(self) -> list[Batch]:
        return [decode_batch(data) for data in self.requests.receive(1 << 30)]

    def close(self) -> None:
        for end in (self.link, self.requests, self.answers, self.bell):
            end.close()
        os.close(self.to_worker)
        os.close(self.from_worker)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with contextlib.closing(Pair()) as made:
        yield made


def test_everything_of_one_turn_travels_together(pair: Pair) -> None:
    for seq in range(5):
        pair.link.propose((seq, 0, 0, 0, b"v", None), 1)
    pair.link.call((9, CallKind.QUERY, 0, 10**12, 1, b"q"), 1)
    assert pair.received() == []
    assert pair.link.flush()
    (batch,) = pair.received()
    assert [proposal[0] for proposal in batch.proposals] == [0, 1, 2, 3, 4]
    assert [call[0] for call in batch.calls] == [9]
    assert pair.link.flush()
    assert pair.received() == [], "nothing is said twice"
    assert (pair.link.worker, pair.link.generation) == (3, 7)


def test_one_doorbell_for_a_batch_and_none_for_a_worker_that_is_awake(pair: Pair) -> None:
    assert pair.requests.prepare_sleep()
    pair.link.propose((1, 0, 0, 0, b"v", None), 1)
    pair.link.flush()
    assert pair.bell.clear()
    pair.requests.wake()
    pair.link.propose((2, 0, 0, 0, b"v", None), 1)
    pair.link.flush()
    assert not pair.bell.clear()


def test_a_large_turn_is_cut_and_keeps_its_order(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "BATCH_BYTES", 1000)
    sizes = [400, 400, 400, 3000, 10, 10, 990]
    for seq, size in enumerate(sizes):
        pair.link.propose((seq, 0, 0, 0, b"v" * (size - 1), b"c"), size)
    for seq, size in ((10, 600), (11, 600)):
        pair.link.call((seq, CallKind.QUERY, 0, 10**12, 1, b"q" * size), size)
    pair.link.flush()
    batches = pair.received()
    cut = [[request[0] for request in [*batch.proposals, *batch.calls]] for batch in batches]
    assert cut == [[0, 1], [2], [3], [4, 5], [6], [10], [11]]


def test_large_requests_travel_in_pieces_and_are_read_as_ever(pair: Pair) -> None:
    values = [os.urandom(size) for size in (20_000, 300_000, 5, 300_000, 400_000)]
    for seq, value in enumerate(values):
        pair.link.propose((seq, 0, 0, 0, value, b"c"), len(value) + 1)
    got: list[Batch] = []
    while sum(len(batch.proposals) for batch in got) < len(values):
        pair.link.flush()
        got += pair.received()
    assert [proposal for batch in got for proposal in batch.proposals] == [
        (seq, 0, 0, 0, value, b"c") for seq, value in enumerate(values)
    ]


def test_a_worker_that_does_not_keep_up_is_told_by_flush() -> None:
    with contextlib.closing(Pair(ring_bytes=4096, backlog_bytes=10_000)) as pair:
        pair.link.propose((1, 0, 0, 0, b"v" * 9000, None), 9000)
        assert pair.link.flush()
        assert pair.link.backlogged
        pair.link.propose((2, 0, 0, 0, b"v" * 9000, None), 9000)
        assert not pair.link.flush()
        got: list[int] = []
        while len(got) < 2:
            got += [proposal[0] for batch in pair.received() for proposal in batch.proposals]
            keeps_up = pair.link.flush()
        assert got == [1, 2]
        assert keeps_up
        assert not pair.link.backlogged


def test_what_never_left_is_known(pair: Pair) -> None:
    pair.link.propose((1, 0, 0, 0, b"v", None), 1)
    pair.link.flush()
    pair.link.propose((2, 0, 0, 0, b"v", None), 1)
    pair.link.call((3, CallKind.QUERY, 0, 10**12, 1, b"q"), 1)
    assert pair.link.unsent() == [2, 3]
    assert pair.link.unsent() == []


@pytest.mark.plain("it puts methods of its own into a sender")
def test_what_a_broken_flush_may_have_handed_over_is_not_called_unsent(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outcome is unknown: "nothing was proposed" would invite to propose it twice."""
    monkeypatch.setattr(link_module, "BATCH_BYTES", 10)
    for seq in (1, 2):
        pair.link.propose((seq, 0, 0, 0, b"0123456789", None), 10)
    sender = pair.link._sender
    send = sender.send

    def send_once(data: bytes, *, droppable: bool) -> bool:
        monkeypatch.setattr(sender, "send", damaged)
        return send(data, droppable=droppable)

    def damaged(data: bytes, *, droppable: bool) -> bool:
        raise RingCorrupt("as asked")

    monkeypatch.setattr(sender, "send", send_once)
    with pytest.raises(LinkBroken):
        pair.link.flush()
    assert [proposal[0] for batch in pair.received() for proposal in batch.proposals] == [1]
    pair.link.propose((3, 0, 0, 0, b"v", None), 1)
    assert pair.link.unsent() == [3]


def test_replies_come_in_order_over_several_messages(pair: Pair) -> None:
    assert pair.link.receive() == []
    for seq in (1, 2, 3):
        pair.answers.send(encode(Replies([(seq, 0, seq, 0, None)])), droppable=False)
    assert not pair.link.prepare_sleep()
    assert [reply[0] for reply in pair.link.receive()] == [1, 2, 3]
    assert pair.link.prepare_sleep()


@pytest.mark.parametrize(
    "message",
    [b"", b"\xc1", b"\x91\x91\x95\xa1x\x00\x00\x00\xc0", b"\x91\x91\x94\x01\x00\x00\x00", encode([1, 2, 3])],
)
def test_replies_of_a_wrong_shape_break_the_link(pair: Pair, message: bytes) -> None:
    pair.answers.send(message, droppable=False)
    with pytest.raises(LinkBroken, match="replies of worker 3"):
        pair.link.receive()


def test_damaged_memory_breaks_the_link(pair: Pair) -> None:
    pair.answers.send(encode(Replies([(1, 0, 1, 0, None)])), droppable=False)
    os.pwrite(pair.from_worker, b"\xff", 4096 + 16)
    with pytest.raises(LinkBroken, match="damaged"):
        pair.link.receive()
    os.pwrite(pair.to_worker, b"\xff" * 8, 32 * 8)
    pair.link.propose((1, 0, 0, 0, b"v" * (2 << 20), None), 2 << 20)
    with pytest.raises(LinkBroken, match="ring to worker 3"):
        pair.link.flush()
