"""PySyncObj in the comparison: three nodes with their journals, the load at the leader.

Decides its options. It has no setting that syncs: its journal is a file mapped into memory, which
`FileJournal.add` writes and nothing flushes before the object is destroyed. So a journal is as durable as it
gets.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import orjson
import psutil

from paxmux.engine.errors import PaxmuxError
from paxmux.tools import processes
from paxmux.tools.comparison.foreign_process import ForeignProcess
from paxmux.tools.comparison.work import NODES, TIMEOUT_S, LoadAnswer, Outcome, Work
from paxmux.tools.ports import HOST, PortClaims
from paxmux.tools.surroundings import ForeignCpu

PERIOD_S = 0.001
"""Commands leave together so often, and the loop wakes so often. Of 1, 2, 10, 100 ms (the default) and each
command at once, this gave the most values per second."""
_LOOK_EVERY_S = 0.05
_SCRIPT = Path(__file__).with_name("pysyncobj_node.py")


async def run(work: Work, folder: Path, mark: str, python: Path) -> Outcome:
    """One run in an empty folder; `python`: of the environment of the other systems.

    Raises:
        PaxmuxError: a node did not start, or died.
    """
    with PortClaims() as claims:
        addresses = [f"{HOST}:{port}" for port in claims.take(NODES)]
        nodes = [_node(index, addresses, folder, mark, python) for index in range(NODES)]
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            await asyncio.gather(*(node.ask(TIMEOUT_S) for node in nodes))
            leader = await _leader(nodes)
            foreign = ForeignCpu([*processes.marked(mark), psutil.Process()])
            answer = await leader.ask(
                work.warmup_s + work.seconds + 2 * TIMEOUT_S,
                op="load",
                work=msgspec.to_builtins(work),
                timeout_s=TIMEOUT_S,
                latencies=str(folder / "latencies"),
            )
            percent = round(foreign.percent(), 1)
            agree = await _agree(nodes)
        finally:
            await asyncio.gather(*(node.kill() for node in nodes))
    return msgspec.convert(answer, LoadAnswer).outcome(agree, percent)


def _node(index: int, addresses: list[str], folder: Path, mark: str, python: Path) -> ForeignProcess:
    options = {
        "journalFile": str(folder / f"journal{index}"),
        # Without one the journal cannot be shortened.
        "fullDumpFile": str(folder / f"dump{index}"),
        "appendEntriesPeriod": PERIOD_S,
        "autoTickPeriod": PERIOD_S,
    }
    spec = orjson.dumps({"addresses": addresses, "index": index, "options": options}).decode()
    words = [str(python), str(_SCRIPT), spec]
    return ForeignProcess(f"pysyncobj{index}", words, folder / f"pysyncobj{index}.log", mark)


async def _leader(nodes: list[ForeignProcess]) -> ForeignProcess:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for node in nodes:
            if (await node.ask(TIMEOUT_S, op="leader"))["leader"]:
                return node
        await asyncio.sleep(_LOOK_EVERY_S)
    raise PaxmuxError(f"PySyncObj has no leader after {TIMEOUT_S:.0f} s")


async def _agree(nodes: list[ForeignProcess]) -> bool:
    """Whether all nodes come to the same count and checksum: followers apply a moment later."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        applied = [await node.ask(TIMEOUT_S, op="applied") for node in nodes]
        if applied[0]["count"] and applied.count(applied[0]) == len(nodes):
            return True
        await asyncio.sleep(_LOOK_EVERY_S)
    return False
