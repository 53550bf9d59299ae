"""A state machine that keeps the terms that are written to it: whoever is master writes its own, fenced."""

from __future__ import annotations

import orjson

from paxmux.engine.state_machine import StateMachine


class TermJournal(StateMachine):
    """Values are numbers in decimal; a query returns all of them, in order, as JSON."""

    smid = 1

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self._terms: list[int] = []

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """Keep one more."""
        self._terms.append(int(value))
        return None

    def query(self, request: bytes) -> bytes:
        """All of them."""
        return orjson.dumps(self._terms)
