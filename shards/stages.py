"""Where the CPU time of a process goes, by stage: only for `paxmux bench --profile`.

Asked for by `PAXMUX_PROFILE` in the environment, the functions that begin a stage are replaced, in this
process, by ones that read the thread's CPU clock before and after. What a stage does within another one
counts for the inner one alone, so the stages of a process add up to its time. Nothing is replaced, and
nothing is measured, unless it was asked for: the hot path knows nothing of this.

They are called once or a few times for each turn, never for a value; reading the clock twice costs about
1 µs each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from time import thread_time_ns
from typing import Any

from paxmux.engine.compiled import COMPILED
from paxmux.engine.errors import ConfigError
from paxmux.shards.channel import Receiver, Sender

VARIABLE = "PAXMUX_PROFILE"

Place = tuple[Any, str, str]
"""(class or module, name of its function, stage)"""

RING: tuple[Place, ...] = (
    (Receiver, "receive", "ring"),
    (Sender, "send", "ring"),
    (Sender, "send_pieces", "ring"),
    (Sender, "commit", "ring"),
)
"""What moves messages between processes, on both sides."""

NOT_COMPILED = (
    "the stages of a compiled installation cannot be measured: its functions call each other without being "
    "looked up, so none can be replaced. Install without PAXMUX_COMPILED, and measure that"
)


def wanted() -> bool:
    """Whether this process was asked to measure its stages.

    Raises:
        ConfigError: it was, and cannot.
    """
    asked = os.environ.get(VARIABLE, "") not in ("", "0")
    if asked and COMPILED:
        raise ConfigError(f"{VARIABLE}: {NOT_COMPILED}")
    return asked


class Stages:
    """The stages of one thread; whatever is in none of them counts as the first one."""

    def __init__(self, slots: list[int] | memoryview[int], index: dict[str, int], rest: str) -> None:
        """
        Args:
            slots: where the time of each stage is added up, in ns.
            index: stage -> its slot.
            rest: the stage of what is in no other one.
        """
        self._slots = slots
        self._index = index
        self._now = index[rest]
        self._since = thread_time_ns()

    def watch(self, places: Iterable[Place]) -> None:
        """Replace these functions, for as long as the process lives."""
        for owner, name, stage in places:
            setattr(owner, name, self.timed(getattr(owner, name), stage))

    def timed(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """The function, and its time counts for `stage`."""
        own, slots = self._index[stage], self._slots

        @wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            start = thread_time_ns()
            outer = self._now
            slots[outer] += start - self._since
            self._now, self._since = own, start
            try:
                return function(*args, **kwargs)
            finally:
                end = thread_time_ns()
                slots[own] += end - self._since
                self._now, self._since = outer, end

        return within
