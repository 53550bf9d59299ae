"""What the disks of a cluster say, record by record: who votes for what, and what is chosen by that.

A value is chosen once a majority of the members of its instance hold it under one ballot; who these are is
worked out from what is chosen below. Asks no protocol object for its opinion. What is wrong is a `Breach`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import ACCEPT, CLEARED, LEARNED, PROMISE, SYSTEM
from paxmux.engine.paxos.system import MASTER_SMID, MEMBERSHIP_SMID, decode_reign_op, decode_state
from paxmux.engine.storage import HardState, Record
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.constitution import Constitution, Era

CLUSTER = 77

Ballot = tuple[int, int]
Identity = tuple[int, int, int]
"""(origin, incarnation, seq) of a proposal."""
Place = tuple[int, int, int]
"""(group, instance, position) of a decided entry."""
NULL: Ballot = (0, 0)


class Batches(Protocol):
    """A disk, as the witness sees it."""

    @property
    def batches(self) -> Sequence[Sequence[Record]]:
        """Everything that was appended and not lost."""
        ...

    @property
    def synced(self) -> int:
        """So many of them are durable."""
        ...


class Disk:
    """What one node's disks say, record by record."""

    def __init__(self, seat: int) -> None:
        self.seat = seat
        self.read: dict[int, int] = {}
        """Worker -> batches of its log that were read."""
        self.promised: dict[int, Ballot] = {}
        self.ballots: set[tuple[int, Ballot]] = set()
        """(group, ballot) of every promise and accept."""
        self.instance: dict[int, int] = {}
        self.accepts: dict[tuple[int, int], dict[Ballot, bytes]] = {}
        """(group, instance) -> every value accepted there, in the order of the log."""
        self.last: dict[tuple[int, int], bytes] = {}
        """(group, instance) -> the newest value: what `Log.read` gives."""
        self.last_ballot: dict[tuple[int, int], Ballot] = {}
        """The ballot that it was accepted under; NULL if it was learned."""
        self.voted: dict[int, int] = {}
        """Group -> the highest instance in which it accepted anything."""
        self.suspect: set[int] = set()
        """Groups that may have lost promises, and know it."""
        self.vowed: dict[int, Ballot] = {}
        """Group -> the highest ballot of another that was ever promised, whatever was lost since."""
        self.system: dict[int, tuple[int, bytes]] = {}
        """Group -> (instance, state) of the newest record of its members and its master."""
        self.system_lost: set[int] = set()
        """Groups of which a newer one may be lost."""


