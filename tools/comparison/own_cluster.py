"""paxmux in the comparison: what `paxmux bench` measures, with its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from paxmux.tools.bench_run import BenchOptions, run_bench
from paxmux.tools.comparison.work import NODES, Outcome, Work
from paxmux.tools.latency import LatencyMs
from paxmux.tools.progress import Steps


async def run(work: Work, folder: Path, groups: int, steps: Steps) -> Outcome:
    """One run in an empty folder.

    Raises:
        PaxmuxError: a node did not start, or died.
    """
    options = BenchOptions(
        nodes=NODES,
        groups=groups,
        clients=work.callers,
        size=work.size,
        seconds=work.seconds,
        warmup_s=work.warmup_s,
    )
    report: dict[str, Any] = await run_bench(options, folder, steps)
    return Outcome(
        values_per_s=report["values_per_s"],
        latency_ms=msgspec.convert(report["latency_ms"], LatencyMs),
        errors=sum(report["errors"].values()),
        agree=report["consistent"],
        foreign_cpu_percent=report["settings"]["foreign_cpu_percent"],
    )
