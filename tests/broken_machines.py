"""State machines that cannot be built, each in its own way. Workers of tests load them by name."""

from __future__ import annotations

from paxmux.engine.state_machine import StateMachine


class Raises(StateMachine):
    smid = 1

    def __init__(self, group: int) -> None:
        raise KeyError(f"no table for group {group}")


class Exits(StateMachine):
    smid = 1

    def __init__(self, group: int) -> None:
        raise SystemExit(0)


class Surrogate(StateMachine):
    smid = 1

    def __init__(self, group: int) -> None:
        raise OSError("no such file: \udcff")


class Confused(StateMachine):
    smid = 1

    def applied_instance_id(self) -> int | None:
        return -7
