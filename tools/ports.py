"""Free loopback ports for a cluster on this machine.

Decides which ports the nodes of one cluster get. A port stays claimed until its claim is closed, also
while its node is down, so that two clusters on one machine never take each other's ports.
"""

from __future__ import annotations

import errno
import random
import socket
from types import TracebackType

from paxmux.engine.errors import PaxmuxError

HOST = "127.0.0.1"
LOOPBACKS = ((socket.AF_INET, HOST), (socket.AF_INET6, "::1"))
# A machine may have no IPv6: there, nothing can hold a port of it.
ABSENT = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
# Below the ports that systems give to outgoing connections, none of which can then take one of these
# while its node is being restarted.
PORTS = range(30_000, 32_768)


class PortClaims:
    """Claims on ports; a context manager."""

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []

    def take(self, count: int) -> list[int]:
        """`count` ports that are free for UDP and TCP, over IPv4 and IPv6.

        Raises:
            PaxmuxError: there are not so many.
        """
        ports: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            if len(ports) == count:
                break
            claim = _claim(port)
            if claim is not None:
                self._claims.append(claim)
                ports.append(port)
        if len(ports) < count:
            raise PaxmuxError(f"expected {count} free ports in {PORTS.start} .. {PORTS.stop - 1}")
        return ports

    def close(self) -> None:
        """Give all claims back."""
        for claim in self._claims:
            claim.close()
        self._claims.clear()

    def __enter__(self) -> PortClaims:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _claim(port: int) -> socket.socket | None:
    """A claim that ends with this process at the latest; None if the port is taken."""
    # The abstract name is the claim: it costs no file, and the kernel lets only one process have it.
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0paxmux-port-{port}")
    except OSError:
        claim.close()
        return None
    if not all(
        _free(family, host, kind, port)
        for family, host in LOOPBACKS
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    ):
        claim.close()
        return None
    return claim


def _free(family: int, host: str, kind: int, port: int) -> bool:
    try:
        with socket.socket(family, kind) as probe:
            probe.bind((host, port))
    except OSError as error:
        return error.errno in ABSENT
    return True
