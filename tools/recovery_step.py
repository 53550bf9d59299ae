"""One step of `paxmux bench --recovery`, in a process of its own, so that its memory is its own too.

`python -m paxmux.tools.recovery_step SPEC`, where SPEC is JSON. Prints a JSON document a line: `{"at": …}`
on the way, `{"result": …}` at the end. The step that builds a log ends by SIGKILL, as a killed worker
leaves its log; none outlives the tool.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson
import psutil

from paxmux.engine import plugin
from paxmux.engine.options import LayoutOptions, MachineOptions, Options, StorageOptions
from paxmux.engine.paxos import value as values
from paxmux.engine.storage import Log, LogIdentity, OpenLog, Record, RecordKind
from paxmux.shards import identity
from paxmux.shards.cluster import make_founding
from paxmux.shards.identity import FoundingStore, read_identity
from paxmux.shards.log_directories import LOGS
from paxmux.shards.node import Node
from paxmux.tools.applied_machine import Applied, write_applied
from paxmux.tools.driven_node import die_with_parent

APPLIED = "applied"
MACHINE = "paxmux.tools.applied_machine:Applied"
INCARNATION = 1
SAY_EVERY_S = 0.5
HINT_EVERY = 100
"""Instances of a group between two hints of what is decided."""
READS = 1000
TIMEOUT_S = 30.0
START_S = 600.0
"""A log may be long, and its plugin look through all of it."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    step: Literal["build", "open", "node"]
    data_dir: str
    port: int
    records: int
    groups: int
    size: int
    storage: str
    more: int = 0
    """Instances that the node decides once it serves."""


def options_of(spec: Spec) -> Options:
    """A cluster of one, with one worker."""
    address = f"127.0.0.1:{spec.port}"
    return Options(
        node=address,
        members=[address],
        data_dir=spec.data_dir,
        groups=spec.groups,
        layout=LayoutOptions(workers=1),
        storage=StorageOptions(plugin=spec.storage),
        state_machines=[MachineOptions(class_=MACHINE, args={"file": f"{spec.data_dir}/{APPLIED}"})],
    )


