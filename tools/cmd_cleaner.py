"""`paxmux cleaner pause|resume DATA_DIR|CONFIG`: whether a running node makes room in its logs."""

from __future__ import annotations

import argparse
from pathlib import Path

from paxmux.engine.errors import ExitCode
from paxmux.engine.options import Options
from paxmux.shards.control import request

TIMEOUT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux cleaner`."""
    parser.add_argument("what", choices=("pause", "resume"), help="stop forgetting and removing, or go on")
    parser.add_argument("place", metavar="DATA_DIR|CONFIG", help="the node's data directory or YAML file")
    parser.epilog = "It holds until the node ends. The exit code is 1 if no node runs there."


def run(args: argparse.Namespace) -> int:
    """Tell the node; says what holds now."""
    place = Path(args.place)
    data_dir = Path(Options.from_yaml(place).data_dir) if place.is_file() else place
    answer = request(data_dir, {"op": "cleaning", "on": args.what == "resume"}, TIMEOUT_S)
    print("the node makes room" if answer["cleaning"] else "the node makes no room until it is resumed")
    return ExitCode.OK
