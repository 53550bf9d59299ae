"""Random corruptions of rings, as many as one likes: each is noticed, or does no harm.

    python -m tests.ring_corruptions --count 1000000 --seed 1

They are made in child processes, so that a death, a hang and memory without bound are seen too. The exit code
is 0 only if nothing was wrong; what was wrong is printed with the number that repeats it (`--only`).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

import psutil

from paxmux.shards.doorbell import Doorbell
from tests.ring_damage import KINDS, strike

CHUNK = 2000
HUNG_S = 60.0
"""For a chunk; it takes about a second."""
MEMORY_BYTES = 1 << 30
"""Address space that a child may add to what it begins with: an allocation by a damaged length fails."""
PROGRESS_EVERY_S = 5.0


class Found(NamedTuple):
    """What a chunk came to."""

    counts: Counter[tuple[str, str]]
    wrong: list[str]


def try_chunk(seed: int, numbers: range) -> Found:
    """Corrupt a ring for each number."""
    found = Found(Counter(), [])
    bell = Doorbell.create()
    try:
        for number in numbers:
            try:
                struck = strike(seed, number, bell)
            except Exception:  # noqa: BLE001 - any other one is what is looked for
                found.wrong.append(f"--seed {seed} --only {number}: {traceback.format_exc()}")
            else:
                found.counts[struck.kind, struck.outcome] += 1
    finally:
        bell.close()
    return found


def _child(seed: int, numbers: range, pipe: Connection) -> None:
    most = psutil.Process().memory_info().vms + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    pipe.send(try_chunk(seed, numbers))


def corrupt(seed: int, count: int, children: int) -> Iterator[tuple[int, Found]]:
    """(so many were tried, what they came to), chunk by chunk."""
    chunks = iter([range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)])
    running: dict[Connection, tuple[multiprocessing.Process, range, float]] = {}
    while True:
        while len(running) < children and (numbers := next(chunks, None)) is not None:
            mine, theirs = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.Process(target=_child, args=(seed, numbers, theirs))
            process.start()
            theirs.close()
            running[mine] = (process, numbers, time.monotonic() + HUNG_S)
        if not running:
            return
        ready = wait(list(running), timeout=1.0)
        now = time.monotonic()
        for pipe, (process, numbers, until) in list(running.items()):
            if pipe in ready:
                try:
                    found: Found = pipe.recv()
                except EOFError:
                    process.join()
                    found = Found(Counter(), [f"--seed {seed}, {numbers}: it died, {process.exitcode}"])
            elif now > until:
                process.kill()
                found = Found(Counter(), [f"--seed {seed}, {numbers}: it hung"])
            else:
                continue
            process.join()
            pipe.close()
            del running[pipe]
            yield len(numbers), found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.ring_corruptions", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this one alone, in this process")
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.only is not None:
        bell = Doorbell.create()
        print(strike(args.seed, args.only, bell))
        bell.close()
        return 0
    print(f"seed {args.seed}", flush=True)
    total: Counter[tuple[str, str]] = Counter()
    wrong = tried = 0
    told = time.monotonic()
    for many, found in corrupt(args.seed, args.count, args.children):
        tried += many
        total += found.counts
        wrong += len(found.wrong)
        for words in found.wrong[:3]:
            print(f"WRONG {words}", flush=True)
        if time.monotonic() - told > PROGRESS_EVERY_S:
            told = time.monotonic()
            print(f"{tried:,} of {args.count:,}, {wrong} wrong", flush=True)
    for kind in KINDS:
        by = {outcome: count for (each, outcome), count in sorted(total.items()) if each == kind}
        print(f"{kind}: " + ", ".join(f"{count:,} {outcome}" for outcome, count in by.items()))
    outcomes = Counter[str]()
    for (_, outcome), count in total.items():
        outcomes[outcome] += count
    summary = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"{tried:,} corruptions: {summary}, {wrong} wrong")
    return 0 if tried == args.count and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
