"""Where a log lies: what the log does to its segments, its index and the mark of a clean stop.

The log decides what is written, in which order, and what a failure means; a place only carries it out.
`Directory` is the one on disk. Whatever else can hold bytes and lose them as a disk does can be a place:
the log then runs over it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from paxmux.plugins.storage.group_table import GroupState, Positions
from paxmux.plugins.storage.segment_file import SegmentFile


class IndexUnusable(Exception):
    """The index cannot be used; the message says why."""


class StoredIndex(Protocol):
    """The index of one log, open: a cache of where values are, and of hard states.

    Made of synced records alone; whatever is wrong with it is `IndexUnusable`.
    """

    position: int | None
    """Everything in the log before it is in the index; None: the index is new."""
    proven: int
    """The log was durable up to here when the index was last written."""
    oldest: int
    """The oldest segment that the log needed then."""
    doubt: bool
    """Whether promises of the log could be lost then."""
    systems: int
    """How many SYSTEM records, modulo 2^16, stand before `position`."""
    states: dict[int, GroupState]
    """Hard states as found at opening."""

    def chunk(self, group: int, number: int) -> Positions | None:
        """The stored positions of a chunk.

        Raises:
            IndexUnusable: it is there and damaged.
        """
        ...

    def write(
        self,
        chunks: Iterable[tuple[int, int, Positions]],
        states: Iterable[tuple[int, GroupState]],
        position: int | None,
        proven: int,
        oldest: int,
        doubt: bool,
        systems: int,
    ) -> None:
        """Store all of it in one durable transaction; it may be repeated if it fails.

        Args:
            chunks: (group, chunk number, positions).
            states: (group, its state).
            position: everything before it is now stored; None: as before.
            proven: the log is durable up to here.
            oldest: the oldest segment that the log needs. What a state says is forgotten may go.
            doubt: whether promises of the log may be lost.
            systems: SYSTEM records before `position`, if that is given.

        Raises:
            IndexUnusable: nothing of it was stored.
        """
        ...

    def drop(self, group: int) -> bool:
        """Remove a bounded part of what is stored of a group; whether nothing is left of it.

        Raises:
            IndexUnusable: nothing was removed.
        """
        ...

    def check(self) -> None:
        """Look through all chunks, once: something is missing that is usually there.

        Raises:
            IndexUnusable: not all that was stored is there.
        """
        ...

    def disk_bytes(self) -> int:
        """What it takes on the disk."""
        ...

    def reopen(self) -> None:
        """Open it again after a failed write, which may have left it unusable.

        Raises:
            IndexUnusable: it cannot be opened, or is not the one that was open before.
        """
        ...

    def close(self) -> None:
        """Close it; what was written is durable already."""
        ...


class Place(Protocol):
    """The place of one log, held by its only owner until `close`."""

    segments: dict[int, SegmentFile]
    """Every segment that can be read, by number, in order; the log takes part in keeping it."""
    lost: dict[int, str]
    """Why a segment cannot be read, or not to its end; nothing takes its place. As found at opening."""
    mark: int | None
    """Where the last clean stop left the log, as found at opening; None if there was none."""

    def read(self, segment: SegmentFile, offset: int, length: int) -> bytes:
        """Bytes of a segment; fewer only where the segment ends.

        Raises:
            StorageDamaged: they cannot be read, or there are fewer than there were made.
            OSError: the segment cannot be opened.
        """
        ...

    def write(self, segment: SegmentFile, offset: int, data: bytes) -> None:
        """Write all of `data`; it is not durable before `sync`.

        Raises:
            OSError: some of it may be written.
        """
        ...

    def write_pieces(self, segment: SegmentFile, offset: int, pieces: Sequence[bytes], length: int) -> None:
        """As `write`, of many bytes: what the pieces are together, `length` of them.

        Raises:
            OSError: some of it may be written.
        """
        ...

    def sync(self, segment: SegmentFile) -> None:
        """Make durable what was written to the segment.

        Raises:
            OSError: any part of it may be durable, or none; a later sync says nothing about it.
        """
        ...

    def found(self, size: int) -> SegmentFile:
        """Make the first segment, `size` bytes of zeros behind its header, durable by name.

        Raises:
            OSError: no space, or the disk failed.
        """
        ...

    def remove(self, torn: Sequence[SegmentFile]) -> None:
        """Remove these segments, durably.

        Raises:
            OSError: they may be there or not.
        """
        ...

    def discard(self, segment: SegmentFile) -> None:
        """Begin to remove a segment that the log needs no more; it is not in `segments` from now on. One
        after the other, each durably: of those that are left none is missing in between."""
        ...

    def discarding_bytes(self) -> int:
        """Size of the segments that are not removed yet; `trouble` says if one cannot be."""
        ...

    def drop_cache(self, segment: SegmentFile, offset: int, length: int) -> None:
        """These bytes were read and need not be kept in memory; they are not written to."""
        ...

    def release(self) -> None:
        """Recovery is over: from now on segments may be replaced that nothing was written to."""
        ...

    def start_reserving(self, ready: SegmentFile | None) -> None:
        """Begin to make segments ahead; `ready` is a reserved one that an earlier life left."""
        ...

    def request(self, number: int, size: int, *, fill: bool) -> None:
        """Make segment `number` of `size` bytes, unless one is ready; `fill` it with zeros if time allows."""
        ...

    def take(self, number: int, size: int, least: int) -> SegmentFile:
        """The reserved segment, or one made now.

        Args:
            number: of the segment.
            size: bytes of the segment to make if there is none that will do.
            least: bytes that one must have to do.

        Raises:
            NoRoom: it cannot be made now; a smaller one that is reserved stays.
        """
        ...

    def trouble(self) -> str | None:
        """Why the next segment cannot be made, in words; None while all is well."""
        ...

    def reserved_bytes(self) -> int:
        """Size of the segment that is reserved, 0 if none is."""
        ...

    def open_index(self) -> StoredIndex:
        """Open the index, or make a new one if there is none.

        Raises:
            IndexUnusable: damaged, of another log or of a newer version.
        """
        ...

    def set_index_aside(self) -> None:
        """Put an unusable index out of the way, so that the next opening makes a new one."""
        ...

    def drop_set_aside(self) -> None:
        """Remove what was set aside: its successor is complete."""
        ...

    def write_mark(self, end: int) -> None:
        """Say, durably, that the log ends, durable, at position `end`.

        Raises:
            OSError: the mark may be there or not.
        """
        ...

    def remove_mark(self) -> None:
        """Take the mark away, durably, if there is one.

        Raises:
            OSError: the mark may be there or not.
        """
        ...

    def close(self) -> None:
        """Close every file and let the next owner in."""
        ...
