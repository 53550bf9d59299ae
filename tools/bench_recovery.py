"""What a start costs over logs of several lengths: time, records looked at, memory.

Decides which logs are built, and in which states each is opened: as a kill left it, after a clean stop,
and without its index. Every step runs in a process of its own (`recovery_step.py`); this one only asks.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import orjson
import psutil

import paxmux
from paxmux.engine.compiled import COMPILED
from paxmux.engine.errors import PaxmuxError
from paxmux.shards.log_directories import LOGS
from paxmux.tools.ports import PortClaims
from paxmux.tools.progress import Steps
from paxmux.tools.recovery_step import Spec
from paxmux.tools.surroundings import fdatasync_p50_us, file_system

INDEX = "index"
MORE_MAX = 1_000_000
"""Instances that a node decides after its start, at most."""
KILLED, CLEAN, NO_INDEX = "killed", "stopped", "no index"
"""How a log is found: as a kill left it, after a clean stop, and that with its index removed."""


async def run_recovery(
    lengths: list[int], groups: int, size: int, storage: str, folder: Path, steps: Steps
) -> dict[str, Any]:
    """Run it in an empty folder; returns the report.

    Args:
        lengths: of the logs, in records.
        groups: that share each log.
        size: of each value, in bytes.
        storage: dotted path of the storage plugin.
        folder: empty; each log is removed when it is done with.
        steps: progress.

    Raises:
        PaxmuxError: a step failed.
    """
    sync_us = fdatasync_p50_us(folder)
    logs = []
    with PortClaims() as claims:
        (port,) = claims.take(1)
        for length in lengths:
            spec = Spec(
                step="build",
                data_dir=str(folder / f"{length}"),
                port=port,
                records=length,
                groups=groups,
                size=size,
                storage=storage,
            )
            logs.append(await _measure(spec, steps))
            shutil.rmtree(spec.data_dir)
    return {
        "settings": {
            "groups": groups,
            "size": size,
            "storage": storage,
            "file_system": file_system(folder),
            "fdatasync_p50_us": round(sync_us, 1),
            "cpus": psutil.cpu_count(),
            "version": paxmux.__version__,
            "compiled": COMPILED,
        },
        "logs": logs,
    }


async def _measure(spec: Spec, steps: Steps) -> dict[str, Any]:
    length = f"{spec.records:,} records"
    steps.step(f"building a log of {length}")
    built = await _run(spec, steps)
    opened: dict[str, Any] = {}
    for state in (KILLED, CLEAN, NO_INDEX):
        index = Path(spec.data_dir) / LOGS / "0" / INDEX
        if state == NO_INDEX:
            if not index.exists():
                continue
            shutil.rmtree(index)
        steps.step(f"opening {length}: {state}")
        opened[state] = await _run(msgspec.structs.replace(spec, step="open"), steps)
    more = min(spec.records, MORE_MAX)
    steps.step(f"a node on {length}, {more:,} more")
    node = await _run(msgspec.structs.replace(spec, step="node", more=more), steps)
    return {"records": spec.records, "built": built, "opened": opened, "node": node}


async def _run(spec: Spec, steps: Steps) -> dict[str, Any]:
    """What a step says at its end."""
    module = "paxmux.tools.recovery_step"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, msgspec.json.encode(spec).decode(), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    result: dict[str, Any] | None = None
    begun_s = time.monotonic()
    try:
        async for line in process.stdout:
            said = orjson.loads(line)
            result = said.get("result", result)
            if "at" in said:
                steps.at(time.monotonic() - begun_s, f"{said['at']:,}")
        code = await process.wait()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if result is None or code != (-signal.SIGKILL if spec.step == "build" else 0):
        raise PaxmuxError(f"the step {spec.step!r} ended with {code}; what it said is above")
    return result
