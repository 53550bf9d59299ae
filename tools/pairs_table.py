"""The runs of `tools/bench-pairs`: what is kept of each, and the table of medians. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from paxmux.tools.latency import LatencyMs
from paxmux.tools.repeats import Spread


class PairRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run."""

    setting: str
    version: str
    """`old` or `new`."""
    values_per_s: float
    latency_ms: LatencyMs
    cpu_us_per_value: float
    """Of all processes of all nodes, within the window."""
    longest_wait_by_p50: float | None
    """None where the version does not report it."""
    sound: bool
    """Valid, without errors, and its replicas agreed."""
    why_not: list[str]

    @classmethod
    def of(cls, setting: str, version: str, report: dict[str, Any]) -> PairRun:
        """What a report of `paxmux bench` says."""
        cpu_s = sum(sum(processes.values()) for processes in report["cpu_s"].values())
        values = report["values_per_s"] * report["settings"]["seconds"]
        why_not = [*report["invalid_because"], *report["differences"]]
        why_not += [f"{count} errors {code}" for code, count in report["errors"].items()]
        return cls(
            setting=setting,
            version=version,
            values_per_s=report["values_per_s"],
            latency_ms=msgspec.convert(report["latency_ms"], LatencyMs),
            cpu_us_per_value=round(cpu_s / values * 1e6, 3) if values else 0.0,
            longest_wait_by_p50=report.get("callers", {}).get("longest_wait_by_p50"),
            sound=report["consistent"] and not why_not,
            why_not=why_not,
        )


class Pairs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The result file."""

    programs: dict[str, str]
    """Version -> program."""
    common: list[str]
    settings: list[str]
    runs: list[PairRun]


def markdown(pairs: Pairs) -> str:
    """A line for each setting and version; with two versions, ratios new to old of the medians."""
    two = len(pairs.programs) > 1
    head = ["options", "version", "values/s", "p50 ms", "p99 ms", "CPU µs a value", "longest wait / p50"]
    rows = [_row(head), _row(["---"] * len(head))]
    for setting in pairs.settings:
        found = {
            name: [run for run in pairs.runs if (run.setting, run.version) == (setting, name)]
            for name in pairs.programs
        }
        for name, runs in found.items():
            if runs:
                rows.append(
                    _row([f"`{setting}`", name, *(_told(spread, digits) for spread, digits in figures(runs))])
                )
        if two and all(found.values()):
            ratios = [
                f"{new.median / old.median:.2f}"
                if new is not None and old is not None and old.median
                else "-"
                for (new, _), (old, _) in zip(figures(found["new"]), figures(found["old"]), strict=True)
            ]
            rows.append(_row(["", "new / old", *ratios]))
    said = [f"* {run.version} `{run.setting}`: {why}" for run in pairs.runs for why in run.why_not]
    return "\n".join([*rows, "", *said]).rstrip() + "\n"


def figures(runs: list[PairRun]) -> list[tuple[Spread | None, int]]:
    """(figure, digits after the point) of each column, over at least one run."""
    waits = [run.longest_wait_by_p50 for run in runs if run.longest_wait_by_p50 is not None]
    return [
        (Spread.of(run.values_per_s for run in runs), 0),
        (Spread.of(run.latency_ms["p50"] for run in runs), 2),
        (Spread.of(run.latency_ms["p99"] for run in runs), 2),
        (Spread.of(run.cpu_us_per_value for run in runs), 1),
        (Spread.of(waits) if waits else None, 1),
    ]


def _told(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "-"
    return f"**{spread.median:,.{digits}f}** ({spread.min:,.{digits}f} … {spread.max:,.{digits}f})"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
