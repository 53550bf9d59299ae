"""What a log says about its groups, record by record: where each stands, and what is decided.

An instance is decided here once its group has gone past it (`HardState.instance`), and its value is then
the last one recorded for it. So values come out one instance late, in the order in which they were
decided, and only the newest value of each group is held: memory does not grow with the log.

After damage nobody knows whether a newer value was recorded for a group's current instance. What is held
then counts only if the next instance's value vouches for it by its chain.

It checks on the way what a log can be held to: promises and instances never go back, one value for each
ballot, and a chain that is never broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from paxmux.engine.address import node_text
from paxmux.engine.paxos.ballot import NULL, Ballot
from paxmux.engine.paxos.value import FIRST, Chain, chain_after, chain_in
from paxmux.plugins.storage.record import (
    ACCEPT,
    CARRIED,
    DECIDED,
    FORGOTTEN,
    HARD_STATE,
    LEARNED,
    OFFSET_BITS,
    OFFSET_MASK,
    OPENING,
    OPENS_SEGMENT,
    PROMISE,
    RECORD_BYTES,
    RELEASED,
)
from paxmux.plugins.storage.scan import Batch


class Value(NamedTuple):
    """A decided value."""

    group: int
    instance: int
    round: int
    node: int
    value: bytes
    checksum: Chain
    """Its CRC-32: the chain that the next instance's value must have."""


class Fault(NamedTuple):
    """Records that are intact and contradict each other, or the protocol."""

    group: int
    instance: int
    at: int
    """Position of the record that shows it."""
    words: str

    def text(self) -> str:
        """In one line."""
        place = f"segment {self.at >> OFFSET_BITS}, offset {self.at & OFFSET_MASK}"
        return f"group {self.group}, instance {self.instance}: {self.words} ({place})"


class GroupLog:
    """One group, as far as the log was read."""

    __slots__ = (
        "accepted",
        "bytes",
        "chain",
        "checksum",
        "first",
        "held",
        "index",
        "instance",
        "last",
        "missing",
        "node",
        "promised",
        "records",
        "round",
        "skipped",
        "unsure",
        "value",
        "values",
    )

    def __init__(self, index: int, instance: int) -> None:
        self.index = index
        self.instance = instance
        """The current one: all below it are decided."""
        self.promised = NULL
        self.accepted = NULL
        """Ballot of the last accept at `instance`."""
        self.value: bytes | None = None
        """The last value at `instance`."""
        self.checksum: Chain = FIRST
        self.round = self.node = 0
        """Of the ballot that it is recorded with."""
        self.unsure = False
        """A newer value may have been lost."""
        self.skipped = False
        """Segments were left out; where it stands is not known before the next one says."""
        self.held: Value | None = None
        """The value one instance before, which nothing but the next chain can confirm."""
        self.chain: Chain | None = FIRST if instance == 0 else None
        """What the value at `instance` must have; None: not known."""
        self.first: int | None = None
        self.last: int | None = None
        """Instances with a value."""
        self.values = 0
        """Decided instances whose value is here."""
        self.missing = 0
        """Decided instances whose value should be here and is not."""
        self.records = 0
        self.bytes = 0


