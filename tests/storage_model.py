"""What a log must answer, computed in the plainest way, and the workload that logs are tried with."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from paxmux.engine.storage import (
    NULL_BALLOT,
    HardState,
    Log,
    LogIdentity,
    Record,
    RecordKind,
)

IDENTITY = LogIdentity(cluster=0xC1, node=0x7F000001_00001F90, seat=0x5EA7, log=0)

PROMISE, ACCEPT, LEARNED, DECIDED, FORGOTTEN, RELEASED, CLEARED, SUSPECT, SYSTEM = map(int, RecordKind)

Values = dict[tuple[int, int], tuple[int, int, bytes]]
"""(group, instance) -> (round, node, value)."""


def hard_states(records: Iterable[Record]) -> dict[int, HardState]:
    """Hard states by the words of the contract: one look over all records for each field."""
    by_group: dict[int, list[Record]] = {}
    for record in records:
        if record[0] == RELEASED:
            by_group.pop(record[1], None)
        else:
            by_group.setdefault(record[1], []).append(record)
    states: dict[int, HardState] = {}
    for group, mine in by_group.items():
        voted = [r for r in mine if r[0] in (PROMISE, ACCEPT, CLEARED)]
        known = [r for r in mine if r[0] in (LEARNED, DECIDED)]
        instance = max([r[2] for r in voted] + [r[2] + 1 for r in known], default=0)
        promised = max([(r[3], r[4]) for r in voted], default=NULL_BALLOT)
        here = [r for r in mine if r[0] == ACCEPT and r[2] == instance]
        accepted, value = ((here[-1][3], here[-1][4]), here[-1][5]) if here else (NULL_BALLOT, b"")
        doubts = [r[0] for r in mine if r[0] in (CLEARED, SUSPECT)]
        systems = [(r[5], r[2], r[3] == 1) for r in mine if r[0] == SYSTEM] or [(b"", 0, False)]
        suspect = doubts[-1:] == [SUSPECT]
        states[group] = HardState(instance, promised, accepted, value, suspect, False, *systems[-1])
    return states


def values(records: Iterable[Record]) -> Values:
    """The last value of each instance that is not forgotten."""
    found: Values = {}
    first: dict[int, int] = {}
    for kind, group, instance, round_, node, value in records:
        if kind in (ACCEPT, LEARNED):
            found[group, instance] = (round_, node, value)
        elif kind == FORGOTTEN:
            first[group] = max(first.get(group, 0), instance)
        elif kind == RELEASED:
            first.pop(group, None)
            found = {key: each for key, each in found.items() if key[0] != group}
    return {key: each for key, each in found.items() if key[1] >= first.get(key[0], 0)}


class Model:
    """What was appended, and how much of it must survive."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []
        self.synced = 0

    def records(self, batches: int | None = None) -> list[Record]:
        """All records of the first `batches` batches, of all if not given."""
        return [record for batch in self.batches[:batches] for record in batch]

    def check(self, log: Log) -> None:
        """`log` has exactly the values appended."""
        expected = values(self.records())
        assert {key: log.read(*key) for key in expected} == expected

    def survived(self, log: Log, states: dict[int, HardState]) -> int:
        """How many batches `log` still has after a crash: all that were synced, and a prefix.

        They are all that the model has from now on.
        """
        touched = {(r[1], r[2]) for r in self.records() if r[0] in (ACCEPT, LEARNED)}
        found = {key: log.read(*key) for key in touched}
        for count in range(len(self.batches), self.synced - 1, -1):
            records = self.records(count)
            kept = values(records)
            if hard_states(records) == states and all(found[key] == kept.get(key) for key in touched):
                self.batches = self.batches[:count]
                self.synced = count
                return count
        raise AssertionError(f"no prefix of {len(self.batches)} batches, {self.synced} of them synced")


def workload(seed: int, index: int, groups: int = 3, large: int = 0) -> list[Record]:
    """Batch `index` of an endless workload: each group goes on, now and then under a new ballot.

    Args:
        seed: of the workload; the same seed and index give the same batch in any process.
        index: from 0 on.
        groups: so many groups take part.
        large: some values have up to so many bytes.
    """
    rng = random.Random(f"{seed}/{index}")
    round_ = 1 + index // 7
    node = 1 + seed % 3
    records: list[Record] = []
    for group in range(groups):
        if rng.random() < 0.2:
            continue
        size = rng.randrange(large) if large and rng.random() < 0.1 else rng.randrange(40)
        value = rng.randbytes(size)
        kind = rng.random()
        if kind < 0.02:
            records.append((CLEARED, group, index, round_ + 1, node, b""))
        elif kind < 0.04:
            records.append((SUSPECT, group, 0, 0, 0, b""))
        elif kind < 0.1:
            records.append((PROMISE, group, index, round_ + 1, node, b""))
        if kind < 0.7:
            records.append((ACCEPT, group, index, round_ + 1, node, value))
        elif kind < 0.8:
            records.append((LEARNED, group, index, round_, node, value))
        elif index:
            records.append((DECIDED, group, index - 1, 0, 0, b""))
        if kind > 0.93:
            records.append((SYSTEM, group, index + 1, 0, 0, value[:40]))
    return records or [(PROMISE, 0, index, round_, node, b"")]


def feed(log: Log, batches: Sequence[list[Record]], model: Model | None = None, *, sync: bool = True) -> None:
    """Append batches, each synced or none."""
    for batch in batches:
        log.append(batch)
        if sync:
            log.sync()
        if model is not None:
            model.batches.append(batch)
            model.synced = len(model.batches) if sync else model.synced