class Records:
    """Of all disks of one cluster."""

    def __init__(self, seats: Mapping[int, int], founders: Mapping[int, int] | None = None) -> None:
        """`seats`: of all nodes; `founders`: of those that found the cluster, if not all do."""
        self._founders = dict(seats if founders is None else founders)
        self.constitutions: dict[int, Constitution] = {}
        self.busy_to: dict[int, int] = {}
        """Group -> the first instance from which on nothing but leases is decided."""
        self.wished: set[bytes] = set()
        """Every change of members that was ever asked for, as an operation."""
        self.damaged: set[int] = set()
        """Nodes with a wrong bit on disk or in memory, whose groups may find that out."""
        self.disks = {node: Disk(seat) for node, seat in seats.items()}
        self.chosen: dict[tuple[int, int], bytes] = {}
        """(group, instance) -> the value that a majority of disks holds under one ballot."""
        self.entries: dict[tuple[int, int], list[values.Entry]] = {}
        """(group, instance) -> what is chosen there, entry by entry."""
        self.decided_as: dict[Identity, Place] = {}
        """Identity -> where it is decided."""
        self.proposed: dict[Identity, tuple[int, int, bytes]] = {}
        """Identity -> (group, state machine, payload) of every proposal that was ever made."""
        self.swallowed: Breach | None = None
        """One that was raised within a machine's call, where production code catches everything."""
        self.voters: dict[tuple[int, int, Ballot], set[int]] = {}
        self.ghosts: dict[tuple[int, int, Ballot], set[int]] = {}
        """Voters whose vote is lost, with what it told still under way to whoever asked for it: it counts as
        long as that one lives, and is known to have counted only by what follows."""
        self.value_of: dict[tuple[int, int, Ballot], bytes] = {}
        """What was accepted or asked for under a ballot, by whomever."""

    def constitution(self, group: int) -> Constitution:
        """What the log of a group says of its members and its master, as far as it is chosen."""
        found = self.constitutions.get(group)
        if found is None:
            found = self.constitutions[group] = Constitution(self._founders, CLUSTER)
        return found

    def seated(self, node: int, group: int, instance: int) -> bool:
        """Whether a node's disk is in the seat of a member that decides an instance."""
        return self.constitution(group).era(instance).seats.get(node) == self.disks[node].seat

    def era(self, group: int, instance: int) -> Era:
        if instance:
            self.known(group, instance - 1)
        return self.constitution(group).era(instance)

    def wins(self, group: int, instance: int, voters: Collection[int]) -> bool:
        era = self.constitution(group).era(instance)
        return len([node for node in voters if node in era.seats]) >= era.majority

    # Disks

    def synced(self, node: int, worker: int, disk: Batches) -> None:
        """Read what has become durable."""
        mine = self.disks[node]
        end = disk.synced
        begin = mine.read.get(worker, 0)
        if begin == end:
            return
        for batch in disk.batches[begin:end]:
            for kind, group, instance, round, voter, value in batch:
                if kind in (PROMISE, ACCEPT):
                    self._vote(node, mine, kind, group, instance, (round, voter), value)
                elif kind == CLEARED:
                    self._cleared(node, mine, group, instance, (round, voter))
                elif kind == SYSTEM:
                    self._system(node, mine, group, instance, value)
                elif kind == LEARNED:
                    current = mine.instance.get(group, 0)
                    if instance < current:
                        self._mended(node, mine, group, instance, value)
                        continue
                    self._pass(node, mine, group, instance)
                    mine.last[group, instance] = value
                    mine.last_ballot[group, instance] = NULL
                    self._pass(node, mine, group, instance + 1)
                else:
                    self._pass(node, mine, group, instance + 1)
        mine.read[worker] = end

    def recovered(self, node: int, group: int, state: HardState) -> None:
        """A worker has read its log: it must know what is durable, no more and no less."""
        disk = self.disks[node]
        instance = disk.instance.get(group, 0)
        ballot = disk.last_ballot.get((group, instance), NULL)
        value = disk.last[group, instance] if ballot != NULL else b""
        since, system = disk.system.get(group, (0, b""))
        durable = HardState(
            instance, disk.promised.get(group, NULL), ballot, value, system=system, system_from=since
        )
        self._end_life(node, group)
        if node in self.damaged:
            if state.system_lost:
                self._system_lost(node, disk, group, state)
                durable = durable._replace(
                    system=state.system, system_from=state.system_from, system_lost=True
                )
            elif state.system != system:
                raise Breach("recovery", f"node {node}, group {group}: read {state}, durable is {durable}")
            if state.suspect:
                self._doubts(node, disk, group, state, durable)
                return
            if state.lost:
                durable = durable._replace(value=b"", lost=True)
        if state != durable or group in disk.suspect:
            raise Breach("recovery", f"node {node}, group {group}: read {state}, durable is {durable}")

    def _system(self, node: int, disk: Disk, group: int, instance: int, value: bytes) -> None:
        """The log says who the members are from an instance on, and who is master."""
        constitution = self.constitution(group)
        if instance:
            self.known(group, instance - 1)
        if not constitution.says(decode_state(value), instance):
            words = f"node {node}, group {group}: from {instance} on {decode_state(value)}"
            raise Breach("the log names the members", words)
        disk.system[group] = instance, value
        disk.system_lost.discard(group)

    def _system_lost(self, node: int, disk: Disk, group: int, state: HardState) -> None:
        """What is left of such records must have been one."""
        since, value = state.system_from, state.system
        whole = self.constitution(group).says(decode_state(value), since) if value else not since
        if not whole:
            raise Breach("recovery", f"node {node}, group {group}: the members from {since} on: {value!r}")
        disk.system[group] = since, value
        disk.system_lost.add(group)

    def _end_life(self, node: int, group: int) -> None:
        """Nobody counts any more what was sent to an earlier life of a node."""
        for key in [key for key in self.ghosts if key[0] == group and key[2][1] == node]:
            del self.ghosts[key]

    def _doubts(self, node: int, disk: Disk, group: int, state: HardState, durable: HardState) -> None:
        """A group may have lost anything: what is left of it is what counts from now on."""
        if state.promised > durable.promised or state.instance > durable.instance:
            raise Breach("recovery", f"node {node}, group {group}: read {state}, durable is {durable}")
        disk.suspect.add(group)
        kept = (group, state.instance, state.accepted)
        for key, voters in self.voters.items():
            if key[0] == group and node in voters and key != kept and key[:2] not in self.chosen:
                voters.remove(node)
                self.ghosts.setdefault(key, set()).add(node)
        held = disk.accepts.get(kept[:2], {})
        for place in [place for place in disk.accepts if place[0] == group]:
            del disk.accepts[place]
        disk.instance[group], disk.promised[group] = state.instance, state.promised
        disk.voted.pop(group, None)
        if state.accepted != NULL:
            if held.get(state.accepted) != state.value and not state.lost:
                raise Breach("recovery", f"node {node}, group {group}: read {state}, accepted was {held}")
            disk.accepts[kept[:2]] = {state.accepted: held[state.accepted]}
            disk.last[kept[:2]], disk.last_ballot[kept[:2]] = held[state.accepted], state.accepted
            disk.voted[group] = state.instance
        else:
            disk.last_ballot[kept[:2]] = NULL

    def _cleared(self, node: int, disk: Disk, group: int, instance: int, ballot: Ballot) -> None:
        """A group that was suspect is not any more."""
        self._pass(node, disk, group, instance)
        if group not in disk.suspect:
            raise Breach("recovery", f"{where(node, group, instance, ballot)}: was not in doubt")
        promised = max(disk.promised.get(group, NULL), disk.vowed.get(group, NULL))
        if ballot < promised:
            words = f"{where(node, group, instance, ballot)}: {promised} was promised before it was lost"
            raise Breach("promises are kept", words)
        disk.suspect.remove(group)
        disk.promised[group] = ballot
        disk.ballots.add((group, ballot))

    def _mended(self, node: int, disk: Disk, group: int, instance: int, value: bytes) -> None:
        """A value that was lost is written again."""
        if node not in self.damaged:
            current = disk.instance.get(group, 0)
            raise Breach("learn forwards", f"node {node} learned {group}/{instance}, it stood at {current}")
        if self.known(group, instance) != value:
            raise Breach("the log holds what is chosen", f"node {node} mends {group}/{instance}: {value!r}")
        disk.last[group, instance] = value

    def known(self, group: int, instance: int) -> bytes | None:
        """What is chosen, as somebody has just shown to know: votes that were lost since may have counted."""
        if (group, instance) not in self.chosen:
            for key, ghosts in self.ghosts.items():
                voters = self.voters.get(key, set()) | ghosts
                if key[:2] == (group, instance) and self.wins(group, instance, voters):
                    self._choose(min(voters), *key, self.value_of[key])
                    break
        return self.chosen.get((group, instance))

    def wiped(self, node: int, seat: int) -> None:
        """A node lost its disks, and with them its seat: it has another one now."""
        self.disks[node] = Disk(seat)

    def _vote(
        self, node: int, disk: Disk, kind: int, group: int, instance: int, ballot: Ballot, value: bytes
    ) -> None:
        promised = disk.promised.get(group, NULL)
        self.era(group, instance)
        if not self.seated(node, group, instance):
            raise Breach("no vote without a seat", where(node, group, instance, ballot))
        if group in disk.suspect:
            raise Breach("no vote in doubt", where(node, group, instance, ballot))
        if ballot[1] != node:
            disk.vowed[group] = max(disk.vowed.get(group, NULL), ballot)
        self._pass(node, disk, group, instance)
        current = disk.instance.get(group, 0)
        if instance != current:
            words = f"{where(node, group, instance, ballot)}: it stood at {current}"
            raise Breach("vote at the current instance", words)
        named, _ = disk.system.get(group, (0, b""))
        if named < self.constitution(group).changed(instance):
            words = f"{where(node, group, instance, ballot)}: its log names those from {named} on"
            raise Breach("the log names the members", words)
        if kind == PROMISE:
            if ballot <= promised:
                words = f"{where(node, group, instance, ballot)}: {promised} was promised before"
                raise Breach("promises are monotone on disk", words)
        else:
            if ballot < promised:
                words = f"{where(node, group, instance, ballot)}: accepted, though {promised} was promised"
                raise Breach("promises are kept", words)
            accepted = disk.accepts.setdefault((group, instance), {})
            if ballot in accepted:
                raise Breach("one accept for each ballot", where(node, group, instance, ballot))
            accepted[ballot] = disk.last[group, instance] = value
            disk.voted[group] = instance
            disk.last_ballot[group, instance] = ballot
            self.same_value(node, (group, instance, ballot), value)
            voters = self.voters.setdefault((group, instance, ballot), set())
            voters.add(node)
            if self.wins(group, instance, voters):
                self._choose(node, group, instance, ballot, value)
        disk.promised[group] = ballot
        disk.ballots.add((group, ballot))

    def same_value(self, node: int, key: tuple[int, int, Ballot], value: bytes) -> None:
        known = self.value_of.get(key)
        if known is None:
            self.value_of[key] = value
            self._fresh(node, key, value)
        elif known != value:
            raise Breach("one value for each ballot", f"{where(node, *key)}: a second value")

    def _fresh(self, node: int, key: tuple[int, int, Ballot], value: bytes) -> None:
        """Whoever proposes something in an instance knows that it is decided in none below."""
        group, instance, _ = key
        for entry in _proposals(value):
            place = self.decided_as.get(entry[:3])
            if place is not None and place < (group, instance, 0):
                words = f"{where(node, *key)}: {entry[:3]} is decided in {place}"
                raise Breach("proposed while undecided", words)

    def _choose(self, node: int, group: int, instance: int, ballot: Ballot, value: bytes) -> None:
        known = self.chosen.get((group, instance))
        if known is not None:
            if known != value:
                words = f"{where(node, group, instance, ballot)}: chosen {value!r}, but {known!r} was before"
                raise Breach("one value for each instance", words)
            return
        before = self.chosen.get((group, instance - 1))
        chain = values.FIRST if before is None else values.chain_after(before)
        if values.chain_in(value) != chain:
            raise Breach("one history", f"{where(node, group, instance, ballot)}: {value!r} after {before!r}")
        self.chosen[group, instance] = value
        entries = self.entries[group, instance] = values.decode(value)
        inner = values.inner_of(value, entries)
        for entry in inner:
            self._operation(where(node, group, instance, ballot), entry)
        self.constitution(group).take(instance, inner)
        if len(entries) > len(inner) or any(entry[4] == MEMBERSHIP_SMID for entry in inner):
            self.busy_to[group] = instance + 1
        for position, entry in enumerate(entries[len(inner) :]):
            identity, place = entry[:3], (group, instance, position)
            twice = self.decided_as.setdefault(identity, place)
            if twice != place:
                words = f"{where(node, group, instance, ballot)}: {identity} was decided in {twice} too"
                raise Breach("decided once", words)
            made = self.proposed.get(identity)
            if made != (group, entry[4], entry[5]):
                words = f"{where(node, group, instance, ballot)}: {identity} is {entry[4:]!r}, was {made!r}"
                raise Breach("decided as proposed", words)

    def _operation(self, where: str, entry: values.Entry) -> None:
        """An operation of an inner state machine: its origin made it, or somebody asked for it there."""
        origin, incarnation, _, born, smid, payload = entry
        if smid == MEMBERSHIP_SMID:
            made = payload in self.wished
        else:
            op = decode_reign_op(payload) if smid == MASTER_SMID else None
            made = op is not None and op.node == origin
        if incarnation or born or not made:
            raise Breach("decided as proposed", f"{where}: {entry!r}")

    def _pass(self, node: int, disk: Disk, group: int, instance: int) -> None:
        """The disk claims that everything below `instance` is decided, and holds it."""
        current = disk.instance.get(group, 0)
        if instance <= current:
            return
        for passed in range(current, instance):
            chosen = self.known(group, passed)
            if chosen is None:
                words = f"node {node}, group {group}, instance {passed}: left, though nothing is chosen"
                raise Breach("left when chosen", words)
            held = disk.last.get((group, passed))
            if held != chosen:
                words = f"node {node}, group {group}, instance {passed}: {held!r}, chosen is {chosen!r}"
                raise Breach("the log holds what is chosen", words)
        disk.instance[group] = instance


def _proposals(value: bytes) -> list[values.Entry]:
    """The entries of a value that somebody has numbered."""
    entries = values.decode(value)
    return entries[len(values.inner_of(value, entries)) :]


def where(node: int, group: int, instance: int, ballot: Ballot) -> str:
    return f"node {node}, group {group}, instance {instance}, ballot {ballot}"
