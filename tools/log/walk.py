"""Walks through a log in its order: batches, and what is wrong where there should be some.

It judges as a node does at its start (plugins/storage/recovery.py), with one difference: the index is
not opened, so what proves that more was durable is what the segments and the mark of a clean stop say.
Bad bytes behind the last proven position are a tail; bad bytes before it are damage, and the walk goes
on behind them.

The log may be written meanwhile. So nothing is called damage before it was looked at again after the
proof was seen: a log is written in order, and what was written before the proof is there by then. The
walk ends with the segments that were there when it began; where a cleaner was faster, with those that were
there when that was seen, for what is still needed of the ones that it removed was written again by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple, TypeAlias

from paxmux.engine.storage import StorageDamaged
from paxmux.plugins.storage.record import (
    OFFSET_BITS,
    OFFSET_MASK,
    OPENING,
    OPENS_SEGMENT,
    UPKEEP,
    position,
)
from paxmux.plugins.storage.scan import Batch, read_batches, read_opening, read_rest
from paxmux.plugins.storage.segment_file import HEADER_BYTES, SegmentFile, segment_path
from paxmux.plugins.storage.stop_mark import read_mark
from paxmux.tools.log.directory import LogDirectory
from paxmux.tools.log.files import Listing, SegmentFiles
from paxmux.tools.log.salvage import find_batch, salvage


class Begin(NamedTuple):
    """A segment that has something in it, or had; its batches follow."""

    segment: SegmentFile


class Used(NamedTuple):
    """The segment that began last ends."""

    segment: SegmentFile
    end: int
    """Offset behind its last good batch."""


class Reserved(NamedTuple):
    """A segment that is made, and not used yet."""

    segment: SegmentFile


class Tail(NamedTuple):
    """Bytes at the end of the log that are no whole batch, and need not be: nothing says they are synced."""

    path: Path
    offset: int
    length: int


class Damage(NamedTuple):
    """Something that was durable is bad or missing; the words name file and offset."""

    words: str
    again: bool = False
    """All that can be lost is what the log had written again: no vote, and nothing that was decided anew."""


class Removed(NamedTuple):
    """Segments that a cleaner has removed before they were read."""

    first: int
    last: int


Event: TypeAlias = Begin | Used | Reserved | Tail | Damage | Removed | Batch


class _Verdict(Enum):
    """What it means that no good batch is where the next one should be."""

    NEXT = auto()
    """The next segment goes on."""
    ELSEWHERE = auto()
    """There was more, and nothing here is bad: the next segment's start is not there."""
    LAST = auto()
    """The log ends here."""
    BAD = auto()
    """There was one."""


