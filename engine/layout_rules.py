"""Which layouts make sense, apart from the machine that they run on.

Decides whether the options put every group on exactly one worker. Never looks at CPUs: a config is
right or wrong the same way wherever it is read; `shards/layout.py` asks the machine.
"""

from __future__ import annotations

from collections.abc import Iterator

from paxmux.engine.errors import ConfigError
from paxmux.engine.groups import parse_groups
from paxmux.engine.options import LayoutOptions
from paxmux.engine.problem import Problem


def fixed_workers(layout: LayoutOptions) -> int | None:
    """The number of workers that the options alone tell; None if the machine decides."""
    if layout.workers != "auto":
        return layout.workers
    return len(layout.groups) if layout.strategy == "explicit" else None


def layout_problems(layout: LayoutOptions, group_count: int) -> Iterator[Problem]:
    """Everything wrong with a layout of `group_count` groups; types are already right."""
    workers = fixed_workers(layout)
    if layout.workers != "auto" and layout.workers > group_count:
        yield Problem(
            ("layout", "workers"),
            f"expected at most one worker per group ({group_count}), got {layout.workers}",
        )
    if layout.strategy == "explicit":
        yield from _explicit_problems(layout, group_count)
    elif layout.groups:
        yield Problem(
            ("layout", "groups"),
            f"expected no groups with strategy `{layout.strategy}`: they belong to `explicit`",
        )
    for worker, cpus in layout.pin.items():
        yield from _pin_problems(worker, cpus, workers)


def _explicit_problems(layout: LayoutOptions, group_count: int) -> Iterator[Problem]:
    workers = fixed_workers(layout)
    host: dict[int, int] = {}
    readable = True
    for worker, text in layout.groups.items():
        path = ("layout", "groups", worker)
        if workers is not None and not 0 <= worker < workers:
            yield Problem(path, f"expected workers of 0 .. {workers - 1}, got worker {worker}")
        try:
            groups = parse_groups(text, group_count)
        except ConfigError as error:
            readable = False
            yield Problem(path, str(error))
            continue
        twice = [group for group in groups if group in host]
        if twice:
            yield Problem(
                path,
                f"expected each group on exactly one worker, got group {twice[0]} on worker "
                f"{host[twice[0]]} and on worker {worker}",
            )
        host.update(dict.fromkeys(groups, worker))
    empty = [worker for worker in range(workers or 0) if worker not in layout.groups]
    if empty:
        yield Problem(("layout", "groups"), f"expected groups for worker {empty[0]}, got none")
    missing = [group for group in range(group_count) if group not in host]
    if missing and readable:
        yield Problem(
            ("layout", "groups"),
            f"expected each group on exactly one worker, got group {missing[0]} on none",
        )


def _pin_problems(worker: int, cpus: list[int], workers: int | None) -> Iterator[Problem]:
    path = ("layout", "pin", worker)
    if worker < 0 or (workers is not None and worker >= workers):
        most = "" if workers is None else f" .. {workers - 1}"
        yield Problem(path, f"expected workers from 0{most}, got worker {worker}")
    if not cpus:
        yield Problem(path, "expected at least one CPU, got an empty list")
    for cpu in cpus:
        if cpu < 0 or cpus.count(cpu) > 1:
            yield Problem(path, f"expected CPU numbers from 0, each once, got {cpus}")
            break
