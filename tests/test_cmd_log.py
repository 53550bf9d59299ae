"""`paxmux log` as a command: what it prints, how it ends, and that it leaves no trace."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import shutil
import sys
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from paxmux.engine.errors import ExitCode
from paxmux.engine.paxos.value import chain_after, decode
from paxmux.plugins.storage.segment_file import HEADER_BYTES
from paxmux.shards.identity import IDENTITY_FILE, read_identity
from paxmux.shards.node import Node
from paxmux.tools.log.directory import lock_holder
from paxmux.tools.log.fault import chain_text
from paxmux.tools.main import main
from tests.event_loop import DEADLINE_S, in_loop, until
from tests.log_world import SMID, Replica, replica, snapshot, walked
from tests.storage_model import ACCEPT, PROMISE
from tests.test_log_walk import batches
from tests.test_node_cluster import cluster, options_of
from tests.test_storage_damage import flip, overwrite

Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    made = replica(tmp_path_factory.mktemp("master") / "node", groups=4, logs=2).fill(120)
    made.promise(3, 9)
    return made.settle().close()


@pytest.fixture
def full(master: Replica, tmp_path: Path) -> Replica:
    """Two logs of several segments, cleanly stopped."""
    return master.copy(tmp_path / "node")


def log(*words: object) -> int:
    return main(["log", *map(str, words)])


def document(capsys: Out, *words: object, code: int = ExitCode.OK) -> Any:
    assert log(*words, "--json") == code
    return json.loads(capsys.readouterr().out)


def every_command(path: Path, output: Path) -> list[list[object]]:
    return [
        ["show", path],
        ["get", path, 1, 5],
        ["get", path, 1, 5, "--raw"],
        ["dump", path],
        ["verify", path, "--against", path],
        ["export", path, "--format", "parquet", "--output", output],
    ]


# show


def test_show_has_every_figure(full: Replica, capsys: Out) -> None:
    report = document(capsys, "show", full.path)
    identity = read_identity(full.path)
    assert (report["node"], report["seat"], report["groups"]) == (full.node, identity.seat, 4)
    assert report["cluster"] == full.identities[0].cluster
    assert report["running"] is None
    assert [each["log"] for each in report["logs"]] == [0, 1]
    for number, each in enumerate(report["logs"]):
        assert each["clean"]
        assert (each["tails"], each["damage"]) == ([], [])
        assert [one["segment"] for one in each["segments"]] == [int(p.stem) for p in full.segments(number)]
        assert [one["size"] for one in each["segments"]] == [p.stat().st_size for p in full.segments(number)]
        assert each["segments"][-1]["used"] == 0
        assert all(one["used"] > HEADER_BYTES for one in each["segments"][:-1])
        assert [one["group"] for one in each["groups"]] == [number, number + 2]
        for one in each["groups"]:
            decided = [instance for group, instance in full.decided if group == one["group"]]
            assert (one["instance"], one["values"]) == (len(decided), len(decided))
            assert (one["first_value"], one["last_value"]) == (0, len(decided) - 1)
            assert one["accepted"] is None
            assert one["promised"] == ([9, full.node] if one["group"] == 3 else [1, full.node])
        records = sum(len(b.records) for b in batches(walked(full.log(number))))
        assert sum(one["records"] for one in each["segments"]) == records


def test_show_is_read_by_people_too(full: Replica, capsys: Out) -> None:
    assert log("show", full.path) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.startswith("node 127.0.0.1:11111  id ")
    assert "2 logs, not running" in out
    assert "log 1: ends with a clean stop" in out
    assert "9@127.0.0.1:11111" in out
    assert "reserved" in out


def test_show_tells_an_accepted_value_and_a_torn_tail(tmp_path: Path, capsys: Out) -> None:
    made = replica(tmp_path / "node").fill(3)
    made.write([(ACCEPT, 0, made.instances[0], 5, made.node, made.value(0, [b"open"]))])
    end = made.open[0]._offset
    made.fill(1, seed=7, sync=False).close(clean=False)
    torn = made.segments()[0]
    flip(torn, end + 4)
    (only,) = document(capsys, "show", made.path)["logs"]
    assert not only["clean"]
    assert only["groups"][0]["accepted"] == [5, made.node]
    assert [(each["file"], each["offset"]) for each in only["tails"]] == [(str(torn), end)]
    assert log("show", made.path) == ExitCode.OK
    out = capsys.readouterr().out
    assert f"tail: {torn}, offset {end}: {only['tails'][0]['bytes']} bytes, torn: the next start cuts" in out


def test_show_names_damage(full: Replica, capsys: Out) -> None:
    flip(full.segments(1)[1], HEADER_BYTES + 700)
    assert log("show", full.path) == ExitCode.FAILED
    assert f"damage: {full.segments(1)[1]}, offset " in capsys.readouterr().out
    assert document(capsys, "show", full.path, code=ExitCode.FAILED)["logs"][1]["damage"]


# get


def test_get_finds_every_instance(full: Replica, capsys: Out) -> None:
    for (group, instance), value in list(full.decided.items())[::17]:
        report = document(capsys, "get", full.path, group, instance)
        last = report["records"][-1]
        assert (report["group"], report["instance"], report["decided"]) == (group, instance, True)
        assert last["kind"] in ("accept", "learned")
        assert (last["round"], last["size"], last["log"]) == (1, len(value), group % 2)
        assert last["checksum"] == chain_text(chain_after(value))
        before = full.decided.get((group, instance - 1))
        assert last["chain"] == (chain_text(chain_after(before)) if before is not None else "00000000")
        payloads = [b64decode(entry["value"]) for entry in last["entries"]]
        assert payloads == [entry[5] for entry in decode(value)]
        assert all(entry["smid"] == SMID for entry in last["entries"])


def test_get_raw_is_the_value_as_it_is(full: Replica, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert log("get", full.path, 2, 30, "--raw") == ExitCode.OK
    assert capfdbinary.readouterr() == (full.decided[2, 30], b"")


def test_get_raw_of_what_may_not_be_decided_says_so(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    made = replica(tmp_path / "node").fill(2)
    value = made.value(1, [b"open"])
    made.write([(ACCEPT, 1, made.instances[1], 2, made.node, value)])
    made.close(clean=False)
    assert log("get", made.path, 1, made.instances[1], "--raw") == ExitCode.OK
    out, err = capfdbinary.readouterr()
    assert out == value
    assert err == b"paxmux log: this value is accepted, and not known to be decided\n"


def test_get_reads_only_the_segments_that_matter(full: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 0
    pread = os.pread

    def counting(fd: int, length: int, offset: int) -> bytes:
        nonlocal size
        data = pread(fd, length, offset)
        size += len(data)
        return data

    made = replica(full.path.with_name("large")).close()
    made.start(segment_bytes=128 << 10)
    made.fill(600, size=2000).settle().close()
    assert len(made.segments()) > 12
    monkeypatch.setattr(os, "pread", counting)
    monkeypatch.setattr("paxmux.plugins.storage.scan.WINDOW_BYTES", 4096)
    assert log("verify", made.path) == ExitCode.OK
    whole, size = size, 0
    assert log("get", made.path, 1, 150) == ExitCode.OK
    assert size < whole / 2


def test_get_shows_every_value_that_was_recorded(tmp_path: Path, capsys: Out) -> None:
    made = replica(tmp_path / "node").fill(2)
    instance = made.instances[1]
    loser = made.value(1, [b"loser"])
    made.write([(ACCEPT, 1, instance, 2, made.node, loser)])
    winner = made.value(1, [b"winner", b"more" * 30])
    made.write([(ACCEPT, 1, instance, 3, made.node, winner)])
    report = document(capsys, "get", made.path, 1, instance)
    assert [one["round"] for one in report["records"]] == [2, 3]
    assert not report["decided"]
    made.decide(1, winner)
    made.settle().close()
    assert log("get", made.path, 1, instance) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"group 1, instance {instance}: decided"
    assert lines[1].startswith("  accept under ballot 2@127.0.0.1:11111 in log 0, segment 0, offset ")
    assert lines[2].startswith(f"    checksum {chain_text(chain_after(loser))} chain ")
    assert lines[5].startswith(f"  entry 0: state machine {SMID}, 6 bytes, proposed at 127.0.0.1:11111 as ")
    assert lines[6] == "    'winner'"
    assert lines[8].endswith(" …")


def test_get_says_what_is_not_there(full: Replica, capsys: Out) -> None:
    assert log("get", full.path, 1, 10_000) == ExitCode.FAILED
    stands_at = full.instances[1]
    assert capsys.readouterr().err == (
        f"paxmux log: no value of group 1, instance 10000 is in this log: it stands at instance {stands_at}\n"
    )
    assert log("get", full.path, 4, 0) == ExitCode.FAILED
    assert "there is no group 4: groups are 0 .. 3" in capsys.readouterr().err


def test_get_of_a_damaged_value_says_that_it_is_damaged(full: Replica, capsys: Out) -> None:
    record = document(capsys, "get", full.path, 1, 20)["records"][-1]
    flip(full.segments(1)[record["segment"]], record["offset"] + 45)
    assert log("get", full.path, 1, 20) == ExitCode.FAILED
    err = capsys.readouterr().err
    assert f"damage: {full.segments(1)[record['segment']]}, offset {record['offset']}: " in err
    assert "no value of group 1, instance 20" in err


# dump


def test_dump_has_every_record_in_order(full: Replica, capsys: Out) -> None:
    assert log("dump", full.path) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert log("dump", full.path, "--json") == ExitCode.OK
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    records = [
        (number, record, at)
        for number in range(2)
        for batch in batches(walked(full.log(number)))
        for record, at in zip(batch.records, batch.positions, strict=True)
    ]
    assert len(lines) == len(documents) == len(records)
    for line, found, (number, record, at) in zip(lines, documents, records, strict=True):
        assert (found["log"], found["segment"], found["offset"]) == (number, at >> 32, at & 0xFFFFFFFF)
        assert line.startswith(f"{number} {at >> 32}:{at & 0xFFFFFFFF} ")
        assert f" {found['kind']}" in line
        if record[0] in (1, 2, 3):
            assert (found["group"], found["instance"], found["round"]) == record[1:4]
            assert f"group {record[1]} instance {record[2]} ballot {record[3]}@127.0.0.1:11111" in line
        if record[0] in (2, 3):
            assert found["checksum"] == chain_text(chain_after(record[5]))
            assert f"checksum {found['checksum']} chain {found['chain']} {len(record[5])} bytes, " in line
    kinds = {found["kind"] for found in documents}
    assert kinds == {"promise", "accept", "learned", "decided", "opening", "hard_state"}


def test_dump_can_be_narrowed(full: Replica, capsys: Out) -> None:
    assert log("dump", full.path, "--group", 2, "--from", 10, "--to", 12, "--json") == ExitCode.OK
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["group"] for one in found} == {2}
    assert sorted({one["instance"] for one in found}) == [10, 11, 12]
    assert "opening" not in {one["kind"] for one in found}


def test_dump_names_damage_and_tail_where_they_are(full: Replica, capsys: Out) -> None:
    flip(full.segments(0)[1], HEADER_BYTES + 700)
    (full.path / "logs" / "1" / "CLEAN").unlink()
    last = batches(walked(full.log(1)))[-1]
    torn = full.segments(1)[last.positions[0] >> 32]
    flip(torn, last.begin + 3)
    assert log("dump", full.path) == ExitCode.FAILED
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"0 damage: {full.segments(0)[1]}, offset ") for line in lines)
    assert f"1 tail: {torn}, offset {last.begin}: " in lines[-1]
    assert log("dump", full.path, "--json") == ExitCode.FAILED
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"log", "tail"} == found[-1].keys()
    assert any("damage" in one for one in found)


# verify


def test_verify_ends_with_a_summary_and_an_exit_code(full: Replica, capsys: Out) -> None:
    assert log("verify", full.path) == ExitCode.OK
    out, err = capsys.readouterr()
    assert out.startswith(f"ok: {full.path}: 2 logs, ")
    assert f"{len(full.decided)} decided values of 4 groups\n" in out
    assert err == ""
    flip(full.segments(0)[1], HEADER_BYTES + 700)
    assert log("verify", full.path) == ExitCode.FAILED
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"damage: {full.segments(0)[1]}, offset ")
    assert last.startswith(f"BAD: {full.path}: ")


def test_verify_against_another_says_the_first_difference(tmp_path: Path, capsys: Out) -> None:
    one = Replica(tmp_path / "a", 0)
    two = Replica(tmp_path / "b", 1)
    for mine, other, payload in ((one, two, b"this"), (two, one, b"that")):
        mine.found([other]).fill(5)
        mine.write([mine.decide(2, mine.value(2, [payload]))])
        mine.settle().close()
    assert log("verify", one.path, "--against", two.path) == ExitCode.FAILED
    assert f"difference: group 2, instance {one.instances[2] - 1}: " in capsys.readouterr().out
    report = document(capsys, "verify", one.path, "--against", two.path, code=ExitCode.FAILED)
    assert not report["good"]
    assert [each["good"] for each in report["directories"]] == [True, False]
    assert len(report["directories"][1]["against"]["differences"]) == 1


def test_verify_finds_a_promise_that_went_back(tmp_path: Path, capsys: Out) -> None:
    made = replica(tmp_path / "node").fill(2)
    at = made.instances[0]
    made.write([(PROMISE, 0, at, 8, made.node, b""), (PROMISE, 0, at, 7, made.node, b"")])
    made.close()
    assert log("verify", made.path) == ExitCode.FAILED
    assert f"fault: log 0, group 0, instance {at}: ballot 7@" in capsys.readouterr().out


# export


def test_export_says_what_it_wrote(full: Replica, tmp_path: Path, capsys: Out) -> None:
    output = tmp_path / "out.json"
    assert log("export", full.path, "--format", "json", "--output", output) == ExitCode.OK
    rows = len(output.read_text().splitlines())
    assert capsys.readouterr().out == f"{output}: {rows} rows of {len(full.decided)} decided instances\n"
    report = document(capsys, "export", full.path, "--format", "json", "--output", output)
    assert report["rows"] == rows
    assert (report["missing"], report["damage"], report["faults"]) == (0, 0, 0)


def test_export_of_a_damaged_log_has_what_can_be_read_and_fails(
    full: Replica, tmp_path: Path, capsys: Out
) -> None:
    record = document(capsys, "get", full.path, 1, 20)["records"][-1]
    flip(full.segments(1)[record["segment"]], record["offset"] + 45)
    output = tmp_path / "out.json"
    assert log("export", full.path, "--format", "json", "--output", output) == ExitCode.FAILED
    out, err = capsys.readouterr()
    assert f"damage: {full.segments(1)[record['segment']]}, offset {record['offset']}: " in err
    found = {(row["group"], row["instance"]) for row in map(json.loads, output.read_text().splitlines())}
    # The value before is known to be the last one of its instance only by what is lost.
    lost = full.decided.keys() - found
    assert {(1, 20)} <= lost <= {(1, 19), (1, 20)}
    assert f"; the values of {len(lost)} more are not there" in out


def test_nothing_is_exported_into_a_data_directory(full: Replica, capsys: Out) -> None:
    before = snapshot(full.path)
    output = full.path / "logs" / ".." / "out.json"
    assert log("export", full.path, "--format", "json", "--output", output) == ExitCode.FAILED
    assert "is in the data directory, where nothing may be written" in capsys.readouterr().err
    assert snapshot(full.path) == before


# read-only, errors


@pytest.mark.usefixtures("capfdbinary")
def test_no_command_changes_anything(full: Replica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the index is not opened")

    opened: list[tuple[str, int]] = []
    real_open = os.open

    def watching(path: Any, flags: int, *more: Any, **kept: Any) -> int:
        opened.append((str(path), flags))
        return real_open(path, flags, *more, **kept)

    monkeypatch.setattr(lmdb, "open", refuse)
    monkeypatch.setattr(lmdb, "Environment", refuse)
    monkeypatch.setattr(os, "open", watching)
    (full.path / "logs" / "0" / "0000000099.seg.tmp").write_bytes(b"half")
    before = snapshot(full.path)
    for words in every_command(full.path, tmp_path / "out"):
        assert log(*words) == ExitCode.OK
    assert snapshot(full.path) == before
    mine = [flags for path, flags in opened if path.startswith(str(full.path))]
    assert mine
    assert all(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0 for flags in mine)


@pytest.mark.usefixtures("capfdbinary")
def test_damage_changes_nothing_either(full: Replica, tmp_path: Path) -> None:
    overwrite(full.segments(0)[1], HEADER_BYTES, bytes(3000))
    full.segments(1)[2].unlink()
    before = snapshot(full.path)
    for words in every_command(full.path, tmp_path / "out"):
        assert log(*words) in (ExitCode.OK, ExitCode.FAILED)
    assert snapshot(full.path) == before


@pytest.mark.parametrize("number", range(6))
def test_what_is_no_data_directory_is_told_plainly(
    full: Replica, tmp_path: Path, capsys: Out, number: int
) -> None:
    empty, stranger, file, gone = (tmp_path / name for name in ("empty", "stranger", "file", "gone"))
    newer, damaged = tmp_path / "newer", tmp_path / "damaged"
    empty.mkdir()
    stranger.mkdir()
    (stranger / "x").touch()
    file.touch()
    shutil.copytree(full.path, newer)
    overwrite(newer / "logs" / "1" / "0000000000.seg", 8, b"\x02")
    shutil.copytree(full.path, damaged)
    flip(damaged / IDENTITY_FILE, 60, 0x01)
    expected = {
        empty: "is not the data directory of a node: it is empty",
        stranger: f"is not the data directory of a node: it has no {IDENTITY_FILE}",
        file: "is not a directory",
        gone: "No such file or directory",
        newer: "format version 2, this program reads up to 1",
        damaged: "is damaged",
    }
    for words in every_command(full.path, tmp_path / "out"):
        path, said = list(expected.items())[number]
        assert log(*[path if word == full.path else word for word in words]) == ExitCode.CANNOT_BOOT
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
        assert err.startswith("paxmux log: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["", "logs/0", "logs/0/0000000001.seg"])
def test_what_may_not_be_read_is_told_plainly(
    full: Replica, capsys: Out, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Permissions stop nobody who is root, so the calls refuse in their stead."""
    target = str(full.path / part) if part else str(full.path)

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *more: Any, **kept: Any) -> Any:
            if str(path) == target:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *more, **kept)

        return call

    monkeypatch.setattr(os, "listdir", refusing(os.listdir))
    monkeypatch.setattr(os, "open", refusing(os.open))
    assert log("show", full.path) == ExitCode.CANNOT_BOOT
    assert capsys.readouterr().err == f"paxmux log: cannot read {target}: Permission denied\n"


