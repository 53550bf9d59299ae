"""Whether data directories are whole, and agree: `verify`, alone and against others."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from paxmux.engine.errors import DataDirError
from paxmux.engine.paxos.value import chain_after
from paxmux.tools.log.compare import Checksums, Comparison
from paxmux.tools.log.fault import chain_text
from paxmux.tools.log.group import Value
from paxmux.tools.log.verify import MAX_SAID, Verdict, verdict_document, verdict_text, verify
from paxmux.tools.log.walk import Tail
from tests.log_world import Replica, replica, replicas, walked
from tests.storage_model import ACCEPT, PROMISE
from tests.test_storage_damage import flip


def verified(first: Path, *others: Path) -> tuple[list[Verdict], list[str]]:
    said: list[str] = []
    return verify(first, others, said.append, lambda _text: lambda _counts: None), said


def twins(folder: Path, **more: int) -> tuple[Replica, Replica]:
    one, two = replicas(folder, 2, **more)
    return one, two


def test_a_good_directory_is_good(tmp_path: Path) -> None:
    made = replica(tmp_path / "node", groups=5, logs=2).fill(100).settle().close()
    (verdict,), said = verified(made.path)
    assert verdict.good
    assert said == []
    assert (verdict.groups, verdict.counts.logs, verdict.counts.values) == (5, 2, len(made.decided))
    assert verdict_text(verdict).startswith(f"ok: {made.path}: 2 logs, ")
    assert verdict_document(verdict)["values"] == len(made.decided)


def test_a_directory_of_a_cluster_that_is_not_founded_is_good(tmp_path: Path) -> None:
    Replica(tmp_path / "node")
    (verdict,), said = verified(tmp_path / "node")
    assert verdict.good
    assert (said, verdict.counts.logs) == ([], 0)


def test_damage_is_said_with_its_place_and_counted(tmp_path: Path) -> None:
    made = replica(tmp_path / "node").fill(100).settle().close()
    flip(made.segments()[1], 4096 + 600)
    (verdict,), said = verified(made.path)
    assert not verdict.good
    assert verdict.damage >= 1
    assert said[0].startswith(f"damage: {made.segments()[1]}, offset ")
    assert said == verdict.findings
    assert verdict_text(verdict).startswith(f"BAD: {made.path}: ")


def test_a_torn_tail_is_good_and_counted(tmp_path: Path) -> None:
    made = replica(tmp_path / "node").fill(5).fill(1, seed=9, sync=False)
    end = made.open[0]._offset
    made.close(clean=False)
    flip(made.segments()[0], end - 1)
    assert any(isinstance(event, Tail) for event in walked(made.log()))
    (verdict,), said = verified(made.path)
    assert verdict.good
    assert said == []
    assert verdict.tail_bytes > 0
    assert "a tail of " in verdict_text(verdict)


def test_only_so_many_findings_are_said(tmp_path: Path) -> None:
    made = replica(tmp_path / "node").fill(3)
    count = MAX_SAID + 20
    made.write([(PROMISE, 0, made.instances[0], 50, made.node, b"")])
    made.write([(PROMISE, 0, made.instances[0], 7, made.node, b"")] * count)
    made.close()
    (verdict,), said = verified(made.path)
    assert verdict.faults == count
    assert len(said) == MAX_SAID
    assert said[0].startswith("fault: log 0, group 0, instance ")
    assert not verdict.good


def test_replicas_that_agree(tmp_path: Path) -> None:
    one, two = twins(tmp_path, groups=4, logs=2)
    one.fill(80).settle().close()
    two.fill(80).settle().close()
    first, second = verified(one.path, two.path)[0]
    assert first.good
    assert second.good
    assert first.comparison is None
    assert second.comparison is not None
    assert second.comparison.compared == len(one.decided)
    assert f"{len(one.decided):,} values compared" in verdict_text(second)


def test_replicas_with_other_layouts_are_compared_by_group(tmp_path: Path) -> None:
    one = Replica(tmp_path / "a", 0, groups=4, logs=1)
    two = Replica(tmp_path / "b", 1, groups=4, logs=3)
    one.found([two]).fill(50).settle().close()
    two.found([one]).fill(50).settle().close()
    verdicts, _ = verified(one.path, two.path)
    assert all(verdict.good for verdict in verdicts)
    assert verdicts[1].comparison is not None
    assert verdicts[1].comparison.compared == len(one.decided)


def test_the_first_difference_of_a_group_is_told_with_both_checksums(tmp_path: Path) -> None:
    one, two = twins(tmp_path)
    one.fill(20)
    two.fill(20)
    at = one.instances[1]
    for each, payload in ((one, b"this"), (two, b"that")):
        each.write([each.decide(1, each.value(1, [payload]))])
        each.fill(20, seed=2).settle().close()
    verdicts, said = verified(one.path, two.path)
    mine, theirs = (chain_text(chain_after(each.decided[1, at])) for each in (one, two))
    assert said == [
        f"difference: group 1, instance {at}: {one.path} has checksum {mine}, {two.path} has {theirs}"
    ]
    assert verdicts[0].good
    assert not verdicts[1].good
    assert verdict_document(verdicts[1])["against"]["differences"] == [
        {"group": 1, "instance": at, "ours": mine, "theirs": theirs}
    ]
    assert "1 groups that differ" in verdict_text(verdicts[1])


def test_an_open_instance_may_differ_and_a_replica_may_lag(tmp_path: Path) -> None:
    one, two = twins(tmp_path)
    one.fill(20)
    two.fill(20).fill(10, seed=2)
    one.write([(ACCEPT, 0, one.instances[0], 1, one.node, one.value(0, [b"never decided"]))])
    one.close(clean=False)
    two.settle().close()
    verdicts, said = verified(one.path, two.path)
    assert said == []
    assert all(verdict.good for verdict in verdicts)
    assert verdicts[1].comparison is not None
    assert verdicts[1].comparison.compared == verdicts[0].counts.values
    assert verdicts[1].comparison.only_here == len(two.decided) - verdicts[0].counts.values > 20


def test_several_replicas_are_each_compared_with_the_first(tmp_path: Path) -> None:
    made = replicas(tmp_path, 3)
    for each in made:
        each.fill(20)
    made[2].write([made[2].decide(0, made[2].value(0, [b"other"]))])
    made[2].settle().close()
    for each in made[:2]:
        each.write([each.decide(0, each.value(0, [b"same"]))])
        each.settle().close()
    verdicts, said = verified(*(each.path for each in made))
    assert [verdict.good for verdict in verdicts] == [True, True, False]
    assert len(said) == 1


def test_directories_of_different_clusters_are_refused(tmp_path: Path) -> None:
    one = replica(tmp_path / "a").close()
    two = replica(tmp_path / "b").close()
    with pytest.raises(DataDirError, match="belongs to cluster"):
        verified(one.path, two.path)


def test_a_copy_agrees_with_its_original(tmp_path: Path) -> None:
    one = replica(tmp_path / "a").fill(20).settle().close()
    shutil.copytree(one.path, tmp_path / "b")
    verdicts, _ = verified(one.path, tmp_path / "b")
    assert all(verdict.good for verdict in verdicts)


def values(group: int, instances: Sequence[int], content: bytes = b"x") -> list[Value]:
    return [Value(group, i, 1, 1, content, chain_after(b"%d" % i + content)) for i in instances]


def test_checksums_are_kept_with_gaps() -> None:
    kept = Checksums()
    kept.add(values(3, [5, 6, 7, 20, 21, 40]))
    for instance in (5, 6, 7, 20, 21, 40):
        assert kept.get(3, instance) == chain_after(b"%dx" % instance)
    for instance in (0, 4, 8, 19, 22, 39, 41):
        assert kept.get(3, instance) is None
    assert kept.get(4, 5) is None


def test_of_each_group_the_first_difference_is_kept() -> None:
    kept = Checksums()
    kept.add([*values(0, range(10)), *values(1, range(10))])
    comparison = Comparison(kept)
    comparison.take(values(0, [2, 3]))
    comparison.take(values(0, [4, 5, 99], b"y"))
    comparison.take(values(1, [8, 9], b"y"))
    assert {d.group: d.instance for d in comparison.differences.values()} == {0: 4, 1: 8}
    assert (comparison.compared, comparison.only_here) == (6, 1)
