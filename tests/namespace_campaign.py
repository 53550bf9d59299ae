"""Clusters of real processes, each node in a network namespace of its own, under partitions and load.

    python -m tests.namespace_campaign --rounds 12 --nodes 5 --seed 1 --json report.json
    python -m tests.namespace_campaign --rounds 1 --kinds master,bridge

Each round is a partition of one kind: a minority cut off, one direction, a minority that hears nothing, two
halves that see one common node, a master cut off, deaf, or mute, cuts that change, and, where the kernel has
netem, lines that are slow and lose. Cuts are made between the hosts, so that sockets, connections and what
workers send by themselves are cut alike. All the while clients on every node write, compare and set, and read
registers linearizably, and every master writes into a common log in its term, also for a while after it has
lost the lease. Within a partition every node that sees a majority both ways must serve each kind of call, and
have a master for each group; after it, every node.

In the end the history of all calls must be linearizable, nothing acknowledged be lost, all replicas be alike,
terms in the common log never go back, and no node have believed that it was master after another one was.
With three rounds or more that take away a master, a new one must be there within two leases at the median.

The exit code is 0 only if all of that held; 77, with a word why, where namespaces cannot be made. The seed
fixes what is cut, and when, not how the machine schedules it. Nothing is left on the machine, but for the
folder in $TMPDIR if something was wrong, or the command was killed with SIGKILL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final

import msgspec
from rich.console import Console

from paxmux.engine.address import parse_member
from paxmux.engine.errors import Code
from paxmux.tools import event_loop
from paxmux.tools.chaos_history import write_history
from paxmux.tools.chaos_registers import RegisterChaos, RegisterOptions
from paxmux.tools.namespaces import Namespaces, NamespacesMissing, used
from paxmux.tools.progress import Steps
from paxmux.tools.replicas import compare
from paxmux.tools.scratch import Scratch
from paxmux.tools.term_judge import TermJudge
from paxmux.tools.term_machine import ASK_MARK, Row, Terms, ask_rows, read_mark, read_rows
from paxmux.tools.term_writers import Reign, TermSpec, Written
from tests.partitions import FLAPPING, KINDS, OF_MASTERS, SLOW, partition

MACHINE: Final = "paxmux.tools.term_machine:Terms"
GROUPS: Final = 4
CLIENTS: Final = 4
WRITE_PAUSE_MS: Final = 40
LOOK_EVERY_S: Final = 0.02
GO_ON_S: Final = 30.0
"""So long those who see a majority may need to serve each kind of call, and to have masters."""
LEASES_MEDIAN: Final = 2.0
LEASES_JUDGED: Final = 3
"""Of fewer rounds than this that took away a master no median is judged."""
SKIPPED: Final = 77
CALLS: Final = frozenset({"get", "put", "cas"})


class CampaignOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    rounds: int
    """Of each kind."""
    seed: int
    nodes: int = 3
    lease_ms: int = 2000
    kinds: tuple[str, ...] = KINDS


class NamespaceRun(RegisterChaos):
    """One cluster, through all rounds. Used in one event loop only."""

    def __init__(self, options: CampaignOptions, folder: Path, steps: Steps, network: Namespaces) -> None:
        router = "inline" if options.seed % 2 else "process"
        registers = RegisterOptions(
            seconds=0,
            seed=options.seed,
            groups=GROUPS,
            workers=(1,) * options.nodes,
            clients=CLIENTS,
            router=router,
            # Beyond loopback no node serves without one.
            secret=True,
        )
        more = {"network": {}, "master": {"groups": "all", "lease_ms": options.lease_ms}}
        super().__init__(registers, folder, steps, machines=[MACHINE], more=more, hosts=network.hosts)
        self._campaign = options
        self._network = network
        self._rng = random.Random(f"namespaces {options.seed}")
        self._since_ns = 0
        self._answered: dict[str, set[str]] = defaultdict(set)
        self.judge = TermJudge(self.violate)
        self.skipped: list[str] = []
        """Kinds of rounds that cannot be done here, and why."""
        self.new_master_leases: list[float] = []
        """Of each round that took a master away: how long the slowest of its groups had none, in leases."""
        self.go_on_max_s = 0.0
        """The longest that a node that saw a majority took to serve each kind of call."""

    async def _round(self) -> None:
        """All rounds: `run` of the base class begins and judges them."""
        nodes = self._cluster.nodes
        for number, node in enumerate(nodes):
            spec = TermSpec(writer=number, groups=GROUPS, pause_ms=WRITE_PAUSE_MS, timeout_s=2.0)
            await node.ask("write_terms", spec=msgspec.to_builtins(spec))
        plan = [kind for kind in self._campaign.kinds for _ in range(self._campaign.rounds)]
        self._rng.shuffle(plan)
        for kind in plan:
            if self.violations:
                break
            await self._one(kind)

    async def _one(self, kind: str) -> None:
        everybody = range(len(self._cluster.nodes))
        await self._until_masters(everybody)
        if kind == SLOW:
            try:
                self._network.slow_down(everybody, 20, 10, 5)
            except NamespacesMissing as error:
                if not self.skipped:
                    self.skipped.append(f"{kind}: {error}")
                return
        group = self._rng.randrange(GROUPS)
        before = dict(self.judge.newest)
        cut = partition(kind, len(everybody), before[group].writer, self._rng)
        lasts_s = self._rng.uniform(0.5, 1.5) * self._campaign.lease_ms / 1000
        begin = time.monotonic()
        self._since_ns, self._answered = monotonic_ns(), defaultdict(set)
        self._network.cut(cut.cuts)
        words = ", ".join(f"{one + 1}→{other + 1}" for one, other in sorted(cut.cuts))
        self._steps.step(f"round {self.rounds.total() + 1}: {kind}: {words}", plain=False)
        await self._until_answered(cut.going_on)
        if kind == FLAPPING:
            while time.monotonic() < begin + 2 * lasts_s:
                await asyncio.sleep(self._rng.uniform(0.05, 0.6))
                self._network.cut(partition(kind, len(everybody), 0, self._rng).cuts)
        lost = [each for each, reign in before.items() if cut.going_on and reign.writer not in cut.going_on]
        await self._until_masters(cut.going_on, lost)
        if kind in OF_MASTERS and not self.violations:
            slowest_ns = max(self.judge.newest[each].first_ns for each in lost) - self._since_ns
            self.new_master_leases.append(round(slowest_ns / 1e6 / self._campaign.lease_ms, 3))
        await asyncio.sleep(max(0.0, begin + lasts_s - time.monotonic()))
        self._network.cut(())
        if kind == SLOW:
            self._network.slow_down((), 0, 0, 0)
        recovery_s = await self._all_serve()
        self.rounds[kind] += 1
        lasted_s = time.monotonic() - begin - recovery_s
        self._steps.say(
            f"round {self.rounds.total()}: {kind} ({words}) for {lasted_s:.1f} s, "
            f"all nodes served again after {recovery_s:.1f} s"
        )

    async def _until_answered(self, numbers: Sequence[int]) -> None:
        """Wait until these nodes have served each kind of call that was made since the cut."""
        begin = time.monotonic()
        names = [self._cluster.nodes[number].name for number in numbers]
        while late := [name for name in names if not self._answered[name] >= CALLS]:
            if time.monotonic() - begin > GO_ON_S:
                self.violate(
                    f"{', '.join(late)}: no progress within {GO_ON_S:.0f} s, with a majority in sight"
                )
                return
            await asyncio.sleep(LOOK_EVERY_S)
        self.go_on_max_s = max(self.go_on_max_s, round(time.monotonic() - begin, 3))

    async def _until_masters(self, numbers: Sequence[int], lost: Collection[int] = ()) -> None:
        """Wait until each group has a master among these nodes, those that have lost theirs a new one."""
        begin, ids = time.monotonic(), [parse_member(one).node_id for one in self._cluster.members]
        allowed, newest = {ids[number] for number in numbers}, self.judge.newest
        while numbers:
            told = [await self._cluster.nodes[number].ask("masters") for number in numbers]
            missing = [
                group
                for group in range(GROUPS)
                if not any(row[group] in allowed for row in told)
                or group not in newest
                or (
                    group in lost
                    and (newest[group].first_ns < self._since_ns or newest[group].writer not in numbers)
                )
            ]
            if not missing:
                return
            if time.monotonic() - begin > GO_ON_S:
                self.violate(f"groups {missing} have no master within {GO_ON_S:.0f} s: {told}")
                return
            await asyncio.sleep(LOOK_EVERY_S)

    def _on_event(self, node: Any, event: dict[str, Any]) -> None:
        if event["event"] == "reign":
            reign = msgspec.convert(event["reign"], Reign)
            (self.judge.ended if event["over"] else self.judge.begun)(reign)
        elif event["event"] == "written":
            self.judge.take_written(msgspec.convert(event["written"], Written))
        else:
            super()._on_event(node, event)
            _, _, kind, *_, invoked_ns, _, code, _ = event["called"]
            if code == Code.OK and invoked_ns > self._since_ns:
                self._answered[node.name].add(kind)

    async def _compare(self) -> None:
        """The base class's, and what masters wrote."""
        nodes = self._cluster.nodes
        await asyncio.gather(*(node.ask("terms_halt") for node in nodes))
        await super()._compare()
        verdict = await compare(nodes, GROUPS, smid=Terms.smid, request=ASK_MARK, read=read_mark)
        for difference in verdict.differences:
            self.violate(difference)
        self.judge.judge_reigns()
        for group, (count, _) in enumerate(verdict.marks):
            self.judge.judge_rows(group, await self._rows(group, count))
        leases = self.new_master_leases
        if len(leases) >= LEASES_JUDGED and statistics.median(leases) > LEASES_MEDIAN:
            self.violate(f"a new master took {statistics.median(leases):.2f} leases at the median")

    async def _rows(self, group: int, count: int) -> list[Row]:
        node, rows = self._rng.choice(self._cluster.nodes), []
        while len(rows) < count:
            request = {"request": ask_rows(len(rows)), "smid": Terms.smid, "timeout_s": 10.0}
            (answer,) = await node.ask("query", groups=[group], **request)
            rows += read_rows(answer)
        return rows


