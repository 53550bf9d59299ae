"""A state machine that goes wrong as its values say, in a real worker.

`sleep:MS` takes so long, `hang` never returns, `raise` raises, `eat` allocates until there is no memory for
more than the process has and 64 MiB. Anything else is its own result. A query answers with the worker's pid.
"""

from __future__ import annotations

import os
import resource
import time

import psutil

from paxmux.engine.state_machine import StateMachine

MORE_BYTES = 64 << 20


class Obedient(StateMachine):
    """Does as it is told."""

    smid = 1

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        word, _, argument = value.partition(b":")
        if word == b"sleep":
            time.sleep(int(argument) / 1000)
        elif word == b"hang":
            self.never_returns()
        elif word == b"raise":
            raise RuntimeError("as asked")
        elif word == b"eat":
            self.eat()
        return value

    def query(self, request: bytes) -> bytes:
        return b"%d" % os.getpid()

    def never_returns(self) -> None:
        while True:
            pass

    def eat(self) -> None:
        limit = psutil.Process().memory_info().vms + MORE_BYTES
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        try:
            eaten = []
            while True:
                eaten.append(bytes(1 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


class Other(Obedient):
    """A second one, for groups that have both."""

    smid = 2
