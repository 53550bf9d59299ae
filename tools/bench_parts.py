"""What limits each part of a node alone: `paxmux bench router|worker|ring|log`.

Decides which part is measured, what its report says about the machine, and how it is shown. In the middle
is production code; what would stand on its other sides is replaced by ends that do next to nothing
(`part_rig.py`). Costs are CPU time by process, so they hold also where the machine has too few CPUs for
all ends at once; rates do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

import paxmux
from paxmux.engine.compiled import COMPILED
from paxmux.tools.part_log import run_log
from paxmux.tools.part_rig import PartOptions
from paxmux.tools.part_ring import run_ring
from paxmux.tools.part_router import run_router
from paxmux.tools.part_worker import run_worker
from paxmux.tools.surroundings import code_words, fdatasync_p50_us, file_system

PARTS = ("router", "worker", "ring", "log")
ABOUT = {
    "router": "a frame from a worker's ring to the network, and from the network into a ring",
    "worker": "a value in a worker: as the one that proposes, and as one that accepts",
    "ring": "a message from one process to another",
    "log": "a record of a batch that is appended and synced together",
}
"""What is counted."""
COUNTS = frozenset({"messages", "frames", "values", "records"})
"""Of a report, but not of its table: how many there were."""


def run_part(part: str, options: PartOptions, folder: Path) -> dict[str, Any]:
    """Measure one part in an empty folder; returns the report.

    Raises:
        PaxmuxError: a process did not start, or nothing went on.
    """
    sync_us = fdatasync_p50_us(folder)
    if part == "router":
        cases = run_router(options, folder)
    elif part == "worker":
        cases = run_worker(options, folder)
    elif part == "ring":
        cases = run_ring(options)
    else:
        cases = run_log(options, folder)
    return {
        "part": part,
        "about": ABOUT[part],
        "cases": cases,
        "settings": {
            **msgspec.to_builtins(options),
            "file_system": file_system(folder),
            "fdatasync_p50_us": round(sync_us, 1),
            "cpus": psutil.cpu_count(),
            "version": paxmux.__version__,
            "compiled": COMPILED,
        },
    }


def show_part(report: dict[str, Any]) -> None:
    """Its table."""
    console = Console(highlight=False)
    table = Table(title=f"{report['part']}: {report['about']}", title_justify="left")
    names = [name for name in report["cases"][0] if name not in COUNTS]
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    for case in report["cases"]:
        cells = (case[name] for name in names)
        table.add_row(*(cell if isinstance(cell, str) else f"{cell:,}" for cell in cells))
    console.print(table)
    settings = report["settings"]
    console.print(
        f"CPU times in µs of one CPU for each. {settings['groups']} groups, file system"
        f" {settings['file_system']}, fdatasync p50 {settings['fdatasync_p50_us']:.0f} µs,"
        f" {settings['cpus']} CPUs, {code_words(settings)}"
    )
