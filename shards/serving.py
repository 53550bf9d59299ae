"""What a worker reads from its log for others: decided values for peers that lag, and chains.

Decides who is served when, and how much in one turn: a reader that wants everything must not delay
votes. Runs after the sync alone: before it the log may still hold an accepted value that another one
has superseded. It never says what is not decided, and a record that cannot be read is never served.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import Effects, Outbox
from paxmux.engine.paxos.group import Group
from paxmux.engine.storage import Log, StorageDamaged

SERVE_COUNT = 1000
"""Decided values of one group read for one lagging peer in one turn."""
SERVE_OVERHEAD_BYTES = 64
"""What a decided value costs a turn beside its bytes."""
VERIFY_COUNT = 256
VERIFY_BYTES = 4 << 20
"""How much of its own log a group checks again when a peer's history differs."""
CHAINS_MAX = 64
"""Questions for old chains answered in one turn: each reads a value from the log."""

_log = logging.getLogger("paxmux")


class Serving:
    """Answers from the log, for all groups of one worker."""

    __slots__ = ("_chains", "_groups", "_log", "_questions", "_unreadable", "max_bytes")

    def __init__(self, groups: Mapping[int, Group], log: Log, max_bytes: int) -> None:
        """`max_bytes`: decided values sent in one turn."""
        self._groups = groups
        self._log = log
        self.max_bytes = max_bytes
        self._questions: dict[tuple[int, int], int] = {}
        """(peer, group) -> the first decided value that the peer wants; answered in this order."""
        self._chains: list[tuple[int, int, int]] = []
        self._unreadable: set[int] = set()

    @property
    def waiting(self) -> bool:
        """Whether there is more to serve."""
        return bool(self._questions)

    def take(self, fx: Effects) -> None:
        """Note what was asked for in a turn."""
        for peer, index, first in fx.serve:
            self._questions[peer, index] = first
        self._chains += fx.chain_reads[:CHAINS_MAX]

    def answer(self) -> Outbox:
        """What goes to peers in this turn; what is beyond the budget waits for the next one."""
        box = Outbox()
        if self._questions:
            self._serve(box)
        if self._chains:
            self._tell_chains(box)
        return box

    def _serve(self, box: Outbox) -> None:
        budget = self.max_bytes
        questions = self._questions
        while questions and budget > 0:
            peer, index = next(iter(questions))
            first = questions.pop((peer, index))
            group = self._groups[index]
            try:
                found = self._log.read_range(index, first, min(SERVE_COUNT, group.instance - first), budget)
            except StorageDamaged as error:
                # Another peer has it too. All groups of this worker would go down with this one record.
                if index not in self._unreadable:
                    self._unreadable.add(index)
                    _log.error("group %d: decided values cannot be served: %s", index, error)
                continue
            batch = box.peer(peer)
            for instance, round, node, value in found:
                batch.learned.append((index, instance, round, node, value))
                budget -= len(value) + SERVE_OVERHEAD_BYTES
            batch.positions.append(group.position())

    def _tell_chains(self, box: Outbox) -> None:
        asked, self._chains = self._chains, []
        for peer, index, instance in asked:
            try:
                before = self._log.read(index, instance - 1)
            except StorageDamaged as error:
                _log.error("group %d: a chain cannot be told: %s", index, error)
                continue
            if before is not None:
                chain = int.from_bytes(values.chain_after(before[2]), "little")
                box.peer(peer).chain_replies.append((index, instance, chain))

    def verify(self, groups: Sequence[Group], fx: Effects) -> None:
        """A peer has another history: do these groups' own logs still say what the groups go by?"""
        for group in groups:
            words = "group %d: a peer has another history below instance %d; all members are asked"
            _log.warning(words, group.index, group.instance)
            problem = self._problem(group)
            if problem is not None:
                group.inquiry.fence(problem, fx)

    def _problem(self, group: Group) -> str | None:
        first = max(0, group.instance - VERIFY_COUNT)
        chain = values.FIRST if first == 0 else None
        try:
            found = self._log.read_range(group.index, first, group.instance - first, VERIFY_BYTES)
        except StorageDamaged as error:
            return str(error)
        for instance, _round, _node, value in found:
            if chain is not None and values.chain_in(value) != chain:
                return f"its log does not fit together at instance {instance}"
            chain = values.chain_after(value)
        if found and found[-1][0] == group.instance - 1 and chain != group.chain:
            return f"its log does not say what it goes by: chain {chain!r}, in memory {group.chain!r}"
        return None
