"""Processes killed, and power cut, at every single call that changes the disk: in the life of a log and in
that of a data directory. What was acknowledged is there, nothing else is, and it works."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.crash_points import CHECKS, COMMIT, LIFE_NAMES, LOST, WRITES, many_folders, power_cuts, recorded
from tests.crash_server import CrashServer
from tests.disk_calls import Fault
from tests.disk_model import Disk, Event, put
from tests.fault_rows import fault
from tests.lmdb_recording import can_trace
from tests.source_tree import ROOT

IMAGES = 2
"""Power cuts after each event."""
LEAST = {"log": 150, "identity": 45}
KINDS = {
    "log": {"open", "pwrite", "write", "fsync", "fdatasync", "rename", "unlink", "posix_fallocate", COMMIT},
    "identity": {"open", "write", "fsync", "replace", "ftruncate", "mkdir"},
}


@fault("kill -9 at every call that changes the disk", "log", "nothing acknowledged is lost; starts again")
@fault("kill -9 at every call that changes the disk", "identity", "the old or the new identity; starts again")
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("life", LIFE_NAMES)
def test_kill_at_every_call(life: str, record_property: pytest.RecordProperty) -> None:
    with many_folders() as folder, CrashServer() as server:
        calls = recorded(life, folder / "recorded").calls
        assert {call.name for call in calls} >= KINDS[life]
        points = [
            Fault(call.thread, call.number, "kill", when)
            for call in calls
            for when in ("before", "after", *(["half"] if call.name in WRITES else []))
        ]
        more = 0
        for number, point in enumerate(points):
            path = folder / str(number)
            path.mkdir()
            ended = server.live(life, path / life, point)
            assert ended.status == -9, f"{point}: {ended}"
            try:
                more += CHECKS[life](path / life, ended.said) > ended.said.kept
            except Exception as error:
                raise AssertionError(f"{point}, {calls[number // 2]}: {ended}") from error
            shutil.rmtree(path)
        record_property("points", len(points))
        sys.stdout.write(f"{life}: {len(calls)} calls, killed at {len(points)} points\n")
    assert len(calls) >= LEAST[life]
    # Some died when it was there, and before they could say so.
    assert more > 5


@fault("torn and reordered unsynced writes", "log", "a torn tail is cut; nothing acknowledged is lost")
@fault("torn and reordered unsynced writes", "identity", "the old or the new identity")
@pytest.mark.parametrize("life", LIFE_NAMES)
def test_power_cut_after_every_call(life: str) -> None:
    with many_folders() as folder:
        recording = recorded(life, folder / "recorded")
        outcomes = power_cuts(life, folder, recording, IMAGES)
    assert not outcomes[LOST], outcomes
    assert outcomes["more than had to"] > 5
    assert outcomes["what had to"] > 2 * outcomes["more than had to"]


@pytest.mark.parametrize("missing", ["sync", "sync folder"])
def test_a_disk_that_does_not_sync_is_noticed(missing: str) -> None:
    with many_folders() as folder:
        recording = recorded("log", folder / "recorded")
        events = [event for event in recording.events if event.kind != missing]
        outcomes = power_cuts("log", folder, recording._replace(events=events), 1, go_on=True)
    assert outcomes[LOST] > 20


@pytest.mark.skipif(not can_trace(), reason="needs strace, and the right to trace")
def test_no_call_that_changes_the_disk_is_missed(tmp_path: Path) -> None:
    """What the system saw of a life is what was recorded of it."""
    changing = {"write", "pwrite64", "fsync", "fdatasync", "truncate", "ftruncate", "fallocate", "link"}
    changing |= {"symlink", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat"}
    changing |= {"rmdir"}
    command = "import sys; from pathlib import Path; from tests.crash_points import recorded\n"
    command += "for life in ('log', 'identity'): recorded(life, Path(sys.argv[1]) / life)\n"
    trace = tmp_path / "trace"
    asked = ["strace", "-f", "-qq", "-y", "-e", f"trace={','.join(changing)}", "-o", str(trace)]
    (tmp_path / "lives").mkdir()
    done = subprocess.run(
        [*asked, sys.executable, "-c", command, str(tmp_path / "lives")],
        cwd=ROOT,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: Counter[str] = Counter()
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        call = re.match(rf"\d+ +(\w+)\((.*{tmp_path / 'lives'}/\w+[/>].*)\) += \d", line)
        # What LMDB does to its files is counted where the program asks for it.
        if call is not None and not re.search(r"[/\"](?:data\.mdb|lock\.mdb|index)[>\"]", call[2]):
            seen[_NAMES.get(call[1], call[1])] += 1
    expected: Counter[str] = Counter()
    for life in LIFE_NAMES:
        with many_folders() as folder:
            recording = recorded(life, folder / life)
        outside = [each for each in recording.events if each.kind == "durable"]
        for name, path in [(each.name, each.path) for each in recording.calls] + [
            ("pwrite", each.path) for each in outside
        ]:
            # A call that opens a file is told from others by what it makes alone.
            if not path.endswith((".mdb", "/index")) and name != "open":
                expected[_NAMES.get(name, name)] += 1
    assert dict(seen) == dict(expected)
    assert seen.total() > 150


_NAMES = {
    "pwrite64": "pwrite",
    "posix_fallocate": "fallocate",
    "replace": "rename",
    "unlinkat": "unlink",
    "mkdirat": "mkdir",
    "renameat": "rename",
    "renameat2": "rename",
}


def test_the_model_of_a_disk(tmp_path: Path) -> None:
    disk = Disk()
    for event in (
        Event("make", "a"),
        Event("write", "a", 0, b"12"),
        Event("sync", "a"),
        Event("write", "a", 1, b"x"),
        Event("sync folder", "."),
        Event("make", "b"),
        Event("rename", "a", to="c"),
    ):
        disk.apply(event)
    rng = random.Random(1)
    found = set()
    for number in range(100):
        disk.cut(tmp_path / str(number), rng)
        files = sorted((tmp_path / str(number)).iterdir())
        found.add(tuple((each.name, each.read_bytes()) for each in files))
    states = (b"12", b"1x")
    expected = {(("a", data),) for data in states} | {(("a", data), ("b", b"")) for data in states}
    assert found == expected | {(("b", b""), ("c", data)) for data in states}
    disk.killed(tmp_path / "killed")
    assert (tmp_path / "killed" / "c").read_bytes() == b"1x"
    image = bytearray(b"ab")
    put(image, 4, b"c")
    assert image == b"ab\0\0c"
