"""What a long command shows while it runs: a bar on a terminal, plain lines elsewhere.

Decides nothing but looks. Plain lines are few: one for each step, and one every few seconds within.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

PLAIN_EVERY_S = 2.0
REFRESHES_PER_S = 4


class Steps:
    """The steps of one command; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said_s = 0.0
        if console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                refresh_per_second=REFRESHES_PER_S,
                transient=True,
            )

    def __enter__(self) -> Steps:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, text: str, total_s: float | None = None, *, plain: bool = True) -> None:
        """The next step begins; it takes `total_s`, or nobody knows how long. `plain`: it is worth a
        line of its own where there is no bar."""
        if self._bar is None:
            if plain:
                self.say(text)
        else:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(text, total=total_s, note="")
        self._said_s = time.monotonic()

    def at(self, done_s: float, note: str = "") -> None:
        """How far the step is."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done_s, note=note)
        elif self._bar is None and time.monotonic() - self._said_s >= PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            self.say(f"  {done_s:.0f} s {note}".rstrip())
