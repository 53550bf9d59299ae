"""What a stranger sends who has heard everything, and knows all but the secret. From a seed alone.

Of datagrams and connections some are noise, most are made from what was heard: changed, cut, put together
anew, or the same again.
"""

from __future__ import annotations

import os
import random
import zlib
from typing import NamedTuple

from paxmux.engine.frame import MAGIC, VERSION, FrameKind, pack_frame, parse_header
from paxmux.engine.frame_header import HEADER_BYTES, FrameError
from paxmux.engine.secret_file import keys_of
from paxmux.plugins.network.handshake import CALL_BYTES, PROOF_BYTES, Dialler
from paxmux.plugins.network.seal import SEAL_BYTES, DatagramSeal
from paxmux.plugins.network.session import TAG_BYTES

DATAGRAM_MAX = 4000


class Heard(NamedTuple):
    """What passed on the way to one node."""

    datagrams: list[bytes]
    streams: list[bytes]


class Datagram(NamedTuple):
    """One to be sent."""

    kind: str
    data: bytes
    genuine: bool
    """Somebody who knows the secret has made it for this node: it is taken once more."""


class Talk(NamedTuple):
    """What is said on one connection."""

    kind: str
    parts: list[bytes]
    """With a pause between them."""
    waits: bool
    """Whether the stranger then waits to be cut off."""