def report_of(run: NamespaceRun) -> dict[str, Any]:
    """What one run came to."""
    leases = run.new_master_leases
    return {
        "sound": run.sound,
        "rounds": dict(run.rounds),
        "skipped": run.skipped,
        "operations": len(run.history.operations),
        "outcomes": {str(int(code)): count for code, count in sorted(run.history.outcomes.items())},
        "fenced_writes": {str(int(code)): count for code, count in sorted(run.judge.outcomes.items())},
        "reigns": run.judge.reigns,
        "new_master_leases": {
            "rounds": len(leases),
            "median": round(statistics.median(leases), 3) if leases else None,
            "max": max(leases, default=None),
        },
        "go_on_max_s": run.go_on_max_s,
        "recovery_max_s": round(run.recovery_max_s, 3),
        "violations": run.examples,
        "problem": None if run.problem is None else str(run.problem),
        "left_behind": run.left_behind,
    }


def campaign(options: CampaignOptions, steps: Steps) -> dict[str, Any]:
    """One run of it; returns its report. What it leaves is kept if it was not sound.

    Raises:
        NamespacesMissing: there can be no such network here.
    """
    with Scratch(None) as scratch:
        with Namespaces(options.nodes) as network:
            ids, run = network.ids, NamespaceRun(options, scratch.path, steps, network)
            wrong = True
            try:
                event_loop.run(run.run())
                wrong = not run.sound
            except KeyboardInterrupt:
                wrong = False
                raise
            finally:
                if wrong:
                    write_history(scratch.path / "history.jsonl", run.history.operations)
                    steps.say(f"data, logs and history.jsonl are kept in {scratch.keep()}")
        run.left_behind += [f"network namespace {one}" for one in sorted(used(ids))]
        return report_of(run)


def main(arguments: Sequence[str]) -> int:
    """One campaign, and what is said of it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.namespace_campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=1, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=3, choices=(3, 5))
    parser.add_argument("--lease-ms", type=int, default=2000)
    parser.add_argument(
        "--kinds", default="", metavar="WORDS", help="only kinds with one of these in the name"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(arguments)
    words = [word.strip() for word in args.kinds.split(",")]
    options = CampaignOptions(
        rounds=args.rounds,
        seed=args.seed,
        nodes=args.nodes,
        lease_ms=args.lease_ms,
        kinds=tuple(kind for kind in KINDS if any(word in kind for word in words)),
    )
    with Steps(Console(stderr=True, highlight=False)) as steps:
        steps.say(f"seed {args.seed}")
        try:
            report = campaign(options, steps)
        except NamespacesMissing as error:
            steps.say(f"skipped: {error}")
            return SKIPPED
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1, ensure_ascii=False))
    return 0 if report["sound"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
