"""What a group's log says of its members and of its master, worked out from what is chosen alone.

The rules are written down here once more, apart from the code that they judge: an operation counts if it
names the version that it changes, and holds from the instance after its own on. Asks no protocol object.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from paxmux.engine.paxos.system import (
    MASTER_SMID,
    MEMBERSHIP_SMID,
    Change,
    ReignOp,
    SystemState,
    decode_change,
    decode_reign_op,
)
from paxmux.engine.paxos.value import Entry

NOBODY = -1
"""As a version: of a state that no operation has changed. As a term: of none."""


class Era(NamedTuple):
    """So long a group has the same members."""

    since: int
    """The first instance that they decide."""
    seats: Mapping[int, int]
    places: Mapping[int, tuple[int, str]]
    """Node -> (seat, address); of the founders none."""
    operation: bytes
    """That made it."""

    @property
    def version(self) -> int:
        """The instance of that operation."""
        return self.since - 1

    @property
    def majority(self) -> int:
        return len(self.seats) // 2 + 1


class Lease(NamedTuple):
    """Whose lease was the last one."""

    since: int
    """The first instance after its operation."""
    node: int = 0
    incarnation: int = 0
    version: int = NOBODY
    term: int = NOBODY
    length: int = 0


class Constitution:
    """Of one group."""

    def __init__(self, founders: Mapping[int, int], cluster: int) -> None:
        """`founders`: node -> seat."""
        self._cluster = cluster
        self.eras = [Era(0, dict(founders), {}, b"")]
        self.leases = [Lease(0)]
        self._eras_from = [0]
        self._leases_from = [0]
        self.changed_from = [0]
        """The instances from which on anything of it is different."""
        self.terms: list[tuple[int, int]] = []
        """(first instance, term) of each change of the term."""

    def take(self, instance: int, operations: Sequence[Entry]) -> None:
        """These are chosen in `instance`, in front of all others; all below it has been taken."""
        members = reign = False
        for entry in operations:
            if entry[4] == MEMBERSHIP_SMID:
                members = self._change(instance, entry[5], decode_change(entry[5])) or members
            elif entry[4] == MASTER_SMID:
                reign = self._reign(instance, decode_reign_op(entry[5])) or reign
        if members or reign:
            self.changed_from.append(instance + 1)

    def _change(self, instance: int, operation: bytes, change: Change | None) -> bool:
        if change is None or change.cluster != self._cluster or change.version != self.eras[-1].version:
            return False
        seats = {node: seat for node, (seat, _) in change.members.items()}
        self.eras.append(Era(instance + 1, seats, change.members, operation))
        self._eras_from.append(instance + 1)
        return True

    def _reign(self, instance: int, op: ReignOp | None) -> bool:
        before = self.leases[-1]
        if op is None or op.version != before.version or op.node not in self.eras[-1].seats:
            return False
        if op.release:
            if op.node != before.node:
                return False
            lease = Lease(instance + 1, version=instance)
        else:
            goes_on = (op.node, op.incarnation, op.fresh) == (before.node, before.incarnation, False)
            term = before.term if goes_on else instance
            lease = Lease(instance + 1, op.node, op.incarnation, instance, term, op.lease)
        self.leases.append(lease)
        self._leases_from.append(instance + 1)
        if lease.term != before.term:
            self.terms.append((instance + 1, lease.term))
        return True

    def era(self, instance: int) -> Era:
        """The members that decide an instance; the last ones known, if it is not known who will."""
        return self.eras[bisect_right(self._eras_from, instance) - 1]

    def lease(self, instance: int) -> Lease:
        """The last lease before an instance."""
        return self.leases[bisect_right(self._leases_from, instance) - 1]

    def term(self, instance: int) -> int:
        """The term that fenced values of an instance must name."""
        return self.lease(instance).term

    def changed(self, instance: int) -> int:
        """The last instance up to this one from which on anything was different; 0: none."""
        return self.changed_from[bisect_right(self.changed_from, instance) - 1]

    def says(self, state: SystemState, instance: int) -> bool:
        """Whether a state is that of an instance."""
        era, lease = self.era(instance), self.lease(instance)
        (version, members), reign, terms = state
        seats = {node: seat for node, (seat, _) in members.items()}
        return (
            (version, seats) == (era.version, era.seats)
            and (not era.places or members == era.places)
            and reign == (lease.node, lease.incarnation, lease.version, lease.term, lease.length)
            and terms == [each for each in self.terms if each[0] <= instance]
        )
