"""Random single faults in a real data directory, thousands of them, each judged.

    python -m tests.random_faults --count 10000 --seed 1

Each is made in a copy and judged in a child process, so that a death or a hang is seen too. The exit code is
0 only if nothing was wrong; what was wrong is printed with the number that repeats it (`--only`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from paxmux.plugins.storage.index import MOST_DEATHS
from tests.crash_points import many_folders
from tests.fault_judge import judge
from tests.known_directory import KnownDirectory, made
from tests.random_fault import Done, strike

DEADLINE_S = 60.0
PROGRESS_EVERY = 1000
DIED_FIRST = "the process died"


class Trial(NamedTuple):
    """One fault and what became of it."""

    number: int
    kind: str
    files: tuple[str, ...]
    outcome: str
    """One of `fault_judge`'s; or `WRONG: …`, `died: …`, `hung`."""
    words: str

    @property
    def bad(self) -> bool:
        return self.outcome.startswith(("WRONG", "died", "hung"))


def try_one(known: list[KnownDirectory], folder: Path, seed: int, number: int) -> Trial:
    """Make a fault in a copy of one of the directories, and judge it. Never raises for what it finds.

    Where a process died of the same number, what it left is judged again.
    """
    rng = random.Random(f"{seed}/{number}")
    directory = rng.choice(known)
    root = folder / f"trial-{number}"
    left = root.exists()
    if not left:
        shutil.copytree(directory.path, root)
    done = Done("again", (), "") if left else strike(root, rng)
    try:
        state = "clean" if directory.clean else "killed"
        try:
            verdict = judge(directory, root, bootstrap=rng.random() < 0.5)
        except Exception:  # noqa: BLE001
            return Trial(number, done.kind, done.files, "WRONG", f"{state}, {done}: {traceback.format_exc()}")
        return Trial(number, done.kind, done.files, verdict.outcome, verdict.words)
    finally:
        shutil.rmtree(root)


class Pool:
    """Children that try, as many as there are processors to use; one that dies is replaced."""

    def __init__(self, known: list[KnownDirectory], folder: Path, seed: int, children: int) -> None:
        self._known, self._folder, self._seed = known, folder, seed
        self._wanted = children
        self._children: dict[int, _Child] = {}
        self._died: dict[int, list[int]] = {}

    def run(self, numbers: Iterator[int]) -> Iterator[Trial]:
        """Try these numbers; results in any order."""
        try:
            for _ in range(self._wanted):
                self._start(numbers)
            while self._children:
                yield from self._wait(numbers)
        finally:
            for child in self._children.values():
                child.end()

    def _start(self, numbers: Iterator[int]) -> None:
        number = next(numbers, None)
        if number is not None:
            child = _Child(self._known, self._folder, self._seed, list(self._children.values()))
            self._children[child.answers] = child
            child.ask(number)

    def _wait(self, numbers: Iterator[int]) -> Iterator[Trial]:
        first = min(child.asked_at for child in self._children.values())
        left = max(0.0, first + DEADLINE_S - time.monotonic())
        ready, _, _ = select.select(list(self._children), [], [], left)
        if not ready:
            late = min(self._children.values(), key=lambda child: child.asked_at)
            del self._children[late.answers]
            late.end()
            yield Trial(late.number, "", (), "hung", "")
            self._start(numbers)
        for answers in ready:
            child = self._children[answers]
            trial = child.answer()
            if trial is None:
                yield from self._bury(child, numbers)
                continue
            if trial.number in self._died and not trial.bad:
                trial = trial._replace(outcome=f"{DIED_FIRST}, then {trial.outcome}")
            yield trial
            number = next(numbers, None)
            if number is not None:
                child.ask(number)
            else:
                del self._children[answers]
                child.end()

    def _bury(self, child: _Child, numbers: Iterator[int]) -> Iterator[Trial]:
        """What it died of is tried by another one, as a node starts a worker again."""
        del self._children[child.answers]
        died = self._died.setdefault(child.number, [])
        died.append(child.end())
        if len(died) <= MOST_DEATHS:
            self._start(iter([child.number]))
        else:
            yield Trial(child.number, "", (), "died", f"with {died}")
            self._start(numbers)


class _Child:
    """A process that tries the numbers it is asked."""

    def __init__(self, known: list[KnownDirectory], folder: Path, seed: int, others: list[_Child]) -> None:
        asked, self._questions = os.pipe()
        self.answers, answered = os.pipe()
        self.number = -1
        self.asked_at = 0.0
        self._heard = b""
        self.pid = os.fork()
        if not self.pid:
            for other in others:
                other.close()
            self.close()
            _try_all(known, folder, seed, asked, answered)
        os.close(asked)
        os.close(answered)

    def ask(self, number: int) -> None:
        self.number, self.asked_at = number, time.monotonic()
        os.write(self._questions, b"%d\n" % number)

    def answer(self) -> Trial | None:
        """What it answers; None if it died."""
        while not self._heard.endswith(b"\n"):
            data = os.read(self.answers, 65536)
            if not data:
                return None
            self._heard += data
        number, kind, files, outcome, words = json.loads(self._heard)
        self._heard = b""
        return Trial(number, kind, tuple(files), outcome, words)

    def close(self) -> None:
        os.close(self._questions)
        os.close(self.answers)

    def end(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        self.close()
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _try_all(known: list[KnownDirectory], folder: Path, seed: int, asked: int, answered: int) -> NoReturn:
    try:
        with open(asked, encoding="ascii") as questions, open(answered, "w", encoding="utf-8") as answers:
            for line in questions:
                answers.write(json.dumps(try_one(known, folder, seed, int(line))) + "\n")
                answers.flush()
        os._exit(0)
    finally:
        os._exit(1)


def known_directories(folder: Path) -> list[KnownDirectory]:
    """One that was stopped cleanly, and one whose process was killed."""
    return [made(folder / name, clean=name == "clean") for name in ("clean", "killed")]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.random_faults", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, help="try this number alone, here, and print what was judged")
    asked = parser.parse_args()
    sys.stdout.write(f"seed {asked.seed}\n")
    begun_s = time.monotonic()
    outcomes: Counter[tuple[str, str]] = Counter()
    bad: list[Trial] = []
    with many_folders() as folder:
        known = known_directories(folder)
        if asked.only is not None:
            sys.stdout.write(f"{try_one(known, folder, asked.seed, asked.only)}\n")
            return 0
        numbers = iter(range(asked.count))
        for done, trial in enumerate(Pool(known, folder, asked.seed, asked.children).run(numbers), 1):
            outcomes[trial.outcome, trial.kind] += 1
            if trial.bad:
                bad.append(trial)
                sys.stdout.write(f"--only {trial.number}: {trial.outcome} {trial.words}\n")
            if done % PROGRESS_EVERY == 0:
                sys.stdout.write(
                    f"{done} of {asked.count}, {time.monotonic() - begun_s:.0f} s, {len(bad)} bad\n"
                )
                sys.stdout.flush()
    for outcome in sorted({outcome for outcome, _ in outcomes}):
        kinds = {kind: count for (each, kind), count in sorted(outcomes.items()) if each == outcome}
        sys.stdout.write(f"{sum(kinds.values()):6} {outcome}: {kinds}\n")
    sys.stdout.write(f"{asked.count} faults in {time.monotonic() - begun_s:.0f} s, {len(bad)} bad\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
