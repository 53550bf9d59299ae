"""Clients whose every outcome is told to the tool, one by one: the witnesses of `paxmux chaos`.

Decides how values get their ids and what is reported of each. An outcome leaves this process in the
turn of the event loop in which it came, so that what a killed process had acknowledged is known to
the tool. A value is written once: never again, whatever its outcome.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.shards.node import Node
from paxmux.tools.journal_machine import VALUE_MIN_BYTES, Journal, make_value

NUMBER_BITS = 32
PAUSE_S = 0.05
"""After an error."""
_OUTCOME = struct.Struct("<QQHhB")


class Outcome(NamedTuple):
    """What became of one value."""

    id: int
    """See `make_id`."""
    instance: int
    """Where it was decided; 0 without code 0."""
    group: int
    code: int
    no_effect: bool
    """The error says that the value is not executed, now or later."""


class WriterSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the writers of one node do."""

    clients: int
    first_client: int
    """Never given twice within one run of the tool."""
    groups: int
    size: int
    seed: int
    pause_max_ms: int
    """Each writer waits for a random time up to this between its values."""
    timeout_s: float


class Writers:
    """The writers of one node. Used in the node's event loop only."""

    def __init__(
        self,
        node: Node,
        spec: WriterSpec,
        send: Callable[[dict[str, Any]], None],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        self._node = node
        self._spec = spec
        self._send = send
        self._drain = drain
        self._loop = asyncio.get_running_loop()
        self._outcomes = bytearray()
        self._halting = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to write."""
        first = self._spec.first_client
        self._tasks = [
            self._loop.create_task(self._write(number)) for number in range(first, first + self._spec.clients)
        ]

    async def halt(self) -> None:
        """Write no more; returns once each outcome is reported."""
        self._halting = True
        await asyncio.gather(*self._tasks)
        self._flush()
        await self._drain()

    async def _write(self, number: int) -> None:
        spec = self._spec
        rng = random.Random(f"{spec.seed}/{number}")
        count = 0
        while not self._halting:
            count += 1
            group = rng.randrange(spec.groups)
            value_id = make_id(number, count)
            value = make_value(value_id, rng.randbytes(max(0, spec.size - VALUE_MIN_BYTES)))
            try:
                done = await self._node.propose(group, value, Journal.smid, None, spec.timeout_s)
            except PaxmuxError as error:
                self._report(value_id, 0, group, int(error.code), error.retryable)
                await asyncio.sleep(PAUSE_S)
            else:
                self._report(value_id, done.instance_id, group, Code.OK, False)
            await self._drain()
            if spec.pause_max_ms:
                await asyncio.sleep(rng.random() * spec.pause_max_ms / 1000)

    def _report(self, value_id: int, instance: int, group: int, code: int, no_effect: bool) -> None:
        if not self._outcomes:
            self._loop.call_soon(self._flush)
        self._outcomes += _OUTCOME.pack(value_id, instance, group, code, no_effect)

    def _flush(self) -> None:
        if self._outcomes:
            self._send({"event": "outcomes", "outcomes": bytes(self._outcomes)})
            self._outcomes.clear()


def make_id(client: int, number: int) -> int:
    """Id of the value that a client wrote as its `number`-th."""
    return client << NUMBER_BITS | number


def split_id(value_id: int) -> tuple[int, int]:
    """(client, number); the opposite of `make_id`."""
    return value_id >> NUMBER_BITS, value_id & (1 << NUMBER_BITS) - 1


def read_outcomes(data: bytes) -> list[Outcome]:
    """What an event `outcomes` says."""
    return [
        Outcome(value_id, instance, group, code, bool(no_effect))
        for value_id, instance, group, code, no_effect in _OUTCOME.iter_unpack(data)
    ]
