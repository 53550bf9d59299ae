"""`paxmux demo`: a cluster on this machine, with a load, a crash, and the comparison of its replicas.

Decides the words, the table and the exit code; tools/demo_run.py runs the cluster.
"""

from __future__ import annotations

import argparse
import sys
import time

import orjson
from rich.console import Console
from rich.table import Table

from paxmux.engine.errors import Code, ExitCode
from paxmux.tools import event_loop
from paxmux.tools.demo_run import Demo, Show, as_json
from paxmux.tools.progress import Steps
from paxmux.tools.scratch import Scratch

_EPILOG = """\
Three nodes in a temporary folder, 100 groups, two workers each. Echoes a line through each node, puts
them under load, kills a node and a worker of another with SIGKILL, and compares what all replicas
have executed. Takes less than a minute. The exit code is 0 only if they agree, and nothing is left.
"""
_MEANINGS = {
    Code.TIMEOUT: "outcome unknown: under way when the worker was killed",
    Code.OVERLOADED: "refused, nothing was proposed: the worker was being restarted",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux demo`."""
    parser.add_argument("--secret", action="store_true", help="the nodes authenticate each other")
    parser.add_argument("--json", action="store_true", help="report as JSON on standard output")
    parser.epilog = _EPILOG


def run(args: argparse.Namespace) -> int:
    """Show it."""
    console = Console(stderr=args.json, highlight=False)
    start = time.monotonic()
    with Scratch(None) as scratch, Steps(console) as steps:
        demo = event_loop.run(Show(scratch.path, steps, secret=args.secret).run())
        if not demo.comparison.consistent:
            steps.say(f"data and logs are kept in {scratch.keep()}")
    if args.json:
        sys.stdout.write(orjson.dumps(as_json(demo), option=orjson.OPT_APPEND_NEWLINE).decode())
    else:
        _show(demo, console)
        console.print(f"{time.monotonic() - start:.0f} s")
    return ExitCode.OK if demo.comparison.consistent and not demo.left_behind else ExitCode.FAILED


def _show(demo: Demo, console: Console) -> None:
    phases = Table("load", title="speed", title_justify="left")
    phases.add_column("values/s", justify="right")
    for phase in demo.phases:
        phases.add_row(phase.name, f"{phase.values_per_s:,.0f}")
    console.print(phases)
    nodes = Table("node", title="nodes", title_justify="left")
    nodes.add_column("values executed", justify="right")
    nodes.add_column("values per fdatasync, before the crashes", justify="right")
    for name, count in demo.applied.items():
        nodes.add_row(name, f"{count:,}", f"{demo.values_per_sync[name]:.1f}")
    console.print(nodes)
    latency = demo.latency_ms
    console.print(
        f"{demo.ok:,} values answered; latency p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, "
        f"at most {latency['max']:.0f} ms"
    )
    for code, count in sorted(demo.errors.items()):
        console.print(f"{count:,} times code {code}: {_MEANINGS.get(Code(code), Code(code).name.lower())}")
    if not demo.errors:
        console.print("no errors")
    for difference in demo.comparison.differences:
        console.print(f"DIFFERENT: {difference}", markup=False)
    for words in demo.left_behind:
        console.print(f"LEFT BEHIND: {words}", markup=False)
    console.print(
        "all replicas applied the same sequence" if demo.comparison.consistent else "THE REPLICAS DIFFER"
    )
