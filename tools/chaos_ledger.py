"""What was acknowledged and what was executed, and whether the two fit: the judge of `paxmux chaos`.

Decides what counts as a violation: an acknowledged value that is missing or elsewhere, a value
executed twice, one executed that was refused, one that nobody wrote, an outcome that must not be.
A value of unknown outcome (404, or its writer was killed) may be executed once, at any time, or never.

What is settled needs no second look, so that of each value one byte is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from paxmux.engine.errors import Code
from paxmux.tools.journal_machine import Row
from paxmux.tools.writers import Outcome, split_id

_REFUSED = 1
_EXECUTED = 2

EXPECTED = frozenset({Code.OK, Code.TIMEOUT, Code.OVERLOADED, Code.NODE_STOPPED, Code.CONFLICT})
"""Outcomes that a sound cluster may give while its processes are killed."""
EXAMPLES_MAX = 20
"""Violations that are told in words; the others are only counted."""


class Ledger:
    """One run's books. Knows no clock and no process."""

    def __init__(self, groups: int) -> None:
        self.outcomes: Counter[int] = Counter()
        """Code -> count."""
        self.lost = 0
        """Acknowledged values that are not there."""
        self.violations = 0
        self.examples: list[str] = []
        self.rows = [0] * groups
        """Rows of each group's journal that were taken."""
        self._clients = 0
        self._flags: dict[int, bytearray] = {}
        """Client -> a byte for each of its values."""
        self._open: dict[int, tuple[int, int]] = {}
        """Acknowledged id -> (group, instance), until it was found there."""

    @property
    def executed(self) -> int:
        """Values executed, in all groups."""
        return sum(self.rows)

    def new_clients(self, count: int) -> int:
        """The number of the first of `count` clients that nobody else has."""
        first = self._clients
        self._clients += count
        return first

    def take_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        """What became of values, as their writers know it."""
        for value_id, instance, group, code, no_effect in outcomes:
            self.outcomes[code] += 1
            if code == Code.OK:
                self._open[value_id] = (group, instance)
            elif no_effect and self._set(value_id, _REFUSED) & _EXECUTED:
                self.violate(f"{_name(value_id)} was refused with code {code}, and had been executed before")
            if code not in EXPECTED:
                self.violate(f"{_name(value_id)} ended with code {code}, which nothing here should cause")

    def take_rows(self, group: int, rows: Iterable[Row]) -> None:
        """The next rows of a group's journal."""
        for instance, value_id in rows:
            self.rows[group] += 1
            place = f"group {group}, instance {instance}"
            if split_id(value_id)[0] >= self._clients:
                self.violate(f"{_name(value_id)} was executed in {place}, and nobody wrote it")
                continue
            before = self._set(value_id, _EXECUTED)
            if before & _EXECUTED:
                self.violate(f"{_name(value_id)} was executed twice, the second time in {place}")
            if before & _REFUSED:
                self.violate(f"{_name(value_id)} was executed in {place}, and had been refused")
            acknowledged = self._open.pop(value_id, None)
            if acknowledged is not None and acknowledged != (group, instance):
                self.violate(
                    f"{_name(value_id)} was executed in {place}, and acknowledged for group "
                    f"{acknowledged[0]}, instance {acknowledged[1]}"
                )

    def settle(self) -> None:
        """All outcomes and all rows so far were taken: what was acknowledged must have been found."""
        for value_id, (group, instance) in self._open.items():
            # An acknowledgement may have come after the row was taken.
            if not self._get(value_id) & _EXECUTED:
                self.lost += 1
                self.violate(
                    f"{_name(value_id)} was acknowledged for group {group}, instance {instance}, and is lost"
                )
        self._open.clear()

    def violate(self, words: str) -> None:
        """Note a violation."""
        self.violations += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(words)

    def _get(self, value_id: int) -> int:
        client, number = split_id(value_id)
        flags = self._flags.get(client, b"")
        return flags[number] if number < len(flags) else 0

    def _set(self, value_id: int, flag: int) -> int:
        """Set a flag of a value; returns those that it had before."""
        client, number = split_id(value_id)
        flags = self._flags.setdefault(client, bytearray())
        if number >= len(flags):
            flags.extend(bytes(number + 1 - len(flags)))
        before = flags[number]
        flags[number] = before | flag
        return before


def _name(value_id: int) -> str:
    client, number = split_id(value_id)
    return f"value {number} of client {client}"
