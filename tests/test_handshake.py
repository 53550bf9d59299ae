"""Seals, handshakes and tags by themselves: whatever is changed, repeated or turned around is found out."""

from __future__ import annotations

import random

import pytest

from paxmux.engine.secret_file import keys_of
from paxmux.plugins.network import poly1305, session
from paxmux.plugins.network.handshake import (
    ANSWER_BYTES,
    CALL_BYTES,
    PROOF_BYTES,
    Dialler,
    Listener,
    Stranger,
)
from paxmux.plugins.network.seal import SEAL_BYTES, DatagramSeal
from paxmux.plugins.network.session import LARGE_BYTES, TAG_BYTES, Session
from tests.network_contract import frame_of

OLD, NEW, OTHER = (keys_of(letter * 40) for letter in (b"a", b"b", b"c"))
SIZES = (0, 1, 200, LARGE_BYTES - 1, LARGE_BYTES, 100_000)


def opened(seal: DatagramSeal, datagram: bytes) -> bytes | None:
    return seal.open(memoryview(datagram))


def agreed(dialler: Dialler, listener: Listener) -> tuple[Session, Session]:
    """Both ends after a handshake on a wire that changes nothing."""
    proof, near = dialler.answered(listener.called(dialler.call))
    return near, listener.proved(proof)


def test_a_sealed_datagram_is_opened_by_who_has_the_keys() -> None:
    frame = frame_of(b"body")
    datagram = DatagramSeal([OLD]).seal(frame)
    assert len(datagram) == len(frame) + SEAL_BYTES
    assert datagram.startswith(frame)
    assert opened(DatagramSeal([OLD]), datagram) == frame
    assert opened(DatagramSeal([OTHER]), datagram) is None
    assert opened(DatagramSeal([OTHER]), DatagramSeal([OTHER]).seal(frame)) == frame


def test_no_byte_of_a_datagram_can_be_changed_cut_or_added() -> None:
    seal = DatagramSeal([OLD, NEW])
    datagram = seal.seal(frame_of(b"body"))
    for at in range(len(datagram)):
        for bit in (1, 128):
            bad = bytearray(datagram)
            bad[at] ^= bit
            assert opened(seal, bytes(bad)) is None, f"byte {at}"
    for bad_length in (datagram[:-1], datagram[1:], datagram + b"\0", b"\0" + datagram):
        assert opened(seal, bad_length) is None


def test_in_a_rotation_each_step_understands_the_one_before_and_the_one_after() -> None:
    frame = frame_of(b"body")
    steps = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
    for step, keys in enumerate(steps):
        for other in steps[max(step - 1, 0) : step + 2]:
            assert opened(DatagramSeal(other), DatagramSeal(keys).seal(frame)) == frame
            near, far = agreed(Dialler(keys[0], 1, 2), Listener(other, 2))
            assert near.tag(frame) == far.tag(frame)
    assert opened(DatagramSeal([NEW]), DatagramSeal([OLD]).seal(frame)) is None
    with pytest.raises(Stranger, match="another secret"):
        Listener([NEW], 2).called(Dialler(OLD, 1, 2).call)


