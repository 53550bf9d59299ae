"""What is done to a cluster, drawn from a seed: the plan of each round of `paxmux chaos`.

Decides which process is hit by what, and when. Knows no process: victims are numbers, so that the
same seed always makes the same plan. How the machine schedules what follows is another matter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from paxmux.engine.errors import ConfigError


class Action(Enum):
    """What happens to a victim."""

    KILL_CHILD = "kill -9 of a worker"
    KILL_NODE = "kill -9 of a node"
    STOP_NODE = "clean stop of a node"
    START_NODE = "start of a node"
    FREEZE_CHILD = "SIGSTOP of a worker"
    FREEZE_NODE = "SIGSTOP of a node"
    FREEZE_ROUTER = "SIGSTOP of a router"
    KILL_WORKER = "kill -9 of the same worker"
    STOP_WORKER = "SIGSTOP of a worker, for good"
    DAMAGE_RING = "damage to a ring of a worker"
    KILL_ROUTER = "kill -9 of a router"
    THAW = "SIGCONT to a node and its workers"
    CUT = "cut of connections"
    HEAL = "end of all cuts"


class Fault(NamedTuple):
    """One action, `at_s` after the round began."""

    at_s: float
    action: Action
    node: int
    child: int = 0
    """For a worker: a number that is taken modulo the node's children, or its workers."""
    cuts: tuple[tuple[int, int], ...] = ()
    """For a cut: the directions (from, to) that let nothing pass; all others do."""


class Plan(NamedTuple):
    """One round."""

    name: str
    faults: list[Fault]
    """In order of time. Afterwards every node is started that is down, and thawed if it is frozen, and
    every cut ends."""


