"""What a seed decides before its run begins: cluster, options, load and faults.

Everything is drawn in one fixed order from the run's only random source, so a seed means the same
run for ever; what the command line overrides is put in afterwards. Never looks at a cluster.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import msgspec

from paxmux.engine.options import LayoutOptions, LimitOptions, ProposalOptions, StorageOptions, TimerOptions
from paxmux.shards.layout import Layout
from paxmux.tools.sim.politics import DRIFT_PPM, SMALL_DRIFT_PPM, Politics

NODES_MAX: Final = 7
GROUPS_MAX: Final = 8
VALUES_MIN: Final = 200
"""Values that every seed decides."""
KINDS_MIN: Final = 5
"""Kinds of fault that every seed injects."""

WIRE_FAULTS: Final = ("loss", "duplication", "reordering", "delay", "stale", "corruption")
"""Of single frames; each has a chance."""
STRIKES: Final = (
    "one_way_cut",
    "bridge",
    "worker_crash",
    "node_crash",
    "power_cut",
    "tail_flip",
    "synced_flip",
    "memory_flip",
    "lost_index",
    "wiped_disk",
    "full_disk",
    "failed_sync",
    "slow_disk",
    "worker_pause",
    "node_pause",
    "clock_drift",
    "clock_jump",
    "clean_stop",
)
"""Of a whole node, worker, disk or link; they strike one at a time, and may last."""
CONSEQUENCES: Final = ("lost_write", "cut_tail", "clock_restart")
"""Counted where a strike has them: unsynced writes that a power cut took, torn ones that recovery cut
off, and clocks that start anew with their machine."""
FAULTS: Final = WIRE_FAULTS + STRIKES

ALIASES: Final = {
    "crash": ("worker_crash", "node_crash", "power_cut"),
    "cut": ("one_way_cut", "bridge"),
    "pause": ("worker_pause", "node_pause"),
    "clock": ("clock_drift", "clock_jump"),
    "disk": ("tail_flip", "synced_flip", "lost_index", "wiped_disk", "full_disk", "failed_sync", "slow_disk"),
    "wire": WIRE_FAULTS,
}
"""Names on the command line for several kinds."""

_PEERS_NEEDED: Final = {**dict.fromkeys((*WIRE_FAULTS, "one_way_cut"), 2), "bridge": 3}
_MINORITY_NEEDED: Final = frozenset({"synced_flip", "memory_flip", "wiped_disk"})

SEGMENT_BYTES: Final = 64 << 10

NODES: Final = (1, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7)
PACES_MS: Final = (0.5, 1.0, 3.0, 3.0, 10.0, 40.0)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line overrides."""

    nodes: int | None = None
    groups: int | None = None
    proposals: int = VALUES_MIN
    faults: tuple[str, ...] | None = None
    changes: bool | None = None
    leases: bool | None = None

    def words(self) -> str:
        """As arguments of the command."""
        parts = []
        if self.nodes is not None:
            parts.append(f"--nodes {self.nodes}")
        if self.groups is not None:
            parts.append(f"--groups {self.groups}")
        if self.proposals != VALUES_MIN:
            parts.append(f"--proposals {self.proposals}")
        if self.faults is not None:
            parts.append(f"--faults {','.join(self.faults) or 'none'}")
        for name, asked in (("changes", self.changes), ("leases", self.leases)):
            if asked is not None:
                parts.append(f"--{name} {'yes' if asked else 'no'}")
        return " ".join(parts)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One seed's run."""

    seed: int
    nodes: int
    groups: int
    layouts: tuple[tuple[tuple[int, ...], ...], ...]
    """Node by node: the groups of each of its workers."""
    durable: bool
    """State machines keep what they executed over restarts."""
    faults: tuple[str, ...]
    chances: dict[str, float]
    """Of each wire fault that occurs, for each frame."""
    strike: float
    """Chance of a strike with each round of the load."""
    kinds_min: int
    values: int
    """To be decided at least."""
    pace_ms: float
    """Mean time between two rounds of the load."""
    callers: tuple[int, ...]
    readers: tuple[int, ...]
    """Who reads; `callers` propose."""
    burst: float
    """Chance that a round proposes much at once."""
    large: float
    """Chance that a value is large."""
    reads: float
    """Share of the requests that only read."""
    latency_us: tuple[int, int]
    """Of a frame between two nodes, at least and at most."""
    sync_us: int
    """Of a healthy disk, on average."""
    drift: tuple[int, ...]
    """Node by node: how fast its clock runs, in thousandths."""
    replay_count: int
    """Decided values that an applier replays in a slice."""
    serve_count: int
    """Decided values read for a lagging peer in a turn."""
    founders: int
    """The first so many nodes are the members at first; the others learn, until they are added."""
    changes: float
    """Chance, with each round of the load, that somebody wants other members in a group; 0: nobody does."""
    lease_ms: int
    """Of the masters of all groups; 0: there are none."""
    drift_ppm: int
    """What a lease allows for clocks of different rates."""
    drops: float
    """Chance, with each round of the load, that a master gives its lease back."""
    timers: TimerOptions
    proposals: ProposalOptions
    limits: LimitOptions
    storage: StorageOptions

    def words(self) -> str:
        """For whoever reads a failing run."""
        layouts = " ".join(
            f"{node}:{'|'.join(','.join(map(str, groups)) for groups in layout)}"
            for node, layout in enumerate(self.layouts, 1)
        )
        chances = " ".join(f"{name}={chance:g}" for name, chance in self.chances.items())
        changed = [
            f"{name}={getattr(options, name)}"
            for options in (self.timers, self.proposals, self.limits, self.storage)
            for name in options.__struct_fields__
            if getattr(options, name) != getattr(type(options)(), name)
        ]
        return "\n".join(
            (
                f"{self.nodes} nodes, {self.groups} groups, on workers {layouts}",
                f"durable machines: {self.durable}; callers: {self.callers}; "
                f"readers: {self.readers}; "
                f"a round of load each {self.pace_ms:g} ms; sync {self.sync_us} us; "
                f"frames take {self.latency_us[0]}..{self.latency_us[1]} us",
                f"founders: {self.founders}; other members: {self.changes:g} of the rounds; leases: "
                f"{self.lease_ms} ms for a drift of {self.drift_ppm} ppm, given back: {self.drops:g}",
                f"faults: {', '.join(self.faults) or 'none'}; {chances}",
                f"options: {' '.join(changed) or 'as by default'}",
            )
        )


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Kinds of fault, from kinds and aliases, in their fixed order.

    Raises:
        ValueError: no such kind; the message lists those that exist.
    """
    wanted: set[str] = set()
    for name in names:
        if name == "none":
            continue
        if name not in ALIASES and name not in FAULTS:
            known = ", ".join((*ALIASES, *FAULTS))
            raise ValueError(f"expected kinds of fault ({known}), got {name!r}")
        wanted.update(ALIASES.get(name, (name,)))
    return tuple(name for name in FAULTS if name in wanted)


def draw(seed: int, rng: random.Random, asked: Asked) -> Plan:
    """The plan of a seed; `rng` is the run's source, and goes on to drive the run."""
    politics = Politics(seed, asked.changes, asked.leases)
    drawn = politics.nodes(rng.choice(NODES))
    nodes = drawn if asked.nodes is None else asked.nodes
    drawn = rng.choice((1, 2, 2, 3, 4))
    groups = drawn if asked.groups is None else asked.groups
    faults = _faults(rng, nodes, asked.faults)
    chances = {
        name: rng.choice((0.02, 0.1, 0.3) if name in ("loss", "duplication", "reordering") else (0.01, 0.05))
        for name in WIRE_FAULTS
    }
    everybody = tuple(range(1, nodes + 1))
    forward = rng.random() < 0.55
    callers = rng.choice((everybody, everybody, everybody[:1], everybody[:2]))
    low = rng.choice((20, 50, 50, 1000, 20_000))
    small = rng.random() < 0.25
    layouts = _layouts(rng, nodes, groups)
    durable = rng.random() < 0.25
    plan = Plan(
        seed=seed,
        nodes=nodes,
        groups=groups,
        layouts=layouts,
        durable=durable,
        faults=faults,
        chances={name: chance for name, chance in chances.items() if name in faults},
        strike=rng.choice((0.1, 0.2, 0.4)),
        kinds_min=KINDS_MIN if asked.faults is None else 0,
        values=asked.proposals,
        pace_ms=rng.choice(PACES_MS),
        callers=callers,
        readers=rng.choice((everybody, everybody, callers)),
        burst=rng.choice((0.0, 0.05, 0.2)),
        large=rng.choice((0.0, 0.0, 0.01)),
        reads=rng.choice((0.1, 0.3, 0.5)),
        latency_us=(low, low * rng.choice((2, 5))),
        sync_us=rng.choice((30, 100, 100, 1000)),
        drift=tuple(rng.randint(900, 1100) if "clock_drift" in faults else 1000 for _ in range(nodes)),
        replay_count=rng.choice((256, 1)),
        serve_count=rng.choice((1000, 1000, 3)),
        timers=TimerOptions(
            prepare_first_ms=rng.choice((2000, 2000, 100)),
            accept_first_ms=rng.choice((1000, 1000, 30)),
            notice_ms=rng.choice((0, 2, 2, 10)),
            leftover_ms=rng.choice((500, 500, 100)),
            ask_retry_ms=rng.choice((200, 200, 50)),
        ),
        proposals=ProposalOptions(
            forward=forward,
            forward_ms=rng.choice((200, 200, 20)),
            attempts=0 if forward else rng.choice((0, 1, 3)),
        ),
        limits=LimitOptions(
            batch_max_count=2 if small else 512,
            batch_max_bytes=400 if small else 1_048_576,
            catch_up_max_bytes=rng.choice((1_048_576, 65_536, 300)),
        ),
        storage=_storage(seed, durable and not politics.changes, faults),
        founders=politics.founders(nodes),
        changes=politics.changes,
        lease_ms=0,
        drift_ppm=DRIFT_PPM if "clock_drift" in faults else SMALL_DRIFT_PPM,
        drops=politics.drops,
    )
    return msgspec.structs.replace(plan, lease_ms=politics.lease_ms(plan.latency_us[1]))


