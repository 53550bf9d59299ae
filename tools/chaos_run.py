"""The loop of `paxmux chaos`: writers on every node, faults from a plan, and the books after each round.

Decides the order of a round: faults under load; everything is brought back; each node must get a
value through each group; the writers have their last outcomes; all replicas must agree; what they
executed must fit what was acknowledged; the log of each node must say the same.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.tools.chaos_faults import Faults
from paxmux.tools.chaos_hands import PATIENT, Hands
from paxmux.tools.chaos_ledger import EXPECTED, Ledger
from paxmux.tools.cluster import Cluster
from paxmux.tools.journal_machine import Journal, Row, ask_page, make_value, read_id, read_page
from paxmux.tools.leftovers import Leftovers
from paxmux.tools.node_handle import NodeGone, NodeHandle
from paxmux.tools.progress import Steps
from paxmux.tools.replicas import Mark, compare
from paxmux.tools.writers import Outcome, WriterSpec, make_id, read_outcomes

MACHINE = "paxmux.tools.journal_machine:Journal"
PAGE_ROWS = 100_000
PROBE_S = 30.0
PROBE_TIMEOUT_S = 3.0
PROBE_PAUSE_S = 0.1
SAMPLES = 20
"""Instances of each round that are read back from the log of each node."""


class ChaosOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    seconds: float
    seed: int
    groups: int = 8
    workers: tuple[int, ...] = (1, 2, 3)
    """Of each node."""
    clients: int = 8
    """On each node."""
    size: int = 100
    pause_max_ms: int = 10
    timeout_s: float = 3.0
    router: str = "inline"
    secret: bool = False
    """The nodes authenticate each other."""
    faults: tuple[str, ...] = ()
    """Words of the kinds of rounds that are wanted; none: all."""


class Kind(msgspec.Struct):
    """What the rounds of one kind came to."""

    rounds: int = 0
    longest_gap_s: float = 0.0
    """The longest time in which one group of one node acknowledged nothing."""


class Chaos:
    """One run. Used in one event loop only."""

    def __init__(self, options: ChaosOptions, folder: Path, steps: Steps) -> None:
        self._options = options
        self._steps = steps
        self._rng = random.Random(f"paxmux chaos samples {options.seed}")
        self._faults = Faults(
            options.seed,
            len(options.workers),
            router_process=options.router == "process",
            only=options.faults,
        )
        self.ledger = Ledger(options.groups)
        self.rounds: list[str] = []
        """What was done in each round."""
        self.kinds: dict[str, Kind] = {}
        self._acknowledged_s: dict[tuple[str, int], float] = {}
        """When each group of each node last acknowledged anything."""
        self._longest_gap_s = 0.0
        self.left_behind: list[str] = []
        """What the cluster left on the machine after its end."""
        self._cluster = Cluster(
            folder,
            workers=options.workers,
            groups=options.groups,
            machines=[MACHINE],
            router=options.router,
            secret=options.secret,
            options=PATIENT,
            on_event=self._on_event,
        )
        self.hands = Hands(self._cluster, self._write, self.ledger.violate)

    async def run(self) -> None:
        """Rounds until the time is over, or a violation is found; at least one.

        Raises:
            PaxmuxError: a node died by itself, does not come back, or does not stop cleanly.
        """
        cluster = self._cluster
        leftovers = Leftovers()
        until = time.monotonic() + self._options.seconds
        self._steps.step("starting the cluster")
        try:
            async with cluster:
                while not self.rounds or (time.monotonic() < until and not self.ledger.violations):
                    await self._round()
                self._steps.step("stopping the cluster")
                await cluster.stop()
        finally:
            self.hands.let_go()
        self.left_behind = await leftovers.found(cluster.mark)

    async def _round(self) -> None:
        plan, nodes, ledger = self._faults.next(), self._cluster.nodes, self.ledger
        number = len(self.rounds) + 1
        executed, acknowledged = ledger.executed, ledger.outcomes[Code.OK]
        self._steps.step(f"round {number}: {plan.name}", plain=False)
        await asyncio.gather(*(self._write(node) for node in nodes))
        began_s = time.monotonic()
        places = itertools.product([node.name for node in nodes], range(self._options.groups))
        self._acknowledged_s, self._longest_gap_s = dict.fromkeys(places, began_s), 0.0
        await self.hands.carry_out(plan.faults)
        await self.hands.bring_back()
        await asyncio.gather(*(self._probe(node) for node in nodes))
        for place in self._acknowledged_s:
            self._note_gap(place)
        kind = self.kinds.setdefault(plan.name, Kind())
        kind.rounds += 1
        kind.longest_gap_s = max(kind.longest_gap_s, round(self._longest_gap_s, 3))
        await asyncio.gather(*(node.ask("write_halt") for node in nodes))
        await self._check()
        self.rounds.append(plan.name)
        self._steps.say(
            f"round {number}: {plan.name}: {ledger.outcomes[Code.OK] - acknowledged:,} acknowledged, "
            f"{ledger.executed - executed:,} executed, "
            + (f"{ledger.violations} VIOLATIONS" if ledger.violations else "in order")
        )

    # Load

    async def _write(self, node: NodeHandle) -> None:
        options = self._options
        spec = WriterSpec(
            clients=options.clients,
            first_client=self.ledger.new_clients(options.clients),
            groups=options.groups,
            size=options.size,
            seed=options.seed,
            pause_max_ms=options.pause_max_ms,
            timeout_s=options.timeout_s,
        )
        await node.ask("write", spec=msgspec.to_builtins(spec))

    def _on_event(self, node: NodeHandle, event: dict[str, Any]) -> None:
        outcomes = read_outcomes(event["outcomes"])
        self.ledger.take_outcomes(outcomes)
        for group in {outcome.group for outcome in outcomes if outcome.code == Code.OK}:
            self._note_gap((node.name, group))

    def _note_gap(self, place: tuple[str, int]) -> None:
        now = time.monotonic()
        self._longest_gap_s = max(self._longest_gap_s, now - self._acknowledged_s.get(place, now))
        self._acknowledged_s[place] = now

    async def _probe(self, node: NodeHandle) -> None:
        """Get a value through each group of a node: nothing may stand still once all are back."""
        client = self.ledger.new_clients(1)
        numbers = itertools.count(1)
        deadline = time.monotonic() + PROBE_S
        groups = range(self._options.groups)
        await asyncio.gather(*(self._probe_group(node, group, client, numbers, deadline) for group in groups))

    async def _probe_group(
        self, node: NodeHandle, group: int, client: int, numbers: Iterator[int], deadline: float
    ) -> None:
        while True:
            value_id = make_id(client, next(numbers))
            try:
                instance, _ = await node.ask(
                    "propose",
                    group=group,
                    value=make_value(value_id, b""),
                    smid=Journal.smid,
                    timeout_s=PROBE_TIMEOUT_S,
                )
            except NodeGone:
                raise
            except PaxmuxError as error:
                self.ledger.take_outcomes([Outcome(value_id, 0, group, int(error.code), error.retryable)])
                if error.code not in EXPECTED:
                    return  # the ledger has noted it; it will not pass
                if time.monotonic() > deadline:
                    self.ledger.violate(f"{node.name} gets no value through group {group}: {error}")
                    return
                await asyncio.sleep(PROBE_PAUSE_S)
            else:
                self.ledger.take_outcomes([Outcome(value_id, instance, group, Code.OK, False)])
                return

    # Judgement

    async def _check(self) -> None:
        ledger, nodes = self.ledger, self._cluster.nodes
        verdict = await compare(
            nodes, self._options.groups, smid=Journal.smid, request=ask_page(0, 0), read=_read_mark
        )
        for difference in verdict.differences:
            ledger.violate(difference)
        if not verdict.consistent:
            return
        witness = self._rng.choice(nodes)
        news: list[tuple[int, int, list[int]]] = []
        for group, (count, _) in enumerate(verdict.marks):
            rows = await _read_rows(witness, group, ledger.rows[group], count)
            ledger.take_rows(group, rows)
            by_instance = itertools.groupby(rows, key=lambda row: row[0])
            news += [(group, instance, [row[1] for row in run]) for instance, run in by_instance]
        ledger.settle()
        samples = self._rng.sample(news, min(SAMPLES, len(news)))
        await asyncio.gather(*(self._check_log(node, *sample) for node in nodes for sample in samples))

    async def _check_log(self, node: NodeHandle, group: int, instance: int, ids: list[int]) -> None:
        """What a node's log has for an instance must be what the machines executed there."""
        values = await node.ask("instance_value", group=group, instance=instance, timeout_s=PROBE_S)
        found = [read_id(value) for value, _ in values]
        if found != ids:
            self.ledger.violate(
                f"group {group}, instance {instance}: executed were {ids}, the log of {node.name} has {found}"
            )


async def _read_rows(node: NodeHandle, group: int, first: int, until: int) -> list[Row]:
    """The rows `first` .. `until`-1 of a group's journal."""
    rows: list[Row] = []
    while first + len(rows) < until:
        page = ask_page(first + len(rows), min(PAGE_ROWS, until - first - len(rows)))
        (answer,) = await node.ask(
            "query", groups=[group], request=page, smid=Journal.smid, timeout_s=PROBE_S
        )
        more = read_page(answer).page
        if not more:
            raise PaxmuxError(f"{node.name}: the journal of group {group} ends before row {until}")
        rows += more
    return rows


def _read_mark(answer: bytes) -> Mark:
    page = read_page(answer)
    return page.rows, page.digest
