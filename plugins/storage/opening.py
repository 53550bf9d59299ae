"""What a new segment starts with: enough that promises and votes need nothing older.

A small accepted value that is not known to be decided is copied. A large one is referred to, since
copying 10 MiB for each group into each segment would be most of what the disk does; whoever removes
the segment that it lies in appends it again first.
"""

from __future__ import annotations

from typing import Final

from paxmux.engine.storage import Record
from paxmux.plugins.storage.group_table import GroupTable
from paxmux.plugins.storage.reader import Reader
from paxmux.plugins.storage.record import (
    ACCEPT,
    BATCH_BYTES,
    CARRIED,
    FORGOTTEN,
    HARD_STATE,
    OPENING,
    RECORD_BYTES,
)

COPY_BYTES: Final = 16 << 10


def opening_records(table: GroupTable, reader: Reader) -> list[Record]:
    """The first batch of a segment.

    Raises:
        StorageDamaged: an accepted value cannot be read.
    """
    records: list[Record] = [(OPENING, 0, table.oldest, 0, 0, b"")]
    for group, state in table.groups.items():
        at = state.accepted_at
        if at and reader.size(at) <= COPY_BYTES:
            _, _, instance, round_, node, value = reader.read(at)
            records.append((ACCEPT, group, instance, round_, node, value))
            at = 0
        carried = CARRIED.pack(state.accepted_round, state.accepted_node, at)
        records.append(
            (HARD_STATE, group, state.instance, state.promised_round, state.promised_node, carried)
        )
        if state.first:
            records.append((FORGOTTEN, group, state.first, 0, 0, b""))
    return records


def batch_bytes(records: list[Record]) -> int:
    """Size of these records as one batch."""
    return BATCH_BYTES + sum(RECORD_BYTES + len(record[5]) for record in records)
