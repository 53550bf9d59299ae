"""`paxmux secret new FILE`: make the file with the secret of a cluster.

Decides nothing about secrets; that is `engine/secret_file.py`. Never shows one, and takes none from its
arguments, which every user of the machine can see.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from paxmux.engine.errors import ExitCode
from paxmux.engine.secret_file import Keys, new_secret_file, read_keys

_EPILOG = """\
Copy the file to every member of the cluster, over a way that nobody reads along, and name it in each config
as `network.secret_file`. It must belong to the user of the node, or to root, with mode 0600.

To change the secret while the cluster runs, each step at every node before the next step (a node that has
taken a file says so in its log, and shows the fingerprints in `paxmux status --json`):
  1. add the new secret as a second line: it is accepted as well;
  2. make it the first line: it seals from then on;
  3. remove the old one.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux secret`."""
    parser.epilog = _EPILOG
    commands = parser.add_subparsers(dest="secret_command", metavar="WHAT", required=True)
    for name, summary, run_it in (
        ("new", "make a file with a fresh secret", _new),
        ("check", "say whether a node would take a file, and the fingerprints of its secrets", _check),
    ):
        command = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        command.add_argument("file", metavar="FILE", type=Path, help="of secrets, one a line")
        command.add_argument("--json", action="store_true", help="report as JSON")
        command.set_defaults(run_secret=run_it)


def run(args: argparse.Namespace) -> int:
    """Do it and say so."""
    keys: tuple[Keys, ...] = args.run_secret(args.file)
    fingerprints = [one.fingerprint for one in keys]
    if args.json:
        report = {"file": str(args.file), "fingerprints": fingerprints}
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_APPEND_NEWLINE).decode())
    else:
        done = "made" if args.secret_command == "new" else "read"
        print(f"{done} {args.file}: {', then '.join(fingerprints)}")
    return ExitCode.OK


def _new(file: Path) -> tuple[Keys, ...]:
    return (new_secret_file(file),)


def _check(file: Path) -> tuple[Keys, ...]:
    return read_keys(file)
