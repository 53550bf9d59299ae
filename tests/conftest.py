"""What every test may ask for: free ports, and a process without second copies of the packages."""

from __future__ import annotations

import random
import socket
import sys
from collections.abc import Callable, Iterator

import pytest

BARE_NAMES = frozenset({"engine", "shards", "plugins", "tools"})
"""Top-level folders; imported by these names they would be second copies of `paxmux.*`."""

# Below the ports that systems give to outgoing connections, so that none of those takes a port
# between the moment it is chosen and the moment it is bound.
_PORTS = range(20_000, 30_000)


@pytest.fixture
def free_ports() -> Iterator[Callable[[int], list[int]]]:
    """`free_ports(count)`: ports of 127.0.0.1 that are free for UDP and TCP, and that no other test
    is given before this one ends, whichever process it runs in."""
    claims: list[socket.socket] = []

    def choose(count: int) -> list[int]:
        ports: list[int] = []
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(ports) == count:
                return ports
            claim = _claim(port)
            if claim is not None:
                claims.append(claim)
                ports.append(port)
        raise AssertionError(f"{count} free ports in {_PORTS}")

    yield choose
    for claim in claims:
        claim.close()


def _claim(port: int) -> socket.socket | None:
    """A claim on a port that ends with the process; None if it is taken."""
    # The abstract name is the claim: it costs no file and is gone when its process is.
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0paxmux-test-port-{port}")
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as probe:
                probe.bind(("127.0.0.1", port))
    except OSError:
        claim.close()
        return None
    return claim


@pytest.fixture(scope="session", autouse=True)
def no_second_copies() -> Iterator[None]:
    """Fails the run if any test imported a package by its bare name."""
    yield
    assert not BARE_NAMES & sys.modules.keys(), "imported by a bare name, not as paxmux.*"
