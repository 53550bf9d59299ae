"""What a log says of a group's inner state machines: who its members are, and whose reign it is.

The last SYSTEM record says it. Where that may be lost, the values decided since the one before tell the
same; where one of these is lost too, the group goes back to it, and learns from there on what it knew. Where
one is forgotten nothing here can tell: such a group never votes again in its seat, since it does not know
with whom.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from paxmux.engine.paxos import value as values
from paxmux.engine.paxos.system import (
    FOUNDED,
    NO_REIGN,
    Membership,
    SystemState,
    decode_state,
    replayed,
)
from paxmux.engine.storage import HardState, Log, StorageDamaged

READ_COUNT = 256
READ_BYTES = 1 << 20
"""Of decided values that are gone through at a time."""


class InnerState(NamedTuple):
    """Of one group."""

    state: SystemState
    at: int
    """Of this instance: the one that the hard state names, or the first one whose value is lost."""
    lost: bool = False
    """Of an earlier instance: what came after it is forgotten."""


def inner_state(
    log: Log, group: int, state: HardState, founders: Mapping[int, int], cluster: int
) -> InnerState:
    """What the log knows. `founders`: node id -> seat of those who founded the cluster.

    Raises:
        StorageDamaged: the record is whole, and yet none that this program could have written.
    """
    if state.system:
        try:
            found = decode_state(state.system)
        except ValueError as error:
            raise StorageDamaged(f"group {group}: its log has members that cannot be: {error}") from None
    else:
        places = {node: (seat, "") for node, seat in founders.items()}
        found = SystemState(Membership(FOUNDED, places), NO_REIGN, [])
    if not state.system_lost:
        return InnerState(found, state.instance)
    at = state.system_from
    try:
        while at < state.instance:
            records = log.read_range(group, at, min(READ_COUNT, state.instance - at), READ_BYTES)
            if not records or records[0][0] != at:
                break
            for instance, _, _, value in records:
                entries = values.decode(value)
                found = replayed(found, cluster, values.inner_of(value, entries), instance)
                at = instance + 1
    except StorageDamaged:
        pass
    if at < log.first(group):
        return InnerState(found, state.instance, lost=True)
    return InnerState(found, min(at, state.instance))
