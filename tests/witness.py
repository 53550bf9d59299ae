"""What must hold in a cluster, judged from outside: by disks, frames, executions and answers alone.

The witness reads every durable record, every frame as it leaves, every value as it is executed and
every answer. It works out for itself which values are chosen (a majority of disks holds them under one
ballot) and asks no protocol object for its opinion, so a mistake in the core cannot talk it round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

from paxmux.engine.errors import Code
from paxmux.engine.frame import HEADER_BYTES, parse_header
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import ACCEPT, LEARNED, PROMISE
from paxmux.engine.paxos.messages import Body
from paxmux.plugins.storage.memory import MemoryDisk
from paxmux.shards.codec import decode_sections
from paxmux.shards.requests import Reply

Ballot = tuple[int, int]
Identity = tuple[int, int, int]
NULL: Ballot = (0, 0)


class Disk:
    """What one node's disk says, record by record."""

    def __init__(self) -> None:
        self.read = 0
        """Batches that were read."""
        self.promised: dict[int, Ballot] = {}
        self.instance: dict[int, int] = {}
        self.accepts: dict[tuple[int, int], dict[Ballot, bytes]] = {}
        """(group, instance) -> every value accepted there, in the order of the log."""
        self.last: dict[tuple[int, int], bytes] = {}
        """(group, instance) -> the newest value: what `Log.read` gives."""
        self.last_ballot: dict[tuple[int, int], Ballot] = {}
        """The ballot that it was accepted under; NULL if it was learned."""


