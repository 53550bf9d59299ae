"""How a report looks: its style sheet, for light and dark screens and for paper.

Names nothing outside the page: no font, picture or sheet is fetched.
"""

from __future__ import annotations

LIGHT = {
    "back": "#f6f7f9",
    "card": "#ffffff",
    "rim": "#e3e6eb",
    "text": "#1b2330",
    "soft": "#5b6676",
    "grid": "#e8ebf0",
    "shade": "#f1f3f6",
    "hover": "#1b233014",
    "good": "#047857",
    "bad": "#c81e1e",
    "c0": "#2563eb",
    "c1": "#c76a00",
    "c2": "#0a8a5f",
    "c3": "#d32f2f",
    "c4": "#7c3aed",
    "c5": "#0e7f9c",
    "c6": "#c2257a",
    "c7": "#667085",
}
DARK = {
    "back": "#0f141b",
    "card": "#171d26",
    "rim": "#2a3340",
    "text": "#e6eaf0",
    "soft": "#9aa6b6",
    "grid": "#27303c",
    "shade": "#1d2530",
    "hover": "#ffffff14",
    "good": "#34d399",
    "bad": "#f87171",
    "c0": "#69a3ff",
    "c1": "#f5b041",
    "c2": "#3fd49a",
    "c3": "#ff7b72",
    "c4": "#b79bff",
    "c5": "#45cfe8",
    "c6": "#f783c0",
    "c7": "#94a3b8",
}
COLORS = 8

RULES = """
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font-variant-numeric:tabular-nums;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1640px;margin:0 auto;padding:28px 24px 48px}
h1{font-size:24px;line-height:1.25;margin:0 0 4px}
h2{font-size:16px;line-height:1.3;margin:0}
p{margin:0}
.soft{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(5,minmax(0,1fr));gap:12px;margin:20px 0}
.tile,figure,section{background:var(--card);border:1px solid var(--rim);border-radius:10px}
.tile{padding:12px 16px}
.tile b{display:block;font-size:22px;font-weight:600;line-height:1.3}
.tile span{color:var(--soft);font-size:13px}
.good b{color:var(--good)}
.bad b{color:var(--bad)}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:16px}
figure{margin:0;padding:16px 18px 12px;min-width:0}
figcaption p{color:var(--soft);font-size:13px}
figure.wide{grid-column:1/-1}
.scroll{overflow-x:auto}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;margin:8px 0 6px;padding:0;list-style:none;font-size:13px}
.legend li{display:flex;align-items:center;gap:6px;white-space:nowrap}
section{padding:16px 18px;margin-top:16px;overflow-x:auto}
table{border-collapse:collapse;font-size:13px;margin-top:8px}
td,th{text-align:left;padding:3px 28px 3px 0;vertical-align:top;font-weight:400}
th{color:var(--soft)}
.pairs{columns:3 320px;column-gap:32px}
.pairs div{display:flex;justify-content:space-between;gap:16px;font-size:13px;padding:2px 0}
.pairs div{break-inside:avoid}
.pairs span+span{text-align:right;overflow-wrap:anywhere;min-width:0}
.chart{display:block;width:100%;min-width:560px;height:auto}
.wide .chart{max-width:880px;min-width:700px}
@media (max-width:900px){.tiles{grid-template-columns:repeat(auto-fit,minmax(140px,1fr))}
main{padding:20px 12px 32px}
figure{padding:14px 12px 10px}}
@media print{body{background:none}figure,section,.tile{break-inside:avoid}}
"""

CHART_RULES = """
.label,.faint{font-size:12px;fill:var(--soft);font-family:system-ui,sans-serif}
.faint{font-size:11px}
.grid{stroke:var(--grid);stroke-width:1}
.axis,.tick{stroke:var(--soft);stroke-width:1}
.shade{fill:var(--shade)}
.line,.swatch line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.area{stroke:none;fill-opacity:.13}
.bar{fill:var(--c0)}
.hit{fill:transparent}
.hit:hover{fill:var(--hover)}
.cell{fill:var(--c0)}
.bad{fill:var(--bad)}
.number{font-size:9px;fill:var(--text);font-family:system-ui,sans-serif}
.number.strong{fill:var(--card)}
"""


def style_sheet() -> str:
    """The text of the page's `style` element."""
    colors = "".join(
        f".line.c{index},.swatch .c{index}{{stroke:var(--c{index})}}.area.c{index}{{fill:var(--c{index})}}\n"
        for index in range(COLORS)
    )
    return (
        f":root{{color-scheme:light dark;{_variables(LIGHT)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}\n{RULES}{CHART_RULES}{colors}"
    )


def _variables(colors: dict[str, str]) -> str:
    return "".join(f"--{name}:{color};" for name, color in colors.items())
