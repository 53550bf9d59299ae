"""A state machine that keeps its state in LMDB: what it executed, with the instance, in one transaction."""

from __future__ import annotations

from pathlib import Path

import lmdb

from paxmux.engine.state_machine import StateMachine


class Counted(StateMachine):
    """How many values it has executed, and a CRC-like sum of them, durable each `every` instances."""

    smid = 1

    def __init__(self, group: int, folder: str, every: int = 10) -> None:
        super().__init__(group)
        path = Path(folder) / str(group)
        path.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(str(path), map_size=1 << 20)
        self._every = every
        with self._env.begin() as txn:
            stored = txn.get(b"state") or b"0 0 -1"
        count, total, applied = stored.split()
        self._count, self._sum = int(count), int(total)
        self._applied = int(applied)

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        self._count += 1
        self._sum = (self._sum * 31 + sum(value)) % 1_000_000_007
        return b"%d" % self._count

    def commit(self, instance_id: int) -> None:
        if instance_id % self._every == 0:
            with self._env.begin(write=True) as txn:
                txn.put(b"state", b"%d %d %d" % (self._count, self._sum, instance_id))
            self._applied = instance_id

    def applied_instance_id(self) -> int | None:
        return self._applied if self._applied >= 0 else None

    def query(self, request: bytes) -> bytes:
        return b"%d %d" % (self._count, self._sum)

    def close(self) -> None:
        self._env.close()
