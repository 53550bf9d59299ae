"""docs/bench.md says what is: its commands are accepted, its query runs, its tables name what there is."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import duckdb
import pytest

from paxmux.tools.bench_pairs import SETTINGS
from paxmux.tools.bench_pairs import _parser as pairs_parser
from paxmux.tools.bench_run import TIMEOUT_S
from paxmux.tools.main import _parser
from paxmux.tools.open_arguments import is_open, wrong_together
from paxmux.tools.open_load import GAP_NS
from paxmux.tools.report_points import MAX_POINTS
from paxmux.tools.series_file import _SCHEMA, write_series
from paxmux.tools.time_series import Row
from tests.source_tree import ROOT
from tests.test_open_report import table

PAGE = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.mark.parametrize("line", blocks("sh")[0].splitlines())
def test_every_command_is_accepted(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "paxmux"
    args = _parser(words).parse_args(words)
    assert is_open(args)
    assert wrong_together(args) is None


def test_the_query_runs(tmp_path: Path) -> None:
    file = tmp_path / "out.parquet"
    write_series({"series": table(), "settings": {}}, file)
    rows = duckdb.sql(blocks("sql")[0].replace("'out.parquet'", f"'{file}'")).fetchall()
    assert [(round(t_s, 1), refused) for t_s, _, refused in rows] == [(0.0, 2.0), (0.1, 0.0), (0.2, 0.0)]
    assert [p99 is not None for _, p99, _ in rows] == [True, True, False]


def test_the_tables_are_the_real_ones() -> None:
    columns = re.findall(r"^\| `(\w+)` \| (double|string) \| ", PAGE, re.MULTILINE)
    assert columns == [(field.name, str(field.type)) for field in _SCHEMA]
    outcomes = re.findall(r"^\| `(\w+)` \| (?!double|string)", PAGE, re.MULTILINE)
    assert (
        set(outcomes)
        == {"answered", "refused", "timed_out", "failed", "not_sent"}
        < set(Row.__struct_fields__)
    )


def test_its_figures_are_those_of_the_code() -> None:
    assert f"within {TIMEOUT_S:g} s after it was due" in PAGE
    assert f"within {GAP_NS / 1e6:g} ms leaves together" in PAGE
    assert f"thinned to {MAX_POINTS} points" in PAGE


def test_the_page_can_be_found() -> None:
    assert "docs/bench.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_command_for_pairs_is_accepted() -> None:
    program, *words = shlex.split(blocks("sh")[1])
    assert program == "tools/bench-pairs"
    # The program of the other version is the reader's own.
    words[words.index("--old") + 1] = sys.executable
    args = pairs_parser().parse_args(words)
    assert args.settings[0] in SETTINGS