class Witness:
    """Judges one cluster. A breach is an AssertionError that names it."""

    def __init__(self, nodes: Iterable[int], smid: int, wiped: int = 0) -> None:
        """`wiped`: a node without its seat, which must learn and never vote."""
        self.smid = smid
        self.wiped = wiped
        self.disks = {node: Disk() for node in nodes}
        self.majority = len(self.disks) // 2 + 1
        self.chosen: dict[tuple[int, int], bytes] = {}
        """(group, instance) -> the value that a majority of disks holds under one ballot."""
        self.decided_as: dict[Identity, tuple[int, int, int]] = {}
        """Identity -> the (group, instance, position) that it is decided in."""
        self._voters: dict[tuple[int, int, Ballot], set[int]] = {}
        self._value_of: dict[tuple[int, int, Ballot], bytes] = {}
        """What was accepted or asked for under a ballot, by whomever."""
        self._promises: dict[tuple[int, int, Ballot], dict[int, tuple[Ballot, bytes]]] = {}
        """Who has promised, and which value each has told of."""
        self._led_from: dict[tuple[int, Ballot], int] = {}
        """(group, ballot) -> the instance in which a majority promised it."""

    # Disks

    def synced(self, node: int, disk: MemoryDisk) -> None:
        """Read what has become durable."""
        mine = self.disks[node]
        for batch in disk.batches[mine.read : disk.synced]:
            for kind, group, instance, round, voter, value in batch:
                if kind in (PROMISE, ACCEPT):
                    self._vote(node, mine, kind, group, instance, (round, voter), value)
                elif kind == LEARNED:
                    current = mine.instance.get(group, 0)
                    assert instance >= current, f"node {node} learned {instance}, it stood at {current}"
                    self._pass(node, mine, group, instance)
                    mine.last[group, instance] = value
                    mine.last_ballot[group, instance] = NULL
                    self._pass(node, mine, group, instance + 1)
                else:
                    self._pass(node, mine, group, instance + 1)
        mine.read = disk.synced

    def _vote(
        self, node: int, disk: Disk, kind: int, group: int, instance: int, ballot: Ballot, value: bytes
    ) -> None:
        promised = disk.promised.get(group, NULL)
        where = f"node {node}, group {group}, instance {instance}, ballot {ballot}"
        assert node != self.wiped, f"{where}: a vote without a seat"
        self._pass(node, disk, group, instance)
        assert instance == disk.instance.get(group, 0), f"{where}: a vote for an instance that has passed"
        if kind == PROMISE:
            assert ballot > promised, f"{where}: a promise that is not above {promised}"
        else:
            assert ballot >= promised, f"{where}: accepted, though {promised} was promised"
            accepted = disk.accepts.setdefault((group, instance), {})
            assert ballot not in accepted, f"{where}: accepted twice"
            accepted[ballot] = disk.last[group, instance] = value
            disk.last_ballot[group, instance] = ballot
            self._same_value(where, (group, instance, ballot), value)
            voters = self._voters.setdefault((group, instance, ballot), set())
            voters.add(node)
            if len(voters) == self.majority:
                self._choose(where, group, instance, value)
        disk.promised[group] = ballot

    def _same_value(self, where: str, key: tuple[int, int, Ballot], value: bytes) -> None:
        assert self._value_of.setdefault(key, value) == value, f"{where}: two values under one ballot"

    def _choose(self, where: str, group: int, instance: int, value: bytes) -> None:
        known = self.chosen.get((group, instance))
        assert known is None or known == value, f"{where}: chosen {value!r}, but {known!r} was before"
        if known is not None:
            return
        self.chosen[group, instance] = value
        for position, entry in enumerate(values.decode(value)):
            twice = self.decided_as.setdefault(entry[:3], (group, instance, position))
            assert twice == (group, instance, position), f"{where}: {entry[:3]} was decided in {twice} too"

    def _pass(self, node: int, disk: Disk, group: int, instance: int) -> None:
        """The disk claims that everything below `instance` is decided, and holds it."""
        for passed in range(disk.instance.get(group, 0), instance):
            where = f"node {node}, group {group}, instance {passed}"
            chosen = self.chosen.get((group, passed))
            assert chosen is not None, f"{where}: left, though nothing is chosen"
            held = disk.last.get((group, passed))
            assert held == chosen, f"{where}: the log holds {held!r}, chosen is {chosen!r}"
        disk.instance[group] = max(disk.instance.get(group, 0), instance)

    def check_order(self) -> None:
        """What one node proposed in one group was decided in the order in which it proposed it."""
        last: dict[tuple[int, int, int], int] = {}
        decided = sorted(self.decided_as.items(), key=lambda item: item[1])
        for identity, (group, _, _) in decided:
            origin, incarnation, seq = identity
            before = last.get((group, origin, incarnation), 0)
            assert seq > before, f"group {group}: {identity} was decided after {before}"
            last[group, origin, incarnation] = seq

    # Frames

    def leaves(self, frame: bytes) -> None:
        """A frame leaves its node: whatever it says must rest on what is durable now."""
        header = parse_header(frame)
        for body in decode_sections(frame, HEADER_BYTES):
            self._leaves(header.sender, header.dest, body)

    def _leaves(self, node: int, dest: int, body: Body) -> None:
        learned, chosen, prepares, promises, accepts, accepteds, positions, *_ = body
        disk = self.disks[node]
        for group, instance, _, _, value in learned:
            known = self.chosen.get((group, instance))
            assert known == value, f"node {node} serves {group}/{instance}: {value!r}, chosen is {known!r}"
        for group, instance, round in chosen:
            voters = self._voters.get((group, instance, (round, node)), set())
            assert len(voters) >= self.majority, f"node {node} calls {group}/{instance} chosen by {voters}"
        for group, instance, round in prepares:
            durable = disk.promised.get(group, NULL)
            assert durable >= (round, node), f"node {node} prepares {group}/{instance} before its promise"
        for group, instance, round, value in accepts:
            where = f"node {node}, group {group}, instance {instance}, own round {round}"
            assert disk.promised.get(group, NULL) >= (round, node), f"{where}: Accept before the promise"
            self._lead(where, disk, group, instance, (round, node), value)
            self._same_value(where, (group, instance, (round, node)), value)
        for group, instance, round, rejected_by, at_round, at_node, value in promises:
            if not rejected_by:
                self._promise(node, group, instance, (round, dest), (at_round, at_node), value)
            else:
                assert disk.promised.get(group, NULL) > (round, dest), "rejected without a higher promise"
        for group, instance, round, rejected_by, _ in accepteds:
            if not rejected_by:
                held = disk.accepts.get((group, instance), {})
                assert (round, dest) in held, f"node {node} says {group}/{instance} accepted before its sync"
        for group, instance, _ in positions:
            known_to_be = instance == 0 or (group, instance - 1) in self.chosen
            assert known_to_be, f"node {node} claims to stand at {group}/{instance}"

    def _promise(
        self, node: int, group: int, instance: int, ballot: Ballot, accepted: Ballot, value: bytes
    ) -> None:
        disk = self.disks[node]
        where = f"node {node}, group {group}, instance {instance}, promise of {ballot}"
        assert disk.promised.get(group, NULL) >= ballot, f"{where}: left before its sync"
        held = disk.accepts.get((group, instance), {})
        if accepted != NULL:
            assert held.get(accepted) == value, f"{where}: tells of {accepted}, which is not on disk"
        # One that was accepted after the promise was made is no business of this promise.
        hidden = [other for other in held if accepted < other < ballot]
        assert not hidden, f"{where}: hides that {hidden} were accepted"
        told = self._promises.setdefault((group, instance, ballot), {})
        told[node] = max(told.get(node, (NULL, b"")), (accepted, value))

    def _lead(self, where: str, disk: Disk, group: int, instance: int, ballot: Ballot, value: bytes) -> None:
        """A proposer may ask for a value if a majority let it: with a Prepare in this very instance, or
        with one before since which it has decided every instance under the same ballot."""
        told = list(self._promises.get((group, instance, ballot), {}).values())
        held = disk.accepts.get((group, instance), {})
        mine = max((accepted for accepted in held if accepted < ballot), default=NULL)
        if 1 + len(told) >= self.majority:
            self._led_from[group, ballot] = instance
            own = (mine, held.get(mine, b""))
            allowed = {max([own, *others])[1] for others in combinations(told, self.majority - 1)}
            free = any(max([own, *others])[0] == NULL for others in combinations(told, self.majority - 1))
            assert free or value in allowed, f"{where}: {value!r}, but {allowed} was accepted"
            return
        first = self._led_from.get((group, ballot))
        assert first is not None, f"{where}: no majority has promised this ballot"
        foreign = [
            passed for passed in range(first, instance) if disk.last_ballot.get((group, passed)) != ballot
        ]
        assert not foreign, f"{where}: no Prepare, though {foreign} were not decided under this ballot"

    # Execution and answers

    def execution_of(self, node: int, group: int, first: int) -> Execution:
        """For one life of one machine that has everything below instance `first`."""
        return Execution(self, node, group, first)

    def entries(self, group: int, instance: int) -> list[values.Entry]:
        """What the machine has to execute there; the instance must be chosen."""
        chosen = self.chosen.get((group, instance))
        assert chosen is not None, f"group {group}, instance {instance}: executed, though nothing is chosen"
        return [entry for entry in values.decode(chosen) if entry[4] == self.smid]

    def answered(self, node: int, incarnation: int, reply: Reply, group: int) -> None:
        """A node answers a proposal of its own."""
        seq, code, instance, position, _ = reply
        if code == Code.OK:
            decided = self.decided_as.get((node, incarnation, seq))
            told = (group, instance, position)
            assert decided == told, f"node {node}: proposal {seq} is in {decided}, told was {told}"


