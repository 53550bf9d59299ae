"""A data directory whose every byte is known, and how much of it must be found after a fault.

It is made by the code that nodes make theirs with: an identity, a founding, and two logs with several
segments and groups. What is judged later is judged by what was appended, and by the bytes that are left.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from paxmux.engine.storage import HardState, LogIdentity, Record
from paxmux.plugins.storage import flusher
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.shards.cluster import make_founding
from paxmux.shards.identity import LOGS, create, open_data_dir
from tests.storage_model import hard_states, workload

NODE = 7
GROUPS = 6
WORKERS = 2
HOSTS = tuple(group % WORKERS for group in range(GROUPS))
SEGMENT_BYTES = 16 << 10
HEADER_BYTES = 4096
STAMP_BYTES = 68
BATCHES = 130
LARGE_BYTES = 1200
DEADLINE_S = 20.0
INDEXED_EVERY = 25
MORE = 2
"""So many batches are written to a log that opens."""
UNSYNCED = 2
"""So many batches are not synced when the process is killed. A kill loses none of them."""

_BATCH = struct.Struct("<4sIIIIHHI")


class Piece(NamedTuple):
    """A batch on the disk, as it was written."""

    file: Path
    """Relative to the data directory."""
    begin: int
    end: int
    proves: int
    """The position that its header says was durable."""
    data: bytes


class KnownLog(NamedTuple):
    """One of the logs."""

    identity: LogIdentity
    path: Path
    """Relative to the data directory."""
    batches: list[list[Record]]
    """The first `BATCHES` are in it, and the others are what is written to it when it is tried."""
    states: list[dict[int, HardState]]
    """After no batch, after one, and so on."""
    pieces: list[Piece]
    """Everything that is in its segments, also what the log itself wrote."""
    ends: list[int]
    """Position behind each of the batches that are in it."""
    stamps: dict[Path, bytes]
    """How each segment begins."""
    indexed: int
    """The index proves that the log was durable up to here."""
    mark: int
    """So does the mark of a clean stop; 0: there is none."""


class KnownDirectory(NamedTuple):
    """The whole of it."""

    path: Path
    clean: bool
    logs: list[KnownLog]
    files: dict[Path, bytes]
    """Every file by its path relative to `path`."""


def batch(log: int, number: int) -> list[Record]:
    """Batch `number` of a log, of the groups that it has."""
    records = workload(1000 + log, number, groups=GROUPS // WORKERS, large=LARGE_BYTES)
    return [(kind, group * WORKERS + log, *rest) for kind, group, *rest in records]  # type: ignore[misc]


def made(path: Path, *, clean: bool) -> KnownDirectory:
    """Make one; its process stopped cleanly, or was killed."""
    seat = create(path, NODE, GROUPS).seat
    founding = make_founding({NODE: seat, 8: 80, 9: 90}, GROUPS)
    with open_data_dir(path, node_id=NODE, groups=GROUPS, hosts=HOSTS, bootstrap=False) as data_dir:
        data_dir.record(founding, active=True)
        logs = [_log(path, LogIdentity(founding.cluster, NODE, seat, n), clean) for n in range(WORKERS)]
        data_dir.record_logs()
        data_dir.switch(HOSTS)
    files = {each.relative_to(path): each.read_bytes() for each in path.rglob("*") if each.is_file()}
    return KnownDirectory(path, clean, logs, files)


def _log(root: Path, identity: LogIdentity, clean: bool) -> KnownLog:
    path = root / LOGS / str(identity.log)
    batches = [batch(identity.log, number) for number in range(BATCHES)]
    ends: list[int] = []
    indexed = mark = 0
    with mock.patch.object(flusher, "DUE_S", 3600.0):
        log = SegmentLog(path, identity, segment_bytes=SEGMENT_BYTES)
        log.recover()
        for number, records in enumerate(batches):
            log.append(records)
            ends.append(log._position)
            _settle(log)
            if number < BATCHES - UNSYNCED:
                log.sync()
            if number % INDEXED_EVERY == INDEXED_EVERY - 1:
                log._start.flusher.finish(log._synced)
                indexed = log._synced
        log.close(clean=clean)
    if clean:
        indexed = mark = ends[-1]
    segments = sorted(path.glob("*.seg"))
    pieces = [piece for segment in segments for piece in _pieces(segment, root)]
    assert len(segments) > 3
    more = [batch(identity.log, number) for number in range(BATCHES, BATCHES + MORE)]
    batches += more
    states = [hard_states(r for each in batches[:count] for r in each) for count in range(len(batches) + 1)]
    stamps = {each.relative_to(root): each.read_bytes()[:STAMP_BYTES] for each in segments}
    return KnownLog(identity, path.relative_to(root), batches, states, pieces, ends, stamps, indexed, mark)


def _settle(log: SegmentLog) -> None:
    """Wait for the segment that is made ahead, so that every directory has one."""
    end = time.monotonic() + DEADLINE_S
    while not log._place.reserved_bytes():
        assert time.monotonic() < end, log.healthy()
        time.sleep(0.001)


def _pieces(segment: Path, root: Path) -> list[Piece]:
    data = segment.read_bytes()
    found: list[Piece] = []
    begin = HEADER_BYTES
    while data[begin : begin + 4] == b"PXB1":
        _, length, _, number, offset, *_ = _BATCH.unpack_from(data, begin)
        end = begin + _BATCH.size + length
        found.append(Piece(segment.relative_to(root), begin, end, number << 32 | offset, data[begin:end]))
        begin = end
    return found


def least_kept(known: KnownDirectory, log: KnownLog, root: Path) -> int:
    """How many batches of a log must be found, or missed aloud, in a directory that something happened to.

    At least those that the files, as they are now, prove durable; and all before the first one whose
    bytes are not what they were.
    """
    proofs = {log.path / "index" / "data.mdb": log.indexed, log.path / "CLEAN": log.mark}
    proven = max(
        (proof for file, proof in proofs.items() if proof and _bytes(root / file) == known.files[file]),
        default=0,
    )
    now = {file: _bytes(root / file) for file in log.stamps}
    first_bad = BATCHES
    for piece in log.pieces:
        data = now[piece.file]
        if data[:STAMP_BYTES] == log.stamps[piece.file]:
            if data[piece.begin : piece.begin + _BATCH.size] == piece.data[: _BATCH.size]:
                proven = max(proven, piece.proves)
            if data[piece.begin : piece.end] == piece.data:
                continue
        start = int(piece.file.stem) << 32 | piece.begin
        first_bad = min(first_bad, sum(end <= start for end in log.ends))
    return max(first_bad, sum(end <= proven for end in log.ends))


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""
