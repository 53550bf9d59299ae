"""`paxmux bench router|worker|ring|log`: the real part, for a moment, and what its report adds up to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from paxmux.engine.errors import ExitCode, PaxmuxError
from paxmux.shards.channel import Sender
from paxmux.shards.doorbell import Doorbell
from paxmux.shards.ring import create_ring
from paxmux.tools import part_rig, part_ring
from paxmux.tools.bench_parts import PARTS
from tests.command import run_command

pytestmark = pytest.mark.xdist_group("cluster")


def measured(part: str, folder: Path, *more: object) -> list[dict[str, Any]]:
    """Its cases, each of which has done something at a cost."""
    done = run_command("bench", part, "--seconds", 1.2, *more, "--json", "-", folder=folder)
    assert done.returncode == ExitCode.OK, done.stderr
    report = orjson.loads(done.stdout)
    assert report["part"] == part
    assert report["settings"]["groups"] == (more[1] if more else 100)
    cases: list[dict[str, Any]] = report["cases"]
    for case in cases:
        assert case["per_s"] > 0
        costs = [value for name, value in case.items() if name.endswith("cpu_us")]
        assert costs
        assert min(costs) > 0
    assert not list(folder.glob("paxmux-*")), "the data are removed"
    return cases


def test_a_ring_of_any_size_of_messages(tmp_path: Path) -> None:
    cases = measured("ring", tmp_path)
    assert [(case["bytes"], case["messages_per_commit"]) for case in cases] == list(part_ring.CASES)
    for case in cases:
        assert case["messages"] % case["messages_per_commit"] == 0
        assert {"producer_cpu_us", "consumer_cpu_us"} <= set(case)
    large = cases[-1]
    assert large["producer_cpu_us"] > cases[0]["producer_cpu_us"], "a larger message costs more"


def test_a_log_whose_batches_share_a_sync(tmp_path: Path) -> None:
    cases = measured("log", tmp_path, "--groups", 7)
    assert [case["records_per_batch"] for case in cases] == [1, 10, 100, 1000]
    assert cases[0]["log_cpu_us"] > cases[-1]["log_cpu_us"], "records share what a batch costs"
    assert all(case["bytes_per_record"] > 100 for case in cases)


@pytest.mark.parametrize("groups", [5, 300])
def test_a_worker_that_proposes_and_one_that_accepts(tmp_path: Path, groups: int) -> None:
    cases = measured("worker", tmp_path, "--groups", groups)
    assert [case["part"] for case in cases] == ["proposes", "accepts"]
    assert all(0 < case["busy"] < 1.5 for case in cases)
    assert all(case["values_per_sync"] >= 1 for case in cases)


def test_routers_with_the_network_between_them(tmp_path: Path) -> None:
    cases = measured("router", tmp_path)
    for case in cases:
        assert {"sends_cpu_us", "receives_cpu_us"} <= set(case)
    assert cases[0]["lost"] == 0, "one datagram at a time"
    assert cases[-1]["lost"] == 0, "a stream loses nothing"


def test_nothing_goes_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_rig, "STALL_S", 0.05)
    ring = create_ring(part_rig.RING_BYTES, generation=1)
    mine, theirs = Doorbell.create(), Doorbell.create()
    sender = Sender(ring, theirs, backlog_max_bytes=part_rig.BACKLOG_BYTES)
    sender.send(b"nobody reads it", droppable=False)
    with pytest.raises(PaxmuxError, match="the reader of the ring: no progress"):
        part_ring._until_empty(sender, mine)


def test_no_other_part_has_a_name(tmp_path: Path) -> None:
    done = run_command("bench", "disk", folder=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert all(part in done.stderr for part in PARTS)