class Groups:
    """All groups of one log."""

    def __init__(self, *, from_start: bool = True) -> None:
        """`from_start`: nothing before the first segment read is kept back from it."""
        self.groups: dict[int, GroupLog] = {}
        self.faults: list[Fault] = []
        """Taken out by whoever looks at them."""
        self.unchecked = 0
        """Values whose chain could not be checked: the one before is not here."""
        self._whole = from_start

    def damaged(self) -> None:
        """Something was lost between the records so far and the next ones."""
        self._whole = False
        for group in self.groups.values():
            group.unsure = group.value is not None

    def skipped(self) -> None:
        """The next segment to be read is not the next one of the log: it tells where all groups stand."""
        self._whole = False
        for group in self.groups.values():
            group.value = group.held = None
            group.skipped = True

    def take(self, batch: Batch) -> list[Value]:
        """Take in the next records; returns the values that are now known to be decided."""
        out: list[Value] = []
        opens = bool(batch.flags & OPENS_SEGMENT)
        for (kind, index, instance, round_, node, value), at in zip(
            batch.records, batch.positions, strict=True
        ):
            if kind == OPENING:
                continue
            if kind == RELEASED:
                # What comes of it after this is another stay.
                self.groups.pop(index, None)
                continue
            group = self.groups.get(index)
            if group is None:
                # Where a segment opens with it, the older ones are gone: what they said is said again.
                group = self.groups[index] = GroupLog(index, instance if opens else 0)
                if opens and self._whole:
                    self._fault(group, instance, at, "the segment begins with a group that was not there")
            group.records += 1
            group.bytes += RECORD_BYTES + len(value)
            if kind == ACCEPT:
                if opens:
                    self._copied(group, instance, (round_, node), value, at, out)
                else:
                    self._accept(group, instance, (round_, node), value, at, out)
            elif kind == LEARNED:
                if instance < group.instance:
                    self._fault(group, instance, at, f"learned again, while it stood at {group.instance}")
                    continue
                self._advance(group, instance, out)
                self._put(group, instance, round_, node, value, chain_after(value), at, out)
                self._advance(group, instance + 1, out)
            elif kind == DECIDED:
                self._advance(group, instance + 1, out)
            elif kind == PROMISE:
                self._vote(group, instance, (round_, node), at, out)
            elif kind == HARD_STATE:
                self._carried(group, instance, (round_, node), value, at, out)
            elif kind != FORGOTTEN:
                self._fault(group, instance, at, f"record of unknown kind {kind}")
        if opens:
            self._opened(batch)
        return out

    def _opened(self, batch: Batch) -> None:
        """A new segment has begun: nothing that was known may be left out."""
        if self._whole:
            for index in self.groups.keys() - {
                record[1] for record in batch.records if record[0] == HARD_STATE
            }:
                group = self.groups[index]
                self._fault(group, group.instance, batch.positions[0], "the segment begins without it")
        self._whole = True

    def _vote(self, group: GroupLog, instance: int, ballot: Ballot, at: int, out: list[Value]) -> None:
        """What a promise and an accept have in common."""
        if instance < group.instance:
            self._fault(group, instance, at, f"a vote, while it stood at instance {group.instance}")
        else:
            self._advance(group, instance, out)
        if ballot < group.promised:
            words = f"ballot {ballot_text(ballot)}, though {ballot_text(group.promised)} was promised before"
            self._fault(group, instance, at, words)
        else:
            group.promised = ballot

    def _accept(
        self, group: GroupLog, instance: int, ballot: Ballot, value: bytes, at: int, out: list[Value]
    ) -> None:
        self._vote(group, instance, ballot, at, out)
        if instance != group.instance:
            return
        checksum = chain_after(value)
        if group.accepted == ballot and group.value is not None and group.checksum != checksum:
            self._fault(group, instance, at, f"a second value under ballot {ballot_text(ballot)}")
        group.accepted = ballot
        self._put(group, instance, *ballot, value, checksum, at, out)

    def _copied(
        self, group: GroupLog, instance: int, ballot: Ballot, value: bytes, at: int, out: list[Value]
    ) -> None:
        """An accept that a new segment begins with: nothing new, unless what it copies was lost."""
        checksum = chain_after(value)
        known = group.value is not None and not group.unsure and instance == group.instance
        if known and (group.accepted, group.checksum) != (ballot, checksum):
            self._fault(group, instance, at, "the segment begins with another value than was accepted")
        if known:
            return
        if self._whole:
            self._fault(group, instance, at, "the segment begins with a value that was never accepted")
        if instance >= group.instance:
            self._advance(group, instance, out)
            group.accepted = ballot
            self._put(group, instance, *ballot, value, checksum, at, out)

    def _carried(
        self, group: GroupLog, instance: int, promised: Ballot, value: bytes, at: int, out: list[Value]
    ) -> None:
        """A hard state that a new segment begins with."""
        older = instance < group.instance or promised < group.promised
        if older or (self._whole and (instance, promised) != (group.instance, group.promised)):
            words = (
                f"the segment begins with promise {ballot_text(promised)}, while the records before"
                f" end at instance {group.instance} with promise {ballot_text(group.promised)}"
            )
            self._fault(group, instance, at, words)
        if older:
            return
        self._advance(group, instance, out)
        group.skipped = False
        group.promised = promised
        if len(value) != CARRIED.size:
            self._fault(group, instance, at, "a hard state that is none")
            return
        accepted_round, accepted_node, _ = CARRIED.unpack(value)
        group.accepted = (accepted_round, accepted_node)

    def _put(
        self,
        group: GroupLog,
        instance: int,
        round_: int,
        node: int,
        value: bytes,
        checksum: Chain,
        at: int,
        out: list[Value],
    ) -> None:
        """A value of the current instance."""
        claimed = chain_in(value)
        held = group.held
        if held is not None:
            group.held = None
            if claimed == held.checksum:
                group.chain = held.checksum
                self._decided(group, held, out)
            else:
                group.missing += 1
        if group.chain is None:
            self.unchecked += 1
        elif claimed != group.chain:
            words = f"its chain is {chain_text(claimed)}, the checksum before it {chain_text(group.chain)}"
            self._fault(group, instance, at, words)
        if group.value is None:
            if group.first is None:
                group.first = instance
            group.last = instance
        group.value = value
        group.checksum = checksum
        group.round = round_
        group.node = node
        group.unsure = False

    def _advance(self, group: GroupLog, instance: int, out: list[Value]) -> None:
        """The group stands at `instance`."""
        before = group.instance
        if instance <= before:
            return
        if group.skipped:
            group.skipped = False
            group.instance = instance
            group.accepted = NULL
            group.chain = None
            return
        group.missing += instance - before - 1
        if group.held is not None:
            group.held = None
            group.missing += 1
        group.chain = None
        value = group.value
        if value is None:
            group.missing += 1
        else:
            decided = Value(group.index, before, group.round, group.node, value, group.checksum)
            follows = instance == before + 1
            if not group.unsure:
                group.chain = group.checksum if follows else None
                self._decided(group, decided, out)
            elif follows:
                group.held = decided
            else:
                group.missing += 1
        group.instance = instance
        group.accepted = NULL
        group.value = None
        group.unsure = False

    def _decided(self, group: GroupLog, value: Value, out: list[Value]) -> None:
        group.values += 1
        out.append(value)

    def _fault(self, group: GroupLog, instance: int, at: int, words: str) -> None:
        self.faults.append(Fault(group.index, instance, at, words))


def ballot_text(ballot: Sequence[int]) -> str:
    """`round@node`; `-` for none."""
    round_, node = ballot
    return f"{round_}@{node_text(node)}" if (round_, node) != NULL else "-"


def chain_text(chain: Chain) -> str:
    """A checksum or chain as eight hexadecimal digits; `-` for one that no value has."""
    return f"{int.from_bytes(chain, 'little'):08x}" if len(chain) == len(FIRST) else "-"