class Execution:
    """One machine's calls, in one life: each decided value once, in order, with nothing left out."""

    def __init__(self, witness: Witness, node: int, group: int, first: int) -> None:
        self.witness = witness
        self.node = node
        self.group = group
        self.instance = first
        self._due: list[values.Entry] | None = None
        self._touched = False

    def executed(self, instance: int, value: bytes, context: bytes | None, incarnation: int) -> None:
        """The machine gets a value. `incarnation`: of the node that it runs on."""
        where = f"node {self.node}, group {self.group}, instance {instance}"
        self._move(where, instance)
        assert self._due, f"{where}: {value!r} is one more than was decided"
        entry = self._due.pop(0)
        assert entry[5] == value, f"{where}: executed {value!r}, chosen was {entry[5]!r}"
        if context is not None:
            assert entry[:2] == (self.node, incarnation), f"{where}: the context of another's proposal"
        self._touched = True

    def committed(self, instance: int) -> None:
        """The machine is told that an instance is complete."""
        where = f"node {self.node}, group {self.group}, instance {instance}"
        assert instance == self.instance, f"{where}: commit, {self.instance} is executed"
        assert self._touched, f"{where}: commit without a value, or a second one"
        assert not self._due, f"{where}: commit before {self._due!r}"
        self._touched = False

    def _move(self, where: str, instance: int) -> None:
        """To an instance, over those that have nothing for this machine."""
        assert instance >= self.instance, f"{where}: after instance {self.instance}"
        if self._due is None:
            self._due = self.witness.entries(self.group, self.instance)
        while self.instance < instance:
            assert not self._due, f"{where}: {self._due!r} of instance {self.instance} were left out"
            assert not self._touched, f"{where}: no commit of instance {self.instance}"
            self.instance += 1
            self._due = self.witness.entries(self.group, self.instance)


def same_everywhere(sequences: Mapping[int, list[tuple[int, bytes]]]) -> bool:
    """Whether all nodes executed the same."""
    first, *others = sequences.values()
    return all(other == first for other in others)
