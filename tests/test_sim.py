"""The protocol, the turn and the log under every fault of the simulator: seeds, not luck.

CI runs the seeds 1..300 as `paxmux sim --seeds 1..300` does, in parts that can run side by side.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import orjson
import pytest

from paxmux.tools.sim.campaign import REACH_SEEDS, run_slice
from paxmux.tools.sim.plan import FAULTS, KINDS_MIN, VALUES_MIN, Asked

PARTS = 10
SIZE = REACH_SEEDS // PARTS


@pytest.fixture
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all parts share, in whichever process they run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sim"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_breaks(part: int, results: Path) -> None:
    seeds = range(1 + part * SIZE, 1 + (part + 1) * SIZE)
    tally = run_slice(seeds, Asked())
    assert tally.failures == []
    assert tally.seeds == SIZE
    assert tally.decided_min is not None
    assert tally.decided_min >= VALUES_MIN
    assert tally.kinds_min is not None
    assert tally.kinds_min >= KINDS_MIN
    written = results / f"{part}.part"
    written.write_bytes(orjson.dumps([dict(tally.reached), dict(tally.faults), dict(tally.points)]))
    written.rename(results / f"{part}.json")
    _if_all_are_done(results)


def _if_all_are_done(results: Path) -> None:
    """Whoever is last adds up: everything worth reaching was reached, every fault was injected."""
    files = [results / f"{part}.json" for part in range(PARTS)]
    if not all(file.exists() for file in files):
        return
    reached: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    points: Counter[str] = Counter()
    for file in files:
        for total, part in zip((reached, faults, points), orjson.loads(file.read_bytes()), strict=True):
            total.update(part)
    assert [name for name, count in reached.items() if not count] == []
    assert [kind for kind in FAULTS if not faults[kind]] == []
    assert len(points) == 10
