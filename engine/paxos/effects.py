"""What the steps of one turn want done, gathered for all groups of a worker.

Order is safety. The turn carries effects out in this order and no other:

1. `now` leaves: it rests on nothing that is not durable yet.
2. `records` are appended and synced, all of them, with one sync.
3. `after` leaves: positive replies and Prepares rest on those records.
4. `synced`: each group counts its own vote. That is a step too: its effects go into the next
   turn's, but for its `now` messages, which may leave at once.
5. `decided` is applied: what is executed rests on records that are durable here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from paxmux.engine.paxos.messages import Batch
from paxmux.engine.paxos.value import Entry

if TYPE_CHECKING:
    from paxmux.engine.paxos.group import Group, Owned

Record = tuple[int, int, int, int, int, bytes]
"""(kind, group, instance, round, node, value): a plain tuple, since workers write 100,000 a second.
Instances are below 2**63, groups below 2**16, rounds and nodes below 2**64."""

PROMISE, ACCEPT, LEARNED, DECIDED, FORGOTTEN, RELEASED, CLEARED, SUSPECT, SYSTEM = 1, 2, 3, 4, 5, 6, 7, 8, 9
"""Kinds of record; `engine.storage.RecordKind` says what each means. The numbers are on disk."""

Decided = tuple[int, int, list[Entry], "dict[int, Owned] | None"]
"""(group, instance, entries, the proposals among them that were made here, by seq)"""


class Outbox:
    """Messages by destination: one batch for every peer alike, one for each peer of its own."""

    __slots__ = ("all", "to")

    def __init__(self) -> None:
        self.all = Batch()
        self.to: dict[int, Batch] = {}

    def peer(self, node: int) -> Batch:
        """The batch for one peer."""
        batch = self.to.get(node)
        if batch is None:
            batch = self.to[node] = Batch()
        return batch

    def __bool__(self) -> bool:
        return bool(self.to) or bool(self.all)


class Effects:
    """Everything that one turn's steps asked for."""

    __slots__ = (
        "abandoned",
        "after",
        "answered",
        "chain_reads",
        "conflicts",
        "decided",
        "eager",
        "expired",
        "fenced",
        "master_changed",
        "members_changed",
        "mends",
        "now",
        "prepares",
        "readable",
        "ready",
        "records",
        "rejects",
        "resends",
        "serve",
        "sound",
        "suspects",
        "synced",
        "timers",
        "unseated",
    )

    def __init__(self) -> None:
        self.now = Outbox()
        self.records: list[Record] = []
        self.after = Outbox()
        self.synced: list[Group] = []
        """Groups whose own vote is among the records."""
        self.decided: list[Decided] = []
        """In order within each group."""
        self.expired: list[int] = []
        """Proposals and reads (seq) whose deadline passed: their outcome is unknown."""
        self.abandoned: list[int] = []
        """Proposals and reads (seq) that this replica will not finish, since it is fenced."""
        self.answered: list[tuple[int, int, int, bytes | None]] = []
        """(seq, code, instance, words): outcomes of changes of the membership that this node was asked
        for."""
        self.members_changed: list[Group] = []
        """Groups that have other members from their current instance on."""
        self.master_changed: list[Group] = []
        """Groups whose lease has begun, gone on or ended."""
        self.unseated: list[int] = []
        """Proposals (seq) of a node that is no member any more: their outcome is unknown."""
        self.fenced: list[Group] = []
        """Groups that were fenced."""
        self.conflicts: list[int] = []
        """Proposals (seq) that have lost as often as they may: they are not decided, and never will be."""
        self.readable: list[tuple[int, int, list[int]]] = []
        """(group, instance, reads): to be answered once that instance is executed here."""
        self.serve: list[tuple[int, int, int]] = []
        """(peer, group, instance): send the peer decided values from there on."""
        self.chain_reads: list[tuple[int, int, int]] = []
        """(peer, group, instance): tell the peer the chain below that instance, from the log."""
        self.mends: list[tuple[int, int, int, int]] = []
        """(peer, group, first, count): send the peer these decided values, which its log has lost."""
        self.sound: list[Group] = []
        """Groups that were in doubt, and vote again."""
        self.suspects: list[Group] = []
        """Groups whose decisions differ from a peer's: they must check their own log."""
        self.eager = False
        """Somebody else's proposal was decided under an own ballot: he waits for the notice."""
        self.ready: list[Group] = []
        """Groups that may be able to open an instance once all input of the turn is in."""
        self.timers: list[Group] = []
        """Groups that want `on_timer` sooner than they had asked for: at their `due`."""
        self.prepares = 0
        self.rejects = 0
        self.resends = 0
