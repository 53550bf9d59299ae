"""The load of the yardstick: closed-loop clients inside the process that embeds a node.

Decides which client asks for what, and what counts: answers that come within the window that follows
the warm-up. Errors count whenever they come, so that none hides outside the window. A client asks for
the next thing as soon as it has its answer; after an error it pauses, since a node that refuses must
not be asked in a tight loop.
"""

from __future__ import annotations

import asyncio
import random
from time import perf_counter_ns
from typing import Any, Literal

import msgspec

from paxmux.engine.errors import PaxmuxError
from paxmux.shards.node import Node
from paxmux.tools.callers import Caller
from paxmux.tools.latency import Latencies
from paxmux.tools.load_values import LoadValues

PAUSE_S = 0.01
"""After an error."""
_SECOND_NS = 1_000_000_000


class LoadSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one node's clients do."""

    clients: int
    groups: list[int]
    """Each client goes round all of them, in an order of its own."""
    size: int
    """Bytes of a value."""
    seconds: float
    """The window in which answers count."""
    warmup_s: float = 0.0
    mode: Literal["propose", "batch"] = "propose"
    batch: int = 20
    """Values of one call in mode `batch`."""
    smid: int
    timeout_s: float = 10.0
    seed: int = 0
    first_client: int = 0
    """Number of the first client, so that the clients of several nodes send different values."""
    apart: bool = False
    """Each client goes round groups of its own, as far as there are enough: none shares an instance."""


class LoadResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What came of it."""

    ok: int
    """Calls answered within the window."""
    values: int
    """Values that those calls had decided and executed."""
    errors: dict[int, int]
    """Code -> count, over the whole time."""
    window_s: float
    latencies: dict[str, Any]
    """`Latencies.dump()` of those calls."""
    callers: list[Caller]
    """In no order."""


class Load:
    """One run of clients against one node. Used in the node's event loop only."""

    def __init__(self, node: Node, spec: LoadSpec) -> None:
        self._node = node
        self._spec = spec
        self._latencies = Latencies()
        self._from_ns = self._until_ns = 0
        self._callers: list[Caller] = []
        self.ok = 0
        self.values = 0
        self.errors: dict[int, int] = {}

    async def run(self) -> LoadResult:
        """Run until the window has ended and each client has its last answer."""
        spec = self._spec
        self._from_ns = perf_counter_ns() + int(spec.warmup_s * _SECOND_NS)
        self._until_ns = self._from_ns + int(spec.seconds * _SECOND_NS)
        client = self._propose if spec.mode == "propose" else self._propose_many
        numbers = range(spec.first_client, spec.first_client + spec.clients)
        async with asyncio.TaskGroup() as clients:
            for number in numbers:
                clients.create_task(client(number))
        return LoadResult(
            ok=self.ok,
            values=self.values,
            errors=self.errors,
            window_s=max(self._until_ns - self._from_ns, 1) / _SECOND_NS,
            latencies=self._latencies.dump(),
            callers=self._callers,
        )

    def halt(self) -> None:
        """End the window now."""
        self._until_ns = min(self._until_ns, perf_counter_ns())

    def progress(self) -> dict[str, Any]:
        """Counts so far."""
        return {"ok": self.ok, "values": self.values, "errors": self.errors}

    async def _propose(self, number: int) -> None:
        propose, spec = self._node.propose, self._spec
        groups, values = self._round(number), LoadValues(number, spec.size, 1)
        smid, timeout_s = spec.smid, spec.timeout_s
        count, turn = len(groups), 0
        served = longest = 0
        since = perf_counter_ns()
        while (start := perf_counter_ns()) < self._until_ns:
            turn += 1
            try:
                await propose(groups[turn % count], values.next(), smid, None, timeout_s)
            except PaxmuxError as error:
                await self._failed(error.code)
                continue
            now = perf_counter_ns()
            if now >= self._from_ns:
                longest = max(longest, now - since)
                if now <= self._until_ns:
                    self.ok += 1
                    self.values += 1
                    served += 1
                    self._latencies.add(now - start)
            since = now
        self._ended(served, longest, since)

    async def _propose_many(self, number: int) -> None:
        propose_many, spec = self._node.propose_many, self._spec
        groups, values = self._round(number), LoadValues(number, spec.size, spec.batch)
        count, turn = len(groups), 0
        served = longest = 0
        since = perf_counter_ns()
        while (start := perf_counter_ns()) < self._until_ns:
            turn += 1
            try:
                answers = await propose_many(
                    groups[turn % count], values.next_many(), spec.smid, timeout_s=spec.timeout_s
                )
            except PaxmuxError as error:
                await self._failed(error.code)
                continue
            now = perf_counter_ns()
            bad = []
            if answers.failed:
                bad = [answer.code for answer in answers if isinstance(answer, PaxmuxError)]
            if self._from_ns <= now <= self._until_ns:
                self.values += len(answers) - len(bad)
                if not bad:
                    self.ok += 1
                    served += 1
                    self._latencies.add(now - start)
            if not bad:
                if now >= self._from_ns:
                    longest = max(longest, now - since)
                since = now
            for code in bad[1:]:
                self.errors[code] = self.errors.get(code, 0) + 1
            if bad:
                await self._failed(bad[0])
        self._ended(served, longest, since)

    def _ended(self, served: int, longest_ns: int, since_ns: int) -> None:
        """A caller has stopped, having had its last answer at `since_ns`."""
        # The last attempts may have failed.
        self._callers.append(Caller(served, max(longest_ns, self._until_ns - since_ns)))

    async def _failed(self, code: int) -> None:
        self.errors[int(code)] = self.errors.get(int(code), 0) + 1
        await asyncio.sleep(PAUSE_S)

    def _round(self, number: int) -> list[int]:
        """The groups in this client's order."""
        spec = self._spec
        groups = list(spec.groups)
        if spec.apart:
            groups = groups[(number - spec.first_client) % len(groups) :: spec.clients]
        random.Random(f"{spec.seed}/{number}").shuffle(groups)
        return groups
