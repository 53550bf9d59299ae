"""What a new segment starts with: enough that promises and votes need nothing older.

A small accepted value that is not known to be decided is copied. A large one is referred to, since
copying 10 MiB for each group into each segment would be most of what the disk does; whoever removes
the segment that it lies in appends it again first.
"""

from __future__ import annotations

from typing import Final

from paxmux.engine.storage import Record, StorageDamaged
from paxmux.plugins.storage.group_table import SOUND, SUSPECTED, GroupTable
from paxmux.plugins.storage.reader import Reader
from paxmux.plugins.storage.record import (
    ACCEPT,
    BATCH_BYTES,
    CARRIED,
    CLEARED,
    DOUBT,
    FORGOTTEN,
    HARD_STATE,
    OPENING,
    RECORD_BYTES,
    SUSPECT,
    SYSTEM,
)

COPY_BYTES: Final = 16 << 10


def opening_records(table: GroupTable, reader: Reader) -> list[Record]:
    """The first batch of a segment. An accepted value that cannot be read is referred to as it is."""
    records: list[Record] = [(OPENING, 0, table.oldest, 0, 0, b"")]
    if table.doubt:
        # Before the groups: those that are cleared follow.
        records.append((DOUBT, 0, 0, 0, 0, b""))
    for group, state in table.groups.items():
        at = state.accepted_at
        copied = _accepted(reader, at) if at else None
        if copied is not None:
            records.append(copied)
            at = 0
        carried = CARRIED.pack(state.accepted_round, state.accepted_node, at)
        records.append(
            (HARD_STATE, group, state.instance, state.promised_round, state.promised_node, carried)
        )
        if state.first:
            records.append((FORGOTTEN, group, state.first, 0, 0, b""))
        if state.standing == SUSPECTED:
            records.append((SUSPECT, group, 0, 0, 0, b""))
        elif state.standing == SOUND:
            records.append((CLEARED, group, state.instance, state.promised_round, state.promised_node, b""))
        if state.system or state.system_from or state.system_lost or table.doubt:
            records.append((SYSTEM, group, state.system_from, int(state.system_lost), 0, state.system))
    return records


def _accepted(reader: Reader, at: int) -> Record | None:
    """The accept at a position, if it is to be copied."""
    try:
        if reader.size(at) > COPY_BYTES:
            return None
        _, group, instance, round_, node, value = reader.read(at)
    except StorageDamaged:
        return None
    return ACCEPT, group, instance, round_, node, value


def batch_bytes(records: list[Record]) -> int:
    """Size of these records as one batch."""
    return BATCH_BYTES + sum(RECORD_BYTES + len(record[5]) for record in records)
