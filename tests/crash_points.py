"""The points of a life at which something can happen: every call of it that changes the disk.

As a program it prints them, counted: `python -m tests.crash_points`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests import identity_life, log_life
from tests.crash_server import LIVES
from tests.disk_calls import Call, Calls
from tests.disk_model import Event

LIFE_NAMES = tuple(LIVES)
WRITES = ("write", "pwrite")
COMMIT = "lmdb.commit"
_MEMORY = Path("/dev/shm")

CHECKS: dict[str, Callable[[Path, Any], int]] = {
    "log": log_life.check_survivor,
    "identity": identity_life.check_survivor,
}


class Recording(NamedTuple):
    """One life that nothing happened to."""

    calls: list[Call]
    """Each thread's, in order."""
    events: list[Event]
    words: list[Any]
    """What was said; the event `said` has the index."""


@contextmanager
def many_folders() -> Iterator[Path]:
    """A folder for hundreds of short lives: in memory, where there is such a file system."""
    where = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield Path(folder)


def recorded(life: str, folder: Path) -> Recording:
    """Live it once, undisturbed, in a new folder."""
    folder.mkdir()
    calls = Calls(folder, record=True)
    words: list[Any] = []

    def say(said: Any) -> None:
        words.append(said)
        calls.said(b"%d" % (len(words) - 1))

    with log_life.quickened(), calls.entered():
        LIVES[life][0](folder / life, calls, say).live()
    assert words[-1].outcome == "whole", words[-1]
    return Recording(sorted(calls.made), calls.events, words)


def main() -> None:
    """Print the points of each life."""
    for life in LIFE_NAMES:
        with many_folders() as folder:
            calls = recorded(life, folder / life).calls
        sys.stdout.write(f"{life}: {len(calls)} calls that change the disk\n")
        for (thread, name), count in sorted(Counter((call.thread, call.name) for call in calls).items()):
            sys.stdout.write(f"  {count:4} {name} ({thread})\n")


if __name__ == "__main__":
    main()
