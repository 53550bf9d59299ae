"""What `paxmux chaos --linearizable` does around its run: folder, history file, report, verdict.

Decides words and exit code; tools/chaos_registers.py does the rounds, tools/linear.py judges.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import orjson
from rich.console import Console

from paxmux.engine.errors import Code, ConfigError, ExitCode
from paxmux.tools import event_loop
from paxmux.tools.chaos_faults import Action
from paxmux.tools.chaos_history import longest_silence_s, read_history, unknown, write_history
from paxmux.tools.chaos_registers import RegisterChaos, RegisterOptions
from paxmux.tools.linear import Operation, Problem, check
from paxmux.tools.progress import Steps
from paxmux.tools.scratch import Scratch


def run_registers(options: RegisterOptions, history: Path | None, console: Console, as_json: bool) -> int:
    """One run, and what is said of it; returns the exit code.

    Args:
        options: of the run.
        history: where its calls are written, whatever the verdict; None: only if it is bad, in the
            folder that is kept.
        console: where people read.
        as_json: the report goes to standard output.

    Raises:
        ConfigError: the history cannot be written there.
    """
    if history is not None:
        _check_writable(history)
    with Scratch(None) as scratch:
        with Steps(console) as steps:
            steps.say(f"seed {options.seed}")
            chaos = RegisterChaos(options, scratch.path, steps)
            finished = False
            try:
                event_loop.run(chaos.run())
                finished = True
            finally:
                if history is not None:
                    write_history(history, chaos.history.operations)
                if not finished or not chaos.sound:
                    write_history(scratch.path / "history.jsonl", chaos.history.operations)
                    steps.say(f"data, logs and history.jsonl are kept in {scratch.keep()}")
        return _report(chaos, options, console, as_json)


def check_file(file: Path, console: Console, as_json: bool) -> int:
    """Judge a history that was kept; returns the exit code.

    Raises:
        ConfigError: the file is no history.
    """
    operations = list(read_history(file))
    try:
        problem = check(operations)
    except ValueError as error:
        raise ConfigError(f"{file}: expected a history of registers: {error}") from None
    if as_json:
        _print_json({"sound": problem is None, **_figures(operations, problem)})
    _tell(operations, problem, console)
    return ExitCode.OK if problem is None else ExitCode.FAILED


def _report(chaos: RegisterChaos, options: RegisterOptions, console: Console, as_json: bool) -> int:
    operations = chaos.history.operations
    faults = {action.value: chaos.hands.done[action] for action in Action if chaos.hands.done[action]}
    outcomes = {str(code): count for code, count in sorted(chaos.history.outcomes.items())}
    if as_json:
        _print_json(
            {
                "sound": chaos.sound,
                **_figures(operations, chaos.problem),
                "refused": chaos.history.refused,
                "unseen": chaos.unseen,
                "outcomes": outcomes,
                "rounds": dict(chaos.rounds),
                "faults": faults,
                "recovery_max_s": chaos.recovery_max_s,
                "violations": chaos.violations,
                "examples": chaos.examples,
                "left_behind": chaos.left_behind,
                "settings": msgspec.to_builtins(options),
            }
        )
    for words in chaos.examples:
        console.print(f"VIOLATION: {words}", markup=False, soft_wrap=True)
    for words in chaos.left_behind:
        console.print(f"LEFT BEHIND: {words}", markup=False, soft_wrap=True)
    codes = ", ".join(
        f"{count:,} with code {code}" for code, count in outcomes.items() if code != str(int(Code.OK))
    )
    console.print(
        f"{chaos.rounds.total()} rounds; faults: "
        + ", ".join(f"{count} x {name}" for name, count in faults.items()),
        soft_wrap=True,
    )
    console.print(
        f"calls: {chaos.history.outcomes[Code.OK]:,} succeeded{', ' + codes if codes else ''}; "
        f"all nodes served again at most {chaos.recovery_max_s:.1f} s after all was back",
        soft_wrap=True,
    )
    _tell(operations, chaos.problem, console)
    if not chaos.sound:
        console.print(f"UNSOUND: seed {options.seed}", soft_wrap=True)
    return ExitCode.OK if chaos.sound else ExitCode.FAILED


def _tell(operations: list[Operation], problem: Problem | None, console: Console) -> None:
    keys = len({one.key for one in operations})
    console.print(
        f"{len(operations):,} operations on {keys} registers, {unknown(operations):,} of unknown outcome; "
        f"longest time without a success: {longest_silence_s(operations):.1f} s",
        soft_wrap=True,
    )
    if problem is not None:
        console.print(f"NOT LINEARIZABLE: {problem.words}", markup=False, soft_wrap=True)
    else:
        console.print("linearizable: each register's calls could have happened one at a time", soft_wrap=True)


def _figures(operations: list[Operation], problem: Problem | None) -> dict[str, Any]:
    return {
        "operations": len(operations),
        "unknown": unknown(operations),
        "longest_silence_s": longest_silence_s(operations),
        "linearizable": problem is None,
        "problem": None if problem is None else problem.words,
    }


def _print_json(report: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(report, option=orjson.OPT_APPEND_NEWLINE).decode())


def _check_writable(file: Path) -> None:
    """Before the run, not after it."""
    try:
        with open(file, "ab"):
            return
    except OSError as error:
        raise ConfigError(f"{file}: expected a file for the history: {error.strerror}") from None
