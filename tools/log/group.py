"""What is known of one group as its log is read, and what that says about its values.

Which of its values are there is known by instance; of the values themselves only the newest is held.
"""

from __future__ import annotations

from typing import NamedTuple

from paxmux.engine.paxos.ballot import NULL
from paxmux.engine.paxos.value import FIRST, Chain
from paxmux.tools.log.runs import Runs


class Value(NamedTuple):
    """A decided value."""

    group: int
    instance: int
    round: int
    node: int
    value: bytes
    checksum: Chain
    """Its CRC-32: the chain that the next instance's value must have."""


class Held(NamedTuple):
    """A value that nothing but the next chain can confirm."""

    value: Value
    at: int
    checked: bool
    """As of `GroupLog`."""


class System(NamedTuple):
    """A state of a group's inner machines."""

    begin: int
    """From this instance on."""
    size: int
    crc: int
    lost: bool
    """A later one may be lost."""


class GroupLog:
    """One group, as far as the log was read."""

    __slots__ = (
        "accepted",
        "again",
        "at",
        "bytes",
        "chain",
        "checked",
        "checksum",
        "first",
        "held",
        "index",
        "instance",
        "moved",
        "node",
        "promised",
        "records",
        "round",
        "runs",
        "suspect",
        "system",
        "unsure",
        "value",
    )

    def __init__(self, index: int, instance: int) -> None:
        self.index = index
        self.instance = instance
        """The current one: all below it are decided."""
        self.first = 0
        """All below it are forgotten."""
        self.promised = NULL
        self.accepted = NULL
        """Ballot of the last accept at `instance`."""
        self.value: bytes | None = None
        """The last value at `instance`."""
        self.checksum: Chain = FIRST
        self.round = self.node = 0
        """Of the ballot that it is recorded with."""
        self.at = 0
        """Where."""
        self.checked = False
        """Its chain was compared with the value before."""
        self.suspect = False
        """Promises of it may be lost."""
        self.system: System | None = None
        """The last one that is here."""
        self.unsure = False
        """A newer value may have been lost."""
        self.held: Held | None = None
        """Of the instance before."""
        self.chain: Chain | None = FIRST if instance == 0 else None
        """What the value at `instance` must have; None: not known."""
        self.runs = Runs()
        """Decided instances whose value is here."""
        self.again: tuple[int, Chain] | None = None
        """Instance and checksum of the last value that was here twice."""
        self.moved = 0
        """Value records that the log appended again, to make room."""
        self.records = 0
        self.bytes = 0

    @property
    def values(self) -> int:
        """Decided instances, not forgotten, whose value is here."""
        return self.runs.count(self.first, self.instance)

    @property
    def missing(self) -> int:
        """Decided instances whose value should be here and is not."""
        return max(0, self.instance - self.first) - self.values

    @property
    def forgotten(self) -> int:
        """Forgotten instances whose value is still here."""
        return self.runs.count(0, self.first)

    @property
    def unchecked(self) -> int:
        """Values whose chain cannot be checked: the one before is not here."""
        return self.runs.beginnings(self.first) + (self.value is not None and not self.checked)

    @property
    def first_value(self) -> int | None:
        """The lowest instance, not forgotten, with a value."""
        open_instance = self.instance if self.value is not None else None
        lowest = self.runs.lowest(self.first)
        return lowest if lowest is not None else open_instance

    @property
    def last_value(self) -> int | None:
        """The highest instance, not forgotten, with a value."""
        if self.value is not None:
            return self.instance
        highest = self.runs.highest()
        return highest if highest is not None and highest >= self.first else None