def build(spec: Spec) -> None:
    """Make a data directory whose log has so many decided instances, each row of them a turn."""
    folder = Path(spec.data_dir)
    node = options_of(spec).own_member().node_id
    seat = identity.create(folder, node, spec.groups).seat
    FoundingStore(folder).record(make_founding({node: seat}, spec.groups), active=True)
    log = _open(spec)
    log.recover()
    log.append([(RecordKind.PROMISE, group, 0, 1, node, b"") for group in range(spec.groups)])
    rows = -(-spec.records // spec.groups)
    chains = [values.FIRST] * spec.groups
    payload = bytes(spec.size)
    said_s = begun_s = time.monotonic()
    for instance in range(rows):
        records: list[Record] = []
        for group in range(spec.groups):
            entry = (node, INCARNATION, instance * spec.groups + group + 1, instance, Applied.smid, payload)
            value = values.encode((entry,), chains[group])
            chains[group] = values.chain_after(value)
            records.append((RecordKind.ACCEPT, group, instance, 1, node, value))
        if instance % HINT_EVERY == 0 and instance:
            decided = instance - 1
            records += [(RecordKind.DECIDED, group, decided, 0, 0, b"") for group in range(spec.groups)]
        log.append(records)
        log.sync()
        log.housekeep()
        if time.monotonic() - said_s > SAY_EVERY_S:
            said_s = time.monotonic()
            _say({"at": (instance + 1) * spec.groups})
    write_applied(folder / APPLIED, [rows] * spec.groups)
    stats = log.stats()
    _say(
        {
            "result": {
                "records": stats["records"],
                "instances": rows * spec.groups,
                "disk_bytes": stats["disk_bytes"],
                "segments": stats["segments"],
                "seconds": round(time.monotonic() - begun_s, 3),
                **_memory(os.getpid()),
            }
        }
    )
    os.kill(os.getpid(), signal.SIGKILL)


def recover(spec: Spec) -> dict[str, Any]:
    """Open the log and recover it, read at random, close it cleanly."""
    before = _memory(os.getpid())
    begun_s = time.perf_counter()
    log = _open(spec)
    opened_s = time.perf_counter() - begun_s
    states = log.recover()
    recovered_s = time.perf_counter() - begun_s
    after = _memory(os.getpid())
    stats = log.stats()
    rows = -(-spec.records // spec.groups)
    expected = [state.instance for state in states.values()]
    if len(expected) != spec.groups or set(expected) - {rows - 1, rows}:
        raise AssertionError(f"{len(expected)} groups at {sorted(set(expected))}, expected {rows} instances")
    rng = random.Random(1)
    wanted = [(rng.randrange(spec.groups), rng.randrange(rows)) for _ in range(READS)]
    begun_s = time.perf_counter()
    for group, instance in wanted:
        found = log.read(group, instance)
        if found is None or values.decode(found[2])[0][2] != instance * spec.groups + group + 1:
            raise AssertionError(f"group {group}, instance {instance}: {found!r}")
    read_s = time.perf_counter() - begun_s
    peak = _memory(os.getpid())["peak_bytes"]
    begun_s = time.perf_counter()
    log.close(clean=True)
    return {
        "opened_s": round(opened_s, 4),
        "recovered_s": round(recovered_s, 4),
        "recovered_records": stats["recovered_records"],
        "read_us": round(1e6 * read_s / READS, 1),
        "closed_s": round(time.perf_counter() - begun_s, 4),
        "own_before_bytes": before["own_bytes"],
        "own_bytes": after["own_bytes"],
        "rss_bytes": after["rss_bytes"],
        "peak_bytes": peak,
    }


async def serve(spec: Spec) -> dict[str, Any]:
    """Start a node on it, let it decide some more, stop it."""
    node = Node(options_of(spec))
    begun_s = time.perf_counter()
    await node.start(START_S)
    started_s = time.perf_counter() - begun_s
    try:
        (worker,) = (await node.status())["workers"]
        memory = [{"more": 0, **_memory(worker["pid"])}]
        payload = bytes(spec.size)
        rows = -(-spec.more // spec.groups)
        said_s = begun_s = time.perf_counter()
        for row in range(1, rows + 1):
            await asyncio.gather(
                *(
                    node.propose(group, payload, smid=Applied.smid, timeout_s=TIMEOUT_S)
                    for group in range(spec.groups)
                )
            )
            if row == rows or row % max(1, rows // 10) == 0:
                memory.append({"more": row * spec.groups, **_memory(worker["pid"])})
            if time.perf_counter() - said_s > SAY_EVERY_S:
                said_s = time.perf_counter()
                _say({"at": row * spec.groups})
        served_s = time.perf_counter() - begun_s
    finally:
        begun_s = time.perf_counter()
        await node.stop()
    return {
        "started_s": round(started_s, 4),
        "more_s": round(served_s, 3),
        "stopped_s": round(time.perf_counter() - begun_s, 4),
        "worker": memory,
    }


def _open(spec: Spec) -> Log:
    folder = Path(spec.data_dir)
    found = read_identity(folder)
    if found.founding is None:
        raise AssertionError(f"{folder}: it has no founding")
    path = folder / LOGS / "0"
    path.mkdir(parents=True, exist_ok=True)
    open_log: OpenLog = plugin.load(spec.storage)
    owner = LogIdentity(found.founding.cluster, found.node_id, found.seat, 0)
    return open_log(path, owner, segment_bytes=StorageOptions().segment_bytes, create=True)


def _memory(pid: int) -> dict[str, int]:
    """What a process has in memory, and the most that it ever had, without what it maps from files:
    the index is mapped, and its pages are the system's to drop."""
    process = psutil.Process(pid)
    usage = process.memory_info()
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {
        "rss_bytes": usage.rss,
        "own_bytes": int(lines["RssAnon"].split()[0]) * 1024,
        "peak_bytes": int(lines["VmHWM"].split()[0]) * 1024,
    }


def _say(document: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(document) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Entry of the process."""
    die_with_parent()
    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    if spec.step == "build":
        build(spec)
    _say({"result": recover(spec) if spec.step == "open" else asyncio.run(serve(spec))})


if __name__ == "__main__":
    main()
