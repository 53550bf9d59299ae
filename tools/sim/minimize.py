"""A failing seed with less in it: fewer kinds of fault, fewer values, for whoever has to read the trace.

Greedy: leaves one thing out at a time, and keeps it out if the run still fails. What fails may be another
rule than before; the last one is reported.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from paxmux.tools.sim.campaign import Failure, judge
from paxmux.tools.sim.plan import VALUES_MIN, Asked, planned


def minimize(seed: int, asked: Asked, say: Callable[[str], None]) -> tuple[Asked, Failure] | None:
    """The smallest run found that still fails; None if the seed passes as it is."""
    outcome = judge(seed, asked)
    if not isinstance(outcome, Failure):
        return None
    failure = outcome
    small = Asked(
        nodes=asked.nodes,
        groups=asked.groups,
        proposals=asked.proposals,
        faults=planned(seed, asked).faults,
        changes=asked.changes,
        leases=asked.leases,
    )
    outcome = judge(seed, small)
    if not isinstance(outcome, Failure):
        return asked, failure  # it depends on what is drawn beside the kinds of fault
    failure = outcome
    changed = True
    while changed:
        changed = False
        for candidate in _smaller(small):
            outcome = judge(seed, candidate)
            if isinstance(outcome, Failure):
                say(f"still fails: {candidate.words()}")
                small, failure, changed = candidate, outcome, True
                break
    return small, failure


def _smaller(asked: Asked) -> list[Asked]:
    faults = asked.faults or ()
    candidates = [replace(asked, faults=_without(faults, kind)) for kind in faults]
    if asked.groups != 1:
        candidates.insert(0, replace(asked, groups=1))
    for name in ("changes", "leases"):
        if getattr(asked, name) is not False:
            candidates.insert(0, replace(asked, **{name: False}))
    for proposals in (VALUES_MIN // 8, asked.proposals // 2):
        if 1 <= proposals < asked.proposals:
            candidates.insert(0, replace(asked, proposals=proposals))
    return candidates


def _without(faults: tuple[str, ...], kind: str) -> tuple[str, ...]:
    return tuple(each for each in faults if each != kind)
