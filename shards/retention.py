"""Retention: which decided values the groups of a worker may forget.

A value is kept while anything may ask for it: this node's own machines after a crash, peers that lag, and
whatever the options keep beyond that. The last decided value of a group is always kept, since the next one
carries its checksum. It only says what may go; that it is said in the log, and what then becomes of the
segments, is the log's affair. Nothing here is needed for safety but the bound by what machines have stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paxmux.engine.options import StorageOptions
from paxmux.engine.paxos.effects import DECIDED, FORGOTTEN
from paxmux.engine.paxos.group import Group
from paxmux.engine.storage import Log, Record
from paxmux.shards.applier import Applier
from paxmux.shards.held_turn import NO_ENDS


class Retention:
    """What the groups of one worker may forget."""

    __slots__ = (
        "_appliers",
        "_groups",
        "_keep_bytes",
        "_keep_for_members",
        "_keep_instances",
        "_log",
        "kept",
        "on",
    )

    def __init__(
        self,
        groups: Mapping[int, Group],
        appliers: Mapping[int, Applier],
        log: Log,
        options: StorageOptions,
    ) -> None:
        self.on = True
        self.kept: set[int] = set()
        """Groups that forget nothing now: their values are being sent to another worker."""
        self._groups = groups
        self._appliers = appliers
        self._log = log
        self._keep_instances = options.keep_instances
        self._keep_bytes = options.keep_bytes
        self._keep_for_members = options.keep_for_members

    def records(self, groups: Iterable[int], ends: Mapping[int, int] = NO_ENDS) -> list[Record]:
        """What these groups may forget now, as records for the log. `ends`: group -> the first instance that
        the log has nothing of yet, where a group is further than its log."""
        if not self.on:
            return []
        excess = 0.0
        if self._keep_bytes:
            live_bytes = self._log.stats()["live_bytes"]
            excess = max(0.0, 1.0 - self._keep_bytes / live_bytes) if live_bytes else 0.0
        found: list[Record] = []
        for index in groups:
            if index in self.kept:
                continue
            durable = self._appliers[index].durable()
            if durable:
                before = self._log.first(index)
                group = self._groups[index]
                end = min(group.instance, ends.get(index, group.instance))
                first = self._first(group, end, durable, before, excess)
                if first > before:
                    found.append((FORGOTTEN, index, first, 0, 0, b""))  # reach: values-forgotten
        return found

    def marks(
        self, groups: Iterable[int], unmarked: Iterable[int], ends: Mapping[int, int] = NO_ENDS
    ) -> list[Record]:
        """What is decided in the `unmarked` groups, and what `groups` may forget: never what the log does not
        know to be decided, or a start would not find its last decided value. `ends` as above."""
        forgotten = self.records(groups, ends)
        found: list[Record] = []
        for index in {*unmarked, *[record[1] for record in forgotten]}:
            instance = self._groups[index].instance
            end = min(instance, ends.get(index, instance))
            if end:
                found.append((DECIDED, index, end - 1, 0, 0, b""))
        return found + forgotten

    def _first(self, group: Group, end: int, durable: int, before: int, excess: float) -> int:
        """The first instance that a group keeps. `end`: all below is decided, and in the log;
        `durable`: that its machines need after a crash; `excess`: the part of its values that are too many
        for `keep_bytes`."""
        most = min(durable, end - 1)
        first = most - self._keep_instances
        if self._keep_for_members:
            heard = group.learner.heard
            first = min([first, *(heard.get(peer, 0) for peer in group.peers)])
        if excess:
            # The bytes are bounded, whoever still lacks them.
            first = max(first, before + int((end - before) * excess))
        return min(first, most)
