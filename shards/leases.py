"""The leases of a worker's groups: which ones the node wants, and what the lease board says of them.

Decides when a row of the board is written: after the turn in which a lease began, went on or ended, and once
the worker takes no part in a group any more. It never makes a lease longer than the group has it.
"""

from __future__ import annotations

from collections.abc import Mapping

from paxmux.engine.groups import parse_groups_or_none
from paxmux.engine.options import Options
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.master import LeaseTerms
from paxmux.engine.paxos.timers import MS
from paxmux.shards.lease_board import LeaseBoard, LeaseRow


def wanted_groups(options: Options) -> frozenset[int]:
    """Those that a node wants to be master of."""
    return frozenset(parse_groups_or_none(options.master.groups, options.groups))


def lease_terms(options: Options, lengths_ms: Mapping[int, int]) -> dict[int, LeaseTerms]:
    """The lease that a node tries to have of each group. `lengths_ms`: of groups that have another length
    than the options say."""
    wanted, master = wanted_groups(options), options.master
    return {
        group: LeaseTerms(group in wanted, lengths_ms.get(group, master.lease_ms) * MS, master.drift_ppm)
        for group in range(options.groups)
    }


class LeaseWriter:
    """Writes the rows of the groups that one worker hosts."""

    def __init__(self, board: LeaseBoard, worker: int) -> None:
        self._board = board
        self._worker = worker
        self._written: set[int] = set()

    def write(self, changed: list[Group], hosted: Mapping[int, Group]) -> None:
        """Say what is true of these groups now, as far as they are hosted, and empty the list."""
        for group in dict.fromkeys(changed):
            if hosted.get(group.index) is group:
                reign = group.master.reign
                row = LeaseRow(reign.node, reign.version, reign.term, group.master.until, reign.lease)
                self._board.write(group.index, row, self._worker)
                self._written.add(group.index)
        changed.clear()

    def leave(self, hosted: Mapping[int, Group]) -> None:
        """Of a group that was hosted, and is not now, nobody is master as far as this worker knows."""
        gone = self._written - hosted.keys()
        for index in gone:
            self._board.expire(index, self._worker)
        self._written -= gone
