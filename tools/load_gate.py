"""Where the requests of open loads enter a node, and their outcomes leave it, in batches both ways.

Decides nothing about them: what the node refuses is an outcome like any other. There is no task for a
request, and outcomes are handed over once per turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec

from paxmux.engine.errors import PaxmuxError
from paxmux.shards.node import Node
from paxmux.shards.requests import Reply

Request = tuple[int, int, bytes | None]
"""(number, group, value); no value: a read."""
Answer = tuple[int, int]
"""(number, code)"""


class GateSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all requests through one gate have in common."""

    smid: int
    timeout_s: float
    consistency: str
    """Of reads."""


class LoadGate:
    """For one load. Used in the node's event loop only. Bounded by what the load has under way."""

    def __init__(self, node: Node, spec: GateSpec, give: Callable[[list[Answer]], None]) -> None:
        """`give` gets outcomes, in the order in which they are known."""
        self._node = node
        self._spec = spec
        self._give = give
        self._loop = asyncio.get_running_loop()
        self._answers: list[Answer] = []
        self._flush_due = False

    def send(self, requests: list[Request]) -> None:
        """Have them proposed, or asked."""
        submit, submit_query, spec = self._node.submit, self._node.submit_query, self._spec
        smid, timeout_s, answered = spec.smid, spec.timeout_s, self._answered
        for number, group, value in requests:
            try:
                if value is not None:
                    future = submit(group, value, smid, None, timeout_s)
                else:
                    future = submit_query(group, b"", smid, spec.consistency, timeout_s)
            except PaxmuxError as error:
                self._note(number, int(error.code))
            else:
                future.add_done_callback(partial(answered, number))

    def _answered(self, number: int, future: asyncio.Future[Reply]) -> None:
        self._note(number, future.result()[1])

    def _note(self, number: int, code: int) -> None:
        self._answers.append((number, code))
        if not self._flush_due:
            self._flush_due = True
            # Behind all outcomes that this turn knows of already.
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        answers, self._answers = self._answers, []
        self._give(answers)
