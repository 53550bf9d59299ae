"""Every call that changes the disk fails once, with "no space" and with an I/O error: in the life of a log
and in that of a data directory. Each failure has the outcome that is meant for it, and loses nothing."""

from __future__ import annotations

import errno
import shutil
import sys
from collections import Counter

import pytest

from paxmux.plugins.storage.index import GUARD
from tests.crash_points import CHECKS, COMMIT, LIFE_NAMES, many_folders, recorded
from tests.crash_server import CrashServer
from tests.disk_calls import WITHIN_COMMIT, Call, Fault
from tests.fault_rows import fault

WORKS, REFUSED, FAILED = "works", "refused", "failed"
RESERVER = "segment-reserver"


def faults_of(call: Call) -> list[Fault]:
    """What may go wrong at a call: it has not happened, or it has."""
    # Where somebody tries again, the room is gone until it is noticed.
    lasting = call.thread == RESERVER
    found = [
        Fault(call.thread, call.number, "error", "before", errno.ENOSPC, lasting),
        Fault(call.thread, call.number, "error", "after", errno.EIO),
    ]
    if call.name == COMMIT:
        found += [Fault(call.thread, call.number, "error", within) for within in WITHIN_COMMIT]
    return found


def meant(life: str, call: Call) -> set[str]:
    """What may become of a failure of this call."""
    if call.thread == RESERVER:
        return {WORKS}
    if life == "identity":
        return {REFUSED, FAILED}
    if call.path.endswith("LOCK") or call.name == "mkdir":
        return {REFUSED}
    if call.name == COMMIT:
        return {WORKS}
    if call.path.endswith(GUARD) and call.name == "unlink":
        # Where the index is closed nothing depends on it.
        return {WORKS, FAILED}
    if call.name.startswith("lmdb."):
        # Another one is made; the last that can be is needed.
        return {WORKS, FAILED}
    return {FAILED}


@fault("ENOSPC and EIO at each call: append, sync", "log", "`StorageFailed`, for good; the worker ends")
@fault("ENOSPC and EIO at each call: next segment", "log", "`healthy()` says so; tried again; works")
@fault("ENOSPC and EIO at each call: roll-over", "log", "`StorageFailed`, for good; the worker ends")
@fault("ENOSPC and EIO at each call: index", "index", "`healthy()` says so; written again, or made anew")
@fault(
    "ENOSPC and EIO at each call: recovery", "log", "`StorageFailed` or `DataDirError`; it may be tried again"
)
@fault("ENOSPC and EIO at each call: clean stop", "log", "`StorageFailed`; no mark, or a right one")
@fault("ENOSPC and EIO at each call", "identity", "`DataDirError` or `StorageFailed`; old or new")
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("life", LIFE_NAMES)
def test_every_call_fails_once(life: str, record_property: pytest.RecordProperty) -> None:
    outcomes: Counter[tuple[str, str]] = Counter()
    with many_folders() as folder, CrashServer() as server:
        calls = recorded(life, folder / "recorded").calls
        points = [(call, point) for call in calls for point in faults_of(call)]
        for number, (call, point) in enumerate(points):
            path = folder / str(number)
            path.mkdir()
            ended = server.live(life, path / life, point)
            assert ended.status == 0, f"{point}, {call}: {ended}"
            assert ended.struck, f"{point}, {call}: not met"
            outcome, words = outcome_of(ended.said.outcome)
            # A directory that was made though the call says otherwise is used.
            expected = meant(life, call) | (
                {WORKS} if (call.name, point.when) == ("mkdir", "after") else set()
            )
            assert outcome in expected, f"{point}, {call}: {ended}"
            assert outcome == WORKS or str(path) in words, f"no file is named: {words}"
            try:
                CHECKS[life](path / life, ended.said)
            except Exception as error:
                raise AssertionError(f"{point}, {call}: {ended}") from error
            outcomes[call.thread, outcome if not words else f"{outcome}, and said so"] += 1
            shutil.rmtree(path)
        record_property("points", len(points))
        sys.stdout.write(f"{life}: {len(points)} failures of {len(calls)} calls: {dict(outcomes)}\n")
    assert outcomes["main", f"{FAILED}, and said so"] > 40
    assert outcomes["main", f"{REFUSED}, and said so"] > 5
    if life == "log":
        assert outcomes[RESERVER, f"{WORKS}, and said so"] > 60
        assert outcomes["main", f"{WORKS}, and said so"] > 10


def outcome_of(told: str) -> tuple[str, str]:
    """The outcome, and what was said about it."""
    if told.startswith("whole"):
        return WORKS, told.removeprefix("whole").removeprefix("; ")
    outcome, _, words = told.partition(": ")
    assert outcome in (REFUSED, FAILED), told
    return outcome, words
