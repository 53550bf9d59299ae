"""A ring: bytes from one process to another through shared memory, one producer and one consumer.

It decides how records lie in memory and when they may be believed. It must never block, never
allocate by a length that it has not checked, and never hand out a byte that failed its check.

    page 0   word 0     magic and format       word 48  sleeping (consumer): 0, or the nap's number
             word 1     capacity               word 64  waiting (producer): 0, or the wait's number
             word 2     generation
             word 16    head (producer)        words 16, 32, 48 and 64 lie on cache lines of their
             word 32    tail (consumer)        own, in pairs that the prefetcher does not join
    page 1.. capacity bytes of records

    record   u32 length | u32 flags | u32 crc | u32 sequence | payload | padding to 16 bytes

`head` and `tail` count bytes for ever; the place is the count modulo the capacity, a power of two.
A record's header never wraps, since everything is a multiple of 16; a payload that wraps is copied
in two pieces. `crc` is CRC-32 of the payload, started with the sequence and the flags, so that a
stale or shifted header shows as well. In a sealed record it covers the first 128 bytes of the payload
alone: the message has a checksum of its own over all of it, which whoever takes the message checks.

Each word has one writer, and storing it through a view of 64-bit words is one machine store. x86-64
keeps stores in order and loads in order, so a reader that sees `head` sees what lies before it; a
store followed by a load of another word needs a fence, which only going to sleep does (see
`_Ring.fence`). On a machine with weaker order, a view that came too early fails the check of
sequence and CRC: the ring is then reported as corrupt, and no wrong byte gets through.

A ring has one life: both ends start at zero and cannot be taken over. Whoever replaces a dead
process gets fresh rings. Neither end trusts the shared words: own positions are kept privately, and
those of the other end are checked at every look.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from struct import Struct
from threading import Lock
from typing import Final

from paxmux.engine.checksum import crc32
from paxmux.engine.errors import PaxmuxError

HEADER_BYTES: Final = 4096
RECORD_BYTES: Final = 16
MIN_CAPACITY_BYTES: Final = 4096
MAX_CAPACITY_BYTES: Final = 1 << 30

FIRST: Final = 1
LAST: Final = 2
WHOLE: Final = FIRST | LAST
"""Flags of a record: it opens a message, it closes one, or it does both."""
SEALED: Final = 4
"""Flag of each record of a message that has a checksum of its own: so its bytes are looked at once only."""
SEALED_BYTES: Final = 128
"""What the checksum of such a record covers."""

_FLAGS_MAX: Final = WHOLE | SEALED
_MAGIC: Final = int.from_bytes(b"PXMRNG\x02\x00", "little")
_WORD_MAGIC, _WORD_CAPACITY, _WORD_GENERATION = 0, 1, 2
_WORD_HEAD, _WORD_TAIL, _WORD_SLEEPING, _WORD_WAITING = 16, 32, 48, 64
_RECORD: Final = Struct("<IIII")
_U32: Final = 0xFFFFFFFF

Bytes = bytes | bytearray | memoryview
"""What can be written; views of single bytes."""

Join = Callable[[int, bytes], bytes | None]
"""Takes (flags, payload) of a record that is sealed or no whole message; gives the message once it is whole.
Raises RingCorrupt for a fragment that does not continue the one before, or a seal that is broken."""


def opening(pieces: Sequence[Bytes]) -> list[Bytes]:
    """The first `SEALED_BYTES` of what the pieces are together."""
    found: list[Bytes] = []
    left = SEALED_BYTES
    for piece in pieces:
        found.append(piece[:left])
        left -= len(found[-1])
        if not left:
            break
    return found


class RingCorrupt(PaxmuxError):
    """What the shared memory says cannot be: the link must be reset, with fresh rings."""


def create_ring(capacity_bytes: int, *, generation: int = 0) -> int:
    """A new empty ring in anonymous memory; returns its descriptor, to be closed by the caller.

    Nothing of it outlives the last descriptor and mapping. Its size is sealed, so that no other
    process can shrink it below a reader's feet.

    Raises:
        ValueError: the capacity is no power of two within 4 KiB .. 1 GiB.
        OSError: no memory or no descriptor left.
    """
    power_of_two = capacity_bytes & (capacity_bytes - 1) == 0
    if not power_of_two or not MIN_CAPACITY_BYTES <= capacity_bytes <= MAX_CAPACITY_BYTES:
        raise ValueError(
            f"a ring of {capacity_bytes} bytes: expected a power of two from {MIN_CAPACITY_BYTES} "
            f"to {MAX_CAPACITY_BYTES}"
        )
    fd = os.memfd_create("paxmux-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, HEADER_BYTES + capacity_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        os.pwrite(fd, Struct("<QQQ").pack(_MAGIC, capacity_bytes, generation), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


class _Ring:
    """What both ends share: the mapping, its checks, and the fence."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        if not HEADER_BYTES + MIN_CAPACITY_BYTES <= size <= HEADER_BYTES + MAX_CAPACITY_BYTES:
            raise RingCorrupt(f"a ring of {size} bytes")
        self._map = mmap.mmap(fd, size)
        self._view = memoryview(self._map)
        self._words = self._view.cast("Q")
        words = self._words
        self.capacity: int = words[_WORD_CAPACITY]
        self.generation: int = words[_WORD_GENERATION]
        fault = ""
        if words[_WORD_MAGIC] != _MAGIC:
            fault = f"magic and format {words[_WORD_MAGIC]:#x}, expected {_MAGIC:#x}"
        elif self.capacity != size - HEADER_BYTES or self.capacity & (self.capacity - 1):
            fault = f"capacity {self.capacity} in a ring of {size} bytes"
        if fault:
            self.close()
            raise RingCorrupt(fault)
        self._mask = self.capacity - 1
        self._end = size
        self._broken = ""
        self._lock = Lock()

    def fence(self) -> None:
        """Make every store so far visible before any later load.

        Without it, x86-64 may let a load overtake an earlier store to another word: the producer
        could miss `sleeping` while the consumer misses the new `head`, and both would wait for
        ever. Taking and giving back a lock that nobody else has are locked instructions, each of
        them a full fence.
        """
        if self._lock.acquire(False):
            self._lock.release()

    def close(self) -> None:
        """Unmap. The descriptor is the caller's; the other end is not told."""
        self._words.release()
        self._view.release()
        self._map.close()


