"""Logs that were damaged and went on: what they say of promises that may be lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from paxmux.engine.errors import ExitCode
from paxmux.plugins.storage.scan import Batch
from paxmux.tools.log.read import LogReading
from paxmux.tools.log.walk import Damage
from paxmux.tools.main import main
from tests.log_world import Replica, node_id, replica, walked
from tests.storage_model import CLEARED, LEARNED, SUSPECT
from tests.test_storage_damage import flip

Out = pytest.CaptureFixture[str]


@pytest.fixture
def doubtful(tmp_path: Path) -> Replica:
    """A batch in the middle of the last segment was damaged; then the log was opened again."""
    made = replica(tmp_path / "node", groups=4).fill(60).settle().close()
    batch = [each for each in walked(made.log()) if isinstance(each, Batch)][-5]
    flip(made.log().path / f"{batch.positions[0] >> 32:010}.seg", batch.begin + 5)
    shutil.rmtree(made.log().path / "index")
    made.start()
    assert made.open[0].doubt() is not None
    return made


def shown(made: Replica, capsys: Out) -> Any:
    assert main(["log", "show", str(made.path), "--json"]) == ExitCode.FAILED
    (only,) = json.loads(capsys.readouterr().out)["logs"]
    return only


def test_groups_are_suspect_until_they_are_cleared(doubtful: Replica, capsys: Out) -> None:
    only = shown(doubtful, capsys)
    assert only["doubt"]
    assert [each["suspect"] for each in only["groups"]] == [True] * 4
    doubtful.write([(CLEARED, 2, doubtful.instances[2], 50, node_id(0), b"")])
    assert [each["suspect"] for each in shown(doubtful, capsys)["groups"]] == [True, True, False, True]
    assert main(["log", "show", str(doubtful.path)]) == ExitCode.FAILED
    assert "doubt: promises may be lost: groups 0, 1, 3 may" in capsys.readouterr().out
    # And over the starts of segments.
    (log,) = doubtful.open
    number = log._segment.number
    while log._segment.number < number + 2:
        doubtful.write([doubtful.decide(0, doubtful.value(0, [bytes(1000)]), LEARNED)])
    reading = LogReading(doubtful.log())
    findings = list(reading.read())
    assert {type(each) for each in findings} == {Damage}
    assert [group.suspect for _, group in sorted(reading.groups.groups.items())] == [True, True, False, True]
    doubtful.close()


def test_values_that_a_peer_has_sent_again_are_not_missing(doubtful: Replica) -> None:
    reading = LogReading(doubtful.log())
    list(reading.read())
    assert sum(group.missing for group in reading.groups.groups.values()) > 0
    again = [
        (LEARNED, group, instance, 1, node_id(0), value)
        for (group, instance), value in doubtful.decided.items()
        if instance >= doubtful.instances[group] - 9
    ]
    doubtful.write(again)
    reading = LogReading(doubtful.log())
    values: dict[tuple[int, int], bytes] = {}
    findings = list(
        reading.read(lambda found: values.update({(v.group, v.instance): v.value for v in found}))
    )
    assert {type(each) for each in findings} == {Damage}
    assert values == doubtful.decided
    assert sum(group.missing for group in reading.groups.groups.values()) == 0
    doubtful.close()


def test_dump_names_the_kinds_of_doubt(doubtful: Replica, capsys: Out) -> None:
    doubtful.write([(CLEARED, 1, doubtful.instances[1], 50, node_id(0), b""), (SUSPECT, 1, 0, 0, 0, b"")])
    assert main(["log", "dump", str(doubtful.path), "--json"]) == ExitCode.FAILED
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (doubt,) = [each for each in found if each.get("kind") == "doubt"]
    assert doubt.keys() == {"log", "segment", "offset", "kind"}
    assert found[-1].keys() == {"log", "segment", "offset", "kind", "group"}
    assert (found[-1]["kind"], found[-1]["group"]) == ("suspect", 1)
    assert (found[-2]["kind"], found[-2]["round"]) == ("cleared", 50)
    assert main(["log", "dump", str(doubtful.path)]) == ExitCode.FAILED
    assert "promises before this may be lost" in capsys.readouterr().out
    doubtful.close()
