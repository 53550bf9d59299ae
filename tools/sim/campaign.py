"""Many seeds, in one process or several: what failed, what was injected, decided and reached.

Seeds are run in slices; a slice's outcome travels back as one message. Decides nothing about a run.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import msgspec

from paxmux.engine.compiled import COMPILED
from paxmux.tools.sim.breach import Breach
from paxmux.tools.sim.plan import Asked
from paxmux.tools.sim.reach import Reach
from paxmux.tools.sim.run import Report, run

SLICE = 10
"""Seeds between two reports of a process."""
REACH_SEEDS = 300
"""A campaign of so many seeds reaches every mark."""


class Failure(msgspec.Struct, frozen=True):
    """A seed that failed."""

    seed: int
    checker: str
    """Which rule; or the exception's class, where the code under test raised."""
    words: str


class Tally(msgspec.Struct):
    """What a campaign came to; tallies add up."""

    seeds: int = 0
    failures: list[Failure] = []
    decided: int = 0
    decided_min: int | None = None
    acked: int = 0
    reads: int = 0
    changes: int = 0
    """Of members."""
    reigns: int = 0
    """Of masters."""
    events: int = 0
    simulated_ms: int = 0
    kinds_min: int | None = None
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    points: Counter[str] = msgspec.field(default_factory=Counter)
    reached: Counter[str] = msgspec.field(default_factory=Counter)
    digest: int = 0
    """Over all runs that passed, in any order."""

    def passed(self, report: Report) -> None:
        """A seed passed."""
        self.seeds += 1
        self.decided += report.decided
        self.decided_min = _least(self.decided_min, report.decided)
        self.acked += report.acked
        self.reads += report.reads
        self.changes += report.changes
        self.reigns += report.reigns
        self.events += report.events
        self.simulated_ms += report.simulated_ms
        self.kinds_min = _least(self.kinds_min, report.kinds)
        self.faults.update(report.faults)
        self.points.update(report.points)
        self.digest ^= int(report.digest, 16)

    def add(self, other: Tally) -> None:
        """Take another tally in."""
        self.seeds += other.seeds
        self.failures = [*self.failures, *other.failures]
        self.decided += other.decided
        self.decided_min = _least(self.decided_min, other.decided_min)
        self.acked += other.acked
        self.reads += other.reads
        self.changes += other.changes
        self.reigns += other.reigns
        self.events += other.events
        self.simulated_ms += other.simulated_ms
        self.kinds_min = _least(self.kinds_min, other.kinds_min)
        self.faults.update(other.faults)
        self.points.update(other.points)
        self.reached.update(other.reached)
        self.digest ^= other.digest

    def unreached(self) -> list[str]:
        """Marks that no seed reached, if there were seeds enough to tell."""
        if self.seeds < REACH_SEEDS:
            return []
        return sorted(name for name, count in self.reached.items() if not count)


def _least(a: int | None, b: int | None) -> int | None:
    return min((each for each in (a, b) if each is not None), default=None)


def judge(seed: int, asked: Asked) -> Report | Failure:
    """Run a seed; whatever goes wrong is a failure of that seed."""
    try:
        return run(seed, asked)
    except Breach as breach:
        return Failure(seed, breach.checker, str(breach))
    except Exception as error:  # noqa: BLE001 - a mistake may also make the code trip over itself
        return Failure(seed, type(error).__name__, f"{type(error).__name__}: {error}")


def run_slice(seeds: range, asked: Asked, *, reach: bool = True) -> Tally:
    """Run some seeds in this process. `reach`: count marks, unless the code is compiled: it has no lines."""
    tally = Tally(failures=[])
    with ExitStack() as stack:
        counts: Reach | None = None
        if reach and not COMPILED:
            counts = stack.enter_context(Reach())
        for seed in seeds:
            outcome = judge(seed, asked)
            if isinstance(outcome, Failure):
                tally.seeds += 1
                tally.failures.append(outcome)
            else:
                tally.passed(outcome)
            gc.collect()
        if counts is not None:
            tally.reached.update(dict.fromkeys(counts.names, 0))
            tally.reached.update(counts.counts)
    return tally


def campaign(seeds: range, asked: Asked, jobs: int, on_slice: Callable[[Tally], None]) -> Tally:
    """Run all seeds over `jobs` processes; `on_slice` sees the tally so far, now and then."""
    total = Tally(failures=[])
    for part in _slices(seeds, asked, jobs):
        total.add(part)
        on_slice(total)
    return total


def _slices(seeds: range, asked: Asked, jobs: int) -> Iterator[Tally]:
    slices = [(seeds[at : at + SLICE], asked) for at in range(0, len(seeds), SLICE)]
    if jobs == 1 or len(slices) == 1:
        gc.collect()
        gc.freeze()
        for each in slices:
            yield _run_slice(each)
        return
    # Fresh interpreters: nothing that this process did has any part in what a seed does.
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=gc.freeze) as pool:
        yield from pool.imap_unordered(_run_slice, slices)


def _run_slice(work: tuple[range, Asked]) -> Tally:
    return run_slice(*work)