class RingWriter(_Ring):
    """The producer's end. One thread of one process uses it.

    Raises:
        RingCorrupt: on opening what is no fresh ring, and from every method once the shared words
            were found wrong.
    """

    def __init__(self, fd: int) -> None:
        """Map the ring behind `fd`; the descriptor stays the caller's."""
        super().__init__(fd)
        if self._words[_WORD_HEAD] != 0:
            self.close()
            raise RingCorrupt("the ring already had a producer")
        self._head = 0
        self._tail = 0
        self._limit = self.capacity
        self._sequence = 1
        self._wait = 0

    def write(self, payload: Bytes, flags: int = WHOLE) -> bool:
        """Put one record; the consumer can see it at once. False if there is no space for it now.

        Raises:
            ValueError: it can never fit.
            RingCorrupt: the consumer's position cannot be.
        """
        length = len(payload)
        head = self._head
        after = head + ((length + 31) & -16)
        if after > self._limit and not self._has_space(after):
            return False
        sequence = self._sequence
        at = HEADER_BYTES + (head & self._mask)
        crc = crc32(payload, (sequence << 3 | flags) & _U32)
        _RECORD.pack_into(self._map, at, length, flags, crc, sequence)
        at += RECORD_BYTES
        stop = at + length
        if stop <= self._end:
            self._map[at:stop] = payload
        else:
            self._put(payload, at)
        self._sequence = (sequence + 1) & _U32
        self._head = after
        self._words[_WORD_HEAD] = after
        return True

    def write_pieces(self, pieces: Sequence[Bytes], flags: int = WHOLE) -> bool:
        """As `write`, of a payload in pieces, each of which is copied to its place; `SEALED` may be in
        `flags`."""
        length = sum(map(len, pieces))
        head = self._head
        after = head + ((length + 31) & -16)
        if after > self._limit and not self._has_space(after):
            return False
        sequence = self._sequence
        crc = (sequence << 3 | flags) & _U32
        for piece in opening(pieces) if flags & SEALED else pieces:
            crc = crc32(piece, crc)
        _RECORD.pack_into(self._map, HEADER_BYTES + (head & self._mask), length, flags, crc, sequence)
        at = head + RECORD_BYTES
        for piece in pieces:
            self._put(piece, HEADER_BYTES + (at & self._mask))
            at += len(piece)
        self._sequence = (sequence + 1) & _U32
        self._head = after
        self._words[_WORD_HEAD] = after
        return True

    def _put(self, data: Bytes, at: int) -> None:
        """Copy to an offset of the mapping, and on from the ring's start where the ring ends."""
        here = self._end - at
        if len(data) <= here:
            self._map[at : at + len(data)] = data
        else:
            whole = memoryview(data)
            self._map[at : self._end] = whole[:here]
            self._map[HEADER_BYTES : HEADER_BYTES + len(data) - here] = whole[here:]

    def used(self) -> int:
        """Bytes that the consumer has not taken yet: 0 .. capacity, also if its word is nonsense."""
        return min(max(self._head - self._words[_WORD_TAIL], 0), self.capacity)

    def nap(self) -> int:
        """The number of the consumer's nap, 0 if it is awake. Call `fence` first."""
        nap: int = self._words[_WORD_SLEEPING]
        return nap

    def ask_for_space(self) -> None:
        """From now on the consumer is to ring when it has freed space. Look for space once more
        after this call, before relying on it."""
        self._wait += 1
        self._words[_WORD_WAITING] = self._wait
        self.fence()

    def ask_no_more(self) -> None:
        """The opposite of `ask_for_space`."""
        self._words[_WORD_WAITING] = 0

    def _has_space(self, after: int) -> bool:
        if after - self._head > self.capacity:
            raise ValueError(f"a record of {after - self._head} bytes in a ring of {self.capacity}")
        self._look()
        return after <= self._limit

    def _look(self) -> None:
        """Learn how far the consumer is."""
        if self._broken:
            raise RingCorrupt(self._broken)
        tail = self._words[_WORD_TAIL]
        if not self._tail <= tail <= self._head or tail & 15:
            self._limit = 0
            self._broken = f"tail {tail} is not within {self._tail} .. {self._head}"
            raise RingCorrupt(self._broken)
        self._tail = tail
        self._limit = tail + self.capacity


