"""Forged and mutated datagrams, handshakes and connections against a cluster that serves.

    python -m tests.hostile_frames --count 1000000 --rate 5000 --seed 1

Three nodes with a secret, callers at node 1. What passes between nodes 1 and 3 goes through a stranger, who
hears and keeps it. He then attacks one node after the other for some seconds each, and between two attacks
sends the same to ports where nobody listens, so that what he costs the machine himself is the same all the
time. In the end: nothing but genuine datagrams, once more, may have been taken; nobody but members has been
believed; nothing has died, and no memory has grown; the callers have got on in the times of attack almost as
in the others; replicas agree. The exit code is 0 only then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import yaml
from rich.console import Console

from paxmux.engine.address import pack_node_id
from paxmux.tools import event_loop
from paxmux.tools.bench_machine import Chain, read_answer
from paxmux.tools.bench_run import BenchOptions, spec_of
from paxmux.tools.cluster import Cluster
from paxmux.tools.node_figures import Reading, read_node
from paxmux.tools.ports import HOST
from paxmux.tools.progress import Steps
from paxmux.tools.replicas import compare
from paxmux.tools.scratch import Scratch
from tests.hostile_material import Heard, Material
from tests.wire_tap import WireTap

GROUPS = 20
CLIENTS = 50
TAPPED = 2
"""The node whose ways from and to node 0 a stranger has in his hands."""
HEARD_MAX = 4000
TALKS_OF = 50
"""One of so many attacks is a connection."""
TALKS_MAX = 100
"""Connections of the stranger at a time."""
SLICE_S = 0.02
TAKEN_BY_NOBODY = {"ring_full", "no_worker", "dest"}
"""Drops of a router that say nothing against its network: congestion, and good datagrams sent astray."""
GROWTH_MAX_BYTES = 48 * 1024 * 1024
LOSS_MAX = 0.2


class TappedCluster(Cluster):
    """One in which two ways lead through a stranger."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, workers=[1, 1, 1], groups=GROUPS, machines=[], secret=True, **more)
        self.taps: dict[tuple[int, int], WireTap] = {}
        """(from, to) -> the stranger on the way."""

    def _write_configs(self) -> None:
        super()._write_configs()
        ports = [int(member.rpartition(":")[2]) for member in self.members]
        self.ids = [pack_node_id(HOST, port) for port in ports]
        self.ports = ports
        for sender, dest in ((0, TAPPED), (TAPPED, 0)):
            (port,) = self._claims.take(1)
            self.taps[sender, dest] = WireTap(port, ports[dest])
            config = self.folder / f"node{sender + 1}.yaml"
            document = yaml.safe_load(config.read_text(encoding="utf-8"))
            document["members"][dest] = f"{self.ids[dest]}@{HOST}:{port}"
            config.write_text(yaml.safe_dump(document), encoding="utf-8")

    async def __aenter__(self) -> TappedCluster:
        self._write_configs_once()
        for tap in self.taps.values():
            await tap.start()
        await super().__aenter__()
        return self

    def _write_configs_once(self) -> None:
        self._write_configs()
        self._write_configs = lambda: None  # type: ignore[method-assign]


