"""Counters in shared memory: written by one process alone, readable by every other one.

A block is a memfd with one unsigned 64-bit slot for each name. The owner stores into `slots`
directly (one machine store each, no lock); readers may see a slot a little late, never torn. A
block outlives the death of its owner, and nothing of it outlives its last descriptor.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from enum import IntEnum


class Phase(IntEnum):
    """What a worker's loop is doing, for whoever wonders why it does not turn."""

    BOOT = 0
    SLEEP = 1
    DRAIN = 2
    STEP = 3
    SEND = 4
    SYNC = 5
    APPLY = 6
    HOUSEKEEP = 7
    STOP = 8


STAGES = (
    "loop",
    "ring",
    "decode",
    "step",
    "encode",
    "append",
    "sync",
    "finish",
    "apply",
    "replies",
    "upkeep",
)
"""Of a worker's turn; their slots stay 0 unless `stages.py` was asked to measure them."""

WORKER = (
    "heartbeat_ns",
    "phase",
    "turns",
    "busy_ns",
    "frames_in",
    "frames_out",
    "frames_direct",
    "frames_dropped",
    "messages_in",
    "proposals",
    "values_decided",
    "instances_decided",
    "values_applied",
    "syncs",
    "sync_ns",
    "records",
    "log_bytes",
    "prepares",
    "rejects",
    "resends",
    "learned",
    "replies",
    "calls",
    "machine_failures",
    "disk_bytes",
    "live_bytes",
    "removed_segments",
    "damaged_records",
    "mended_values",
    "scrubbed_bytes",
    "scrub_rounds",
    "segments",
    "no_room",
    "slow_turns",
    *(f"{stage}_cpu_ns" for stage in STAGES),
    "asked_ns",
    "asked_group",
    "asked_smid",
    "asked_instance",
    "asked_value",
    "progress_ns",
)
"""Slots of a worker's block. From `asked_ns` on: see shards/whereabouts.py."""

ROUTER = (
    "heartbeat_ns",
    "frames_in",
    "bytes_in",
    "frames_out",
    "bytes_out",
    "delivered",
    "hellos_in",
    "dropped",
)
"""Slots of the block of a router process."""


class Block:
    """One process's counters."""

    def __init__(self, fd: int, names: Sequence[str]) -> None:
        """Map the block behind `fd`; the descriptor stays the caller's."""
        self.names = tuple(names)
        self._map = mmap.mmap(fd, 8 * len(self.names))
        self.slots = memoryview(self._map).cast("Q")
        self.index = {name: i for i, name in enumerate(self.names)}

    @staticmethod
    def create(names: Sequence[str]) -> int:
        """A new zeroed block; returns its descriptor, to be closed by the caller."""
        fd = os.memfd_create("paxmux-counters", os.MFD_CLOEXEC)
        os.ftruncate(fd, 8 * len(names))
        return fd

    def snapshot(self) -> dict[str, int]:
        """All values now."""
        return dict(zip(self.names, self.slots.tolist(), strict=True))

    def close(self) -> None:
        """Unmap; `slots` must not be used any more."""
        self.slots.release()
        self._map.close()
