"""Where a worker is when its loop does not turn: which state machine it executes, and whether that moves.

Decides it from the stack, at the moment when the supervisor asks (`SIGNAL`): so it costs execution nothing.
The thread that executes answers, between two of its instructions; a machine that never returns from a call
into C is not seen. Answers lie in the worker's block of counters, since whoever does not turn reads and sends
no message.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NamedTuple

from paxmux.engine.clock import clock_ns
from paxmux.shards.applier import Applier
from paxmux.shards.counters import Block

SIGNAL = signal.SIGUSR1
"""In a worker it is the supervisor's."""


_EXECUTES = Applier._execute.__code__


class Place(NamedTuple):
    """What is being executed."""

    group: int
    smid: int
    instance: int
    value: int
    """Its place in the instance."""


class Whereabouts:
    """Of one worker; it answers from its making on. Only one in a process, made in its main thread."""

    def __init__(self, block: Block) -> None:
        self._slots = block.slots
        self._index = block.index
        self._last: Place | None = None
        signal.signal(SIGNAL, self._asked)
        # A call of the system that a question comes into goes on by itself.
        signal.siginterrupt(SIGNAL, False)

    def _asked(self, _number: int, frame: FrameType | None) -> None:
        place, now = executed_in(frame), clock_ns()
        slots, index = self._slots, self._index
        if place is not None:
            slots[index["asked_group"]] = place.group
            slots[index["asked_smid"]] = place.smid
            slots[index["asked_instance"]] = place.instance
            slots[index["asked_value"]] = place.value
            if place != self._last:
                slots[index["progress_ns"]] = now
        self._last = place
        slots[index["asked_ns"]] = 0 if place is None else now


def executed_in(frame: FrameType | None) -> Place | None:
    """What is executed somewhere below this frame; None if nothing is."""
    while frame is not None:
        if frame.f_code is _EXECUTES:
            local = frame.f_locals
            if local.get("machine") is None:
                return None
            return Place(local["self"].group, local["smid"], local["instance"], local["at"])
        frame = frame.f_back
    return None


def told(block: Block, beat_ns: int) -> Place | None:
    """What a worker has answered since its heartbeat of that time."""
    slots, index = block.slots, block.index
    if slots[index["asked_ns"]] <= beat_ns:
        return None
    return Place(
        *(slots[index[name]] for name in ("asked_group", "asked_smid", "asked_instance", "asked_value"))
    )
