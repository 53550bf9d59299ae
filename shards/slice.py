"""A slice of a node's groups, ready to turn: what a worker hosts, and what a simulation runs.

One place that joins log, groups, state machines and outlet, so that every user of the turn runs the
same thing. It reads the log's hard state, and touches no clock, socket or ring.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from paxmux.engine.errors import DataDirError
from paxmux.engine.frame import VERSION
from paxmux.engine.network import Direct
from paxmux.engine.options import LimitOptions, ProposalOptions, StorageOptions, TimerOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.group import Group
from paxmux.engine.paxos.master import NO_LEASE, LeaseTerms
from paxmux.engine.paxos.quorum import Members, members_of
from paxmux.engine.paxos.timers import MS, Bounds, Timers
from paxmux.engine.state_machine import StateMachine
from paxmux.engine.storage import NULL_BALLOT, HardState, Log, StorageDamaged, unknown_state
from paxmux.shards.applier import Applier
from paxmux.shards.backlog import no_time
from paxmux.shards.inner_state import inner_state
from paxmux.shards.log_sync import WORDS, LogSync
from paxmux.shards.outlet import FrameSink, Outlet
from paxmux.shards.requests import Reply
from paxmux.shards.turn import DEFAULT_STORAGE, Turn

NO_LEASES: Mapping[int, LeaseTerms] = {}


class Identity(NamedTuple):
    """Who a worker speaks as, in this life of its process."""

    cluster: int
    node: int
    seat: int
    incarnation: int
    """Random 64 bits: proposals are numbered under it."""
    worker: int
    generation: int


class GroupMaker:
    """Makes groups and their appliers from what a log has of them."""

    def __init__(
        self,
        identity: Identity,
        log: Log,
        replies: list[Reply],
        members: Members,
        rng: random.Random,
        timers: TimerOptions,
        proposals: ProposalOptions,
        limits: LimitOptions,
        leases: Mapping[int, LeaseTerms] = NO_LEASES,
    ) -> None:
        """See `build_turn`."""
        self._leases = leases
        self._identity = identity
        self._log = log
        self._replies = replies
        self._members = members
        self._rng = rng
        self._timers = timers_of(timers, proposals)
        self._bounds = bounds_of(limits, proposals)
        self._max_result_bytes = limits.max_value_bytes

    def group(self, index: int, state: HardState, now: int, *, lost: bool = False) -> Group:
        """A group that stands where its log says, and in doubt where that has lost something. `lost`: what
        was not synced, since the last start. Raises StorageDamaged: something is lost that only another
        member could tell, and there is none."""
        identity, log = self._identity, self._log
        system, told, members_lost = inner_state(log, index, state, self._members.seats, identity.cluster)
        members = members_of(system.membership)
        # Where later members are lost too, there may be others by now.
        alone = list(members.seats) == [identity.node] and told == state.instance
        instance, chain = _readable(log, index, state._replace(instance=told), alone=alone)
        here = instance == state.instance and not state.lost
        kept = not here and not state.lost and state.accepted != NULL_BALLOT
        why = WORDS if lost else log.doubt() or "as this log has said since an earlier start"
        return Group(
            index,
            me=identity.node,
            seat=identity.seat,
            incarnation=identity.incarnation,
            members=members,
            rng=self._rng,
            now=now,
            instance=instance,
            promised=state.promised,
            accepted=state.accepted if here else NULL_BALLOT,
            value=state.value if here else b"",
            chain=chain,
            suspect=why if state.suspect or lost else None,
            decided=state.instance,
            floor=state.instance + state.lost,
            kept=(state.accepted, state.value) if kept else None,
            timers=self._timers,
            bounds=self._bounds,
            cluster=identity.cluster,
            reign=system.reign,
            terms=system.terms,
            lease=self._leases.get(index, NO_LEASE),
            members_lost=members_lost,
            say_again=state.system_lost and not members_lost,
        )

    def applier(self, index: int, machines: Mapping[int, StateMachine]) -> Applier:
        """What executes a group's values. Raises ConfigError: a machine's `applied_instance_id` makes no
        sense."""
        identity = self._identity
        return Applier(
            index,
            machines,
            self._log,
            self._replies.append,
            (identity.node, identity.incarnation),
            self._max_result_bytes,
        )


def build_turn(
    identity: Identity,
    machines: Mapping[int, Mapping[int, StateMachine]],
    log: Log,
    sink: FrameSink,
    replies: list[Reply],
    *,
    members: Members,
    rng: random.Random,
    now: int,
    timers: TimerOptions,
    proposals: ProposalOptions,
    limits: LimitOptions,
    storage: StorageOptions = DEFAULT_STORAGE,
    log_sync: LogSync | None = None,
    strays: list[int] | None = None,
    direct: Direct | None = None,
    version: int = VERSION,
    clock: Callable[[], int] = no_time,
    leases: Mapping[int, LeaseTerms] = NO_LEASES,
) -> Turn:
    """Recover `log` and build the turn over it; it is not started yet.

    Args:
        identity: stamped into frames and proposals.
        machines: group -> its state machines by id; its keys are the groups hosted here.
        log: open, and not recovered.
        sink: where frames to peers go.
        replies: where answers to requests are gathered; the caller empties it.
        members: who founded the cluster: the voters of each group until its log says otherwise.
        rng: for pauses and choices of peers.
        now: in ns.
        timers, proposals, limits, storage: as in the options.
        direct: see `Outlet`.
        log_sync: of the log, not begun; every turn is synced without one.
        strays: gets the groups that the log has records of and that are not hosted here.
        version: of the frames.
        clock: see `Turn`.
        leases: of the groups that this node wants to be master of.

    Raises:
        StorageDamaged, StorageFailed: by `Log.recover`; damaged too where something is lost that only
            another member could tell, and there is none.
        DataDirError: the state machines need what the log has forgotten.
        ConfigError: a machine's `applied_instance_id` makes no sense.
    """
    states = log.recover()
    lost: frozenset[int] = frozenset()
    if log_sync is not None:
        log_sync.begin()
        lost = log_sync.lost
    doubt = log.doubt()
    alone = list(members.seats) == [identity.node] and not any(state.system for state in states.values())
    if doubt is not None and alone:
        raise StorageDamaged(f"promises may be lost, and there is no other member to ask: {doubt}")
    unknown = unknown_state(doubt)
    maker = GroupMaker(identity, log, replies, members, rng, timers, proposals, limits, leases)
    groups = {
        index: maker.group(index, states.get(index, unknown), now, lost=index in lost) for index in machines
    }
    appliers = {index: maker.applier(index, machines[index]) for index in machines}
    for index, applier in appliers.items():
        applier.term_at = groups[index].master.term_at
        check_replay(applier, log)
    if strays is not None:
        strays += [index for index in states if index not in groups]
    outlet = Outlet(
        sink,
        sorted({node for group in groups.values() for node in group.peers}),
        me=identity.node,
        seat=identity.seat,
        incarnation=identity.incarnation,
        cluster=identity.cluster,
        worker=identity.worker,
        generation=identity.generation,
        groups=sum(1 << index for index in machines),
        direct=direct,
        version=version,
    )
    return Turn(
        groups,
        appliers,
        log,
        outlet,
        replies,
        serve_max_bytes=limits.catch_up_max_bytes,
        storage=storage,
        notice_delay=timers.notice_ms * MS,
        log_sync=log_sync,
        clock=clock,
    )


def check_replay(applier: Applier, log: Log) -> None:
    """Raise a `DataDirError` if the state machines of a group cannot be brought up from its log."""
    first = log.first(applier.group)
    if applier.machines and applier.next < first:
        raise DataDirError(
            f"group {applier.group}: its state machines are to go on from instance {applier.next}, but the"
            f" log begins at {first}: what they had stored durably before is not there. Bring it back"
        )


def _readable(log: Log, group: int, state: HardState, *, alone: bool) -> tuple[int, values.Chain]:
    """The highest instance up to that of `state` whose chain is known, and that chain. Where the value before
    the current instance is lost, the group stands lower and learns what is missing, without a vote; if all
    are lost that were not forgotten, the first one that it learns has nothing to fit."""
    instance = state.instance
    while True:
        try:
            if alone and state.lost:
                raise StorageDamaged(f"group {group}: the value accepted in instance {instance} is damaged")
            return instance, chain_at(log, group, instance)
        except StorageDamaged:
            if alone:
                raise
            if instance == log.first(group):
                return instance, values.UNKNOWN
            instance -= 1  # reach: stands-lower


def chain_at(log: Log, group: int, instance: int) -> values.Chain:
    """What the value of that instance must carry.

    Raises:
        StorageDamaged: the value before it is lost.
    """
    if not instance:
        return values.FIRST
    before = log.read(group, instance - 1)
    if before is None:
        raise StorageDamaged(f"group {group}: instance {instance - 1} is decided but not in the log")
    return values.chain_after(before[2])


def timers_of(timers: TimerOptions, proposals: ProposalOptions) -> Timers:
    """The protocol's timers, from milliseconds to nanoseconds."""
    return Timers(
        resend_first=timers.resend_first_ms * MS,
        prepare_first=timers.prepare_first_ms * MS,
        accept_first=timers.accept_first_ms * MS,
        phase_max=timers.phase_max_ms * MS,
        backoff_min=timers.backoff_min_ms * MS,
        backoff_max=timers.backoff_max_ms * MS,
        ask=timers.ask_ms * MS,
        ask_retry=timers.ask_retry_ms * MS,
        leftover=timers.leftover_ms * MS,
        forward=proposals.forward_ms * MS if proposals.forward else 0,
    )


def bounds_of(limits: LimitOptions, proposals: ProposalOptions) -> Bounds:
    """How much one instance may decide together, and how often a proposal may lose."""
    return Bounds(limits.batch_max_count, limits.batch_max_bytes, proposals.attempts)