@pytest.mark.parametrize("with_poly", [True, False])
def test_both_ends_tag_alike_and_each_frame_at_its_place(
    with_poly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_poly:
        monkeypatch.setattr("paxmux.plugins.network.handshake.poly1305", lambda: None)
    near, far = agreed(Dialler(OLD, 1, 2), Listener([OLD], 2))
    assert (near._poly is not None) == (with_poly and poly1305.poly1305() is not None)
    tags = set()
    for size in (*SIZES, *SIZES):
        frame = frame_of(bytes(size))
        tag = near.tag(frame)
        assert len(tag) == TAG_BYTES
        assert far.tag(bytearray(frame)) == tag
        tags.add(tag)
    assert len(tags) == 2 * len(SIZES), "the same frame has another tag each time"


@pytest.mark.parametrize("size", SIZES)
def test_no_byte_of_a_tagged_frame_can_be_changed(size: int) -> None:
    rng = random.Random(size)
    frame = frame_of(bytes(size))
    places = range(len(frame)) if len(frame) < 1000 else rng.sample(range(len(frame)), 300)
    key = rng.randbytes(32)
    good = Session(key, poly=True).tag(frame)
    for at in places:
        bad = bytearray(frame)
        bad[at] ^= 1 << rng.randrange(8)
        assert Session(key, poly=True).tag(bad) != good, f"byte {at}"
    assert Session(key, poly=True).tag(frame[:-1]) != good
    assert Session(rng.randbytes(32), poly=True).tag(frame) != good
    late = Session(key, poly=True)
    late.tag(b"")
    assert late.tag(frame) != good, "its place counts"


def test_poly1305_is_that_of_the_standard_where_it_is_there() -> None:
    made = poly1305.poly1305()
    if made is None:
        assert session.Session(bytes(32), poly=True)._poly is None
        return
    # RFC 8439, A.3: 1 and 2
    text = b"Any submission to the IETF intended by the Contributor for publication as all or part of an IETF"
    assert made.tag(bytes(32), bytes(64)) == bytes(16)
    tail = bytes.fromhex("36e5f6b5c5e06070f0efca96227a863e")
    assert made.tag(bytes(16) + tail, text) == tail
    assert made.tag(bytes(16) + tail, bytearray(text)) == tail, "with another key before"


def test_every_bit_of_a_handshake_counts() -> None:
    def spoilt(message: bytes, at: int) -> bytes:
        bad = bytearray(message)
        bad[at // 8] ^= 1 << at % 8
        return bytes(bad)

    for at in range(8 * CALL_BYTES):
        dialler, listener = Dialler(OLD, 1, 2), Listener([OLD], 2)
        with pytest.raises(Stranger):
            dialler.answered(listener.called(spoilt(dialler.call, at)))
    for at in range(8 * ANSWER_BYTES):
        dialler, listener = Dialler(OLD, 1, 2), Listener([OLD], 2)
        with pytest.raises(Stranger):
            dialler.answered(spoilt(listener.called(dialler.call), at))
    for at in range(8 * PROOF_BYTES):
        dialler, listener = Dialler(OLD, 1, 2), Listener([OLD], 2)
        proof, _ = dialler.answered(listener.called(dialler.call))
        with pytest.raises(Stranger):
            listener.proved(spoilt(proof, at))


def test_what_was_heard_on_one_connection_is_no_use_on_another() -> None:
    dialler, listener = Dialler(OLD, 1, 2), Listener([OLD], 2)
    answer = listener.called(dialler.call)
    proof, near = dialler.answered(answer)
    again = Listener([OLD], 2)
    assert again.called(dialler.call) != answer
    with pytest.raises(Stranger):
        again.proved(proof)
    with pytest.raises(Stranger):
        Dialler(OLD, 1, 2).answered(answer)
    other, _ = agreed(Dialler(OLD, 1, 2), Listener([OLD], 2))
    assert other.tag(b"frame") != near.tag(b"frame")


def test_nobody_can_be_made_to_answer_himself() -> None:
    # A man in the middle has nothing but what others say, so he turns a node's own words on it.
    dialler = Dialler(OLD, 1, 2)
    with pytest.raises(Stranger, match="node 1"):
        Listener([OLD], 1).called(dialler.call)
    with pytest.raises(Stranger, match="wants node 1"):
        Listener([OLD], 1).called(Dialler(OLD, 1, 1).call)
    listener = Listener([OLD], 2)
    answer = listener.called(dialler.call)
    with pytest.raises(Stranger):
        listener.proved(answer[-PROOF_BYTES:])
    # Two nodes that dial each other: the one's proof is not the other's answer.
    other, its_listener = Dialler(OLD, 2, 1), Listener([OLD], 1)
    proof, _ = dialler.answered(Listener([OLD], 2).called(dialler.call))
    with pytest.raises(Stranger):
        other.answered(its_listener.called(other.call)[:-PROOF_BYTES] + proof)


def test_a_call_for_another_node_is_refused() -> None:
    with pytest.raises(Stranger, match="wants node 3"):
        Listener([OLD], 2).called(Dialler(OLD, 1, 3).call)


def test_a_weaker_tag_cannot_be_talked_into() -> None:
    dialler, listener = Dialler(OLD, 1, 2), Listener([OLD], 2)
    call = bytearray(dialler.call)
    call[4] ^= 1
    with pytest.raises(Stranger):
        dialler.answered(listener.called(bytes(call)))
