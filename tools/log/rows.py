"""Decided values as rows of a table: one for each entry, in bounded batches.

An instance decides a batch of proposals; a row is one of them. An instance that decides nothing (a no-op)
still has a row, without position and value: so every decided instance is there, and a gap is a gap.
Bytes that are no value are treated alike, and kept as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from paxmux.engine.paxos.value import chain_in, decode, encode
from paxmux.tools.log.group import Value

BATCH_ROWS: Final = 16_384
BATCH_BYTES: Final = 8 << 20

COLUMNS: Final = (
    ("group", "uint16", False),
    ("instance", "uint64", False),
    ("round", "uint64", False),
    ("node", "uint64", False),
    ("checksum", "uint32", False),
    ("chain", "uint32", True),
    ("entries", "uint32", False),
    ("position", "uint32", True),
    ("smid", "uint32", True),
    ("origin", "uint64", True),
    ("incarnation", "uint64", True),
    ("seq", "uint64", True),
    ("born", "uint64", True),
    ("size", "uint32", False),
    ("value", "binary", True),
)
"""(name, type, whether it can be null)."""

Row: TypeAlias = tuple[Any, ...]
"""One item for each column."""
Flush: TypeAlias = Callable[[list[Row]], None]


def is_no_op(value: bytes) -> bool:
    """Whether it is a value, and decides nothing."""
    return value == encode([], chain_in(value))


def rows_of(value: Value) -> list[Row]:
    """The rows of one decided value."""
    data = value.value
    entries = decode(data)
    claimed = chain_in(data)
    head = (
        value.group,
        value.instance,
        value.round,
        value.node,
        int.from_bytes(value.checksum, "little"),
        int.from_bytes(claimed, "little") if len(claimed) == 4 else None,
        len(entries),
    )
    if not entries:
        rest = None if is_no_op(data) else data
        return [(*head, None, None, None, None, None, None, len(rest or b""), rest)]
    return [
        (*head, position, smid, origin, incarnation, seq, born, len(payload), payload)
        for position, (origin, incarnation, seq, born, smid, payload) in enumerate(entries)
    ]


class Rows:
    """Collects rows and hands them on in batches of bounded size."""

    def __init__(self, flush: Flush) -> None:
        self.count = 0
        self._flush = flush
        self._waiting: list[Row] = []
        self._bytes = 0

    def add(self, values: Iterable[Value]) -> None:
        """Rows of decided values."""
        for value in values:
            rows = rows_of(value)
            self._waiting += rows
            self._bytes += len(value.value)
            self.count += len(rows)
            if len(self._waiting) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
                self.finish()

    def finish(self) -> None:
        """Hand on what waits."""
        if self._waiting:
            self._flush(self._waiting)
            self._waiting = []
            self._bytes = 0
