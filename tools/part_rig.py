"""What stands where the other side of a part would be, while that part is measured alone.

Decides nothing about what is measured: it has the far ends of a child's rings, and its CPU time. The child
is production code in a process of its own.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Sequence
from time import monotonic_ns
from types import TracebackType
from typing import NamedTuple

import msgspec

from paxmux.engine.errors import PaxmuxError
from paxmux.shards.boot import Failed, FromChild
from paxmux.shards.channel import Receiver, Sender
from paxmux.shards.child import Child
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.ring import create_ring
from paxmux.tools.process_samples import used_cpu_ns

RING_BYTES = 4 << 20
BACKLOG_BYTES = 64 << 20
START_S = 30.0
STALL_S = 5.0
"""So long without any progress something is broken."""


class PartOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says about a part."""

    seconds: float = 10.0
    """Of all cases together."""
    groups: int = 100
    clients: int = 100
    """Requests under way."""
    size: int = 100
    """Bytes of a value."""
    storage: str


class Pair:
    """Two rings between this process and a child, seen from here."""

    def __init__(self, child_bell: Doorbell) -> None:
        self.fds = (create_ring(RING_BYTES, generation=1), create_ring(RING_BYTES, generation=1))
        """To the child, from the child."""
        self.out = Sender(self.fds[0], child_bell, backlog_max_bytes=BACKLOG_BYTES)
        self.inbox = Receiver(self.fds[1], child_bell)

    def close(self) -> None:
        """Unmap them."""
        self.out.close()
        self.inbox.close()
        for fd in self.fds:
            os.close(fd)


def rest(bell: Doorbell, inboxes: Sequence[Receiver], timeout_s: float) -> None:
    """Sleep until somebody rings, if there is nothing to read."""
    if all(inbox.prepare_sleep() for inbox in inboxes):
        select.select([bell], [], [], timeout_s)
        bell.clear()
    for inbox in inboxes:
        inbox.wake()


def wait_for(child: Child, kind: type[FromChild], name: str) -> None:
    """Read what a child says until it says `kind`.

    Raises:
        PaxmuxError: it failed, or says nothing.
    """
    deadline = monotonic_ns() + int(START_S * 1e9)
    while (left_s := (deadline - monotonic_ns()) / 1e9) > 0:
        if not child.wait(left_s):
            break
        for message in child.receive_all():
            if isinstance(message, Failed):
                raise PaxmuxError(f"{name} did not start: {message.reason}")
            if isinstance(message, kind):
                return
    raise PaxmuxError(f"{name} did not start within {START_S:g} s")


class Progress:
    """Notices that nothing goes on any more."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._until = 0
        self.made()

    def made(self) -> None:
        """There was some."""
        self._until = monotonic_ns() + int(STALL_S * 1e9)

    def check(self) -> None:
        """Raises PaxmuxError if there was none for long."""
        if monotonic_ns() > self._until:
            raise PaxmuxError(f"{self._what}: no progress within {STALL_S:g} s")


class Used(NamedTuple):
    """What a stretch of time cost."""

    wall_s: float
    cpu_ns: dict[str, int]
    """By process."""

    def per(self, count: int) -> dict[str, float]:
        """CPU time of each process for each of so many things, in µs."""
        return {f"{name}_cpu_us": round(ns / 1000 / max(count, 1), 3) for name, ns in self.cpu_ns.items()}


class Gauge:
    """CPU time of processes from now on."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._start = monotonic_ns()
        self._before = self._cpu()

    def read(self) -> Used:
        """So far."""
        used = {name: ns - self._before[name] for name, ns in self._cpu().items()}
        return Used((monotonic_ns() - self._start) / 1e9, used)

    def _cpu(self) -> dict[str, int]:
        return {name: used_cpu_ns(pid) for name, pid in self._pids.items()}


class Children:
    """A context manager: whatever happens, none of these children is left."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def add(self, child: Child) -> Child:
        """Own it."""
        self._children.append(child)
        return child

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.popen.kill()
        for child in self._children:
            child.popen.wait()
            child.close()


def close_all(pairs: Iterable[Pair], bells: Iterable[Doorbell]) -> None:
    """What this process has of the rings."""
    for pair in pairs:
        pair.close()
    for bell in bells:
        bell.close()
