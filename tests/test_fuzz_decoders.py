"""The search finds what is there to be found, and nothing in the decoders."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from paxmux.engine.compiled import COMPILED
from tests.fuzz_decoders import Target, search
from tests.fuzz_targets import TARGETS


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def planted(data: bytes) -> None:
    """Wrong for inputs that no luck finds at once: three bytes must be right, one after the other."""
    if data[0:1] != b"P":
        return
    if data[1:2] != b"X":
        return
    if data[2:3] == b"M":
        raise IndexError("planted")


def test_the_search_goes_by_what_it_reaches() -> None:
    result = search("planted", Target((__file__,), [bytes(3)], planted), 60_000, 1)
    assert result.find is not None
    assert result.find.data.startswith(b"PXM")
    assert "IndexError: planted" in result.find.words
    blind = search("planted", Target((), [bytes(3)], planted), 60_000, 1)
    assert blind.find is None, "without a look at what runs it is not found"


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_input_is_found_that_a_decoder_does_not_take(name: str) -> None:
    result = search(name, TARGETS[name], 1500, 3)
    assert result.find is None, result.find
    assert result.runs == 1500
    # What is compiled shows no lines.
    assert COMPILED or result.steps_of_seeds >= 5
