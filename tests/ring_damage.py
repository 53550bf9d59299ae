"""One random corruption of a ring in the midst of its traffic, and whether both ends come through it.

Decides what is damaged (bits, words, runs of bytes, in the header and among the records; the size of the
memory; a header before either end has opened it), and what may come of it: whatever is read is what was
written, in order, or it is `RingCorrupt`. Anything else is a fault of the ring: another exception, a wrong
byte, more bytes than there are, a queue without bound.
"""

from __future__ import annotations

import os
import random
import struct
from typing import Final, Literal, NamedTuple

from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.ring import HEADER_BYTES, RingCorrupt, create_ring

CAPACITY: Final = 4096
TURNS: Final = 8
HEAD_AT, TAIL_AT, SLEEPING_AT, WAITING_AT = 128, 256, 384, 512
BACKLOG_BYTES: Final = 16_384
MESSAGE_MAX_BYTES: Final = 8192
KINDS: Final = (
    "word of the header",
    "position of an end",
    "word of a record",
    "flipped bit",
    "random bytes",
    "zeroed bytes",
    "records shifted",
    "truncated memory",
    "header before it is opened",
)
WORDS: Final = (0, 8, 16, HEAD_AT, TAIL_AT, SLEEPING_AT, WAITING_AT)

Outcome = Literal["detected", "harmless", "refused"]


class Wrong(Exception):
    """A damaged ring gave what was never written, or something else that it must not."""


class Struck(NamedTuple):
    """One corruption and what came of it."""

    kind: str
    outcome: Outcome
    """`detected`: `RingCorrupt`. `harmless`: all was read. `refused`: the system does not let it happen."""


class Trial:
    """One ring, with a sender and a receiver in this process."""

    def __init__(self, rng: random.Random, bell: Doorbell) -> None:
        self._rng = rng
        self._bell = bell
        self.fd = create_ring(CAPACITY, generation=rng.getrandbits(32))
        self._sent: list[bytes] = []
        self._taken = 0

    def run(self) -> Struck:
        """Raises Wrong."""
        rng = self._rng
        kind = rng.choice(KINDS)
        if kind == "header before it is opened":
            self._write(rng.choice(WORDS), self._nonsense(0))
        try:
            sender = Sender(
                self.fd, self._bell, backlog_max_bytes=BACKLOG_BYTES, max_message_bytes=MESSAGE_MAX_BYTES
            )
        except RingCorrupt:
            return Struck(kind, "detected")
        try:
            receiver = Receiver(self.fd, self._bell, max_message_bytes=MESSAGE_MAX_BYTES)
        except RingCorrupt:
            sender.close()
            return Struck(kind, "detected")
        try:
            return self._traffic(kind, sender, receiver)
        finally:
            sender.close()
            receiver.close()

    def _traffic(self, kind: str, sender: Sender, receiver: Receiver) -> Struck:
        rng = self._rng
        at = rng.randrange(1, TURNS - 1)
        outcome: Outcome = "harmless"
        for turn in range(TURNS):
            try:
                self._send(sender)
                if turn == at and not self._strike(kind, sender):
                    outcome = "refused"
                self._receive(receiver, rng.randrange(1, 2 * CAPACITY))
                receiver.prepare_sleep()
                receiver.wake()
            except RingCorrupt:
                self._stays_corrupt(sender, receiver)
                return Struck(kind, "detected")
        return Struck(kind, outcome)

    def _send(self, sender: Sender) -> None:
        rng = self._rng
        for _ in range(rng.randrange(5)):
            large = rng.random() < 0.1
            payload = rng.randbytes(rng.randrange(CAPACITY if large else 300))
            if sender.send(payload, droppable=True):
                self._sent.append(payload)
        sender.commit()
        if sender.backlog_bytes > BACKLOG_BYTES + CAPACITY:
            raise Wrong(f"a backlog of {sender.backlog_bytes} bytes")
        if not 0 <= sender.fill <= 1:
            raise Wrong(f"a fill of {sender.fill}")

    def _receive(self, receiver: Receiver, max_bytes: int) -> None:
        before = receiver.payload_bytes
        messages = receiver.receive(max_bytes)
        if receiver.payload_bytes - before > CAPACITY:
            raise Wrong(f"{receiver.payload_bytes - before} bytes from a ring of {CAPACITY}")
        if messages != self._sent[self._taken : self._taken + len(messages)]:
            raise Wrong("a message that was never sent, or not at this place")
        self._taken += len(messages)
        if not 0 <= receiver.fill <= 1:
            raise Wrong(f"a fill of {receiver.fill}")

    def _stays_corrupt(self, sender: Sender, receiver: Receiver) -> None:
        """Both ends are let go with the link; an end that has noticed gives nothing more."""
        try:
            self._receive(receiver, CAPACITY)
            self._send(sender)
        except RingCorrupt:
            return

    def _strike(self, kind: str, sender: Sender) -> bool:
        """Damage it; False if the system refuses that."""
        rng = self._rng
        size = HEADER_BYTES + CAPACITY
        match kind:
            case "word of the header":
                self._write(rng.choice((*WORDS, 8 * rng.randrange(HEADER_BYTES // 8))), self._nonsense(0))
            case "position of an end":
                at = rng.choice((HEAD_AT, TAIL_AT))
                now = int.from_bytes(os.pread(self.fd, 8, at), "little")
                self._write(at, self._nonsense(now))
            case "word of a record":
                at = HEADER_BYTES + rng.randrange(0, CAPACITY, 4)
                word = rng.choice((0, 1, 2, 3, 17, 1 << 31, 0xFFFFFFFF, rng.getrandbits(32)))
                self._write(at, struct.pack("<I", word))
            case "flipped bit":
                at = rng.randrange(size)
                self._write(at, bytes([os.pread(self.fd, 1, at)[0] ^ 1 << rng.randrange(8)]))
            case "random bytes":
                self._write(rng.randrange(size - 256), rng.randbytes(rng.randrange(1, 256)))
            case "zeroed bytes":
                self._write(rng.randrange(size - 1024), bytes(rng.randrange(1, 1024)))
            case "records shifted":
                at = HEADER_BYTES + 16 * rng.randrange(CAPACITY // 32)
                moved = os.pread(self.fd, 16 * rng.randrange(1, CAPACITY // 32), at)
                self._write(at + 16 * rng.randrange(1, 8), moved[: size - at - 128])
            case "truncated memory":
                try:
                    os.ftruncate(self.fd, rng.randrange(size))
                except PermissionError:
                    return False
                raise Wrong("the memory of a ring was made smaller under its readers")
        return True

    def _nonsense(self, near: int) -> bytes:
        rng = self._rng
        some = near + rng.choice((-32, -16, -1, 1, 8, 16, 64, CAPACITY, -CAPACITY, CAPACITY + 16))
        value = rng.choice((rng.getrandbits(64), some % (1 << 64), 0, 16, (1 << 63), (1 << 64) - 16))
        return struct.pack("<Q", value)

    def _write(self, at: int, data: bytes) -> None:
        os.pwrite(self.fd, data, at)


def strike(seed: int, number: int, bell: Doorbell) -> Struck:
    """The corruption of that number. Raises Wrong, or whatever else the ring must not raise."""
    trial = Trial(random.Random(seed << 40 | number), bell)
    try:
        return trial.run()
    finally:
        os.close(trial.fd)
