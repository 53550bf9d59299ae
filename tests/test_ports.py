"""Ports for a cluster on this machine: never one that is in use, and never one twice."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

import pytest

from paxmux.engine.errors import PaxmuxError
from paxmux.tools import ports
from paxmux.tools.ports import LOOPBACKS, PortClaims


@pytest.fixture
def two_ports(monkeypatch: pytest.MonkeyPatch) -> range:
    """All that there are, for this test; no other test looks for its ports there."""
    for start in random.sample(range(20_000, 30_000, 2), 100):
        monkeypatch.setattr(ports, "PORTS", range(start, start + 2))
        with PortClaims() as claims, suppress(PaxmuxError):
            claims.take(2)
            break
    return ports.PORTS


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
@pytest.mark.parametrize(("family", "host"), LOOPBACKS, ids=["IPv4", "IPv6"])
def test_a_port_in_use_is_not_given(two_ports: range, family: int, host: str, kind: int) -> None:
    try:
        taken = socket.socket(family, kind)
        taken.bind((host, two_ports[0]))
    except OSError as error:
        if error.errno not in ports.ABSENT:
            raise
        pytest.skip(f"{host} is not of this machine: {error}")
    with taken, PortClaims() as claims:
        assert claims.take(1) == [two_ports[1]]
        with pytest.raises(PaxmuxError, match="expected 1 free ports"):
            claims.take(1)


def test_a_claimed_port_is_not_given_again_before_the_claim_ends(two_ports: range) -> None:
    with PortClaims() as other:
        with PortClaims() as claims:
            assert sorted(claims.take(2)) == list(two_ports)
            with pytest.raises(PaxmuxError, match="expected 1 free ports"):
                other.take(1)
        assert len(other.take(1)) == 1
