"""The event loop of a command: the fast one where it is installed, and an end that cleans up.

Decides that SIGTERM and SIGHUP end a command as Ctrl-C does: what it awaits is cancelled, so that its
`finally` clauses run, and the caller sees KeyboardInterrupt.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

from paxmux.engine.errors import PaxmuxError
from paxmux.shards.event_loop import new_loop

Result = TypeVar("Result")


def loop_name() -> str:
    """What a node's own loop is, for reports."""
    loop = new_loop()
    name = type(loop).__module__.split(".")[0]
    loop.close()
    return name


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` to its end.

    The standard loop: what commands themselves do is waiting, and it can watch any kind of stdin.

    Raises:
        KeyboardInterrupt: after SIGINT, SIGTERM or SIGHUP, when everything is cleaned up.
        PaxmuxError: also where a group of tasks failed of nothing else; then the first of them.
    """
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with asyncio.Runner() as runner:
            return runner.run(main)
    except ExceptionGroup as group:
        errors, rest = group.split(PaxmuxError)
        if errors is None or rest is not None:
            raise
        raise _first(errors) from group
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first(group: ExceptionGroup[PaxmuxError]) -> PaxmuxError:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, PaxmuxError)
    return error


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
