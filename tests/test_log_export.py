"""Exported files: what is in them, that other programs read them, and that they appear whole or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.dataset
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet
import pytest

from paxmux.engine.errors import InvalidRequest, PaxmuxError
from paxmux.engine.paxos.value import FIRST, chain_after, decode, encode
from paxmux.tools.log.export import FORMATS, exporting
from paxmux.tools.log.group import Value
from paxmux.tools.log.rows import BATCH_BYTES, BATCH_ROWS, COLUMNS, Row, Rows, is_no_op, rows_of
from paxmux.tools.main import main
from tests import duck
from tests.log_world import SMID, Replica, replica

NAMES = [name for name, _, _ in COLUMNS]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    """No-ops, single entries and several; two logs."""
    return replica(tmp_path_factory.mktemp("made") / "node", groups=4, logs=2).fill(60).settle().close()


def expected(made: Replica) -> list[dict[str, Any]]:
    rows = []
    for (group, instance), data in sorted(made.decided.items()):
        head = {"group": group, "instance": instance, "checksum": int.from_bytes(chain_after(data), "little")}
        head["chain"] = int.from_bytes(data[8:12], "little") if len(data) >= 12 else None
        entries = decode(data)
        for position, (origin, incarnation, seq, born, smid, payload) in enumerate(entries):
            assert smid == SMID
            rows.append(
                head
                | {"entries": len(entries), "position": position, "smid": smid, "origin": origin}
                | {
                    "incarnation": incarnation,
                    "seq": seq,
                    "born": born,
                    "size": len(payload),
                    "value": payload,
                }
            )
        if not entries:
            raw = None if is_no_op(data) else data
            nothing = dict.fromkeys(("position", "smid", "origin", "incarnation", "seq", "born"))
            rows.append(head | nothing | {"entries": 0, "size": len(raw or b""), "value": raw})
    return rows


def exported(made: Replica, folder: Path, form: str) -> Path:
    output = folder / f"decided.{form}"
    assert main(["log", "export", str(made.path), "--format", form, "--output", str(output)]) == 0
    assert os.listdir(folder) == [output.name]
    return output


def program_output(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    """What a program of its own, with these arguments, writes."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=True
    )


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = sorted(rows, key=lambda row: (row["group"], row["instance"], row["position"] or 0))
    for row in rows:
        assert row.pop("round") == 1
        assert row.pop("node") > 0
    return rows


def test_arrow_has_every_entry(made: Replica, tmp_path: Path) -> None:
    with pyarrow.ipc.open_file(exported(made, tmp_path, "arrow")) as file:
        table = file.read_all()
    assert table.schema.names == NAMES
    assert in_order(table.to_pylist()) == expected(made)
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert about["paxmux.seat"] == f"{made.seat:016x}"
    assert about["paxmux.node"] == str(made.node)


