"""Clusters that grow from 1 node to 5, have each replaced, and shrink to 3 others, under load with kills.

    python -m tests.membership_campaign --rounds 10 --seed 1 --json report.json
    python -m tests.membership_campaign --rounds 1 --short

Each round is a cluster of its own, of real processes. Clients on every member write, compare and set, and
read registers linearizably all the while. While a change of members is under way a worker or a whole node of
a member is killed with SIGKILL, at a random moment, and comes back. Every change is asked of a random member
by the control socket, as `paxmux member` does, and asked for again until it holds in all groups. In the end
every register is read at every member, the replicas are compared, and the history of all calls is checked for
linearizability. Errors may be only those that a sound cluster gives while its processes are killed. The exit
code is 0 only if all of that held.

The seed fixes what is done, and when, not how the machine schedules it; with each third one routers
are processes of their own. --short: 1, 3, one replaced, 2.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from paxmux.engine.address import parse_member
from paxmux.engine.errors import PaxmuxError
from paxmux.engine.options import Options
from paxmux.shards.control import request
from paxmux.tools import event_loop
from paxmux.tools.chaos_history import write_history
from paxmux.tools.chaos_ledger import EXPECTED
from paxmux.tools.chaos_registers import RegisterChaos, RegisterOptions
from paxmux.tools.cluster import START_S
from paxmux.tools.node_handle import NodeHandle
from paxmux.tools.progress import Steps
from paxmux.tools.scratch import Scratch

GROUPS = 4
CHANGE_S = 60.0
"""So long each change may take, with all that is killed meanwhile."""
ATTEMPT_S = 5.0
PAUSE_S = 0.1
KILL_WITHIN_S = 0.8


class MembershipRun(RegisterChaos):
    """One cluster, from its first node to its last three. Used in one event loop only."""

    def __init__(self, seed: int, folder: Path, steps: Steps, *, short: bool) -> None:
        router = "inline" if seed % 3 else "process"
        options = RegisterOptions(seconds=0, seed=seed, groups=GROUPS, workers=(1,), clients=4, router=router)
        super().__init__(options, folder, steps)
        self._rng = random.Random(f"membership {seed}")
        self._short = short
        self.longest_change_s = 0.0
        self.changes: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()

    async def _round(self) -> None:
        """The whole life of the cluster: `run` of the base class begins and judges it."""
        largest, smallest, replaced = (3, 2, 1) if self._short else (5, 3, 5)
        while len(self._cluster.nodes) < largest:
            await self._grow()
        for node in list(self._cluster.nodes)[:replaced]:
            await self._replace(node)
        while len(self._cluster.nodes) > smallest:
            await self._shrink(self._rng.choice(self._cluster.nodes))
        await self._all_serve()
        self.rounds["life"] += 1
        wrong = {code: count for code, count in self.history.outcomes.items() if code not in EXPECTED}
        if wrong:
            self.violate(f"calls ended with codes that nothing here should cause: {wrong}")

    # Steps

    async def _grow(self) -> None:
        members = list(self._cluster.nodes)
        node = await self._join()
        await self._change("add", members, node=address_of(node))
        await self._knows(node)
        await self._call(node)

    async def _replace(self, old: NodeHandle) -> None:
        members = list(self._cluster.nodes)
        node = await self._join()
        await self._halt(old)
        asked = [member for member in members if member is not old] or members
        await self._change("change", asked, node=address_of(old), new=address_of(node))
        await self._knows(node)
        await self._call(node)
        await self._leave(old)

    async def _shrink(self, old: NodeHandle) -> None:
        await self._halt(old)
        # Whoever it is may be asked, the one that goes as well.
        await self._change("remove", list(self._cluster.nodes), node=address_of(old))
        await self._leave(old)

    async def _join(self) -> NodeHandle:
        seeds = [address_of(node) for node in self._cluster.nodes]
        node = self._cluster.place_joiner(seeds, self._rng.choice((1, 2)))
        await node.start()
        await node.ready(START_S)
        return node

    async def _halt(self, node: NodeHandle) -> None:
        await node.ask("write_halt")
        del self._clients[node.name]

    async def _knows(self, node: NodeHandle) -> None:
        """Wait until a node has learned in all groups that it is a member: until then it refuses calls."""
        own, deadline = parse_member(address_of(node)).node_id, time.monotonic() + CHANGE_S
        missing: object = "it does not answer"
        while time.monotonic() < deadline:
            try:
                said = await asyncio.to_thread(request, node.data_dir, {"op": "members", "groups": "all"})
                missing = [
                    row["group"]
                    for row in said["groups"]
                    if own not in [member["node_id"] for member in row["members"]]
                ]
                if not missing:
                    return
            except PaxmuxError as error:
                missing = error
            await asyncio.sleep(PAUSE_S)
        self.violate(f"{node.name} does not learn within {CHANGE_S:.0f} s that it is a member: {missing}")

    async def _leave(self, node: NodeHandle) -> None:
        code = await node.stop(drain_s=1.0)
        if code != 0:
            self.violate(f"{node.name} was asked to stop and ended with exit code {code}")
        self._cluster.nodes.remove(node)

    # A change, and what is killed meanwhile

    async def _change(self, what: str, members: Sequence[NodeHandle], **arguments: str) -> None:
        self._steps.step(f"{what} {' '.join(arguments.values())}", plain=False)
        begin = time.monotonic()
        killing = asyncio.create_task(self._kill_one(members))
        errors: Any = None
        while True:
            if time.monotonic() - begin > CHANGE_S:
                self.violate(f"{what} {arguments} does not hold within {CHANGE_S:.0f} s: {errors}")
                break
            asked = self._rng.choice(list(members))
            message = {"op": "change_members", "what": what, "groups": "all", "timeout_s": ATTEMPT_S}
            try:
                said = await asyncio.to_thread(request, asked.data_dir, message | arguments, ATTEMPT_S + 3)
            except PaxmuxError as error:
                errors = error
            else:
                errors = said["errors"]
                if not errors:
                    break
            await asyncio.sleep(PAUSE_S)
        await killing
        self.changes[what] += 1
        self.longest_change_s = max(self.longest_change_s, round(time.monotonic() - begin, 3))

    async def _kill_one(self, members: Sequence[NodeHandle]) -> None:
        """Kill a member, or one of its workers, and bring it back."""
        rng = self._rng
        node, whole = rng.choice(list(members)), rng.random() < 0.4
        await asyncio.sleep(rng.random() * KILL_WITHIN_S)
        had_clients = node.name in self._clients
        if not whole:
            children = node.children()
            if children:
                os.kill(rng.choice(children).pid, signal.SIGKILL)
                self.kills["worker"] += 1
            return
        await node.kill()
        self._on_kill(node)
        self.kills["node"] += 1
        await asyncio.sleep(rng.random() * KILL_WITHIN_S)
        await node.start()
        await node.ready(START_S)
        if had_clients and node in self._cluster.nodes:
            await self._call(node)


def address_of(node: NodeHandle) -> str:
    """Where a node's config says that it is."""
    return Options.from_yaml(node.config).node


