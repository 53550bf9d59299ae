"""The log of a worker as an append-only run of segments for all its groups, wherever they lie.

It decides when a segment is full and that the first failure is the last. It never acknowledges what
is not synced, never retries a write or sync, and never writes over what may be durable. What the
bytes look like is in `record.py` and `segment_file.py`, what a start does in `recovery.py`, and who
carries it all out in `place.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from paxmux.engine.errors import StorageFailed
from paxmux.engine.storage import CLEAN_BYTES_PER_S, HardState, LogStats, NoRoom, Record, StorageDamaged
from paxmux.plugins.storage.cleaner import Cleaner
from paxmux.plugins.storage.losses import Losses
from paxmux.plugins.storage.opening import batch_bytes, opening_records
from paxmux.plugins.storage.place import IndexUnusable, Place
from paxmux.plugins.storage.reader import Reader
from paxmux.plugins.storage.record import (
    DECIDED,
    FORGOTTEN,
    OPENS_SEGMENT,
    RELEASED,
    UPKEEP,
    encode_pieces,
    position,
)
from paxmux.plugins.storage.scrub import Scrub
from paxmux.plugins.storage.segment_file import (
    HEADER_BYTES,
    MAX_SEGMENT_BYTES,
    SegmentFile,
    segment_path,
)
from paxmux.plugins.storage.size_limit import SizeLimit
from paxmux.plugins.storage.startup import Startup

FIRST_SEGMENT_BYTES: Final = 4 << 20
"""The first segment is no larger, the next ones double up to `segment_bytes`: a young or small log
starts fast and takes little room."""
FLUSH_CHUNKS: Final = 8192
"""If so much waits for the index, `sync` stores a slice, whoever forgot to call `housekeep`."""
FILL_BELOW_BYTES: Final = 64 << 10
"""With batches smaller than this the next segment is filled with zeros ahead: it makes their syncs
shorter. With larger ones the disk is busy enough: zeros would halve what it can take."""
LOST: Final = "with it is lost what this node has promised, and it must not vote in its present seat again"
LARGE_BYTES: Final = 64 << 10  # A batch of so many bytes goes to its place in pieces.
UNSYNCED_WAIT_S: Final = 0.005
LIMIT_WAIT_S: Final = 0.1
"""How often a log that is as large as it may be looks whether it is smaller."""
MAKES_ROOM: Final = frozenset({DECIDED, FORGOTTEN, RELEASED})
"""A batch of these alone may take the segment that `max_bytes` keeps free."""


class SegmentedLog:
    """A log at a place of its own; implements `paxmux.engine.storage.Log`."""

    _start: Startup
    _segment: SegmentFile

    def __init__(
        self,
        path: Path,
        place: Place,
        *,
        segment_bytes: int,
        create: bool,
        clock: Callable[[], float],
        max_bytes: int = 0,
        clean_bytes_per_s: int = CLEAN_BYTES_PER_S,
        scrub_bytes_per_s: int = 0,
    ) -> None:
        """
        Args:
            path: of the place, for messages.
            place: where the log is; closed with it.
            segment_bytes: size of a segment, as `check_segment_bytes` allows; a larger batch gets a
                larger one.
            create: whether `recover` makes the log if it is not there.
            clock: seconds from any start, never backwards; says when the index is due.
            max_bytes, clean_bytes_per_s, scrub_bytes_per_s: as `OpenLog` says.
        """
        self._path = path
        self._place = place
        self._segments = place.segments
        self._segment_bytes = segment_bytes
        self._limit = SizeLimit(path, max_bytes, segment_bytes)
        self._clean_bytes_per_s = clean_bytes_per_s
        self._scrub_bytes_per_s = scrub_bytes_per_s
        self._create = create
        self._clock = clock
        self._unusable: str | None = "recover comes before anything else"
        """Why nothing works (any more); None while the log is usable."""
        self._started = self._closed = False
        self._offset = self._position = self._synced = 0
        """Where the next batch goes, within the segment and as a position; and what is durable."""
        self._appends = self._syncs = self._records = self._bytes = self._taken = 0
        self._recovered = self._cut = self._disk_bytes = 0
        self._damaged = 0
        self._doubt: str | None = None
        self._opened_at: int | None = None
        """Where the log had ended, if recovery has opened a segment."""
        self._reader = Reader(place)

    def recover(self) -> dict[int, HardState]:
        """See `Log.recover`.

        Raises:
            StorageDamaged: the log is not there, or not a segment of it can be read; nothing was changed.
            StorageFailed: the disk failed, or there is no room for the first segment, or for the one that
                says that something was lost.
        """
        if self._started or self._closed:
            raise StorageFailed(f"{self._path}: recover is called once, on an open log")
        self._started = True
        try:
            self._start = Startup(self._place, self._clock)
            if not self._segments:
                self._found_log()
            found = self._start.recover()
            self._recovered, self._cut = found.records, found.cut_bytes
            self._damaged = found.gaps
            self._use(found.segment, found.offset)
            self._synced = self._position
            self._begin_upkeep(found.reserved)
            if found.doubt is not None:
                # Behind everything that is there, so that nothing that is damaged is written over.
                self._start.table.distrust()
                self._opened_at = self._position
                number = max([*self._segments, *self._place.lost, found.segment.number]) + 1
                self._roll(0, number, upkeep=True)
                self._sync()
            elif self._offset == HEADER_BYTES:
                if not self._create:
                    raise StorageDamaged(
                        f"{found.segment.path}, offset {HEADER_BYTES}: nothing is there; {LOST}"
                    )
                self._open_segment(self._opening(), 0)
                self._sync()
            self._start.complete(self._synced)
            states = self._start.hard_states(self._reader)
            self._damaged += self._start.damaged
            self._doubt = found.doubt
            if self._doubt is None and self._start.table.doubt:
                self._doubt = "some that may have held promises were damaged at an earlier start"
            self._place.remove_mark()
        except StorageDamaged as error:
            self._unusable = str(error)
            raise
        except (OSError, IndexUnusable, StorageFailed) as error:
            raise self._fail("recovery", error) from error
        self._request_next()
        self._unusable = None
        return states

    def _begin_upkeep(self, reserved: SegmentFile | None) -> None:
        """What goes on beside the log; `reserved` is a segment that an earlier life has made ahead."""
        self._disk_bytes = sum(each.size for each in self._segments.values())
        if reserved is not None:
            # Not a part of the log before it is taken.
            del self._segments[reserved.number]
            self._disk_bytes -= reserved.size
        self._place.start_reserving(reserved)
        self._losses = Losses(self._start.table, self._reader)
        self._scrub = Scrub(self._place, self._losses, bytes_per_s=self._scrub_bytes_per_s, clock=self._clock)
        self._cleaner = Cleaner(
            self._place,
            self._start.table,
            losses=self._losses,
            segment_bytes=self._segment_bytes,
            bytes_per_s=self._clean_bytes_per_s,
            clock=self._clock,
        )

    def _found_log(self) -> None:
        """Make the first segment of a log that has none, unless it once had."""
        if not self._create:
            raise StorageDamaged(f"{self._path}: the log is not there; {LOST}")
        if self._place.lost:
            raise StorageDamaged(f"no segment can be read: {'; '.join(self._place.lost.values())}")
        if self._place.mark is not None or self._start.index.position is not None:
            raise StorageDamaged(f"{segment_path(self._path, 0)}: missing, and so is every other segment")
        self._place.found(self._size(0))

    def doubt(self) -> str | None:
        """See `Log.doubt`."""
        return self._doubt

    def damage(self) -> list[tuple[int, int]]:
        """See `Log.damage`."""
        if self._unusable is not None:
            raise StorageFailed(self._unusable)
        found, self._losses.found = self._losses.found, []
        return found

    def append(self, records: Sequence[Record]) -> None:
        """See `Log.append`.

        Raises:
            ValueError: records that no log can hold; nothing is written and the log stays usable.
            NoRoom: the log needs a new segment and there is no room; nothing is written and the log stays
                usable.
            StorageFailed: the write failed.
        """
        if self._unusable is not None:
            raise StorageFailed(self._unusable)
        if records:
            self._append(records)

    def _append(self, records: Sequence[Record], flags: int = 0) -> None:
        segment, table = self._segment, self._start.table
        pieces, length, positions = encode_pieces(
            records, segment.number, segment.salt, self._offset, self._synced, flags, table.systems
        )
        try:
            if self._offset + length > segment.size:
                self._roll(length, upkeep=bool(flags) or all(each[0] in MAKES_ROOM for each in records))
                segment = self._segment
                pieces, length, positions = encode_pieces(
                    records, segment.number, segment.salt, self._offset, self._synced, flags, table.systems
                )
            self._write(pieces, length)
            if not flags:
                self._taken += length
            table.note(records, positions)
        except NoRoom:
            raise
        except (OSError, StorageFailed, StorageDamaged, IndexUnusable) as error:
            raise self._fail("append", error) from error
        self._appends += 1
        self._records += len(positions)

    def sync(self) -> None:
        """See `Log.sync`."""
        if self._unusable is not None:
            raise StorageFailed(self._unusable)
        if self._synced == self._position:
            return
        try:
            self._sync()
            if self._start.table.waiting_chunks > FLUSH_CHUNKS:
                self._start.flusher.slice(self._synced)
        except (OSError, StorageFailed) as error:
            raise self._fail("sync", error) from error

    def flush(self) -> None:
        """See `Log.flush`: what is appended is written."""
        if self._unusable is not None:
            raise StorageFailed(self._unusable)

    def _sync(self) -> None:
        self._place.sync(self._segment)
        self._syncs += 1
        self._synced = self._position

    def _write(self, pieces: Sequence[bytes], length: int) -> None:
        if length >= LARGE_BYTES:
            self._place.write_pieces(self._segment, self._offset, pieces, length)
        else:
            self._place.write(self._segment, self._offset, b"".join(pieces))
        self._offset += length
        self._position += length
        self._bytes += length

    def _roll(self, needed: int, number: int = 0, *, upkeep: bool) -> None:
        """Go on in the next segment, or in the one of a number; `needed` bytes will follow its opening.
        `upkeep`: they make room, or cannot wait for any.

        Raises:
            NoRoom: there is no segment for them; all is as before.
        """
        if self._synced != self._position:
            # Before anything is written to the next one: what is durable must always be a prefix.
            self._sync()
        previous = self._position
        opening = self._opening()
        number = number or self._segment.number + 1
        least = HEADER_BYTES + batch_bytes(opening) + needed
        if least > MAX_SEGMENT_BYTES:
            raise ValueError(f"a batch of {needed} bytes fits no segment")
        size = max(self._size(number), least)
        if not upkeep and self._limit.refuses(size, self._size(number), self._segments_bytes()):
            self._request_next()
            raise self._limit.no_room()
        segment = self._place.take(number, size, least)
        self._segments[number] = segment
        self._disk_bytes += segment.size
        self._use(segment, HEADER_BYTES)
        self._open_segment(opening, previous)
        self._request_next()

    def _use(self, segment: SegmentFile, offset: int) -> None:
        self._segment = segment
        self._offset = offset
        self._position = position(segment.number, offset)

    def _opening(self) -> list[Record]:
        return opening_records(self._start.table, self._reader)

    def _open_segment(self, records: list[Record], previous: int) -> None:
        """Write what a segment starts with; the one before it ended at position `previous`."""
        segment, table = self._segment, self._start.table
        pieces, length, positions = encode_pieces(
            records, segment.number, segment.salt, self._offset, previous, OPENS_SEGMENT, table.systems
        )
        self._write(pieces, length)
        table.note(records, positions)

    def _size(self, number: int) -> int:
        return min(self._segment_bytes, FIRST_SEGMENT_BYTES << min(number, 16))

    def _request_next(self) -> None:
        number = self._segment.number + 1
        size = self._size(number)
        if not self._limit.may_be_made(size, self._segments_bytes()):
            return
        fill = self._bytes < FILL_BELOW_BYTES * max(1, self._appends)
        self._place.request(number, size, fill=fill)

    def _segments_bytes(self) -> int:
        """Of all segments, but for the reserved one."""
        return self._disk_bytes - self._cleaner.removed_bytes + self._place.discarding_bytes()

    def first(self, group: int) -> int:
        """See `Log.first`."""
        if self._unusable is not None:
            raise StorageFailed(self._unusable)
        state = self._start.table.groups.get(group)
        return state.first if state is not None else 0

    def system(self, group: int) -> tuple[int, bytes] | None:
        """See `Log.system`."""
        if self._unusable is not None:
            raise StorageFailed(self._unusable)
        return self._start.table.system(group)

    def read(self, group: int, instance: int) -> tuple[int, int, bytes] | None:
        """See `Log.read`."""
        if self._unusable is not None:
            raise StorageFailed(self._unusable)
        at = self._find(group, instance)
        return self._read(at, group, instance) if at else None

    def read_range(
        self, group: int, first: int, max_count: int, max_bytes: int
    ) -> list[tuple[int, int, int, bytes]]:
        """See `Log.read_range`."""
        if self._unusable is not None:
            raise StorageFailed(self._unusable)
        found: list[tuple[int, int, int, bytes]] = []
        left = max_bytes
        for instance in range(first, first + max_count):
            at = self._find(group, instance)
            if not at:
                break
            try:
                round_, node, value = self._read(at, group, instance)
            except StorageDamaged:
                if found:
                    break
                self._damaged += 1
                raise
            left -= len(value)
            if left < 0 and found:
                break
            found.append((instance, round_, node, value))
        return found

    def _find(self, group: int, instance: int) -> int:
        try:
            return self._start.table.find(group, instance)
        except IndexUnusable as error:
            # Out of the way, so that the next start makes a new one from the segments.
            self._place.set_index_aside()
            raise StorageDamaged(str(error)) from error

    def _read(self, at: int, group: int, instance: int) -> tuple[int, int, bytes]:
        _, its_group, its_instance, round_, node, value = self._reader.read(at)
        if its_group != group or its_instance != instance:
            raise StorageDamaged(
                f"{self._path}: the index has group {its_group}, instance {its_instance}"
                f" where group {group}, instance {instance} should be"
            )
        return round_, node, value

    def healthy(self) -> str | None:
        """See `Log.healthy`."""
        return self._unusable or self._limit.reached or self._place.trouble() or self._start.flusher.trouble

    def housekeep(self) -> float | None:
        """See `Log.housekeep`."""
        if self._unusable is not None:
            raise StorageFailed(self._unusable)
        if self._synced != self._position:
            return UNSYNCED_WAIT_S
        if self._limit.reached is not None:
            self._request_next()
        try:
            # No segment goes that the index does not have.
            pause = self._start.flusher.slice(self._synced, hurry=self.healthy() is not None)
        except (StorageFailed, IndexUnusable) as error:
            raise self._fail("index", error) from error
        if pause == 0.0:
            return pause
        waits = [wait for wait in (pause, self._clean(), self._look_over()) if wait is not None]
        if self._limit.reached is not None:
            waits.append(LIMIT_WAIT_S)
        return min(waits, default=None)

    def _clean(self) -> float | None:
        """One slice of making room."""
        segment = self._segment
        may_move = (
            self.healthy() is None or self._place.reserved_bytes() > 0 or 2 * self._offset < segment.size
        )
        try:
            records, pause = self._cleaner.slice(
                segment.number, self._start.index.position, taken_bytes=self._taken, may_move=may_move
            )
        except IndexUnusable as error:
            self._cleaner.trouble = str(error)
            self._place.set_index_aside()
            return None
        except StorageDamaged as error:
            self._cleaner.trouble = str(error)
            return None
        if records:
            try:
                self._append(records, UPKEEP)
            except NoRoom:
                self._cleaner.repeat()
                return LIMIT_WAIT_S
            self.sync()
        return pause

    def _look_over(self) -> float | None:
        """One slice of looking for damage."""
        if not self._losses.busy:
            return self._scrub.slice(self._segment.number)
        try:
            self._losses.slice()
        except IndexUnusable as error:
            raise self._fail("index", error) from error
        return 0.0

    def set_cleaning(self, on: bool) -> None:
        """See `Log.set_cleaning`."""
        if self._unusable is not None:
            raise StorageFailed(self._unusable)
        self._cleaner.on = on

    def stats(self) -> LogStats:
        """See `Log.stats`."""
        begun = hasattr(self, "_cleaner")
        index_bytes = self._start.index.disk_bytes() if begun else 0
        return {
            "appends": self._appends,
            "syncs": self._syncs,
            "records": self._records,
            "bytes_written": self._bytes,
            "segments": len(self._segments),
            "disk_bytes": self._segments_bytes() + self._place.reserved_bytes() + index_bytes if begun else 0,
            "live_bytes": self._start.table.live_bytes if begun else 0,
            "removed_segments": self._cleaner.removed_segments if begun else 0,
            "recovered_records": self._recovered,
            "cut_bytes": self._cut,
            "damaged_records": self._damaged + (self._scrub.damaged if begun else 0),
            "scrubbed_bytes": self._scrub.scrubbed_bytes if begun else 0,
            "scrub_rounds": self._scrub.rounds if begun else 0,
        }

    def close(self, *, clean: bool) -> None:
        """See `Log.close`. After a failure it only closes, whatever `clean` says."""
        if self._closed:
            return
        try:
            if clean and self._unusable is None:
                if self._synced != self._position:
                    self._sync()
                self._start.flusher.finish(self._synced)
                self._place.write_mark(self._synced)
        except (OSError, StorageFailed) as error:
            raise self._fail("close", error) from error
        finally:
            self._closed = True
            self._unusable = self._unusable or f"{self._path}: the log is closed"
            if hasattr(self, "_start"):
                self._start.index.close()
            self._place.close()

    def _fail(self, what: str, error: Exception) -> StorageFailed:
        """Latch the first failure; the exception to raise."""
        if isinstance(error, IndexUnusable):
            self._place.set_index_aside()
        self._unusable = f"{self._path}: {what} failed: {error}"
        return StorageFailed(self._unusable)
