"""`paxmux init CONFIG`: make the data directory of a node, with a new seat.

Decides nothing about seats; that is `shards/identity.py`. Never touches a directory that has one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson

from paxmux.engine.address import node_text
from paxmux.engine.errors import ExitCode
from paxmux.engine.options import Options
from paxmux.shards.identity import create


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux init`."""
    parser.add_argument("config", metavar="CONFIG", help="the node's YAML file")
    parser.add_argument("--json", action="store_true", help="report as JSON")
    parser.epilog = (
        "Fails if the directory has an identity already. A node whose data are lost gets a new seat "
        "this way, in which it learns but does not vote."
    )


def run(args: argparse.Namespace) -> int:
    """Make it and say so."""
    options = Options.from_yaml(args.config)
    identity = create(Path(options.data_dir), options.own_member().node_id, options.groups)
    if args.json:
        report = {
            "data_dir": options.data_dir,
            "node_id": identity.node_id,
            "seat": identity.seat,
            "groups": identity.groups,
        }
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_APPEND_NEWLINE).decode())
    else:
        print(
            f"made {options.data_dir} for node {node_text(identity.node_id)}, "
            f"seat {identity.seat:016x}, {identity.groups} groups"
        )
    return ExitCode.OK
