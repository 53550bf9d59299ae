"""Requests to a worker that are no proposals: reads of state machines, positions, values, status.

Decides when each may be answered. A group that has decided values to execute answers nothing that
shows its state: an answer from a machine that is still being replayed would take back what the log knows
to be decided. A fenced group answers no query: its state may be wrong. A linearizable read waits for its
majority (`engine.paxos.reader`), then for the execution of the instance that it named.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import msgspec

from paxmux.engine.errors import Code
from paxmux.engine.pack import expand
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.effects import Effects
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.timers import NEVER
from paxmux.engine.storage import Log, StorageDamaged
from paxmux.shards.applier import Applier
from paxmux.shards.log_sync import LogSync
from paxmux.shards.master_calls import MasterCalls
from paxmux.shards.member_calls import MemberCalls
from paxmux.shards.pace import Pace
from paxmux.shards.repairs import Repairs
from paxmux.shards.requests import OF_NO_GROUP, ORDERS, Call, CallKind, Reply
from paxmux.shards.retention import Retention

_LOCAL = frozenset({CallKind.QUERY, CallKind.MASTER_QUERY, CallKind.MASTER})
"""Requests that are answered from what this node has executed."""
_QUERIES = frozenset({CallKind.QUERY, CallKind.LINEARIZABLE_QUERY, CallKind.MASTER_QUERY})
_OF_PEERS = frozenset({CallKind.LINEARIZABLE_QUERY, CallKind.DROP_MASTER, CallKind.CHANGE_MEMBERS})
_OF_NO_STATE = OF_NO_GROUP | {CallKind.SET_LOG_SYNC, CallKind.MEMBERS}
"""Requests that have nothing to do with what a machine has executed."""

_encode_values = msgspec.msgpack.Encoder().encode


class Calls:
    """The requests of one worker that wait for an answer."""

    __slots__ = (
        "_after",
        "_appliers",
        "_calls",
        "_groups",
        "_log",
        "_log_sync",
        "_pace",
        "_readable",
        "_reads",
        "_repairs",
        "_replies",
        "_retention",
        "masters",
        "members",
        "orders",
    )

    def __init__(
        self,
        groups: Mapping[int, Group],
        appliers: Mapping[int, Applier],
        log: Log,
        retention: Retention,
        log_sync: LogSync,
        repairs: Repairs,
        pace: Pace,
        members: MemberCalls,
        replies: list[Reply],
    ) -> None:
        """`replies`: where the answers go. `repairs`: told of values that cannot be read."""
        self._groups = groups
        self._appliers = appliers
        self._log = log
        self._retention = retention
        self._log_sync = log_sync
        self._replies = replies
        self._repairs = repairs
        self._pace = pace
        self.masters = MasterCalls(replies)
        self.members = members
        self._calls: list[Call] = []
        """Those that can be answered as soon as their group has executed what it knows."""
        self._after: dict[int, int] = {}
        """By seq, the instance up to which an answer must show the group's state at least, where that was not
        executed yet when the request came: it would take back what is decided."""
        self._reads: dict[int, Call] = {}
        """Linearizable reads, by seq, until they join the others."""
        self._readable: list[tuple[int, int, list[int]]] = []
        """(group, instance, reads): those that only wait for that instance to be executed."""
        self.orders: list[Call] = []
        """What the node wants done with whole groups (`requests.ORDERS`); taken by whoever does it."""

    def take(self, calls: Sequence[Call], now: int, fx: Effects) -> None:
        """Note what came in."""
        for call in calls:
            seq, kind, index, deadline = call[:4]
            group = self._groups.get(index)
            if kind in ORDERS:
                self.orders.append(call)
            elif kind == CallKind.DROP_MASTER and group is not None:
                self.masters.drop(call, group, now, fx)
            elif kind == CallKind.CHANGE_MEMBERS and group is not None:
                self.members.change(call, now, fx)
            elif kind != CallKind.LINEARIZABLE_QUERY or group is None:
                if kind in _LOCAL and group is not None:
                    self._note(seq, group)
                self._calls.append(call)
            elif group.inquiry.fenced is not None:
                self._fail(seq, Code.SYSTEM_ERROR, f"group {index} is fenced here: {group.inquiry.fenced}")
            else:
                self._reads[seq] = call
                group.reader.join(seq, deadline, fx)

    @property
    def deadline(self) -> int:
        """The next one of those that wait for execution."""
        return min([call[3] for call in self._calls], default=NEVER)

    def refuse(self, calls: Sequence[Call], reason: str) -> None:
        """Note what came in while nothing can be asked of peers."""
        for call in calls:
            if call[1] in ORDERS:
                self.orders.append(call)
            elif call[1] in _OF_PEERS:
                self._fail(call[0], Code.OVERLOADED, reason)
            else:
                if call[1] in _LOCAL and call[2] in self._groups:
                    self._note(call[0], self._groups[call[2]])
                self._calls.append(call)

    def _note(self, seq: int, group: Group) -> None:
        # A group may stand lower than its log knew it to be.
        decided = max(group.instance, group.doubt.decided)
        if self._appliers[group.index].next < decided:
            self._after[seq] = decided

    def drop_read(self, seq: int) -> bool:
        """A read ends without an answer of its own; False if it is none."""
        return self._reads.pop(seq, None) is not None

    def take_out(self, index: int) -> list[Call]:
        """The requests of a group that have no answer yet; another worker will answer them."""
        found = [call for call in (*self._reads.values(), *self._calls) if call[2] == index]
        found = [call for call in found if call[1] not in OF_NO_GROUP]
        gone = {call[0] for call in found}
        self._reads = {seq: call for seq, call in self._reads.items() if seq not in gone}
        self._calls = [call for call in self._calls if call[0] not in gone]
        self._readable = [item for item in self._readable if item[0] != index]
        for seq in gone:
            self._after.pop(seq, None)
        return found + self.members.take_out(index)

    def close(self) -> None:
        """Nothing will be answered any more."""
        self.members.close()
        for seq in self._reads:
            self._fail(seq, Code.TIMEOUT, "the node stopped before the read could be answered")
        self._reads.clear()
        for call in self._calls:
            self._fail(call[0], Code.TIMEOUT, "the node stopped before its log was replayed")
        self._calls.clear()
        self._after.clear()

    def answer(
        self, readable: Sequence[tuple[int, int, list[int]]], behind: Container[int], now: int
    ) -> None:
        """Answer what can be answered. `behind`: the groups that have decided values to execute."""
        if readable or self._readable:
            self._release([*self._readable, *readable], now)
        if not self._calls:
            return
        calls, self._calls = self._calls, []
        for call in calls:
            after = self._after.get(call[0], 0) if self._after else 0
            unshown = after and self._appliers[call[2]].next < after
            if unshown or (call[2] in behind and call[1] not in _OF_NO_STATE):
                if call[3] <= now:
                    self._after.pop(call[0], None)
                    words = "deadline passed before this node had executed what it has decided"
                    self._fail(call[0], Code.TIMEOUT, words)
                else:
                    self._calls.append(call)  # reach: call-waits-for-replay
            else:
                if after:
                    del self._after[call[0]]
                self._answer(call, now)

    def _release(self, readable: Sequence[tuple[int, int, list[int]]], now: int) -> None:
        self._readable = []
        for index, instance, reads in readable:
            late = [seq for seq in reads if self._reads[seq][3] <= now]
            for seq in late:
                del self._reads[seq]
                self._fail(seq, Code.TIMEOUT, "deadline passed before this node had executed what it must")
            left = [seq for seq in reads if seq in self._reads] if late else reads
            fenced = self._groups[index].inquiry.fenced
            if fenced is not None:
                for seq in left:
                    del self._reads[seq]
                    self._fail(seq, Code.SYSTEM_ERROR, f"group {index} is fenced here: {fenced}")
            elif self._appliers[index].next > instance:
                for seq in left:
                    self._answer(self._reads.pop(seq), now)
            elif left:
                self._readable.append((index, instance, left))

    def _answer(self, call: Call, now: int) -> None:
        seq, kind, index, _deadline, argument, payload = call
        group = self._groups.get(index)
        if kind == CallKind.GROUP_STATUS:
            self._replies.append((seq, Code.OK, 0, 0, self._status()))
        elif kind == CallKind.SET_CLEANING:
            self.set_cleaning(bool(argument))
            self._replies.append((seq, Code.OK, 0, 0, None))
        elif kind == CallKind.SET_MASTER_LEASE:
            self.masters.set_lease(call, group)
        elif group is None:
            self._fail(seq, Code.GROUP_WRONG, f"group {index} is not on this worker")
        elif kind in _QUERIES:
            if group.inquiry.fenced is not None:
                self._fail(seq, Code.SYSTEM_ERROR, f"group {index} is fenced here: {group.inquiry.fenced}")
                return
            of_master = kind == CallKind.MASTER_QUERY
            if of_master and not self.masters.holds(group, now):
                self.masters.refuse(seq, group, now)
                return
            code, answer = self._appliers[index].query(argument, payload)
            if of_master and not self.masters.holds(group, now):
                self.masters.refuse(seq, group, now)
                return
            self._replies.append((seq, code, self._appliers[index].next, 0, answer))
        elif kind == CallKind.MASTER:
            self.masters.tell(seq, group, now)
        elif kind == CallKind.NOW_INSTANCE:
            self._replies.append((seq, Code.OK, group.instance, 0, None))
        elif kind == CallKind.INSTANCE_VALUE:
            self._instance_value(seq, group, argument, now)
        elif kind == CallKind.MEMBERS:
            self.members.answer(seq, group, now)
        elif kind == CallKind.SET_LOG_SYNC:
            self._set_log_sync(seq, index, argument != 0)
        else:
            self._fail(seq, Code.SYSTEM_ERROR, f"unknown request {kind}")

    def set_cleaning(self, on: bool) -> None:
        """Whether anything is forgotten, and room made from it."""
        self._retention.on = on
        self._log.set_cleaning(on)

    def _set_log_sync(self, seq: int, index: int, on: bool) -> None:
        try:
            self._log_sync.set(index, on)
        except OSError as error:
            self._fail(seq, Code.STORAGE_FAILED, f"the mark of an unsynced log: {error}")
        else:
            self._replies.append((seq, Code.OK, 0, 0, None))

    def _instance_value(self, seq: int, group: Group, instance: int, now: int) -> None:
        if instance >= group.instance:
            self._fail(
                seq,
                Code.INSTANCE_NOT_CHOSEN,
                f"instance {instance} of group {group.index} is not decided here; {group.instance} is next",
            )
            return
        try:
            record = self._log.read(group.index, instance)
        except StorageDamaged as error:
            self._repairs.want(group.index, instance, str(error), now)
            self._fail(seq, Code.SYSTEM_ERROR, str(error))
            return
        if record is None and instance >= self._log.first(group.index):
            words = f"instance {instance} of group {group.index} is decided, and not in the log"
            self._repairs.want(group.index, instance, words, now)
            self._fail(seq, Code.SYSTEM_ERROR, words)
            return
        if record is None:
            self._fail(
                seq,
                Code.INSTANCE_NOT_EXIST,
                f"instance {instance} of group {group.index} is no longer in the log",
            )
            return
        entries = [(entry[5], entry[4]) for entry in expand(values.decode(record[2]))]
        self._replies.append((seq, Code.OK, instance, 0, _encode_values(entries)))

    def _status(self) -> bytes:
        rows = [
            {
                "group": index,
                "instance": group.instance,
                "applied": self._appliers[index].next,
                "first": self._log.first(index),
                "promised": list(group.acceptor.promised),
                "phase": group.proposer.phase.name.lower(),
                "holds_ballot": group.proposer.held,
                "waiting": len(group.own),
                "voter": group.voter,
                "durable": self._log_sync.durable(index),
                "stopped": self._appliers[index].stopped,
                "slow": self._pace.slow.get(index),
                "fenced": group.inquiry.fenced,
                "suspect": None if group.doubt.suspect is None else group.doubt.words(),
                "repairing": self._repairing(group),
                "mismatches": group.inquiry.mismatches,
            }
            for index, group in self._groups.items()
        ]
        return msgspec.json.encode(rows)

    def _repairing(self, group: Group) -> str | None:
        if group.doubt.active and group.doubt.suspect is None:
            return group.doubt.words()
        return self._repairs.words(group.index)

    def _fail(self, seq: int, code: int, message: str) -> None:
        self._replies.append((seq, code, 0, 0, message.encode()))