class Material:
    """For attacks on one node."""

    def __init__(self, rng: random.Random, node_id: int, others: list[int], heard: Heard) -> None:
        """`heard`: what was meant for the node; more may come."""
        self._rng = rng
        self._node_id = node_id
        self._others = others
        self._heard = heard
        self._wrong_seal = DatagramSeal([keys_of(rng.randbytes(40))])

    def datagram(self, foreign: list[bytes]) -> Datagram:
        """The next one. `foreign`: genuine ones for other nodes."""
        rng = self._rng
        made = rng.choice(
            (
                self._noise,
                self._magic,
                self._plain,
                self._plain,
                self._other_secret,
                self._changed,
                self._changed,
                self._changed,
                self._cut,
                self._lengthened,
                self._spliced,
                self._another_sender,
                self._again,
            )
        )
        if rng.random() < 0.03 and foreign:
            # Sealed well, but for another node: the router must see that.
            return Datagram("for another node", rng.choice(foreign), False)
        return made()

    def _one(self) -> bytes:
        heard = self._heard.datagrams
        return self._rng.choice(heard) if heard else self._forged() + bytes(SEAL_BYTES)

    def _forged(self) -> bytes:
        """A frame that would be good if nobody asked for a proof: cluster and seat are those of a peer."""
        rng = self._rng
        known = None
        if self._heard.datagrams:
            try:
                known = parse_header(rng.choice(self._heard.datagrams))
            except FrameError:
                known = None
        body = rng.randbytes(rng.choice((0, 5, 60, 900, DATAGRAM_MAX - HEADER_BYTES - SEAL_BYTES)))
        if self._heard.datagrams and rng.random() < 0.7:
            body = rng.choice(self._heard.datagrams)[HEADER_BYTES:-SEAL_BYTES]
        return pack_frame(
            rng.choice((FrameKind.PAXOS, FrameKind.PAXOS, FrameKind.HELLO, 7)),
            body,
            cluster=known.cluster if known is not None and rng.random() < 0.9 else rng.getrandbits(64),
            sender=rng.choice(self._others),
            seat=known.seat if known is not None else rng.getrandbits(64),
            incarnation=known.incarnation if known is not None else 1,
            dest=self._node_id if rng.random() < 0.9 else rng.getrandbits(64),
            groups=rng.choice((1, 3, 0, 1 << 200)),
        )

    def _noise(self) -> Datagram:
        return Datagram("noise", self._rng.randbytes(self._rng.choice((0, 1, 100, 127, 300, 1400))), False)

    def _magic(self) -> Datagram:
        data = MAGIC + bytes((VERSION,)) + self._rng.randbytes(self._rng.randrange(500))
        return Datagram("noise with a good start", data, False)

    def _plain(self) -> Datagram:
        seal = self._rng.choice((b"", bytes(SEAL_BYTES), self._rng.randbytes(SEAL_BYTES)))
        return Datagram("forged", self._forged() + seal, False)

    def _other_secret(self) -> Datagram:
        return Datagram("sealed by another secret", self._wrong_seal.seal(self._forged()), False)

    def _changed(self) -> Datagram:
        one = self._one()
        data = bytearray(one)
        for _ in range(self._rng.choice((1, 1, 2, 8))):
            data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        if self._rng.random() < 0.5:
            _mend_crc(data)
        # What was changed may have been mended with it.
        return Datagram("again", one, True) if data == one else Datagram("changed", bytes(data), False)

    def _cut(self) -> Datagram:
        data = self._one()
        return Datagram("cut", data[: self._rng.randrange(len(data))], False)

    def _lengthened(self) -> Datagram:
        return Datagram("lengthened", self._one() + self._rng.randbytes(self._rng.randrange(1, 40)), False)

    def _spliced(self) -> Datagram:
        one, two = self._one(), self._one()
        if one[:-SEAL_BYTES] == two[:-SEAL_BYTES]:
            return self._noise()
        return Datagram("the seal of another one", one[:-SEAL_BYTES] + two[-SEAL_BYTES:], False)

    def _another_sender(self) -> Datagram:
        data = bytearray(self._one())
        data[32:40] = (self._node_id ^ 1).to_bytes(8, "little")
        _mend_crc(data)
        return Datagram("another sender", bytes(data), False)

    def _again(self) -> Datagram:
        if not self._heard.datagrams:
            return self._noise()
        return Datagram("again", self._one(), True)

    def talk(self) -> Talk:
        """What is said on the next connection."""
        rng = self._rng
        call = Dialler(keys_of(rng.randbytes(40)), rng.choice(self._others), self._node_id).call
        heard = [
            stream for stream in self._heard.streams if len(stream) > CALL_BYTES + PROOF_BYTES + TAG_BYTES
        ]
        old = rng.choice(heard) if heard else call + os.urandom(200)
        shook = CALL_BYTES + PROOF_BYTES
        match rng.randrange(10):
            case 0:
                return Talk("nothing", [], False)
            case 1:
                return Talk("noise", [rng.randbytes(rng.choice((1, 64, 5000)))], True)
            case 2:
                return Talk("frames without a proof", [self._forged() for _ in range(3)], True)
            case 3:
                return Talk("a call by another secret", [call, rng.randbytes(PROOF_BYTES)], True)
            case 4:
                return Talk("an old connection again", [old], True)
            case 5:
                return Talk(
                    "an old call", [old[:CALL_BYTES], rng.randbytes(PROOF_BYTES), self._forged()], True
                )
            case 6:
                changed = bytearray(old[:shook])
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
                return Talk("an old call, changed", [bytes(changed), old[shook:]], True)
            case 7:
                return Talk("an old call that waits", [old[:CALL_BYTES]], True)
            case 8:
                return Talk("byte by byte", [old[at : at + 1] for at in range(40)], True)
            case _:
                lengths = old[:CALL_BYTES] + (2**32 - 1).to_bytes(4, "little") * 20
                return Talk("a promise of very much", [lengths], True)


def _mend_crc(data: bytearray) -> None:
    """So that what is wrong is the seal alone."""
    if len(data) >= HEADER_BYTES + SEAL_BYTES:
        end = len(data) - SEAL_BYTES
        crc = zlib.crc32(data[HEADER_BYTES:end], zlib.crc32(data[: HEADER_BYTES - 4]))
        data[HEADER_BYTES - 4 : HEADER_BYTES] = crc.to_bytes(4, "little")
