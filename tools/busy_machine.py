"""The state machine of the yardstick, made slow: each value costs it a fixed time of the CPU.

Decides nothing else: what it answers and keeps is that of tools/bench_machine.py, and does not depend on
how long anything took. The time is the thread's own on the CPU, so that it costs the same on a busy machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import thread_time_ns
from typing import TYPE_CHECKING

from paxmux.tools.bench_machine import Chain

if TYPE_CHECKING:
    import pyarrow


class BusyChain(Chain):
    """A `Chain` that works for `work_us` µs on each value."""

    def __init__(self, group: int, work_us: int) -> None:
        super().__init__(group)
        self._work_ns = work_us * 1000

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """As `Chain`, after the work."""
        _burn(self._work_ns)
        return super().execute(instance_id, value, context)

    def execute_many(
        self,
        instance_id: int,
        values: Sequence[bytes] | pyarrow.BinaryArray,
        contexts: Sequence[bytes | None] | None,
    ) -> None:
        """As `Chain`, after the work on all of them."""
        _burn(self._work_ns * len(values))
        super().execute_many(instance_id, values, contexts)


def _burn(work_ns: int) -> None:
    until_ns = thread_time_ns() + work_ns
    while thread_time_ns() < until_ns:
        pass