def test_parquet_has_every_entry(made: Replica, tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(exported(made, tmp_path, "parquet"))
    assert [(field.name, str(field.type), field.nullable) for field in table.schema] == list(COLUMNS)
    assert in_order(table.to_pylist()) == expected(made)


def test_json_has_every_entry(made: Replica, tmp_path: Path) -> None:
    output = exported(made, tmp_path, "json")
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert all(list(row) == NAMES for row in rows)
    for row in rows:
        row["value"] = None if row["value"] is None else b64decode(row["value"])
    assert in_order(rows) == expected(made)
    assert pyarrow.json.read_json(output).num_rows == len(rows)


@pytest.mark.parametrize("form", FORMATS)
def test_duckdb_reads_it(made: Replica, tmp_path: Path, form: str) -> None:
    output = exported(made, tmp_path, form)
    source, arrow = ("decided", output) if form == "arrow" else (f"'{output}'", None)
    found = duck.rows(
        f'SELECT "group", count(DISTINCT instance), count(position), sum(size)::BIGINT FROM {source}'
        ' GROUP BY "group" ORDER BY "group"',
        tmp_path,
        arrow,
    )
    wanted = []
    for group in range(made.groups):
        mine = [row for row in expected(made) if row["group"] == group]
        instances = len({row["instance"] for row in mine})
        entries = sum(row["position"] is not None for row in mine)
        wanted.append([group, instances, entries, sum(row["size"] for row in mine)])
    assert found == wanted


def test_what_is_not_known_to_be_decided_is_not_exported(tmp_path: Path) -> None:
    made = replica(tmp_path / "node").fill(5).close()
    output = tmp_path / "out.json"
    assert main(["log", "export", str(made.path), "--format", "json", "--output", str(output)]) == 0
    found = {(row["group"], row["instance"]) for row in map(json.loads, output.read_text().splitlines())}
    assert found <= made.decided.keys()
    learned = {key for key in made.decided if key[1] < made.instances[key[0]] - 1}
    assert learned <= found < made.decided.keys()


def test_rows_go_out_in_bounded_batches() -> None:
    sizes: list[tuple[int, int]] = []

    def flush(rows: list[Row]) -> None:
        sizes.append((len(rows), sum(row[-2] for row in rows)))

    rows = Rows(flush)
    small = [Value(0, i, 1, 1, encode([(1, 2, 3, 4, 5, b"x")] * 3), FIRST) for i in range(10_000)]
    rows.add(small)
    assert all(BATCH_ROWS <= count < BATCH_ROWS + 3 for count, _ in sizes)
    rows.finish()
    rows.finish()
    assert sum(count for count, _ in sizes) == rows.count == 30_000
    sizes.clear()
    large = encode([(1, 2, 3, 4, 5, bytes(3 << 20))])
    rows.add(Value(0, i, 1, 1, large, FIRST) for i in range(20))
    assert len(sizes) == 6
    assert all(BATCH_BYTES <= size < BATCH_BYTES + (4 << 20) for _, size in sizes)


def test_an_instance_without_entries_has_a_row() -> None:
    (no_op,) = rows_of(Value(3, 9, 1, 2, encode([], b"\1\0\0\0"), b"\2\0\0\0"))
    assert dict(zip(NAMES, no_op, strict=True)) == {
        **dict.fromkeys(NAMES),
        **{"group": 3, "instance": 9, "round": 1, "node": 2, "checksum": 2, "chain": 1},
        **{"entries": 0, "size": 0},
    }
    (strange,) = rows_of(Value(3, 9, 1, 2, b"short", b"\2\0\0\0"))
    assert dict(zip(NAMES, strange, strict=True))["value"] == b"short"
    assert dict(zip(NAMES, strange, strict=True))["chain"] is None
    assert [is_no_op(each) for each in (b"", b"short", bytes(12), encode([]))] == [False, False, False, True]


@pytest.mark.parametrize("form", FORMATS)
def test_a_failed_export_leaves_what_was_there(tmp_path: Path, form: str) -> None:
    output = tmp_path / "out"
    output.write_text("old")
    (row,) = rows_of(Value(0, 0, 1, 1, encode([]), FIRST))

    def fail() -> None:
        with exporting(output, form, {}) as writer:
            writer.write([row])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(tmp_path) == ["out"]
    assert output.read_text() == "old"
    with exporting(output, form, {}) as writer:
        writer.write([row])
    assert os.listdir(tmp_path) == ["out"]
    assert output.read_bytes() != b"old"


def test_a_file_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is a directory"), exporting(tmp_path, "json", {}):
        pass
    with pytest.raises(InvalidRequest, match="in no directory"), exporting(tmp_path / "a" / "b", "json", {}):
        pass


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """A limit of the file's size stands for the full disk."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from paxmux.tools.log.export import exporting\n"
        "from paxmux.engine.errors import PaxmuxError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "row = (0,) * 14 + (bytes(100_000),)\n"
        "try:\n"
        "    with exporting(Path(sys.argv[1]), 'json', {}) as writer:\n"
        "        writer.write([row])\n"
        "except PaxmuxError as error:\n"
        "    print(error)\n"
    )
    output = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, "-c", program, str(output)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"cannot write {output}: File too large\n"
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_disk_is_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PaxmuxError, match="No space left"), exporting(tmp_path / "out", "json", {}):
        pass
    assert os.listdir(tmp_path) == []


def test_pyarrow_is_imported_only_where_it_is_needed(made: Replica, tmp_path: Path) -> None:
    program = (
        "import sys; from paxmux.tools.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "sys.stderr.write(str('pyarrow' in sys.modules))"
    )
    for words, needed in (
        (["verify", made.path], "False"),
        (["export", made.path, "--format", "json", "--output", tmp_path / "o"], "False"),
        (["export", made.path, "--format", "arrow", "--output", tmp_path / "o"], "True"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, "log", *map(str, words)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == needed


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_memory_does_not_grow_with_the_log(tmp_path: Path, form: str) -> None:
    made = replica(tmp_path / "node", groups=2)
    made.close()
    made.start(segment_bytes=4 << 20)
    # What a process had before it became this program is in its `ru_maxrss`, and not in this.
    program = (
        "import sys; from paxmux.tools.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "status = open('/proc/self/status').read().split()\n"
        "sys.stderr.write(status[status.index('VmHWM:') + 1])"
    )
    peaks: list[int] = []
    sizes: list[int] = []
    for turns in (8_000, 30_000):
        made.fill(turns, size=2_000, sync=False)
        made.settle()
        words = ["log", "export", made.path, "--format", form, "--output", tmp_path / "out"]
        peaks.append(int(program_output(program, *words).stderr.split()[-1]) << 10)
        sizes.append((tmp_path / "out").stat().st_size)
    made.close()
    # A few batches may be under way at once: far less than what was written in between.
    assert peaks[1] - peaks[0] < 3 * BATCH_BYTES < (sizes[1] - sizes[0]) / 2
