"""`paxmux bench log`: the log alone, as a worker's turns write it: one append and one sync for a batch."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from paxmux.engine import plugin
from paxmux.engine.options import StorageOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.storage import Log, LogIdentity, OpenLog, Record, RecordKind
from paxmux.tools.part_rig import Gauge, PartOptions

BATCHES = (1, 10, 100, 1000)
"""Records of a batch."""
NODE, INCARNATION, SMID = 1, 1, 2


def run_log(options: PartOptions, folder: Path) -> list[dict[str, Any]]:
    """A row for each size of a batch."""
    open_log: OpenLog = plugin.load(options.storage)
    rows = []
    for count in BATCHES:
        path = folder / f"log{count}"
        path.mkdir()
        log = open_log(
            path, LogIdentity(1, NODE, 1, 0), segment_bytes=StorageOptions().segment_bytes, create=True
        )
        log.recover()
        rows.append(_measure(log, options, count))
        log.close(clean=True)
    return rows


def _measure(log: Log, options: PartOptions, count: int) -> dict[str, Any]:
    until = time.monotonic() + options.seconds / len(BATCHES)
    payload = bytes(options.size)
    chains = [values.FIRST] * options.groups
    instances = [0] * options.groups
    done = sync_ns = append_ns = 0
    gauge = Gauge({"process": os.getpid()})
    before = log.stats()
    made_ns = 0
    while time.monotonic() < until:
        start = time.thread_time_ns()
        records: list[Record] = []
        for number in range(done, done + count):
            group = number % options.groups
            entry = (NODE, INCARNATION, number + 1, instances[group], SMID, payload)
            value = values.encode((entry,), chains[group])
            records.append((RecordKind.ACCEPT, group, instances[group], 1, NODE, value))
            chains[group] = values.chain_after(value)
            instances[group] += 1
        made_ns += time.thread_time_ns() - start
        begun = time.perf_counter_ns()
        log.append(records)
        appended = time.perf_counter_ns()
        log.sync()
        sync_ns += time.perf_counter_ns() - appended
        append_ns += appended - begun
        log.housekeep()
        done += count
    used = gauge.read()
    batches = done // count
    cpu_ns = used.cpu_ns["process"] - made_ns
    after = log.stats()
    return {
        "records": done,
        "records_per_batch": count,
        "per_s": round(done / used.wall_s),
        "append_us": round(append_ns / 1000 / batches, 1),
        "sync_us": round(sync_ns / 1000 / batches, 1),
        "log_cpu_us": round(cpu_ns / 1000 / done, 3),
        "bytes_per_record": round((after["bytes_written"] - before["bytes_written"]) / done, 1),
    }
