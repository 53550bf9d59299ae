"""Charts of a report, as inline SVG: lines over time, a histogram, and cells of a heat map.

Decides how things look but for colours, which are the page's (`report_style.py`): everything here refers to
them by class, so that a page can be light or dark. Needs no script; what a pointer rests on says its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from paxmux.tools.report_scales import Scale, linear, linear_from_zero, log, read

WIDTH, HEIGHT = 760, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 24, 40
_PLOT_WIDTH = WIDTH - _LEFT - _RIGHT
_PLOT_HEIGHT = HEIGHT - _TOP - _BOTTOM
_CELL, _CELL_GAP, _CELLS_A_LINE = 20, 2, 32
_HEAT_LEFT = 76
_FAINTEST = 0.06
MARK_DASH = "4 3"


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    values: list[float | None]
    """One for each point in time; None where there is none."""
    color: int
    """Which of the page's colours, 0 .. 7."""
    dash: str = ""
    """As `stroke-dasharray`; empty for a solid line."""
    fill: bool = False
    """Whether the area below is tinted."""


class Times(NamedTuple):
    """The axis of time."""

    points: list[float]
    """Middles of the intervals, in s."""
    lengths: list[float]
    """Of the intervals."""
    measured_s: float
    """The measured time goes from 0 to here; the rest is shaded."""

    @property
    def low(self) -> float:
        """Where it begins."""
        return self.points[0] - self.lengths[0] / 2

    @property
    def high(self) -> float:
        """Where it ends."""
        return self.points[-1] + self.lengths[-1] / 2


class Cell(NamedTuple):
    """One cell of the heat map."""

    label: str
    value: float
    bad: float
    """Share of it that was turned away."""
    tip: str


def line_chart(times: Times, lines: Sequence[Line], unit: str, *, logarithmic: bool = False) -> str:
    """Lines over time. `unit`: of the values, which begin at 0 unless the scale is logarithmic."""
    values = [value for line in lines for value in line.values if value is not None]
    scale: Scale = log(values) if logarithmic else linear_from_zero(max(values, default=0.0))
    across = linear(times.low, times.high, 8)
    parts = [_shade(across.share, times), _axes(scale, across, unit, "s of the measured time")]
    parts += [_path(line, times, scale, across, logarithmic) for line in lines]
    for index, (point, length) in enumerate(zip(times.points, times.lengths, strict=True)):
        told = [f"{round(point - length / 2, 3):g} s"]
        told += [
            f"{line.name}: {read(value)} {unit}"
            for line in lines
            if (value := line.values[index]) is not None
        ]
        left, right = _x(across.share(point - length / 2)), _x(across.share(point + length / 2))
        parts.append(_hit(left, right - left, "\n".join(told)))
    return _svg(WIDTH, HEIGHT, parts)


def curves(
    points: Sequence[float], lines: Sequence[Line], unit: str, across_unit: str, *, logarithmic: bool = False
) -> str:
    """Lines through measured points, over what they were measured at, on an axis that begins at 0.

    Args:
        points: where, in order.
        lines: a value for each point.
        unit: of the values, which begin at 0 unless their scale is logarithmic.
        across_unit: of the points.
    """
    values = [value for line in lines for value in line.values if value is not None]
    scale: Scale = log(values) if logarithmic else linear_from_zero(max(values, default=0.0))
    across = linear_from_zero(max(points), 8)
    parts = [_axes(scale, across, unit, across_unit)]
    places = Times(list(points), [0.0] * len(points), 0.0)
    for line in lines:
        parts.append(_path(line, places, scale, across, logarithmic))
        for point, value in zip(points, line.values, strict=True):
            if value is not None:
                told = f"{line.name} at {read(point)}: {read(value)} {unit}"
                parts.append(
                    f'<g><title>{escape(told)}</title><circle class="dot c{line.color}" r="3.2" '
                    f'cx="{_x(across.share(point)):.1f}" cy="{_y(scale.share(value)):.1f}"/></g>'
                )
    return _svg(WIDTH, HEIGHT, parts)


def histogram(bars: Sequence[tuple[float, float]], marks: Sequence[tuple[float, int]], unit: str) -> str:
    """Shares of a whole over a logarithmic axis.

    Args:
        bars: (upper end, count) of fine buckets, in order, all ends above 0.
        marks: (value, colour) of what is marked on the axis.
        unit: of the values.
    """
    across = log([end for end, _ in bars])
    total = sum(count for _, count in bars) or 1.0
    columns = 60
    counts = [0.0] * columns
    for end, count in bars:
        counts[min(columns - 1, int(across.share(end) * columns))] += count
    shares = [count / total * 100 for count in counts]
    scale = linear_from_zero(max(shares))
    parts = [_axes(scale, across, "% of requests", unit)]
    step = across.high / across.low
    for index, share in enumerate(shares):
        left, right = _x(index / columns), _x((index + 1) / columns)
        top = _y(scale.share(share))
        if share:
            parts.append(
                f'<rect class="bar" x="{left + 0.5:.1f}" y="{top:.1f}" width="{right - left - 1:.1f}" '
                f'height="{_TOP + _PLOT_HEIGHT - top:.1f}"/>'
            )
        low, high = (across.low * step ** ((index + more) / columns) for more in (0, 1))
        parts.append(_hit(left, right - left, f"{read(low)} … {read(high)} {unit}: {share:.2f} %"))
    for value, color in marks:
        x = _x(across.share(value))
        parts.append(
            f'<path class="line c{color}" d="M{x:.1f} {_TOP}V{_TOP + _PLOT_HEIGHT}"{_dashed(MARK_DASH)}/>'
        )
    return _svg(WIDTH, HEIGHT, parts)


