"""The node: what a server embeds.

Decides what a caller may ask and what it gets. Every call is checked before anything is noted, so
that a refusal is known to have had no effect; then it travels through shards/exchange.py to the worker
that hosts its group, and the outcome comes back the same way. How a node comes up and goes down is in
shards/assembly.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from paxmux.engine import pack
from paxmux.engine.errors import (
    ConfigError,
    InvalidRequest,
    NodeStopped,
    PaxmuxError,
    ValueTooLarge,
)
from paxmux.engine.options import Options
from paxmux.engine.state_machine import MAX_SMID, MIN_SMID
from paxmux.shards.admission import Admission
from paxmux.shards.assembly import Assembly
from paxmux.shards.batcher import Batcher
from paxmux.shards.deadline import deadline_ns as _deadline_ns
from paxmux.shards.done import Done
from paxmux.shards.exchange import Exchange
from paxmux.shards.group_settings import GroupSettings
from paxmux.shards.layout import Layout
from paxmux.shards.masters import Masters
from paxmux.shards.memberships import Memberships
from paxmux.shards.node_masters import NodeMasters
from paxmux.shards.node_members import NodeMembers
from paxmux.shards.outcomes import Outcomes, error_of
from paxmux.shards.packer import Packer
from paxmux.shards.requests import TOGETHER_MAX_BYTES, CallKind, Reply

if TYPE_CHECKING:
    import pyarrow

_MAX_INSTANCE = 2**64 - 1
_CONSISTENCIES = {
    "local": CallKind.QUERY,
    "master": CallKind.MASTER_QUERY,
    "linearizable": CallKind.LINEARIZABLE_QUERY,
}

_decode_values = msgspec.msgpack.Decoder(list[tuple[bytes, int]]).decode


class Node(GroupSettings, NodeMembers, NodeMasters):
    """One member of a cluster, embedded in an asyncio program.

    All methods are for the event loop that `start` was called in. It starts once:

        async with Node(options) as node:
            done = await node.propose(group, value, smid=1)
    """

    def __init__(self, options: Options) -> None:
        """Check the options; nothing is opened or started yet.

        Raises:
            ConfigError: names the key and what was expected.
        """
        options.validate()
        # The program may change its directory later; a worker that is restarted then must find it.
        self._options = msgspec.structs.replace(options, data_dir=os.path.abspath(options.data_dir))
        self._layout = Layout.build(options.layout, options.groups)
        self._node_id = options.own_member().node_id
        self._max_value_bytes = options.limits.max_value_bytes
        self._packer = Packer(options.limits)
        self._worker_of = [self._layout.worker_of(group) for group in range(options.groups)]
        self._admission = Admission(options.limits, self._layout.workers, options.groups, options.proposals)
        self._locks = self._admission.locks.locks
        seeds = {member.node_id: member.address for member in options.seed_members()}
        self._memberships = Memberships(seeds)
        self._masters = Masters(self._options, self._memberships)
        self._assembly: Assembly | None = None
        self._exchange: Exchange
        self._batcher: Batcher | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, timeout_s: float | None = None) -> None:
        """Come up; returns once the cluster is founded and every worker serves.

        Other members may be down: only the very first start waits for all of them.

        Args:
            timeout_s: give up after so long; None waits for ever and says in the log for what.

        Raises:
            DataDirError: the data directory is missing, in use, or another node's.
            StorageFailed: the disk refused a write, or a worker could not open its log.
            PaxmuxError: a worker or the router cannot boot, or the time is up; with the reason.
            OSError: the port is taken.
        """
        if self._assembly is not None:
            raise RuntimeError("a Node starts once; make a new one")
        assembly = self._assembly = Assembly(
            self._options,
            self._layout,
            self._admission,
            self._worker_of,
            self._memberships,
            self._masters,
        )
        self._exchange = assembly.exchange
        self._batcher = Batcher(
            self._options.proposals,
            self._options.groups,
            self._worker_of,
            self._admission,
            self._exchange,
            self._packer,
        )
        starting = self._starting = asyncio.create_task(assembly.start())
        try:
            await asyncio.wait([starting], timeout=timeout_s)
            if not starting.done():
                raise PaxmuxError(
                    f"the node did not start within {timeout_s} s: it waits for {assembly.waiting_for}"
                )
            if starting.cancelled():
                raise NodeStopped("the node was stopped before it had started")
            starting.result()
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, drain_s: float = 5.0) -> None:
        """Go down gracefully; returns once no child, descriptor or socket is left. Safe to call twice.

        New requests get `NodeStopped`. Open ones are waited for within `drain_s`; what has no outcome
        then ends with `Timeout` (404), since nobody can know it. Bounded in time, also without a
        quorum: workers have some seconds beyond the drain, then they are killed.

        Args:
            drain_s: how long open requests are waited for.
        """
        if self._assembly is None:
            return
        if self._stopping is None:
            if self._batcher is not None:
                self._batcher.flush()
            self._stopping = asyncio.create_task(self._stop(self._assembly, drain_s))
        # A caller that gives up waiting does not leave half a node behind.
        await asyncio.shield(self._stopping)

    async def _stop(self, assembly: Assembly, drain_s: float) -> None:
        starting = self._starting
        if starting is not None and not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
        await assembly.stop(drain_s)

    async def propose(
        self,
        group: int,
        value: bytes,
        smid: int = 0,
        context: bytes | None = None,
        timeout_s: float | None = 5.0,
        term: int | None = None,
    ) -> Done:
        """Have a value decided by its group, executed by its state machine, and get the result.

        Cancelling the call cancels only the waiting: the proposal goes on.

        Args:
            group: 0 .. groups-1.
            value: at most `limits.max_value_bytes`.
            smid: the state machine that executes it; 0 for none.
            context: passed to `execute` on this node alone.
            timeout_s: None waits until there is an outcome, or the node stops.
            term: execute it only if this is the term of the instance that decides it, see `term`.

        Raises:
            InvalidRequest: the call is wrong (GroupWrong, ValueTooLarge, UnknownStateMachine).
            NodeStopped, Overloaded: nothing was proposed.
            Timeout: unknown outcome (404): it may be executed or not, now or later.
            StaleTerm: it was decided in another term, and is executed nowhere.
            Conflict, Refused, ExecuteFailed, ResultTooLarge, NotAMember, Follower: as they say.
        """
        reply = await self.submit(group, value, smid, context, timeout_s, term)
        if reply[1]:
            raise error_of(reply)
        return Done(reply[2], reply[4], reply[3])

    def submit(
        self,
        group: int,
        value: bytes,
        smid: int,
        context: bytes | None,
        timeout_s: float | None,
        term: int | None = None,
    ) -> asyncio.Future[Reply]:
        """As `propose`, without a coroutine: for callers that have thousands under way and no task for each.

        Returns the future of the reply, which never holds an exception: where nothing was refused at once,
        an error is a reply with another code than 0, and its message as the result.
        """
        size = self._check_value(group, value, smid, context)
        if term is not None:
            smid, value = self._fence(term, smid, value)
        deadline_ns = _deadline_ns(timeout_s)
        worker = self._worker_of[group]
        if self._locks:
            self._admission.pass_lock(group)
        self._admission.enter(worker, size, 1, group)
        return self._exchange.propose(worker, group, deadline_ns, smid, value, context, size)

    async def propose_many(
        self,
        group: int,
        values: pack.Values | pyarrow.BinaryArray,
        smid: int = 0,
        contexts: Sequence[bytes | None] | None = None,
        timeout_s: float | None = 5.0,
        term: int | None = None,
    ) -> Outcomes:
        """Propose many values of one group in this order; all are admitted, or none is.

        They travel and are decided in packs of up to `limits.batch_max_bytes`, and go to `execute_many` of
        the state machine: hardly anything is done for each value by itself.

        Args:
            group, smid, timeout_s, term: as in `propose`, for all of them.
            values: in the order in which they are to be decided; bytes, or a `pyarrow.BinaryArray`.
            contexts: one for each value.

        Returns:
            For each value its outcome, what `propose` would have returned or raised; a sequence.

        Raises:
            InvalidRequest: a value or the call is wrong; nothing was proposed.
            NodeStopped, Overloaded: nothing was proposed.
        """
        self._check_value(group, b"", smid, None)
        if self._locks:
            self._admission.pass_lock(group)
        # Packing is work too.
        self._admission.knock(self._worker_of[group], group)
        packs = self._packer.packs(values, contexts)
        deadline_ns = _deadline_ns(timeout_s)
        if not packs:
            return Outcomes([])
        if len(packs) > self._admission.max_count:
            raise InvalidRequest(
                f"expected values for at most {self._admission.max_count} packs of {self._packer.max_bytes} "
                f"bytes (limits.max_pending, limits.batch_max_bytes), got {len(packs)}"
            )
        worker = self._worker_of[group]
        self._admission.enter(worker, sum(one.size for one in packs), len(packs), group)
        propose, marked = self._exchange.propose, smid | pack.PACK
        futures = []
        for one in packs:
            payload = one.payload
            if term is not None:
                marked, payload = self._fence(term, marked, payload)
            futures.append(propose(worker, group, deadline_ns, marked, payload, one.contexts, one.size))
        return Outcomes([(one.count, await future) for one, future in zip(packs, futures, strict=True)])

    async def batch_propose(
        self,
        group: int,
        value: bytes,
        smid: int = 0,
        context: bytes | None = None,
        timeout_s: float | None = 5.0,
    ) -> Done:
        """As `propose`, together with what others propose this way to the same group and machine.

        Values that come together, with the same timeout, travel as one and go to `execute_many`. How long
        one waits for others is said by `set_batch_count` and `set_batch_delay`. All callers of a batch share
        the outcome of it, but for results and refusals, which each has for itself.

        Args, raises: as `propose`.
        """
        size = self._check_value(group, value, smid, context)
        deadline_ns = _deadline_ns(timeout_s)
        outcome = await self._batches().add((group, smid, timeout_s), value, context, size, deadline_ns)
        if isinstance(outcome, PaxmuxError):
            raise outcome
        return outcome

    async def query(
        self,
        group: int,
        request: bytes,
        smid: int = 1,
        consistency: str = "local",
        timeout_s: float | None = 5.0,
    ) -> bytes:
        """Ask a state machine on this node.

        Args:
            group, timeout_s: as in `propose`.
            request: what the machine's `query` gets, at most `limits.max_value_bytes`.
            smid: the state machine.
            consistency: `local` reads what this node has executed, which may lag behind the cluster, and
                for a moment after a restart of the worker also behind what was read before.
                `linearizable` asks a majority first how far decisions may have gone, and reads only
                when this node has executed that much: every write acknowledged anywhere before the
                call is in the answer. It costs a round trip, and writes nothing.
                `master` reads on the group's master alone, without asking anybody: what was acknowledged at
                this node, and all that was decided before its term; not what other nodes propose unfenced
                meanwhile (docs/master.md).

        Raises:
            InvalidRequest: the call is wrong, or this consistency is not offered.
            QueryFailed, ExecuteFailed: the machine's `query` raised; the machine has stopped.
            ResultTooLarge: the answer has more bytes than `limits.max_value_bytes`.
            NotAMember: this node has lost its seat, and cannot read linearizably.
            NotMaster: this node is not the master, or was not any more when the answer was built.
            NodeStopped, Overloaded: it was not asked.
            Timeout: no answer in time.
            PaxmuxError: code -1: the group is fenced here; its status says why.
        """
        reply = await self.submit_query(group, request, smid, consistency, timeout_s)
        if reply[1]:
            raise self._masters.error_of(reply)
        return reply[4] or b""

    def submit_query(
        self, group: int, request: bytes, smid: int, consistency: str, timeout_s: float | None
    ) -> asyncio.Future[Reply]:
        """As `query`, without a coroutine; returns and raises as `submit`."""
        if consistency not in _CONSISTENCIES:
            raise InvalidRequest(
                f"expected a consistency of {', '.join(map(repr, _CONSISTENCIES))}, got {consistency!r}"
            )
        self._check_value(group, request, smid, None)
        if smid < MIN_SMID:
            raise InvalidRequest(f"expected a state machine id of {MIN_SMID} .. {MAX_SMID}, got {smid}")
        deadline_ns = _deadline_ns(timeout_s)
        worker = self._worker_of[group]
        self._admission.enter(worker, len(request), 1, group)
        return self._exchange.call(worker, _CONSISTENCIES[consistency], group, smid, request, deadline_ns)

    async def now_instance_id(self, group: int, timeout_s: float | None = 5.0) -> int:
        """The first instance of a group that is not known here to be decided: the count of those that are.

        Raises:
            GroupWrong, NodeStopped, Overloaded, Timeout: as in `query`.
        """
        self._check_group(group)
        reply = await self._call(CallKind.NOW_INSTANCE, group, 0, b"", timeout_s)
        return reply[2]

    async def instance_value(
        self, group: int, instance_id: int, timeout_s: float | None = 5.0
    ) -> list[tuple[bytes, int]]:
        """What an instance decided: (value, state machine id) of each value, in order of execution.

        Raises:
            InstanceNotChosen: it is not known here to be decided yet.
            InstanceNotExist: it is no longer in the log.
            GroupWrong, NodeStopped, Overloaded, Timeout: as in `query`.
        """
        self._check_group(group)
        if type(instance_id) is not int or not 0 <= instance_id <= _MAX_INSTANCE:
            raise InvalidRequest(f"expected an instance id of 0 .. 2^64-1, got {instance_id!r}")
        reply = await self._call(CallKind.INSTANCE_VALUE, group, instance_id, b"", timeout_s)
        return _decode_values(reply[4] or b"\x90")

    def my_node_id(self) -> int:
        """This node's 64-bit id."""
        return self._node_id

    async def status(self) -> dict[str, Any]:
        """Groups, layout, workers, rings, peers, loop lag and pending requests, as JSON can say it.

        A worker or router that does not answer within a second is named, not waited for.

        Raises:
            NodeStopped: the node does not run.
        """
        if self._assembly is None or not self._assembly.serving:
            raise NodeStopped("the node is not started, or stopped")
        return await self._assembly.status()

    async def reload(self, options: Options) -> dict[str, Any]:
        """Take over another layout while the node serves: more workers, and groups on other ones.

        One group after the other moves; requests of it wait for some milliseconds meanwhile, and none is
        lost or done twice. Workers that host no group any more go on without any until the next start;
        those that run already stay on the CPUs that they have.
        Cancelling the call cancels only the waiting.

        Args:
            options: as those of the start but for `layout`.

        Returns:
            `groups` that moved, `workers` there are, and for how long each group was held, `held_ms`.

        Raises:
            ConfigError: the options cannot be right, or differ in something that needs a restart.
            InvalidRequest: the layout is being changed already.
            NodeStopped: the node does not run.
            StorageFailed: the change cannot be made durable; no worker runs until the next start.
            PaxmuxError: a worker cannot be started, or died; groups that have not moved stay.
        """
        options.validate()
        options = msgspec.structs.replace(options, data_dir=os.path.abspath(options.data_dir))
        mine = self._options
        same = msgspec.structs.replace(options, layout=mine.layout)
        differ = [name for name in mine.__struct_fields__ if getattr(same, name) != getattr(mine, name)]
        if differ:
            raise ConfigError(f"{', '.join(differ)}: cannot change while the node runs; start it again")
        if self._assembly is None:
            raise NodeStopped("the node is not started")
        return await self._assembly.change_layout(Layout.build(options.layout, options.groups))

    async def set_cleaning(self, on: bool) -> None:
        """Whether the logs of this node forget what nobody needs any more, and make room from it (at the
        rate of `storage.clean_bytes_per_s`). They do unless told otherwise; a restart of the node forgets
        that they were.

        Raises:
            NodeStopped: the node does not run.
            Overloaded: not all workers could be told; try again.
        """
        if self._assembly is None or not self._assembly.serving:
            raise NodeStopped("the node is not started, or stopped")
        await self._assembly.set_cleaning(on)

    async def _call(
        self, kind: CallKind, group: int, argument: int, payload: bytes, timeout_s: float | None
    ) -> Reply:
        deadline_ns = _deadline_ns(timeout_s)
        worker = self._worker_of[group]
        self._admission.enter(worker, len(payload), 1, group)
        reply = await self._exchange.call(worker, kind, group, argument, payload, deadline_ns)
        if reply[1]:
            raise error_of(reply)
        return reply

    def _check_value(self, group: int, value: bytes, smid: int, context: bytes | None) -> int:
        """Check what a caller passed; returns its size in bytes."""
        if type(group) is not int or not 0 <= group < len(self._worker_of):
            self._check_group(group)
        if not isinstance(value, bytes):
            raise InvalidRequest(f"expected bytes, got {type(value).__name__}")
        if type(smid) is not int or not 0 <= smid <= MAX_SMID:
            raise InvalidRequest(f"expected a state machine id of 0 .. {MAX_SMID}, got {smid!r}")
        size = len(value)
        if size > self._max_value_bytes:
            raise ValueTooLarge(f"{size} bytes, at most {self._max_value_bytes} (limits.max_value_bytes)")
        if context is None:
            return size
        if not isinstance(context, bytes):
            raise InvalidRequest(f"expected bytes or None as context, got {type(context).__name__}")
        if len(context) > self._max_value_bytes:
            raise ValueTooLarge(
                f"{len(context)} bytes of context, at most {self._max_value_bytes} (limits.max_value_bytes)"
            )
        size += len(context)
        if size > TOGETHER_MAX_BYTES:
            raise ValueTooLarge(f"{size} bytes of value and context, at most {TOGETHER_MAX_BYTES} together")
        return size
