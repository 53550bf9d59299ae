"""A channel: whole messages over a ring, with a backlog in front of it and doorbells at both ends.

It decides what waits, what is dropped and who is woken. It must never block, never drop what may not be
dropped, never let both ends sleep while something lies between them, and never reorder, but where it is told
that small messages go first.

Either end is driven by its process's turn, in this order:

    receiver.wake(); doorbell.clear()             the bell first, the rings after it
    receiver.receive(...) ...; sender.send(...) ...
    sender.commit()                               once per turn: moves the backlog, rings if needed
    if receiver.prepare_sleep(): wait for the doorbell

A process with several rings sleeps only if every `prepare_sleep` said True. It should not sleep
without a time limit: a damaged `sleeping` word can swallow one ring of the bell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from paxmux.engine.frame import MAX_FRAME_BYTES
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.ring import (
    FIRST,
    LAST,
    RECORD_BYTES,
    SEALED,
    WHOLE,
    Bytes,
    RingCorrupt,
    RingReader,
    RingWriter,
)

SMALL_BYTES: Final = 16 * 1024
"""Messages of up to so many bytes overtake larger ones where they may."""
MAX_MESSAGE_BYTES: Final = MAX_FRAME_BYTES
"""The largest message: the largest frame."""


_Waiting = tuple[Sequence[Bytes], int, int]
"""A message in pieces, its size, and `SEALED` or 0."""


class Sender:
    """The producer's end: never blocks, whatever the consumer does.

    A message larger than a quarter of the ring travels in fragments. What does not fit waits in the
    backlog, in order. Once the backlog holds `backlog_max_bytes`, droppable messages are refused and
    counted; others are always kept (whoever makes them bounds their number).
    """

    def __init__(
        self,
        ring_fd: int,
        consumer: Doorbell,
        *,
        backlog_max_bytes: int,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        small_first: bool = False,
    ) -> None:
        """Map the ring behind `ring_fd` (the descriptor stays the caller's); `consumer` is the bell
        of the process that reads it, and stays the caller's too.

        With `small_first` messages of up to `SMALL_BYTES` overtake larger ones that wait, also between their
        fragments, and a part of the ring is for them alone.

        Raises:
            RingCorrupt: this is no fresh ring.
        """
        self._writer = RingWriter(ring_fd)
        self._consumer = consumer
        self._backlog_max_bytes = backlog_max_bytes
        self._max_message_bytes = max_message_bytes
        self._fragment_bytes = self._writer.capacity // 4 - RECORD_BYTES
        self._backlog: deque[_Waiting] = deque()
        self._small: deque[bytes | bytearray] = deque()
        """What waits before the backlog."""
        self._small_bytes = 0
        self._small_max_bytes = SMALL_BYTES if small_first else -1
        self._large_below = self._writer.capacity // 2 if small_first else self._writer.capacity
        """With more than this in the ring nothing large is put into it."""
        self._front_moved = 0
        self._unrung = False
        self._rung_nap = 0
        self.generation = self._writer.generation
        self.messages = 0
        """Accepted messages: in the ring or in the backlog."""
        self.payload_bytes = 0
        self.drops = 0
        self.drop_bytes = 0
        self.waits = 0
        """Times that the ring was full and the consumer was asked to ring when it frees space."""
        self.rings = 0
        self.backlog_bytes = 0
        self.backlog_high_bytes = 0

    def send(self, data: bytes | bytearray, *, droppable: bool) -> bool:
        """Take one message. False if it was dropped.

        The consumer may see it at once, and is woken for it by the next `commit`.

        Raises:
            ValueError: larger than `max_message_bytes`.
            RingCorrupt: the link must be reset.
        """
        size = len(data)
        if size <= self._small_max_bytes:
            if self._small or not self._writer.write(data):
                return self._keep_small(data, size, droppable)
        elif not self._has_way(size) or not self._writer.write(data):
            return self._send_slowly((data,), size, 0, droppable)
        self._unrung = True
        self.messages += 1
        self.payload_bytes += size
        return True

    def send_pieces(self, pieces: Sequence[Bytes], *, droppable: bool, sealed: bool = False) -> bool:
        """As `send`, of a message in pieces, which are not to change any more. With `sealed` it has a
        checksum of its own, and its receiver is one that knows how to check it."""
        size = sum(map(len, pieces))
        seal = SEALED if sealed else 0
        if not self._has_way(size) or not self._writer.write_pieces(pieces, WHOLE | seal):
            return self._send_slowly(pieces, size, seal, droppable)
        self._unrung = True
        self.messages += 1
        self.payload_bytes += size
        return True

    def flush(self) -> bool:
        """Move the backlog into the ring as far as there is space; True if nothing is left.

        If something is left, the consumer will ring this process's doorbell once it has freed
        space: `flush` (or `commit`) must be called in every turn.
        """
        if not self._backlog and not self._small:
            return True
        if not self._move():
            self.waits += 1
            self._writer.ask_for_space()
            if not self._move():
                return False
        self._writer.ask_no_more()
        return True

    def commit(self) -> bool:
        """Once per turn: `flush`, then wake the consumer if it sleeps and there is news for it."""
        done = self.flush()
        if self._unrung:
            self._unrung = False
            self._writer.fence()
            nap = self._writer.nap()
            # One nap needs one ring: the bell stays loud until the consumer is awake.
            if nap and nap != self._rung_nap:
                self._rung_nap = nap
                self.rings += 1
                self._consumer.ring()
        return done

    @property
    def fill(self) -> float:
        """Share of the ring that the consumer has not taken yet, 0.0 .. 1.0."""
        return self._writer.used() / self._writer.capacity

    def counters(self) -> dict[str, int]:
        """For status: counts since the start, and the backlog now and at its highest."""
        return {
            "messages": self.messages,
            "bytes": self.payload_bytes,
            "drops": self.drops,
            "drop_bytes": self.drop_bytes,
            "waits": self.waits,
            "rings": self.rings,
            "backlog_messages": len(self._backlog) + len(self._small),
            "backlog_bytes": self.backlog_bytes,
            "backlog_high_bytes": self.backlog_high_bytes,
        }

    def close(self) -> None:
        """Unmap the ring and forget the backlog."""
        self._backlog.clear()
        self._small.clear()
        self._writer.close()

    def _has_way(self, size: int) -> bool:
        """Whether a message that is not small may go into the ring at once, if there is space for it."""
        if self._backlog or self._small or size > self._fragment_bytes:
            return False
        return self._small_max_bytes < 0 or self._writer.used() <= self._large_below

    def _keep_small(self, data: bytes | bytearray, size: int, droppable: bool) -> bool:
        """A small message for which the ring has no space."""
        if droppable and self._small_bytes + size > self._backlog_max_bytes:
            self.drops += 1
            self.drop_bytes += size
            return False
        self._small.append(data)
        self._small_bytes += size
        self._waits(size)
        return True

    def _waits(self, size: int) -> None:
        self.backlog_bytes += size
        self.messages += 1
        self.payload_bytes += size
        self.flush()
        if self.backlog_bytes > self.backlog_high_bytes:
            self.backlog_high_bytes = self.backlog_bytes

    def _send_slowly(self, pieces: Sequence[Bytes], size: int, seal: int, droppable: bool) -> bool:
        if size > self._max_message_bytes:
            raise ValueError(f"a message of {size} bytes, at most {self._max_message_bytes} allowed")
        # An empty backlog takes any message: otherwise one above the bound could never be sent.
        if droppable and self._backlog and self.backlog_bytes + size > self._backlog_max_bytes:
            self.flush()
            if self._backlog and self.backlog_bytes + size > self._backlog_max_bytes:
                self.drops += 1
                self.drop_bytes += size
                return False
        self._backlog.append((pieces, size, seal))
        self._waits(size)
        return True

    def _move(self) -> bool:
        """Backlog to ring until it is full; True if nothing is left."""
        while self._small:
            if not self._writer.write(self._small[0]):
                return False
            size = len(self._small.popleft())
            self._small_bytes -= size
            self.backlog_bytes -= size
            self._unrung = True
        write, limit = self._writer.write_pieces, self._fragment_bytes
        used, most = self._writer.used, self._large_below
        while self._backlog:
            pieces, size, seal = self._backlog[0]
            if size <= limit:
                if used() > most or not write(pieces, WHOLE | seal):
                    return False
                self.backlog_bytes -= size
            else:
                while (start := self._front_moved) < size:
                    stop = min(start + limit, size)
                    flags = (FIRST if start == 0 else 0) | (LAST if stop == size else 0) | seal
                    if used() > most or not write(_part(pieces, start, stop), flags):
                        return False
                    self._unrung = True
                    self._front_moved = stop
                    self.backlog_bytes -= stop - start
                self._front_moved = 0
            self._unrung = True
            self._backlog.popleft()
        return True


def _part(pieces: Sequence[Bytes], start: int, stop: int) -> list[Bytes]:
    """Bytes `start` .. `stop` of what the pieces are together."""
    found: list[Bytes] = []
    at = 0
    for piece in pieces:
        end = at + len(piece)
        if start < end and at < stop:
            found.append(memoryview(piece)[max(start - at, 0) : stop - at])
        at = end
    return found


class Receiver:
    """The consumer's end: whole messages, in order, each exactly once, or `RingCorrupt`."""

    def __init__(
        self,
        ring_fd: int,
        producer: Doorbell,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        intact: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Map the ring behind `ring_fd` (the descriptor stays the caller's); `producer` is the bell
        of the process that writes it, and stays the caller's too.

        `intact` says of a sealed message whether its own checksum is right; without it there must be none.

        Raises:
            RingCorrupt: this is no fresh ring.
        """
        self._reader = RingReader(ring_fd)
        self._producer = producer
        self._max_message_bytes = max_message_bytes
        self._intact = intact
        self._wake_below = self._reader.capacity // 2
        self._fragments: list[bytes] = []
        self._fragments_bytes = 0
        self._rung_wait = 0
        self.generation = self._reader.generation
        self.messages = 0
        self.rings = 0

    def receive(self, max_bytes: int = 1 << 20) -> list[bytes]:
        """The next messages. May be empty although data was read: a large message is on its way.

        Stops once about `max_bytes` were read; whether more lies there, `prepare_sleep` tells.

        Raises:
            RingCorrupt: the link must be reset.
        """
        reader = self._reader
        before = reader.position()
        messages = reader.read(max_bytes, self._join)
        if reader.position() != before:
            self.messages += len(messages)
            reader.fence()
            wait = reader.wait()
            # A producer waits only above three quarters, so it is woken at the half: once for each
            # wait, and with space for a good run of records.
            if wait and wait != self._rung_wait and reader.used() <= self._wake_below:
                self._rung_wait = wait
                self.rings += 1
                self._producer.ring()
        return messages

    def prepare_sleep(self) -> bool:
        """Ask for the doorbell. True: nothing is here, wait for the bell. False: read on."""
        return self._reader.sleep()

    def wake(self) -> None:
        """This process is awake: no doorbell is needed until the next `prepare_sleep`."""
        self._reader.wake()

    @property
    def payload_bytes(self) -> int:
        """Payload bytes read so far."""
        return self._reader.bytes_read

    @property
    def fill(self) -> float:
        """Share of the ring that waits to be read, 0.0 .. 1.0."""
        return self._reader.used() / self._reader.capacity

    def counters(self) -> dict[str, int]:
        """For status: counts since the start."""
        return {"messages": self.messages, "bytes": self.payload_bytes, "rings": self.rings}

    def close(self) -> None:
        """Unmap the ring; a message that was not whole yet is forgotten."""
        self._fragments.clear()
        self._reader.close()

    def _join(self, flags: int, payload: bytes) -> bytes | None:
        """Collect fragments; the message once its last one is there, and its seal is whole."""
        if bool(flags & FIRST) == bool(self._fragments):
            raise RingCorrupt("a fragment that does not continue the record before it")
        self._fragments.append(payload)
        self._fragments_bytes += len(payload)
        if self._fragments_bytes > self._max_message_bytes:
            raise RingCorrupt(f"a message of more than {self._max_message_bytes} bytes")
        if not flags & LAST:
            return None
        message = payload if len(self._fragments) == 1 else b"".join(self._fragments)
        self._fragments.clear()
        self._fragments_bytes = 0
        if flags & SEALED and (self._intact is None or not self._intact(message)):
            raise RingCorrupt(f"a sealed message of {len(message)} bytes whose own checksum does not match")
        return message