def heat_map(rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """Lines of cells, each the stronger the larger its value; what was turned away is a bar below.

    Args:
        rows: (name, cells); long ones are broken.
    """
    most = max((cell.value for _, cells in rows for cell in cells), default=0.0) or 1.0
    pitch = _CELL + _CELL_GAP
    parts, y = [], 4
    for name, cells in rows:
        parts.append(f'<text class="label" x="0" y="{y + 14}">{escape(name)}</text>')
        for place, cell in enumerate(cells):
            left = _HEAT_LEFT + place % _CELLS_A_LINE * pitch
            top = y + place // _CELLS_A_LINE * pitch
            # The root keeps the difference between small ones visible beside a hot one.
            strength = _FAINTEST + (1 - _FAINTEST) * (cell.value / most) ** 0.5
            strong = " strong" if strength > 0.6 else ""
            bad = (
                f'<rect class="bad" x="{left}" y="{top + _CELL - 4}" width="{_CELL * min(1, cell.bad):.1f}" '
                'height="4"/>'
                if cell.bad
                else ""
            )
            parts.append(
                f'<g><title>{escape(cell.tip)}</title><rect class="cell" x="{left}" y="{top}" '
                f'width="{_CELL}" height="{_CELL}" rx="3" fill-opacity="{strength:.3f}"/>{bad}'
                f'<text class="number{strong}" x="{left + _CELL / 2}" y="{top + 13.5}" text-anchor="middle">'
                f"{escape(cell.label)}</text></g>"
            )
        y += max(1, -(-len(cells) // _CELLS_A_LINE)) * pitch + 6
    return _svg(_HEAT_LEFT + _CELLS_A_LINE * pitch, y, parts)


def swatch(color: int, dash: str) -> str:
    """The sample of a line, for a legend."""
    return (
        '<svg class="swatch" width="22" height="10" viewBox="0 0 22 10" aria-hidden="true">'
        f'<line class="c{color}" x1="0" x2="22" y1="5" y2="5"{_dashed(dash)}/></svg>'
    )


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">' + "".join(parts) + "</svg>"


def _x(share: float) -> float:
    return _LEFT + share * _PLOT_WIDTH


def _y(share: float) -> float:
    return _TOP + (1 - share) * _PLOT_HEIGHT


def _dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _shade(share: Callable[[float], float], times: Times) -> str:
    """What is not measured: warm-up, and waiting for the last answers."""
    parts = []
    for name, low, high in (("warm-up", times.low, 0.0), ("late answers", times.measured_s, times.high)):
        left, right = _x(share(low)), _x(share(high))
        if right - left < 1:
            continue
        parts.append(
            f'<rect class="shade" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
            f'height="{_PLOT_HEIGHT}"/>'
        )
        if right - left > 8 * len(name):
            parts.append(f'<text class="faint" x="{left + 5:.1f}" y="{_TOP + 13}">{name}</text>')
    return "".join(parts)


def _axes(scale: Scale, across: Scale, unit: str, across_unit: str) -> str:
    bottom = _TOP + _PLOT_HEIGHT
    parts = [f'<text class="label" x="0" y="12">{escape(unit)}</text>']
    for tick in scale.ticks():
        y = _y(scale.share(tick))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="label" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{read(tick)}</text>'
        )
    for tick in across.ticks():
        x = _x(across.share(tick))
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        parts.append(
            f'<text class="label" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_signed(tick)}</text>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(
        f'<text class="label" x="{_LEFT + _PLOT_WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(across_unit)}</text>"
    )
    return "".join(parts)


def _signed(value: float) -> str:
    return f"\N{MINUS SIGN}{read(-value)}" if value < 0 else read(value)


def _path(line: Line, times: Times, scale: Scale, across: Scale, logarithmic: bool) -> str:
    runs: list[list[tuple[float, float]]] = [[]]
    for point, value in zip(times.points, line.values, strict=True):
        if value is None or (logarithmic and value <= 0):
            runs.append([])
        else:
            runs[-1].append((_x(across.share(point)), _y(scale.share(value))))
    drawn, filled = [], []
    for run in runs:
        if not run:
            continue
        # A point alone has no length: a short dash shows it.
        run = run if len(run) > 1 else [(run[0][0] - 1.5, run[0][1]), (run[0][0] + 1.5, run[0][1])]
        drawn.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in run))
        filled.append(f"{drawn[-1]}V{_TOP + _PLOT_HEIGHT}H{run[0][0]:.1f}Z")
    if not drawn:
        return ""
    area = f'<path class="area c{line.color}" d="{"".join(filled)}"/>' if line.fill else ""
    return f'{area}<path class="line c{line.color}" d="{"".join(drawn)}"{_dashed(line.dash)}/>'


def _hit(left: float, width: float, told: str) -> str:
    return (
        f'<rect class="hit" x="{left:.1f}" y="{_TOP}" width="{width:.1f}" height="{_PLOT_HEIGHT}">'
        f"<title>{escape(told)}</title></rect>"
    )
