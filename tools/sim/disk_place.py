"""A simulated disk as the place of a log: segments on a platter, an index and a mark that are durable.

It carries out what the production log decides, as `Directory` does on a real disk. An index is a small
database with a durability of its own, so it is kept whole here: it can be lost, but not torn.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from paxmux.engine.storage import LogIdentity, NoRoom
from paxmux.plugins.storage.group_table import GroupState, Positions
from paxmux.plugins.storage.place import IndexUnusable
from paxmux.plugins.storage.record import BATCH_BYTES
from paxmux.plugins.storage.segment_file import (
    HEADER_BYTES,
    Loaded,
    SegmentFile,
    admit,
    encode_stamp,
    segment_path,
)
from paxmux.tools.sim.platter import Image, Platter

_STATE_FIELDS: Final = (
    "instance",
    "promised_round",
    "promised_node",
    "accepted_round",
    "accepted_node",
    "accepted_at",
    "first",
    "live_bytes",
    "standing",
    "system_from",
    "system_lost",
    "system",
)
_WEYL: Final = 0x9E3779B97F4A7C15
"""Odd: its multiples are all different within 64 bits."""


class Notebook:
    """What an index has stored; outlives processes and power cuts."""

    def __init__(self) -> None:
        self.position: int | None = None
        self.proven = self.oldest = 0
        self.doubt = False
        self.systems = 0
        self.chunks: dict[tuple[int, int], Positions] = {}
        self.states: dict[int, tuple[Any, ...]] = {}
        self.spoilt = False


class Medium:
    """Everything of one log that outlives its process."""

    def __init__(self, identity: LogIdentity, path: Path) -> None:
        self.identity = identity
        self.path = path
        """For messages."""
        self.platter = Platter()
        self.notebook = Notebook()
        self.mark: int | None = None
        """Of a clean stop."""
        self.full: str | None = None
        self.made = 0
        """Segments ever made."""
        self._paths: dict[int, Path] = {}

    def make(self, number: int, size: int) -> SegmentFile:
        """A segment of zeros, durable."""
        # Different for each, the same in every run.
        random = (self.made + 1) * _WEYL & 0xFFFF_FFFF_FFFF_FFFF
        stamp, salt = encode_stamp(self.identity, number, size, random)
        self.made += 1
        platter = self.platter
        if number in platter.images:
            platter.remove(number)
        platter.images[number] = Image(size, stamp, salt)
        return SegmentFile(self._path(number), number, size, salt)

    def load(self) -> Loaded:
        """Every segment, as `load_segments` finds them on a real disk."""
        loaded = Loaded({}, {})
        for number, image in self.platter.images.items():
            data = image.cache
            admit(
                loaded,
                number,
                bytes(data[: HEADER_BYTES + BATCH_BYTES]),
                self._path(number),
                len(data),
                self.identity,
                blank=partial(_blank, data),
            )
        return loaded

    def _path(self, number: int) -> Path:
        path = self._paths.get(number)
        if path is None:
            path = self._paths[number] = segment_path(self.path, number)
        return path


def _blank(data: bytearray) -> bool:
    return not any(data[HEADER_BYTES:])


class Keeper(Protocol):
    """Who wants to know what has become durable."""

    def flushed(self, segment: SegmentFile, end: int) -> None:
        """A segment is synced; the last write to it ended at this offset."""
        ...

    def proved(self, position: int) -> None:
        """Index or mark say, durably, that the log was durable up to a position."""
        ...

    def closed(self) -> None:
        """The log is."""
        ...


class SimIndex:
    """A `Notebook`, open; implements `paxmux.plugins.storage.place.StoredIndex`."""

    def __init__(self, notebook: Notebook, keeper: Keeper) -> None:
        """Open it.

        Raises:
            IndexUnusable: it is spoilt.
        """
        if notebook.spoilt:
            raise IndexUnusable("the CRC of an entry does not match")
        self._notebook = notebook
        self._keeper = keeper
        self.position = notebook.position
        self.proven = notebook.proven
        self.oldest = notebook.oldest
        self.doubt = notebook.doubt
        self.systems = notebook.systems
        self.states: dict[int, GroupState] = {}
        if notebook.position is not None:
            self.states = {group: GroupState(*fields) for group, fields in notebook.states.items()}

    def chunk(self, group: int, number: int) -> Positions | None:
        """See `StoredIndex.chunk`."""
        found = self._notebook.chunks.get((group, number))
        return None if found is None else array("Q", found)

    def check(self) -> None:
        """See `StoredIndex.check`: a notebook loses nothing, or is spoilt as a whole."""

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
        """See `StoredIndex.write`."""
        notebook = self._notebook
        for group, number, positions in chunks:
            notebook.chunks[group, number] = array("Q", positions)
        for group, state in states:
            notebook.states[group] = tuple([getattr(state, name) for name in _STATE_FIELDS])
        if position is not None:
            self.position, self.systems = position, systems
        if self.position is not None:
            notebook.position, notebook.proven, notebook.oldest = self.position, proven, oldest
            notebook.doubt, notebook.systems = doubt, self.systems
            self._keeper.proved(proven)
        self.proven, self.oldest, self.doubt = proven, oldest, doubt

    def drop(self, group: int) -> bool:
        """See `StoredIndex.drop`: a chunk at a time."""
        notebook = self._notebook
        notebook.states.pop(group, None)
        found = next((key for key in notebook.chunks if key[0] == group), None)
        if found is not None:
            del notebook.chunks[found]
        return found is None

    def disk_bytes(self) -> int:
        """See `StoredIndex.disk_bytes`."""
        return sum(len(chunk) * chunk.itemsize for chunk in self._notebook.chunks.values())

    def reopen(self) -> None:
        """See `StoredIndex.reopen`: a notebook never fails."""

    def close(self) -> None:
        """See `StoredIndex.close`."""


class SimPlace:
    """A `Medium` for its one owner; implements `paxmux.plugins.storage.place.Place`."""

    def __init__(self, medium: Medium, keeper: Keeper) -> None:
        """Open it."""
        self.segments, self.lost = medium.load()
        self.mark = medium.mark
        self._medium = medium
        self._platter = medium.platter
        self._images = medium.platter.images
        self._keeper = keeper
        self._ready: SegmentFile | None = None

    def read(self, segment: SegmentFile, offset: int, length: int) -> bytes:
        """See `Place.read`."""
        return bytes(memoryview(self._images[segment.number].cache)[offset : offset + length])

    def write(self, segment: SegmentFile, offset: int, data: bytes) -> None:
        """See `Place.write`."""
        self._platter.write(segment.number, offset, data)

    def write_pieces(self, segment: SegmentFile, offset: int, pieces: Sequence[bytes], length: int) -> None:
        """See `Place.write_pieces`."""
        self.write(segment, offset, b"".join(pieces))

    def sync(self, segment: SegmentFile) -> None:
        """See `Place.sync`."""
        writes = self._platter.dirty.get(segment.number)
        self._platter.sync(segment.number)
        if writes:
            offset, data = writes[-1]
            self._keeper.flushed(segment, offset + len(data))

    def found(self, size: int) -> SegmentFile:
        """See `Place.found`."""
        if self._medium.full is not None:
            raise OSError(errno.ENOSPC, self._medium.full)
        first = self.segments[0] = self._medium.make(0, size)
        return first

    def remove(self, torn: Sequence[SegmentFile]) -> None:
        """See `Place.remove`."""
        for segment in torn:
            self._platter.remove(segment.number)
            del self.segments[segment.number]

    def discard(self, segment: SegmentFile) -> None:
        """See `Place.discard`: at once."""
        self.remove([segment])

    def discarding_bytes(self) -> int:
        """See `Place.discarding_bytes`."""
        return 0

    def drop_cache(self, segment: SegmentFile, offset: int, length: int) -> None:
        """See `Place.drop_cache`: everything is in memory."""

    def release(self) -> None:
        """See `Place.release`: nothing is held."""

    def start_reserving(self, ready: SegmentFile | None) -> None:
        """See `Place.start_reserving`."""
        self._ready = ready

    def request(self, number: int, size: int, *, fill: bool) -> None:
        """See `Place.request`."""
        if self._ready is None and self._medium.full is None:
            self._ready = self._medium.make(number, size)

    def take(self, number: int, size: int, least: int) -> SegmentFile:
        """See `Place.take`."""
        ready = self._ready
        if ready is None or ready.size < least:
            if self._medium.full is not None:
                raise NoRoom(f"no room for the log to go on: {self._medium.full}")
            ready = self._medium.make(number, size)
        self._ready = None
        return ready

    def trouble(self) -> str | None:
        """See `Place.trouble`."""
        return self._medium.full

    def reserved_bytes(self) -> int:
        """See `Place.reserved_bytes`."""
        return self._ready.size if self._ready is not None else 0

    def open_index(self) -> SimIndex:
        """See `Place.open_index`."""
        return SimIndex(self._medium.notebook, self._keeper)

    def set_index_aside(self) -> None:
        """See `Place.set_index_aside`."""
        self._medium.notebook = Notebook()

    def drop_set_aside(self) -> None:
        """See `Place.drop_set_aside`: nobody would ever look at it."""

    def write_mark(self, end: int) -> None:
        """See `Place.write_mark`."""
        self._medium.mark = end
        self._keeper.proved(end)

    def remove_mark(self) -> None:
        """See `Place.remove_mark`."""
        self._medium.mark = None

    def close(self) -> None:
        """See `Place.close`."""
        self._keeper.closed()
