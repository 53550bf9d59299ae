"""DuckDB in a process of its own: as it ends it complains about its own leaks, on everybody's output."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """
import json, sys
import duckdb, pyarrow.dataset

query, arrow = json.loads(sys.argv[1])
if arrow is not None:
    duckdb.register("decided", pyarrow.dataset.dataset(arrow, format="arrow"))
print(json.dumps(duckdb.sql(query).fetchall(), default=str))
"""


def rows(query: str, folder: Path, arrow: Path | None = None) -> list[list[Any]]:
    """What a query gives in a folder; `arrow`: a file that it knows as the table `decided`."""
    words = json.dumps([query, None if arrow is None else str(arrow)])
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, words], cwd=folder, capture_output=True, check=True, text=True
    )
    found: list[list[Any]] = json.loads(done.stdout)
    return found
