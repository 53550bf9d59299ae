"""Masters that write in their term, and say from when to when they believed that they were masters.

Decides what a node writes while it is master, and what the tool is told: each write with its outcome, each
reign as this node saw it. After a reign its term is used on until it is refused: what a master sends that has
not noticed anything. Moments are of the monotonic clock that all processes of a machine share; a reign is
never told longer than it was seen, so that two that overlap were really there at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final

import msgspec

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.shards.node import Node
from paxmux.tools.term_machine import Terms, make_value

LOOK_EVERY_S: Final = 0.01
PAUSE_S: Final = 0.05
"""After an error."""


class Reign(msgspec.Struct, array_like=True):
    """A term in which this node saw itself as master."""

    writer: int
    group: int
    term: int
    first_ns: int
    """It was so at this moment or before it."""
    last_ns: int
    """It was so at this moment or after it."""


class Written(msgspec.Struct, frozen=True, array_like=True):
    """One fenced write."""

    writer: int
    group: int
    term: int
    number: int
    instance: int
    """Where it was decided; 0 without code 0."""
    code: int
    no_effect: bool
    """The error says that it is not executed, now or later."""


class TermSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one node does."""

    writer: int
    """Its number; never given twice within one run of the tool."""
    groups: int
    pause_ms: int
    """Between two writes in one group."""
    timeout_s: float


class TermWriters:
    """Those of one node, one for each group. Used in the node's event loop only."""

    def __init__(self, node: Node, spec: TermSpec, send: Callable[[dict[str, Any]], None]) -> None:
        self._node = node
        self._spec = spec
        self._send = send
        self._halting = False
        self._reigns: dict[int, Reign] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        writers = [self._write(group) for group in range(self._spec.groups)]
        self._tasks = [asyncio.create_task(each) for each in (self._watch(), *writers)]

    async def halt(self) -> None:
        """Write no more; returns once everything is told."""
        self._halting = True
        await asyncio.gather(*self._tasks)

    async def _watch(self) -> None:
        while not self._halting:
            for group in range(self._spec.groups):
                self._look(group)
            await asyncio.sleep(LOOK_EVERY_S)
        for group in list(self._reigns):
            self._end(group)

    def _look(self, group: int) -> None:
        before_ns = monotonic_ns()
        term = self._node.term(group)
        after_ns = monotonic_ns()
        reign = self._reigns.get(group)
        if reign is not None:
            if reign.term == term:
                reign.last_ns = before_ns
                return
            self._end(group)
        if term is not None:
            self._reigns[group] = begun = Reign(self._spec.writer, group, term, after_ns, before_ns)
            self._send({"event": "reign", "over": False, "reign": begun})

    def _end(self, group: int) -> None:
        self._send({"event": "reign", "over": True, "reign": self._reigns.pop(group)})

    async def _write(self, group: int) -> None:
        spec = self._spec
        term: int | None = None
        number = 0
        while not self._halting:
            own = self._node.term(group)
            term = term if own is None else own
            if term is None:
                await asyncio.sleep(PAUSE_S)
                continue
            number += 1
            instance, code, no_effect = 0, int(Code.OK), False
            value = make_value(term, spec.writer, number)
            try:
                done = await self._node.propose(group, value, Terms.smid, None, spec.timeout_s, term)
                instance = done.instance_id
            except PaxmuxError as error:
                code = int(error.code)
                no_effect = error.retryable or code == Code.STALE_TERM
            written = Written(spec.writer, group, term, number, instance, code, no_effect)
            self._send({"event": "written", "written": written})
            if code == Code.STALE_TERM:
                term = None
            await asyncio.sleep(spec.pause_ms / 1000 if code == Code.OK else PAUSE_S)
