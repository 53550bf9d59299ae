"""`paxmux chaos`: kills and freezes processes of a cluster under load, and checks what is left.

Decides arguments, words and exit code; tools/chaos_run.py does the rounds, tools/chaos_ledger.py
judges. With --linearizable it is tools/chaos_registers.py and tools/linear.py.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections import Counter
from pathlib import Path

import msgspec
import orjson
from rich.console import Console
from rich.table import Table

from paxmux.engine.bounds import BOUNDS
from paxmux.engine.errors import Code, ExitCode
from paxmux.tools import event_loop
from paxmux.tools.arguments import seconds, whole
from paxmux.tools.chaos_faults import Action
from paxmux.tools.chaos_register_report import check_file, run_registers
from paxmux.tools.chaos_registers import RegisterOptions
from paxmux.tools.chaos_run import Chaos, ChaosOptions
from paxmux.tools.progress import Steps
from paxmux.tools.scratch import Scratch

_EPILOG = """\
Three nodes (with 1, 2 and 3 workers, unless --workers says otherwise) in a temporary folder, writers
on each of them. In each round processes are killed (SIGKILL: a worker, the same one again and again, a
router, a node, two, all), frozen, stopped until they are replaced, or stopped cleanly, or their rings are
damaged; and all is brought back. Then it is checked that

  - each node gets a value through each group again
  - all replicas have executed the same values in the same order
  - each acknowledged value was executed, where it was acknowledged; none twice; none that was refused
  - the logs of all nodes say the same as the state machines
  - in the end, no process and no file in /dev/shm is left

With --linearizable, clients on each node write, compare and set, and read registers instead, and
directions between nodes are cut as well. Each call is noted, and in the end it is checked that

  - every register was linearizable: its history could have happened one call at a time
  - nothing acknowledged is lost: every node reads every register once more
  - all replicas have executed the same, and each node served again after each round
  - no process and no file in /dev/shm is left

--history FILE keeps the calls, one JSON object a line; --check FILE judges such a file, and does
nothing else. With --reads local the reads are those of each node alone: that is not linearizable, and
shows that the check would find it.

