"""The report of an open-loop run as one page: charts, sums, settings, in a file that needs no other.

Decides what is shown and in which words. Made from the report alone (tools/open_report.py), so that it can be
made again from its JSON. The page is well-formed XML as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from paxmux.tools.report_charts import MARK_DASH, Cell, Line, Times, heat_map, histogram, line_chart, swatch
from paxmux.tools.report_points import points
from paxmux.tools.report_scales import read
from paxmux.tools.report_style import COLORS, style_sheet
from paxmux.tools.skew import UNIFORM

_DASHES = ("", "7 3", "2 3", "7 3 2 3", "12 3", "4 2")
_BENCH_COLOR = COLORS - 1
_PERCENTILES = (("p50", 0), ("p90", 2), ("p99", 1), ("max", 3))
_MARKS = (("p50", 2), ("p99", 1), ("p999", 3))


def page(report: dict[str, Any]) -> str:
    """The page, as HTML."""
    settings = report["settings"]
    rows = points(report["series"])
    times = Times(
        [row["t_s"] + row["length_s"] / 2 for row in rows],
        [row["length_s"] for row in rows],
        settings["seconds"],
    )
    charts = [
        _throughput(rows, times),
        _latencies(rows, times),
        _histogram(report),
        _shed(rows, times),
        _processes(rows, times, "cpu_percent", "CPU", "% of a core", 1.0),
        _processes(rows, times, "rss_bytes", "Memory", "MB", 1e6),
        _groups(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>paxmux bench</title><style>{style_sheet()}</style></head><body><main>"
        f"<header><h1>{escape(_title(settings))}</h1>"
        f'<p class="soft">{escape(_subtitle(settings))}</p></header>'
        f'{_tiles(report)}<div class="charts">{"".join(charts)}</div>'
        f"{_doubts(report)}{_settings(settings)}</main></body></html>\n"
    )


def _title(settings: dict[str, Any]) -> str:
    load = settings["open_loop"]
    first, last = load["from_per_s"], load["to_per_s"]
    rate = f"{first:,.0f}" if first == last else f"{first:,.0f} to {last:,.0f}"
    groups, nodes = (_counted(settings[name], name) for name in ("groups", "nodes"))
    return f"{rate} requests per second over {groups} on {nodes}"


def _counted(count: int, things: str) -> str:
    return f"{count} {things if count != 1 else things.removesuffix('s')}"


def _subtitle(settings: dict[str, Any]) -> str:
    load = settings["open_loop"]
    said = [f"{settings['seconds']:g} s after {settings['warmup_s']:g} s of warm-up"]
    said.append(f"values of {settings['size']:,} bytes")
    if load["read"]:
        said.append(f"{load['read']:.0%} {load['consistency']} reads")
    if load["skew"] != UNIFORM:
        said.append(f"groups by Zipf's law, exponent {load['skew']:g}")
    if settings["work_us"]:
        said.append(f"{settings['work_us']} µs of work per value in groups {settings['work_on']}")
    said.append(f"version {settings['version']}")
    return "; ".join(said)


def _tiles(report: dict[str, Any]) -> str:
    offered = report["open_loop"]
    latency = report["latency_ms"]
    total = max(1, offered["offered"])
    lost = offered["timed_out"] + offered["failed"]
    tiles = [
        ("offered per second", f"{offered['offered_per_s']:,.0f}", ""),
        ("answered per second", f"{report['qps']:,.0f}", ""),
        ("p50", f"{read(latency['p50'])} ms", ""),
        ("p99", f"{read(latency['p99'])} ms", ""),
        ("longest", f"{read(latency['max'])} ms", ""),
        ("refused", f"{offered['refused'] / total:.1%}", ""),
        ("timed out or failed", f"{lost:,}", "bad" if lost else ""),
        ("not sent", f"{offered['not_sent']:,}", "bad" if offered["not_sent"] else ""),
        ("replicas", *(("agree", "good") if report["consistent"] else ("differ", "bad"))),
        ("measurement", *(("valid", "good") if report["valid"] else ("not valid", "bad"))),
    ]
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile {kind}"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
            for name, value, kind in tiles
        )
        + "</div>"
    )


def _figure(title: str, text: str, lines: Sequence[Line], drawing: str, kind: str = "") -> str:
    legend = "".join(
        f"<li>{swatch(line.color, line.dash)}<span>{escape(line.name)}</span></li>" for line in lines
    )
    shown = f'<ul class="legend">{legend}</ul>' if legend else ""
    opened = f'<figure class="{kind}">' if kind else "<figure>"
    return (
        f"{opened}<figcaption><h2>{escape(title)}</h2><p>{escape(text)}</p></figcaption>"
        f'{shown}<div class="scroll">{drawing}</div></figure>'
    )


def _rates(rows: list[dict[str, Any]], name: str) -> list[float | None]:
    return [row[name] / row["length_s"] for row in rows]


def _throughput(rows: list[dict[str, Any]], times: Times) -> str:
    # Nothing is offered once the measured time is over: not even nothing.
    offered = zip(_rates(rows, "offered"), times.points, strict=True)
    lines = [
        Line("offered", [rate if point < times.measured_s else None for rate, point in offered], 7, "5 4"),
        Line("answered", _rates(rows, "completed"), 0, fill=True),
    ]
    return _figure(
        "Throughput",
        "requests due, and answers that came, per second",
        lines,
        line_chart(times, lines, "per s"),
    )


def _latencies(rows: list[dict[str, Any]], times: Times) -> str:
    lines = [
        Line(name, [row["latency_ms"][name] if row["latency_ms"] else None for row in rows], color)
        for name, color in _PERCENTILES
    ]
    return _figure(
        "Latency",
        "from when a request was due; a row is that of the requests due in it, however late their answers",
        lines,
        line_chart(times, lines, "ms", logarithmic=True),
    )


def _histogram(report: dict[str, Any]) -> str:
    bars = [(end, count) for end, count in report["open_loop"]["latency_histogram"] if end > 0]
    text = "all answered requests of the measured time"
    if not bars:
        return _figure("Distribution of latencies", "nothing was answered", [], "")
    marks = [(name, report["latency_ms"][name], color) for name, color in _MARKS]
    lines = [Line(f"{name} {read(value)} ms", [], color, MARK_DASH) for name, value, color in marks]
    drawing = histogram(bars, [(value, color) for _, value, color in marks], "ms")
    return _figure("Distribution of latencies", text, lines, drawing)


def _shed(rows: list[dict[str, Any]], times: Times) -> str:
    lines = [
        Line("refused (405)", _shares(rows, "refused"), 1, fill=True),
        Line("timed out (404)", _shares(rows, "timed_out"), 3),
        Line("failed", _shares(rows, "failed"), 4),
        Line("not sent", _shares(rows, "not_sent"), 7, "5 4"),
    ]
    # What never happened needs no line, but the axis shall say so.
    seen = [line for line in lines if any(line.values)] or lines[:1]
    text = "share of the requests due that got no answer"
    if not any(seen[0].values):
        text = f"{text}: every one of them got one"
    return _figure("Shed", text, seen, line_chart(times, seen, "% of offered"))


def _shares(rows: list[dict[str, Any]], name: str) -> list[float | None]:
    return [row[name] / row["offered"] * 100 if row["offered"] else None for row in rows]


def _processes(
    rows: list[dict[str, Any]], times: Times, figure: str, title: str, unit: str, divisor: float
) -> str:
    names = sorted({name for row in rows for name in row["processes"]}, key=_of_nodes_first)
    owners = list(dict.fromkeys(name.split(" ")[0] for name in names))
    places: dict[str, int] = dict.fromkeys(owners, 0)
    lines = []
    for name in names:
        owner = name.split(" ")[0]
        values = [
            row["processes"][name][figure] / divisor if name in row["processes"] else None for row in rows
        ]
        dash = _DASHES[places[owner] % len(_DASHES)]
        color = _BENCH_COLOR if owner == "bench" else owners.index(owner) % _BENCH_COLOR
        lines.append(Line(name, values, color, dash))
        places[owner] += 1
    text = "a colour for each node, a pattern for each of its processes"
    return _figure(title, text, lines, line_chart(times, lines, unit))


def _of_nodes_first(name: str) -> tuple[int, str]:
    """The order of processes: nodes, clients, the tool itself."""
    kinds = ("node", "client")
    return next((place for place, kind in enumerate(kinds) if name.startswith(kind)), len(kinds)), name


def _groups(report: dict[str, Any]) -> str:
    groups = report["open_loop"]["groups"]
    seconds = report["settings"]["seconds"]
    rows = []
    for worker in sorted({group["worker"] for group in groups}):
        cells = []
        for group in groups:
            if group["worker"] != worker:
                continue
            refused = group["refused"] / group["offered"] if group["offered"] else 0.0
            tip = (
                f"group {group['group']} on worker {worker}: {group['offered'] / seconds:,.1f} offered "
                f"per s, {group['answered'] / seconds:,.1f} answered per s, {refused:.1%} refused"
            )
            cells.append(Cell(str(group["group"]), group["answered"] / seconds, refused, tip))
        rows.append((f"worker {worker}", cells))
    most = max((group["answered"] / seconds for group in groups), default=0.0)
    text = f"the stronger, the more answers; the strongest has {most:,.0f} per second; a red bar: refused"
    return _figure("Groups by worker", text, [], heat_map(rows), "wide")


def _doubts(report: dict[str, Any]) -> str:
    said = [*report["differences"], *(f"not a valid measurement: {why}" for why in report["invalid_because"])]
    said += [f"{count:,} requests ended with code {code}" for code, count in report["errors"].items()]
    if not said:
        return ""
    return f"<section><h2>Notes</h2>{''.join(f'<p>{escape(text)}</p>' for text in said)}</section>"


def _settings(settings: dict[str, Any]) -> str:
    flat = {key: value for key, value in settings.items() if key != "open_loop"}
    flat |= settings["open_loop"]
    pairs = "".join(
        f'<div><span class="soft">{escape(key)}</span><span>{escape(str(value))}</span></div>'
        for key, value in sorted(flat.items())
    )
    return f'<section><h2>Settings</h2><div class="pairs">{pairs}</div></section>'
