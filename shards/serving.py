"""What a worker reads from its log for others: decided values for peers that lag, and chains.

A peer asks from an instance on, and decided values stream to it until as much is under way as its
window holds; each question that it asks while it learns says how far it is, and moves the window. A
question that does not say more than the one before means that something was lost: the stream starts
again from there. Many peers and groups are served at once, in turn.

Decides who is served when, and how much in one turn: a reader that wants everything must not delay
votes. Runs after the sync alone: before it the log may still hold an accepted value that another one
has superseded. It never says what is not decided, and a record that cannot be read is never served.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import Effects, Outbox
from paxmux.engine.paxos.group import Group
from paxmux.engine.storage import Log, StorageDamaged
from paxmux.shards.repairs import RUN_MAX, Repairs

SERVE_COUNT = 512
"""Decided values read for lagging peers in one turn."""
WINDOW_COUNT = 2048
WINDOW_TURNS = 4
"""Under way to one peer in one group: at most so many values, and so many turns' bytes."""
SERVE_OVERHEAD_BYTES = 64
"""What a decided value costs a turn beside its bytes."""
VERIFY_COUNT = 256
VERIFY_BYTES = 4 << 20
"""How much of its own log a group checks again when a peer's history differs."""
MENDS_MAX = 16
"""Runs of values that peers have lost, served in one turn."""
CHAINS_MAX = 64
"""Questions for old chains answered in one turn: each reads a value from the log."""

_log = logging.getLogger("paxmux")


class Stream:
    """Decided values of one group on their way to one peer."""

    __slots__ = ("first", "flight", "flight_bytes", "next")

    def __init__(self, first: int) -> None:
        self.first = first
        """The peer has everything below, as its last question said."""
        self.next = first
        """The first instance that is not sent."""
        self.flight: deque[tuple[int, int]] = deque()
        """(end, bytes) of each batch that is under way."""
        self.flight_bytes = 0

    def acknowledge(self, first: int) -> None:
        """The peer asks on from `first`."""
        self.first = first
        while self.flight and self.flight[0][0] <= first:
            self.flight_bytes -= self.flight.popleft()[1]

    def sent(self, end: int, size: int) -> None:
        """A batch up to below `end` has left."""
        self.next = end
        self.flight.append((end, size))
        self.flight_bytes += size


