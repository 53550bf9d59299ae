"""State machines for moves that do not go smoothly. Workers of tests load them by name."""

from __future__ import annotations

import os
import time
from pathlib import Path

from paxmux.engine.state_machine import StateMachine
from tests.lone_machine import Lone


class SlowToOpen(Lone):
    """Takes a while to be built, once there is a file that says so; with its state locked already."""

    def __init__(self, group: int, folder: str) -> None:
        super().__init__(group, folder)
        try:
            time.sleep(float((Path(folder) / "slow_s").read_text()))
        except FileNotFoundError:
            return


class SlowToExecute(StateMachine):
    """Counts its values; each takes as long as the arguments say."""

    smid = 1

    def __init__(self, group: int, seconds: float) -> None:
        super().__init__(group)
        self._seconds = seconds
        self._count = 0

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        time.sleep(self._seconds)
        self._count += 1
        return b"%d" % self._count

    def query(self, request: bytes) -> bytes:
        return b"%d %d" % (self._count, os.getpid())


class Unsure(Lone):
    """Cannot say how far it is, once there is a file that says so."""

    def __init__(self, group: int, folder: str) -> None:
        super().__init__(group, folder)
        self._unsure = (Path(folder) / "unsure").exists()

    def applied_instance_id(self) -> int | None:
        if self._unsure:
            raise RuntimeError("its table is gone")
        return super().applied_instance_id()
