"""The points of a life at which something can happen: every call of it that changes the disk.

As a program it prints them, counted: `python -m tests.crash_points`.
"""

from __future__ import annotations

import os
import random
import shutil
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
from tests.disk_model import Disk, Event

LIFE_NAMES = tuple(LIVES)
WRITES = ("write", "pwrite")
COMMIT = "lmdb.commit"
LOST = "lost"
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


def power_cuts(
    life: str, folder: Path, recording: Recording, images: int, *, go_on: bool = False
) -> Counter[str]:
    """What became of the power cuts after each event: how often all was there that had to be.

    Args:
        life: whose.
        folder: for the images.
        recording: of the life.
        images: power cuts after each event.
        go_on: also after something was lost.
    """
    rng = random.Random(life)
    disk, said = Disk(), type(recording.words[0])()
    outcomes: Counter[str] = Counter()
    for number, event in enumerate(recording.events):
        if outcomes[LOST] and not go_on:
            break
        disk.apply(event)
        if event.kind == "said":
            said = recording.words[int(event.data)]
        for image in range(images):
            path = folder / f"{number}-{image}"
            disk.cut(path, rng)
            try:
                found = CHECKS[life](path / life, said) > said.kept
                outcomes["more than had to" if found else "what had to"] += 1
            except Exception as error:  # noqa: BLE001
                outcomes[LOST] += 1
                outcomes[f"{event.kind} {event.path}: {error!r:.300}"] += 1
            shutil.rmtree(path)
    return outcomes


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
