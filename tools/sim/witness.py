"""What must hold in a cluster, judged from outside: by disks, frames and executions alone.

The witness reads every durable record and every frame as it leaves. It works out for itself which
values are chosen (a majority of disks holds them under one ballot) and asks no protocol object for its
opinion, so a mistake in the core cannot talk it round. Whatever is wrong is a `Breach`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from paxmux.engine.frame import parse_header
from paxmux.engine.paxos.messages import KINDS
from paxmux.shards.codec import decode_sections
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.records import NULL, Ballot, Disk, Records, where

_AT = {kind: KINDS.index(kind) for kind in KINDS}


class Witness(Records):
    """Judges one cluster."""

    def __init__(self, seats: Mapping[int, int], founders: Mapping[int, int] | None = None) -> None:
        """See `Records`."""
        super().__init__(seats, founders)
        self._promises: dict[tuple[int, int, Ballot], dict[int, tuple[Ballot, bytes]]] = {}
        """Who has promised, and which value each has told of."""
        self._led_from: dict[tuple[int, Ballot], int] = {}
        """(group, ballot) -> the instance in which a majority promised it."""
        self._last_body: tuple[int, bytes] = (0, b"")
        self._last_parts: Sequence[Sequence[Any]] = ()

    def leaves(self, frame: bytes) -> None:
        """A frame leaves its node: whatever it says must rest on what is durable now."""
        header = parse_header(frame)
        if header.seat != self.disks[header.sender].seat:
            raise Breach("frames name their seat", f"node {header.sender} speaks in seat {header.seat}")
        body = (header.sender, frame[header.start :])
        if body == self._last_body:
            # Another copy of what was judged a moment ago: only what names its receiver is new.
            for part in self._last_parts:
                if part[_AT["prepare_replies"]] or part[_AT["accept_replies"]]:
                    self._replies(header.sender, header.dest, part)
            return
        parts = list(decode_sections(frame, header.start))
        for part in parts:
            self._leaves(header.sender, part)
            self._replies(header.sender, header.dest, part)
        self._last_body, self._last_parts = body, parts

    def _leaves(self, node: int, body: Sequence[Sequence[Any]]) -> None:
        disk = self.disks[node]
        for group, instance, _, _, value in body[_AT["learned"]]:
            known = self.known(group, instance)
            if known != value:
                words = f"node {node} serves {group}/{instance}: {value!r}, chosen is {known!r}"
                raise Breach("serve what is chosen", words)
        for group, instance, round in body[_AT["chosen"]]:
            key = (group, instance, (round, node))
            voters = self.voters.get(key, set()) | self.ghosts.get(key, set())
            self.known(group, instance)
            if not self.wins(group, instance, voters):
                raise Breach(
                    "chosen by a majority", f"{where(node, group, instance, (round, node))}: {voters}"
                )
        for group, instance, round in body[_AT["prepares"]]:
            self._bids(node, group, instance, (round, node))
            if group in disk.suspect:
                raise Breach("no vote in doubt", where(node, group, instance, (round, node)))
            if disk.promised.get(group, NULL) < (round, node):
                words = f"{where(node, group, instance, (round, node))}: Prepare before its promise is synced"
                raise Breach("nothing before its sync", words)
        for group, instance, round, value in body[_AT["accepts"]]:
            self._bids(node, group, instance, (round, node))
            if disk.promised.get(group, NULL) < (round, node):
                words = f"{where(node, group, instance, (round, node))}: Accept before its promise is synced"
                raise Breach("nothing before its sync", words)
            self._lead(node, disk, group, instance, (round, node), value)
            self.same_value(node, (group, instance, (round, node)), value)
        for group, instance, *_ in body[_AT["positions"]]:
            if instance and self.known(group, instance - 1) is None:
                raise Breach("left when chosen", f"node {node} claims to stand at {group}/{instance}")

        for group, _, round, ballot_node, _ in body[_AT["vow_replies"]]:
            if group in disk.suspect:
                raise Breach("no vote in doubt", f"node {node}, group {group}: vouches for another")
            if disk.promised.get(group, NULL) < (round, ballot_node):
                words = f"node {node}, group {group}: tells of {(round, ballot_node)} before its sync"
                raise Breach("nothing before its sync", words)
        for group, _, top, since in body[_AT["top_replies"]]:
            era = self.era(group, since)
            if era.since != since or era.seats.get(node) != disk.seat:
                raise Breach(
                    "tops of members", f"node {node}, group {group}: as one of those from {since} on"
                )
            if top < disk.voted.get(group, -1):
                words = f"node {node}, group {group}: says {top}, has accepted in {disk.voted[group]}"
                raise Breach("tops name every vote", words)

    def _bids(self, node: int, group: int, instance: int, ballot: Ballot) -> None:
        self.era(group, instance)
        if not self.seated(node, group, instance):
            raise Breach("no vote without a seat", where(node, group, instance, ballot))

    def _replies(self, node: int, dest: int, body: Sequence[Sequence[Any]]) -> None:
        disk = self.disks[node]
        for group, instance, round, *_ in (*body[_AT["prepare_replies"]], *body[_AT["accept_replies"]]):
            if group in disk.suspect:
                raise Breach("no vote in doubt", where(node, group, instance, (round, dest)))
        for group, instance, round, rejected_by, at_round, at_node, value in body[_AT["prepare_replies"]]:
            if not rejected_by:
                self._promise(node, group, instance, (round, dest), (at_round, at_node), value)
            elif disk.promised.get(group, NULL) <= (round, dest):
                words = f"{where(node, group, instance, (round, dest))}: rejected without a higher promise"
                raise Breach("nothing before its sync", words)
        for group, instance, round, rejected_by, _ in body[_AT["accept_replies"]]:
            if not rejected_by and (round, dest) not in disk.accepts.get((group, instance), ()):
                words = f"{where(node, group, instance, (round, dest))}: said to be accepted before its sync"
                raise Breach("nothing before its sync", words)

    def _promise(
        self, node: int, group: int, instance: int, ballot: Ballot, accepted: Ballot, value: bytes
    ) -> None:
        disk = self.disks[node]
        if (group, ballot) not in disk.ballots:
            words = f"{where(node, group, instance, ballot)}: promised, and no disk says so"
            raise Breach("nothing before its sync", words)
        held = disk.accepts.get((group, instance), {})
        if accepted != NULL and held.get(accepted) != value:
            words = f"{where(node, group, instance, ballot)}: tells of {accepted}, which is not on disk"
            raise Breach("promises tell what is accepted", words)
        # One that was accepted after the promise was made is no business of this promise.
        hidden = [other for other in held if accepted < other < ballot]
        if hidden:
            words = f"{where(node, group, instance, ballot)}: hides that {hidden} were accepted"
            raise Breach("promises tell what is accepted", words)
        told = self._promises.setdefault((group, instance, ballot), {})
        told[node] = max(told.get(node, (NULL, b"")), (accepted, value))

    def _lead(self, node: int, disk: Disk, group: int, instance: int, ballot: Ballot, value: bytes) -> None:
        """A proposer may ask for a value if a majority let it: with a Prepare in this very instance, or
        with one before since which it has decided every instance under the same ballot."""
        if (group, instance, ballot) in self.value_of:
            return  # judged when it left first; that it is the same value is judged elsewhere
        era = self.era(group, instance)
        promises = self._promises.get((group, instance, ballot), {})
        told = [each for voter, each in promises.items() if voter in era.seats]
        if 1 + len(told) >= era.majority:
            self._led_from[group, ballot] = instance
            held = disk.accepts.get((group, instance), {})
            mine = max((accepted for accepted in held if accepted < ballot), default=NULL)
            own = (mine, held.get(mine, b""))
            best = [max([own, *others]) for others in combinations(told, era.majority - 1)]
            if all(accepted != NULL and value != adopted for accepted, adopted in best):
                words = f"{where(node, group, instance, ballot)}: {value!r}, but one of {best} was accepted"
                raise Breach("adopt the highest accepted", words)
            return
        first = self._led_from.get((group, ballot))
        if first is not None and first < era.since:
            words = f"{where(node, group, instance, ballot)}: others promised it, in {first}"
            raise Breach("a majority's promise", words)
        if first is None:
            words = f"{where(node, group, instance, ballot)}: no majority has promised this ballot"
            raise Breach("a majority's promise", words)
        foreign = [
            passed for passed in range(first, instance) if disk.last_ballot.get((group, passed)) != ballot
        ]
        if foreign:
            words = f"{where(node, group, instance, ballot)}: no Prepare, but {foreign} went to other ballots"
            raise Breach("a majority's promise", words)
