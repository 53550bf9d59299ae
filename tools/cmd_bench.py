"""`paxmux bench`: the yardstick. Measures a real cluster on this machine, and checks its replicas.

Decides arguments, tables and exit code; tools/bench_run.py measures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from paxmux.engine.bounds import BOUNDS
from paxmux.engine.compiled import COMPILED
from paxmux.engine.errors import ConfigError, ExitCode
from paxmux.engine.groups import parse_groups
from paxmux.shards.stages import NOT_COMPILED
from paxmux.tools import event_loop
from paxmux.tools.arguments import seconds, whole, wholes
from paxmux.tools.bench_behind import run_behind
from paxmux.tools.bench_budget import show_budget
from paxmux.tools.bench_idle import run_idle, show_idle
from paxmux.tools.bench_open import run_open
from paxmux.tools.bench_parts import PARTS, run_part, show_part
from paxmux.tools.bench_recovery import run_recovery
from paxmux.tools.bench_run import TIMEOUT_S, BenchOptions, run_bench
from paxmux.tools.callers import told
from paxmux.tools.open_arguments import EPILOG as OPEN_EPILOG
from paxmux.tools.open_arguments import (
    add_open_arguments,
    is_open,
    open_options,
    show_open,
    write_files,
    wrong_together,
)
from paxmux.tools.part_rig import PartOptions
from paxmux.tools.progress import Steps
from paxmux.tools.scratch import Scratch
from paxmux.tools.surroundings import code_words

_EPILOG = f"""\
Starts NODES nodes, each a process of its own that embeds a node as a server would, with WORKERS
workers. The clients are tasks inside the process of the node that they propose to; each has one
request under way and goes round the groups in a random order of its own (--seed).

  --proposer one   node 1 proposes for all groups
  --proposer all   each node has clients/nodes of the clients, and each group is proposed to by one
                   node alone: group g by node g mod NODES
  --proposer mixed as all, but each node proposes in all groups: all nodes but one forward
  --mode propose   one value for each call
  --mode batch     --batch values of one group for each call of propose_many: qps counts calls,
                   values_per_s values

With --behind the last node is stopped; when the others have decided INSTANCES, over all groups, it is
started again under the same load from node 1, until it has caught up. Reported are how long that took,
and the answers before and meanwhile; --seconds, --warmup-s and --proposer mean nothing then.

With --clients 0 the cluster is idle: reported is the CPU time of each process, in % of a core, and what
memory each group takes, against a cluster of one group for each worker.

With --profile the budget is shown as well: µs of CPU time for each value, by process and stage, and what
flows between them. Measuring it costs some µs for each turn. A router process has its sum alone.

With router, worker, ring or log no cluster is measured but that part alone, with ends that do next to
nothing in place of its neighbours: what it costs for each message, in µs of CPU time by process. Only
--seconds (of all cases together), --groups, --clients (requests under way), --size, --storage, --data-dir
and --json mean anything then.

With --recovery no cluster is measured but what a start costs: for each length a log of so many records is
built, as one worker's turns would, and left as by a kill. It is opened then, after a clean stop, and without
its index, each time in a process of its own; at last a node starts on it and decides as many instances
more (at most 1,000,000). Only --groups, --size, --storage, --data-dir and --json mean anything then.

What is counted comes within --seconds after --warmup-s; errors count at any time. A request times out
after {TIMEOUT_S:g} s. The longest wait is that of any caller, over all its attempts. Afterwards
all replicas must agree in count and hash of all bytes applied.

With --work-us the state machine burns so many µs of the CPU on each value, in all groups or those of
--work-on: a machine that cannot keep up.