class Serving:
    """Answers from the log, for all groups of one worker."""

    __slots__ = (
        "_chains",
        "_forgotten",
        "_groups",
        "_log",
        "_mends",
        "_repairs",
        "_streams",
        "_suspects",
        "_waiting",
        "max_bytes",
    )

    def __init__(self, groups: Mapping[int, Group], log: Log, max_bytes: int, repairs: Repairs) -> None:
        """`max_bytes`: decided values sent in one turn. `repairs`: told of values that cannot be read."""
        self._groups = groups
        self._log = log
        self._repairs = repairs
        self.max_bytes = max_bytes
        self._streams: dict[tuple[int, int], Stream] = {}
        """By (peer, group)."""
        self._waiting: dict[tuple[int, int], None] = {}
        """Streams that have more to send and room in their window; served in this order."""
        self._chains: list[tuple[int, int, int]] = []
        self._mends: list[tuple[int, int, int, int]] = []
        self._forgotten: set[tuple[int, int]] = set()
        """(peer, group) that asked for what is forgotten: said once."""
        self._suspects: dict[int, Group] = {}
        """Groups whose log has to be checked again, one in a turn."""

    @property
    def waiting(self) -> bool:
        """Whether there is more to serve, or to check."""
        return bool(self._waiting or self._suspects)

    def take(self, fx: Effects) -> None:
        """Note what was asked for in a turn."""
        for peer, index, first in fx.serve:
            key = peer, index
            stream = self._streams.get(key)
            if stream is None or not stream.first < first <= stream.next:
                stream = self._streams[key] = Stream(first)
            else:
                stream.acknowledge(first)
            self._waiting[key] = None
        self._chains += fx.chain_reads[:CHAINS_MAX]
        self._mends += fx.mends[:MENDS_MAX]
        for group in fx.suspects:
            self._suspects[group.index] = group

    def forget(self, index: int) -> None:
        """The group is here no more."""
        for key in [key for key in self._streams if key[1] == index]:
            del self._streams[key]
            self._waiting.pop(key, None)
        self._chains = [asked for asked in self._chains if asked[1] != index]
        self._mends = [asked for asked in self._mends if asked[1] != index]
        self._suspects.pop(index, None)

    def answer(self, fx: Effects, now: int) -> Outbox:
        """What goes to peers in this turn; what is beyond the budget waits for the next one. A group whose
        own log contradicts it is fenced."""
        box = Outbox()
        if self._waiting:
            self._serve(box, now)
        if self._mends:
            self._mend(box, now)
        if self._chains:
            self._tell_chains(box, now)
        if self._suspects:
            self._verify(fx, now)
        return box

    def _serve(self, box: Outbox, now: int) -> None:
        size_left, count_left = self.max_bytes, SERVE_COUNT
        waiting = self._waiting
        while waiting and size_left > 0 and count_left > 0:
            key = peer, index = next(iter(waiting))
            del waiting[key]
            stream, group = self._streams[key], self._groups[index]
            under_way = stream.next - stream.first
            count = min(
                group.instance - stream.next,
                WINDOW_COUNT - under_way,
                count_left,
                size_left // SERVE_OVERHEAD_BYTES + 1,
            )
            if count <= 0 or stream.flight_bytes >= WINDOW_TURNS * self.max_bytes:
                continue
            found = self._read(index, stream.next, count, size_left, now)
            if not found:
                if stream.next < self._log.first(index):
                    self._tell_forgotten(peer, index, stream.next)
                continue  # Another peer has what is lost.
            size = sum([len(item[3]) for item in found]) + len(found) * SERVE_OVERHEAD_BYTES
            batch = box.peer(peer)
            batch.learned += [(index, *item) for item in found]
            batch.positions.append(group.position())
            stream.sent(stream.next + len(found), size)
            size_left -= size
            count_left -= len(found)
            if stream.next < group.instance:
                waiting[key] = None

    def _read(
        self, index: int, first: int, count: int, max_bytes: int, now: int
    ) -> list[tuple[int, int, int, bytes]]:
        """Decided values; none if the first is lost, which is repaired then, or forgotten."""
        try:
            found = self._log.read_range(index, first, count, max_bytes)
            words = "it is decided, and not in the log"
        except StorageDamaged as error:
            found, words = [], str(error)
        if not found:
            self._repairs.want(index, first, words, now)
        return found

    def _mend(self, box: Outbox, now: int) -> None:
        """Decided values that peers have lost."""
        asked, self._mends = self._mends, []
        size_left = self.max_bytes
        for peer, index, first, count in asked:
            found = self._read(index, first, min(count, RUN_MAX), max(1, size_left), now)
            size_left -= sum([len(item[3]) for item in found])
            box.peer(peer).learned += [(index, *item) for item in found]
            if size_left <= 0:
                break

    def _tell_forgotten(self, peer: int, index: int, instance: int) -> None:
        if (peer, index) not in self._forgotten:
            self._forgotten.add((peer, index))
            words = "group %d: node %d lacks instance %d, which is forgotten here below %d"
            _log.warning(words, index, peer, instance, self._log.first(index))

    def _tell_chains(self, box: Outbox, now: int) -> None:
        asked, self._chains = self._chains, []
        for peer, index, instance in asked:
            before = self._read(index, instance - 1, 1, 1, now)
            if before:
                chain = int.from_bytes(values.chain_after(before[0][3]), "little")
                box.peer(peer).chain_replies.append((index, instance, chain))

    def _verify(self, fx: Effects, now: int) -> None:
        """A peer has another history: does a group's own log still say what the group goes by?"""
        index, group = self._suspects.popitem()
        words = "group %d: a peer has another history below instance %d; all members are asked"
        _log.warning(words, index, group.instance)
        problem = self._problem(group, now)
        if problem is not None:
            group.inquiry.fence(problem, fx)

    def _problem(self, group: Group, now: int) -> str | None:
        first = max(self._log.first(group.index), group.instance - VERIFY_COUNT)
        chain = values.FIRST if first == 0 else None
        # What is lost says nothing; there is another look when it is back, and a peer still differs.
        found = self._read(group.index, first, group.instance - first, VERIFY_BYTES, now)
        for instance, _round, _node, value in found:
            if chain is not None and values.chain_in(value) != chain:
                return f"its log does not fit together at instance {instance}"
            chain = values.chain_after(value)
        if found and found[-1][0] == group.instance - 1 and chain != group.chain:
            return f"its log does not say what it goes by: chain {chain!r}, in memory {group.chain!r}"
        return None