def test_a_directory_that_has_no_logs_yet(tmp_path: Path, capsys: Out) -> None:
    Replica(tmp_path / "node")
    assert log("show", tmp_path / "node") == ExitCode.OK
    assert "cluster none yet, 3 groups, 0 logs, not running" in capsys.readouterr().out
    assert log("verify", tmp_path / "node") == ExitCode.OK


def test_logs_that_belong_to_no_cluster_are_refused(tmp_path: Path, capsys: Out) -> None:
    Replica(tmp_path / "node")
    (tmp_path / "node" / "logs" / "0").mkdir(parents=True)
    assert log("show", tmp_path / "node") == ExitCode.CANNOT_BOOT
    assert "has no cluster that they could belong to" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["nope"], ["show"], ["get", "x", "1"], ["get", "x", "1", "-1"]])
def test_wrong_arguments_are_usage_errors(words: list[str], capsys: Out) -> None:
    with pytest.raises(SystemExit) as caught:
        log(*words)
    assert caught.value.code == ExitCode.USAGE
    assert "usage: paxmux log" in capsys.readouterr().err


def test_the_holder_of_a_lock_is_seen_and_nobody_else(tmp_path: Path) -> None:
    made = replica(tmp_path / "node")
    lock = made.log().path / "LOCK"
    assert lock_holder(lock) == os.getpid()
    made.close()
    assert lock_holder(lock) is None
    lock.write_text("no number")
    assert lock_holder(lock) is None
    lock.unlink()
    assert lock_holder(lock) is None


