"""Groups that change their log while no worker runs: what is copied, in which order, and what must hold.

A group's truth is in one log, its *source*, until the map in the data directory says otherwise. Copied is
what the source's recovery tells of the group: each decided value as LEARNED, then the accepted value of
its open instance as ACCEPT, then the state of its inner state machines as SYSTEM, then the promise. It goes
through the contract of a log alone, so the logs may be of any plugin.

Why a copy that was cut off, or that the source has outrun since, does no harm: everything in it was
true of this seat when it was written, and a log folds its records by maximum (promise, instance) or by
the last one, of an instance (values) or of all (inner machines). So a later try, which adds what is missing,
ends where a first one would: at the source's state. It goes on at the target's current instance, below which
the target has all that the source had; what the target has *at* that instance may be out of date, and is
outvoted by the LEARNED or ACCEPT that the source's newer one becomes. For the same reason a group may come
back to a log that it has left. A copy that a live move has begun may have the last accepted value as LEARNED,
of which the source's log does not say yet that it is decided. Other than that no target can know more than
the source: then the map is not of these logs, and nothing is moved.

What a log has lost is lost for the group wherever it goes: a group in doubt (`Log.doubt`) is in doubt in its
new log, and one that is sound stays so in a log that is in doubt. Values that are damaged keep a group where
it is, until its worker has got them back from other members.

It decides no switch: whoever calls it does, when all is copied, and it never writes into a source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from paxmux.engine.address import node_text
from paxmux.engine.errors import StorageFailed
from paxmux.engine.storage import (
    NULL_BALLOT,
    HardState,
    Log,
    Record,
    RecordKind,
    StorageDamaged,
    unknown_state,
)

COPY_COUNT = 4096
COPY_BYTES = 1 << 20
"""Values that are in memory at a time; a single larger one goes alone."""

STAY = "start with the layout as it was: what is damaged comes back from other members, then change it"


class Move(NamedTuple):
    """A group that is to change its log."""

    group: int
    source: int
    target: int


class Copy(NamedTuple):
    """What was copied in one step; it is synced."""

    values: int
    bytes: int
    done: bool
    """Everything of the group is in its target."""


def moves_between(hosts: Sequence[int], wanted: Sequence[int]) -> list[Move]:
    """The groups whose log in `wanted` is another one than in `hosts`."""
    return [
        Move(group, source, target)
        for group, (source, target) in enumerate(zip(hosts, wanted, strict=True))
        if source != target
    ]


def copy_groups(
    moves: Sequence[Move], logs: Mapping[int, Log], states: Mapping[int, Mapping[int, HardState]]
) -> Iterator[Copy]:
    """Copy everything of each group into its target, a bounded step at a time.

    Args:
        moves: each group once.
        logs: every source and target by number, open and recovered by this process.
        states: what their `recover` said.

    Raises:
        StorageDamaged: a value cannot be read, or a target knows more of a group than its source.
        StorageFailed: a target cannot take more.
    """
    for move in moves:
        _check(move, logs[move.target], *_states(move, logs, states))
    for move in moves:
        here, there = _states(move, logs, states)
        yield from _copy(move.group, logs[move.source], here, logs[move.target], there)


def _states(
    move: Move, logs: Mapping[int, Log], states: Mapping[int, Mapping[int, HardState]]
) -> tuple[HardState, HardState]:
    """What source and target know of a group."""
    here, there = (
        states[log].get(move.group, unknown_state(logs[log].doubt())) for log in (move.source, move.target)
    )
    return here, there


def _check(move: Move, target: Log, here: HardState, there: HardState) -> None:
    if here.lost:
        raise StorageDamaged(
            f"group {move.group}: what it has accepted in instance {here.instance} is damaged; {STAY}"
        )
    # One that is suspect may well have lost what the target still knows.
    if not here.suspect and _knows_more(move.group, here, target, there):
        raise StorageDamaged(
            f"log {move.target} knows more of group {move.group} than log {move.source}, which has it by "
            f"identity.json: instance {there.instance}, promise {_ballot(there)} against instance "
            f"{here.instance}, promise {_ballot(here)}. Files of different times were mixed"
        )


def _knows_more(group: int, here: HardState, target: Log, there: HardState) -> bool:
    if there.promised > here.promised or there.instance > here.instance + 1:
        return True
    if there.system_from > here.system_from and not here.system_lost:
        return True
    if there.instance <= here.instance:
        return False
    last = target.read(group, here.instance)
    return (
        here.accepted == NULL_BALLOT or there.accepted != NULL_BALLOT or last is None or last[2] != here.value
    )


def _copy(group: int, source: Log, here: HardState, target: Log, there: HardState) -> Iterator[Copy]:
    first = source.first(group)
    instance = max(first, there.instance)
    while instance < here.instance:
        try:
            found = source.read_range(group, instance, min(COPY_COUNT, here.instance - instance), COPY_BYTES)
        except StorageDamaged as error:
            raise StorageDamaged(f"group {group}: {error}; {STAY}") from error
        if not found:
            raise StorageDamaged(f"group {group}: instance {instance} is decided but not in its log; {STAY}")
        _write(target, [(RecordKind.LEARNED, group, *value) for value in found])
        instance = found[-1][0] + 1
        yield Copy(len(found), sum([len(value[3]) for value in found]), False)
    last = last_records(group, here, there, first)
    if last:
        _write(target, last)
    yield Copy(0, 0, True)


def last_records(group: int, here: HardState, there: HardState, first: int) -> list[Record]:
    """What a target lacks of a group whose decided values it has: accepted value, state of the inner
    machines, promise, and what need not be kept.

    Args:
        group: its index.
        here: what its source has.
        there: what the target had before any value was copied; or less.
        first: the first instance whose value the source has.
    """
    records: list[Record] = []
    known = there.promised
    if here.accepted != NULL_BALLOT and there.instance <= here.instance:
        known = max(known, here.accepted)
        if (there.instance, there.accepted) != (here.instance, here.accepted):
            records.append((RecordKind.ACCEPT, group, here.instance, *here.accepted, here.value))
    if _system(here) != _system(there):
        records.append((RecordKind.SYSTEM, group, here.system_from, int(here.system_lost), 0, here.system))
    if here.suspect:
        records.append((RecordKind.SUSPECT, group, 0, 0, 0, b""))
    if there.suspect and not here.suspect:
        records.append((RecordKind.CLEARED, group, here.instance, *here.promised, b""))
    elif here.promised > known:
        records.append((RecordKind.PROMISE, group, here.instance, *here.promised, b""))
    if first:
        records.append((RecordKind.FORGOTTEN, group, first, 0, 0, b""))
    return records


def _system(state: HardState) -> tuple[int, bytes, bool]:
    return state.system_from, state.system, state.system_lost


def _write(target: Log, records: Sequence[Record]) -> None:
    trouble = target.healthy()
    if trouble is not None:
        raise StorageFailed(trouble)
    target.append(records)
    target.sync()
    target.housekeep()


def _ballot(state: HardState) -> str:
    round_, node = state.promised
    return f"{round_}@{node_text(node)}" if round_ else "none"
