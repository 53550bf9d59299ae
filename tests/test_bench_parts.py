"""Parts of the yardstick that need no cluster: who proposes where, the hash, the machine around it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from paxmux.engine.errors import DataDirError, PaxmuxError
from paxmux.tools import event_loop, processes
from paxmux.tools.bench_machine import Chain, read_answer
from paxmux.tools.bench_run import BenchOptions, doubts, shares
from paxmux.tools.leftovers import Leftovers
from paxmux.tools.ports import PortClaims
from paxmux.tools.scratch import Scratch
from paxmux.tools.stdin_lines import StdinLines
from paxmux.tools.surroundings import ForeignCpu, cpu_s, fdatasync_p50_us, file_system


def test_one_proposer_has_all_groups_and_clients() -> None:
    assert shares(BenchOptions(nodes=3, groups=4, clients=7)) == [([0, 1, 2, 3], 7), ([], 0), ([], 0)]


@pytest.mark.parametrize(("nodes", "groups", "clients"), [(3, 100, 100), (3, 4, 7), (5, 2, 9), (1, 1, 1)])
def test_all_proposers_share_groups_and_clients(nodes: int, groups: int, clients: int) -> None:
    made = shares(BenchOptions(nodes=nodes, groups=groups, clients=clients, proposer="all"))
    assert sorted(group for own, _ in made for group in own) == list(range(groups))
    assert all(group % nodes == node for node, (own, _) in enumerate(made) for group in own)
    assert sum(count for _, count in made) == clients
    assert all(bool(own) or not count for own, count in made)


def test_mixed_proposers_have_all_groups_each() -> None:
    made = shares(BenchOptions(nodes=3, groups=2, clients=7, proposer="mixed"))
    assert made == [([0, 1], 3), ([0, 1], 2), ([0, 1], 2)]


def test_the_hash_covers_every_byte_in_order() -> None:
    def run(*values: tuple[int, bytes]) -> tuple[int, str]:
        chain = Chain(0)
        for instance, value in values:
            chain.execute(instance, value, None)
        return read_answer(chain.query(b""))

    same = run((0, b"a"), (0, b"bc"), (1, b""))
    assert same == run((0, b"a"), (0, b"bc"), (1, b""))
    assert same[0] == 3
    others = [
        run((0, b"ab"), (0, b"c"), (1, b"")),
        run((0, b"bc"), (0, b"a"), (1, b"")),
        run((0, b"a"), (1, b"bc"), (1, b"")),
        run((0, b"a"), (0, b"bc")),
        run((0, b"a"), (0, b"bc"), (1, b""), (1, b"")),
    ]
    assert len({digest for _, digest in [same, *others]}) == 6


def test_a_measurement_in_memory_or_beside_others_is_not_valid() -> None:
    assert doubts("ext4", 10.0) == []
    assert "in memory (tmpfs)" in doubts("tmpfs", 0.0)[0]
    assert doubts("ext4", 10.1) == ["other processes used 10.1 % of the CPUs"]
    assert len(doubts("ramfs", 50.0)) == 2


def test_the_file_system_is_that_of_the_deepest_mount() -> None:
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/proc/../proc")) == "proc"
    assert file_system(Path("/")) not in {"unknown", "proc"}


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    assert fdatasync_p50_us(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_cpu_of_others_is_what_own_processes_did_not_use() -> None:
    program = "import time\nwhile time.process_time() < 0.5: pass\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        mine, foreign = ForeignCpu([process]), ForeignCpu([])
        before_s = cpu_s(process)
        while cpu_s(process) < 0.45:
            assert child.poll() is None
        used_s = cpu_s(process) - before_s
        # Both have counted the same others; only the one counts the child among them.
        assert (foreign.percent() - mine.percent()) * (psutil.cpu_count() or 1) > 0
        assert used_s > 0.2
        child.communicate()


def test_scratch_is_temporary_unless_it_is_given_or_kept(tmp_path: Path) -> None:
    with Scratch(None) as temporary:
        (temporary.path / "x").write_text("x")
    assert not temporary.path.exists()
    with Scratch(None) as kept:
        assert kept.keep() == kept.path
    assert kept.path.is_dir()
    kept.path.rmdir()
    with Scratch(str(tmp_path / "a" / "b")) as given:
        (given.path / "x").write_text("x")
    assert (tmp_path / "a" / "b" / "x").exists()
    with pytest.raises(DataDirError, match="expected an empty folder or none, found x"):
        Scratch(str(tmp_path / "a" / "b")).__enter__()
    with pytest.raises(DataDirError, match="expected a folder"):
        Scratch(str(tmp_path / "a" / "b" / "x")).__enter__()


def test_a_claimed_port_is_not_given_twice() -> None:
    with PortClaims() as first, PortClaims() as second:
        mine, theirs = first.take(50), second.take(50)
        assert not set(mine) & set(theirs)
        assert len({*mine, *theirs}) == 100
        for port in mine:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
                assert probe.getsockname()[1] == port


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\n\nthree", [b"one", b"", b"three"]),
        (b"x" * 200_000 + b"\ny", [b"x" * 200_000, b"y"]),
    ],
)
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_lines_come_from_files_and_pipes(data: bytes, lines: list[bytes], kind: str, tmp_path: Path) -> None:
    async def read(fd: int) -> list[bytes]:
        reader, found = StdinLines(fd), []
        while (line := await asyncio.wait_for(reader.next(), 30)) is not None:
            found.append(line)
        return found

    (tmp_path / "data").write_bytes(data)
    if kind == "file":
        with open(tmp_path / "data", "rb") as file:
            assert asyncio.run(read(file.fileno())) == lines
    else:
        with subprocess.Popen(["cat", str(tmp_path / "data")], stdout=subprocess.PIPE) as cat:
            assert cat.stdout is not None
            assert asyncio.run(read(cat.stdout.fileno())) == lines


def test_the_null_device_is_an_end_of_input() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    try:
        assert asyncio.run(StdinLines(fd).next()) is None
    finally:
        os.close(fd)


def test_waiting_for_a_line_does_not_block_the_loop() -> None:
    async def read() -> bytes | None:
        reader, writer = os.pipe()
        line = asyncio.create_task(StdinLines(reader).next())
        await asyncio.sleep(0.01)
        assert not line.done()
        os.write(writer, b"late\n")
        found = await asyncio.wait_for(line, 30)
        os.close(reader)
        os.close(writer)
        return found

    assert asyncio.run(read()) == b"late"


def test_a_group_of_errors_is_told_as_one() -> None:
    async def fail(*errors: Exception) -> None:
        async def one(error: Exception) -> None:
            raise error

        async with asyncio.TaskGroup() as tasks:
            for error in errors:
                tasks.create_task(one(error))

    with pytest.raises(PaxmuxError, match="first"):
        event_loop.run(fail(PaxmuxError("first"), PaxmuxError("second")))
    with pytest.raises(ExceptionGroup):
        event_loop.run(fail(PaxmuxError("first"), OSError("second")))


def test_processes_are_found_by_their_mark_and_nothing_else_is() -> None:
    program = [sys.executable, "-c", "input()"]
    environment = {**os.environ, processes.MARK: f"test-{os.getpid()}/a"}
    with (
        subprocess.Popen(program, stdin=subprocess.PIPE, env=environment) as mine,
        subprocess.Popen(program, stdin=subprocess.PIPE) as other,
    ):
        mark = f"test-{os.getpid()}"
        assert [process.pid for process in processes.marked(mark)] == [mine.pid]
        assert [process.pid for process in processes.marked(f"{mark}/a")] == [mine.pid]
        assert processes.marked(f"{mark}/") == processes.marked(mark[:-1]) == []
        processes.kill_marked(mark)
        assert mine.wait(30) == -9
        assert asyncio.run(processes.wait_gone(mark, 30)) == []
        assert other.poll() is None
        other.communicate()


def test_what_is_left_is_named(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    leftovers = Leftovers(tmp_path)
    assert asyncio.run(leftovers.found("no such mark")) == []
    (tmp_path / "new").touch()
    # Other programs' affair.
    (tmp_path / "folder").mkdir()
    (tmp_path / "sem.mp-1").touch()
    assert asyncio.run(leftovers.found("no such mark")) == [f"file {tmp_path / 'new'}"]
