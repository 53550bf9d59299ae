"""`paxmux log`: look into the log of a node that runs or is stopped.

Decides arguments, what goes to standard output and what to standard error, and exit codes; the reading
is in tools/log/. Never writes to a data directory, and takes no lock of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from paxmux.engine.errors import ExitCode, GroupWrong, InvalidRequest
from paxmux.plugins.storage.record import DOUBT, OPENING, RELEASED, SUSPECT, UPKEEP
from paxmux.plugins.storage.scan import Batch
from paxmux.tools.arguments import whole
from paxmux.tools.log.directory import DataDirectory, read_directory
from paxmux.tools.log.export import FORMATS, exporting
from paxmux.tools.log.fault import Fault
from paxmux.tools.log.find import find_instance
from paxmux.tools.log.lines import found_document, found_lines, record_document, record_line
from paxmux.tools.log.read import Counts, LogReading
from paxmux.tools.log.rows import Rows
from paxmux.tools.log.tables import document, tables
from paxmux.tools.log.verify import At, verdict_document, verdict_text, verify
from paxmux.tools.log.walk import Damage, Removed, Tail, Walk
from paxmux.tools.progress import Steps

MAX_GROUP = 65_535
MAX_INSTANCE = 2**63 - 1
WIDTH = 120
"""Of tables where there is no terminal."""
LOOK_EVERY = 64
"""Batches between two looks at the clock."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux log`."""
    parser.epilog = (
        "The node may be running. Nothing is written to a data directory, and its lock is not taken.\n"
        "The exit code is 1 where a log is damaged, where replicas differ, or where what was asked for is\n"
        "not there; it is 70 where a directory cannot be read at all."
    )
    commands = parser.add_subparsers(dest="log_command", metavar="WHAT", required=True)

    def command(name: str, summary: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        made.add_argument("data_dir", metavar="DATA_DIR", type=Path, help="the node's data directory")
        made.set_defaults(run_log=run)
        return made

    show = command("show", "say whose log it is, and show segments and groups", _show)
    show.add_argument("--json", action="store_true", help="one document, on one line")

    get = command("get", "show what one instance of a group decided", _get)
    get.add_argument("group", metavar="GROUP", type=whole(0, MAX_GROUP), help="index of the group")
    get.add_argument("instance", metavar="INSTANCE", type=whole(0, MAX_INSTANCE), help="the instance")
    form = get.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one document, on one line; values as base64")
    form.add_argument("--raw", action="store_true", help="only the bytes of the value, as they are recorded")

    dump = command("dump", "print every record, in the order of the log", _dump)
    dump.add_argument("--group", metavar="G", type=whole(0, MAX_GROUP), help="only records of this group")
    dump.add_argument(
        "--from", dest="low", metavar="I", type=whole(0, MAX_INSTANCE), help="only from this instance on"
    )
    dump.add_argument(
        "--to", dest="high", metavar="I", type=whole(0, MAX_INSTANCE), help="only up to this instance"
    )
    dump.add_argument(
        "--json", action="store_true", help="one document for each record, on a line of its own"
    )

    check = command("verify", "check every byte, every chain and every promise", _verify)
    check.add_argument(
        "--against",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="verify this replica's data directory as well, and compare its decided values; may be repeated",
    )
    check.add_argument("--json", action="store_true", help="one document, on one line")

    export = command("export", "write the decided values to a file, a row for each entry", _export)
    export.add_argument("--format", choices=FORMATS, required=True, help="json: an object on each line")
    export.add_argument("--output", metavar="FILE", type=Path, required=True, help="replaced if it is there")
    export.add_argument("--json", action="store_true", help="report as JSON")


def run(args: argparse.Namespace) -> int:
    """Run one of them."""
    return int(args.run_log(args))


def _show(args: argparse.Namespace) -> int:
    directory = read_directory(args.data_dir)
    holder = directory.holder()
    readings: list[LogReading] = []
    with Steps(Console(stderr=True)) as steps:
        counts = Counts()
        at = _progress(steps, f"read {directory.path}")
        for log in directory.logs:
            reading = LogReading(log, counts)
            for _ in reading.read(at=at):
                pass  # the reading keeps what is to be shown
            readings.append(reading)
    if args.json:
        _print_json(document(directory, holder, readings))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = WIDTH
        for each in tables(directory, holder, readings):
            console.print(each, soft_wrap=isinstance(each, Text))
    return ExitCode.FAILED if any(reading.damage for reading in readings) else ExitCode.OK


def _get(args: argparse.Namespace) -> int:
    directory = read_directory(args.data_dir)
    _check_group(directory, args.group)
    found = find_instance(directory, args.group, args.instance)
    for words in found.damage:
        _complain(f"damage: {words}")
    if not found.values:
        where = f"it stands at instance {found.stands_at}" if found.stands_at is not None else "it is empty"
        if args.instance < found.first:
            where = f"it is forgotten, as all below instance {found.first} are"
        _complain(f"no value of group {args.group}, instance {args.instance} is in this log: {where}")
        return ExitCode.FAILED
    if args.raw:
        sys.stdout.buffer.write(found.values[-1].value)
        if not found.decided:
            _complain("this value is accepted, and not known to be decided")
    elif args.json:
        _print_json(found_document(args.group, args.instance, found))
    else:
        print("\n".join(found_lines(args.group, args.instance, found)))
    return ExitCode.OK


def _dump(args: argparse.Namespace) -> int:
    directory = read_directory(args.data_dir)
    if args.group is not None:
        _check_group(directory, args.group)
    low, high = args.low or 0, args.high if args.high is not None else MAX_INSTANCE
    every = args.group is None and args.low is None and args.high is None
    code = ExitCode.OK
    for log in directory.logs:
        number = log.identity.log
        with Walk(log) as walk:
            for event in walk.events():
                if isinstance(event, Batch):
                    upkeep = bool(event.flags & UPKEEP)
                    for record, at in zip(event.records, event.positions, strict=True):
                        kind, group, instance, _, _, _ = record
                        # That a group has left or is suspect is about all of its instances.
                        inside = low <= instance <= high or kind in (RELEASED, SUSPECT)
                        wanted = inside and args.group in (None, group) and kind not in (OPENING, DOUBT)
                        if not (wanted or every):
                            continue
                        if args.json:
                            _print_json(record_document(number, at, record, upkeep=upkeep))
                        else:
                            _say(record_line(number, at, record, upkeep=upkeep))
                elif isinstance(event, Damage | Tail | Removed):
                    if isinstance(event, Damage):
                        code = ExitCode.FAILED
                    _print_event(number, event, args.json)
    return code


def _verify(args: argparse.Namespace) -> int:
    with Steps(Console(stderr=True)) as steps:
        verdicts = verify(
            args.data_dir,
            args.against,
            (lambda _: None) if args.json else _say,
            lambda text: _progress(steps, text),
        )
    good = all(verdict.good for verdict in verdicts)
    if args.json:
        _print_json({"good": good, "directories": [verdict_document(each) for each in verdicts]})
    else:
        for verdict in verdicts:
            print(verdict_text(verdict))
    return ExitCode.OK if good else ExitCode.FAILED


def _export(args: argparse.Namespace) -> int:
    directory = read_directory(args.data_dir)
    if args.output.resolve().is_relative_to(directory.path.resolve()):
        raise InvalidRequest(f"{args.output} is in the data directory, where nothing may be written")
    counts = Counts()
    damage = faults = missing = 0
    with (
        exporting(args.output, args.format, _about(directory)) as writer,
        Steps(Console(stderr=True)) as steps,
    ):
        rows = Rows(writer.write)
        at = _progress(steps, f"export {directory.path}")
        for log in directory.logs:
            reading = LogReading(log, counts)
            for finding in reading.read(rows.add, at=at):
                match finding:
                    case Damage(words):
                        damage += 1
                        _complain(f"damage: {words}")
                    case Removed(first, last):
                        _complain(f"note: segments {first} .. {last} were removed meanwhile")
                    case Fault():
                        faults += 1
            missing += sum(group.missing for group in reading.groups.groups.values())
        rows.finish()
    if faults:
        _complain(f"{faults} records contradict others: `paxmux log verify` names them")
    if args.json:
        report = {"output": str(args.output), "rows": rows.count, "instances": counts.values}
        _print_json(report | {"missing": missing, "damage": damage, "faults": faults})
    else:
        lost = f"; the values of {missing:,} more are not there" if missing else ""
        print(f"{args.output}: {rows.count:,} rows of {counts.values:,} decided instances{lost}")
    return ExitCode.FAILED if damage or faults or missing else ExitCode.OK


def _about(directory: DataDirectory) -> dict[str, str]:
    """What an exported file says about where it comes from."""
    return {
        "paxmux.cluster": f"{directory.cluster or 0:016x}",
        "paxmux.node": str(directory.identity.node_id),
        "paxmux.seat": f"{directory.identity.seat:016x}",
    }


def _check_group(directory: DataDirectory, group: int) -> None:
    if group >= directory.identity.groups:
        raise GroupWrong(f"there is no group {group}: groups are 0 .. {directory.identity.groups - 1}")


def _print_event(log: int, event: Damage | Tail | Removed, as_json: bool) -> None:
    if isinstance(event, Damage):
        key, text = "damage", event.words
    elif isinstance(event, Tail):
        key = "tail"
        text = f"{event.path}, offset {event.offset}: {event.length} bytes that are no whole batch"
    else:
        key, text = "removed", f"segments {event.first} .. {event.last} were removed meanwhile"
    if as_json:
        _print_json({"log": log, key: text})
    else:
        _say(f"{log} {key}: {text}")


def _progress(steps: Steps, text: str) -> At:
    """A step that says how much was read; nothing at all of what is quick."""
    steps.step(text, plain=False)
    begun_s = time.monotonic()
    calls = 0

    def at(counts: Counts) -> None:
        nonlocal calls
        calls += 1
        if calls % LOOK_EVERY == 0:
            note = f"{text}: {counts.records:,} records, {counts.bytes / 1e6:,.0f} MB"
            steps.at(time.monotonic() - begun_s, note)

    return at


def _print_json(what: Any) -> None:
    sys.stdout.write(orjson.dumps(what, option=orjson.OPT_APPEND_NEWLINE).decode())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _complain(text: str) -> None:
    print(f"paxmux log: {text}", file=sys.stderr)