def report_of(run: MembershipRun) -> dict[str, Any]:
    """What one run came to."""
    return {
        "sound": run.sound,
        "operations": len(run.history.operations),
        "outcomes": {str(int(code)): count for code, count in sorted(run.history.outcomes.items())},
        "changes": dict(run.changes),
        "kills": dict(run.kills),
        "longest_change_s": run.longest_change_s,
        "recovery_max_s": round(run.recovery_max_s, 3),
        "violations": run.examples,
        "problem": None if run.problem is None else str(run.problem),
        "left_behind": run.left_behind,
    }


def one_round(seed: int, *, short: bool, steps: Steps) -> dict[str, Any]:
    """One cluster; returns its report. What it leaves is kept if it was not sound."""
    with Scratch(None) as scratch:
        run = MembershipRun(seed, scratch.path, steps, short=short)
        finished = False
        try:
            event_loop.run(run.run())
            finished = True
        finally:
            if not finished or not run.sound:
                write_history(scratch.path / "history.jsonl", run.history.operations)
                steps.say(f"seed {seed}: data, logs and history.jsonl are kept in {scratch.keep()}")
        return report_of(run)


def main(arguments: Sequence[str]) -> int:
    """Rounds, and what is said of them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.membership_campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    reports = []
    with Steps(Console(stderr=True, highlight=False)) as steps:
        for seed in range(args.seed, args.seed + args.rounds):
            report = one_round(seed, short=args.short, steps=steps)
            reports.append({"seed": seed, **report})
            steps.say(f"seed {seed}: {json.dumps(report)}")
    if args.json is not None:
        args.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
    sound = sum(report["sound"] for report in reports)
    print(f"{sound} of {len(reports)} rounds sound")
    return 0 if sound == len(reports) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
