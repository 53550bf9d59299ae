"""What a log says about its groups, record by record: where each stands, and what is decided.

An instance is decided here once its group has gone past it (`HardState.instance`), and its value is then
the last one recorded for it. So values come out one instance late, in the order in which they were
decided, and only the newest value of each group is held: memory does not grow with the log.

A log that makes room appends values again that it removes with an old segment. Such a value comes out
where it is met, unless it has come out before: each once, those that were moved behind later ones.

After damage nobody knows whether a newer value was recorded for a group's current instance. What is held
then counts only if the next instance's value vouches for it by its chain.

It checks on the way what a log can be held to: promises and instances never go back, one value for each
ballot, and a chain that is never broken.
"""

from __future__ import annotations

from paxmux.engine.checksum import crc32
from paxmux.engine.paxos.ballot import NULL, Ballot
from paxmux.engine.paxos.value import Chain, chain_after, chain_in
from paxmux.plugins.storage.record import (
    ACCEPT,
    CARRIED,
    CLEARED,
    DECIDED,
    DOUBT,
    FORGOTTEN,
    HARD_STATE,
    LEARNED,
    OPENING,
    OPENS_SEGMENT,
    PROMISE,
    RECORD_BYTES,
    RELEASED,
    SUSPECT,
    SYSTEM,
    UPKEEP,
)
from paxmux.plugins.storage.scan import Batch
from paxmux.tools.log.fault import Fault, ballot_text, chain_text
from paxmux.tools.log.group import GroupLog, Held, System, Value
from paxmux.tools.log.runs import Broken


