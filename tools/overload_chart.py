"""What becomes of a load beyond what a cluster can do, as one picture; run it by `python -m`.

Decides which figures of several reports of `paxmux bench --rate … --json FILE` it shows: over what was
offered, how much of it was answered, and how long that took. Measures nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from paxmux.tools.report_charts import HEIGHT, WIDTH, Line, curves
from paxmux.tools.report_style import chart_style

_ACROSS = "requests offered per second"
_TITLE = 22


def picture(reports: Sequence[dict[str, Any]]) -> str:
    """Two charts, one below the other, as an SVG document."""
    runs = sorted(reports, key=lambda report: float(report["open_loop"]["offered_per_s"]))
    offered = [float(run["open_loop"]["offered_per_s"]) for run in runs]
    answered = Line("answered", [float(run["qps"]) for run in runs], 2)
    p50, p99 = (
        Line(name, [float(run["latency_ms"][name]) for run in runs], color)
        for name, color in (("p50", 0), ("p99", 3))
    )
    panels = (
        ("answered (green)", curves(offered, [answered], "per second", _ACROSS)),
        ("latency of what was let in: p50 (blue), p99 (red)", curves(offered, [p50, p99], "ms", _ACROSS)),
    )
    height = _TITLE + HEIGHT
    body = "".join(
        f'<g transform="translate(0 {place * height + _TITLE})">'
        f'<text class="label" x="{WIDTH / 2}" y="-6" text-anchor="middle">{title}</text>{_nested(chart)}</g>'
        for place, (title, chart) in enumerate(panels)
    )
    whole = len(panels) * height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {whole}" width="{WIDTH}" '
        f'height="{whole}"><style>{chart_style()}</style>'
        f'<rect class="back" width="{WIDTH}" height="{whole}"/>{body}</svg>\n'
    )


def _nested(chart: str) -> str:
    # A chart fills its page; within another picture it needs a size.
    return chart.replace("<svg ", f'<svg width="{WIDTH}" height="{HEIGHT}" ', 1)


def main(arguments: Sequence[str]) -> int:
    """Read reports, write the picture."""
    parser = argparse.ArgumentParser(prog="python -m paxmux.tools.overload_chart", description=__doc__)
    parser.add_argument("svg", type=Path, help="the file to write")
    parser.add_argument("reports", type=Path, nargs="+", help="of `paxmux bench --rate … --json FILE`")
    asked = parser.parse_args(arguments)
    reports = [orjson.loads(path.read_bytes()) for path in asked.reports]
    asked.svg.write_text(picture(reports), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
