"""The ring alone: records, wrap, and what damage to the shared memory does."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxmux.shards.ring import (
    FIRST,
    HEADER_BYTES,
    LAST,
    MIN_CAPACITY_BYTES,
    RECORD_BYTES,
    WHOLE,
    RingCorrupt,
    RingReader,
    RingWriter,
    create_ring,
)

CAPACITY = MIN_CAPACITY_BYTES
HEAD_AT, TAIL_AT, SLEEPING_AT, WAITING_AT = 128, 256, 384, 512


def no_fragments(flags: int, payload: bytes) -> bytes | None:
    raise AssertionError(f"fragment with flags {flags}, {len(payload)} bytes")


@contextmanager
def ring(capacity: int = CAPACITY) -> Iterator[tuple[int, RingWriter, RingReader]]:
    fd = create_ring(capacity, generation=7)
    writer, reader = RingWriter(fd), RingReader(fd)
    try:
        yield fd, writer, reader
    finally:
        writer.close()
        reader.close()
        os.close(fd)


def test_records_arrive_in_order_with_every_length() -> None:
    with ring() as (_, writer, reader):
        for length in range(600):
            payload = os.urandom(length)
            assert writer.write(payload)
            assert writer.write(memoryview(payload))
            assert reader.read(1 << 20, no_fragments) == [payload, payload]
        assert reader.bytes_read == sum(range(600)) * 2
        assert reader.used() == writer.used() == 0


def test_generation_and_capacity_are_seen_by_both_ends() -> None:
    with ring(1 << 14) as (_, writer, reader):
        assert writer.generation == reader.generation == 7
        assert writer.capacity == reader.capacity == 1 << 14


def test_full_ring_refuses_until_the_consumer_has_read() -> None:
    with ring() as (_, writer, reader):
        record = bytes(112)
        count = 0
        while writer.write(record):
            count += 1
        assert count == CAPACITY // (112 + RECORD_BYTES)
        assert writer.used() == reader.used() == CAPACITY
        assert reader.read(1, no_fragments) == [record]
        assert writer.write(record)
        assert not writer.write(record)
        assert len(reader.read(1 << 20, no_fragments)) == count


def test_a_record_fills_the_whole_ring_at_every_place() -> None:
    with ring() as (_, writer, reader):
        payload = os.urandom(CAPACITY - RECORD_BYTES)
        for _ in range(300):
            assert writer.write(b"x" * 5)
            assert reader.read(1 << 20, no_fragments) == [b"x" * 5]
            assert writer.write(payload)
            assert reader.read(1 << 20, no_fragments) == [payload]


def test_a_record_that_can_never_fit_is_an_error() -> None:
    with ring() as (_, writer, reader):
        with pytest.raises(ValueError, match="in a ring of"):
            writer.write(bytes(CAPACITY - RECORD_BYTES + 1))
        assert reader.read(1 << 20, no_fragments) == []


def test_read_is_bounded_but_takes_at_least_one() -> None:
    with ring() as (_, writer, reader):
        for _ in range(5):
            writer.write(bytes(100))
        assert len(reader.read(1, no_fragments)) == 1
        assert len(reader.read(101, no_fragments)) == 2
        assert len(reader.read(1 << 20, no_fragments)) == 2


def test_fragments_go_to_join_with_their_flags() -> None:
    seen: list[tuple[int, bytes]] = []

    def join(flags: int, payload: bytes) -> bytes | None:
        seen.append((flags, payload))
        return b"whole" if flags & LAST else None

    with ring() as (_, writer, reader):
        for flags, payload in ((FIRST, b"a"), (0, b"b"), (LAST, b"c"), (WHOLE, b"d")):
            assert writer.write(payload, flags)
        assert reader.read(1 << 20, join) == [b"whole", b"d"]
        assert seen == [(FIRST, b"a"), (0, b"b"), (LAST, b"c")]


def test_nothing_is_visible_of_a_record_whose_producer_died_before_the_head_moved() -> None:
    with ring() as (fd, writer, reader):
        assert writer.write(b"before")
        record = struct.pack("<IIII", 4, WHOLE, 12345, 2) + b"torn"
        os.pwrite(fd, record, HEADER_BYTES + 32)
        assert reader.read(1 << 20, no_fragments) == [b"before"]
        assert reader.read(1 << 20, no_fragments) == []
        assert reader.sleep()


def test_a_ring_has_one_life() -> None:
    with ring() as (fd, writer, reader):
        assert writer.write(b"x")
        with pytest.raises(RingCorrupt, match="already had a producer"):
            RingWriter(fd)
        assert reader.read(1 << 20, no_fragments) == [b"x"]
        with pytest.raises(RingCorrupt, match="already had a consumer"):
            RingReader(fd)


@pytest.mark.parametrize("capacity", [0, -4096, 2048, 4097, 12288, 1 << 31])
def test_bad_capacities(capacity: int) -> None:
    with pytest.raises(ValueError, match="expected a power of two"):
        create_ring(capacity)


def test_the_size_of_a_ring_is_sealed() -> None:
    with ring() as (fd, _, _), pytest.raises(PermissionError):
        os.ftruncate(fd, 100)


@pytest.mark.parametrize("size", [0, 100, HEADER_BYTES, HEADER_BYTES + CAPACITY, HEADER_BYTES + 5000])
def test_memory_that_is_no_ring(size: int) -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    try:
        for end in (RingWriter, RingReader):
            with pytest.raises(RingCorrupt):
                end(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("capacity", [0, 1, CAPACITY // 2, CAPACITY * 2, CAPACITY + 16, (1 << 64) - 1])
def test_a_lie_about_the_capacity(capacity: int) -> None:
    fd = create_ring(CAPACITY)
    os.pwrite(fd, struct.pack("<Q", capacity), 8)
    try:
        with pytest.raises(RingCorrupt, match="capacity"):
            RingReader(fd)
    finally:
        os.close(fd)


def store(fd: int, at: int, value: int, form: str = "<Q") -> None:
    os.pwrite(fd, struct.pack(form, value), at)


@pytest.mark.parametrize("head", [16, 47, CAPACITY + 64, 1 << 40, (1 << 64) - 16])
def test_a_head_that_cannot_be(head: int) -> None:
    with ring() as (fd, writer, reader):
        writer.write(b"first")
        assert reader.read(100, no_fragments) == [b"first"]
        store(fd, HEAD_AT, head)
        with pytest.raises(RingCorrupt, match="head"):
            reader.read(100, no_fragments)
        assert 0 <= reader.used() <= CAPACITY
        writer.write(b"the head is right again, but nothing is believed any more")
        with pytest.raises(RingCorrupt, match="head"):
            reader.read(100, no_fragments)


@pytest.mark.parametrize("tail", [16, 1000, CAPACITY * 4, (1 << 64) - 16])
def test_a_tail_that_cannot_be(tail: int) -> None:
    with ring() as (fd, writer, reader):
        for _ in range(3):
            assert writer.write(bytes(CAPACITY - RECORD_BYTES))
            assert reader.read(1, no_fragments)
        assert writer.write(b"")
        store(fd, TAIL_AT, tail)
        for _ in range(2):
            with pytest.raises(RingCorrupt, match="tail"):
                writer.write(bytes(CAPACITY - RECORD_BYTES))
        assert 0 <= writer.used() <= CAPACITY


def test_a_record_of_an_earlier_lap_is_no_record() -> None:
    with ring() as (fd, writer, reader):
        for _ in range(CAPACITY // 32 + 5):
            assert writer.write(b"sixteen bytes ..")
            assert reader.read(1, no_fragments)
        # What lies ahead of the head is a good record, CRC and all, of one lap ago.
        store(fd, HEAD_AT, struct.unpack("<Q", os.pread(fd, 8, HEAD_AT))[0] + 32)
        with pytest.raises(RingCorrupt, match="sequence"):
            reader.read(1, no_fragments)


def test_a_length_beyond_the_head_is_not_followed() -> None:
    with ring() as (fd, writer, reader):
        writer.write(b"sixteen bytes ..")
        for length in (17, CAPACITY, (1 << 32) - 1):
            store(fd, HEADER_BYTES, length, "<I")
            with pytest.raises(RingCorrupt, match=f"length {length}, 32 bytes are left"):
                reader._read(1, no_fragments)


def test_nap_and_wait_words() -> None:
    with ring() as (_, writer, reader):
        assert writer.nap() == 0
        assert reader.sleep()
        first = writer.nap()
        assert first
        reader.wake()
        assert writer.nap() == 0
        writer.write(b"news")
        assert not reader.sleep()
        assert writer.nap() == 0
        reader.read(100, no_fragments)
        assert reader.sleep()
        assert writer.nap() not in (0, first)
        assert reader.wait() == 0
        writer.ask_for_space()
        assert reader.wait() != 0
        writer.ask_no_more()
        assert reader.wait() == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2500)), max_size=120), st.randoms())
def test_against_a_model(steps: list[tuple[bool, int]], rng: random.Random) -> None:
    """Weakness B13 of the reference."""
    with ring() as (_, writer, reader):
        model: list[bytes] = []
        used = 0
        for is_write, number in steps:
            if is_write:
                payload = rng.randbytes(number)
                need = RECORD_BYTES + (number + 15) // 16 * 16
                fits = used + need <= CAPACITY
                assert writer.write(payload) == fits
                if fits:
                    model.append(payload)
                    used += need
            else:
                got = reader.read(number + 1, no_fragments)
                assert got == model[: len(got)]
                assert got or not model
                del model[: len(got)]
                used -= sum(RECORD_BYTES + (len(item) + 15) // 16 * 16 for item in got)
            assert reader.used() == writer.used() == used
        while model:
            assert reader.read(1 << 20, no_fragments) == model
            model.clear()


def damage(rng: random.Random, fd: int, writer: RingWriter) -> None:
    """One random overwrite: of a shared word, of a record, or of anything."""
    kind = rng.randrange(4)
    if kind == 0:
        word = rng.choice((0, 8, 16, HEAD_AT, TAIL_AT, SLEEPING_AT, WAITING_AT))
        near = struct.unpack("<Q", os.pread(fd, 8, HEAD_AT))[0] + rng.randrange(-9000, 9000)
        value = rng.choice((rng.getrandbits(64), near % (1 << 64), 0, 16, (1 << 64) - 1))
        os.pwrite(fd, struct.pack("<Q", value), word)
    elif kind == 1:
        at = HEADER_BYTES + rng.randrange(0, CAPACITY, 16) + 4 * rng.randrange(4)
        os.pwrite(fd, struct.pack("<I", rng.choice((0, 1, 2, 3, 17, rng.getrandbits(32), 1 << 31))), at)
    elif kind == 2:
        at = rng.randrange(HEADER_BYTES + CAPACITY)
        os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ 1 << rng.randrange(8)]), at)
    else:
        at = rng.randrange(HEADER_BYTES + CAPACITY - 64)
        os.pwrite(fd, rng.randbytes(rng.randrange(1, 64)), at)


def test_damage_gives_clean_data_or_corrupt_and_nothing_else() -> None:
    """6,000 rings, each damaged up to three times in mid-traffic."""
    outcomes = {"corrupt": 0, "clean": 0}
    for seed in range(6000):
        rng = random.Random(seed)
        with ring() as (fd, writer, reader):
            sent: list[bytes] = []
            got: list[bytes] = []
            try:
                for turn in range(12):
                    for _ in range(rng.randrange(6)):
                        payload = rng.randbytes(rng.randrange(900))
                        if writer.write(payload):
                            sent.append(payload)
                    if turn in (4, 6, 8):
                        damage(rng, fd, writer)
                    got += reader.read(rng.randrange(1, 3000), no_fragments)
                outcomes["clean"] += 1
            except RingCorrupt:
                outcomes["corrupt"] += 1
                if reader._broken:
                    with pytest.raises(RingCorrupt):
                        reader.read(100, no_fragments)
            except AssertionError as error:
                pytest.fail(f"seed {seed}: a damaged flag got through: {error}")
            assert got == sent[: len(got)], f"seed {seed}"
    assert min(outcomes.values()) > 600, outcomes
