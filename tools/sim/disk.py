"""`SimDisk`: the disk of one log, in memory, with every fault; and `SimLog`, the production log on it.

The log is the one that nodes run, over bytes in its own format; recovery has nothing but those bytes to
go by. Beside them the disk keeps, for judges, what was appended and how much of it a sync has carried to
the platter: no log ever reads that. It breaks nothing by itself: faults come from whoever calls, and
chance from the source that is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from paxmux.engine.errors import DataDirError
from paxmux.engine.storage import HardState, LogIdentity, Record
from paxmux.plugins.storage.record import (
    BATCH_BYTES,
    OFFSET_BITS,
    OFFSET_MASK,
    RECORD_BYTES,
    BatchHeader,
    decode_header,
    decode_record,
    position,
    record_bytes,
)
from paxmux.plugins.storage.segment_file import HEADER_BYTES, STAMP_BYTES, SegmentFile, check_segment_bytes
from paxmux.plugins.storage.segmented import SegmentedLog
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.disk_place import Medium, SimPlace
from paxmux.tools.sim.platter import Image, Unsynced

SEGMENT_BYTES: Final = 64 << 10
SYNC_S: Final = 0.001
"""What each sync takes, where no clock is given."""
_STAMP_BEGIN: Final = 12
"""Magic and version are before it: another version is another program's segment, not damage."""


class Flip(NamedTuple):
    """Where a bit turned."""

    segment: int
    offset: int
    bit: int


class Tail(NamedTuple):
    """The good batches behind what is durable."""

    batches: list[tuple[Record, ...]]
    ends: list[int]
    """Position behind each of `batches`."""
    end: int
    """Position behind the last good batch, a segment's opening included."""


