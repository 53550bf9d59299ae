"""Whether there were ever two masters of a group at once, and what their writes came to.

Decides by what is common to all, the log, and by what each node saw of its own reigns. Knows no process.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from paxmux.engine.errors import Code
from paxmux.tools.chaos_ledger import EXPECTED
from paxmux.tools.term_machine import Row
from paxmux.tools.term_writers import Reign, Written

ALLOWED: Final = EXPECTED | {Code.STALE_TERM}

_Key = tuple[int, int, int]
"""(writer, group, number)"""


class TermJudge:
    """One run's."""

    def __init__(self, violate: Callable[[str], None]) -> None:
        """`violate`: told in words what a sound cluster would not do."""
        self._violate = violate
        self._written: dict[_Key, Written] = {}
        self._reigns: dict[int, list[Reign]] = defaultdict(list)
        self.newest: dict[int, Reign] = {}
        """Group -> the reign with the highest term that has begun."""
        self.outcomes: Counter[int] = Counter()
        """Code -> fenced writes."""

    @property
    def reigns(self) -> int:
        """How many there were."""
        return sum(map(len, self._reigns.values()))

    def take_written(self, written: Written) -> None:
        """A fenced write has an outcome."""
        self.outcomes[written.code] += 1
        self._written[written.writer, written.group, written.number] = written
        if written.code not in ALLOWED:
            self._violate(f"{_name(written)} ended with code {written.code}, which nothing here should cause")

    def begun(self, reign: Reign) -> None:
        """A node sees that it is master, in another term than before."""
        newest = self.newest.get(reign.group)
        if newest is None or newest.term <= reign.term:
            self.newest[reign.group] = reign

    def ended(self, reign: Reign) -> None:
        """A node sees that it is master no more, or has stopped looking."""
        self._reigns[reign.group].append(reign)

    def judge_reigns(self) -> None:
        """All have ended: each was over before one with a higher term began, and no term is of two nodes."""
        for group, reigns in self._reigns.items():
            for one, other in itertools.combinations(reigns, 2):
                older, newer = sorted((one, other), key=lambda reign: reign.term)
                if older.term == newer.term and older.writer != newer.writer:
                    self._violate(
                        f"group {group}: nodes {older.writer + 1} and {newer.writer + 1} were both masters "
                        f"in term {older.term}"
                    )
                elif older.term < newer.term and newer.first_ns <= older.last_ns:
                    both_ms = (older.last_ns - newer.first_ns) / 1e6
                    self._violate(
                        f"group {group}: node {older.writer + 1} believed itself master in term "
                        f"{older.term} for {both_ms:.1f} ms after node {newer.writer + 1} had become it in "
                        f"term {newer.term}"
                    )

    def judge_rows(self, group: int, rows: Iterable[Row]) -> None:
        """All that a group has executed: terms never go back, each is of one node, and what was acknowledged
        is there, where it was acknowledged; nothing is there twice, or though it was refused."""
        owners: dict[int, int] = {}
        last = Row(-1, -1, 0, 0)
        seen: set[_Key] = set()
        for row in rows:
            place = f"group {group}, instance {row.instance}"
            if row.term < last.term or row.instance < last.instance:
                self._violate(f"{place}: term {row.term} after term {last.term} (instance {last.instance})")
            if row.term >= row.instance:
                self._violate(f"{place}: term {row.term} has not begun there")
            if owners.setdefault(row.term, row.writer) != row.writer:
                self._violate(
                    f"{place}: node {row.writer + 1} wrote in term {row.term} of node {owners[row.term] + 1}"
                )
            last = row
            key = (row.writer, group, row.number)
            written = self._written.get(key)
            if key in seen:
                self._violate(f"{place}: write {row.number} of node {row.writer + 1} was executed twice")
            seen.add(key)
            if written is None:
                self._violate(f"{place}: write {row.number} of node {row.writer + 1} was told by nobody")
            elif written.no_effect or written.term != row.term:
                self._violate(f"{place}: {_name(written)} was executed, and ended with code {written.code}")
            elif written.code == Code.OK and written.instance != row.instance:
                self._violate(f"{place}: {_name(written)} was acknowledged for instance {written.instance}")
        for key, written in self._written.items():
            if written.group == group and written.code == Code.OK and key not in seen:
                self._violate(
                    f"{_name(written)} was acknowledged for instance {written.instance}, and is lost"
                )


def _name(written: Written) -> str:
    return (
        f"write {written.number} of node {written.writer + 1} in group {written.group}, term {written.term},"
    )
