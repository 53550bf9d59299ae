"""Channels: backlog, fragments, wake-ups, and two real processes.

`python tests/test_channel.py bench SIZE COUNT` measures one way between two processes.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.ring import FIRST, HEADER_BYTES, LAST, RECORD_BYTES, RingCorrupt, RingWriter, create_ring

CAPACITY = 4096


class Link:
    """Both ends of a channel in one process."""

    def __init__(self, capacity: int, backlog: int, largest: int) -> None:
        self.fd = create_ring(capacity)
        self.to_producer, self.to_consumer = Doorbell.create(), Doorbell.create()
        self.sender = Sender(self.fd, self.to_consumer, backlog_max_bytes=backlog, max_message_bytes=largest)
        self.receiver = Receiver(self.fd, self.to_producer, max_message_bytes=largest)


@contextmanager
def link(capacity: int = CAPACITY, backlog: int = 10_000, largest: int = 1 << 20) -> Iterator[Link]:
    both = Link(capacity, backlog, largest)
    with ExitStack() as stack:
        stack.callback(os.close, both.fd)
        for part in (both.to_producer, both.to_consumer, both.sender, both.receiver):
            stack.callback(part.close)
        yield both


def rung(bell: Doorbell) -> bool:
    return bool(select.select([bell.fileno()], [], [], 0)[0])


def test_doorbell_rings_until_cleared_and_can_be_adopted() -> None:
    bell = Doorbell.create()
    other = Doorbell(os.dup(bell.fileno()))
    assert not rung(bell)
    assert not bell.clear()
    other.ring()
    other.ring()
    assert rung(bell)
    assert bell.clear()
    assert not rung(bell)
    assert not bell.clear()
    os.eventfd_write(bell.fileno(), 2**64 - 2)
    bell.ring()
    assert bell.clear()
    bell.close()
    bell.close()
    other.close()


def test_messages_and_pieces_arrive_whole_and_in_order() -> None:
    with link() as both:
        assert both.sender.send(b"one", droppable=True)
        assert both.sender.send_pieces([b"t", b"", b"wo"], droppable=False)
        assert both.sender.send(b"", droppable=True)
        assert both.sender.commit()
        assert both.receiver.receive() == [b"one", b"two", b""]
        assert both.receiver.counters() == {"messages": 3, "bytes": 6, "rings": 0}
        assert both.sender.messages == 3
        assert both.sender.payload_bytes == 6


@pytest.mark.parametrize("size", [1000, 1008, 1009, 4095, 4096, 4097, 12_288, 100_000])
def test_a_message_of_any_size_passes(size: int) -> None:
    message = os.urandom(size)
    with link() as both:
        assert both.sender.send(message, droppable=True)
        assert both.sender.send(b"after", droppable=False)
        got: list[bytes] = []
        for _ in range(1000):
            done = both.sender.commit()
            got += both.receiver.receive()
            if done and len(got) == 2:
                break
        assert got == [message, b"after"]
        assert both.sender.backlog_bytes == 0
        assert both.sender.fill == both.receiver.fill == 0.0


def test_too_large_is_the_callers_error() -> None:
    with link(largest=5000) as both:
        assert both.sender.send(bytes(5000), droppable=False)
        with pytest.raises(ValueError, match="at most 5000"):
            both.sender.send(bytes(5001), droppable=False)


def test_full_backlog_drops_only_what_may_be_dropped() -> None:
    with link(backlog=3000) as both:
        sent = []
        refused = 0
        for number in range(40):
            message = bytes([number]) * 500
            if both.sender.send(message, droppable=number % 4 != 0):
                sent.append(message)
            else:
                assert number % 4 != 0
                refused += 1
        assert refused > 5
        counters = both.sender.counters()
        assert counters["drops"] == refused
        assert counters["drop_bytes"] == refused * 500
        assert counters["backlog_bytes"] == 500 * counters["backlog_messages"] > 3000
        assert counters["backlog_high_bytes"] == counters["backlog_bytes"]
        assert both.sender.fill > 0.7
        got: list[bytes] = []
        while not both.sender.commit():
            got += both.receiver.receive()
        got += both.receiver.receive()
        assert got == sent
        assert both.sender.send(b"again", droppable=True)


def test_space_freed_meanwhile_saves_a_droppable_message() -> None:
    with link(backlog=1000) as both:
        while both.sender.send(bytes(400), droppable=True):
            pass
        drops = both.sender.drops
        both.receiver.receive()
        assert both.sender.send(bytes(400), droppable=True)
        assert both.sender.drops == drops


def test_one_bell_for_a_nap_and_none_for_the_awake() -> None:
    with link() as both:
        both.sender.send(b"x", droppable=False)
        both.sender.commit()
        assert not rung(both.to_consumer), "the consumer did not say that it sleeps"
        assert not both.receiver.prepare_sleep()
        assert both.receiver.receive() == [b"x"]
        assert both.receiver.prepare_sleep()
        both.sender.commit()
        assert not rung(both.to_consumer), "nothing was sent"
        both.sender.send(b"y", droppable=False)
        assert not rung(both.to_consumer), "only commit rings"
        both.sender.commit()
        for _ in range(2):
            both.sender.send(b"y", droppable=False)
            both.sender.commit()
        assert rung(both.to_consumer)
        assert both.sender.rings == 1
        both.receiver.wake()
        both.to_consumer.clear()
        assert both.receiver.receive() == [b"y"] * 3
        assert both.receiver.prepare_sleep()
        both.sender.send(b"z", droppable=False)
        both.sender.commit()
        assert rung(both.to_consumer), "a new nap needs a new ring"


def test_a_waiting_producer_is_woken_once_when_half_is_free() -> None:
    with link(backlog=1 << 20) as both:
        for _ in range(20):
            both.sender.send(bytes(496), droppable=False)
        assert not both.sender.commit()
        assert both.receiver.receive(1)
        assert not rung(both.to_producer), "less than half is free"
        while both.receiver.fill > 0.5:
            both.receiver.receive(1)
        assert rung(both.to_producer)
        both.receiver.receive(1)
        assert both.receiver.rings == 1
        both.to_producer.clear()
        assert not both.sender.commit()
        both.receiver.receive()
        assert rung(both.to_producer)
        while not both.sender.commit():
            both.receiver.receive()
        both.to_producer.clear()
        both.receiver.receive()
        assert not rung(both.to_producer), "nobody waits any more"


def test_a_producer_that_found_space_by_itself_is_not_woken() -> None:
    with link(backlog=1 << 20) as both:
        for _ in range(9):
            both.sender.send(bytes(496), droppable=False)
        assert not both.sender.commit()
        assert both.receiver.receive(1)
        assert both.sender.commit()
        assert len(both.receiver.receive()) == 8
        assert not rung(both.to_producer)


@pytest.mark.parametrize(
    "flags",
    [(LAST,), (0,), (FIRST, FIRST), (FIRST, 0, FIRST)],
    ids=["last", "middle", "first-first", "first-middle-first"],
)
def test_fragments_out_of_place(flags: tuple[int, ...]) -> None:
    fd = create_ring(CAPACITY)
    bell = Doorbell.create()
    writer, receiver = RingWriter(fd), Receiver(fd, bell)
    for flag in flags:
        writer.write(b"part", flag)
    with pytest.raises(RingCorrupt, match="does not continue"):
        receiver.receive()
    with pytest.raises(RingCorrupt):
        receiver.receive()
    for part in (writer, receiver, bell):
        part.close()
    os.close(fd)


def test_endless_fragments_are_bounded() -> None:
    fd = create_ring(CAPACITY)
    bell = Doorbell.create()
    writer, receiver = RingWriter(fd), Receiver(fd, bell, max_message_bytes=5000)
    writer.write(bytes(1000), FIRST)
    for _ in range(4):
        writer.write(bytes(1000), 0)
        assert receiver.receive() == []
    writer.write(b"x", 0)
    with pytest.raises(RingCorrupt, match="more than 5000"):
        receiver.receive()
    for part in (writer, receiver, bell):
        part.close()
    os.close(fd)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 14_000), st.booleans()),
        st.tuples(st.just("commit"), st.just(0), st.booleans()),
        st.tuples(st.just("receive"), st.integers(1, 5000), st.booleans()),
    ),
    max_size=80,
)


@settings(max_examples=100, deadline=None)
@given(operations, st.randoms())
def test_against_a_model_deque(steps: list[tuple[str, int, bool]], rng: random.Random) -> None:
    bound, largest = 8000, 14_000
    with link(backlog=bound, largest=largest) as both:
        model: deque[bytes] = deque()
        drops = 0
        for step, number, droppable in steps:
            if step == "send":
                message = rng.randbytes(number)
                if both.sender.send(message, droppable=droppable):
                    model.append(message)
                else:
                    assert droppable
                    drops += 1
                assert both.sender.drops == drops
            elif step == "commit":
                assert both.sender.commit() == (both.sender.counters()["backlog_messages"] == 0)
            else:
                for message in both.receiver.receive(number):
                    assert message == model.popleft()
        for _ in range(10_000):
            done = both.sender.commit()
            for message in both.receiver.receive():
                assert message == model.popleft()
            if done and not model:
                break
        assert not model
        assert both.sender.counters()["backlog_messages"] == 0
        assert both.sender.backlog_bytes == 0
        assert both.receiver.prepare_sleep()


# Real processes. The child is this file run as a program, so that it starts from nothing.

SIZES_SEED = 4


def sizes(count: int, capacity: int) -> Iterator[int]:
    """Mostly small, now and then up to three rings large."""
    rng = random.Random(SIZES_SEED)
    for _ in range(count):
        draw = rng.random()
        yield rng.randrange(200) if draw < 0.99 else rng.randrange(capacity if draw < 0.997 else 3 * capacity)


def numbered(number: int, size: int) -> bytes:
    """A message that says which one it is, with content that tells a wrong byte."""
    return struct.pack("<Q", number) + bytes([number & 255]) * size


def produce(ring_fd: int, own_fd: int, consumer_fd: int, count: int, capacity: int) -> None:
    """Send all messages in random bursts, sleeping whenever the ring is full, at times otherwise."""
    own = Doorbell(own_fd)
    sender = Sender(ring_fd, Doorbell(consumer_fd), backlog_max_bytes=1 << 30)
    poll = select.poll()
    poll.register(own.fileno(), select.POLLIN)
    rng = random.Random(1)
    burst = 0
    for number, size in enumerate(sizes(count, capacity)):
        sender.send(numbered(number, size), droppable=False)
        burst -= 1
        if burst > 0:
            continue
        burst = rng.choice((1, 1, 5, 50, 200))
        own.clear()
        while not sender.commit():
            if not poll.poll(30_000):
                sys.exit("the producer was never woken")
            own.clear()
        if rng.random() < 0.02:
            time.sleep(rng.random() * 0.0005)
    while not sender.commit():
        if not poll.poll(30_000):
            sys.exit("the producer was never woken")
        own.clear()


def produce_for_ever(ring_fd: int, own_fd: int, consumer_fd: int) -> None:
    """Send until killed."""
    own, consumer = Doorbell(own_fd), Doorbell(consumer_fd)
    sender = Sender(ring_fd, consumer, backlog_max_bytes=1 << 30)
    poll = select.poll()
    poll.register(own.fileno(), select.POLLIN)
    rng = random.Random(2)
    number = 0
    while True:
        for _ in range(20):
            body = numbered(number, rng.randrange(3000))
            sender.send(struct.pack("<I", crc32(body)) + body, droppable=False)
            number += 1
        own.clear()
        while not sender.commit():
            poll.poll(1000)
            own.clear()


def child(role: str, both: Link, *arguments: int) -> subprocess.Popen[bytes]:
    fds = (both.fd, both.to_producer.fileno(), both.to_consumer.fileno())
    return subprocess.Popen(
        [sys.executable, __file__, role, *map(str, fds), *map(str, arguments)], pass_fds=fds
    )


@contextmanager
def consumer_of(capacity: int) -> Iterator[tuple[Link, Receiver]]:
    """The link with its producing end left to another process."""
    fd = create_ring(capacity)
    own, peer = Doorbell.create(), Doorbell.create()
    both = Link.__new__(Link)
    both.fd, both.to_producer, both.to_consumer = fd, peer, own
    receiver = Receiver(fd, peer)
    try:
        yield both, receiver
    finally:
        for part in (receiver, own, peer):
            part.close()
        os.close(fd)


@pytest.mark.parametrize("capacity", [4096, 65_536])
def test_two_processes_exchange_200k_messages_without_a_lost_wake_up(capacity: int) -> None:
    count = 200_000
    with consumer_of(capacity) as (both, receiver):
        process = child("produce", both, count, capacity)
        poll = select.poll()
        poll.register(both.to_consumer.fileno(), select.POLLIN)
        expected = enumerate(sizes(count, capacity))
        received = naps = 0
        rng = random.Random(3)
        try:
            while received < count:
                messages = receiver.receive(rng.choice((100, 5000, 1 << 20)))
                for message in messages:
                    number, size = next(expected)
                    assert message == numbered(number, size), f"message {number}"
                received += len(messages)
                if not messages and receiver.prepare_sleep():
                    # No time limit shortens this sleep: a lost wake-up shows as a failure.
                    assert poll.poll(30_000), f"never woken after {received} messages"
                    naps += 1
                    receiver.wake()
                    both.to_consumer.clear()
            assert process.wait(30) == 0
            assert naps > 100, "the consumer hardly slept: the test shows nothing"
            assert receiver.rings > 100, "the producer hardly waited: the test shows nothing"
            assert receiver.prepare_sleep()
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_producer_leaves_no_torn_message(seed: int) -> None:
    rng = random.Random(seed)
    with consumer_of(16_384) as (both, receiver):
        process = child("produce_for_ever", both)
        number = 0

        def take() -> int:
            nonlocal number
            messages = receiver.receive()
            for message in messages:
                (crc,) = struct.unpack_from("<I", message)
                assert crc == crc32(message[4:])
                assert struct.unpack_from("<Q", message, 4)[0] == number
                number += 1
            return len(messages)

        try:
            last = rng.randrange(500, 5000)
            until = time.monotonic() + 60
            while number < last:
                take()
                assert time.monotonic() < until, "the producer does not produce"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        while not receiver.prepare_sleep():
            take()
        assert number >= last


def produce_equal(ring_fd: int, own_fd: int, consumer_fd: int, size: int, count: int) -> None:
    """Send `count` messages of one size, 100 in a turn."""
    own = Doorbell(own_fd)
    sender = Sender(ring_fd, Doorbell(consumer_fd), backlog_max_bytes=1 << 30)
    poll = select.poll()
    poll.register(own.fileno(), select.POLLIN)
    message = os.urandom(size)
    for number in range(count):
        sender.send(message, droppable=False)
        if number % 100 == 99 or number == count - 1:
            own.clear()
            while not sender.commit():
                poll.poll(1000)
                own.clear()


def bench(size: int, count: int) -> None:
    """Print messages and bytes per second, one way, between two processes."""
    with consumer_of(4 << 20) as (both, receiver):
        process = child("produce_equal", both, size, count)
        poll = select.poll()
        poll.register(both.to_consumer.fileno(), select.POLLIN)
        received = naps = 0
        start = 0.0
        while received < count:
            messages = receiver.receive()
            if messages:
                start = start or time.perf_counter()
                received += len(messages)
            elif receiver.prepare_sleep():
                poll.poll(1000)
                naps += 1
                receiver.wake()
                both.to_consumer.clear()
        seconds = time.perf_counter() - start
        process.wait()
        rate, volume = count / seconds, count * size / seconds
        print(f"{size} bytes: {rate:,.0f} messages/s, {volume / 1e6:,.0f} MB/s, {naps} naps")


if __name__ == "__main__":
    roles = {
        "produce": produce,
        "produce_for_ever": produce_for_ever,
        "produce_equal": produce_equal,
        "bench": bench,
    }
    roles[sys.argv[1]](*map(int, sys.argv[2:]))


def sealed_message(size: int) -> bytes:
    body = os.urandom(size)
    return crc32(body).to_bytes(4, "little") + body


def seal_is_whole(message: bytes) -> bool:
    return crc32(message[4:]).to_bytes(4, "little") == message[:4]


@pytest.mark.parametrize("size", [0, 1, 123, 124, 125, 900, 1500, 30_000])
def test_sealed_messages_arrive_whole_in_any_pieces(size: int) -> None:
    with sealed_link() as both:
        message = sealed_message(size)
        cuts = [0, 1, 3, *range(50, len(message), 400), len(message)]
        pieces = [message[a:b] for a, b in itertools.pairwise(sorted(min(cut, len(message)) for cut in cuts))]
        assert both.sender.send_pieces(pieces, droppable=False, sealed=True)
        assert both.sender.send(b"plain", droppable=False)
        got: list[bytes] = []
        while len(got) < 2:
            both.sender.commit()
            got += both.receiver.receive()
        assert got == [message, b"plain"]


def test_a_sealed_message_that_was_altered_breaks_the_link() -> None:
    with sealed_link() as both:
        message = bytearray(sealed_message(1000))
        message[500] ^= 1
        assert both.sender.send_pieces([bytes(message)], droppable=False, sealed=True)
        with pytest.raises(RingCorrupt, match="own checksum"):
            both.receiver.receive()


def test_who_expects_no_seal_takes_none() -> None:
    with link() as both:
        assert both.sender.send_pieces([sealed_message(900)], droppable=False, sealed=True)
        with pytest.raises(RingCorrupt, match="own checksum"):
            both.receiver.receive()


@pytest.mark.parametrize("at", [0, 4, 127])
def test_the_first_bytes_of_a_sealed_record_are_checked_by_the_ring(at: int) -> None:
    with sealed_link() as both:
        assert both.sender.send_pieces([sealed_message(900)], droppable=False, sealed=True)
        place = HEADER_BYTES + RECORD_BYTES + at
        byte = os.pread(both.fd, 1, place)[0]
        os.pwrite(both.fd, bytes((byte ^ 1,)), place)
        with pytest.raises(RingCorrupt, match="CRC does not match"):
            both.receiver.receive()


@contextmanager
def sealed_link() -> Iterator[Link]:
    with link(backlog=1 << 20) as both:
        receiver = Receiver(both.fd, both.to_producer, max_message_bytes=1 << 20, intact=seal_is_whole)
        both.receiver.close()
        both.receiver = receiver
        yield both
        receiver.close()
