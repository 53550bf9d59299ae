"""Kill -9 of one of two workers under load, again and again: what both slices notice, and for how long.

    python -m tests.kill_campaign --kills 10 --seed 1 --json report.json
    python -m tests.kill_campaign --merge report1.json report2.json

Three nodes with two workers each; all requests go to node 1, at a steady rate of half of what 100 callers
get there (measured first, unless --rate says it). At each kill: p99 of the other slice over the 2 s before
and the 2 s after it, and the longest gap between two completions of the slice that was lost. In the end the
replicas are compared, and each acknowledged value must have been executed once, no refused one ever. State
machines keep their state (tests/kept_journal.py), so that a restart is that of the engine. Kills are far
apart in service: each is a first death here too (`crash_window_s: 1`), with a back-off of
`restart_first_ms`. The exit code is 0 only if nothing was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
from collections import Counter
from pathlib import Path
from time import monotonic_ns
from typing import Any

from rich.console import Console

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.tools import event_loop
from paxmux.tools.bench_run import BenchOptions, run_bench
from paxmux.tools.cluster import Cluster
from paxmux.tools.journal_machine import ask_page, read_page
from paxmux.tools.load_gate import GateSpec
from paxmux.tools.node_handle import NodeHandle
from paxmux.tools.progress import Steps
from paxmux.tools.replicas import Mark, compare
from paxmux.tools.scratch import Scratch
from tests.traced_load import Traced, TracedLoad, latencies, longest_gap_ns, p99_ms

GROUPS = 100
WINDOW_S = 2.0
SETTLE_S = 1.0
PAGE_ROWS = 100_000
_SECOND_NS = 1_000_000_000


async def peak_per_s(folder: Path, steps: Steps) -> float:
    """What 100 callers of node 1 get."""
    options = BenchOptions(workers=2, groups=GROUPS, clients=100, seconds=5.0, warmup_s=2.0)
    report = await run_bench(options, folder, steps)
    return float(report["values_per_s"])


async def campaign(rate_per_s: float, kills: int, seed: int, folder: Path, steps: Steps) -> dict[str, Any]:
    """The kills, one after the other; returns the report."""
    rng = random.Random(seed)
    machine = {"class": "tests.kept_journal:KeptJournal", "args": {"folder": str(folder / "kept")}}
    options = {"state_machines": [machine], "worker": {"crash_window_s": 1}}
    cluster = Cluster(folder, workers=[2, 2, 2], groups=GROUPS, machines=[], options=options)
    load = TracedLoad(rate_per_s, GROUPS, 100, seed)
    async with cluster:
        node = cluster.nodes[0]
        gate = GateSpec(smid=1, timeout_s=10.0, consistency="local")
        running = asyncio.create_task(load.run(await node.ask("serve_loads"), gate))
        await asyncio.sleep(SETTLE_S)
        struck = []
        for number in range(kills):
            steps.step(f"kill {number + 1} of {kills}")
            struck.append(await kill_one(node, rng.randrange(2), running))
        load.end()
        await running
        steps.step("comparing")
        verdict = await compare(cluster.nodes, GROUPS, smid=1, request=ask_page(0, 0), read=_read_mark)
        wrong = list(verdict.differences)
        if verdict.consistent:
            wrong += judge(load.traced, await read_rows(cluster.nodes[-1], verdict.marks))
        await cluster.stop()
        log = node.log_file.read_text(encoding="utf-8", errors="replace")
    return {
        "rate_per_s": round(rate_per_s, 1),
        "seed": seed,
        "kills": [figures(load.traced, *each) for each in struck],
        "outcomes": {
            str(code): count for code, count in sorted(Counter(one.code for one in load.traced).items())
        },
        "wrong": wrong,
        "log": [line for line in log.splitlines() if "worker" in line or "blocked" in line][-200:],
    }


async def kill_one(node: NodeHandle, worker: int, running: asyncio.Task[None]) -> tuple[set[int], int]:
    """(groups of the worker, when it was killed)."""
    await asyncio.sleep(WINDOW_S)
    status = await node.ask("status")
    pid = status["workers"][worker]["pid"]
    groups = set(status["layout"]["workers"][worker]["groups"])
    if pid is None or running.done():
        raise PaxmuxError(f"worker {worker} does not run before its kill")
    killed_ns = monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(WINDOW_S + SETTLE_S)
    return groups, killed_ns


def figures(traced: list[Traced], lost: set[int], killed_ns: int) -> dict[str, Any]:
    """What one kill came to."""
    window = int(WINDOW_S * _SECOND_NS)
    others = set(range(GROUPS)) - lost
    normal = p99_ms(latencies(traced, others, killed_ns - window, killed_ns))
    after = p99_ms(latencies(traced, others, killed_ns, killed_ns + window))
    gap_ns = longest_gap_ns(traced, lost, killed_ns - _SECOND_NS // 2, killed_ns + window + _SECOND_NS)
    meant = [one for one in traced if killed_ns - _SECOND_NS <= one.due_ns < killed_ns + window]
    return {
        "normal_p99_ms": round(normal, 2),
        "after_p99_ms": round(after, 2),
        "ratio": round(after / normal, 2),
        "gap_ms": round(gap_ns / 1e6, 1),
        "longest_ms_by_100_ms": longest_by_step(traced, others, killed_ns),
        "unknown": sum(one.code == Code.TIMEOUT for one in meant),
        "refused": sum(one.code == Code.OVERLOADED for one in meant),
        "errors_elsewhere": sum(one.code != Code.OK and one.group in others for one in meant),
    }


def longest_by_step(traced: list[Traced], groups: set[int], killed_ns: int) -> list[float]:
    """The longest latency of what was due in each 100 ms, from 1 s before the kill on."""
    begin_ns, step_ns = killed_ns - _SECOND_NS, _SECOND_NS // 10
    found = [0.0] * 30
    for one in traced:
        step = (one.due_ns - begin_ns) // step_ns
        if one.group in groups and 0 <= step < len(found):
            found[step] = max(found[step], round((one.done_ns - one.due_ns) / 1e6, 1))
    return found


async def read_rows(node: NodeHandle, marks: list[Mark]) -> list[list[int]]:
    """Ids that each group has executed."""
    found: list[list[int]] = []
    for group, (count, _) in enumerate(marks):
        ids: list[int] = []
        while len(ids) < count:
            (answer,) = await node.ask(
                "query", groups=[group], request=ask_page(len(ids), PAGE_ROWS), smid=1, timeout_s=30.0
            )
            ids += [value_id for _, value_id in read_page(answer).page]
        found.append(ids)
    return found


def judge(traced: list[Traced], rows: list[list[int]]) -> list[str]:
    """What is wrong, in words."""
    executed = [set(ids) for ids in rows]
    wrong = [
        f"group {group}: {len(ids) - len(executed[group])} values were executed twice"
        for group, ids in enumerate(rows)
        if len(ids) != len(executed[group])
    ]
    for one in traced:
        there = one.id in executed[one.group]
        if one.code == Code.OK and not there:
            wrong.append(f"value {one.id} of group {one.group} was acknowledged, and is lost")
        elif one.code == Code.OVERLOADED and there:
            wrong.append(f"value {one.id} of group {one.group} was refused, and was executed")
        elif one.code not in (Code.OK, Code.OVERLOADED, Code.TIMEOUT):
            wrong.append(f"value {one.id} of group {one.group} ended with code {one.code}")
    return wrong


def tell(reports: list[dict[str, Any]], console: Console) -> bool:
    """Show what came of all kills; whether nothing was lost."""
    kills = [each for report in reports for each in report["kills"]]
    wrong = [words for report in reports for words in report["wrong"]]
    for name in (
        "normal_p99_ms",
        "after_p99_ms",
        "ratio",
        "gap_ms",
        "unknown",
        "refused",
        "errors_elsewhere",
    ):
        values = [each[name] for each in kills]
        console.print(f"{name}: median {statistics.median(values)}, {min(values)} .. {max(values)}")
    within = sum(each["ratio"] <= 2 for each in kills)
    before = after = 0
    for report in reports:
        twice = 2 * statistics.median(each["normal_p99_ms"] for each in report["kills"])
        before += sum(each["normal_p99_ms"] > twice for each in report["kills"])
        after += sum(each["after_p99_ms"] > twice for each in report["kills"])
    console.print(
        f"{len(kills)} kills at {[report['rate_per_s'] for report in reports]} values/s; "
        f"p99 of the other slice within 2 times its normal: {within}"
    )
    console.print(f"above 2 times the median of its run: {before} windows before a kill, {after} after one")
    for words in wrong[:20]:
        console.print(f"WRONG {words}", markup=False)
    console.print("nothing was lost" if not wrong else f"{len(wrong)} WRONG")
    return not wrong


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.kill_campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--rate", type=float, metavar="PER_S", help="default: half of the peak, measured first"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="only show what these came to")
    args = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    if args.merge:
        return 0 if tell([json.loads(file.read_text()) for file in args.merge], console) else 1
    with Steps(Console(stderr=True)) as steps:
        rate = args.rate
        if rate is None:
            with Scratch(None) as scratch:
                rate = event_loop.run(peak_per_s(scratch.path, steps)) / 2
        with Scratch(None) as scratch:
            report = event_loop.run(campaign(rate, args.kills, args.seed, scratch.path, steps))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    return 0 if tell([report], console) else 1


def _read_mark(answer: bytes) -> Mark:
    page = read_page(answer)
    return page.rows, page.digest


if __name__ == "__main__":
    sys.exit(main())
