"""What a user writes: a deterministic state machine, one instance of it per group.

State machines live in worker processes. They are named in the options as an importable class
(`package.module:Class`) with arguments, built in the worker, and never pickled.
"""

from __future__ import annotations

from typing import ClassVar

MIN_SMID = 1
MAX_SMID = 99_999_999
NO_STATE_MACHINE = 0


class StateMachine:
    """Base of every replicated state machine. All methods run in the worker that hosts the group.

    `execute` is called on every replica with the same values in the same order, so it must be
    deterministic: no clock, no randomness, no I/O whose answer differs between machines.
    """

    smid: ClassVar[int]
    """Identifies the machine within its group, 1 .. 99_999_999. 0 means "no state machine"."""

    def __init__(self, group: int) -> None:
        """Built once per group, before anything is executed. Arguments from the options follow `group`."""
        self.group = group

    def execute(self, instance_id: int, value: bytes, context: bytes | None) -> bytes | None:
        """Apply one decided value.

        Args:
            instance_id: the instance that decided it; several values may share one instance.
            value: the bytes that were proposed.
            context: what the proposer passed beside the value; None on every other replica and
                after a restart.

        Returns:
            What the proposer receives as `done.result`.

        Raise `Refused` for a deterministic refusal. Any other exception stops this machine on this
        replica at this value (code 15); consensus goes on, and a restart tries again.
        """
        raise NotImplementedError

    def commit(self, instance_id: int) -> None:
        """Called once after the last value of each instance that had values for this machine.

        A durable machine stores `instance_id` here, in one transaction with the effects.
        """

    def applied_instance_id(self) -> int | None:
        """The highest instance whose effects survive a restart; None if none do (replay from the start).

        Asked at the start and several times a second; everything up to it may be forgotten by the log.
        """
        return None

    def query(self, request: bytes) -> bytes:
        """Answer a read from local state. Must not change it."""
        raise NotImplementedError

    def close(self) -> None:
        """Called once at a clean stop."""