class RingReader(_Ring):
    """The consumer's end. One thread of one process uses it.

    Raises:
        RingCorrupt: on opening what is no fresh ring, and from `read` once a word or record was
            found wrong.
    """

    def __init__(self, fd: int) -> None:
        """Map the ring behind `fd`; the descriptor stays the caller's."""
        super().__init__(fd)
        if self._words[_WORD_TAIL] != 0:
            self.close()
            raise RingCorrupt("the ring already had a consumer")
        self._tail = 0
        self._seen = 0
        self._sequence = 1
        self._nap = 0
        self.bytes_read = 0
        """Payload bytes so far."""

    def read(self, max_bytes: int, join: Join) -> list[bytes]:
        """Messages that lie in the ring, in order: whole records, and what `join` makes of others.

        Stops once `max_bytes` of payload are taken (at least one record is, if there is one), or
        at what was the head when the call began.

        Raises:
            RingCorrupt: nothing of this ring can be trusted any more; what the call had read is lost.
        """
        if self._broken:
            raise RingCorrupt(self._broken)
        try:
            return self._read(max_bytes, join)
        except RingCorrupt as error:
            self._broken = str(error)
            raise

    def _read(self, max_bytes: int, join: Join) -> list[bytes]:
        messages: list[bytes] = []
        head = self._words[_WORD_HEAD]
        tail = self._tail
        if head == tail:
            return messages
        if not self._seen <= head <= tail + self.capacity or head & 15:
            raise RingCorrupt(f"head {head} is not within {self._seen} .. {tail + self.capacity}")
        self._seen = head
        memory, unpack, mask, end = self._map, _RECORD.unpack_from, self._mask, self._end
        expected = self._sequence
        taken = 0
        while tail != head and taken < max_bytes:
            at = HEADER_BYTES + (tail & mask)
            length, flags, crc, sequence = unpack(memory, at)
            after = tail + ((length + 31) & -16)
            if sequence != expected or flags > _FLAGS_MAX or after > head:
                raise RingCorrupt(
                    f"record at {tail}: sequence {sequence}, expected {expected}; flags {flags}; "
                    f"length {length}, {head - tail} bytes are left"
                )
            at += RECORD_BYTES
            stop = at + length
            if stop <= end:
                payload = memory[at:stop]
            else:
                payload = memory[at:end] + memory[HEADER_BYTES : HEADER_BYTES + stop - end]
            # Checked on the private copy: what the producer does meanwhile cannot get past it.
            if (
                crc32(payload if flags <= WHOLE else payload[:SEALED_BYTES], (sequence << 3 | flags) & _U32)
                != crc
            ):
                raise RingCorrupt(f"record at {tail}: CRC does not match, {length} bytes")
            if flags == WHOLE:
                messages.append(payload)
            else:
                message = join(flags, payload)
                if message is not None:
                    messages.append(message)
            taken += length
            expected = (expected + 1) & _U32
            tail = after
        self._sequence = expected
        self._tail = tail
        self._words[_WORD_TAIL] = tail
        self.bytes_read += taken
        return messages

    def position(self) -> int:
        """Bytes taken since the ring was made, padding and record headers included."""
        return self._tail

    def used(self) -> int:
        """Bytes that lie in the ring: 0 .. capacity, also if the head is nonsense (`read` tells)."""
        return min(max(self._words[_WORD_HEAD] - self._tail, 0), self.capacity)

    def wait(self) -> int:
        """The number of the producer's wait for space, 0 if it does not wait. Call `fence` first."""
        wait: int = self._words[_WORD_WAITING]
        return wait

    def sleep(self) -> bool:
        """Say that the doorbell is needed from now on. False, and awake again, if there is data."""
        self._nap += 1
        self._words[_WORD_SLEEPING] = self._nap
        self.fence()
        if self._words[_WORD_HEAD] != self._tail:
            self._words[_WORD_SLEEPING] = 0
            return False
        return True

    def wake(self) -> None:
        """Say that no doorbell is needed."""
        self._words[_WORD_SLEEPING] = 0