# A real cluster


@in_loop
async def test_a_cluster_is_looked_into_while_it_runs(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    """Three nodes of two workers each, under load all the while; then stopped."""
    ports = free_ports(3)
    paths = [Path(options_of(tmp_path, ports, number).data_dir) for number in range(3)]
    numbers = itertools.count()
    acknowledged: set[int] = set()

    async def load(node: Node, group: int) -> None:
        while not stop.is_set():
            number = next(numbers)
            await node.propose(group, b"%d" % number, smid=1, timeout_s=30)
            acknowledged.add(number)

    async def report(*words: object) -> Any:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "paxmux", "log", *map(str, words), "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b""), err
        return json.loads(out)

    async def exported(path: Path) -> dict[tuple[int, int, int | None], int | None]:
        output = tmp_path / "out.json"
        await report("export", path, "--format", "json", "--output", output)
        return {
            (row["group"], row["instance"], row["position"]): row["value"] and int(b64decode(row["value"]))
            for row in map(json.loads, output.read_text(encoding="utf-8").splitlines())
        }

    stop = asyncio.Event()
    async with cluster(tmp_path, ports) as nodes:
        tasks = [asyncio.create_task(load(nodes[group % 3], group)) for group in range(4)]
        try:
            await until(lambda: len(acknowledged) > 50)
            for _ in range(2):
                before = len(acknowledged)
                show = await report("show", paths[0])
                assert show["running"] == os.getpid()
                assert {each["group"] for one in show["logs"] for each in one["groups"]} == {0, 1, 2, 3}
                verdict = await report("verify", paths[0], "--against", paths[1], "--against", paths[2])
                assert verdict["good"]
                assert all(each["against"]["compared"] > 0 for each in verdict["directories"][1:])
                assert (await report("get", paths[2], 1, 2))["decided"]
                assert await exported(paths[1])
                assert len(acknowledged) > before
        finally:
            stop.set()
            await asyncio.gather(*tasks)
        # The newest value of a group is known to be decided once the log says so, some time later.
        deadline = time.monotonic() + DEADLINE_S
        while not acknowledged <= set((await exported(paths[0])).values()):
            assert time.monotonic() < deadline
    verdict = await report("verify", paths[0], "--against", paths[1], "--against", paths[2])
    assert verdict["good"]
    assert all(each["values"] > 0 and each["tail_bytes"] == 0 for each in verdict["directories"])
    assert (await report("show", paths[0]))["running"] is None
    first, *others = [await exported(path) for path in paths]
    values = [value for value in first.values() if value is not None]
    assert len(values) == len(set(values))
    for other in others:
        assert len(other) > len(first) // 2
        assert all(first[place] == value for place, value in other.items() if place in first)
