"""What a proposal comes to."""

from __future__ import annotations

import msgspec


class Done(msgspec.Struct, frozen=True, gc=False):
    """A proposal that was decided and executed."""

    instance_id: int
    """The instance that decided it."""
    result: bytes | None
    """What `execute` returned on this node; None without a state machine."""
    batch_index: int
    """Its place among the values of that instance, from 0."""
