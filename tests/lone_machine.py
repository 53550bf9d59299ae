"""A machine that keeps its state in a file, and does not bear a second one beside it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from paxmux.engine.state_machine import StateMachine


class Lone(StateMachine):
    """Counts its values."""

    smid = 1

    def __init__(self, group: int, folder: str) -> None:
        super().__init__(group)
        self._path = Path(folder) / f"lone-{group}"
        self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        # Raises if another process has it.
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._count, self._applied = 0, -1
        if self._path.exists():
            self._count, self._applied = map(int, self._path.read_text().split())

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        self._count += 1
        return b"%d" % self._count

    def commit(self, instance_id: int) -> None:
        temporary = self._path.with_suffix(".new")
        temporary.write_text(f"{self._count} {instance_id}")
        temporary.rename(self._path)

    def applied_instance_id(self) -> int | None:
        return None if self._applied < 0 else self._applied

    def query(self, request: bytes) -> bytes:
        return b"%d" % self._count

    def close(self) -> None:
        os.close(self._lock)
