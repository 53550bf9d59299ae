"""What one machine is told to execute, in one life: each chosen value once, in order, none left out.

Values are compared with what the witness knows to be chosen; nothing is asked of the code under test.
"""

from __future__ import annotations

from paxmux.engine.fence import FENCED, split
from paxmux.engine.paxos.value import Entry
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.witness import Witness


class Execution:
    """The calls of one machine of one group on one node."""

    def __init__(
        self, witness: Witness, node: int, incarnation: int, group: int, smid: int, first: int
    ) -> None:
        """`first`: the machine has everything below this instance."""
        self._witness = witness
        self._node = node
        self._incarnation = incarnation
        self._group = group
        self._smid = smid
        self._instance = first
        self._due: list[Entry] | None = None
        self._next = 0
        self._touched = False

    def executed(self, instance: int, value: bytes, context: bytes | None) -> None:
        """The machine gets a value."""
        try:
            self._executed(instance, value, context)
        except Breach as breach:
            # Whoever called takes it for a failure of the machine, and goes on.
            self._witness.swallowed = breach
            raise

    def committed(self, instance: int) -> None:
        """The machine is told that an instance is complete."""
        try:
            self._committed(instance)
        except Breach as breach:
            self._witness.swallowed = breach
            raise

    def _executed(self, instance: int, value: bytes, context: bytes | None) -> None:
        self._move(instance)
        if self._due is None or self._next >= len(self._due):
            raise Breach("execute what is chosen", f"{self._where()}: {value!r} is one more than was decided")
        entry = self._due[self._next]
        self._next += 1
        if entry[5] != value:
            raise Breach("execute what is chosen", f"{self._where()}: {value!r}, chosen was {entry[5]!r}")
        if context is not None and entry[:2] != (self._node, self._incarnation):
            raise Breach("results for the right life", f"{self._where()}: the context of another's proposal")
        self._touched = True

    def _committed(self, instance: int) -> None:
        if instance != self._instance:
            raise Breach("commit after the last value", f"{self._where()}: commit of {instance}")
        if not self._touched:
            raise Breach("commit after the last value", f"{self._where()}: without a value, or twice")
        if self._due is not None and self._next < len(self._due):
            raise Breach("commit after the last value", f"{self._where()}: commit before the last value")
        self._touched = False

    def _where(self) -> str:
        return f"node {self._node}, group {self._group}, machine {self._smid}, instance {self._instance}"

    def _move(self, instance: int) -> None:
        """To an instance, over those that have nothing for this machine."""
        if self._due is not None and instance == self._instance:
            return
        if instance < self._instance:
            raise Breach("execute in order", f"{self._where()}: {instance} comes after it")
        if self._due is None:
            self._due = self._entries()
        while self._instance < instance:
            if self._next < len(self._due):
                raise Breach("execute what is chosen", f"{self._where()}: {self._due[self._next]!r} left out")
            if self._touched:
                raise Breach("commit after the last value", f"{self._where()}: no commit")
            self._instance += 1
            self._due = self._entries()
            self._next = 0

    def _entries(self) -> list[Entry]:
        """What this machine has to execute in the instance; it must be chosen, and durable here."""
        self._witness.known(self._group, self._instance)
        entries = self._witness.entries.get((self._group, self._instance))
        if entries is None:
            raise Breach("execute what is chosen", f"{self._where()}: nothing is chosen")
        held = self._witness.disks[self._node].last.get((self._group, self._instance))
        if held != self._witness.chosen[self._group, self._instance]:
            raise Breach("nothing before its sync", f"{self._where()}: executed before it is durable here")
        due: list[Entry] = []
        term = self._witness.constitution(self._group).term(self._instance)
        for entry in entries:
            if entry[4] == self._smid:
                due.append(entry)
            elif entry[4] == self._smid + FENCED and (named := split(entry[5]))[0] == term:
                due.append((*entry[:5], named[1]))
        return due
