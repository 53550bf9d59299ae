"""Some hundreds of random single faults in a data directory; `tests.random_faults` makes thousands."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests import fault_judge
from tests.crash_points import many_folders
from tests.fault_judge import CUT, DOUBT, REFUSED_VALUE, WHOLE, Wrong, judge
from tests.fault_rows import fault
from tests.known_directory import BATCHES, KnownDirectory, least_kept, made
from tests.random_fault import strike
from tests.random_faults import Pool, known_directories

COUNT = 300
SEED = 1


@fault(
    "random single faults",
    "a data directory: flip, zero, truncate, remove, swap, double, append",
    "all is there, or what is not is named with its file; never a wrong value or a loss in silence",
)
def test_some_hundred_random_faults() -> None:
    with many_folders() as folder:
        known = known_directories(folder)
        trials = list(Pool(known, folder, SEED, 1).run(iter(range(COUNT))))
    bad = [trial for trial in trials if trial.bad]
    assert not bad, f"python -m tests.random_faults --seed {SEED} --only {bad[0].number}: {bad[0]}"
    assert sorted(trial.number for trial in trials) == list(range(COUNT))
    outcomes = Counter(trial.outcome for trial in trials)
    assert outcomes[WHOLE] > COUNT // 4
    assert outcomes[DOUBT] > COUNT // 50
    assert outcomes[REFUSED_VALUE] > COUNT // 50
    assert len({trial.kind for trial in trials}) == 9


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> KnownDirectory:
    return made(tmp_path_factory.mktemp("known") / "killed", clean=False)


def copy(known: KnownDirectory, to: Path) -> Path:
    shutil.copytree(known.path, to)
    return to


def test_what_the_files_prove_is_computed_from_their_bytes(killed: KnownDirectory, tmp_path: Path) -> None:
    log = killed.logs[0]
    root = copy(killed, tmp_path / "it")
    assert least_kept(killed, log, root) == BATCHES
    last = log.pieces[-1]
    with (root / last.file).open("r+b") as file:
        file.seek(last.end - 1)
        file.write(bytes([last.data[-1] ^ 1]))
    # The last batch is proven by nothing; the one before by its header.
    assert least_kept(killed, log, root) == BATCHES - 1
    assert judge(killed, root, bootstrap=False).outcome == CUT


@pytest.mark.parametrize("what", ["value", "loss", "states", "words"])
def test_the_judge_notices(
    killed: KnownDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    root = copy(killed, tmp_path / "it")
    log = fault_judge.SegmentLog
    read, recover = log.read, log.recover
    if what == "value":
        monkeypatch.setattr(log, "read", lambda its, g, i: read(its, g, i) and (1, 1, b"wrong"))
    elif what == "loss":
        batch = killed.logs[0].states[BATCHES - 10]
        monkeypatch.setattr(log, "recover", lambda its: recover(its) and batch)
    elif what == "states":
        monkeypatch.setattr(log, "recover", lambda its: recover(its) and {})
    else:
        monkeypatch.setattr(fault_judge, "NAMED", fault_judge.re.compile("nothing is named so"))
        next(root.rglob("identity.json")).unlink()
    with pytest.raises(Wrong):
        judge(killed, root, bootstrap=False)


def test_the_same_seed_makes_the_same_fault(killed: KnownDirectory, tmp_path: Path) -> None:
    for number in range(30):
        trees = []
        for name in ("one", "other"):
            root = copy(killed, tmp_path / f"{number}-{name}")
            done = strike(root, random.Random(number))
            trees.append(
                (done, {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
            )
        assert trees[0] == trees[1]
        assert trees[0][1] != killed.files or trees[0][0].kind in (
            "zero",
            "swap blocks",
            "swap files",
            "duplicate",
        )
