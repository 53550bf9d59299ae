"""The `paxmux` command: which subcommands there are, and what their outcomes mean to a shell.

Decides names, exit codes and how errors look. Each subcommand lives in its own module
`cmd_NAME.py` with `add_arguments(parser)` and `run(args) -> int`; only the one that is called is
imported, so that `paxmux --help` stays fast. Never prints a traceback for what the user can mend.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import paxmux
from paxmux.engine.errors import ConfigError, DataDirError, ExitCode, PaxmuxError, StorageFailed

COMMANDS = {
    "init": "make the data directory of a node",
    "secret": "make the file with the secret by which the nodes of a cluster know each other",
    "serve": "run a node until SIGTERM or SIGINT",
    "status": "show groups, layout, rings and peers of a running node",
    "layout": "show which worker of a running node hosts which group, and move groups to other workers",
    "member": "show, add, remove and change the members of the groups of a running node",
    "cleaner": "stop a running node from making room in its logs, and let it go on",
    "log": "look into the log of a node, running or stopped: show, get, dump, verify, export",
    "bench": "measure a cluster on this machine, with callers that wait or at a given rate",
    "chaos": "kill processes of a cluster under load, and check that nothing is lost",
    "sim": "simulate clusters with faults, from seeds, and judge every one",
    "demo": "show a cluster on this machine: load, a crash, the comparison of replicas",
    "master": "show who is master of the groups of a running node, and give that away",
    "election": "run one node of a cluster that says who is master",
    "echo": "run one node of a cluster that echoes what is typed",
}

INTERRUPTED = 130
"""Exit code after SIGINT, as shells expect it."""

_EXIT_CODES = f"""\
exit codes:
  {ExitCode.OK:<4} what was asked holds
  {ExitCode.FAILED:<4} it failed, or what was asked does not hold
  {ExitCode.USAGE:<4} wrong arguments or a wrong config; nothing was done
  {ExitCode.CANNOT_BOOT:<4} a node cannot start: data directory, port
  {ExitCode.STORAGE_FAILED:<4} the disk failed: nothing more was acknowledged
  {INTERRUPTED:<4} interrupted

Each subcommand has its own --help.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code; wrong arguments end in SystemExit(2)."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser(words).parse_args(words)
    try:
        code = _module(args.command).run(args)
        # A reader that went away shows here and not at exit, where Python would print a traceback.
        sys.stdout.flush()
        return int(code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except PaxmuxError as error:
        # What is wrong with a config opens with its file and line, as editors expect it.
        prefix = "" if isinstance(error, ConfigError) else f"paxmux {args.command}: "
        print(f"{prefix}{error}", file=sys.stderr)
        return exit_code(error)


def exit_code(error: PaxmuxError) -> ExitCode:
    """The exit code that stands for an error."""
    match error:
        case ConfigError():
            return ExitCode.USAGE
        case DataDirError():
            return ExitCode.CANNOT_BOOT
        case StorageFailed():
            return ExitCode.STORAGE_FAILED
        case _:
            return ExitCode.FAILED


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paxmux",
        description="Replicated state machines with Paxos: many groups, many cores, one port.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"paxmux {paxmux.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    called = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == called:
            _module(name).add_arguments(command)
    return parser


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"paxmux.tools.cmd_{name}")