class Groups:
    """All groups of one log."""

    def __init__(self, *, from_start: bool = True) -> None:
        """`from_start`: nothing before the first segment read is kept back from it."""
        self.groups: dict[int, GroupLog] = {}
        self.faults: list[Fault] = []
        """Taken out by whoever looks at them."""
        self._whole = from_start
        self.doubt = False
        """Promises may be lost, also of groups that nothing is known of."""
        self._skipped = False
        """Segments were left out; what the groups are is not known before the next one says."""

    def damaged(self) -> None:
        """Something was lost between the records so far and the next ones."""
        self._whole = False
        for group in self.groups.values():
            group.unsure = group.value is not None

    def _distrust(self) -> None:
        """The log says that before this place something was lost that may have been a promise, now or at an
        earlier start; then groups that are not suspect follow."""
        self.doubt = True
        self.damaged()
        for group in self.groups.values():
            group.suspect = True

    def skipped(self) -> None:
        """The next segment to be read is not the next one of the log: it tells where all groups stand."""
        self._whole = False
        self._skipped = True
        for group in self.groups.values():
            group.value = group.held = None

    def take(self, batch: Batch) -> list[Value]:
        """Take in the next records; returns the values that are now known to be decided."""
        out: list[Value] = []
        opens = bool(batch.flags & OPENS_SEGMENT)
        upkeep = bool(batch.flags & UPKEEP)
        for (kind, index, instance, round_, node, value), at in zip(
            batch.records, batch.positions, strict=True
        ):
            if kind == OPENING:
                continue
            if kind == DOUBT:
                self._distrust()
                continue
            if kind == RELEASED:
                # If it comes back, that is another life.
                self.groups.pop(index, None)
                out = [each for each in out if each.group != index]
                continue
            group = self.groups.get(index)
            if group is None:
                # Where a segment opens with it, the older ones are gone: what they said is said again.
                group = self.groups[index] = GroupLog(index, instance if opens else 0)
                group.suspect = self.doubt
                if opens and self._whole:
                    self._fault(group, instance, at, "the segment begins with a group that was not there")
            group.records += 1
            group.bytes += RECORD_BYTES + len(value)
            if upkeep and kind in (ACCEPT, LEARNED):
                self._moved(group, kind, instance, (round_, node), value, at, out)
            elif kind == ACCEPT:
                if opens:
                    self._copied(group, instance, (round_, node), value, at, out, "the segment begins with")
                else:
                    self._accept(group, instance, (round_, node), value, at, out)
            elif kind == LEARNED:
                self._learned(group, instance, (round_, node), value, at, out)
            elif kind == DECIDED:
                self._advance(group, instance + 1, out)
            elif kind == CLEARED:
                self._vote(group, instance, (round_, node), at, out)
                group.suspect = False
            elif kind == SUSPECT:
                group.suspect = True
            elif kind == SYSTEM:
                self._system(group, System(instance, len(value), crc32(value), round_ != 0), at, opens)
            elif kind == PROMISE:
                self._vote(group, instance, (round_, node), at, out)
            elif kind == HARD_STATE:
                self._carried(group, instance, (round_, node), value, at, out)
            elif kind == FORGOTTEN:
                self._forget(group, instance, at)
            else:
                self._fault(group, instance, at, f"record of unknown kind {kind}")
        if opens:
            self._opened(batch)
        return out

    def _opened(self, batch: Batch) -> None:
        """A new segment has begun: nothing that was known may be left out."""
        left_out = self.groups.keys() - {record[1] for record in batch.records if record[0] == HARD_STATE}
        for index in left_out:
            group = self.groups[index]
            if self._skipped:
                # It was released meanwhile.
                del self.groups[index]
            elif self._whole:
                self._fault(group, group.instance, batch.positions[0], "the segment begins without it")
        with_system = {record[1] for record in batch.records if record[0] == SYSTEM}
        for index in self.groups.keys() - with_system:
            group = self.groups[index]
            if group.system is not None and self._whole:
                words = "the segment begins without the state of its inner machines"
                self._fault(group, group.instance, batch.positions[0], words)
            group.system = None
        self._whole = True
        self._skipped = False

    def _system(self, group: GroupLog, system: System, at: int, opens: bool) -> None:
        """The state of the inner machines, or the same again where a segment opens."""
        if opens and self._whole and system != group.system:
            words = "the segment begins with another state of its inner machines than was recorded"
            self._fault(group, system.begin, at, words)
        group.system = system

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
        self._put(group, instance, ballot, value, checksum, at, out)

    def _learned(
        self, group: GroupLog, instance: int, ballot: Ballot, value: bytes, at: int, out: list[Value]
    ) -> None:
        if instance >= group.instance:
            self._advance(group, instance, out)
            self._put(group, instance, ballot, value, chain_after(value), at, out)
            self._advance(group, instance + 1, out)
        else:
            # It was lost, and a peer had it; what is here may have been too damaged for its node.
            self._late(group, instance, ballot, value, at, out)

    def _copied(
        self,
        group: GroupLog,
        instance: int,
        ballot: Ballot,
        value: bytes,
        at: int,
        out: list[Value],
        how: str,
    ) -> None:
        """An accept that the log has written again: nothing new, unless what it copies is not here."""
        checksum = chain_after(value)
        known = group.value is not None and not group.unsure and instance == group.instance
        if known and (group.accepted, group.checksum) != (ballot, checksum):
            self._fault(group, instance, at, f"{how} another value than was accepted")
        if known:
            return
        if self._whole and (instance, ballot) != (group.instance, group.accepted):
            self._fault(group, instance, at, f"{how} a value that was never accepted")
        if instance >= group.instance:
            self._advance(group, instance, out)
            group.accepted = ballot
            self._put(group, instance, ballot, value, checksum, at, out)

    def _moved(
        self,
        group: GroupLog,
        kind: int,
        instance: int,
        ballot: Ballot,
        value: bytes,
        at: int,
        out: list[Value],
    ) -> None:
        """A value that the log appends again, since the segment that it was in is to be removed."""
        group.moved += 1
        if instance < group.instance:
            self._late(group, instance, ballot, value, at, out)
        elif kind == ACCEPT:
            self._copied(group, instance, ballot, value, at, out, "what was moved is")
        else:
            if self._whole:
                words = f"moved as decided, while it stood at {group.instance}"
                self._fault(group, instance, at, words)
            self._learned(group, instance, ballot, value, at, out)

    def _late(
        self, group: GroupLog, instance: int, ballot: Ballot, value: bytes, at: int, out: list[Value]
    ) -> None:
        """The value of an instance that the group has gone past."""
        chain, checksum = chain_in(value), chain_after(value)
        if instance in group.runs:
            # Where it comes in the order of instances, as it does if nothing is wrong, the chain is checked.
            same = group.runs.checksum(instance)
            if group.again is not None and group.again[0] == instance - 1 and group.again[1] != chain:
                self._unlinked(group, Broken(instance, chain, group.again[1]), at)
            if same is not None and same != checksum:
                words = f"its checksum is {chain_text(checksum)}, and {chain_text(same)} elsewhere in the log"
                self._fault(group, instance, at, words)
            group.again = (instance, checksum)
            return
        if group.held is not None and group.held.value.instance == instance:
            group.held = None
        late = Value(group.index, instance, *ballot, value, checksum)
        self._decided(group, late, at, False, out)

    def _forget(self, group: GroupLog, first: int, at: int) -> None:
        """Nothing below `first` is needed any more."""
        if first > group.instance and self._whole:
            words = f"what is below is forgotten, while it stood at {group.instance}"
            self._fault(group, first, at, words)
        group.first = max(group.first, first)

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
        ballot: Ballot,
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
            if claimed == held.value.checksum:
                group.chain = held.value.checksum
                self._decided(group, held.value, held.at, held.checked, out)
        if group.chain is None:
            # The value before may have come late.
            group.chain = group.runs.checksum(instance - 1)
        group.checked = group.chain is not None
        if group.chain is not None and claimed != group.chain:
            self._unlinked(group, Broken(instance, claimed, group.chain), at)
        group.value = value
        group.checksum = checksum
        group.round, group.node = ballot
        group.at = at
        group.unsure = False

    def _advance(self, group: GroupLog, instance: int, out: list[Value]) -> None:
        """The group stands at `instance`."""
        before = group.instance
        if instance <= before:
            return
        group.held = None
        group.chain = None
        value = group.value
        if value is not None:
            decided = Value(group.index, before, group.round, group.node, value, group.checksum)
            follows = instance == before + 1
            if not group.unsure:
                group.chain = group.checksum if follows else None
                self._decided(group, decided, group.at, group.checked, out)
            elif follows:
                group.held = Held(decided, group.at, group.checked)
        group.instance = instance
        group.accepted = NULL
        group.value = None
        group.unsure = False

    def _decided(self, group: GroupLog, value: Value, at: int, checked: bool, out: list[Value]) -> None:
        """A decided value that has not come out before. `checked`: its chain was."""
        broken = group.runs.add(value.instance, chain_in(value.value), value.checksum)
        for each in broken:
            if not checked or each.instance != value.instance:
                self._unlinked(group, each, at)
        if value.instance >= group.first:
            out.append(value)

    def _unlinked(self, group: GroupLog, broken: Broken, at: int) -> None:
        instance, chain, checksum = broken
        words = f"its chain is {chain_text(chain)}, the checksum before it {chain_text(checksum)}"
        self._fault(group, instance, at, words)

    def _fault(self, group: GroupLog, instance: int, at: int, words: str) -> None:
        self.faults.append(Fault(group.index, instance, at, words))
