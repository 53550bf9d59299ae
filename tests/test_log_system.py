"""What `paxmux log` says of the states of inner state machines."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from paxmux.engine.errors import ExitCode
from paxmux.plugins.storage.record import CARRIED, HARD_STATE, OPENS_SEGMENT, SYSTEM
from paxmux.plugins.storage.scan import Batch
from paxmux.tools.log.groups import Groups
from tests.log_world import Replica, replica
from tests.test_cmd_log import log

Out = pytest.CaptureFixture[str]


@pytest.fixture
def told(tmp_path: Path) -> Replica:
    made = replica(tmp_path / "node").fill(20)
    made.write([(SYSTEM, 1, 7, 0, 0, bytes(300)), (SYSTEM, 2, 9, 1, 0, b"older")])
    return made


def test_dump_shows_instance_and_size(told: Replica, capsys: Out) -> None:
    told.close()
    assert log("dump", told.path) == ExitCode.OK
    lines = [line for line in capsys.readouterr().out.splitlines() if " system " in line]
    assert lines[0].endswith("group 1 instance 7 300 bytes")
    assert lines[1].endswith("group 2 instance 9 5 bytes, a later one may be lost")
    assert log("dump", told.path, "--json") == ExitCode.OK
    records = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [each for each in records if each.get("kind") == "system"]
    assert [(each["group"], each["instance"], each["size"], each["lost"]) for each in found] == [
        (1, 7, 300, False),
        (2, 9, 5, True),
    ]


def test_each_segment_says_them_again_and_verify_knows(told: Replica, capsys: Out) -> None:
    told.fill(400).close()
    assert len(told.segments()) > 2
    assert log("verify", told.path) == ExitCode.OK
    capsys.readouterr()
    assert log("show", told.path, "--json") == ExitCode.OK
    groups = orjson.loads(capsys.readouterr().out)["logs"][0]["groups"]
    assert [each["system"] for each in groups] == [
        None,
        {"from": 7, "bytes": 300, "lost": False},
        {"from": 9, "bytes": 5, "lost": True},
    ]
    assert log("show", told.path) == ExitCode.OK
    assert "what membership and master of groups 2 are now may be lost" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("again", "words"),
    [
        ([(SYSTEM, 1, 7, 0, 0, b"state")], ""),
        ([(SYSTEM, 1, 7, 0, 0, b"other")], "another state of its inner machines"),
        ([(SYSTEM, 1, 6, 0, 0, b"state")], "another state of its inner machines"),
        ([], "without the state of its inner machines"),
    ],
)
def test_a_segment_that_begins_with_another_one_is_a_fault(
    again: list[tuple[int, int, int, int, int, bytes]], words: str
) -> None:
    groups = Groups()
    groups.take(Batch(0, 1, 0, 0, [(SYSTEM, 1, 7, 0, 0, b"state")], [1]))
    records = [(HARD_STATE, 1, 0, 0, 0, CARRIED.pack(0, 0, 0)), *again]
    groups.take(Batch(1, 2, 0, OPENS_SEGMENT, records, [2, 3][: len(records)]))
    assert [words in str(fault) for fault in groups.faults] == [True] * bool(words)
