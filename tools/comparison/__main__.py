"""What `tools/compare` runs: arguments, the result file, the table in the README.

Decides exit codes: 0 only if everything asked for was measured without a doubt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
import orjson
from rich.console import Console

from paxmux.engine.errors import ExitCode, PaxmuxError
from paxmux.tools import event_loop
from paxmux.tools.arguments import seconds, whole, wholes
from paxmux.tools.comparison.measure import Comparison, compare, joined
from paxmux.tools.comparison.systems import SYSTEMS, find
from paxmux.tools.comparison.table import markdown, put
from paxmux.tools.comparison.work import Work
from paxmux.tools.main import INTERRUPTED, exit_code
from paxmux.tools.progress import Steps
from paxmux.tools.scratch import Scratch

ENVIRONMENT = Path("build", "compare-venv")
RESULT = Path("docs", "comparison.json")
PAGE = Path("README.md")
VALUE_MIN_BYTES = 16
_EPILOG = f"""\
Each system runs with three nodes on this machine, in a new folder on the same disk, under the same load:
callers that wait for their answer, and then send the next value of their own. PySyncObj, and what Python
needs to call etcd, are installed into {ENVIRONMENT} and nowhere else. etcd is the program of that
name in PATH; nothing installs it.

With --add the runs count in a result file together with those that it has, so that a measurement can be
taken in parts; without it the file is new. --write is --add to {RESULT}, and the table in {PAGE} made anew
from it.

A run during which other processes take more than 10 % of the CPUs does not count, and is taken again, up to
twice. The exit code is 0 only if all runs that were asked for count, had no errors, and their nodes agreed.
"""


def main(argv: list[str] | None = None) -> int:
    """Measure, show, and say whether it all holds."""
    args = _parser().parse_args(argv)
    place = args.root / RESULT if args.write or args.render else args.add
    try:
        earlier = read(place) if place is not None and (args.render or place.exists()) else None
        if args.render:
            assert earlier is not None
            _render(earlier, args.root / PAGE)
            return ExitCode.OK
        measured = event_loop.run(_measure(args, earlier.rounds if earlier is not None else 0))
        result = joined(earlier, measured) if earlier is not None else measured
        if place is not None:
            write(result, place)
        if args.write:
            _render(result, args.root / PAGE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except PaxmuxError as error:
        print(f"tools/compare: {error}", file=sys.stderr)
        return exit_code(error)
    print(markdown(result), end="")
    for name, reason in measured.missing.items():
        print(f"tools/compare: {name} was not measured, since {reason}", file=sys.stderr)
    asked = args.runs * len(args.callers) * (len(args.systems) + ("paxmux" in args.systems))
    if (found := sum(len(line.runs) for line in measured.lines)) < asked:
        print(f"tools/compare: {found} of {asked} runs count", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.FAILED if measured.doubts else ExitCode.OK


def _render(result: Comparison, page: Path) -> None:
    page.write_text(put(page.read_text(encoding="utf-8"), markdown(result)), encoding="utf-8")


def read(place: Path) -> Comparison:
    """A result file.

    Raises:
        PaxmuxError: it is none.
    """
    try:
        return msgspec.json.decode(place.read_bytes(), type=Comparison)
    except (OSError, msgspec.DecodeError) as error:
        raise PaxmuxError(f"{place}: expected a result of tools/compare: {error}") from error


def write(result: Comparison, place: Path) -> None:
    """Write a result file. Raises OSError if it cannot be written."""
    document = msgspec.to_builtins(result)
    place.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


async def _measure(args: argparse.Namespace, done: int) -> Comparison:
    works = [
        Work(callers=callers, size=args.size, seconds=args.seconds, warmup_s=args.warmup_s)
        for callers in args.callers
    ]
    with Scratch(args.data_dir) as scratch, Steps(Console(stderr=True)) as steps:
        ready, missing = await find(args.systems, args.root / ENVIRONMENT)
        if not ready:
            raise PaxmuxError("; ".join(f"{name}: {reason}" for name, reason in missing.items()))
        return await compare(ready, missing, works, args.runs, done, scratch.path, steps)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/compare",
        description="Measure paxmux, etcd and PySyncObj one after the other, with the same work.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--root", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument(
        "--systems", type=_names, default=list(SYSTEMS), metavar="NAME,…", help=", ".join(SYSTEMS)
    )
    parser.add_argument("--callers", type=wholes(1, 10_000), default=[100, 1000], metavar="N,…")
    parser.add_argument("--size", type=whole(VALUE_MIN_BYTES, 1_000_000), default=100, metavar="BYTES")
    parser.add_argument("--seconds", type=seconds(0.1, 3600), default=10.0, metavar="S")
    parser.add_argument("--warmup-s", type=seconds(0, 600), default=2.0, metavar="S")
    parser.add_argument("--runs", type=whole(1, 1000), default=3, metavar="N", help="of each (default: 3)")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="an empty folder for the data (default: a temporary one)"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--add", type=Path, metavar="FILE", help="the result file; its runs count too")
    place.add_argument("--write", action="store_true", help=f"add to {RESULT}, and write the table of {PAGE}")
    place.add_argument(
        "--render", action="store_true", help=f"measure nothing; write the table of {PAGE} from {RESULT} anew"
    )
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SYSTEMS:
            raise argparse.ArgumentTypeError(f"expected names of {', '.join(SYSTEMS)}, got {name!r}")
    return names


if __name__ == "__main__":
    raise SystemExit(main())