class SimDisk:
    """What outlives the processes of one log."""

    def __init__(
        self,
        identity: LogIdentity,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        clock: Callable[[], float] | None = None,
        scrub_bytes_per_s: int = 0,
    ) -> None:
        """A new, empty disk.

        Args:
            identity: whose log is on it.
            segment_bytes: size of a segment, in range for the production log.
            clock: seconds, never backwards; says when the index is due. Without one, time passes by
                `SYNC_S` with each sync.
            scrub_bytes_per_s: of the log on it.

        Raises:
            ValueError: `segment_bytes` out of range.
        """
        check_segment_bytes(segment_bytes)
        self.identity = identity
        self.segment_bytes = segment_bytes
        self.scrub_bytes_per_s = scrub_bytes_per_s
        self.batches: list[tuple[Record, ...]] = []
        """What was appended, in order; after a crash what survived it. For judges alone."""
        self.synced = 0
        """So many of `batches` survive whatever comes."""
        self.owner: SimLog | None = None
        """The log that has it open."""
        self.clock = clock if clock is not None else self._own_time
        self.medium = Medium(identity, Path(f"node-{identity.node:x}/{identity.log}"))
        self.platter = self.medium.platter
        self._syncs = 0
        self._live = False
        """A recovered log is open: from now on syncs acknowledge."""
        self._writing = 0
        """1 while the last of `batches` is not written yet."""
        self._durable = position(0, HEADER_BYTES)
        """Position behind the last of the synced batches."""
        self._proven = 0
        """Something durable says that the log was durable up to here."""
        self._ends: dict[int, int] = {}
        """Where the data of a segment ends, as far as it is durable."""
        self.hurt = False
        """A bit of what was synced has turned."""
        self._flipped = 0
        """The last such position,"""
        self.unreadable: frozenset[int] = frozenset()
        """Segments whose start is bad: the log goes on without them, and whatever was unsynced there."""
        self._told = 0
        """and up to where the log itself says that it was synced."""
        self._flips: list[tuple[Unsynced, int]] = []
        """Bits that turn on their way to the platter: a sync, which writes again, makes them good."""

    @property
    def full(self) -> str | None:
        """Why there is no room for another segment; None if there is. `healthy` says it."""
        return self.medium.full

    @full.setter
    def full(self, reason: str | None) -> None:
        self.medium.full = reason

    def open(self, *, create: bool = True) -> SimLog:
        """A log on this disk, not recovered yet, as the next process would open it.

        Args:
            create: whether `recover` makes the log if it is not there.

        Raises:
            DataDirError: another log has it open.
            StorageDamaged: the stamp of a segment is bad.
        """
        if self.owner is not None:
            raise DataDirError(f"{self.medium.path}: in use by another log")
        self.owner = SimLog(self, create=create)
        return self.owner

    def contents(self) -> dict[int, bytes]:
        """What is on the platter, segment by segment: what a power cut would leave if nothing is unsynced."""
        return {number: bytes(image.platter) for number, image in self.platter.images.items()}

    # Faults

    def crash(self, rng: Random, power: bool) -> None:
        """The process is gone, and with `power` what its disk had not synced, in whole or in part.

        Without a process only the power is cut. An armed fault goes with it.
        """
        if self.owner is not None:
            self.owner.die()
            self.closed()
        self.platter.disarm()
        if power:
            self.platter.cut_power(rng)
        self._forget_lost()

    def flip(self, rng: Random, synced: bool) -> Flip | None:
        """Turn one bit.

        Args:
            rng: says which.
            synced: of data that something durable proves to be synced: it is read wrong from now on. Not
                of the last batches that were synced, which nothing proves: if they rot, they look torn.
                Else of what is appended and not synced: it turns when the process dies, if no sync comes
                first, or at once if no process is there.

        Returns:
            Where; None if there is nothing to flip.
        """
        mask = 1 << (bit := rng.randrange(8))
        if synced:
            place = self._synced_byte(rng)
            if place is None:
                return None
            self.platter.flip(*place, mask)
            self.hurt = True
            self._flipped = max(self._flipped, position(*place))
            return Flip(*place, bit)
        at = self._unsynced_byte(rng)
        if at is None:
            return None
        if self.owner is not None:
            self._flips.append((at, mask))
        else:
            self.platter.flip_unsynced(at, mask)
            self._forget_lost()
        return Flip(at.number, self.platter.dirty[at.number][at.write][0] + at.byte, bit)

    def fail_sync(self, rng: Random, calls: int | None = None) -> None:
        """A write or sync will fail; the log is unusable then, and what it held may survive or not.

        Args:
            rng: says what is left, and by default whether the next call fails or the one after, which
                in a turn are its write and its sync.
            calls: so many writes and syncs go well first. A crash or a close disarms it.
        """
        self.platter.arm(Random(rng.getrandbits(64)), rng.randrange(2) if calls is None else calls)

    def spoil_index(self) -> bool:
        """The index is found to be unusable when it is opened next; False if it alone says of a bad byte that
        it was synced: nothing could tell that byte from a torn one then."""
        if self.hurt and self._flipped >= self._told:
            return False
        self.medium.notebook.spoilt = True
        return True

    # What the log tells

    def begin(self, batch: tuple[Record, ...]) -> None:
        """A batch is about to be written."""
        self.batches.append(batch)
        self._writing = 1

    def refused(self) -> None:
        """No log can hold the batch; nothing of it was written."""
        self.batches.pop()
        self._writing = 0

    def written(self) -> None:
        """It is."""
        self._writing = 0

    def flushed(self, segment: SegmentFile, end: int) -> None:
        """See `Keeper.flushed`."""
        self._syncs += 1
        if self._flips:
            self._flips = [each for each in self._flips if each[0].number != segment.number]
        # Whatever the log believes: while an older segment is not durable, nothing behind it counts.
        if self._live and self.platter.dirty.keys() <= self.unreadable:
            # The batch just synced says in its header how far the log was durable before.
            self._told = max(self._told, self._durable)
            self._proven = max(self._proven, self._told)
            self._durable = position(segment.number, end)
            self._ends[segment.number] = end
            self.synced = len(self.batches) - self._writing

    def proved(self, position: int) -> None:
        """See `Keeper.proved`."""
        self._proven = max(self._proven, position)

    def closed(self) -> None:
        """See `Keeper.closed`."""
        self.owner = None
        self._live = False
        self._writing = 0
        self.platter.disarm()
        for at, mask in self._flips:
            if at.number in self.platter.dirty:
                self.platter.flip_unsynced(at, mask)
        self._flips.clear()

    def recovered(self, end: int, goes_on: int, words: str | None) -> None:
        """A log has recovered everything up to a position and calls it durable.

        Args:
            end: that position.
            goes_on: where the log goes on: behind it, if it has opened a segment.
            words: what it says is missing before; None if nothing.

        Raises:
            Breach: that is less than was synced, or something else than was appended, or nothing is missing.
        """
        if words is not None and not self.hurt:
            raise Breach("damage has a cause", f"{self.medium.path}: {words}")
        tail = self._tail()
        # Where a segment cannot be read at all, nothing says how much was in it.
        if end < self._durable and goes_on == end:
            words = f"{self.medium.path}: recovered up to {_words(end)}, synced was {_words(self._durable)}"
            raise Breach("what was synced stays", words)
        kept = sum(each <= end for each in tail.ends)
        wanted = self.batches[self.synced : self.synced + kept]
        if end > tail.end or tail.batches[:kept] != wanted:
            words = f"{self.medium.path}: recovered up to {_words(end)}: {tail.batches[:kept]}, not {wanted}"
            raise Breach("recovery invents nothing", words)
        del self.batches[self.synced + kept :]
        self.synced = len(self.batches)
        self._ends[end >> OFFSET_BITS] = end & OFFSET_MASK
        self._durable = goes_on
        self._ends[goes_on >> OFFSET_BITS] = goes_on & OFFSET_MASK
        self._live = True

    # Bytes

    def _own_time(self) -> float:
        return self._syncs * SYNC_S

    def _forget_lost(self) -> None:
        """Of what was not synced, keep what the bytes still have."""
        wanted = self.batches[self.synced :]
        kept = 0
        for batch in self._tail().batches:
            if kept == len(wanted) or batch != wanted[kept]:
                break
            kept += 1
        del self.batches[self.synced + kept :]

    def _tail(self) -> Tail:
        """Read what lies behind the durable part, batch by batch, every byte checked."""
        number, offset = self._durable >> OFFSET_BITS, self._durable & OFFSET_MASK
        found = Tail([], [], self._durable)
        batches, ends, end = found
        while (image := self.platter.images.get(number)) is not None:
            header = _header_at(image, offset)
            batch = None if header is None else _records_at(image, offset, header)
            if header is None or batch is None:
                following = self.platter.images.get(number + 1)
                opening = None if following is None else _header_at(following, HEADER_BYTES)
                if opening is None or opening.synced != position(number, offset):
                    break
                self._ends[number] = offset
                number, offset = number + 1, HEADER_BYTES
                continue
            offset += BATCH_BYTES + header.length
            end = position(number, offset)
            if not header.flags:
                batches.append(batch)
                ends.append(end)
        return Tail(batches, ends, end)

    def _synced_byte(self, rng: Random) -> tuple[int, int] | None:
        """(segment, offset) of any byte that is proven to be durable."""
        proven = min(self._proven, self._durable)
        ranges: list[tuple[int, int, int]] = []
        for number in sorted(self.platter.images):
            if number > proven >> OFFSET_BITS:
                break
            last = proven & OFFSET_MASK if number == proven >> OFFSET_BITS else self._ends.get(number, 0)
            ranges.append((number, _STAMP_BEGIN, STAMP_BYTES))
            if last > HEADER_BYTES:
                ranges.append((number, HEADER_BYTES, last))
        if not proven:
            return None
        left = rng.randrange(sum(end - begin for _, begin, end in ranges))
        for number, begin, end in ranges:
            if left < end - begin:
                return number, begin + left
            left -= end - begin
        raise AssertionError("a byte within the ranges is in one of them")

    def _unsynced_byte(self, rng: Random) -> Unsynced | None:
        """Any byte of a write that is not synced, but for those that repair what was."""
        writes = [
            (number, index, len(data))
            for number, dirty in self.platter.dirty.items()
            for index, (offset, data) in enumerate(dirty)
            if data and position(number, offset) >= self._durable
        ]
        left = rng.randrange(sum(length for *_, length in writes)) if writes else 0
        for number, index, length in writes:
            if left < length:
                return Unsynced(number, index, left)
            left -= length
        return None


