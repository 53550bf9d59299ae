"""`paxmux master list|balance|transfer|drop`: who is master of the groups of a running node, and who is to
be.

Decides how the node is asked, and how its answer looks. Only the node that has a lease can give it away: what
is asked here is about the leases of the node that is named.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from paxmux.engine.address import node_text, parse_member
from paxmux.engine.errors import ConfigError, ExitCode, NodeStopped, PaxmuxError
from paxmux.engine.options import Options
from paxmux.shards.control import request
from paxmux.tools.cmd_layout import ranges

LIST_S = 5.0
ACT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux master`."""
    commands = parser.add_subparsers(dest="master_command", required=True, metavar="COMMAND")
    show = commands.add_parser("list", help="show who is master of each group, as far as the node knows")
    balance = commands.add_parser(
        "balance", help="have the node give away what it is master of beyond its fair share"
    )
    transfer = commands.add_parser("transfer", help="have another member be master of groups of the node")
    drop = commands.add_parser("drop", help="have the node be master of groups no more, for two leases")
    for each in (show, balance, transfer, drop):
        each.add_argument("place", metavar="DATA_DIR|CONFIG", help="the node's data directory or YAML file")
        each.add_argument("--json", action="store_true", help="print the answer as JSON")
    show.add_argument("groups", metavar="GROUPS", nargs="?", default="all", help="(default: %(default)s)")
    for each in (transfer, drop):
        each.add_argument(
            "groups", metavar="GROUPS", help="ranges such as `0-9,20`; `all`: those that it is master of"
        )
    transfer.add_argument("--to", required=True, metavar="NODE", help="a node id, or ip:port that makes one")
    balance.epilog = (
        "Ask each node in turn, and masters are spread as evenly as can be. The exit code is 1 if a group "
        "could not be given away."
    )


def run(args: argparse.Namespace) -> int:
    """Ask, and say what came of it."""
    place = Path(args.place)
    data_dir = Path(Options.from_yaml(place).data_dir) if place.is_file() else place
    try:
        match args.master_command:
            case "list":
                _show(request(data_dir, {"op": "masters", "groups": args.groups}, LIST_S), args.json)
                return ExitCode.OK
            case "balance":
                message: dict[str, Any] = {"op": "master_balance"}
            case "transfer":
                message = {"op": "master_transfer", "groups": args.groups, "to": _node_id(args.to)}
            case _:
                message = {"op": "master_drop", "groups": args.groups}
        return _report(request(data_dir, message, ACT_S), args.json)
    except NodeStopped as error:
        print(f"paxmux master: the node is down: {error}", file=sys.stderr)
        return ExitCode.FAILED
    except ConfigError:
        raise
    except PaxmuxError as error:
        print(f"paxmux master: {error}", file=sys.stderr)
        return ExitCode.FAILED


def _node_id(text: str) -> int:
    if text.isdecimal():
        return int(text)
    return parse_member(text).node_id


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(answer)
        return
    table = Table(title="masters", title_justify="left")
    for column in ("group", "master", "address", "version", "term", "lease", "left"):
        table.add_column(column, overflow="fold")
    for row in answer["groups"]:
        known = row["master"] != 0
        table.add_row(
            str(row["group"]),
            ("this node" if row["own"] else node_text(row["master"])) if known else "nobody",
            row["address"] or "-",
            str(row["version"]) if row["version"] >= 0 else "-",
            str(row["term"]) if known else "-",
            f"{row['lease_ms'] / 1000:g} s" if known else "-",
            f"{row['left_ms'] / 1000:.1f} s" if known else "-",
        )
    Console(highlight=False).print(table)


def _report(answer: dict[str, Any], as_json: bool) -> int:
    if as_json:
        _print_json(answer)
    else:
        by_master: dict[int | None, list[int]] = {}
        for row in answer["done"]:
            by_master.setdefault(row["master"], []).append(row["group"])
        for master, groups in by_master.items():
            words = "given back" if master is None else f"node {node_text(master)} is master now"
            print(f"groups {ranges(sorted(groups))}: {words}")
        if not answer["done"] and not answer["errors"]:
            print("nothing to give away")
        for row in answer["errors"]:
            print(f"group {row['group']}: {row['error']}", file=sys.stderr)
    return ExitCode.FAILED if answer["errors"] else ExitCode.OK


def _print_json(document: Any) -> None:
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE).decode())
