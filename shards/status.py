"""What a node says about itself: one JSON-able picture of groups, workers, rings, peers and the loop.

Only reads. Whatever does not answer in time is left out and named, so that the picture of a node in
trouble is still drawn.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.shards.admission import Admission
from paxmux.shards.exchange import Exchange
from paxmux.shards.lag import LagWatch
from paxmux.shards.layout import Layout
from paxmux.shards.mover import MoverChild
from paxmux.shards.pending import Pending
from paxmux.shards.requests import CallKind, Reply

log = logging.getLogger("paxmux")


async def group_rows(
    exchange: Exchange, admission: Admission, workers: int, deadline_ns: int
) -> tuple[list[dict[str, Any]], list[int]]:
    """(a row for each group, in order; the workers that did not answer)."""
    asked: list[tuple[int, asyncio.Future[Reply]]] = []
    silent: list[int] = []
    for worker in range(workers):
        try:
            admission.enter(worker, 0)
        except PaxmuxError:
            silent.append(worker)
        else:
            future = exchange.call(worker, CallKind.GROUP_STATUS, 0, 0, b"", deadline_ns)
            asked.append((worker, future))
    rows: list[dict[str, Any]] = []
    for worker, future in asked:
        reply = await future
        if reply[1] == Code.OK:
            rows += [{**row, "worker": worker} for row in orjson.loads(reply[4] or b"[]")]
        else:
            silent.append(worker)
    return sorted(rows, key=lambda row: int(row["group"])), sorted(silent)


def layout_picture(layout: Layout, epoch: int, mover: MoverChild | None) -> dict[str, Any]:
    """Which worker hosts which groups, on which CPUs; what moved between logs, and how often ever."""
    return {
        "fingerprint": layout.fingerprint(),
        "epoch": epoch,
        "hosts": layout.hosts(),
        "moved": mover.picture() if mover is not None else None,
        "workers": [
            {"worker": worker, "groups": layout.groups_of(worker), "cpus": layout.cpus_of(worker)}
            for worker in range(layout.workers)
        ],
    }


def loop_picture(lag: LagWatch) -> dict[str, Any]:
    """How late the event loop is."""
    return {
        "lag_ms": round(lag.last_s * 1000, 3),
        "lag_max_ms": round(lag.max_s * 1000, 3),
        "late_ticks": lag.late_ticks,
    }


def pending_picture(admission: Admission, pending: Pending) -> dict[str, Any]:
    """What waits, and what was refused."""
    return {
        "count": admission.count,
        "bytes": admission.bytes,
        "max_count": admission.max_count,
        "max_bytes": admission.max_bytes,
        "waiting": pending.waiting,
        "owed": pending.owed,
        "admitted": admission.admitted,
        "refused": dict(admission.refused),
        "workers": admission.shedding.picture(),
        "groups": admission.locks.picture(),
        "timeouts": pending.timeouts,
        "unmatched": pending.unmatched,
    }
