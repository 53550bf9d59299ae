"""The state machines of a simulated group: a journal and a register, both watched.

Each is wrapped so that the witness sees every call, and so that a durable one keeps what it executed
over a restart, as a machine with a database of its own does: atomically, in `commit`.
"""

from __future__ import annotations

from typing import Any, Protocol

from paxmux.engine.state_machine import StateMachine

JOURNAL = 1
REGISTER = 2
SEPARATOR = b"\x00"

PUT, CAS = b"p", b"c"


class Judge(Protocol):
    """Who watches the calls."""

    def executed(self, instance: int, value: bytes, context: bytes | None) -> None: ...

    def committed(self, instance: int) -> None: ...


class Shelf:
    """What a durable machine leaves behind."""

    __slots__ = ("applied", "state")

    def __init__(self) -> None:
        self.state: Any = None
        self.applied: int | None = None


class Watched(StateMachine):
    """What both machines have in common."""

    def __init__(self, group: int, judge: Judge, shelf: Shelf | None) -> None:
        super().__init__(group)
        self._judge = judge
        self._shelf = shelf
        if shelf is not None and shelf.state is not None:
            self.restore(shelf.state)

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        self._judge.executed(instance_id, value, context)
        return self.apply(instance_id, value, context)

    def commit(self, instance_id: int) -> None:
        self._judge.committed(instance_id)
        if self._shelf is not None:
            self._shelf.state, self._shelf.applied = self.state(), instance_id

    def applied_instance_id(self) -> int | None:
        return None if self._shelf is None else self._shelf.applied

    def apply(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        """Execute a value."""
        raise NotImplementedError

    def state(self) -> Any:
        """A copy of everything, which compares."""
        raise NotImplementedError

    def restore(self, state: Any) -> None:
        """Go on from a copy."""
        raise NotImplementedError


class Journal(Watched):
    """Remembers everything it executed."""

    smid = JOURNAL

    def __init__(self, group: int, judge: Judge, shelf: Shelf | None) -> None:
        self.seen: list[tuple[int, bytes]] = []
        super().__init__(group, judge, shelf)

    def apply(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        self.seen.append((instance_id, value))
        return (context or b"") + value

    def query(self, request: bytes) -> bytes:
        """How many values it has."""
        return b"%d" % len(self.seen)

    def state(self) -> list[tuple[int, bytes]]:
        return list(self.seen)

    def restore(self, state: list[tuple[int, bytes]]) -> None:
        self.seen = list(state)


class Register(Watched):
    """Keys with a value each; `put` overwrites, `cas` only what it expects. Empty is no value."""

    smid = REGISTER

    def __init__(self, group: int, judge: Judge, shelf: Shelf | None) -> None:
        self.values: dict[bytes, bytes] = {}
        super().__init__(group, judge, shelf)

    def apply(self, instance_id: int, value: bytes, context: bytes | None) -> bytes:
        kind, key, expected, new, _ = value.split(SEPARATOR, 4)
        found = self.values.get(key, b"")
        if kind == PUT or found == expected:
            self.values[key] = new
        return found

    def query(self, request: bytes) -> bytes:
        """The value of the key that the request is."""
        return self.values.get(request, b"")

    def state(self) -> dict[bytes, bytes]:
        return dict(self.values)

    def restore(self, state: dict[bytes, bytes]) -> None:
        self.values = dict(state)


def put(key: bytes, new: bytes, tail: bytes = b"") -> bytes:
    """The value that puts `new`; `tail` only makes it longer."""
    return SEPARATOR.join((PUT, key, b"", new, tail))


def cas(key: bytes, expected: bytes, new: bytes) -> bytes:
    """The value that puts `new` where it finds `expected`."""
    return SEPARATOR.join((CAS, key, expected, new, b""))
