"""`paxmux layout show|move`: which worker of a running node hosts which group, and moving groups.

Decides how the node is asked, and how its answer looks. What is moved lasts until the next start of the
node, which brings every group to where its options want it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from paxmux.engine.errors import ExitCode, NodeStopped, PaxmuxError
from paxmux.engine.options import Options
from paxmux.shards.control import request
from paxmux.tools.arguments import seconds

SHOW_TIMEOUT_S = 5.0
MOVE_TIMEOUT_S = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux layout`."""
    commands = parser.add_subparsers(dest="layout_command", required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="show which worker hosts which groups, and what is being moved")
    move = commands.add_parser("move", help="move groups to another worker while the node serves")
    for each in (show, move):
        each.add_argument("place", metavar="DATA_DIR|CONFIG", help="the node's data directory or YAML file")
        each.add_argument("--json", action="store_true", help="print the answer as JSON")
    move.add_argument("groups", metavar="GROUPS", help="`all`, or groups and ranges such as `0-9,20`")
    move.add_argument(
        "--to",
        required=True,
        type=int,
        metavar="WORKER",
        help="index of the worker; one more than there are starts another one",
    )
    move.add_argument(
        "--timeout",
        type=seconds(1, 1e6),
        default=MOVE_TIMEOUT_S,
        metavar="S",
        help="wait so long for the end, which comes all the same (default: %(default)s)",
    )
    move.epilog = (
        "Each group is held for some milliseconds; nothing is lost or done twice. It lasts until the next "
        "start, unless the YAML says so too. The exit code is 1 if a group could not be moved: it stays."
    )


def run(args: argparse.Namespace) -> int:
    """Ask, and say what came of it."""
    place = Path(args.place)
    data_dir = Path(Options.from_yaml(place).data_dir) if place.is_file() else place
    try:
        if args.layout_command == "show":
            _show(request(data_dir, {"op": "layout"}, SHOW_TIMEOUT_S), args.json)
        else:
            message = {"op": "layout_move", "groups": args.groups, "to": args.to}
            _report(request(data_dir, message, args.timeout), args)
    except NodeStopped as error:
        print(f"paxmux layout: the node is down: {error}", file=sys.stderr)
        return ExitCode.FAILED
    except PaxmuxError as error:
        print(f"paxmux layout: {error}", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.OK


def _show(layout: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(layout)
        return
    table = Table(title=f"layout, changed {layout['epoch']} times", title_justify="left")
    for column in ("worker", "groups", "CPUs"):
        table.add_column(column, overflow="fold")
    for row in layout["workers"]:
        cpus = ", ".join(map(str, row["cpus"])) or "any"
        table.add_row(str(row["worker"]), ranges(row["groups"]) or "none", cpus)
    console = Console(highlight=False)
    console.print(table)
    moving = layout["moving"]
    if moving is not None:
        console.print(
            f"group {moving['group']} moves from worker {moving['from']} to {moving['to']}: {moving['phase']}"
        )


def _report(done: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        _print_json(done)
        return
    held = done["held_ms"]
    longest = f", held for at most {max(held):.1f} ms each" if held else ""
    print(f"{done['groups']} groups moved to worker {args.to}{longest}")


def ranges(groups: list[int]) -> str:
    """Groups as they are written in the options."""
    parts: list[list[int]] = []
    for group in groups:
        if parts and parts[-1][1] == group - 1:
            parts[-1][1] = group
        else:
            parts.append([group, group])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _print_json(document: Any) -> None:
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE).decode())
