"""All deliberate mistakes, and the command that looks for what finds each.

`python -m tests.mutations`: the first seed, or the test, that finds each mistake. With `--write` the
record and the pages made of it are renewed, for the mistakes that are named or for all.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests import (
    mutations_damage,
    mutations_masters,
    mutations_members,
    mutations_requests,
    mutations_tested,
    mutations_turn,
    mutations_votes,
)
from tests.mutation_harness import SEEDS, Find, find, installed
from tests.mutation_table import RECORD, pages, read_record, write_record

MUTATIONS = (
    *mutations_votes.ACCEPTOR,
    *mutations_votes.PROPOSER,
    *mutations_votes.INSTANCES,
    *mutations_votes.HISTORY,
    *mutations_requests.PROPOSALS,
    *mutations_requests.FORWARDS,
    *mutations_requests.READS,
    *mutations_requests.EXECUTION,
    *mutations_turn.TURN,
    *mutations_turn.SERVING,
    *mutations_turn.LOG,
    *mutations_damage.DOUBT,
    *mutations_damage.REPAIR,
    *mutations_members.MEMBERS,
    *mutations_masters.MASTERS,
    *mutations_tested.TESTED,
)


class Outcome(NamedTuple):
    """Of one mistake."""

    index: int
    found: Find | None
    seconds: float


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code: 1 if a mistake is not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mistakes")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--write", action="store_true", help="renew the record and the pages")
    asked = parser.parse_args(arguments)
    known = [mutation.name for mutation in MUTATIONS]
    unknown = [name for name in asked.names if name not in known]
    if unknown:
        parser.error(f"no mistake named {unknown[0]!r}")
    indexes = [index for index, name in enumerate(known) if not asked.names or name in asked.names]
    found = read_record() if asked.names and RECORD.exists() else {}
    survivors = []
    for done, (index, outcome, seconds) in enumerate(_outcomes(indexes, asked.jobs), 1):
        name = known[index]
        if outcome is None:
            survivors.append(name)
            found.pop(name, None)
            words = f"NOT FOUND by {SEEDS[0]}..{SEEDS[-1]}" if MUTATIONS[index].check is None else "NOT FOUND"
        else:
            found[name] = outcome
            words = f"seed {outcome.seed}, {outcome.caught_by}" if outcome.seed else outcome.caught_by
        print(f"{done}/{len(indexes)} {name}: {words} ({seconds:.1f} s)", flush=True)
    if asked.write:
        write_record({name: found[name] for name in known if name in found})
        for path, text in pages(MUTATIONS, read_record()).items():
            path.write_text(text, encoding="utf-8")
    for name in survivors:
        print(f"nothing finds: {name}")
    return 1 if survivors else 0


def _outcomes(indexes: Sequence[int], jobs: int) -> Iterator[Outcome]:
    # Here too: a pool whose processes cannot begin makes new ones for ever.
    _prepare()
    if jobs == 1:
        yield from map(_outcome, indexes)
        return
    # Fresh interpreters: nothing that this process did has any part in what a seed does.
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_prepare) as pool:
        yield from pool.imap_unordered(_outcome, indexes)


def _prepare() -> None:
    """See that every mistake fits, and read all sources now: they may change while this runs."""
    for mutation in MUTATIONS:
        with installed(mutation):
            pass
    gc.freeze()


def _outcome(index: int) -> Outcome:
    began = time.monotonic()
    return Outcome(index, find(MUTATIONS[index]), time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
