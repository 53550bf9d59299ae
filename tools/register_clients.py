"""Clients of registers on one node, whose every call is told to the tool: they make the history that
`paxmux chaos --linearizable` checks.

Decides what is called, and what is told of a call: its two moments, by the monotonic clock that all
processes of a machine share, and its outcome. A call is told in the turn of the event loop in which
it ended, before its client makes the next one. A value names its client and the number of its call,
so that it is written once, and so that a killed node's calls can be told from values that nobody wrote.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic_ns
from typing import Any, Literal

import msgspec

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.shards.node import Node
from paxmux.tools.linear_operation import Kind
from paxmux.tools.register_machine import Registers, cas, get, put, read_found

PAUSE_S = 0.05
"""After an error."""
GETS, PUTS = 0.4, 0.4
"""The rest is cas."""


class Called(msgspec.Struct, frozen=True, array_like=True):
    """One call, as it is told."""

    client: int
    number: int
    """The client's first call is 1."""
    kind: Kind
    key: str
    expected: str | None
    value: str | None
    """What was to be written."""
    found: str | None
    invoked_ns: int
    returned_ns: int
    code: int
    no_effect: bool
    """The error says that nothing was written, now or later."""


class RegisterSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the clients of one node do."""

    clients: int
    first_client: int
    """Never given twice within one run of the tool."""
    groups: int
    keys: int
    """Of each group."""
    seed: int
    pause_max_ms: int
    """Each client waits for a random time up to this between its calls."""
    timeout_s: float
    consistency: Literal["local", "linearizable"]
    """Of gets."""


class RegisterClients:
    """The clients of one node. Used in the node's event loop only."""

    def __init__(
        self,
        node: Node,
        spec: RegisterSpec,
        send: Callable[[dict[str, Any]], None],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        self._node = node
        self._spec = spec
        self._send = send
        self._drain = drain
        self._halting = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to call."""
        first = self._spec.first_client
        self._tasks = [
            asyncio.create_task(self._run(client)) for client in range(first, first + self._spec.clients)
        ]

    async def halt(self) -> None:
        """Call no more; returns once each call is told."""
        self._halting = True
        await asyncio.gather(*self._tasks)
        await self._drain()

    async def _run(self, client: int) -> None:
        spec = self._spec
        rng = random.Random(f"{spec.seed}/{client}")
        known: dict[str, str | None] = {}
        number = 0
        while not self._halting:
            number += 1
            group, place = rng.randrange(spec.groups), rng.randrange(spec.keys)
            key = register_name(group, place)
            draw = rng.random()
            kind: Kind = "get" if draw < GETS else "put" if draw < GETS + PUTS else "cas"
            called = await self._call(client, number, kind, group, key, known.get(key))
            if called.code == Code.OK:
                # What a cas expects next: most often what is there, and sometimes what was.
                known[key] = called.value if kind == "put" else called.found
                if kind == "cas" and called.found == called.expected:
                    known[key] = called.value
            self._send({"event": "called", "called": called})
            await self._drain()
            if called.code != Code.OK:
                await asyncio.sleep(PAUSE_S)
            if spec.pause_max_ms:
                await asyncio.sleep(rng.random() * spec.pause_max_ms / 1000)

    async def _call(
        self, client: int, number: int, kind: Kind, group: int, key: str, expected: str | None
    ) -> Called:
        spec, node = self._spec, self._node
        value = None if kind == "get" else written_value(client, number)
        expected = expected if kind == "cas" else None
        found, code, no_effect = None, int(Code.OK), False
        invoked_ns = monotonic_ns()
        try:
            if value is None:
                answer = await node.query(group, get(key), Registers.smid, spec.consistency, spec.timeout_s)
                found = read_found(answer)
            else:
                command = put(key, value) if kind == "put" else cas(key, expected, value)
                done = await node.propose(group, command, Registers.smid, None, spec.timeout_s)
                before = read_found(done.result or b"")
                found = before if kind == "cas" else None
        except PaxmuxError as error:
            code, no_effect = int(error.code), error.retryable or value is None
        returned_ns = monotonic_ns()
        return Called(
            client, number, kind, key, expected, value, found, invoked_ns, returned_ns, code, no_effect
        )


def register_name(group: int, place: int) -> str:
    """The name of a group's register, unlike that of any other."""
    return f"{group}/{place}"


def written_value(client: int, number: int) -> str:
    """What a client writes in a call."""
    return f"{client}.{number}"


def read_value(value: str) -> tuple[int, int]:
    """(client, number) from what was written; ValueError if no client wrote so."""
    client, number = value.split(".")
    return int(client), int(number)
