"""The layout: which worker hosts which group, and on which CPUs.

Decides it once, from the options and the machine; both directions are then look-ups. Every group is
on exactly one worker, or there is no layout. Never moves anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from paxmux.engine.groups import parse_groups
from paxmux.engine.layout_rules import fixed_workers, layout_problems
from paxmux.engine.options import LayoutOptions
from paxmux.engine.problem import Problem, raise_for
from paxmux.shards.cpus import allowed_cpus, parallel_cpus


class Layout:
    """Where each group lives. Immutable; made by `Layout.build`."""

    __slots__ = ("_cpus", "_groups", "_worker_of")

    @classmethod
    def of_hosts(cls, hosts: Sequence[int], workers: int, cpus: dict[int, tuple[int, ...]]) -> Layout:
        """The layout in which group g is on worker `hosts[g]`; some workers may host none."""
        groups = [tuple(g for g, host in enumerate(hosts) if host == worker) for worker in range(workers)]
        return cls(groups, cpus)

    def __init__(self, groups: list[tuple[int, ...]], cpus: dict[int, tuple[int, ...]]) -> None:
        """`groups`: the groups of each worker, a partition of 0 .. count-1. `cpus`: pinned workers."""
        self._groups = tuple(groups)
        self._cpus = dict(cpus)
        host = {group: worker for worker, own in enumerate(groups) for group in own}
        assert len(host) == sum(map(len, groups)), "a group on two workers"
        assert host.keys() == set(range(len(host))), "a group on no worker"
        self._worker_of = tuple(host[group] for group in range(len(host)))

    @classmethod
    def build(
        cls,
        options: LayoutOptions,
        group_count: int,
        *,
        cpus: Collection[int] | None = None,
        parallel: int | None = None,
    ) -> Layout:
        """The layout of `group_count` groups on this machine.

        Args:
            options: already of the right types.
            group_count: at least 1.
            cpus: CPUs that may be pinned to; those of this process by default.
            parallel: CPUs that `workers: auto` counts; by default those that this process gets.

        Raises:
            ConfigError: names the key; a group on two workers or on none, a worker or a CPU that
                does not exist.
        """
        raise_for(layout_problems(options, group_count))
        workers = fixed_workers(options)
        if workers is None:
            workers = min(group_count, parallel_cpus() if parallel is None else parallel)
        usable = allowed_cpus() if cpus is None else frozenset(cpus)
        raise_for(_pin_problems(options, workers, usable))
        return cls(
            _assign(options, group_count, workers),
            {worker: tuple(sorted(pinned)) for worker, pinned in options.pin.items()},
        )

    @property
    def workers(self) -> int:
        """Number of workers; their indices go from 0 to workers-1."""
        return len(self._groups)

    @property
    def group_count(self) -> int:
        """Number of groups."""
        return len(self._worker_of)

    def groups_of(self, worker: int) -> tuple[int, ...]:
        """The groups of one worker, in ascending order; empty only after groups have moved."""
        return self._groups[worker]

    def worker_of(self, group: int) -> int:
        """The worker that hosts a group; IndexError if there is no such group."""
        if group < 0:
            raise IndexError(f"group {group}")
        return self._worker_of[group]

    def hosts(self) -> tuple[int, ...]:
        """For each group its worker."""
        return self._worker_of

    def cpus_of(self, worker: int) -> tuple[int, ...]:
        """CPUs that a worker is bound to; empty if it floats."""
        return self._cpus.get(worker, ())

    def fingerprint(self) -> str:
        """Equal for two layouts exactly if each group is on the same worker; CPUs do not count."""
        text = ",".join(map(str, self._worker_of))
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def _assign(options: LayoutOptions, group_count: int, workers: int) -> list[tuple[int, ...]]:
    match options.strategy:
        case "spread":
            return [tuple(range(worker, group_count, workers)) for worker in range(workers)]
        case "range":
            # Multiplied first, so that the runs differ by one group at most.
            cuts = [worker * group_count // workers for worker in range(workers + 1)]
            return [tuple(range(cuts[worker], cuts[worker + 1])) for worker in range(workers)]
        case "explicit":
            return [parse_groups(options.groups[worker], group_count) for worker in range(workers)]


def _pin_problems(options: LayoutOptions, workers: int, usable: frozenset[int]) -> list[Problem]:
    problems = []
    for worker, cpus in options.pin.items():
        path = ("layout", "pin", worker)
        if worker >= workers:
            problems.append(
                Problem(path, f"expected workers of 0 .. {workers - 1} (`auto` made {workers}), got {worker}")
            )
        unusable = [cpu for cpu in cpus if cpu not in usable]
        if unusable:
            have = ", ".join(map(str, sorted(usable)))
            problems.append(
                Problem(path, f"expected CPUs that this process may use ({have}), got CPU {unusable[0]}")
            )
    return problems
