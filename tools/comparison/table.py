"""The comparison as Markdown, and its place in a page between two markers.

Decides the words around the figures. Made from the result file alone, so that a page can be checked against
it.
"""

from __future__ import annotations

import textwrap

from paxmux.engine.errors import PaxmuxError
from paxmux.tools.comparison.measure import Comparison, Line
from paxmux.tools.comparison.systems import SYSTEMS, System
from paxmux.tools.repeats import Spread

BEGIN = "<!-- comparison: written by tools/compare -->"
END = "<!-- end of comparison -->"
WIDTH = 118
NOTHING = "-"


def markdown(comparison: Comparison) -> str:
    """What was measured, what each system promises for it, and how it was measured."""
    loads = sorted({line.callers for line in comparison.lines})
    lines = {(line.system.title, line.callers): line for line in comparison.lines}
    titles = list(dict.fromkeys(title for title, _ in lines))
    promises = {line.system.name: line.system for line in reversed(comparison.lines)}
    said = [_promise(promises[name]) for name in SYSTEMS if name in promises]
    said += [
        f"Not measured: {name}, since {comparison.missing[name]}." for name in sorted(comparison.missing)
    ]
    said += [f"Doubtful: {doubt}." for doubt in comparison.doubts]
    return "\n".join(
        [
            _row(["", *(f"{callers:,} callers: values/s | p50 ms | p99 ms" for callers in loads)]),
            _row(["---"] * (1 + 3 * len(loads))),
            *(
                _row([title, *(_figures(lines.get((title, callers))) for callers in loads)])
                for title in titles
            ),
            "",
            *(_wrapped(text, "* ") for text in said),
            "",
            _wrapped(_how(comparison), ""),
            "",
        ]
    )


def _promise(system: System) -> str:
    return (
        f"**{system.title.split(',')[0]}** {system.version}: a value is {system.synced} before its caller "
        f"has the answer. Order: {system.order}. Reads: {system.reads}. Callers: {system.callers}."
    )


def _how(comparison: Comparison) -> str:
    told = comparison.settings
    counts = {len(line.runs) for line in comparison.lines}
    runs = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    return (
        f"Median (smallest … largest) of {runs} run(s) each, one system after the other in turns: "
        f"{told['nodes']} nodes and all callers on one machine with {told['cpus']} CPUs, data on "
        f"{told['file_system']} with an `fdatasync` of {told['fdatasync_p50_us']:.0f} µs, values of "
        f"{told['size']} bytes, {told['seconds']:g} s after {told['warmup_s']:g} s of warm-up. Each caller "
        "has one request under way."
    )


def _wrapped(text: str, bullet: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def put(page: str, text: str) -> str:
    """The page with `text` between its markers.

    Raises:
        PaxmuxError: it has not both of them.
    """
    before, begin, rest = page.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise PaxmuxError(f"the page has no place for the table, from {BEGIN!r} to {END!r}")
    return f"{before}{begin}{text}{end}{after}"


def within(page: str) -> str:
    """What stands between the markers of a page."""
    return page.partition(f"{BEGIN}\n")[2].partition(END)[0]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figures(line: Line | None) -> str:
    if line is None:
        return " | ".join([NOTHING] * 3)
    latencies = (_ms(line.latency_ms("p50")), _ms(line.latency_ms("p99")))
    return " | ".join((_whole(line.values_per_s), *latencies))


def _whole(spread: Spread) -> str:
    return f"**{spread.median:,.0f}** ({spread.min:,.0f} … {spread.max:,.0f})"


def _ms(spread: Spread) -> str:
    return f"{spread.median:.1f}"
