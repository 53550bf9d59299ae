"""Batches of `Node.batch_propose`: values of many callers that are proposed as one pack.

Decides how long a value waits for others: until `count` of its group are there, or `delay_ms` after the
first; without a delay, until the event loop has run whoever else is ready. Each value holds a slot of the
admission from the moment it comes in, so what waits here is bounded as everything is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from copy import copy

from paxmux.engine.errors import PaxmuxError
from paxmux.engine.options import ProposalOptions
from paxmux.engine.pack import PACK
from paxmux.shards.admission import Admission
from paxmux.shards.done import Done
from paxmux.shards.exchange import Exchange
from paxmux.shards.outcomes import Outcomes
from paxmux.shards.packer import Packer
from paxmux.shards.requests import Reply

Outcome = Done | PaxmuxError
Key = tuple[int, int, float | None]
"""(group, state machine id, timeout in s): values that may go together."""


class _Batch:
    """Values that wait."""

    __slots__ = ("contexts", "deadline_ns", "futures", "handle", "size", "values")

    def __init__(self, handle: asyncio.Handle) -> None:
        self.values: list[bytes] = []
        self.contexts: list[bytes | None] = []
        self.futures: list[asyncio.Future[Outcome]] = []
        self.size = 0
        self.deadline_ns = 0
        """Of the last one: nobody is told too early that it is too late."""
        self.handle = handle


class Batcher:
    """Used in the node's event loop only."""

    def __init__(
        self,
        options: ProposalOptions,
        groups: int,
        worker_of: list[int],
        admission: Admission,
        exchange: Exchange,
        packer: Packer,
    ) -> None:
        self.counts = [options.batch_count] * groups
        self.delays_ms = [options.batch_delay_ms] * groups
        self._worker_of = worker_of
        self._admission = admission
        self._exchange = exchange
        self._packer = packer
        self._loop = asyncio.get_running_loop()
        self._open: dict[Key, _Batch] = {}

    def add(
        self, key: Key, value: bytes, context: bytes | None, size: int, deadline_ns: int
    ) -> asyncio.Future[Outcome]:
        """Take a value that was checked along; returns the future of its outcome, which never raises.

        Raises:
            NodeStopped, Overloaded: it was not taken.
        """
        group = key[0]
        if self._admission.locks.locks:
            self._admission.pass_lock(group)
        self._admission.enter(self._worker_of[group], size, 1, group)
        batch = self._open.get(key)
        if batch is not None and size >= self._packer.max_bytes:
            # What is so large goes alone: nobody else's value may become a part of too much.
            batch.handle.cancel()
            self._flush(key)
            batch = None
        if batch is None:
            batch = self._open[key] = _Batch(self._schedule(key, self.delays_ms[group]))
        future: asyncio.Future[Outcome] = self._loop.create_future()
        batch.values.append(value)
        batch.contexts.append(context)
        batch.futures.append(future)
        batch.size += size
        batch.deadline_ns = deadline_ns
        if len(batch.values) >= self.counts[group] or batch.size >= self._packer.max_bytes:
            batch.handle.cancel()
            self._flush(key)
        return future

    def flush(self) -> None:
        """Propose everything that waits, now."""
        for key, batch in list(self._open.items()):
            batch.handle.cancel()
            self._flush(key)

    def _schedule(self, key: Key, delay_ms: int) -> asyncio.Handle:
        if delay_ms:
            return self._loop.call_later(delay_ms / 1000, self._flush, key)
        return self._loop.call_soon(self._flush, key)

    def _flush(self, key: Key) -> None:
        batch = self._open.pop(key)
        group, smid, _ = key
        # Their slots make room for that of the packs.
        self._admission.leave(len(batch.values), batch.size)
        worker = self._worker_of[group]
        start = 0
        try:
            packs = self._packer.packs(batch.values, batch.contexts)
            self._admission.enter(worker, sum(one.size for one in packs), len(packs), group)
        except PaxmuxError as error:
            # Each its own: a traceback belongs to one caller.
            _settle(batch.futures, [copy(error) for _ in batch.futures])
            return
        for one in packs:
            callers = batch.futures[start : start + one.count]
            start += one.count
            reply = self._exchange.propose(
                worker, group, batch.deadline_ns, smid | PACK, one.payload, one.contexts, one.size
            )
            reply.add_done_callback(_answer(callers))


def _answer(callers: list[asyncio.Future[Outcome]]) -> Callable[[asyncio.Future[Reply]], None]:
    def answer(reply: asyncio.Future[Reply]) -> None:
        _settle(callers, Outcomes([(len(callers), reply.result())]))

    return answer


def _settle(callers: list[asyncio.Future[Outcome]], outcomes: Iterable[Outcome]) -> None:
    for future, outcome in zip(callers, outcomes, strict=True):
        if not future.done():
            future.set_result(outcome)
