"""What every test may ask for: free ports, and a process without second copies of the packages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from paxmux.engine.compiled import COMPILED
from paxmux.tools.ports import PortClaims

BARE_NAMES = frozenset({"engine", "shards", "plugins", "tools"})
"""Top-level folders; imported by these names they would be second copies of `paxmux.*`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs plain Python where there is none."""
    for item in items if COMPILED else ():
        plain = item.get_closest_marker("plain")
        if plain is not None:
            (reason,) = plain.args
            item.add_marker(pytest.mark.skip(reason=f"compiled: {reason}"))


@pytest.fixture
def free_ports() -> Iterator[Callable[[int], list[int]]]:
    """`free_ports(count)`: ports of 127.0.0.1 that are free for UDP and TCP, and that no other test
    is given before this one ends, whichever process it runs in."""
    with PortClaims() as claims:
        yield claims.take


@pytest.fixture(scope="session", autouse=True)
def no_second_copies() -> Iterator[None]:
    """Fails the run if any test imported a package by its bare name."""
    yield
    assert not BARE_NAMES & sys.modules.keys(), "imported by a bare name, not as paxmux.*"
