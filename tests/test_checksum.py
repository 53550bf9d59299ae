"""Checksums of large values: joined, remembered and never other than what `zlib.crc32` says."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paxmux.engine.paxos import checksum as module
from paxmux.engine.paxos.checksum import KEPT_BYTES, LARGE_BYTES, checksum, checksum_of, join, last_checksum


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    module._kept.clear()
    module._kept_bytes = 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=2000), st.integers(0, 2**32 - 1))
def test_joined_checksums_are_those_of_all_bytes(first: bytes, second: bytes, start: int) -> None:
    assert join(crc32(first, start), crc32(second), len(second)) == crc32(first + second, start)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 2**32 - 1), st.integers(0, 63))
def test_whichever_library_computes_it_a_checksum_is_that_of_zlib(
    data: bytes, start: int, offset: int
) -> None:
    assert module.crc32(data) == crc32(data)
    assert module.crc32(memoryview(data)[offset:], start) == crc32(data[offset:], start)


@pytest.mark.plain("loads a module anew")
def test_without_the_fast_library_that_of_python_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
            importlib.reload(module)
            assert module.crc32 is crc32
    finally:
        importlib.reload(module)


@pytest.mark.parametrize("length", [1 << 16, (1 << 16) + 1, 10_485_760, 104_857_599])
def test_long_runs_join_as_well(length: int) -> None:
    second = bytes(length)
    assert join(0x12345678, crc32(second), length) == crc32(second, 0x12345678)


@pytest.mark.parametrize("size", [0, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1])
def test_pieces_have_the_checksum_of_the_whole(size: int) -> None:
    pieces = [b"head", os.urandom(size), b"", os.urandom(size), b"tail"]
    assert checksum_of(pieces) == crc32(b"".join(pieces))


def test_a_large_value_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    value, other = os.urandom(LARGE_BYTES), os.urandom(LARGE_BYTES)
    expected = crc32(value)
    assert checksum(value) == expected
    seen: list[bytes] = []

    def counted(data: bytes, start: int = 0) -> int:
        seen.append(data)
        return crc32(data, start)

    monkeypatch.setattr(module, "crc32", counted)
    assert checksum(value) == last_checksum(value) == expected
    assert seen == []
    assert checksum(other) == crc32(other)
    assert last_checksum(value) == expected
    assert seen == [other, value]
    assert checksum(bytes(value)) == expected


def test_what_is_remembered_is_bounded_and_forgotten_at_last() -> None:
    values = [os.urandom(1 << 20) for _ in range(KEPT_BYTES // (1 << 20) + 5)]
    for value in values:
        checksum(value)
        assert module._kept_bytes == sum(len(kept) for kept, _ in module._kept.values()) <= KEPT_BYTES
    assert id(values[0]) not in module._kept
    assert id(values[-1]) in module._kept
    for value in values:
        assert last_checksum(value) == crc32(value)
    assert not module._kept
    assert module._kept_bytes == 0


def test_a_value_larger_than_all_that_is_remembered() -> None:
    value = bytes(KEPT_BYTES + 1)
    assert checksum(value) == last_checksum(value) == crc32(value)
    assert module._kept_bytes == 0
