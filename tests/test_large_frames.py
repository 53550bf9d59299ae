"""Large values on their way to other nodes: in pieces, in bounded frames, and behind what is small."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxmux.engine.frame import is_intact, parse_frame, parse_route
from paxmux.engine.frame_header import HEADER_BYTES
from paxmux.engine.paxos.effects import Outbox
from paxmux.engine.paxos.messages import Batch
from paxmux.shards import requests
from paxmux.shards.codec import decode_sections, encode_pieces, encode_section, split
from paxmux.shards.outlet import LARGE_BYTES, SPLIT_BYTES, Outlet

SMALL, LARGE = 100, 10_485_760


class Sink:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.sealed: list[bool] = []

    def send(self, data: bytes, *, droppable: bool) -> bool:
        assert droppable
        self.frames.append(data)
        self.sealed.append(False)
        return True

    def send_pieces(self, pieces: Sequence[bytes], *, droppable: bool, sealed: bool) -> bool:
        self.send(b"".join(pieces), droppable=droppable)
        self.sealed[-1] = sealed
        return True

    def commit(self) -> bool:
        return True


def outlet() -> tuple[Outlet, Sink]:
    sink = Sink()
    made = Outlet(sink, (1, 2), me=3, seat=4, incarnation=5, cluster=6, worker=7, generation=8, groups=0b1011)
    return made, sink


def to(frames: Sequence[bytes], node: int) -> list[bytes]:
    return [frame for frame in frames if parse_frame(frame).dest == node]


def accepts_in(frame: bytes) -> list[tuple[int, int]]:
    """(group, length of the value) of the Accepts in a frame."""
    return [(item[0], len(item[3])) for body in decode_sections(frame, HEADER_BYTES) for item in body[4]]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 300, 4095, 4096, 65_535, 65_536, 70_000]), max_size=20),
    st.integers(0, 3),
)
def test_pieces_are_the_bytes_of_the_section(sizes: list[int], many: int) -> None:
    batch = Batch()
    for index, size in enumerate(sizes):
        value = os.urandom(size)
        batch.learned.append((index, 1 << 40, 3, 4, value))
        batch.accepts.append((index, index, 300, value))
        batch.forwards.append((index, 1 << 33, value))
        batch.prepare_replies.append((index, 2, 3, 0, 70_000, 1 << 63, value))
    batch.chosen += [(index, 1, 2) for index in range(many * 20)]
    pieces = encode_pieces(batch)
    assert b"".join(pieces) == encode_section(batch)
    values = {id(message[-1]) for message in batch.accepts if len(message[-1]) >= 4096}
    assert sum(id(piece) in values for piece in pieces) == 4 * sum(size >= 4096 for size in sizes)


@pytest.mark.parametrize("count", [0, 1, 70_000])
def test_requests_in_pieces_are_read_as_ever(count: int) -> None:
    proposals: list[requests.Proposal] = [
        (seq, 5, 1 << 60, 99, os.urandom(size), context)
        for seq, size in enumerate((0, 255, 4095, 4096, 65_535, 65_536, 200_000))
        for context in (None, b"", b"context")
    ]
    proposals += [(seq, 0, 0, 1, b"", None) for seq in range(count)]
    calls: list[requests.Call] = [(1, 2, 3, 4, 5, b"payload")]
    batch = requests.Batch(proposals, calls)
    pieces = requests.encode_pieces(batch)
    assert requests.decode_batch(b"".join(pieces)) == batch


def test_small_messages_overtake_a_large_value_of_the_same_turn() -> None:
    """The votes and small Accepts of other groups leave first, in frames of their own that no datagram is too
    small for."""
    made, sink = outlet()
    box = Outbox()
    box.all.accepts += [(0, 9, 1, bytes(LARGE)), (1, 9, 1, bytes(SMALL))]
    box.all.chosen.append((3, 8, 1))
    box.peer(1).accept_replies.append((2, 5, 1, 0, 1))
    made.send(box)
    for node in (1, 2):
        first, *rest = to(sink.frames, node)
        assert len(first) < 1000
        assert accepts_in(first) == [(1, SMALL)]
        votes = [item for body in decode_sections(first, HEADER_BYTES) for item in body[5]]
        assert [item[0] for item in votes] == ([2] if node == 1 else [])
        assert [accepts_in(frame) for frame in rest] == [[(0, LARGE)]]
    small = [index for index, frame in enumerate(sink.frames) if len(frame) < LARGE_BYTES]
    assert small == [0, 1], "all that is small leaves before anything large"


def test_large_frames_are_bounded_and_whole() -> None:
    made, sink = outlet()
    box = Outbox()
    box.all.accepts += [(group, 9, 1, os.urandom(200_000)) for group in range(20)]
    made.send(box)
    assert made.sent == len(sink.frames)
    for node in (1, 2):
        frames = to(sink.frames, node)
        assert [group for frame in frames for group, _ in accepts_in(frame)] == list(range(20))
        assert all(len(frame) < SPLIT_BYTES + 1000 for frame in frames)
        for frame in frames:
            kind, cluster, sender, dest, groups = parse_route(frame)
            assert (kind, cluster, sender, dest) == (2, 6, 3, node)
            assert int.from_bytes(groups, "little") == 0b1011
            header = parse_frame(frame)
            assert (header.seat, header.incarnation, header.log, header.generation) == (4, 5, 7, 8)
            assert is_intact(frame)
    assert all(sink.sealed)


def test_a_frame_that_was_altered_is_not_intact() -> None:
    made, sink = outlet()
    box = Outbox()
    box.all.accepts.append((0, 9, 1, os.urandom(100_000)))
    made.send(box)
    frame = sink.frames[0]
    for at in (0, 60, HEADER_BYTES - 1, HEADER_BYTES, 50_000, len(frame) - 1):
        changed = bytearray(frame)
        changed[at] ^= 4
        assert not is_intact(bytes(changed))
    assert not is_intact(frame[:-1])
    assert not is_intact(b"short")


def test_positions_follow_the_last_of_a_run_of_decided_values() -> None:
    """Before it they would make the peer ask for what is on its way."""
    batch = Batch()
    batch.learned += [(0, instance, 1, 2, bytes(300_000)) for instance in range(5)]
    batch.positions.append((0, 99, 0))
    parts = list(split(batch, SPLIT_BYTES))
    assert [len(part.positions) for part in parts] == [0] * (len(parts) - 1) + [1]
    assert [item[1] for part in parts for item in part.learned] == list(range(5))
    made, sink = outlet()
    box = Outbox()
    box.peer(2).learned += batch.learned
    box.peer(2).positions += batch.positions
    made.send(box)
    bodies = [body for frame in sink.frames for body in decode_sections(frame, HEADER_BYTES)]
    assert [len(body[6]) for body in bodies] == [0] * (len(bodies) - 1) + [1]
