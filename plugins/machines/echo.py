"""Echo: answers every value with itself, the smallest state machine there is."""

from __future__ import annotations

import sys

from paxmux.engine.state_machine import StateMachine


class Echo(StateMachine):
    """Returns each value to its proposer; keeps nothing."""

    smid = 1

    def __init__(self, group: int, *, verbose: bool = False) -> None:
        """`verbose`: print a line for every value executed, as PhxPaxos's sample does."""
        super().__init__(group)
        self._verbose = verbose

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """Echo the value."""
        if self._verbose:
            text = value.decode("utf-8", "replace")
            line = f"[SM Execute] ok, smid {self.smid} instanceid {instance_id} value {text}\n"
            sys.stdout.write(line)
            sys.stdout.flush()
        return value

    def query(self, request: bytes) -> bytes:
        """Echo the request."""
        return request