def planned(seed: int, asked: Asked) -> Plan:
    """The plan of a seed, for whoever wants to read it."""
    return draw(seed, random.Random(seed), asked)


def possible(nodes: int) -> tuple[str, ...]:
    """The kinds of fault that a cluster of so many nodes can have."""
    spare = nodes - (nodes // 2 + 1)
    return tuple(
        name
        for name in FAULTS
        if nodes >= _PEERS_NEEDED.get(name, 1) and (spare or name not in _MINORITY_NEEDED)
    )


def _faults(rng: random.Random, nodes: int, asked: tuple[str, ...] | None) -> tuple[str, ...]:
    can = possible(nodes)
    share = rng.choice((0.3, 0.5, 0.7))
    drawn = [name for name in can if rng.random() < share]
    others = [name for name in can if name not in drawn]
    rng.shuffle(others)
    # One or two more than are needed: some strikes find nothing to strike. Those that take a node away for
    # good count as one: a cluster of three has no more than one to lose.
    missing = KINDS_MIN + 2 - len(set(drawn) - _MINORITY_NEEDED) - bool(_MINORITY_NEEDED & set(drawn))
    drawn += others[: max(0, missing)]
    return tuple(name for name in can if (name in drawn if asked is None else name in asked))


def _storage(seed: int, durable: bool, faults: Sequence[str]) -> StorageOptions:
    """What is kept of the logs: little, where nobody can ever need more. Who lost a disk, or joins, needs it
    all."""
    if not durable or "wiped_disk" in faults or "synced_flip" in faults:
        return StorageOptions(segment_bytes=SEGMENT_BYTES)
    return StorageOptions(segment_bytes=SEGMENT_BYTES // 4, keep_instances=(0, 3, 20)[seed % 3])


def _layouts(rng: random.Random, nodes: int, groups: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    alike = rng.random() < 0.3
    layouts: list[tuple[tuple[int, ...], ...]] = []
    for _ in range(nodes):
        options = LayoutOptions(
            workers=min(groups, rng.choice((1, 1, 2, 3))),
            strategy="range" if rng.random() < 0.5 else "spread",
        )
        layout = Layout.build(options, groups, cpus=(), parallel=1)
        layouts.append(tuple(layout.groups_of(worker) for worker in range(layout.workers)))
    return tuple(layouts[:1] * nodes if alike else layouts)
