"""The arguments of `paxmux bench` that are about open loops, and what such a run shows.

Decides which of them belong together, and the words; tools/bench_open.py measures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from paxmux.tools.arguments import number, whole
from paxmux.tools.arrivals import NO_SURGE, Surge
from paxmux.tools.bench_open import OpenOptions
from paxmux.tools.report_page import page
from paxmux.tools.series_file import write_series
from paxmux.tools.skew import UNIFORM, skew

MAX_PER_S = 10_000_000.0
_DEFAULTS = OpenOptions(from_per_s=0, to_per_s=0)
_OWN = ("surge", "skew", "read", "consistency", "client_processes", "under_way", "parquet", "report")
"""Arguments that mean something in an open loop alone."""

EPILOG = """\
With --rate or --ramp requests come whatever becomes of earlier ones (an open loop): at random moments, as
many independent callers make them (a Poisson process, from --seed), R per second in all. A latency counts
from the moment at which the request was due, not from when it was sent, so a stall shows in full. Nothing is
tried again: what is refused (405) counts as refused, what has no answer in time as timed out. Where as many
requests as --under-way are on their way from a process, what is due is offered, but not sent, and counted so.
--clients means nothing then.

  --rate R             R requests per second
  --ramp FROM:TO       linearly from the one to the other over --seconds; --warmup-s goes at FROM
  --surge F:FROM:TO    F times --rate between two moments, in s of the measured time
  --skew zipf[:S]      groups by Zipf's law with exponent S (0.99); group 0 is the hottest
  --read SHARE         so many of the requests are reads, of --consistency
  --client-processes N the load comes from N processes, through a socket of the node's process; with 0 it runs
                       inside the process that embeds the node
  --parquet FILE       the table of intervals (1 s, or 100 ms up to 10 s): one line for each figure
  --report FILE        a page with charts, in one file that needs no other
"""


def add_open_arguments(parser: argparse.ArgumentParser) -> None:
    """Of open loops."""
    group = parser.add_argument_group("open loop")
    pace = group.add_mutually_exclusive_group()
    pace.add_argument("--rate", type=number(0.1, MAX_PER_S), metavar="R", help="requests per second")
    pace.add_argument("--ramp", type=_ramp, metavar="FROM:TO", help="requests per second, over --seconds")
    group.add_argument(
        "--surge", type=_surge, metavar="F:FROM:TO", help="so many times the rate between two moments, in s"
    )
    group.add_argument("--skew", type=skew, default=_DEFAULTS.skew, metavar="uniform|zipf[:S]")
    group.add_argument("--read", type=number(0, 1), default=_DEFAULTS.read, metavar="SHARE")
    group.add_argument(
        "--consistency", choices=("local", "linearizable"), default=_DEFAULTS.consistency, help="of reads"
    )
    group.add_argument(
        "--client-processes", type=whole(0, 64), default=_DEFAULTS.client_processes, metavar="N"
    )
    group.add_argument("--under-way", type=whole(1, 1_000_000), default=_DEFAULTS.under_way, metavar="N")
    group.add_argument("--parquet", metavar="FILE", help="write the table of intervals there")
    group.add_argument("--report", metavar="FILE", help="write a page with charts there (HTML)")


def is_open(args: argparse.Namespace) -> bool:
    """Whether an open loop is asked for."""
    return args.rate is not None or args.ramp is not None


def wrong_together(args: argparse.Namespace) -> str | None:
    """What is wrong with the arguments as a whole; None if nothing is."""
    if not is_open(args):
        for name in _OWN:
            default = None if name == "surge" else getattr(_DEFAULTS, name, None)
            if getattr(args, name) != default:
                return f"--{name.replace('_', '-')}: expected --rate or --ramp too"
        return None
    if args.surge is not None and args.rate is None:
        return "--surge: expected --rate too"
    if args.surge is not None and args.surge[2] > args.seconds:
        return f"--surge: expected it to end within --seconds ({args.seconds:g}), got {args.surge[2]:g}"
    if args.mode != "propose":
        return "--mode: expected `propose` with --rate or --ramp: each request has one value"
    for name in ("behind", "recovery"):
        if getattr(args, name) is not None:
            return f"--{name}: expected neither --rate nor --ramp"
    return None


def open_options(args: argparse.Namespace) -> OpenOptions:
    """What was asked for."""
    first, last = args.ramp if args.ramp is not None else (args.rate, args.rate)
    return OpenOptions(
        from_per_s=first,
        to_per_s=last,
        surge=args.surge or NO_SURGE,
        skew=args.skew,
        read=args.read,
        consistency=args.consistency,
        client_processes=args.client_processes,
        under_way=args.under_way,
    )


def write_files(report: dict[str, Any], args: argparse.Namespace) -> None:
    """Table and page, where they were asked for."""
    if args.parquet is not None:
        write_series(report, Path(args.parquet))
    if args.report is not None:
        Path(args.report).write_text(page(report), encoding="utf-8")


def show_open(report: dict[str, Any]) -> None:
    """What was offered, and what became of it."""
    console = Console(highlight=False)
    offered = report["open_loop"]
    table = Table(title="offered", title_justify="left")
    names = ("offered", "answered", "refused", "timed_out", "failed", "not_sent")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_row(*(f"{offered[name]:,}" for name in names))
    console.print(table)
    console.print(
        f"{offered['offered_per_s']:,.0f} requests were due per second, and sent "
        f"{offered['late_ms']['p99']:.2f} ms later at p99"
    )
    settings = report["settings"]["open_loop"]
    if settings["skew"] != UNIFORM:
        hottest = max(offered["groups"], key=lambda group: int(group["offered"]))
        share = hottest["offered"] / max(1, offered["offered"])
        console.print(f"group {hottest['group']} was offered {share:.0%} of it")
    if settings["read"]:
        console.print(
            f"proposals p99 {offered['proposals_ms']['p99']:.2f} ms, {settings['consistency']} reads p99 "
            f"{offered['reads_ms']['p99']:.2f} ms"
        )


def _ramp(text: str) -> tuple[float, float]:
    first, colon, last = text.partition(":")
    parse = number(0, MAX_PER_S)
    if not colon:
        raise argparse.ArgumentTypeError(f"expected FROM:TO, got {text!r}")
    pair = parse(first), parse(last)
    if not sum(pair):
        raise argparse.ArgumentTypeError(f"expected FROM or TO above 0, got {text!r}")
    return pair


def _surge(text: str) -> Surge:
    parts = text.split(":")
    if len(parts) != 3:
        raise argparse.ArgumentTypeError(f"expected F:FROM:TO, got {text!r}")
    factor = number(0.01, 1000)(parts[0])
    begin, end = (number(0, 86_400)(part) for part in parts[1:])
    if begin >= end:
        raise argparse.ArgumentTypeError(f"expected FROM before TO, got {text!r}")
    return factor, begin, end
