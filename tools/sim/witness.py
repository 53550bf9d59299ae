"""What must hold in a cluster, judged from outside: by disks, frames and executions alone.

The witness reads every durable record and every frame as it leaves. It works out for itself which
values are chosen (a majority of disks holds them under one ballot) and asks no protocol object for its
opinion, so a mistake in the core cannot talk it round. Whatever is wrong is a `Breach`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, Protocol

from paxmux.engine.frame import HEADER_BYTES, parse_header
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import ACCEPT, LEARNED, PROMISE
from paxmux.engine.paxos.messages import KINDS
from paxmux.engine.storage import HardState, Record
from paxmux.shards.codec import decode_sections
from paxmux.tools.sim.breach import Breach

Ballot = tuple[int, int]
Identity = tuple[int, int, int]
"""(origin, incarnation, seq) of a proposal."""
Place = tuple[int, int, int]
"""(group, instance, position) of a decided entry."""
NULL: Ballot = (0, 0)

_AT = {kind: KINDS.index(kind) for kind in KINDS}


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

    def __init__(self) -> None:
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


class Witness:
    """Judges one cluster."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self.seatless: set[int] = set()
        """Nodes without their seat, which must learn and never vote."""
        self.damaged: set[int] = set()
        """Nodes with a wrong bit on disk or in memory, whose groups may find that out and be fenced."""
        self.disks = {node: Disk() for node in nodes}
        self.majority = len(self.disks) // 2 + 1
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
        self._voters: dict[tuple[int, int, Ballot], set[int]] = {}
        self._value_of: dict[tuple[int, int, Ballot], bytes] = {}
        """What was accepted or asked for under a ballot, by whomever."""
        self._promises: dict[tuple[int, int, Ballot], dict[int, tuple[Ballot, bytes]]] = {}
        """Who has promised, and which value each has told of."""
        self._led_from: dict[tuple[int, Ballot], int] = {}
        """(group, ballot) -> the instance in which a majority promised it."""
        self._last_body: tuple[int, bytes] = (0, b"")
        self._last_parts: Sequence[Sequence[Any]] = ()

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
                elif kind == LEARNED:
                    current = mine.instance.get(group, 0)
                    if instance < current:
                        raise Breach(
                            "learn forwards", f"node {node} learned {group}/{instance}, it stood at {current}"
                        )
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
        durable = HardState(instance, disk.promised.get(group, NULL), ballot, value)
        if state != durable:
            raise Breach("recovery", f"node {node}, group {group}: read {state}, durable is {durable}")

    def wiped(self, node: int) -> None:
        """A node lost its disks, and with them its seat."""
        self.disks[node] = Disk()
        self.seatless.add(node)

    def _vote(
        self, node: int, disk: Disk, kind: int, group: int, instance: int, ballot: Ballot, value: bytes
    ) -> None:
        promised = disk.promised.get(group, NULL)
        if node in self.seatless:
            raise Breach("no vote without a seat", _where(node, group, instance, ballot))
        self._pass(node, disk, group, instance)
        current = disk.instance.get(group, 0)
        if instance != current:
            words = f"{_where(node, group, instance, ballot)}: it stood at {current}"
            raise Breach("vote at the current instance", words)
        if kind == PROMISE:
            if ballot <= promised:
                words = f"{_where(node, group, instance, ballot)}: {promised} was promised before"
                raise Breach("promises are monotone on disk", words)
        else:
            if ballot < promised:
                words = f"{_where(node, group, instance, ballot)}: accepted, though {promised} was promised"
                raise Breach("promises are kept", words)
            accepted = disk.accepts.setdefault((group, instance), {})
            if ballot in accepted:
                raise Breach("one accept for each ballot", _where(node, group, instance, ballot))
            accepted[ballot] = disk.last[group, instance] = value
            disk.voted[group] = instance
            disk.last_ballot[group, instance] = ballot
            self._same_value(node, (group, instance, ballot), value)
            voters = self._voters.setdefault((group, instance, ballot), set())
            voters.add(node)
            if len(voters) == self.majority:
                self._choose(node, group, instance, ballot, value)
        disk.promised[group] = ballot
        disk.ballots.add((group, ballot))

    def _same_value(self, node: int, key: tuple[int, int, Ballot], value: bytes) -> None:
        known = self._value_of.get(key)
        if known is None:
            self._value_of[key] = value
            self._fresh(node, key, value)
        elif known != value:
            raise Breach("one value for each ballot", f"{_where(node, *key)}: a second value")

    def _fresh(self, node: int, key: tuple[int, int, Ballot], value: bytes) -> None:
        """Whoever proposes something in an instance knows that it is decided in none below."""
        group, instance, _ = key
        for entry in values.decode(value):
            place = self.decided_as.get(entry[:3])
            if place is not None and place < (group, instance, 0):
                words = f"{_where(node, *key)}: {entry[:3]} is decided in {place}"
                raise Breach("proposed while undecided", words)

    def _choose(self, node: int, group: int, instance: int, ballot: Ballot, value: bytes) -> None:
        known = self.chosen.get((group, instance))
        if known is not None:
            if known != value:
                words = f"{_where(node, group, instance, ballot)}: chosen {value!r}, but {known!r} was before"
                raise Breach("one value for each instance", words)
            return
        before = self.chosen.get((group, instance - 1))
        chain = values.FIRST if before is None else values.chain_after(before)
        if values.chain_in(value) != chain:
            raise Breach(
                "one history", f"{_where(node, group, instance, ballot)}: {value!r} after {before!r}"
            )
        self.chosen[group, instance] = value
        entries = self.entries[group, instance] = values.decode(value)
        for position, entry in enumerate(entries):
            identity, place = entry[:3], (group, instance, position)
            twice = self.decided_as.setdefault(identity, place)
            if twice != place:
                words = f"{_where(node, group, instance, ballot)}: {identity} was decided in {twice} too"
                raise Breach("decided once", words)
            made = self.proposed.get(identity)
            if made != (group, entry[4], entry[5]):
                words = f"{_where(node, group, instance, ballot)}: {identity} is {entry[4:]!r}, was {made!r}"
                raise Breach("decided as proposed", words)

    def _pass(self, node: int, disk: Disk, group: int, instance: int) -> None:
        """The disk claims that everything below `instance` is decided, and holds it."""
        current = disk.instance.get(group, 0)
        if instance <= current:
            return
        for passed in range(current, instance):
            chosen = self.chosen.get((group, passed))
            if chosen is None:
                words = f"node {node}, group {group}, instance {passed}: left, though nothing is chosen"
                raise Breach("left when chosen", words)
            held = disk.last.get((group, passed))
            if held != chosen:
                words = f"node {node}, group {group}, instance {passed}: {held!r}, chosen is {chosen!r}"
                raise Breach("the log holds what is chosen", words)
        disk.instance[group] = instance

    # Frames

    def leaves(self, frame: bytes) -> None:
        """A frame leaves its node: whatever it says must rest on what is durable now."""
        header = parse_header(frame)
        body = (header.sender, frame[HEADER_BYTES:])
        if body == self._last_body:
            # Another copy of what was judged a moment ago: only what names its receiver is new.
            for part in self._last_parts:
                if part[_AT["prepare_replies"]] or part[_AT["accept_replies"]]:
                    self._replies(header.sender, header.dest, part)
            return
        parts = list(decode_sections(frame, HEADER_BYTES))
        for part in parts:
            self._leaves(header.sender, part)
            self._replies(header.sender, header.dest, part)
        self._last_body, self._last_parts = body, parts

    def _leaves(self, node: int, body: Sequence[Sequence[Any]]) -> None:
        disk = self.disks[node]
        for group, instance, _, _, value in body[_AT["learned"]]:
            known = self.chosen.get((group, instance))
            if known != value:
                words = f"node {node} serves {group}/{instance}: {value!r}, chosen is {known!r}"
                raise Breach("serve what is chosen", words)
        for group, instance, round in body[_AT["chosen"]]:
            voters = self._voters.get((group, instance, (round, node)), ())
            if len(voters) < self.majority:
                raise Breach(
                    "chosen by a majority", f"{_where(node, group, instance, (round, node))}: {voters}"
                )
        for group, instance, round in body[_AT["prepares"]]:
            if disk.promised.get(group, NULL) < (round, node):
                words = (
                    f"{_where(node, group, instance, (round, node))}: Prepare before its promise is synced"
                )
                raise Breach("nothing before its sync", words)
        for group, instance, round, value in body[_AT["accepts"]]:
            if disk.promised.get(group, NULL) < (round, node):
                words = f"{_where(node, group, instance, (round, node))}: Accept before its promise is synced"
                raise Breach("nothing before its sync", words)
            self._lead(node, disk, group, instance, (round, node), value)
            self._same_value(node, (group, instance, (round, node)), value)
        for group, instance, *_ in body[_AT["positions"]]:
            if instance and (group, instance - 1) not in self.chosen:
                raise Breach("left when chosen", f"node {node} claims to stand at {group}/{instance}")

        for group, _, top, _ in body[_AT["top_replies"]]:
            if top < disk.voted.get(group, -1):
                words = f"node {node}, group {group}: says {top}, has accepted in {disk.voted[group]}"
                raise Breach("tops name every vote", words)

    def _replies(self, node: int, dest: int, body: Sequence[Sequence[Any]]) -> None:
        disk = self.disks[node]
        for group, instance, round, rejected_by, at_round, at_node, value in body[_AT["prepare_replies"]]:
            if not rejected_by:
                self._promise(node, group, instance, (round, dest), (at_round, at_node), value)
            elif disk.promised.get(group, NULL) <= (round, dest):
                words = f"{_where(node, group, instance, (round, dest))}: rejected without a higher promise"
                raise Breach("nothing before its sync", words)
        for group, instance, round, rejected_by, _ in body[_AT["accept_replies"]]:
            if not rejected_by and (round, dest) not in disk.accepts.get((group, instance), ()):
                words = f"{_where(node, group, instance, (round, dest))}: said to be accepted before its sync"
                raise Breach("nothing before its sync", words)

    def _promise(
        self, node: int, group: int, instance: int, ballot: Ballot, accepted: Ballot, value: bytes
    ) -> None:
        disk = self.disks[node]
        if (group, ballot) not in disk.ballots:
            words = f"{_where(node, group, instance, ballot)}: promised, and no disk says so"
            raise Breach("nothing before its sync", words)
        held = disk.accepts.get((group, instance), {})
        if accepted != NULL and held.get(accepted) != value:
            words = f"{_where(node, group, instance, ballot)}: tells of {accepted}, which is not on disk"
            raise Breach("promises tell what is accepted", words)
        # One that was accepted after the promise was made is no business of this promise.
        hidden = [other for other in held if accepted < other < ballot]
        if hidden:
            words = f"{_where(node, group, instance, ballot)}: hides that {hidden} were accepted"
            raise Breach("promises tell what is accepted", words)
        told = self._promises.setdefault((group, instance, ballot), {})
        told[node] = max(told.get(node, (NULL, b"")), (accepted, value))

    def _lead(self, node: int, disk: Disk, group: int, instance: int, ballot: Ballot, value: bytes) -> None:
        """A proposer may ask for a value if a majority let it: with a Prepare in this very instance, or
        with one before since which it has decided every instance under the same ballot."""
        if (group, instance, ballot) in self._value_of:
            return  # judged when it left first; that it is the same value is judged elsewhere
        told = list(self._promises.get((group, instance, ballot), {}).values())
        if 1 + len(told) >= self.majority:
            self._led_from[group, ballot] = instance
            held = disk.accepts.get((group, instance), {})
            mine = max((accepted for accepted in held if accepted < ballot), default=NULL)
            own = (mine, held.get(mine, b""))
            best = [max([own, *others]) for others in combinations(told, self.majority - 1)]
            if all(accepted != NULL and value != adopted for accepted, adopted in best):
                words = f"{_where(node, group, instance, ballot)}: {value!r}, but one of {best} was accepted"
                raise Breach("adopt the highest accepted", words)
            return
        first = self._led_from.get((group, ballot))
        if first is None:
            words = f"{_where(node, group, instance, ballot)}: no majority has promised this ballot"
            raise Breach("a majority's promise", words)
        foreign = [
            passed for passed in range(first, instance) if disk.last_ballot.get((group, passed)) != ballot
        ]
        if foreign:
            words = (
                f"{_where(node, group, instance, ballot)}: no Prepare, but {foreign} went to other ballots"
            )
            raise Breach("a majority's promise", words)


def _where(node: int, group: int, instance: int, ballot: Ballot) -> str:
    return f"node {node}, group {group}, instance {instance}, ballot {ballot}"
