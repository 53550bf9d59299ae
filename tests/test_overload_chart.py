"""The picture of a load beyond what a cluster can do: every run is in it, and it stands for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson

from paxmux.tools.overload_chart import main, picture

SVG = "{http://www.w3.org/2000/svg}"


def report(offered: float, qps: float, p99: float) -> dict[str, Any]:
    return {
        "qps": qps,
        "latency_ms": {"p50": p99 / 2, "p99": p99},
        "open_loop": {"offered_per_s": offered},
    }


RUNS = [report(20_000, 1_700, 80), report(1_500, 1_499, 25), report(4_000, 1_750, 78)]


def test_every_run_is_a_point_of_each_line_in_order() -> None:
    root = ElementTree.fromstring(picture(RUNS))
    dots = root.findall(f".//{SVG}circle")
    assert len(dots) == 3 * len(RUNS)
    green = [dot for dot in dots if dot.get("class") == "dot c2"]
    across = [float(dot.get("cx") or 0) for dot in green]
    assert across == sorted(across)
    assert len(set(across)) == 3
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert "answered at 20,000: 1,700 per second" in titles
    assert "p99 at 1,500: 25 ms" in titles


def test_all_that_is_drawn_lies_within_and_comes_from_nowhere_else() -> None:
    text = picture(RUNS)
    root = ElementTree.fromstring(text)
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    charts = root.findall(f".//{SVG}g/{SVG}svg")
    assert len(charts) == 2
    for chart in charts:
        for dot in chart.iter(f"{SVG}circle"):
            assert 0 < float(dot.get("cx") or 0) < width
            assert 0 < float(dot.get("cy") or 0) < height / 2
    assert "url(" not in text
    assert "href" not in text


def test_the_command_writes_it(tmp_path: Path) -> None:
    files = []
    for number, run in enumerate(RUNS):
        file = tmp_path / f"{number}.json"
        file.write_bytes(orjson.dumps(run))
        files.append(str(file))
    place = tmp_path / "out.svg"
    assert main([str(place), *files]) == 0
    assert place.read_text(encoding="utf-8") == picture(RUNS)