The seed fixes what is done and when, not how the machine schedules it. The exit code is 0 only if
everything held; otherwise the folder with data and logs is kept.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `paxmux chaos`."""
    parser.add_argument(
        "--seconds",
        type=seconds(0, 1e6),
        default=60.0,
        metavar="S",
        help="begin no more rounds after this (default: 60)",
    )
    parser.add_argument("--seed", type=whole(0, 2**64), metavar="N", help="default: a random one, printed")
    parser.add_argument("--groups", type=whole(*BOUNDS["groups"]), default=8, metavar="N", help="default: 8")
    parser.add_argument(
        "--workers", type=_workers, default=[1, 2, 3], metavar="N,N,N", help="of each node (default: 1,2,3)"
    )
    parser.add_argument("--clients", type=whole(1, 1000), default=8, metavar="N", help="on each node")
    parser.add_argument("--size", type=whole(12, 1_048_576), default=100, metavar="BYTES", help="of a value")
    parser.add_argument("--router", choices=("inline", "process"), default="inline")
    parser.add_argument("--secret", action="store_true", help="the nodes authenticate each other")
    parser.add_argument(
        "--faults",
        metavar="WORDS",
        default="",
        help="only rounds whose kind has one of these in its name, such as `crash loop,ring`",
    )
    parser.add_argument(
        "--linearizable", action="store_true", help="registers, cuts, and the check of their history"
    )
    parser.add_argument(
        "--keys", type=whole(1, 1000), metavar="N", help="registers of each group (default: 2)"
    )
    parser.add_argument("--reads", choices=("linearizable", "local"), help="(default: linearizable)")
    parser.add_argument("--history", type=Path, metavar="FILE", help="where the calls are kept")
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge the calls that a run has kept")
    parser.add_argument("--json", action="store_true", help="report as JSON on standard output")
    parser.epilog = _EPILOG


def run(args: argparse.Namespace) -> int:
    """Do it, and say what was found."""
    console = Console(stderr=args.json, highlight=False)
    if args.check is not None:
        return check_file(args.check, console, args.json)
    for name in ("keys", "reads", "history"):
        if getattr(args, name) is not None and not args.linearizable:
            print(f"paxmux chaos: --{name}: expected only with --linearizable", file=sys.stderr)
            return ExitCode.USAGE
    if max(args.workers) > args.groups:
        print(
            f"paxmux chaos: --workers: expected at most one worker per group ({args.groups})",
            file=sys.stderr,
        )
        return ExitCode.USAGE
    words = tuple(filter(None, (word.strip() for word in args.faults.split(","))))
    seed = secrets.randbelow(1 << 32) if args.seed is None else args.seed
    if args.linearizable:
        registers = RegisterOptions(
            seconds=args.seconds,
            seed=seed,
            groups=args.groups,
            workers=tuple(args.workers),
            clients=args.clients,
            keys=args.keys or 2,
            router=args.router,
            secret=args.secret,
            faults=words,
            consistency=args.reads or "linearizable",
        )
        return run_registers(registers, args.history, console, args.json)
    options = ChaosOptions(
        seconds=args.seconds,
        seed=seed,
        groups=args.groups,
        workers=tuple(args.workers),
        clients=args.clients,
        size=args.size,
        router=args.router,
        secret=args.secret,
        faults=words,
    )
    with Scratch(None) as scratch:
        with Steps(console) as steps:
            steps.say(f"seed {options.seed}")
            chaos = Chaos(options, scratch.path, steps)
            finished = False
            try:
                event_loop.run(chaos.run())
                finished = True
            finally:
                if not finished or chaos.ledger.violations:
                    steps.say(f"data and logs are kept in {scratch.keep()}")
        return _report(chaos, options, console, args.json)


def _report(chaos: Chaos, options: ChaosOptions, console: Console, as_json: bool) -> int:
    ledger = chaos.ledger
    sound = not ledger.violations and not chaos.left_behind
    if as_json:
        report = {
            "sound": sound,
            "rounds": chaos.rounds,
            "kinds": msgspec.to_builtins(chaos.kinds),
            "faults": {action.value: count for action, count in sorted_actions(chaos.hands.done)},
            "longest_gap_s": max((kind.longest_gap_s for kind in chaos.kinds.values()), default=0.0),
            "acknowledged_lost": ledger.lost,
            "outcomes": {str(code): count for code, count in sorted(ledger.outcomes.items())},
            "executed": ledger.executed,
            "violations": ledger.violations,
            "examples": ledger.examples,
            "left_behind": chaos.left_behind,
            "settings": msgspec.to_builtins(options),
        }
        sys.stdout.write(orjson.dumps(report, option=orjson.OPT_APPEND_NEWLINE).decode())
    for words in ledger.examples:
        console.print(f"VIOLATION: {words}", markup=False, soft_wrap=True)
    for words in chaos.left_behind:
        console.print(f"LEFT BEHIND: {words}", markup=False, soft_wrap=True)
    codes = ", ".join(
        f"{count:,} with code {code}" for code, count in sorted(ledger.outcomes.items()) if code != Code.OK
    )
    table = Table(title="rounds", title_justify="left")
    for name in ("kind", "rounds", "longest gap s"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for name, kind in sorted(chaos.kinds.items()):
        table.add_row(name, str(kind.rounds), f"{kind.longest_gap_s:.2f}")
    console.print(table)
    faults = ", ".join(f"{count} x {action.value}" for action, count in sorted_actions(chaos.hands.done))
    console.print(f"faults: {faults or 'none'}", soft_wrap=True)
    console.print(
        f"{len(chaos.rounds)} rounds; {ledger.outcomes[Code.OK]:,} values acknowledged, "
        f"{ledger.lost} of them lost{', ' + codes if codes else ''}; {ledger.executed:,} executed",
        soft_wrap=True,
    )
    console.print(
        "sound: nothing acknowledged was lost, nothing executed twice, all replicas are identical"
        if sound
        else f"UNSOUND: seed {options.seed}",
        soft_wrap=True,
    )
    return ExitCode.OK if sound else ExitCode.FAILED


def sorted_actions(done: Counter[Action]) -> list[tuple[Action, int]]:
    """What was done how often, in the order in which actions are listed."""
    return [(action, done[action]) for action in Action if done[action]]


def _workers(text: str) -> list[int]:
    one = whole(1, 64)
    workers = [one(part) for part in text.split(",")]
    if not 1 <= len(workers) <= 9:
        raise argparse.ArgumentTypeError(f"expected 1 .. 9 nodes, got {len(workers)}")
    return workers
