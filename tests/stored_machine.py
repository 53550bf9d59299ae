"""A state machine that says that it has stored what it executed, but for some groups that never store."""

from __future__ import annotations

from paxmux.engine.state_machine import StateMachine


class Stored(StateMachine):
    """Counts; of the groups in `slow` everything would have to be executed again after a crash."""

    smid = 1

    def __init__(self, group: int, slow: list[int]) -> None:
        super().__init__(group)
        self._count = 0
        self._applied: int | None = None
        self._stores = group not in slow

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        self._count += 1
        return b"%d" % self._count

    def commit(self, instance_id: int) -> None:
        if self._stores:
            self._applied = instance_id

    def applied_instance_id(self) -> int | None:
        return self._applied