class Walk:
    """One walk through one log; a context manager, for it has files open."""

    def __init__(self, log: LogDirectory) -> None:
        self.log = log
        self.clean = False
        """There was the mark of a clean stop when the walk began."""
        self._files = SegmentFiles(log.path, log.identity)
        self._open: dict[int, SegmentFile | str | None] = {}
        """Segments that are open, or why they cannot be; None: not there."""
        self._numbers: list[int] = []
        self._proven = 0
        self._needed = -1
        """Oldest segment that the log says is needed, as far as it was read; -1: it has not said so."""
        self._lengths: dict[int, str] = {}
        """Segments that are not as long as they were made."""
        self._words = ""
        self._ended = False

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def listed(self) -> list[int]:
        """Numbers of the segments that there are, gaps left out.

        Raises:
            DataDirError: they cannot be read.
        """
        with suppress(FileNotFoundError):
            return Listing(self.log.path).numbers
        return []

    def opening(self, number: int) -> Batch | None:
        """The batch that a segment starts with; None if it has none, or cannot be read.

        Raises:
            DataDirError: the file is not this log's.
        """
        segment = self._segment(number)
        if not isinstance(segment, SegmentFile):
            return None
        with suppress(StorageDamaged):
            batch = read_opening(self._files.read, segment)
            if batch is not None and (number == 0 or batch.flags & OPENS_SEGMENT):
                return batch
        return None

    def events(self, first: int | None = None, last: int | None = None) -> Iterator[Event]:
        """Everything, in order.

        Args:
            first: segment to begin with, if not the oldest.
            last: segment to end with; what comes after is not looked at.

        Raises:
            DataDirError: a file is another log's or of a newer format, or it may not be read.
        """
        yield from self._begin()
        if not self._numbers:
            return
        whole = first is None and last is None
        oldest = self._numbers[0]
        at = 0 if first is None else next((i for i, n in enumerate(self._numbers) if n >= first), 0)
        while at < len(self._numbers) and not self._ended:
            number = self._numbers[at]
            if last is not None and number > last:
                return
            segment = self._segment(number)
            if segment is None and (removed := self._vanished(at)) is not None:
                yield removed
                at = 0
                continue
            if isinstance(segment, SegmentFile):
                yield from self._walk(segment, at == 0 and whole)
                self.close(number)
            elif segment is not None:
                yield Damage(segment)
            elif number != self._numbers[-1]:
                yield Damage(f"{self._path(number)}: missing, though later ones exist")
            at += 1
        yield from self._behind(at)
        if whole and 0 <= self._needed < oldest:
            yield Damage(f"{self._path(self._needed)}: missing, though it is needed")

    def _begin(self) -> Iterator[Event]:
        mark: int | None = None
        try:
            listing = Listing(self.log.path)
            mark = read_mark(self.log.path, self.log.identity)
        except FileNotFoundError:
            # No such directory, or a mark that its node has just taken away.
            if not self.log.path.exists():
                if self.log.expected:
                    yield Damage(f"{self.log.path}: missing, and with it what this node has promised")
                return
            listing = Listing(self.log.path)
        except StorageDamaged as error:
            listing = Listing(self.log.path)
            yield Damage(str(error))
        self.clean = mark is not None
        self._proven = mark or 0
        self._numbers = listing.numbers
        for path in listing.strange:
            yield Damage(f"{path}: not the name of a segment")
        for number in listing.gaps():
            yield Damage(f"{self._path(number)}: missing, though later ones exist")
        if not self._numbers and (mark is not None or self.log.expected):
            yield Damage(f"{self._path(0)}: missing, and so is every other segment")

    def _walk(self, segment: SegmentFile, oldest: bool) -> Iterator[Event]:
        """One segment; says in `_ended` whether the log ends in it."""
        read = self._files.read
        number = segment.number
        offset = HEADER_BYTES
        looked = -1
        """Where it was looked again."""
        verdict = _Verdict.BAD
        tail = 0
        yield Begin(segment)
        if number in self._lengths:
            yield Damage(self._lengths[number])
        try:
            while True:
                for batch in read_batches(read, segment, offset):
                    self._proven = max(self._proven, batch.synced)
                    if batch.flags:
                        self._note_needed(batch)
                    if offset == HEADER_BYTES and number and oldest and not batch.flags & OPENS_SEGMENT:
                        yield Damage(f"{segment.path}, offset {offset}: not the start of a segment")
                    yield batch
                    offset = batch.end
                verdict, tail = self._judge(segment, offset)
                if verdict is _Verdict.NEXT or offset >= segment.size:
                    break
                if looked != offset and (tail or verdict is not _Verdict.LAST):
                    looked = offset
                    continue
                if verdict is not _Verdict.BAD:
                    break
                saved = salvage(read, segment, offset)
                if saved is None:
                    yield Damage(self._words)
                    found = find_batch(read, segment, offset + 1)
                    if found is None:
                        break
                    offset = found
                    continue
                again = bool(saved.batch.flags & UPKEEP)
                for bad in saved.bad:
                    words = f"{segment.path}, offset {bad}: the CRC of the record does not match"
                    yield Damage(words, again)
                self._proven = max(self._proven, saved.batch.synced)
                self._note_needed(saved.batch)
                yield saved.batch
                offset = saved.batch.end
        except StorageDamaged as error:
            yield Damage(str(error))
        yield Used(segment, offset)
        if verdict is _Verdict.LAST and number and oldest and offset == HEADER_BYTES:
            yield Damage(f"{segment.path}, offset {offset}: the segment has no start")
        self._ended = verdict is _Verdict.LAST
        if self._ended and tail:
            yield Tail(segment.path, offset, tail)

    def _judge(self, segment: SegmentFile, offset: int) -> tuple[_Verdict, int]:
        """There is no good batch at `offset`: what does that mean? Says in `_words` what is bad.

        Also returns how many bytes behind `offset` are not blank, 0 where it does not matter.
        """
        number = segment.number
        here = position(number, offset)
        following = self.opening(number + 1) if number + 1 in self._numbers else None
        if following is not None:
            if following.synced == here:
                return _Verdict.NEXT, 0
            if following.synced < here:
                self._words = (
                    f"{segment.path}, offset {following.synced & OFFSET_MASK}: the next segment says that"
                    f" this one ends here, and it ends at offset {offset}"
                )
            else:
                self._words = self._lost(segment, offset, following.synced)
            return _Verdict.BAD, 0
        rest = read_rest(self._files.read, segment, offset)
        proven = max(self._proven, rest.proven)
        if proven <= here or rest.end == offset:
            proven = max(proven, self._proven_later(number))
        filled = rest.end - offset
        if proven <= here:
            if not filled and self._overtaken(number):
                return _Verdict.ELSEWHERE, 0
            return _Verdict.LAST, filled
        if not filled and number != self._numbers[-1] and proven > position(number + 1, HEADER_BYTES):
            return _Verdict.ELSEWHERE, 0
        self._words = self._lost(segment, offset, proven)
        return _Verdict.BAD, filled

    def _lost(self, segment: SegmentFile, offset: int, proven: int) -> str:
        return (
            f"{segment.path}, offset {offset}: no good batch, though the log was durable"
            f" up to segment {proven >> OFFSET_BITS}, offset {proven & OFFSET_MASK}"
        )

    def _proven_later(self, number: int) -> int:
        """What the first segment after `number` that proves anything proves; 0 if none does."""
        for each in [each for each in self._numbers if each > number]:
            opening = self.opening(each)
            proven = opening.synced if opening is not None else 0
            segment = self._segment(each)
            if opening is None and isinstance(segment, SegmentFile):
                # What cannot be read is told when it is its turn.
                with suppress(StorageDamaged):
                    proven = read_rest(self._files.read, segment, HEADER_BYTES).proven
            if each != number + 1:
                self.close(each)
            if proven:
                return proven
        return 0

    def _behind(self, at: int) -> Iterator[Event]:
        """The segments behind the end of the log."""
        for number in self._numbers[at:]:
            segment = self._segment(number)
            if isinstance(segment, str):
                yield Damage(segment)
            elif segment is not None:
                try:
                    end = read_rest(self._files.read, segment, HEADER_BYTES).end
                except StorageDamaged as error:
                    yield Damage(str(error))
                else:
                    blank = end == HEADER_BYTES
                    yield Reserved(segment) if blank else Tail(segment.path, HEADER_BYTES, end - HEADER_BYTES)
                self.close(number)

    def _overtaken(self, number: int) -> bool:
        """The segment behind this one is gone, and this one too: a cleaner was here."""
        if number == self._numbers[-1]:
            return False
        self._look_anew()
        if self._segment(number + 1) is not None:
            return False
        fresh = self.listed()
        return bool(fresh) and fresh[0] > number

    def _vanished(self, at: int) -> Removed | None:
        """A segment that was listed is gone: whether those before it are gone too, as a cleaner does it."""
        fresh = self.listed()
        number = self._numbers[at]
        if not fresh or fresh[0] <= number:
            return None
        self._numbers = fresh
        self._look_anew()
        return Removed(number, fresh[0] - 1)

    def _look_anew(self) -> None:
        """Segments that were not there may be there now."""
        self._open = {number: found for number, found in self._open.items() if found is not None}

    def _segment(self, number: int) -> SegmentFile | str | None:
        if number not in self._open:
            try:
                segment, wrong = self._files.open(number)
            except FileNotFoundError:
                self._open[number] = None
            except StorageDamaged as error:
                self._open[number] = str(error)
            else:
                self._open[number] = segment
                if wrong is not None:
                    self._lengths[number] = wrong
        return self._open[number]

    def close(self, number: int) -> None:
        """Let a segment go; it is opened again if it is needed again."""
        self._open.pop(number, None)
        self._files.close(number)

    def _note_needed(self, batch: Batch) -> None:
        said = [record[2] for record in batch.records if record[0] == OPENING]
        self._needed = max([self._needed, *said])

    def _path(self, number: int) -> Path:
        return segment_path(self.log.path, number)
