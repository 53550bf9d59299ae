"""Would the tests of crash points notice? The storage code is broken on purpose, in ways in which such code
is broken, and each time something acknowledged must be found lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest

from paxmux.plugins.storage import directory, record, segment_file, stop_mark
from paxmux.plugins.storage.directory import Directory
from paxmux.plugins.storage.recovery import Recovery
from paxmux.plugins.storage.segment_file import SegmentFile
from paxmux.plugins.storage.segmented import SegmentedLog
from paxmux.shards import durable_file
from tests.crash_points import LOST, many_folders, power_cuts, recorded

IMAGES = 2
Patch = Any


def nothing(*_args: Any, **_more: Any) -> None:
    """What is not done."""


class _SyncsNoFiles:
    """The module `os`, but for the syncs of files."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            os.fsync(fd)

    fdatasync = fsync


def acknowledge_before_the_sync() -> Patch:
    return mock.patch.object(Directory, "sync", nothing)


def name_a_segment_before_it_is_durable() -> Patch:
    return mock.patch.object(segment_file, "os", _SyncsNoFiles())


def leave_names_to_chance() -> Patch:
    return mock.patch.multiple(directory, sync_directory=nothing, create_segment=_without_its_name)


def _without_its_name(*args: Any, **more: Any) -> SegmentFile:
    with mock.patch.object(segment_file, "sync_directory", nothing):
        return segment_file.create_segment(*args, **more)


def ignore_the_crc() -> Patch:
    return mock.patch.object(record, "crc32", return_value=0)


def mark_the_stop_before_the_sync() -> Patch:
    close = SegmentedLog.close

    def mark_and_close(log: SegmentedLog, *, clean: bool) -> None:
        if clean and log._unusable is None:
            log._place.write_mark(log._position)
        close(log, clean=clean)

    return mock.patch.object(SegmentedLog, "close", mark_and_close)


def store_in_the_index_what_is_not_synced() -> Patch:
    housekeep = SegmentedLog.housekeep

    def store_and_keep_house(log: SegmentedLog) -> float | None:
        log._start.flusher.slice(log._position)
        return housekeep(log)

    return mock.patch.object(SegmentedLog, "housekeep", store_and_keep_house)


def open_a_segment_before_the_one_before_is_synced() -> Patch:
    roll = SegmentedLog._roll

    def pretend_and_roll(log: SegmentedLog, *arguments: int, **named: bool) -> None:
        log._synced = log._position
        roll(log, *arguments, **named)

    return mock.patch.object(SegmentedLog, "_roll", pretend_and_roll)


def report_what_may_not_be_durable() -> Patch:
    settle = Recovery._settle_end

    def settle_in_memory(recovery: Recovery, number: int, offset: int) -> int:
        with mock.patch.object(Directory, "sync", nothing):
            return settle(recovery, number, offset)

    return mock.patch.object(Recovery, "_settle_end", settle_in_memory)


def remove_torn_segments_from_the_first_on() -> Patch:
    remove = Directory.remove

    def remove_forwards(place: Directory, torn: Sequence[SegmentFile]) -> None:
        remove(place, list(reversed(torn)))

    return mock.patch.object(Directory, "remove", remove_forwards)


def mark_that_is_not_synced() -> Patch:
    return mock.patch.object(stop_mark, "os", _SyncsNoFiles())


def identity_that_is_not_synced() -> Patch:
    return mock.patch.object(durable_file, "os", _SyncsNoFiles())


MISTAKES = {
    "log": [
        acknowledge_before_the_sync,
        name_a_segment_before_it_is_durable,
        leave_names_to_chance,
        ignore_the_crc,
        mark_the_stop_before_the_sync,
        mark_that_is_not_synced,
        store_in_the_index_what_is_not_synced,
        open_a_segment_before_the_one_before_is_synced,
        report_what_may_not_be_durable,
        remove_torn_segments_from_the_first_on,
    ],
    "identity": [identity_that_is_not_synced],
}


@pytest.mark.parametrize(
    ("life", "mistake"), [(life, mistake) for life, mistakes in MISTAKES.items() for mistake in mistakes]
)
def test_a_mistake_is_noticed(life: str, mistake: Callable[[], Patch]) -> None:
    """While it writes and while it recovers."""
    with many_folders() as folder, mistake():
        if mistake is ignore_the_crc:
            # The life itself knows what must be there.
            with pytest.raises(AssertionError, match="not those after"):
                recorded(life, folder / "recorded")
            return
        outcomes = power_cuts(life, folder, recorded(life, folder / "recorded"), IMAGES)
    assert outcomes[LOST] > 0
