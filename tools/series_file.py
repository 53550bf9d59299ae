"""The table of intervals as a Parquet file, for those who want to look into it with other tools.

Decides its shape: one line for each figure of each interval, so that any tool can select and pivot it.
`scope` is `all`, `group` or `process`, `name` says which one (empty for `all`), `metric` what it is. The
settings of the run stand in the metadata of the schema, as JSON under `paxmux.settings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow
from pyarrow import parquet

from paxmux.tools.time_series import COUNTS

_OF_GROUPS = ("offered", "answered", "refused")
_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("t_s", pyarrow.float64(), nullable=False),
        pyarrow.field("length_s", pyarrow.float64(), nullable=False),
        pyarrow.field("scope", pyarrow.string(), nullable=False),
        pyarrow.field("name", pyarrow.string(), nullable=False),
        pyarrow.field("metric", pyarrow.string(), nullable=False),
        pyarrow.field("value", pyarrow.float64(), nullable=False),
    ]
)

_Line = tuple[float, float, str, str, str, float]


def write_series(report: dict[str, Any], place: Path) -> None:
    """Write the `series` of a report. Raises OSError if the file cannot be written."""
    lines = [line for row in report["series"] for line in _lines(row)]
    columns = zip(*lines, strict=True) if lines else ([] for _ in _SCHEMA)
    table = pyarrow.table(
        [pyarrow.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)],
        schema=_SCHEMA.with_metadata({"paxmux.settings": orjson.dumps(report["settings"])}),
    )
    parquet.write_table(table, place, compression="zstd")


def _lines(row: dict[str, Any]) -> Iterator[_Line]:
    t_s, length_s = row["t_s"], row["length_s"]
    for name in COUNTS:
        yield t_s, length_s, "all", "", name, row[name]
    for code, count in row["errors"].items():
        yield t_s, length_s, "all", "", f"error_{code}", count
    for name, value in (row["latency_ms"] or {}).items():
        yield t_s, length_s, "all", "", f"latency_{name}_ms", value
    for group, counts in row["groups"].items():
        for name, count in zip(_OF_GROUPS, counts, strict=True):
            yield t_s, length_s, "group", group, name, count
    for process, sample in row["processes"].items():
        for name, value in sample.items():
            yield t_s, length_s, "process", process, name, value