class SimLog(SegmentedLog):
    """The production log on a `SimDisk`; implements `paxmux.engine.storage.Log`."""

    def __init__(self, disk: SimDisk, *, create: bool) -> None:
        """`SimDisk.open` calls it."""
        super().__init__(
            disk.medium.path,
            SimPlace(disk.medium, disk),
            segment_bytes=disk.segment_bytes,
            create=create,
            clock=disk.clock,
            scrub_bytes_per_s=disk.scrub_bytes_per_s,
        )
        self.disk = disk

    def recover(self) -> dict[int, HardState]:
        """See `Log.recover`.

        Raises:
            StorageDamaged, StorageFailed: as the production log.
            Breach: what was recovered is not what was appended.
        """
        states = super().recover()
        self.disk.unreadable = frozenset(self._place.lost)
        end, words = self._position, None
        if self._damaged:
            words = self._doubt or f"{self._damaged} values"
        if self._opened_at is not None:
            end = self._opened_at
        self.disk.recovered(end, self._position, words)
        return states

    def housekeep(self) -> float | None:
        """See `Log.housekeep`.

        Raises:
            Breach: it finds damage where none was done.
        """
        pause = super().housekeep()
        if self._scrub.damaged and not self.disk.hurt:
            raise Breach("damage has a cause", f"{self.disk.medium.path}: the scrub finds some")
        return pause

    def append(self, records: Sequence[Record]) -> None:
        """See `Log.append`."""
        if not records or self._unusable is not None:
            super().append(records)
            return
        disk = self.disk
        disk.begin(tuple(records))
        try:
            super().append(records)
        except ValueError:
            disk.refused()
            raise
        disk.written()

    def die(self) -> None:
        """Its process is gone: nothing works any more, and a close has nothing to close."""
        self._unusable = f"{self._path}: crashed"
        self._closed = True


def _header_at(image: Image, offset: int) -> BatchHeader | None:
    data = bytes(image.cache[offset : offset + BATCH_BYTES])
    return decode_header(data, 0, image.salt, offset)


def _records_at(image: Image, offset: int, header: BatchHeader) -> tuple[Record, ...] | None:
    """The records of a batch, with their values; None if any is bad."""
    at = offset + BATCH_BYTES
    end = at + header.length
    records: list[Record] = []
    while at < end:
        length = record_bytes(bytes(image.cache[at : at + RECORD_BYTES]))
        record = decode_record(bytes(image.cache[at : at + length]), image.salt, at)
        if record is None:
            return None
        records.append(record)
        at += length
    return tuple(records) if at == end and len(records) == header.records else None


def _words(at: int) -> str:
    return f"segment {at >> OFFSET_BITS}, offset {at & OFFSET_MASK}"
