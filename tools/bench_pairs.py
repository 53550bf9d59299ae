"""What `tools/bench-pairs` runs: `paxmux bench` with some settings several times, two versions in turns.

Decides that figures stand beside those of another version measured in the same minutes: on machines that are
now faster and now slower, only their ratio says much. Medians, with the smallest and the largest. The result
file is written after each run, so that none is lost.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
from rich.console import Console

from paxmux.engine.errors import ExitCode, PaxmuxError
from paxmux.tools.arguments import whole
from paxmux.tools.main import INTERRUPTED
from paxmux.tools.pairs_table import PairRun, Pairs, markdown
from paxmux.tools.progress import Steps
from paxmux.tools.repeats import turns

SETTINGS = (
    "--groups 100 --clients 100",
    "--groups 100 --clients 1000",
    "--groups 100 --clients 100 --proposer all",
    "--groups 20 --clients 100",
    "--groups 1 --clients 100",
    "--groups 1 --clients 1000",
    "--groups 1 --clients 1",
    "--groups 100 --clients 100 --mode batch --batch 1000",
    "--groups 20 --clients 100 --size 100000",
)
RUN_MAX_S = 600.0
SAID_MAX = 2000
_EPILOG = """\
Each SETTING is a word of arguments of `paxmux bench`, such as '--groups 20 --clients 100'; without any, those
of the project's figures are measured. All are measured once, then all once more, N times. With --old two
versions take turns, each first as often as the other; both must know the arguments. A version is the `paxmux`
program of the environment that it is installed in.

  tools/bench-pairs --old ../before/.venv/bin/paxmux --json pairs.json --common "--seconds 10 --warmup-s 2"

The exit code is 0 only if all runs were valid and their replicas agreed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show, and say whether all runs were valid."""
    args = _parser().parse_args(argv)
    versions = {"old": args.old, "new": args.new} if args.old is not None else {"new": args.new}
    pairs = Pairs(programs=versions, common=args.common, settings=args.settings or list(SETTINGS), runs=[])
    jobs = [(setting, version) for setting in pairs.settings for version in versions]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Steps(Console(stderr=True)) as steps:
            for number, order in enumerate(_rounds(pairs.settings, list(versions), args.runs), 1):
                for place, (setting, version) in enumerate(order, 1):
                    steps.step(f"round {number} of {args.runs}, {place} of {len(jobs)}: {version} {setting}")
                    words = [*shlex.split(setting), *args.common]
                    if version == "new":
                        words += args.new_adds
                    report = run_once(args.through, versions[version], words)
                    run = PairRun.of(setting, version, report)
                    steps.say(f"  {run.values_per_s:,.0f} values/s, p99 {run.latency_ms['p99']:.2f} ms")
                    pairs.runs.append(run)
                    if args.json is not None:
                        args.json.write_bytes(
                            orjson.dumps(msgspec.to_builtins(pairs), option=orjson.OPT_INDENT_2)
                        )
    except KeyboardInterrupt:
        return INTERRUPTED
    except PaxmuxError as error:
        print(f"tools/bench-pairs: {error}", file=sys.stderr)
        return ExitCode.FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
    print(markdown(pairs), end="")
    return ExitCode.OK if all(run.sound for run in pairs.runs) else ExitCode.FAILED


def _rounds(settings: list[str], versions: list[str], runs: int) -> list[list[tuple[str, str]]]:
    """The runs of each round: settings in their order, the versions of each in turns."""
    return [
        [(setting, version) for setting in settings for version in order] for order in turns(versions, runs)
    ]


def run_once(through: list[str], program: str, words: list[str]) -> dict[str, Any]:
    """The report of one run, in a process of its own.

    Raises:
        PaxmuxError: it gave none.
    """
    with tempfile.TemporaryDirectory(prefix="paxmux-pairs-") as folder:
        file = Path(folder) / "report.json"
        command = [*through, program, "bench", *words, "--json", str(file)]
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A session of its own: whatever started the run, all of it can be ended.
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=None if through else RUN_MAX_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate()
            raise
        if not file.exists():
            raise PaxmuxError(
                f"{shlex.join(command)} ended with {process.returncode}:\n{said.strip()[-SAID_MAX:]}"
            )
        report: dict[str, Any] = orjson.loads(file.read_bytes())
        return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench-pairs",
        description="Run `paxmux bench` several times, with one version or two in turns, and print medians.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("settings", nargs="*", metavar="SETTING")
    here = str(Path(sys.executable).with_name("paxmux"))
    parser.add_argument("--new", type=_program, default=here, metavar="PROGRAM", help="(default: this one)")
    parser.add_argument("--old", type=_program, metavar="PROGRAM", help="the version to compare it with")
    parser.add_argument(
        "--new-adds",
        type=shlex.split,
        default=[],
        metavar="ARGUMENTS",
        help="added to each setting of the new version alone, such as =--secret",
    )
    parser.add_argument("--runs", type=whole(1, 1000), default=5, metavar="N", help="of each (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the result file")
    parser.add_argument(
        "--through",
        type=shlex.split,
        default=[],
        metavar="COMMAND",
        help="what each run is started by, such as a lock",
    )
    parser.add_argument(
        "--common", type=shlex.split, default=[], metavar="ARGUMENTS", help="added to each setting"
    )
    return parser


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a program, got {name!r}")
    # Runs have a folder of their own.
    return str(Path(found).absolute())


if __name__ == "__main__":
    raise SystemExit(main())
