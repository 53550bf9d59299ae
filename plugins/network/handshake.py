"""How two nodes prove to each other, before anything else is said, that they know the secret of the cluster.

Three messages, each of a fixed length:

    dialler   call    magic 4s | can u8 | zero 3s | sender u64 | dest u64 | fingerprint 8s | nonce 32s
    listener  answer  magic 4s | use u8 | zero 3s | nonce 32s | proof 32s
    dialler   proof   32s

A proof is a keyed hash of the call and the answer before it, under the name of who proves. Both nonces are
fresh, so none of it is good for another connection, and nobody's proof for his peer's. The key of the frames
is made from the same bytes. `fingerprint` names the secret that the dialler uses: one of those that the
listener accepts. Nothing that a stranger says makes anything happen but an answer, and that once.

It decides who is let in. It opens nothing and waits for nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from typing import Final

from paxmux.engine.secret_file import Keys
from paxmux.plugins.network.poly1305 import poly1305
from paxmux.plugins.network.session import Session

MAGIC: Final = b"PXA\x01"
HANDSHAKE_S: Final = 3.0
"""A connection that has not proved itself by then is closed, at both ends."""

_CALL: Final = Struct("<4sB3sQQ8s32s")
_ANSWER: Final = Struct("<4sB3s32s")
_PROOF_BYTES: Final = 32
CALL_BYTES: Final = _CALL.size
ANSWER_BYTES: Final = _ANSWER.size + _PROOF_BYTES
PROOF_BYTES: Final = _PROOF_BYTES
_POLY1305: Final = 1
_ZERO: Final = bytes(3)


class Stranger(Exception):
    """The other end does not know the secret, or means somebody else; the text says what was wrong."""


def _hash(keys: Keys, purpose: bytes, said: bytes) -> bytes:
    return blake2b(said, key=keys.connection, digest_size=32, person=purpose).digest()


def _can() -> int:
    return 0 if poly1305() is None else _POLY1305


class Dialler:
    """The end that made the connection."""

    def __init__(self, keys: Keys, node_id: int, dest: int) -> None:
        self._keys = keys
        self.call = _CALL.pack(MAGIC, _can(), _ZERO, node_id, dest, keys.fingerprint.encode(), os.urandom(32))
        """To be sent at once."""

    def answered(self, answer: bytes) -> tuple[bytes, Session]:
        """The proof to be sent, and how frames are tagged, once the answer is here whole.

        Raises:
            Stranger: whoever answered knows no secret.
        """
        said = self.call + answer[: _ANSWER.size]
        magic, use, zero, _ = _ANSWER.unpack_from(answer)
        if not compare_digest(_hash(self._keys, b"listener", said), answer[_ANSWER.size :]):
            raise Stranger("its proof is wrong: it has another secret")
        if magic != MAGIC or zero != _ZERO or use & ~self.call[4]:
            raise Stranger("its answer is none of this version")
        key = _hash(self._keys, b"session", said)
        return _hash(self._keys, b"dialler", said), Session(key, poly=bool(use & _POLY1305))


class Listener:
    """The end that accepted the connection."""

    def __init__(self, keys: Sequence[Keys], node_id: int) -> None:
        self._accepted = keys
        self._node_id = node_id
        self._said = b""
        self.expects = CALL_BYTES
        """Bytes of the next message of the dialler."""
        self.keys: Keys | None = None
        """Those that the dialler uses, or says so."""
        self.sender = 0
        """Who it is, or says so."""
        self._use = 0

    def called(self, call: bytes) -> bytes:
        """The answer to a call that is here whole.

        Raises:
            Stranger: it is none, or for somebody else, or by a secret that is not accepted.
        """
        magic, can, zero, self.sender, dest, fingerprint, _ = _CALL.unpack(call)
        if magic != MAGIC or zero != _ZERO:
            raise Stranger("it proves nothing: it has no secret, or is no node")
        if dest != self._node_id or self.sender == self._node_id:
            raise Stranger(f"it is node {self.sender} and wants node {dest}")
        for keys in self._accepted:
            if keys.fingerprint.encode() == fingerprint:
                self.keys = keys
                break
        else:
            raise Stranger("it has another secret")
        self._use = can & _can()
        answer = _ANSWER.pack(MAGIC, self._use, _ZERO, os.urandom(32))
        self._said = call + answer
        self.expects = PROOF_BYTES
        return answer + _hash(keys, b"listener", self._said)

    def proved(self, proof: bytes) -> Session:
        """How frames are tagged, once the proof is here whole.

        Raises:
            Stranger: it is wrong.
        """
        assert self.keys is not None, "a proof follows a call"
        if not compare_digest(_hash(self.keys, b"dialler", self._said), proof):
            raise Stranger("its proof is wrong")
        return Session(_hash(self.keys, b"session", self._said), poly=bool(self._use & _POLY1305))
