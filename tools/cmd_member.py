"""`paxmux member list|add|remove|change`: who the members of a running node's groups are.

Decides how the node is asked, and how its answer looks. Many groups are asked for in portions, so that it can
be seen how far it is; each command may be given again, and does what is left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from paxmux.engine.address import MAX_NODE_ID, node_text, parse_member
from paxmux.engine.errors import ConfigError, ExitCode, NodeStopped, PaxmuxError
from paxmux.engine.groups import ALL, parse_groups
from paxmux.engine.options import Options
from paxmux.shards.control import request
from paxmux.tools.arguments import seconds
from paxmux.tools.cmd_layout import ranges
from paxmux.tools.progress import Steps

LIST_TIMEOUT_S = 10.0
CHANGE_S = 60.0
GRACE_S = 5.0
"""The node answers within the time that it is given; this is for the way."""
PORTION = 64
"""Groups in one request."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux member`."""
    commands = parser.add_subparsers(dest="member_command", required=True, metavar="COMMAND")
    show = commands.add_parser("list", help="show the members of the groups, as this node knows them")
    add = commands.add_parser("add", help="add a node that runs with `join: true`")
    remove = commands.add_parser("remove", help="remove a member; it may be down")
    change = commands.add_parser(
        "change", help="put a node in the place of another; or give one its new seat, or another address"
    )
    for each in (show, add, remove, change):
        each.add_argument(
            "place", metavar="DATA_DIR|CONFIG", help="the data directory or YAML file of a member"
        )
    for each in (add, remove):
        each.add_argument("node", metavar="NODE", type=_node, help="its id, or [ID@]HOST:PORT")
    change.add_argument("old", metavar="OLD", type=_node, help="the node that goes")
    change.add_argument("node", metavar="NEW", type=_node, help="the node that comes; it may be the same")
    for each in (show, add, remove, change):
        each.add_argument(
            "--group", default=ALL, metavar="GROUPS", help="`all` (the default), or such as `0-9,20`"
        )
        each.add_argument("--json", action="store_true", help="print the answer as JSON")
    for each in (add, remove, change):
        each.add_argument(
            "--timeout",
            type=seconds(0.1, 1e6),
            default=CHANGE_S,
            metavar="S",
            help=f"for each {PORTION} groups (default: %(default)s)",
        )
        each.epilog = (
            "Where it holds already nothing is done, so the same command again does what is left. The exit "
            "code is 0 only if it holds in every group that was asked for. docs/membership.md has procedures."
        )


def run(args: argparse.Namespace) -> int:
    """Ask, and say what came of it."""
    place = Path(args.place)
    data_dir = Path(Options.from_yaml(place).data_dir) if place.is_file() else place
    try:
        if args.member_command == "list":
            return _list(
                request(data_dir, {"op": "members", "groups": args.group}, LIST_TIMEOUT_S), args.json
            )
        return _change(data_dir, args)
    except NodeStopped as error:
        print(f"paxmux member: the node is down: {error}", file=sys.stderr)
    except PaxmuxError as error:
        print(f"paxmux member: {error}", file=sys.stderr)
    return ExitCode.FAILED


def _node(text: str) -> str:
    """A node as the node that is asked reads it."""
    try:
        if text.isascii() and text.isdigit():
            if not 1 <= int(text) <= MAX_NODE_ID:
                raise ConfigError(f"expected a node id of 1 .. 2^64-1, got {text!r}")
        else:
            parse_member(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _list(said: dict[str, Any], as_json: bool) -> int:
    if as_json:
        _print_json(said)
        return ExitCode.OK
    table = Table(title="members", title_justify="left")
    for column in ("groups", "node", "seat", "address", "heard"):
        table.add_column(column, overflow="fold")
    for groups, members in _alike(said["groups"]):
        for number, member in enumerate(members):
            table.add_row(
                ranges(groups) if not number else "",
                member["name"],
                member["seat"],
                member["address"] or "not known",
                _heard(member["silent_ms"]),
                end_section=number == len(members) - 1,
            )
    Console(highlight=False).print(table)
    return ExitCode.OK


def _alike(rows: list[dict[str, Any]]) -> list[tuple[list[int], list[dict[str, Any]]]]:
    """Groups that have the same members, which are said once; who is silent longest in any of them."""
    found: dict[tuple[Any, ...], tuple[list[int], list[dict[str, Any]]]] = {}
    for row in rows:
        key = tuple((member["node_id"], member["seat"], member["address"]) for member in row["members"])
        groups, members = found.setdefault(key, ([], row["members"]))
        groups.append(row["group"])
        for known, member in zip(members, row["members"], strict=True):
            known["silent_ms"] = max(known["silent_ms"] or 0, member["silent_ms"] or 0)
    return list(found.values())


def _heard(silent_ms: int | None) -> str:
    return "not known" if silent_ms is None else f"{silent_ms / 1000:.1f} s ago"


def _change(data_dir: Path, args: argparse.Namespace) -> int:
    message: dict[str, Any] = {"op": "change_members", "what": args.member_command, "timeout_s": args.timeout}
    message |= (
        {"node": args.node} if args.member_command != "change" else {"node": args.old, "new": args.node}
    )
    total: dict[str, list[Any]] = {"changed": [], "unchanged": [], "errors": []}
    count = request(data_dir, {"op": "members", "groups": "0"}, LIST_TIMEOUT_S)["count"]
    try:
        groups = parse_groups(args.group, count)
    except ConfigError as error:
        raise PaxmuxError(str(error)) from None
    with Steps(Console(stderr=True, highlight=False)) as steps:
        for portion in _portions(list(groups)):
            if len(groups) > PORTION:
                done = sum(map(len, total.values()))
                steps.step(f"groups {ranges(portion)}: {done} of {len(groups)} are done")
            said = request(data_dir, {**message, "groups": ranges(portion)}, args.timeout + GRACE_S)
            for name, items in total.items():
                items += said[name]
    if args.json:
        _print_json(total)
    else:
        _report(total, args)
    return ExitCode.FAILED if total["errors"] else ExitCode.OK


def _portions(groups: list[int]) -> Iterator[list[int]]:
    for at in range(0, len(groups), PORTION):
        yield groups[at : at + PORTION]


def _report(total: dict[str, list[Any]], args: argparse.Namespace) -> None:
    name = node_text(int(args.node)) if args.node.isdigit() else args.node
    done = {"add": "is a member", "remove": "is no member", "change": "is a member"}[args.member_command]
    parts = [f"{name} {done} now in {len(total['changed'])} groups"]
    if total["unchanged"]:
        parts.append(f"as before in {len(total['unchanged'])}")
    print(", ".join(parts))
    for words, failed in _by_words(total["errors"]).items():
        print(f"groups {ranges(failed)}: {words}", file=sys.stderr)


def _by_words(errors: list[dict[str, Any]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for error in errors:
        found.setdefault(f"{error['error']} (code {error['code']})", []).append(error["group"])
    return found


def _print_json(document: Any) -> None:
    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE).decode())
