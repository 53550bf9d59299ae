"""Load on real nodes whose groups move meanwhile: what was acknowledged, and how long each group was silent.

`python -m tests.moving_load` prints for how long a group gave no answer while it moved, beside the longest
silence of groups that stayed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import logging
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from paxmux.engine.errors import Overloaded, PaxmuxError, Timeout
from paxmux.engine.options import LayoutOptions, MachineOptions, Options
from paxmux.shards.event_loop import new_loop
from paxmux.shards.node import Node
from paxmux.tools.bench_machine import Chain
from paxmux.tools.ports import PortClaims
from tests.node_fixtures import member_options

MACHINES = [MachineOptions(class_="paxmux.tools.bench_machine:Chain")]


class Clients:
    """Callers at several nodes, each with one proposal at a time."""

    def __init__(self, nodes: Sequence[Node], groups: int, each: int = 1, size: int = 0) -> None:
        """`each`: so many for each group at each node."""
        self.acknowledged: dict[int, list[bytes]] = {group: [] for group in range(groups)}
        self.unknown: dict[int, set[bytes]] = {group: set() for group in range(groups)}
        self.refused = 0
        self.errors: list[PaxmuxError] = []
        self.answered_s: dict[tuple[int, int], list[float]] = {}
        """(node, group) -> when each answer came."""
        self._padding = b"." * size
        self._ended = False
        self._tasks = [
            asyncio.create_task(self._call(node, number, group, name))
            for number, node in enumerate(nodes)
            for group in range(groups)
            for name in range(each)
        ]

    async def _call(self, node: Node, number: int, group: int, name: int) -> None:
        times = self.answered_s.setdefault((number, group), [])
        turn = 0
        while not self._ended:
            turn += 1
            value = b"%d-%d-%d%s" % (number, name, turn, self._padding)
            try:
                await node.propose(group, value, smid=Chain.smid, timeout_s=30)
            except Timeout:
                self.unknown[group].add(value)
            except Overloaded:
                # Nothing was proposed.
                self.refused += 1
                await asyncio.sleep(0.005)
            except PaxmuxError as error:
                self.errors.append(error)
                return
            else:
                self.acknowledged[group].append(value)
                times.append(time.monotonic())

    async def stop(self) -> None:
        """Let each have its last answer."""
        self._ended = True
        await asyncio.gather(*self._tasks)

    def silence_ms(self, node: int, group: int, since_s: float, until_s: float) -> float:
        """The longest time without an answer that overlaps this span."""
        times = self.answered_s[node, group]
        gaps = [
            after - before
            for before, after in itertools.pairwise(times)
            if after >= since_s and before <= until_s
        ]
        return max(gaps, default=0.0) * 1000

    def check(self, group: int, decided: Sequence[bytes]) -> None:
        """Each value once, none lost, none that nobody proposed."""
        assert len(decided) == len(set(decided)), f"group {group}: a value was decided twice"
        missing = set(self.acknowledged[group]) - set(decided)
        assert not missing, f"group {group}: {len(missing)} acknowledged values are lost"
        strange = set(decided) - set(self.acknowledged[group]) - self.unknown[group]
        assert not strange, f"group {group}: {len(strange)} values that had no answer are decided"


def options_for(folder: Path, ports: Sequence[int], number: int, groups: int, **more: object) -> Options:
    """Options of one of several nodes, with one worker."""
    return member_options(
        folder,
        ports,
        number,
        **{"groups": groups, "layout": LayoutOptions(workers=1), "state_machines": MACHINES, **more},
    )


async def measure(groups: int, nodes: int, each: int, size: int, moves: int, seed: int) -> None:
    """Move groups of node 0 about, one at a time, and print what that cost."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, PortClaims() as claims:
        ports = claims.take(nodes)
        options = [options_for(Path(folder), ports, number, groups) for number in range(nodes)]
        started = [Node(each_of) for each_of in options]
        await asyncio.gather(*(node.start(60) for node in started))
        try:
            clients = Clients(started, groups, each, size)
            await asyncio.sleep(1.0)
            hosts = [0] * groups
            node = started[0]
            silent: dict[str, list[float]] = {"here": [], "elsewhere": [], "stayed": []}
            held: list[float] = []
            for _ in range(moves):
                group = rng.randrange(groups)
                hosts[group] = 1 - hosts[group]
                if len(set(hosts)) == 1:
                    continue
                by_hand = {
                    worker: ",".join(str(g) for g in range(groups) if hosts[g] == worker) for worker in (0, 1)
                }
                layout = LayoutOptions(strategy="explicit", groups=by_hand)
                begin_s = time.monotonic()
                report = await node.reload(msgspec.structs.replace(options[0], layout=layout))
                end_s = time.monotonic()
                held += report["held_ms"]
                await asyncio.sleep(0.5)
                silent["here"].append(clients.silence_ms(0, group, begin_s, end_s))
                silent["elsewhere"] += [
                    clients.silence_ms(number, group, begin_s, end_s) for number in range(1, nodes)
                ]
                silent["stayed"] += [
                    clients.silence_ms(0, other, begin_s, end_s) for other in range(groups) if other != group
                ]
            await clients.stop()
            total = sum(len(values) for values in clients.acknowledged.values())
            print(f"{total} values acknowledged, {clients.refused} refused, errors: {clients.errors}")
            print(_line("held at the node", held))
            print(_line("longest silence of a group that moved, callers at its node", silent["here"]))
            print(_line("... callers at other nodes", silent["elsewhere"]))
            print(_line("longest silence of groups that stayed, meanwhile", silent["stayed"]))
        finally:
            await asyncio.gather(*(each_of.stop(1) for each_of in started))


def _line(what: str, figures: list[float]) -> str:
    ordered = sorted(figures)
    if not ordered:
        return f"{what}: none"
    return f"{what}: p50 {ordered[len(ordered) // 2]:.1f} ms, max {ordered[-1]:.1f} ms ({len(ordered)})"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=2, help="for each group at each node")
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(measure(args.groups, args.nodes, args.clients, args.size, args.moves, args.seed))


if __name__ == "__main__":
    main()
