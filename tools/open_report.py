"""What the report of an open-loop run says: the sums, and the table of intervals.

Decides which rows count. Counts and latencies are those of all requests that were due within the measured
time, however late their answers came; `qps` and `values_per_s` count the answers that came within it. Errors
count at any time. Pure: it knows no clock and no process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paxmux.tools.latency import Latencies
from paxmux.tools.open_load import OpenResult
from paxmux.tools.process_samples import Sample
from paxmux.tools.time_series import Row, latencies_of, merge

SHORT_S = 10.0
SHORT_INTERVAL_S = 0.1
MAX_ROWS = 3600


def interval_of(seconds: float) -> float:
    """Length of a row: 100 ms in a short run, else a second, or more where there would be too many."""
    if seconds <= SHORT_S:
        return SHORT_INTERVAL_S
    return max(1.0, float(-int(-seconds // MAX_ROWS)))


def answers(results: list[OpenResult], interval_s: float, seconds: float) -> dict[str, Any]:
    """The keys that the report of a closed loop has too, of all loads together."""
    rows = merge([result.rows for result in results])
    measured = [row for row in rows if row.index >= 0]
    # Of an interval that the end of the measured time cuts no rate can be told.
    whole = [row for row in measured if (row.index + 1) * interval_s <= seconds + 1e-6]
    errors: dict[str, int] = {}
    for row in rows:
        for code, count in row.errors.items():
            errors[str(code)] = errors.get(str(code), 0) + count
    length_s = len(whole) * interval_s
    ok = sum(row.completed for row in whole)
    values = sum(row.completed_values for row in whole)
    return {
        "qps": round(ok / length_s, 1) if whole else 0.0,
        "values_per_s": round(values / length_s, 1) if whole else 0.0,
        "ok": ok,
        "errors": errors,
        "latency_ms": latencies_of(measured, "latencies", "read_latencies").summary_ms(),
    }


def open_loop(
    results: list[OpenResult], seconds: float, hosts: list[int], weights: list[float]
) -> dict[str, Any]:
    """The key `open_loop`: what was offered, and what became of it.

    Args:
        results: of all loads.
        seconds: the measured time.
        hosts: the worker of each group.
        weights: the share of each group in the load.
    """
    rows = [row for row in merge([result.rows for result in results]) if row.index >= 0]
    late = Latencies()
    for result in results:
        late.take(**result.late)
    counts = {
        name: sum(getattr(row, name) for row in rows)
        for name in ("offered", "not_sent", "answered", "refused", "timed_out", "failed")
    }
    groups: dict[int, list[int]] = {}
    for row in rows:
        for group, each in row.groups.items():
            groups[group] = [have + more for have, more in zip(groups.get(group, [0] * 3), each, strict=True)]
    all_latencies = latencies_of(rows, "latencies", "read_latencies")
    return {
        **counts,
        "admitted": counts["offered"] - counts["not_sent"] - counts["refused"],
        "retries": 0,
        "unmatched": sum(result.unmatched for result in results),
        "offered_per_s": round(counts["offered"] / seconds, 1),
        "late_ms": late.summary_ms(),
        "proposals_ms": latencies_of(rows, "latencies").summary_ms(),
        "reads_ms": latencies_of(rows, "read_latencies").summary_ms(),
        "latency_histogram": [[upper_ns / 1e6, count] for upper_ns, count in all_latencies.bars()],
        "groups": [
            {
                "group": group,
                "worker": worker,
                "weight": round(weight, 6),
                **dict(zip(("offered", "answered", "refused"), groups.get(group, [0] * 3), strict=True)),
            }
            for group, (worker, weight) in enumerate(zip(hosts, weights, strict=True))
        ],
    }


def series(
    results: list[OpenResult], samples: Mapping[int, dict[str, Sample]], interval_s: float
) -> list[dict[str, Any]]:
    """The key `series`: a document for each interval; see tools/time_series.py for what counts where."""
    return [
        _line(row, samples.get(row.index, {}), interval_s)
        for row in merge([result.rows for result in results])
    ]


def _line(row: Row, samples: dict[str, Sample], interval_s: float) -> dict[str, Any]:
    latencies = latencies_of([row], "latencies", "read_latencies")
    summary = latencies.summary_ms() if latencies.count else None
    return {
        "t_s": round(row.index * interval_s, 3),
        "length_s": interval_s,
        "offered": row.offered,
        "not_sent": row.not_sent,
        "answered": row.answered,
        "refused": row.refused,
        "timed_out": row.timed_out,
        "failed": row.failed,
        "errors": {str(code): count for code, count in row.errors.items()},
        "completed": row.completed,
        "completed_values": row.completed_values,
        "latency_ms": summary,
        "groups": {str(group): row.groups[group] for group in sorted(row.groups)},
        "processes": {name: sample._asdict() for name, sample in samples.items()},
    }
