"""Opens a data directory that something happened to, by the code that a node opens it with, and judges.

It must never be given a wrong value, never miss anything in silence that the files prove was durable, and
be refused only in words that name a file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from paxmux.engine.errors import DataDirError, StorageFailed
from paxmux.engine.storage import HardState, StorageDamaged
from paxmux.plugins.storage.segment import SegmentLog
from paxmux.shards.identity import DataDir, open_data_dir
from tests.known_directory import (
    BATCHES,
    GROUPS,
    HOSTS,
    NODE,
    SEGMENT_BYTES,
    KnownDirectory,
    KnownLog,
    least_kept,
)
from tests.storage_model import hard_states, values

WHOLE = "all there"
CUT = "cut: an end that nothing proves"
REFUSED_DIRECTORY = "refused: the data directory"
REFUSED_LOG = "refused: the log"
REFUSED_VALUE = "refused: a value, when it is read"
NAMED = re.compile(r"\d{10}\.seg|segment \d+|index|CLEAN|LOCK|identity\.json|layout\.epoch|/logs\b")


class Verdict(NamedTuple):
    """What became of it."""

    outcome: str
    words: str = ""
    """Of the refusal."""


class Wrong(AssertionError):
    """It is not allowed to be so."""


def judge(known: KnownDirectory, root: Path, *, bootstrap: bool) -> Verdict:
    """Open the directory at `root`, which was as `known`, and its logs; use them, and open them again. It may
    be done again if the process died of it.

    Raises:
        Wrong: a wrong value, a loss in silence, or a refusal without a file's name.
    """
    try:
        data_dir = _opened(root, bootstrap)
    except DataDirError as error:
        return Verdict(REFUSED_DIRECTORY, _named(str(error)))
    with data_dir:
        if data_dir.identity.seat != known.logs[0].identity.seat:
            raise Wrong(f"another seat: {data_dir.identity.seat}")
        create = not data_dir.identity.logs
        verdicts = [_judge_log(known, log, root, create) for log in known.logs]
    return max(verdicts, key=lambda each: (WHOLE, CUT, REFUSED_VALUE, REFUSED_LOG).index(each.outcome))


def _opened(root: Path, bootstrap: bool) -> DataDir:
    return open_data_dir(root, node_id=NODE, groups=GROUPS, hosts=HOSTS, bootstrap=bootstrap)


def _judge_log(known: KnownDirectory, its: KnownLog, root: Path, create: bool) -> Verdict:
    least = least_kept(known, its, root)
    path = root / its.path
    log: SegmentLog | None = None
    try:
        log = SegmentLog(path, its.identity, segment_bytes=SEGMENT_BYTES, create=create)
        count = _kept(its, log.recover(), least)
        refused = _check_values(its, log, count, [])
        more = its.batches[BATCHES:] if count <= BATCHES else []
        for records in more:
            log.append(records)
            log.sync()
        log.close(clean=True)
        log = SegmentLog(path, its.identity, segment_bytes=SEGMENT_BYTES, create=False)
        _check_states(log.recover(), [r for each in its.batches[:count] + more for r in each])
        refused = _check_values(its, log, count, more) or refused
    except (DataDirError, StorageDamaged, StorageFailed) as error:
        return Verdict(REFUSED_LOG, _named(str(error)))
    finally:
        if log is not None:
            log.close(clean=False)
    if refused:
        return Verdict(REFUSED_VALUE, _named(refused))
    return Verdict(WHOLE if count >= BATCHES else CUT)


def _kept(its: KnownLog, states: dict[int, HardState], least: int) -> int:
    """How many batches these are the states after."""
    for count in range(len(its.batches), least - 1, -1):
        if its.states[count] == states:
            return count
    for count, expected in enumerate(its.states[:least]):
        if expected == states:
            raise Wrong(f"lost in silence: {count} batches are left, {least} were proven")
    raise Wrong(f"states that never were: {states}")


def _check_states(states: dict[int, HardState], records: list[tuple[int, int, int, int, int, bytes]]) -> None:
    if states != hard_states(records):
        raise Wrong(f"other states after it was used and opened again: {states}")


def _check_values(
    its: KnownLog, log: SegmentLog, count: int, more: list[list[tuple[int, int, int, int, int, bytes]]]
) -> str:
    """Every value is right or refused; the words of a refusal, if there was one."""
    refused = ""
    for (group, instance), expected in values(r for each in its.batches[:count] + more for r in each).items():
        for read in (
            lambda g=group, i=instance: log.read(g, i),
            lambda g=group, i=instance: next((each[1:] for each in log.read_range(g, i, 1, 1)), None),
        ):
            try:
                found = read()
            except StorageDamaged as error:
                refused = str(error)
                continue
            if found != expected:
                raise Wrong(f"group {group}, instance {instance}: {found!r}, not {expected!r}")
    return refused


def _named(words: str) -> str:
    if NAMED.search(words) is None:
        raise Wrong(f"a refusal that names no file: {words}")
    return words