class Stranger:
    """Sends at a rate, to a node or to nobody."""

    def __init__(self, cluster: TappedCluster, seed: int) -> None:
        self._cluster = cluster
        self._heard = {0: Heard([], []), TAPPED: Heard([], []), 1: Heard([], [])}
        rng = random.Random(seed)
        self._rng = rng
        self._material = {
            node: Material(
                random.Random(rng.getrandbits(64)),
                cluster.ids[node],
                [other for other in cluster.ids if other != cluster.ids[node]],
                heard,
            )
            for node, heard in self._heard.items()
        }
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sink.bind((HOST, 0))
        self._deaf = socket.create_server((HOST, 0), backlog=1)
        self._talks: set[asyncio.Task[None]] = set()
        self.sent: Counter[str] = Counter()
        self.genuine = 0
        self.astray = 0

    def listen(self) -> None:
        """Keep what was heard so far, up to a bound."""
        for (_, dest), tap in self._cluster.taps.items():
            heard = self._heard[dest]
            heard.datagrams.extend(tap.datagrams[: HEARD_MAX - len(heard.datagrams)])
            heard.streams[:] = [bytes(stream[:200_000]) for stream in tap.forth[-20:]]
            tap.datagrams.clear()

    async def attack(self, node: int, seconds: float, rate: int, *, really: bool) -> int:
        """Send for so long; how much was sent. `really`: to the node."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        done = 0
        while (now := loop.time()) < start + seconds:
            due = int((now - start + SLICE_S) * rate) - done
            for _ in range(due):
                self._strike(node, really)
            done += due
            await asyncio.sleep(SLICE_S)
        return done

    def _strike(self, node: int, really: bool) -> None:
        material = self._material[node]
        if self._rng.randrange(TALKS_OF) == 0 and len(self._talks) < TALKS_MAX:
            talk = material.talk()
            port = self._cluster.ports[node] if really else self._deaf.getsockname()[1]
            task = asyncio.get_running_loop().create_task(self._talk(port, talk.parts, talk.waits and really))
            self._talks.add(task)
            task.add_done_callback(self._talks.discard)
            kind = "connection: " + talk.kind
        else:
            others = self._heard[0 if node == TAPPED else TAPPED].datagrams
            datagram = material.datagram(others)
            kind = datagram.kind
            if really:
                self.genuine += datagram.genuine
                self.astray += kind == "for another node"
            address = (HOST, self._cluster.ports[node]) if really else self._sink.getsockname()
            with suppress(BlockingIOError):
                self._udp.sendto(datagram.data, address)
        if really:
            self.sent[kind] += 1

    async def _talk(self, port: int, parts: list[bytes], waits: bool) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(8):
                reader, writer = await asyncio.open_connection(HOST, port)
                try:
                    for part in parts:
                        writer.write(part)
                        await asyncio.sleep(0.05 if len(parts) > 10 else 0.002)
                    if waits:
                        while await reader.read(1 << 16):
                            pass
                finally:
                    writer.close()

    async def close(self) -> None:
        """End everything."""
        for task in self._talks:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        for sock in (self._udp, self._sink, self._deaf):
            sock.close()


async def campaign(
    folder: Path, count: int, rate: int, seed: int, window_s: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run it; `wrong` in what it returns is empty if all is well."""
    async with TappedCluster(folder, options={"state_machines": [_machine()]}) as cluster:
        stranger = Stranger(cluster, seed)
        windows = max(3, round(count / rate / window_s))
        seconds = (2 * windows + 2) * window_s + 4
        options = BenchOptions(clients=CLIENTS, groups=GROUPS, seconds=seconds, warmup_s=0.5)
        spec = msgspec.to_builtins(spec_of(options, list(range(GROUPS)), CLIENTS, 0))
        load = asyncio.create_task(
            cluster.nodes[0].ask("load", within_s=seconds + 60, spec=spec), name="honest load"
        )
        done = {True: 0, False: 0}
        spent = {True: 0.0, False: 0.0}
        struck = 0
        # All that is cached and grows once is there after a first attack.
        await asyncio.sleep(2)
        stranger.listen()
        await stranger.attack(0, window_s, rate, really=True)
        first = [await read_node(node) for node in cluster.nodes]
        for window in range(2 * windows):
            really = window % 2 == 0
            stranger.listen()
            before, since = (await read_node(cluster.nodes[0])).values, time.monotonic()
            sent = await stranger.attack((window // 2) % 3, window_s, rate, really=really)
            values = (await read_node(cluster.nodes[0])).values - before
            done[really] += values
            spent[really] += time.monotonic() - since
            struck += sent if really else 0
            say(f"{'attacked' if really else 'left alone'}: {values / window_s:,.0f} values/s")
        await stranger.close()
        result = await load
        last = [await read_node(node) for node in cluster.nodes]
        status = [await node.ask("status") for node in cluster.nodes]
        # What was taken until then has been made, and counted by workers that publish now and then, by now.
        await asyncio.sleep(2)
        later = [await node.ask("status") for node in cluster.nodes]
        verdict = await compare(cluster.nodes, GROUPS, smid=Chain.smid, request=b"", read=read_answer)
        applied = sum(mark[0] for mark in verdict.marks)
        died = [node.name for node in cluster.nodes if node.pid is None]
        await cluster.stop()
        for tap in cluster.taps.values():
            await tap.stop()
    speed = {really: done[really] / spent[really] for really in done}
    report = {
        "seed": seed,
        "sent": sum(stranger.sent.values()),
        "in_windows": struck,
        "genuine_again": stranger.genuine,
        "kinds": dict(sorted(stranger.sent.items())),
        "honest_values_per_s": {"attacked": round(speed[True]), "left alone": round(speed[False])},
        "honest_loss": round(1 - speed[True] / max(speed[False], 1), 3),
        "drop_auth": [each["router"]["network"]["drop_auth"] for each in status],
        "growth_bytes": _growth(first, last),
    }
    report["wrong"] = _wrong(report, status, later, stranger, result, applied) + verdict.differences + died
    return report


def _machine() -> dict[str, Any]:
    return {"class": "paxmux.tools.bench_machine:Chain"}


def _growth(first: list[Reading], last: list[Reading]) -> dict[str, int]:
    return {
        f"node{number} {name}": after.rss_bytes[name] - before.rss_bytes[name]
        for number, (before, after) in enumerate(zip(first, last, strict=True), 1)
        for name in after.rss_bytes
        if before.processes.get(name) == after.processes[name]
    }


def _wrong(
    report: dict[str, Any],
    status: list[dict[str, Any]],
    later: list[dict[str, Any]],
    stranger: Stranger,
    result: Any,
    applied: int,
) -> list[str]:
    """What is not as it should be, in words."""
    wrong: list[str] = []
    routers = [each["router"] for each in status]
    for number, router in enumerate(routers, 1):
        for reason, dropped in router["drops"].items():
            if dropped and reason not in TAKEN_BY_NOBODY:
                wrong.append(f"node {number}: {dropped} frames passed its network and were dropped: {reason}")
        if not router["network"]["drop_auth"]:
            wrong.append(f"node {number} refused nothing")
    if sum(router["drops"].get("dest", 0) for router in routers) > stranger.astray:
        wrong.append("more frames for other nodes were taken than were sent astray")
    taken = sum(router["network"][f"{way}_frames_in"] for router in routers for way in ("udp", "tcp"))
    made = sum(
        each["router"]["network"]["udp_frames_out"]
        + each["router"]["network"]["tcp_frames_out"]
        + sum(worker["counters"]["frames_direct"] for worker in each["workers"])
        for each in later
    )
    if taken > made + stranger.genuine + stranger.astray:
        wrong.append(
            f"{taken} frames were taken, {made} were made, and {stranger.genuine} of them sent once more, "
            f"{stranger.astray} to others"
        )
    proofs = sum(router["network"]["tcp_proofs"] for router in routers)
    connects = sum(each["router"]["network"]["connects"] for each in later)
    if proofs > connects:
        wrong.append(f"{proofs} connections were believed, members made {connects}")
    if any(worker["restarts"] for each in status for worker in each["workers"]):
        wrong.append("a worker died")
    bad_bodies = sum(worker["counters"].get("bad_frames", 0) for each in status for worker in each["workers"])
    if bad_bodies:
        wrong.append(f"workers got {bad_bodies} bodies that are none")
    grown = {name: size for name, size in report["growth_bytes"].items() if size > GROWTH_MAX_BYTES}
    if grown:
        wrong.append(f"memory has grown: {grown}")
    if result["errors"]:
        wrong.append(f"callers got errors: {result['errors']}")
    if applied < result["values"]:
        wrong.append(f"{result['values']} values were acknowledged, {applied} executed")
    return wrong


def main(argv: list[str] | None = None) -> int:
    """Run it, print the report."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile_frames", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=5000, help="a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--window-s", type=float, default=5.0)
    parser.add_argument("--loss-max", type=float, default=LOSS_MAX, help="of what honest callers get")
    args = parser.parse_args(argv)
    with Scratch(None) as scratch, Steps(Console(stderr=True)) as steps:
        steps.say(f"seed {args.seed}")
        report = event_loop.run(
            campaign(scratch.path, args.count, args.rate, args.seed, args.window_s, steps.say)
        )
        if report["honest_loss"] > args.loss_max:
            report["wrong"].append(f"honest callers lost {report['honest_loss']:.0%}")
        if report["wrong"]:
            steps.say(f"data and logs are kept in {scratch.keep()}")
    print(json.dumps(report, indent=2))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
