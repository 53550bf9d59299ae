"""`paxmux bench ring`: one ring between two processes, with its doorbells; what is read is forgotten."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import Any

from paxmux.shards.channel import Sender
from paxmux.shards.child import absolute
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.ring import create_ring
from paxmux.tools.part_rig import BACKLOG_BYTES, RING_BYTES, Gauge, PartOptions, Progress

CASES = ((100, 1), (100, 32), (1000, 1), (1000, 32), (10_000, 32), (100_000, 8))
"""(bytes of a message, messages for each commit)"""
_LOOK_S = 0.1


def run_ring(options: PartOptions) -> list[dict[str, Any]]:
    """A row for each case."""
    return [_case(size, count, options.seconds / len(CASES)) for size, count in CASES]


def _case(size: int, count: int, seconds: float) -> dict[str, Any]:
    mine, theirs = Doorbell.create(), Doorbell.create()
    ring = create_ring(RING_BYTES, generation=1)
    sender = Sender(ring, theirs, backlog_max_bytes=BACKLOG_BYTES)
    fds = (ring, theirs.fileno(), mine.fileno())
    sink = subprocess.Popen(
        [sys.executable, "-P", "-m", "paxmux.tools.part_ring_sink", *map(str, fds)],
        stdin=subprocess.DEVNULL,
        pass_fds=fds,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(absolute(sys.path))},
    )
    try:
        # Its start is not measured.
        sender.send(bytes(size), droppable=False)
        _until_empty(sender, mine)
        message = os.urandom(size)
        gauge = Gauge({"producer": os.getpid(), "consumer": sink.pid})
        before = sender.counters()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for _ in range(count):
                sender.send(message, droppable=False)
            if not sender.commit():
                _until_empty(sender, mine, backlog_only=True)
        _until_empty(sender, mine)
        used = gauge.read()
    finally:
        sink.kill()
        sink.wait()
        sender.close()
        os.close(ring)
        mine.close()
        theirs.close()
    after = sender.counters()
    messages = after["messages"] - before["messages"]
    return {
        "bytes": size,
        "messages_per_commit": count,
        "messages": messages,
        "per_s": round(messages / used.wall_s),
        "mb_per_s": round(messages * size / used.wall_s / 1e6, 1),
        **used.per(messages),
        "rings": after["rings"] - before["rings"],
        "waits": after["waits"] - before["waits"],
    }


def _until_empty(sender: Sender, bell: Doorbell, *, backlog_only: bool = False) -> None:
    """Wait until the consumer has taken everything, or made space for all that waits here."""
    progress = Progress("the reader of the ring")
    while not sender.commit() or (not backlog_only and sender.fill > 0):
        before = sender.fill
        select.select([bell], [], [], 0.0005 if not sender.backlog_bytes else _LOOK_S)
        bell.clear()
        if sender.fill != before:
            progress.made()
        progress.check()