class Faults:
    """Plans without end, drawn from a seed."""

    def __init__(
        self,
        seed: int,
        nodes: int,
        *,
        cuts: bool = False,
        router_process: bool = False,
        only: Sequence[str] = (),
    ) -> None:
        """
        Args:
            seed: of everything that is drawn.
            nodes: of the cluster.
            cuts: its network can be cut.
            router_process: its routers are processes of their own.
            only: words of which the name of each plan has at least one; none: all plans.

        Raises:
            ConfigError: no plan has one of the words in its name.
        """
        self._rng = random.Random(f"paxmux chaos {seed}")
        self._nodes = nodes
        self._kinds = {
            "a worker killed": self._worker,
            "workers killed again and again": self._workers,
            "a node killed": self._node,
            "two nodes killed": self._two_nodes,
            "all nodes killed": self._all_nodes,
            "a node killed, and again while it starts": self._relapse,
            "a node or worker frozen": self._freeze,
            "one frozen, another killed": self._frozen_and_killed,
            "a node stopped and started": self._clean_stop,
            "a worker in a crash loop": self._crash_loop,
            "a worker stopped until it is replaced": self._stopped,
            "a worker that stutters": self._stutter,
            "a ring damaged": self._damage,
        }
        if router_process:
            self._kinds["a router killed"] = self._kill_router
        if cuts:
            self._kinds |= {
                "a router frozen": self._freeze_router,
                "one direction cut": self._one_way,
                "two nodes cut from each other": self._two_way,
                "a node cut off": self._cut_off,
                "a node that is not heard, or hears nothing": self._half_cut_off,
                "cuts that change": self._changing_cuts,
                "a node cut off, another killed": self._cut_off_and_killed,
                "a node cut off, another frozen": self._cut_off_and_frozen,
            }
        for word in only:
            if not any(word in name for name in self._kinds):
                names = ", ".join(sorted(self._kinds))
                raise ConfigError(f"--faults: expected words from {names}; got {word!r}")
        if only:
            self._kinds = {
                name: plan for name, plan in self._kinds.items() if any(word in name for word in only)
            }
        self._queue: list[str] = []

    def next(self) -> Plan:
        """The next round's plan. Every kind comes once before any comes again."""
        if not self._queue:
            self._queue = self._rng.sample(sorted(self._kinds), len(self._kinds))
        name = self._queue.pop()
        return Plan(name, sorted(self._kinds[name](), key=lambda fault: fault.at_s))

    def _at(self, low_s: float = 0.0, high_s: float = 0.6) -> float:
        return round(self._rng.uniform(low_s, high_s), 3)

    def _pick(self, count: int) -> list[int]:
        return self._rng.sample(range(self._nodes), min(count, self._nodes))

    def _child(self) -> int:
        return self._rng.randrange(1 << 16)

    def _worker(self) -> list[Fault]:
        (node,) = self._pick(1)
        return [Fault(self._at(), Action.KILL_CHILD, node, self._child())]

    def _workers(self) -> list[Fault]:
        count = self._rng.randint(2, 5)
        return [
            Fault(self._at(0.0, 1.5), Action.KILL_CHILD, self._rng.randrange(self._nodes), self._child())
            for _ in range(count)
        ]

    def _node(self) -> list[Fault]:
        (node,) = self._pick(1)
        kill = self._at()
        return [
            Fault(kill, Action.KILL_NODE, node),
            Fault(kill + self._at(0.0, 1.5), Action.START_NODE, node),
        ]

    def _two_nodes(self) -> list[Fault]:
        # Sometimes at once, sometimes one after the other; they come back in any order.
        faults = []
        for node in self._pick(2):
            kill = self._at(0.0, self._rng.choice((0.0, 0.6)))
            faults += [
                Fault(kill, Action.KILL_NODE, node),
                Fault(kill + self._at(0.1, 1.5), Action.START_NODE, node),
            ]
        return faults

    def _all_nodes(self) -> list[Fault]:
        kill = self._at()
        return [Fault(kill, Action.KILL_NODE, node) for node in range(self._nodes)]

    def _relapse(self) -> list[Fault]:
        (node,) = self._pick(1)
        kill = self._at()
        start = kill + self._at(0.0, 0.3)
        # Within the time that an interpreter takes to start, a worker to recover, a node to serve.
        again = start + self._at(0.1, 0.9)
        return [
            Fault(kill, Action.KILL_NODE, node),
            Fault(start, Action.START_NODE, node),
            Fault(again, Action.KILL_NODE, node),
        ]

    def _freeze(self) -> list[Fault]:
        (node,) = self._pick(1)
        begin = self._at()
        action = self._rng.choice((Action.FREEZE_NODE, Action.FREEZE_CHILD))
        return [
            Fault(begin, action, node, self._child()),
            Fault(begin + self._at(0.2, 1.5), Action.THAW, node),
        ]

    def _frozen_and_killed(self) -> list[Fault]:
        frozen, killed = self._pick(2) if self._nodes > 1 else (0, 0)
        begin = self._at()
        return [
            Fault(begin, Action.FREEZE_NODE, frozen),
            Fault(begin + self._at(0.0, 0.4), Action.KILL_NODE, killed),
            Fault(begin + self._at(0.5, 1.5), Action.THAW, frozen),
        ]

    def _clean_stop(self) -> list[Fault]:
        (node,) = self._pick(1)
        stop = self._at()
        return [
            Fault(stop, Action.STOP_NODE, node),
            Fault(stop + self._at(0.0, 1.0), Action.START_NODE, node),
        ]

    def _crash_loop(self) -> list[Fault]:
        (node,) = self._pick(1)
        begin, worker = self._at(), self._child()
        return [
            Fault(round(begin + 0.35 * turn, 3), Action.KILL_WORKER, node, worker)
            for turn in range(self._rng.randint(4, 8))
        ]

    def _stopped(self) -> list[Fault]:
        (node,) = self._pick(1)
        begin = self._at()
        # Until the supervisor has given it up; whoever follows it runs.
        return [
            Fault(begin, Action.STOP_WORKER, node, self._child()),
            Fault(begin + self._at(3.5, 4.0), Action.THAW, node),
        ]

    def _stutter(self) -> list[Fault]:
        (node,) = self._pick(1)
        at, worker, faults = self._at(), self._child(), []
        for _ in range(self._rng.randint(5, 15)):
            faults.append(Fault(round(at, 3), Action.FREEZE_CHILD, node, worker))
            at += self._at(0.02, 0.15)
            faults.append(Fault(round(at, 3), Action.THAW, node))
            at += self._at(0.02, 0.1)
        return faults

    def _damage(self) -> list[Fault]:
        (node,) = self._pick(1)
        return [
            Fault(self._at(0.0, 1.5), Action.DAMAGE_RING, node, self._child())
            for _ in range(self._rng.randint(1, 3))
        ]

    def _kill_router(self) -> list[Fault]:
        (node,) = self._pick(1)
        begin = self._at()
        return [
            Fault(begin + 0.6 * turn, Action.KILL_ROUTER, node) for turn in range(self._rng.randint(1, 3))
        ]

    def _freeze_router(self) -> list[Fault]:
        (node,) = self._pick(1)
        begin = self._at()
        return [
            Fault(begin, Action.FREEZE_ROUTER, node),
            Fault(begin + self._at(0.2, 2.5), Action.THAW, node),
        ]

    # Cuts

    def _cut(self, *cuts: tuple[int, int], low_s: float = 0.5, high_s: float = 4.0) -> list[Fault]:
        """Directions that are cut for a while."""
        begin = self._at()
        return [
            Fault(begin, Action.CUT, cuts[0][0], cuts=cuts),
            Fault(begin + self._at(low_s, high_s), Action.HEAL, cuts[0][0]),
        ]

    def _around(self, node: int, ways: tuple[str, ...] = ("in", "out")) -> list[tuple[int, int]]:
        """The directions to a node, from it, or both."""
        others = [other for other in range(self._nodes) if other != node]
        cuts = [(other, node) for other in others] if "in" in ways else []
        return cuts + ([(node, other) for other in others] if "out" in ways else [])

    def _pair(self) -> tuple[int, int]:
        sender, receiver = self._pick(2)
        return sender, receiver

    def _one_way(self) -> list[Fault]:
        return self._cut(self._pair())

    def _two_way(self) -> list[Fault]:
        one, other = self._pair()
        return self._cut((one, other), (other, one))

    def _cut_off(self) -> list[Fault]:
        (node,) = self._pick(1)
        return self._cut(*self._around(node))

    def _half_cut_off(self) -> list[Fault]:
        (node,) = self._pick(1)
        return self._cut(*self._around(node, (self._rng.choice(("in", "out")),)))

    def _changing_cuts(self) -> list[Fault]:
        # Any set of directions may be cut, and each lasts shorter than any timeout.
        every = [(a, b) for a in range(self._nodes) for b in range(self._nodes) if a != b]
        at, faults = self._at(), []
        for _ in range(self._rng.randint(4, 10)):
            cuts = tuple(self._rng.sample(every, self._rng.randint(1, len(every) // 2)))
            faults.append(Fault(round(at, 3), Action.CUT, cuts[0][0], cuts=cuts))
            at += self._at(0.1, 0.9)
        return [*faults, Fault(round(at, 3), Action.HEAL, faults[0].node)]

    def _cut_off_and_killed(self) -> list[Fault]:
        cut, killed = self._pair()
        faults = self._cut(*self._around(cut), low_s=1.5)
        kill = faults[0].at_s + self._at(0.0, 1.0)
        return [
            *faults,
            Fault(kill, Action.KILL_NODE, killed),
            Fault(kill + self._at(0.1, 1.5), Action.START_NODE, killed),
        ]

    def _cut_off_and_frozen(self) -> list[Fault]:
        cut, frozen = self._pair()
        faults = self._cut(*self._around(cut), low_s=1.5)
        begin = faults[0].at_s + self._at(0.0, 1.0)
        return [
            *faults,
            Fault(begin, Action.FREEZE_NODE, frozen),
            Fault(begin + self._at(0.2, 2.0), Action.THAW, frozen),
        ]
