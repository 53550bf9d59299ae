"""The loop of `paxmux chaos --linearizable`: clients of registers on every node, faults, the check.

Decides the order: faults under load, everything brought back, each node must serve every kind of call
again, and on to the next; in the end every register is read at every node, the replicas are compared,
and the history of all calls is checked.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import monotonic_ns
from typing import Any, Literal

import msgspec

from paxmux.engine.errors import Code, PaxmuxError
from paxmux.tools import cuttable_network
from paxmux.tools.chaos_faults import Faults
from paxmux.tools.chaos_hands import PATIENT, Hands
from paxmux.tools.chaos_history import History
from paxmux.tools.cluster import Cluster, Host
from paxmux.tools.leftovers import Leftovers
from paxmux.tools.linear import Problem, check
from paxmux.tools.node_handle import NodeHandle
from paxmux.tools.progress import Steps
from paxmux.tools.register_clients import Called, RegisterSpec, register_name
from paxmux.tools.register_machine import ASK_MARK, Registers, get, read_found, read_mark
from paxmux.tools.replicas import compare

MACHINE = "paxmux.tools.register_machine:Registers"
NETWORK = "paxmux.tools.cuttable_network:CuttableNetwork"
SERVE_S = 30.0
"""So long after everything is back each node must serve."""
LOOK_EVERY_S = 0.02
READ_TIMEOUT_S = 5.0
VIOLATIONS_MAX = 20
"""Violations that are told in words; the others are only counted."""


class RegisterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    seconds: float
    seed: int
    groups: int = 8
    workers: tuple[int, ...] = (1, 2, 3)
    """Of each node."""
    clients: int = 8
    """On each node."""
    keys: int = 2
    """Registers of each group."""
    pause_max_ms: int = 20
    timeout_s: float = 2.0
    router: str = "inline"
    secret: bool = False
    """The nodes authenticate each other."""
    faults: tuple[str, ...] = ()
    """Words of the kinds of rounds that are wanted; none: all."""
    consistency: Literal["local", "linearizable"] = "linearizable"
    """Of the clients' gets. With `local` the history is not linearizable, and should be found so."""


