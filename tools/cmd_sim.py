"""`paxmux sim`: whole clusters from seeds, with faults, judged from outside; any failure replays exactly.

Decides arguments, words and exit code; tools/sim/ simulates.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from paxmux.engine.compiled import COMPILED
from paxmux.engine.errors import ExitCode
from paxmux.tools.arguments import whole
from paxmux.tools.progress import Steps
from paxmux.tools.sim.campaign import REACH_SEEDS, Failure, Tally, campaign
from paxmux.tools.sim.minimize import minimize
from paxmux.tools.sim.plan import (
    ALIASES,
    CONSEQUENCES,
    FAULTS,
    GROUPS_MAX,
    KINDS_MIN,
    NODES_MAX,
    VALUES_MIN,
    Asked,
    expand,
    planned,
)
from paxmux.tools.sim.run import run as run_seed
from paxmux.tools.sim.trace import Trace

SEED_MAX = 2**63
SHOWN_MAX = 10
"""Failing seeds whose words are shown; all are counted, and in the report."""

KINDS = {
    "loss": "a frame never arrives",
    "duplication": "a frame arrives twice",
    "reordering": "a frame is overtaken by later ones",
    "delay": "a frame arrives much later",
    "stale": "an old frame, perhaps of an earlier life, arrives once more",
    "corruption": "bits of a frame flip in flight, or its end is missing",
    "one_way_cut": "one direction between two nodes is cut for a while",
    "bridge": "two halves of the cluster hear only one node in common",
    "worker_crash": "a worker dies, at any moment of a turn",
    "node_crash": "all processes of a node die",
    "power_cut": "a machine loses power, and with it what its disks had not synced, in part or torn",
    "tail_flip": "a worker dies, and a bit of its last, unsynced write flips",
    "synced_flip": "a bit of synced data flips; at most in a minority of nodes",
    "memory_flip": "a bit of what a group remembers of its history flips; at most in a minority of nodes",
    "lost_index": "a worker dies, and its log has lost its index",
    "wiped_disk": "a node comes back with empty disks; at most a minority of nodes does",
    "full_disk": "a log has no room for its next segment for a while",
    "failed_sync": "a write or sync fails",
    "slow_disk": "syncs take long for a while",
    "worker_pause": "a worker stands still, then gets everything at once",
    "node_pause": "so does a node",
    "clock_drift": "clocks go up to a tenth too fast or too slow, and change that",
    "clock_jump": "a clock jumps forward; where there are leases a machine sleeps, but for its clock",
    "clean_stop": "a node stops cleanly, and starts again",
}
"""Of fault, in words."""

_KINDS = "\n".join(f"  {kind:<13} {words}" for kind, words in KINDS.items())
_ALIASES = "\n".join(
    f"  {alias:<13} {', '.join(kinds)}" for alias, kinds in ALIASES.items() if alias != "wire"
)

_EPILOG = f"""\
One seed is one run: it decides the cluster (1 to {NODES_MAX} nodes, groups, each node's own layout), the
options, the load and the faults. The turns, the log, the state machines' calls and the check of frames
are production code; wire, disks, clocks and processes are simulated. A phase with faults is followed by
one without, in which everything must settle, make progress and fall silent. Each seed decides at least
{VALUES_MIN} values and injects at least {KINDS_MIN} kinds of fault. Of any five seeds one has changes of
members (nodes join, leave, lose their disks and are seated anew, several at once and in competition), one has
masters (short leases, fenced writes, reads under a lease, masters that are cut off or give up), and one has
both.

  --seed N          run one seed; print what it decides, and a digest of everything that happened. The
                    same seed, options and code give the same digest. Where it fails: the last --events
                    events before the failure
  --seeds A..B      run a campaign of the seeds A to B
  --minimize        with --seed: look for fewer faults and values with which it still fails

kinds of fault, for --faults (a list with commas; `none` for none):
{_KINDS}
or for several of them:
{_ALIASES}
  wire          all of single frames

A campaign of at least {REACH_SEEDS} seeds fails too if a line of the protocol that is marked as worth
reaching was never reached, unless --nodes, --groups or the like keep some out of reach, or
the code is compiled and has no lines to count. The exit code is 0 only if all is well.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux sim`."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=whole(0, SEED_MAX), metavar="N", help="run one seed")
    which.add_argument("--seeds", type=_seeds, metavar="A..B", help="run all of these seeds")
    parser.add_argument("--jobs", type=whole(1, 256), default=1, metavar="N", help="processes")
    parser.add_argument("--nodes", type=whole(1, NODES_MAX), metavar="N", help="instead of the seed's choice")
    parser.add_argument(
        "--groups", type=whole(1, GROUPS_MAX), metavar="N", help="instead of the seed's choice"
    )
    parser.add_argument(
        "--proposals",
        type=whole(1, 1_000_000),
        default=VALUES_MIN,
        metavar="N",
        help=f"values to be decided at least (default {VALUES_MIN})",
    )
    parser.add_argument("--faults", type=_faults, metavar="KIND,…", help="these kinds alone")
    parser.add_argument(
        "--changes", type=_yes, metavar="yes|no", help="of members, instead of the seed's choice"
    )
    parser.add_argument("--leases", type=_yes, metavar="yes|no", help="instead of the seed's choice")
    parser.add_argument(
        "--events", type=whole(1, 1_000_000), default=60, metavar="N", help="shown of a failure (default 60)"
    )
    parser.add_argument("--trace", action="store_true", help="with --seed: show them also if it passes")
    parser.add_argument("--minimize", action="store_true", help="with --seed")
    parser.add_argument("--json", metavar="FILE", help="write the report there; - is standard output")
    parser.epilog = _EPILOG


def _seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= SEED_MAX):
        raise argparse.ArgumentTypeError(f"expected seeds as in 1..300, got {text!r}")
    return range(int(first), int(last) + 1)


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"expected yes or no, got {text!r}")
    return text == "yes"


def _faults(text: str) -> tuple[str, ...]:
    try:
        return expand(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    """Simulate, show, and say whether everything held."""
    asked = Asked(
        nodes=args.nodes,
        groups=args.groups,
        proposals=args.proposals,
        faults=args.faults,
        changes=args.changes,
        leases=args.leases,
    )
    if args.seeds is None and args.jobs > 1:
        print("paxmux sim: --jobs: one seed is one process; expected --seeds with it", file=sys.stderr)
        return ExitCode.USAGE
    if args.seeds is not None and (args.minimize or args.trace):
        print("paxmux sim: --minimize, --trace: expected --seed with it", file=sys.stderr)
        return ExitCode.USAGE
    # Whoever wants the report on standard output wants nothing else there.
    console = Console(stderr=args.json == "-", highlight=False, markup=False, soft_wrap=True)
    if args.seeds is not None:
        return _campaign(args, asked, console)
    return _one(args, asked, console)


def command(seed: int, asked: Asked) -> str:
    """What reproduces a run."""
    return f"paxmux sim --seed {seed} {asked.words()}".rstrip()


# One seed


def _one(args: argparse.Namespace, asked: Asked, console: Console) -> int:
    console.print(f"seed {args.seed}, {asked.words() or 'options as by default'}")
    console.print(planned(args.seed, asked).words())
    if args.minimize:
        found = minimize(args.seed, asked, console.print)
        if found is not None:
            asked = found[0]
            console.print(f"smallest that still fails: {command(args.seed, asked)}")
    trace = Trace(keep=args.events)
    report: dict[str, Any] = {"seed": args.seed, "options": asked.words()}
    try:
        done = run_seed(args.seed, asked, trace)
    except Exception as error:  # noqa: BLE001 - whatever it is, the seed fails with it
        _show_failure(args.seed, asked, trace, error, console)
        report |= {"passed": False, "failure": f"{type(error).__name__}: {error}", "digest": trace.digest}
        _write(report, args.json)
        return ExitCode.FAILED
    if args.trace:
        for line in trace.lines:
            console.print(line)
    console.print(
        f"decided {done.decided} values, acknowledged {done.acked}, {done.reads} linearizable reads; "
        f"{done.changes} changes of members, {done.reigns} masters"
    )
    console.print(f"{done.events} events in {done.simulated_ms} ms of simulated time")
    _show_faults(done.faults, done.points, console)
    console.print(f"digest {done.digest}\npassed")
    _write(
        {**report, "passed": True, **{name: getattr(done, name) for name in done.__struct_fields__}},
        args.json,
    )
    return ExitCode.OK


def _show_failure(seed: int, asked: Asked, trace: Trace, error: Exception, console: Console) -> None:
    console.print(f"\nthe last {len(trace.lines)} events before the failure:")
    for line in trace.lines:
        console.print(line)
    if not isinstance(error, AssertionError):
        console.print("".join(traceback.format_exception(error)).rstrip())
    console.print(f"\nseed {seed} FAILED: {error}")
    console.print(f"digest {trace.digest}\nreproduce: {command(seed, asked)}")


# Many seeds


def _campaign(args: argparse.Namespace, asked: Asked, console: Console) -> int:
    seeds: range = args.seeds
    options = asked.words() or "options as by default"
    console.print(f"seeds {seeds.start}..{seeds.stop - 1}, {options}, {args.jobs} processes")
    began = time.monotonic()
    shown = 0
    with Steps(Console(stderr=True)) as steps:
        steps.step(f"{len(seeds)} seeds", plain=False)

        def progress(tally: Tally) -> None:
            nonlocal shown
            for failure in tally.failures[shown:SHOWN_MAX]:
                steps.say(f"seed {failure.seed} FAILED: {failure.words[:500]}")
            shown = max(shown, len(tally.failures))
            passed_s = time.monotonic() - began
            rate = tally.seeds / passed_s
            steps.at(passed_s, f"{tally.seeds} of {len(seeds)} seeds, {rate:.1f} seeds/s")

        tally = campaign(seeds, asked, args.jobs, progress)
    took = time.monotonic() - began
    failures = sorted(tally.failures, key=lambda failure: failure.seed)
    unreached = tally.unreached() if asked == Asked() else []
    _show_faults(tally.faults, tally.points, console)
    _show_marks(tally, console)
    kinds = sum(1 for kind in FAULTS if tally.faults[kind])
    console.print(
        f"{tally.seeds} seeds in {took:.0f} s, {tally.seeds / took:.1f} seeds/s; "
        f"{tally.decided:,} values decided (at least {tally.decided_min} by each seed), "
        f"{tally.acked:,} acknowledged, {tally.reads:,} linearizable reads; "
        f"{tally.changes:,} changes of members, {tally.reigns:,} masters; "
        f"{kinds} kinds of fault (at least {tally.kinds_min} in each seed), "
        f"{sum(tally.faults[kind] for kind in FAULTS):,} faults"
    )
    if failures:
        _again(failures[0], asked, args.events, console)
        listed = ", ".join(f"{failure.seed} ({failure.checker})" for failure in failures[:SHOWN_MAX])
        console.print(f"{len(failures)} seeds FAILED: {listed}{' …' if len(failures) > SHOWN_MAX else ''}")
    passed = not failures and not unreached
    if failures:
        console.print(f"reproduce: {command(failures[0].seed, asked)}")
    elif unreached:
        console.print(f"all seeds passed, but the campaign FAILED: never reached: {', '.join(unreached)}")
    else:
        console.print("all seeds passed")
    report = {name: getattr(tally, name) for name in tally.__struct_fields__}
    report |= {
        "passed": passed,
        "first": seeds.start,
        "last": seeds.stop - 1,
        "options": asked.words(),
        "jobs": args.jobs,
        "seconds": round(took, 1),
        "seeds_per_s": round(tally.seeds / took, 2),
        "cpus": os.cpu_count(),
        "kinds": kinds,
        "unreached": unreached,
        "digest": f"{tally.digest:016x}",
        "failures": [
            {"seed": failure.seed, "checker": failure.checker, "words": failure.words} for failure in failures
        ],
    }
    _write(report, args.json)
    return ExitCode.OK if passed else ExitCode.FAILED


def _again(failure: Failure, asked: Asked, events: int, console: Console) -> None:
    """Run a failing seed once more, with words."""
    trace = Trace(keep=events)
    try:
        run_seed(failure.seed, asked, trace)
    except Exception as error:  # noqa: BLE001 - whatever it is, the seed fails with it
        _show_failure(failure.seed, asked, trace, error, console)
    else:
        console.print(f"seed {failure.seed} FAILED in the campaign, and passes alone: {failure.words}")


def _show_faults(faults: dict[str, int], points: dict[str, int], console: Console) -> None:
    table = Table(title="faults injected", title_justify="left")
    for name in ("kind", "count", "crash at", "count"):
        table.add_column(name, justify="right" if name == "count" else "left")
    kinds = [(kind, f"{faults[kind]:,}") for kind in (*FAULTS, *CONSEQUENCES) if faults.get(kind)]
    deaths = [(point, f"{count:,}") for point, count in points.items()]
    for row in range(max(len(kinds), len(deaths))):
        left = kinds[row] if row < len(kinds) else ("", "")
        right = deaths[row] if row < len(deaths) else ("", "")
        table.add_row(*left, *right)
    console.print(table)


def _show_marks(tally: Tally, console: Console) -> None:
    if not tally.reached:
        if COMPILED:
            console.print("marked lines are not counted in a compiled installation")
        return
    table = Table(title="marked lines reached", title_justify="left")
    table.add_column("mark")
    table.add_column("count", justify="right")
    for name, count in sorted(tally.reached.items()):
        table.add_row(name, f"{count:,}")
    console.print(table)


def _write(report: dict[str, Any], place: str | None) -> None:
    if place is None:
        return
    data = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if place == "-":
        sys.stdout.write(data.decode())
    else:
        Path(place).write_bytes(data)
