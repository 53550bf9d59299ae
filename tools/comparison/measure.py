"""All runs of a comparison: one after the other, in turns, each in an empty folder of the same disk.

Decides what the result file says. A run that a system does not end well ends the comparison: there is no
figure without the work behind it. One that others disturb does not count, whatever its figure, and is taken
again.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from paxmux.engine.errors import PaxmuxError
from paxmux.tools import processes
from paxmux.tools.comparison.systems import Ready, System
from paxmux.tools.comparison.work import NODES, Outcome, Work
from paxmux.tools.progress import Steps
from paxmux.tools.repeats import Spread, turns
from paxmux.tools.surroundings import (
    FOREIGN_CPU_MAX_PERCENT,
    MEMORY_FILE_SYSTEMS,
    fdatasync_p50_us,
    file_system,
)

ATTEMPTS = 3
"""Of a run, if processes beside it take too much of the CPUs."""


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One system under so many callers."""

    system: System
    callers: int
    runs: list[Outcome]

    @property
    def values_per_s(self) -> Spread:
        """Of all runs."""
        return Spread.of(run.values_per_s for run in self.runs)

    def latency_ms(self, name: Literal["p50", "p99", "max"]) -> Spread:
        """A percentile, or the longest, of all runs."""
        return Spread.of(run.latency_ms[name] for run in self.runs)


class Comparison(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The result file."""

    lines: list[Line]
    missing: dict[str, str]
    """Systems that were asked for and cannot run here, with the reason."""
    settings: dict[str, Any]

    @property
    def rounds(self) -> int:
        """How many runs the line with the most has."""
        return max((len(line.runs) for line in self.lines), default=0)

    @property
    def doubts(self) -> list[str]:
        """Why the figures should not be believed; empty if they may."""
        found = []
        if self.settings["file_system"] in MEMORY_FILE_SYSTEMS:
            found.append(f"the data are on a file system in memory ({self.settings['file_system']})")
        for line in self.lines:
            what = f"{line.system.title}, {line.callers} callers"
            if not all(run.agree for run in line.runs):
                found.append(f"{what}: the nodes differ")
            if errors := sum(run.errors for run in line.runs):
                found.append(f"{what}: {errors} errors")
        return found


async def compare(
    ready: list[Ready],
    missing: dict[str, str],
    works: list[Work],
    runs: int,
    done: int,
    folder: Path,
    steps: Steps,
) -> Comparison:
    """Run everything. A line has fewer runs than asked for, or is not there, if others disturbed too many.

    Args:
        ready: the systems.
        missing: those that cannot run, for the result.
        works: differ in `callers` alone.
        runs: of each system under each work.
        done: how many earlier ones there are, so that another system begins.
        folder: an empty one, on the disk that is measured.
        steps: shown meanwhile.

    Raises:
        PaxmuxError: a system did not start, or did not end its work.
    """
    sync_us = fdatasync_p50_us(folder)
    found: dict[tuple[str, int], list[Outcome]] = {}
    for number, round_ in enumerate(turns(ready, runs, done), 1):
        for work in works:
            for each in round_:
                title = each.system.title
                steps.say(f"run {number} of {runs}: {title}, {work.callers} callers")
                outcome = await _undisturbed(each, work, folder, steps)
                if outcome is not None:
                    steps.say(
                        f"  {outcome.values_per_s:,.0f} values/s, p99 {outcome.latency_ms['p99']:.1f} ms"
                    )
                    found.setdefault((title, work.callers), []).append(outcome)
    work = works[0]
    return Comparison(
        lines=[
            Line(system=each.system, callers=work.callers, runs=found[each.system.title, work.callers])
            for each in ready
            for work in works
            if (each.system.title, work.callers) in found
        ],
        missing=missing,
        settings={
            "nodes": NODES,
            "size": work.size,
            "seconds": work.seconds,
            "warmup_s": work.warmup_s,
            "cpus": psutil.cpu_count(),
            "file_system": file_system(folder),
            "fdatasync_p50_us": round(sync_us, 1),
        },
    )


async def _undisturbed(each: Ready, work: Work, folder: Path, steps: Steps) -> Outcome | None:
    """A run during which others left the CPUs alone; None if there was none in some attempts."""
    for _ in range(ATTEMPTS):
        outcome = await _run(each, work, folder, steps)
        if outcome.foreign_cpu_percent <= FOREIGN_CPU_MAX_PERCENT:
            return outcome
        steps.say(f"  does not count: other processes used {outcome.foreign_cpu_percent} % of the CPUs")
    return None


async def _run(each: Ready, work: Work, folder: Path, steps: Steps) -> Outcome:
    place = folder / "run"
    place.mkdir()
    mark = secrets.token_hex(16)
    try:
        return await each.run(work, place, mark, steps)
    except PaxmuxError as error:
        raise PaxmuxError(f"{each.system.title}, {work.callers} callers: {error}") from error
    finally:
        processes.kill_marked(mark)
        shutil.rmtree(place)


def joined(earlier: Comparison, later: Comparison) -> Comparison:
    """The runs of both, where they measured the same.

    Raises:
        PaxmuxError: they did not; the message says in what they differ.
    """
    # The disk is measured anew each time.
    changing = "fdatasync_p50_us"
    for name, value in earlier.settings.items():
        if name != changing and later.settings.get(name) != value:
            raise PaxmuxError(
                f"{name} was {value} and is {later.settings.get(name)}: the runs cannot be put together"
            )
    lines = {(line.system.title, line.callers): line for line in earlier.lines}
    for line in later.lines:
        before = lines.get((line.system.title, line.callers))
        if before is not None and before.system != line.system:
            raise PaxmuxError(f"{line.system.title} is another one than in the earlier runs: start anew")
        runs = [*(before.runs if before else []), *line.runs]
        lines[line.system.title, line.callers] = msgspec.structs.replace(line, runs=runs)
    measured = {line.system.name for line in lines.values()}
    return Comparison(
        lines=list(lines.values()),
        missing={
            name: reason
            for name, reason in {**earlier.missing, **later.missing}.items()
            if name not in measured
        },
        settings=later.settings,
    )
