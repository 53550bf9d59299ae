"""A durable state machine whose whole state is how far it is: for measuring what a start costs beside it.

Each group has eight bytes in a file that all groups share. They are written through a mapping, so they
outlive the process and not a power cut: enough to measure, and no pattern for a machine of one's own.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from paxmux.engine.state_machine import StateMachine

_COUNT = struct.Struct("<Q")


class Applied(StateMachine):
    """Executes nothing and counts instances."""

    smid = 3

    def __init__(self, group: int, *, file: str) -> None:
        """`file`: made by `write_applied`."""
        super().__init__(group)
        with Path(file).open("r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), 0)
        self._at = group * _COUNT.size

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """Nothing."""
        return None

    def commit(self, instance_id: int) -> None:
        """Note how many instances are executed."""
        _COUNT.pack_into(self._map, self._at, instance_id + 1)

    def applied_instance_id(self) -> int | None:
        """As the file says."""
        (count,) = _COUNT.unpack_from(self._map, self._at)
        return count - 1 if count else None

    def query(self, request: bytes) -> bytes:
        """How many instances are executed, eight bytes, little-endian."""
        return self._map[self._at : self._at + _COUNT.size]

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


def write_applied(file: Path, counts: list[int]) -> None:
    """Say how many instances of each group, from group 0 on, are executed."""
    file.write_bytes(b"".join(map(_COUNT.pack, counts)))