class RegisterChaos:
    """One run. Used in one event loop only."""

    def __init__(
        self,
        options: RegisterOptions,
        folder: Path,
        steps: Steps,
        *,
        machines: Sequence[str] = (),
        more: dict[str, Any] | None = None,
        hosts: Sequence[Host] = (),
    ) -> None:
        """
        Args:
            options: of the run.
            folder: exists, and is empty.
            steps: told what is done.
            machines: more state machines, by dotted path.
            more: top-level keys of the configs, beside or instead of those that are set here.
            hosts: of the nodes; none: free ports of 127.0.0.1.
        """
        self._options = options
        self._steps = steps
        self._faults = Faults(
            options.seed,
            len(options.workers),
            cuts=len(options.workers) > 1,
            router_process=options.router == "process",
            only=options.faults,
        )
        self._clients: dict[str, int] = {}
        """Node -> its first client."""
        self._served: dict[str, set[str]] = {}
        """Node -> what kinds of calls were answered since all was back."""
        self.history = History(self.violate)
        self.violations = 0
        self.examples: list[str] = []
        self.rounds: Counter[str] = Counter()
        """Kind of round -> how many there were."""
        self.recovery_max_s = 0.0
        """The longest that a node took to serve every kind of call after everything was back."""
        self.unseen = 0
        """Operations that a killed node's clients did not tell of, and others saw."""
        self.problem: Problem | None = None
        self.left_behind: list[str] = []
        cuts_file = folder / "cuts"
        self._cluster = Cluster(
            folder,
            workers=options.workers,
            groups=options.groups,
            machines=[MACHINE, *machines],
            router=options.router,
            secret=options.secret,
            options={**PATIENT, "network": {"plugin": NETWORK}, **(more or {})},
            on_event=self._on_event,
            environment={cuttable_network.CUTS_FILE: str(cuts_file.absolute())},
            hosts=hosts,
        )
        self.hands = Hands(
            self._cluster, self._call, self.violate, cuts_file=cuts_file, on_kill=self._on_kill
        )

    @property
    def sound(self) -> bool:
        """Whether everything held, once `run` has returned."""
        return self.problem is None and not self.violations and not self.left_behind

    def violate(self, words: str) -> None:
        """Note a violation."""
        self.violations += 1
        if len(self.examples) < VIOLATIONS_MAX:
            self.examples.append(words)

    async def run(self) -> None:
        """Rounds until the time is over, at least one; then the check.

        Raises:
            PaxmuxError: a node died by itself, does not come back, or does not stop cleanly.
        """
        cluster, leftovers = self._cluster, Leftovers()
        self._steps.step("starting the cluster")
        try:
            async with cluster:
                await asyncio.gather(*(self._call(node) for node in cluster.nodes))
                until = time.monotonic() + self._options.seconds
                while not self.rounds or (time.monotonic() < until and not self.violations):
                    await self._round()
                self._steps.step("reading every register at every node")
                await asyncio.gather(*(node.ask("write_halt") for node in cluster.nodes))
                await asyncio.gather(*(self._read_all(node) for node in cluster.nodes))
                await self._compare()
                self._steps.step("stopping the cluster")
                await cluster.stop()
        finally:
            self.hands.let_go()
        self.left_behind = await leftovers.found(cluster.mark)
        self.unseen = self.history.complete()
        self._steps.step(f"checking {len(self.history.operations):,} operations")
        self.problem = check(self.history.operations)

    async def _round(self) -> None:
        plan, outcomes = self._faults.next(), self.history.outcomes
        number, before = self.rounds.total() + 1, outcomes[Code.OK]
        self._steps.step(f"round {number}: {plan.name}", plain=False)
        await self.hands.carry_out(plan.faults)
        await self.hands.bring_back()
        recovery_s = await self._all_serve()
        self.rounds[plan.name] += 1
        self._steps.say(
            f"round {number}: {plan.name}: {outcomes[Code.OK] - before:,} operations succeeded, "
            f"all nodes served again after {recovery_s:.1f} s"
        )

    async def _all_serve(self) -> float:
        """Wait until each node has answered every kind of call; returns how long that took."""
        self._served = {node.name: set() for node in self._cluster.nodes}
        begin = time.monotonic()
        while missing := {name: kinds for name, kinds in self._served.items() if len(kinds) < 3}:
            if time.monotonic() - begin > SERVE_S:
                for name, kinds in missing.items():
                    never = ", ".join(sorted({"get", "put", "cas"} - kinds))
                    self.violate(f"{name}: no {never} succeeds within {SERVE_S:.0f} s after all was back")
                break
            await asyncio.sleep(LOOK_EVERY_S)
        took_s = time.monotonic() - begin
        self.recovery_max_s = max(self.recovery_max_s, took_s)
        return took_s

    async def _call(self, node: NodeHandle) -> None:
        """Let a node's clients begin."""
        options = self._options
        first = self._clients[node.name] = self.history.new_clients(options.clients)
        spec = RegisterSpec(
            clients=options.clients,
            first_client=first,
            groups=options.groups,
            keys=options.keys,
            seed=options.seed,
            pause_max_ms=options.pause_max_ms,
            timeout_s=options.timeout_s,
            consistency=options.consistency,
        )
        await node.ask("call_registers", spec=msgspec.to_builtins(spec))

    def _on_kill(self, node: NodeHandle) -> None:
        first = self._clients.pop(node.name, None)
        if first is not None:
            self.history.gone(first, self._options.clients)

    def _on_event(self, node: NodeHandle, event: dict[str, Any]) -> None:
        called = msgspec.convert(event["called"], Called)
        self.history.take(called)
        if called.code == Code.OK and node.name in self._served:
            self._served[node.name].add(called.kind)

    # The end

    async def _read_all(self, node: NodeHandle) -> None:
        options = self._options
        keys = [(group, place) for group in range(options.groups) for place in range(options.keys)]
        await asyncio.gather(*(self._read(node, group, register_name(group, place)) for group, place in keys))

    async def _read(self, node: NodeHandle, group: int, key: str) -> None:
        """A linearizable read that succeeds: what was acknowledged must be there."""
        deadline = time.monotonic() + SERVE_S
        while True:
            invoked_ns = monotonic_ns()
            try:
                (answer,) = await node.ask(
                    "query",
                    groups=[group],
                    request=get(key),
                    smid=Registers.smid,
                    timeout_s=READ_TIMEOUT_S,
                    consistency="linearizable",
                )
            except PaxmuxError as error:
                if time.monotonic() > deadline:
                    self.violate(f"{node.name} does not read {key}: {error}")
                    return
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            self.history.take_read(key, read_found(answer), invoked_ns, monotonic_ns())
            return

    async def _compare(self) -> None:
        verdict = await compare(
            self._cluster.nodes, self._options.groups, smid=Registers.smid, request=ASK_MARK, read=read_mark
        )
        for difference in verdict.differences:
            self.violate(difference)
