"""The table of intervals, thinned to what a chart can show.

Decides how neighbours become one point: counts add up; of latencies, CPU and memory the largest stands, so
that no peak is lost.
"""

from __future__ import annotations

from typing import Any

MAX_POINTS = 400

_COUNTS = ("offered", "not_sent", "answered", "refused", "timed_out", "failed", "completed")


def points(series: list[dict[str, Any]], most: int = MAX_POINTS) -> list[dict[str, Any]]:
    """At most `most` rows for those of a report, with the keys that charts need."""
    each = max(1, -(-len(series) // most))
    return [_one(series[start : start + each]) for start in range(0, len(series), each)]


def _one(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if len(rows) == 1:
        return rows[0]
    latencies = [row["latency_ms"] for row in rows if row["latency_ms"]]
    return {
        "t_s": rows[0]["t_s"],
        "length_s": sum(row["length_s"] for row in rows),
        **{name: sum(row[name] for row in rows) for name in _COUNTS},
        "latency_ms": {name: max(each[name] for each in latencies) for name in latencies[0]}
        if latencies
        else None,
        "processes": {
            name: {
                figure: max(row["processes"][name][figure] for row in rows if name in row["processes"])
                for figure in ("cpu_percent", "rss_bytes")
            }
            for name in sorted({name for row in rows for name in row["processes"]})
        },
    }
