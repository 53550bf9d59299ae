"""Opens a data directory that something happened to, by the code that a node opens it with, and judges.

It must never be given a wrong value, never miss anything in silence that the files prove was durable, and
be refused only in words that name a file. What is missing is said: a value when it is read, or that it is
damaged; and of promises, that the whole log is in doubt.
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
REFUSED_VALUE = "lost: a value"
DOUBT = "in doubt: promises may be lost"
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
    return max(verdicts, key=lambda each: (WHOLE, CUT, REFUSED_VALUE, DOUBT, REFUSED_LOG).index(each.outcome))


def _opened(root: Path, bootstrap: bool) -> DataDir:
    return open_data_dir(root, node_id=NODE, groups=GROUPS, hosts=HOSTS, bootstrap=bootstrap)


def _judge_log(known: KnownDirectory, its: KnownLog, root: Path, create: bool) -> Verdict:
    least = least_kept(known, its, root)
    path = root / its.path
    log: SegmentLog | None = None
    try:
        log = SegmentLog(path, its.identity, segment_bytes=SEGMENT_BYTES, create=create)
        states = log.recover()
        if log.doubt() is not None:
            return _judge_doubt(its, log, states, least)
        count = _kept(its, states, least)
        # Whoever lacks a decided value knows that it is lost: said once is enough.
        damaged = log.stats()["damaged_records"] > 0
        refused = _check_values(its, log, count, [], damaged=damaged)
        more = its.batches[BATCHES:] if count <= BATCHES else []
        for records in more:
            log.append(records)
            log.sync()
        log.close(clean=True)
        log = SegmentLog(path, its.identity, segment_bytes=SEGMENT_BYTES, create=False)
        _check_states(log.recover(), [r for each in its.batches[:count] + more for r in each])
        refused = _check_values(its, log, count, more, damaged=damaged) or refused
    except (DataDirError, StorageDamaged, StorageFailed) as error:
        return Verdict(REFUSED_LOG, _named(str(error)))
    finally:
        if log is not None:
            log.close(clean=False)
    if refused:
        return Verdict(REFUSED_VALUE, _named(refused))
    return Verdict(WHOLE if count >= BATCHES else CUT)


def _judge_doubt(its: KnownLog, log: SegmentLog, states: dict[int, HardState], least: int) -> Verdict:
    """It says that it may have lost anything; what it gives all the same is right, and it does not forget."""
    words = _named(log.doubt() or "")
    last = its.states[BATCHES]
    for group, state in states.items():
        if not state.suspect:
            raise Wrong(f"group {group} is not suspect: {state}")
        if state.promised > last[group].promised or state.instance > last[group].instance:
            raise Wrong(f"group {group} knows more than there was: {state}")
    histories = [
        values(r for each in its.batches[:count] for r in each) for count in range(least, BATCHES + 1)
    ]
    for key in histories[-1]:
        try:
            found = log.read(*key)
        except StorageDamaged as error:
            _named(str(error))
            continue
        if found is not None and all(found != history.get(key) for history in histories):
            raise Wrong(f"group and instance {key}: {found!r}, which it was not any more")
    for records in its.batches[BATCHES:]:
        log.append(records)
        log.sync()
    log.close(clean=True)
    log = SegmentLog(log._path, its.identity, segment_bytes=SEGMENT_BYTES, create=False)
    try:
        again = log.recover()
        expected = {
            group: state
            for group, state in hard_states(r for each in its.batches for r in each).items()
            if group in {r[1] for each in its.batches[BATCHES:] for r in each}
        }
        for group, state in expected.items():
            if not again[group].suspect or again[group].instance != state.instance:
                raise Wrong(f"group {group} was written to and opened again: {again[group]}, not {state}")
    finally:
        log.close(clean=False)
    return Verdict(DOUBT, words)


def _whole(states: dict[int, HardState], like: dict[int, HardState]) -> dict[int, HardState]:
    """Without the values that `like` says are damaged."""
    return {
        group: state._replace(value=b"", lost=True) if group in like and like[group].lost else state
        for group, state in states.items()
    }


def _kept(its: KnownLog, states: dict[int, HardState], least: int) -> int:
    """How many batches these are the states after."""
    for count in range(len(its.batches), least - 1, -1):
        if _whole(its.states[count], states) == states:
            return count
    for count, expected in enumerate(its.states[:least]):
        if _whole(expected, states) == states:
            raise Wrong(f"lost in silence: {count} batches are left, {least} were proven")
    raise Wrong(f"states that never were: {states}")


def _check_states(states: dict[int, HardState], records: list[tuple[int, int, int, int, int, bytes]]) -> None:
    if states != _whole(hard_states(records), states):
        raise Wrong(f"other states after it was used and opened again: {states}")


def _check_values(
    its: KnownLog,
    log: SegmentLog,
    count: int,
    more: list[list[tuple[int, int, int, int, int, bytes]]],
    *,
    damaged: bool,
) -> str:
    """Every value is right or refused, or missing in a log that has said so; in words what is not there."""
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
            if found is None and damaged:
                refused = f"group {group}, instance {instance}: missing, segment 0 or later"
            elif found != expected:
                raise Wrong(f"group {group}, instance {instance}: {found!r}, not {expected!r}")
    return refused


def _named(words: str) -> str:
    if NAMED.search(words) is None:
        raise Wrong(f"a refusal that names no file: {words}")
    return words
