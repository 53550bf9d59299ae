"""Reads what an LMDB log knows of its groups when it is opened.

It decides what is damaged for good and what is merely reported: a state that is bad or missing may have held
a promise, and then the log does not start; a value or a state of inner machines is all that is lost. It
changes nothing.
"""

from __future__ import annotations

import logging
from typing import Any

import lmdb

from paxmux.engine.storage import NULL_BALLOT, HardState, StorageDamaged
from paxmux.plugins.storage.lmdb_open import Environment
from paxmux.plugins.storage.lmdb_record import (
    GROUPS_KEY,
    LOST_SYSTEM,
    NO_SYSTEM,
    STARTS_KEY,
    VALUE_KEY,
    GroupState,
    System,
    open_groups,
    open_starts,
    open_state,
    open_system,
    open_value,
    system_key,
)

_log = logging.getLogger("paxmux")


class Loaded:
    """What one log has of its groups."""

    def __init__(self, env: Environment) -> None:
        """Read it.

        Raises:
            StorageDamaged: a state that was durable is missing or bad.
        """
        self.states: dict[int, GroupState] = {}
        self.systems: dict[int, System] = {}
        self.hard_states: dict[int, HardState] = {}
        self.starts = 0
        """How often the log was recovered before."""
        self.damaged = 0
        """Values and states of inner machines that are lost."""
        self._where = str(env.data)
        try:
            with env.reading() as txn:
                self.groups = open_groups(txn.get(GROUPS_KEY, db=env.about), self._where)
                self.starts = open_starts(txn.get(STARTS_KEY, db=env.about), self._where)
                for key, data in txn.cursor(db=env.states):
                    group, state = open_state(bytes(key), data, self._where)
                    self.states[group] = state
                    value, lost = self._value(env, txn, group, state)
                    system = self.systems[group] = self._system(env, txn, group, state)
                    self.hard_states[group] = HardState(
                        state.instance,
                        state.promised,
                        state.accepted,
                        value,
                        state.suspect,
                        lost,
                        system.value,
                        system.begin,
                        system.lost,
                    )
        except lmdb.Error as error:
            raise StorageDamaged(f"{self._where}: reading the states: {error}") from error
        if sorted(self.states) != self.groups:
            strays = sorted(set(self.groups).symmetric_difference(self.states))
            raise StorageDamaged(f"{self._where}: state of group {strays[0]}: missing, or nobody's")

    def _value(self, env: Environment, txn: Any, group: int, state: GroupState) -> tuple[bytes, bool]:
        """What is accepted, and whether it is lost."""
        if state.accepted == NULL_BALLOT:
            return b"", False
        key = VALUE_KEY.pack(group, state.instance)
        data = txn.get(key, db=env.values)
        what = f"{self._where}: value of group {group}, instance {state.instance}"
        if data is None:
            raise StorageDamaged(f"{what}: accepted, and missing")
        try:
            round_, node, value = open_value(key, data, self._where)
        except StorageDamaged as error:
            # The state says what was voted for; what cannot be read is the value alone.
            _log.error("%s", error)
            self.damaged += 1
            return b"", True
        if (round_, node) != state.accepted:
            raise StorageDamaged(f"{what}: of ballot {(round_, node)}, accepted was {state.accepted}")
        return value, False

    def _system(self, env: Environment, txn: Any, group: int, state: GroupState) -> System:
        """What the last SYSTEM record said."""
        if not state.systems:
            return NO_SYSTEM
        try:
            data = txn.get(system_key(group), db=env.about)
            return open_system(group, state.systems, data, self._where)
        except StorageDamaged as error:
            _log.error("%s", error)
            self.damaged += 1
            return LOST_SYSTEM