{OPEN_EPILOG}
`valid` is false on a file system in memory, or if other processes used more than 10 % of the CPUs.
The exit code is 0 only if the replicas agree and something was answered.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux bench`."""
    default = BenchOptions()
    parser.add_argument("part", nargs="?", choices=PARTS, help="measure this part alone, without a cluster")
    parser.add_argument("--nodes", type=whole(1, 9), default=default.nodes, metavar="N")
    parser.add_argument("--workers", type=whole(1, 256), default=default.workers, metavar="N")
    parser.add_argument("--groups", type=whole(*BOUNDS["groups"]), default=default.groups, metavar="N")
    parser.add_argument(
        "--clients", type=whole(0, 60_000), default=default.clients, metavar="N", help="0: an idle cluster"
    )
    parser.add_argument(
        "--size", type=whole(1, 10_485_760), default=default.size, metavar="BYTES", help="of each value"
    )
    parser.add_argument("--seconds", type=seconds(0.1, 86_400), default=default.seconds, metavar="S")
    parser.add_argument("--warmup-s", type=seconds(0, 3600), default=default.warmup_s, metavar="S")
    parser.add_argument("--mode", choices=("propose", "batch"), default=default.mode)
    parser.add_argument(
        "--batch", type=whole(1, 1_000_000), default=default.batch, metavar="N", help="values of a call"
    )
    parser.add_argument("--proposer", choices=("one", "all", "mixed"), default=default.proposer)
    parser.add_argument(
        "--apart", action="store_true", help="each client has groups of its own: none shares an instance"
    )
    parser.add_argument("--router", choices=("inline", "process"), default=default.router)
    parser.add_argument("--secret", action="store_true", help="the nodes authenticate each other")
    parser.add_argument(
        "--behind",
        type=whole(1, 100_000_000),
        metavar="INSTANCES",
        help="measure how a node that lacks so many instances catches up under load",
    )
    parser.add_argument(
        "--recovery",
        type=wholes(1, 100_000_000),
        metavar="RECORDS,…",
        help="measure what a start costs over logs of so many records each",
    )
    parser.add_argument(
        "--storage", default=default.storage, metavar="DOTTED", help="storage plugin (default: %(default)s)"
    )
    parser.add_argument(
        "--work-us",
        type=whole(0, 1_000_000),
        default=default.work_us,
        metavar="N",
        help="µs of the CPU that the state machine burns on each value",
    )
    parser.add_argument(
        "--work-on",
        default=default.work_on,
        metavar="GROUPS",
        help="the groups whose machine does, as `0-9,20` (default: %(default)s)",
    )
    parser.add_argument(
        "--profile", action="store_true", help="say where the CPU time of each process goes, by stage"
    )
    parser.add_argument("--seed", type=whole(0, 2**32), default=default.seed, metavar="N")
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="keep the data in DIR/node1 …, which must not exist yet (default: a temporary folder)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the report there; - is standard output")
    add_open_arguments(parser)
    parser.epilog = _EPILOG


def run(args: argparse.Namespace) -> int:
    """Measure, show, and say whether the replicas agree."""
    wrong = _wrong(args)
    if wrong is not None:
        print(f"paxmux bench: {wrong}", file=sys.stderr)
        return ExitCode.USAGE
    if args.part is not None:
        return _run_part(args)
    if args.recovery is not None:
        return _run_recovery(args)
    options = BenchOptions(**{name: getattr(args, name) for name in BenchOptions.__struct_fields__})
    with Scratch(args.data_dir) as scratch:
        with Steps(Console(stderr=True)) as steps:
            show: Callable[[dict[str, Any]], None] | None = None
            if not args.clients:
                measure, show = run_idle(options, scratch.path, steps), show_idle
            elif args.behind is not None:
                measure, show = run_behind(options, args.behind, scratch.path, steps), _show_behind
            elif is_open(args):
                measure = run_open(options, open_options(args), scratch.path, steps)
            else:
                measure = run_bench(options, scratch.path, steps)
            report = event_loop.run(measure)
        if not report["consistent"]:
            print(f"paxmux bench: the data are kept in {scratch.keep()}", file=sys.stderr)
    if args.json is not None:
        _write(report, args.json)
    if show is not None:
        if args.json != "-":
            show(report)
        return ExitCode.OK if report["consistent"] else ExitCode.FAILED
    write_files(report, args)
    if args.json != "-":
        if is_open(args):
            show_open(report)
        _show(report)
    return ExitCode.OK if report["consistent"] and report["ok"] else ExitCode.FAILED


def _wrong(args: argparse.Namespace) -> str | None:
    """What is wrong with the arguments as a whole."""
    if args.workers > args.groups:
        return f"--workers: expected at most one worker per group ({args.groups}), got {args.workers}"
    if args.profile and COMPILED:
        return f"--profile: {NOT_COMPILED}"
    if not args.clients and (args.behind is not None or args.part is not None or is_open(args)):
        return "--clients: expected at least 1: something has to be under way"
    if args.behind is not None and args.nodes < 3:
        return "--behind: expected --nodes 3 or more: a majority goes on alone"
    try:
        parse_groups(args.work_on, args.groups)
    except ConfigError as error:
        return f"--work-on: {error}"
    for name in ("json", "parquet", "report"):
        place = getattr(args, name)
        # Known before the run, not after it.
        if place is not None and not Path(place).parent.is_dir():
            return f"--{name}: expected a file in a folder that exists, got {place!r}"
    return wrong_together(args)


def _run_part(args: argparse.Namespace) -> int:
    options = PartOptions(**{name: getattr(args, name) for name in PartOptions.__struct_fields__})
    with Scratch(args.data_dir) as scratch:
        report = run_part(args.part, options, scratch.path)
    if args.json is not None:
        _write(report, args.json)
    if args.json != "-":
        show_part(report)
    return ExitCode.OK


def _run_recovery(args: argparse.Namespace) -> int:
    with Scratch(args.data_dir) as scratch, Steps(Console(stderr=True)) as steps:
        report = event_loop.run(
            run_recovery(args.recovery, args.groups, args.size, args.storage, scratch.path, steps)
        )
    if args.json is not None:
        _write(report, args.json)
    if args.json != "-":
        _show_recovery(report)
    return ExitCode.OK


def _write(report: dict[str, Any], place: str) -> None:
    data = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if place == "-":
        sys.stdout.write(data.decode())
    else:
        Path(place).write_bytes(data)


def _show_behind(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    table = Table(title="answers", title_justify="left")
    for name in ("while the last node", "values/s", "p50 ms", "p99 ms", "max ms", "errors by code"):
        table.add_column(name, justify="left" if name.startswith("while") else "right")
    for title, part in (("is away", "without_it"), ("catches up", "while_it_catches_up")):
        answers, latency = report[part], report[part]["latency_ms"]
        table.add_row(
            title,
            f"{answers['values_per_s']:,.0f}",
            *(f"{latency[name]:.2f}" for name in ("p50", "p99", "max")),
            ", ".join(f"{code}: {count}" for code, count in answers["errors"].items()) or "none",
        )
    console.print(table)
    console.print(
        f"lacked {report['behind_instances']:,} instances when it served, {report['started_s']} s after its "
        f"start; had caught up {report['caught_up_s']} s after its start"
    )
    for difference in report["differences"]:
        console.print(f"DIFFERENT {difference}", markup=False)
    console.print("all replicas applied the same sequence" if report["consistent"] else "THE REPLICAS DIFFER")


def _show_recovery(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    logs = Table(title="opening a log", title_justify="left")
    columns = ("records", "log MB", "found", "ready s", "looked at", "own MB", "peak MB", "µs a read")
    for name in columns:
        logs.add_column(name, justify="left" if name == "found" else "right")
    nodes = Table(title="a node on it", title_justify="left")
    for name in ("records", "serves after s", "worker, own MB", "decides more", "own MB", "stopped in s"):
        nodes.add_column(name, justify="right")
    for log in report["logs"]:
        for state, opened in log["opened"].items():
            logs.add_row(
                f"{log['records']:,}",
                f"{log['built']['disk_bytes'] / 1e6:,.0f}",
                state,
                f"{opened['recovered_s']:.3f}",
                f"{opened['recovered_records']:,}",
                f"{opened['own_bytes'] / 1e6:.0f}",
                f"{opened['peak_bytes'] / 1e6:.0f}",
                f"{opened['read_us']:.0f}",
            )
        node = log["node"]
        first, last = node["worker"][0], node["worker"][-1]
        nodes.add_row(
            f"{log['records']:,}",
            f"{node['started_s']:.2f}",
            f"{first['own_bytes'] / 1e6:.0f}",
            f"{last['more']:,}",
            f"{last['own_bytes'] / 1e6:.0f}",
            f"{node['stopped_s']:.2f}",
        )
    console.print(logs)
    console.print(nodes)
    settings = report["settings"]
    console.print(
        f"file system {settings['file_system']}, fdatasync p50 {settings['fdatasync_p50_us']:.0f} µs, "
        f"{settings['cpus']} CPUs, {code_words(settings)}"
    )


def _show(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    answers = Table(title="answers", title_justify="left")
    for name in ("qps", "values/s", "ok", "errors by code"):
        answers.add_column(name, justify="right")
    answers.add_row(
        f"{report['qps']:,.0f}",
        f"{report['values_per_s']:,.0f}",
        f"{report['ok']:,}",
        ", ".join(f"{code}: {count}" for code, count in report["errors"].items()) or "none",
    )
    console.print(answers)
    latency = Table(title="latency, ms", title_justify="left")
    for name in report["latency_ms"]:
        latency.add_column(name, justify="right")
    latency.add_row(*(f"{value:.2f}" for value in report["latency_ms"].values()))
    console.print(latency)
    if "callers" in report:
        console.print(told(report["callers"]))
    nodes = Table(title="nodes", title_justify="left")
    for name in ("node", "CPU s", "RSS MB", "fdatasync", "values each"):
        nodes.add_column(name, justify="left" if name == "node" else "right")
    for name, cpu in report["cpu_s"].items():
        rss = report["rss_bytes"][name]
        nodes.add_row(
            name,
            ", ".join(f"{process} {used:.1f}" for process, used in cpu.items()),
            ", ".join(f"{process} {size / 1e6:.0f}" for process, size in rss.items()),
            f"{report['fdatasync'][name]:,}",
            f"{report['values_per_fdatasync'][name]:.1f}",
        )
    console.print(nodes)
    if "budget" in report:
        show_budget(console, report["budget"])
    settings = report["settings"]
    console.print(
        f"file system {settings['file_system']}, fdatasync p50 {settings['fdatasync_p50_us']:.0f} µs, "
        f"other processes {settings['foreign_cpu_percent']} % of {settings['cpus']} CPUs, "
        f"{code_words(settings)}"
    )
    for difference in report["differences"]:
        console.print(f"DIFFERENT {difference}", markup=False)
    console.print("all replicas applied the same sequence" if report["consistent"] else "THE REPLICAS DIFFER")
    for reason in report["invalid_because"]:
        console.print(f"not a valid measurement: {reason}", markup=False)
