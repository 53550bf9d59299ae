"""`paxmux status DATA_DIR|CONFIG`: what a running node says about itself.

Decides how it is asked and how often; tools/status_tables.py decides how it looks.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console, Group
from rich.live import Live

from paxmux.engine.errors import ExitCode, NodeStopped, PaxmuxError
from paxmux.engine.options import Options
from paxmux.shards.control import request
from paxmux.tools.arguments import seconds
from paxmux.tools.status_tables import Status, tables

TIMEOUT_S = 5.0
WATCH_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux status`."""
    parser.add_argument("place", metavar="DATA_DIR|CONFIG", help="the node's data directory or YAML file")
    parser.add_argument("--json", action="store_true", help="print the document as it is, on one line")
    parser.add_argument("--groups", action="store_true", help="a row for each group")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=seconds(0.1, 3600),
        const=WATCH_S,
        metavar="S",
        help="show it again and again, every S seconds (default: 1), until Ctrl-C",
    )
    parser.epilog = "The exit code is 1 if no node runs there or it does not answer."


def run(args: argparse.Namespace) -> int:
    """Ask, show, and perhaps again."""
    place = Path(args.place)
    data_dir = Path(Options.from_yaml(place).data_dir) if place.is_file() else place
    try:
        if args.watch is not None:
            return _watch(data_dir, args)
        _show(_ask(data_dir), args)
    except NodeStopped as error:
        print(f"paxmux status: the node is down: {error}", file=sys.stderr)
        return ExitCode.FAILED
    except PaxmuxError as error:
        print(f"paxmux status: {error}", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.OK


def rates(before: Status, now: Status, elapsed_s: float) -> dict[int, float]:
    """Values executed per second by worker, of those that are the same process in both."""
    old = {(row["worker"], row["generation"]): row["counters"] for row in before["workers"]}
    found = {}
    for row in now["workers"]:
        first, last = old.get((row["worker"], row["generation"])), row["counters"]
        if first is not None and last is not None and elapsed_s > 0:
            found[row["worker"]] = (last["values_applied"] - first["values_applied"]) / elapsed_s
    return found


def _ask(data_dir: Path) -> Status:
    status: Status = request(data_dir, {"op": "status"}, TIMEOUT_S)
    return status


def _show(status: Status, args: argparse.Namespace) -> None:
    if args.json:
        _print_json(status)
    else:
        console = Console(highlight=False)
        for table in tables(status, groups=args.groups):
            console.print(table)


def _print_json(status: Any) -> None:
    sys.stdout.write(orjson.dumps(status, option=orjson.OPT_APPEND_NEWLINE).decode())
    sys.stdout.flush()


def _watch(data_dir: Path, args: argparse.Namespace) -> int:
    """Until Ctrl-C, which is how it is meant to end, or until the node is gone."""
    console = Console(highlight=False)
    before, before_s = _ask(data_dir), time.monotonic()
    try:
        if args.json or not console.is_terminal:
            _show(before, args)
            while True:
                time.sleep(args.watch)
                now, now_s = _ask(data_dir), time.monotonic()
                if args.json:
                    _print_json(now)
                else:
                    _print_all(console, before, now, now_s - before_s, args)
                before, before_s = now, now_s
        with Live(console=console, auto_refresh=False, screen=True) as live:
            live.update(Group(*tables(before, groups=args.groups)), refresh=True)
            while True:
                time.sleep(args.watch)
                now, now_s = _ask(data_dir), time.monotonic()
                speed = rates(before, now, now_s - before_s)
                live.update(Group(*tables(now, groups=args.groups, rates=speed)), refresh=True)
                before, before_s = now, now_s
    except KeyboardInterrupt:
        return ExitCode.OK


def _print_all(
    console: Console, before: Status, now: Status, elapsed_s: float, args: argparse.Namespace
) -> None:
    for table in tables(now, groups=args.groups, rates=rates(before, now, elapsed_s)):
        console.print(table)
