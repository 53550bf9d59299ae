"""The frame: packed and read back alike, and no changed bit gets through either way of checking it."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxmux.engine.frame import (
    GROUPS_MAX,
    MAGIC,
    MAX_BODY_BYTES,
    VERSION,
    WIDE_VERSION,
    FrameKind,
    header_bytes,
    pack_frame,
    parse_frame,
    parse_header,
    parse_route,
    parse_start,
    read_label,
    set_bytes,
    version_for,
)
from paxmux.engine.frame_header import HEADER_BYTES, WIDE_HEADER_BYTES, FrameError, Header

U64 = st.integers(0, 2**64 - 1)
VERSIONS = (VERSION, WIDE_VERSION)
GROUPS = st.integers(0, 2**256 - 1)
WIDE_GROUPS = st.integers(0, 2**1024 - 1)


def reason(data: bytes, max_body_bytes: int = MAX_BODY_BYTES) -> str | None:
    """Why both ways of checking refuse the bytes; None if both take them."""
    reasons = []
    for parse in (parse_frame, parse_route):
        try:
            parse(data, max_body_bytes)
        except FrameError as error:
            reasons.append(error.reason)
        else:
            reasons.append(None)
    assert reasons[0] == reasons[1]
    return reasons[0]


@given(
    body=st.binary(max_size=300),
    kind=st.integers(0, 255),
    ids=st.tuples(U64, U64, U64, U64, U64),
    form=st.one_of(
        st.tuples(st.just(VERSION), GROUPS), st.tuples(st.just(WIDE_VERSION), st.one_of(GROUPS, WIDE_GROUPS))
    ),
    log=st.integers(0, 2**16 - 1),
    generation=st.integers(0, 2**32 - 1),
)
def test_what_is_packed_is_read_back(
    body: bytes,
    kind: int,
    ids: tuple[int, int, int, int, int],
    form: tuple[int, int],
    log: int,
    generation: int,
) -> None:
    cluster, sender, seat, incarnation, dest = ids
    version, groups = form
    start = header_bytes(version)
    frame = pack_frame(
        kind,
        body,
        cluster=cluster,
        sender=sender,
        seat=seat,
        incarnation=incarnation,
        dest=dest,
        groups=groups,
        log=log,
        generation=generation,
        version=version,
    )
    header = parse_frame(frame)
    crc = crc32(frame[start:], crc32(frame[: start - 4]))
    assert header == Header(
        kind, len(body), log, generation, cluster, sender, seat, incarnation, dest, groups, crc
    )
    assert header.start == start
    assert parse_header(frame) == parse_header(bytearray(frame[:start])) == header
    assert parse_frame(memoryview(frame)) == header
    assert parse_route(frame) == (kind, cluster, sender, dest, groups.to_bytes(set_bytes(version), "little"))
    assert parse_start(frame[:HEADER_BYTES]) == (len(frame), sender)
    assert read_label(frame) == (generation, dest)
    assert frame[start:] == body


def test_the_bytes_of_a_header_are_fixed() -> None:
    """Any change of these bytes is another wire version."""
    frame = pack_frame(
        FrameKind.PAXOS,
        b"body",
        cluster=0x1111111111111111,
        sender=0x2222222222222222,
        seat=0x3333333333333333,
        incarnation=0x4444444444444444,
        dest=0x5555555555555555,
        groups=1 << 0 | 1 << 9 | 1 << 255,
        log=0x6677,
        generation=0x8899AABB,
    )
    assert frame[:24].hex() == "50584d01010200000400000077660000bbaa998800000000"
    assert frame[24:64].hex() == "11" * 8 + "22" * 8 + "33" * 8 + "44" * 8 + "55" * 8
    assert frame[64:96] == b"\x01\x02" + bytes(29) + b"\x80"
    assert frame[96:124] == bytes(28)
    assert frame[124:128] == struct.pack("<I", crc32(b"body", crc32(frame[:124])))
    assert frame[128:] == b"body"
    assert (MAGIC, VERSION, HEADER_BYTES) == (b"PXM\x01", 1, 128)


def test_the_bytes_of_a_wide_header_are_those_of_the_other_but_for_the_set() -> None:
    fields = {"cluster": 1, "sender": 2, "seat": 3, "incarnation": 4, "dest": 5, "generation": 6}
    wide = pack_frame(2, b"body", **fields, groups=1 << 0 | 1 << 1023, version=WIDE_VERSION)
    narrow = pack_frame(2, b"body", **fields, groups=1)
    assert wide[:4] + wide[5:64] == narrow[:4] + narrow[5:64]
    assert wide[4] == WIDE_VERSION == 2
    assert wide[64:192] == b"\x01" + bytes(126) + b"\x80"
    assert wide[192:220] == bytes(28)
    assert wide[220:224] == struct.pack("<I", crc32(b"body", crc32(wide[:220])))
    assert wide[224:] == b"body"
    assert WIDE_HEADER_BYTES == 224


def test_only_a_cluster_with_many_groups_speaks_the_wide_version() -> None:
    assert [version_for(groups) for groups in (1, 256, 257, GROUPS_MAX)] == [1, 1, 2, 2]
    assert GROUPS_MAX == 1024


def test_the_start_of_a_frame_tells_its_length_or_why_it_has_none() -> None:
    for version in VERSIONS:
        frame = pack_frame(
            2, bytes(100), cluster=7, sender=1, seat=2, incarnation=3, dest=4, groups=5, version=version
        )
        assert parse_start(frame, len(frame)) == (len(frame), 1)
        for changed, reason in (
            (b"PXM\x02" + frame[4:], "magic"),
            (frame[:4] + b"\x03" + frame[5:], "version"),
            (frame[:4] + b"\x00" + frame[5:], "version"),
            (frame[:8] + struct.pack("<I", 101) + frame[12:], "length"),
        ):
            with pytest.raises(FrameError) as caught:
                parse_start(changed, len(frame))
            assert caught.value.reason == reason


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_every_changed_bit_and_every_cut_shows(size: int, version: int) -> None:
    """Weakness B11 of the reference."""
    fields = {"cluster": 7, "sender": 1, "seat": 2, "incarnation": 3, "dest": 4, "groups": 5}
    frame = pack_frame(FrameKind.PAXOS, b"\xa5" * size, **fields, version=version)
    start = header_bytes(version)
    assert reason(frame) is None
    for at in [*range(start), *range(start, len(frame), 97)]:
        for bit in range(8):
            changed = frame[:at] + bytes([frame[at] ^ 1 << bit]) + frame[at + 1 :]
            expected = "magic" if at < 4 else "version" if at == 4 else "length" if 8 <= at < 12 else "crc"
            assert reason(changed) == expected
    for cut in [*range(start + 2), *range(start + 2, len(frame), 97)]:
        if cut < len(frame):
            assert reason(frame[:cut]) == ("short" if cut < start else "length")
    assert reason(frame + b"x") == "length"


@given(st.binary(max_size=400))
def test_random_bytes_are_no_frame(data: bytes) -> None:
    assert reason(data) in ("short", "magic")
    assert reason(b"x" + data[:3].ljust(3) + bytes([WIDE_VERSION]) + bytes(150)) == "magic"
    for version in VERSIONS:
        assert reason(MAGIC + bytes([version]) + data) in ("short", "length", "crc")


def test_a_length_is_refused_before_anything_is_done_with_it() -> None:
    frame = bytearray(
        pack_frame(FrameKind.PAXOS, b"", cluster=7, sender=1, seat=2, incarnation=3, dest=4, groups=5)
    )
    for length in (MAX_BODY_BYTES + 1, 2**32 - 1):
        struct.pack_into("<I", frame, 8, length)
        with pytest.raises(FrameError, match=f"a body of {length} bytes, at most {MAX_BODY_BYTES} allowed"):
            parse_header(frame)
    good = pack_frame(
        FrameKind.PAXOS, bytes(101), cluster=7, sender=1, seat=2, incarnation=3, dest=4, groups=5
    )
    assert reason(good, 101) is None
    assert reason(good, 100) == "length"


def test_what_does_not_fit_the_header_is_an_error_of_the_caller() -> None:
    fields = {"cluster": 7, "sender": 1, "seat": 2, "incarnation": 3, "dest": 4, "groups": 5}
    for name, value in (("cluster", 2**64), ("sender", -1), ("generation", 2**32), ("log", 2**16)):
        with pytest.raises(struct.error):
            pack_frame(FrameKind.PAXOS, b"", **{**fields, name: value})
    with pytest.raises(OverflowError):
        pack_frame(FrameKind.PAXOS, b"", **{**fields, "groups": 2**256})
    with pytest.raises(OverflowError):
        pack_frame(FrameKind.PAXOS, b"", **{**fields, "groups": 2**1024}, version=WIDE_VERSION)
