"""What a user writes: a deterministic state machine, one instance of it per group.

State machines live in worker processes. They are named in the options as an importable class
(`package.module:Class`) with arguments, built in the worker, and never pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from paxmux.engine.errors import Refused

if TYPE_CHECKING:
    import pyarrow

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
    columnar: ClassVar[bool] = False
    """Whether `execute_many` wants a `pyarrow.BinaryArray` instead of a list of bytes."""

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

    def execute_many(
        self,
        instance_id: int,
        values: Sequence[bytes] | pyarrow.BinaryArray,
        contexts: Sequence[bytes | None] | None,
    ) -> Sequence[bytes | Refused | None] | None:
        """Apply values that were proposed together, in their order. Unless overridden: `execute`, one by one.

        Args:
            instance_id: as in `execute`; other values may share the instance, before and behind these.
            values: what was proposed with one `propose_many`, or a run of it; a `pyarrow.BinaryArray` where
                `columnar` says so. It shares the memory of the decided value: what is kept of it keeps all.
            contexts: one for each value; None if there are none, as on every other replica.

        Returns:
            For each value what its proposer receives: a result, None, or a `Refused`. None if there is
            nothing to say about any.

        Raised exceptions count as in `execute`, for all values together.
        """
        results: list[bytes | Refused | None] = []
        for index, value in enumerate(values):
            try:
                context = None if contexts is None else contexts[index]
                results.append(self.execute(instance_id, value, context))
            except Refused as refused:
                results.append(refused)
        return results

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
