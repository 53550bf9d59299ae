"""The page of an open loop: well-formed, complete in itself, everything in its place; and in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paxmux.tools.open_report import answers, open_loop, series
from paxmux.tools.process_samples import Sample
from paxmux.tools.report_page import page
from paxmux.tools.report_scales import linear, linear_from_zero, log, read
from paxmux.tools.report_style import DARK, LIGHT, style_sheet
from paxmux.tools.skew import weights
from paxmux.tools.time_series import Row
from tests.browser import Browser, installed
from tests.test_open_report import result_of, row_of

CHARTS = [
    "Throughput",
    "Latency",
    "Distribution of latencies",
    "Shed",
    "CPU",
    "Memory",
    "Groups by worker",
]
NUMBER = r"-?\d+(?:\.\d+)?"


def report_of(rows: list[Row], *, groups: int = 40, seconds: float = 2.0, **more: Any) -> dict[str, Any]:
    results = [result_of(rows)]
    samples = {
        row.index: {"node1 host": Sample(20.0 + row.index, 5 << 20), "client1": Sample(0.0, 9 << 20)}
        for row in rows
    }
    hosts = [group % 3 for group in range(groups)]
    settings = {
        "groups": groups,
        "nodes": 3,
        "seconds": seconds,
        "warmup_s": 0.2,
        "size": 100,
        "work_us": 200,
        "work_on": "0-9",
        "version": "<1 & 2>",
        "open_loop": {
            "from_per_s": 10.0,
            "to_per_s": 4000.0,
            "read": 0.5,
            "skew": 0.99,
            "consistency": "local",
        },
    }
    return {
        **answers(results, 0.1, seconds),
        "open_loop": open_loop(results, seconds, hosts, weights(groups, 0.99)),
        "series": series(results, samples, 0.1),
        "consistent": True,
        "differences": [],
        "valid": True,
        "invalid_because": [],
        "settings": settings,
        **more,
    }


def usual() -> list[Row]:
    rows = [
        row_of(index, index % 40, values=5 + index % 7, refused=index % 3, reads=1, ms=1 + index**2)
        for index in range(-2, 20)
    ]
    rows[9] = Row(index=7)
    rows.append(Row(index=22, completed=3))
    return rows


REPORTS = {
    "usual": lambda: report_of(usual()),
    "nothing was answered": lambda: report_of([row_of(0, 0, values=0, refused=9)]),
    "nothing was offered": lambda: report_of([Row(index=0)]),
    "one row": lambda: report_of([row_of(0, 0)]),
    "many rows": lambda: report_of([row_of(index, 0) for index in range(2000)], seconds=200.0),
    "many groups": lambda: report_of(usual(), groups=256),
    "in doubt": lambda: report_of(
        usual(),
        valid=False,
        consistent=False,
        differences=["group 1: <a> & b"],
        invalid_because=["'x' > \"y\""],
    ),
}


@pytest.fixture(params=sorted(REPORTS))
def html(request: pytest.FixtureRequest) -> str:
    return page(REPORTS[request.param]())


def parsed(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html)


def test_it_is_well_formed_and_has_its_charts(html: str) -> None:
    root = parsed(html)
    assert [found.text for found in root.iter("h2")][: len(CHARTS)] == CHARTS
    figures = list(root.iter("figure"))
    assert len(figures) == len(CHARTS)
    for figure in figures:
        if "nothing was answered" not in "".join(figure.itertext()):
            assert figure.find(".//svg[@class='chart']") is not None
    assert len(html) < 1_500_000


def test_it_needs_nothing_from_outside(html: str) -> None:
    names = {element.tag for element in parsed(html).iter()}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "image", "use", "base"}
    attributes = {name for element in parsed(html).iter() for name in element.attrib}
    assert not {name for name in attributes if name in {"src", "href"} or name.startswith("on")}
    assert not re.search(r"https?:|url\(|@import", html)


def test_everything_drawn_is_in_its_chart(html: str) -> None:
    for chart in parsed(html).iter("svg"):
        width, height = map(float, chart.attrib["viewBox"].split()[2:])
        for element in chart.iter():
            for name, value in element.attrib.items():
                assert "nan" not in value
                assert "inf" not in value
                if name in {"x", "x1", "x2"}:
                    assert -0.1 <= float(value) <= width + 0.1, element.attrib
                if name in {"y", "y1", "y2"}:
                    assert -0.1 <= float(value) <= height + 0.1, element.attrib
                if name in {"width", "height"}:
                    assert float(value) >= 0
                if name == "d":
                    for x, y in re.findall(rf"({NUMBER}) ({NUMBER})", value):
                        assert -2 <= float(x) <= width + 2
                        assert -0.1 <= float(y) <= height + 0.1
                        assert float(y) > 0


def test_labels_do_not_cover_each_other(html: str) -> None:
    for chart in parsed(html).iter("svg"):
        boxes = []
        for text in chart.iter("text"):
            if text.attrib["class"] != "label":
                continue
            # Digits are 0.6 of the size of the type wide, or narrower.
            wide = len(text.text or "") * 12 * 0.6
            x, y = float(text.attrib["x"]), float(text.attrib["y"])
            x -= {"start": 0.0, "middle": wide / 2, "end": wide}[text.attrib.get("text-anchor", "start")]
            boxes.append((x, y - 10, x + wide, y + 2))
        for index, (left, top, right, bottom) in enumerate(boxes):
            for other in boxes[:index]:
                apart = right <= other[0] or left >= other[2] or bottom <= other[1] or top >= other[3]
                assert apart, (boxes[index], other)


def test_it_says_what_the_report_says() -> None:
    html = page(report_of(usual()))
    told = " ".join(" ".join(parsed(html).itertext()).split())
    assert "10 to 4,000 requests per second over 40 groups on 3 nodes" in told
    assert "<1 & 2>" in told
    assert "50% local reads" in told
    assert "200 µs of work per value in groups 0-9" in told
    assert "worker 2" in told
    assert "group 7 on worker 1" in told
    assert "replicas" in told
    assert "requests ended with code 405" in told
    doubtful = " ".join(parsed(page(REPORTS["in doubt"]())).itertext())
    assert "not a valid measurement: 'x' > \"y\"" in doubtful
    assert "group 1: <a> & b" in doubtful


def test_every_colour_is_there_in_light_and_dark() -> None:
    sheet = style_sheet()
    assert LIGHT.keys() == DARK.keys()
    assert set(re.findall(r"var\(--(\w+)\)", sheet)) <= LIGHT.keys()
    assert sheet.count("{") == sheet.count("}")
    for colors in (LIGHT, DARK):
        paper = _luminance(colors["card"])
        # Text as the guidelines for contrast want it, lines somewhat less.
        assert all(
            _contrast(paper, _luminance(colors[name])) >= 4.5 for name in ("text", "soft", "good", "bad")
        )
        assert all(_contrast(paper, _luminance(colors[f"c{index}"])) >= 3.0 for index in range(8))


def _luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


positive = st.floats(1e-6, 1e12)


@given(positive)
def test_an_axis_from_zero_covers_its_values(high: float) -> None:
    scale = linear_from_zero(high)
    ticks = scale.ticks()
    assert ticks[0] == 0
    assert scale.high >= high * (1 - 1e-9)
    assert 0 <= scale.share(high) <= 1 + 1e-9
    assert 2 <= len(ticks) <= 8


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 1e5))
def test_an_axis_of_time_has_ticks_within(low: float, length: float) -> None:
    scale = linear(low, low + length, 8)
    assert all(-1e-6 <= scale.share(tick) <= 1 + 1e-6 for tick in scale.ticks())
    assert 2 <= len(scale.ticks()) <= 12


@given(st.lists(positive, max_size=10))
def test_a_logarithmic_axis_covers_its_values(values: list[float]) -> None:
    scale = log(values)
    assert all(-1e-9 <= scale.share(value) <= 1 + 1e-9 for value in values)
    ticks = scale.ticks()
    assert ticks == sorted(ticks)
    assert 1 <= len(ticks) <= 20


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.2, "0.2"),
        (0.0625, "0.0625"),
        (12.345, "12.3"),
        (100, "100"),
        (40_000, "40,000"),
        (1e6, "1,000,000"),
    ],
)
def test_numbers_read_well(value: float, text: str) -> None:
    assert read(value) == text


# What a script in the page could be asked: how many charts have any size, and what sticks out of its box.
DRAWN = (
    "[...document.querySelectorAll('svg.chart')].filter(e => e.getBoundingClientRect().height > 40).length"
)
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
STICKS_OUT = """[...document.querySelectorAll('figure, section, .tile, li, .pairs span, b')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != 'inline')
    .map(e => e.textContent.slice(0, 40))"""
SMALLEST_PX = """Math.min(...[...document.querySelectorAll('svg.chart text.label')].map(e =>
    parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a))"""
PAPER = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = installed()
    if program is None:
        pytest.skip("no browser is installed")
    with Browser(program, tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["usual", "many groups", "in doubt"])
def test_a_browser_shows_it_without_a_complaint(
    browser: Browser, name: str, scheme: Literal["light", "dark"], width: int, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(REPORTS[name]()), encoding="utf-8")
    browser.show(file, width, scheme)
    assert browser.complaints == []
    assert browser.value(DRAWN) == len(CHARTS)
    assert browser.value(TOO_WIDE) == 0
    assert browser.value(STICKS_OUT) == []
    assert browser.value(SMALLEST_PX) >= 8
    red, green, blue = (int(part) for part in re.findall(r"\d+", browser.value(PAPER)))
    assert (red + green + blue < 3 * 128) == (scheme == "dark")
    assert browser.picture().startswith(b"\x89PNG")


@pytest.mark.xdist_group("browser")
def test_the_browser_tells_when_something_is_wrong(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text(
        "<body style='width:3000px'><img src='missing.png'><script>console.error('oh'); nothing()</script>",
        encoding="utf-8",
    )
    browser.show(file, 390, "light")
    told = " ".join(browser.complaints)
    browser.complaints.clear()
    assert "oh" in told
    assert "nothing is not defined" in told
    assert "missing.png" in told
    assert browser.value(TOO_WIDE) > 2000
