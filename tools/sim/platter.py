"""The bytes of a simulated disk: what a process sees, what has reached the platter, and what lies between.

Each segment has two images. Writes go to the first, which stands for the page cache; a sync carries them
to the second; a power cut leaves only the second, and of the writes in between any sectors or none. It
knows nothing of logs. Nothing here is random but by the source that is handed in.
"""

from __future__ import annotations

import errno
from random import Random
from typing import Final, NamedTuple

SECTOR_BYTES: Final = 512
_SHARES: Final = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Of the sectors that were not synced, how many a power cut leaves: often nothing or everything."""


class Unsynced(NamedTuple):
    """A byte of a write that is not synced."""

    number: int
    """Of the segment."""
    write: int
    """Which of its writes."""
    byte: int
    """Within the write."""


class Image:
    """One segment."""

    __slots__ = ("cache", "platter", "salt")

    def __init__(self, size: int, stamp: bytes, salt: int) -> None:
        """`size` bytes of zeros that start with `stamp`, all of it durable."""
        self.cache = bytearray(size)
        self.platter = bytearray(size)
        self.cache[: len(stamp)] = self.platter[: len(stamp)] = stamp
        self.salt = salt
        """As the stamp was made with: what a flipped bit cannot change."""


class Platter:
    """Segments by number, in the order in which they were made."""

    def __init__(self) -> None:
        self.images: dict[int, Image] = {}
        self.dirty: dict[int, list[tuple[int, bytes]]] = {}
        """Of each segment that has any: its writes since its last sync, (offset, data)."""
        self.torn_sectors = 0
        """Sectors of unsynced writes that power cuts took."""
        self._stale: set[int] = set()
        """Segments with a failed sync: what is neither durable nor to be written may be in their cache."""
        self._fuse = -1
        self._rng: Random

    def write(self, number: int, offset: int, data: bytes) -> None:
        """Into the page cache.

        Raises:
            OSError: the armed fault; the first bytes may be there.
        """
        if self._fuse >= 0 and self._burnt():
            data = data[: self._rng.randrange(len(data) + 1)]
            if data:
                self._store(number, offset, data)
            raise OSError(errno.EIO, "the disk failed under a write")
        self._store(number, offset, data)

    def sync(self, number: int) -> None:
        """From the page cache to the platter: all writes of one segment.

        Raises:
            OSError: the armed fault; any sectors are durable, and no later sync will care for the rest.
        """
        writes = self.dirty.pop(number, ())
        platter = self.images[number].platter
        if self._fuse >= 0 and self._burnt():
            self._lose(platter, writes, self._rng)
            self._stale.add(number)
            raise OSError(errno.EIO, "the disk failed under a sync")
        for offset, data in writes:
            platter[offset : offset + len(data)] = data

    def cut_power(self, rng: Random) -> None:
        """Every page cache is gone, and of each unsynced write any sectors."""
        for number, writes in self.dirty.items():
            self._lose(self.images[number].platter, writes, rng)
        for number in self._stale.union(self.dirty):
            image = self.images[number]
            image.cache[:] = image.platter
        self.dirty.clear()
        self._stale.clear()

    def remove(self, number: int) -> None:
        """A segment is gone, durably."""
        del self.images[number]
        self.dirty.pop(number, None)
        self._stale.discard(number)

    def flip(self, number: int, offset: int, mask: int) -> None:
        """A bit of a segment turns."""
        image = self.images[number]
        image.cache[offset] ^= mask
        image.platter[offset] ^= mask

    def flip_unsynced(self, at: Unsynced, mask: int) -> None:
        """A bit of a write turns on its way to the platter."""
        writes = self.dirty[at.number]
        offset, data = writes[at.write]
        turned = bytearray(data)
        turned[at.byte] ^= mask
        writes[at.write] = (offset, bytes(turned))
        self.images[at.number].cache[offset + at.byte] ^= mask

    def arm(self, rng: Random, calls: int) -> None:
        """After so many more writes and syncs, one fails; `rng` says what it leaves."""
        self._fuse = calls
        self._rng = rng

    def disarm(self) -> None:
        """None fails."""
        self._fuse = -1

    def _burnt(self) -> bool:
        self._fuse -= 1
        return self._fuse < 0

    def _store(self, number: int, offset: int, data: bytes) -> None:
        self.images[number].cache[offset : offset + len(data)] = data
        writes = self.dirty.get(number)
        if writes is None:
            self.dirty[number] = [(offset, data)]
        else:
            writes.append((offset, data))

    def _lose(self, platter: bytearray, writes: list[tuple[int, bytes]] | tuple[()], rng: Random) -> None:
        """Some sectors of the writes reach the platter."""
        share = _SHARES[int(rng.random() * len(_SHARES))]
        for offset, data in writes:
            begin, end = 0, SECTOR_BYTES - offset % SECTOR_BYTES
            while begin < len(data):
                if rng.random() < share:
                    part = data[begin:end]
                    platter[offset + begin : offset + begin + len(part)] = part
                else:
                    self.torn_sectors += 1
                begin, end = end, end + SECTOR_BYTES
