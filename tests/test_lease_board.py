"""The lease board: what a reader is told, whatever the writer, or anybody else, has done to the memory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context

import pytest

from paxmux.engine.errors import PaxmuxError
from paxmux.shards import lease_board
from paxmux.shards.lease_board import LEASE_MAX_NS, NOBODY, WORKERS_MAX, LeaseBoard, LeaseRow
from tests.event_loop import DEADLINE_S

GROUPS = 5
ROW = LeaseRow(node=2**64 - 2, version=12, term=7, until_ns=10**9, lease_ns=10**10)
AT = 8 * WORKERS_MAX
"""Where the rows begin."""


@pytest.fixture
def fd() -> Iterator[int]:
    made = LeaseBoard.create(GROUPS)
    yield made
    os.close(made)


@pytest.fixture
def board(fd: int) -> Iterator[LeaseBoard]:
    made = LeaseBoard(fd, GROUPS)
    yield made
    made.close()


def test_a_row_is_read_as_it_was_written(board: LeaseBoard, fd: int) -> None:
    other = LeaseBoard(fd, GROUPS)
    for group in range(GROUPS):
        assert other.read(group) == NOBODY
        board.write(group, ROW._replace(version=group - 1, term=-1), worker=0)
    for group in range(GROUPS):
        assert other.read(group) == ROW._replace(version=group - 1, term=-1)
    other.close()


def test_a_lease_is_believed_until_its_end_and_no_longer(board: LeaseBoard) -> None:
    board.write(3, ROW, worker=0)
    assert board.held(3, ROW.until_ns - 1) == ROW
    assert board.held(3, ROW.until_ns) == NOBODY
    assert board.held(2, 0) == NOBODY, "another group"
    board.write(3, ROW._replace(until_ns=LEASE_MAX_NS + 2), worker=0)
    assert board.held(3, 1) == NOBODY, "no lease is that long"
    assert board.held(3, 2).node == ROW.node


def test_what_has_expired_says_still_who_it_was(board: LeaseBoard) -> None:
    board.write(1, ROW, worker=0)
    board.expire(1, worker=0)
    assert board.read(1) == ROW._replace(until_ns=0)
    assert board.held(1, 0) == NOBODY


def test_a_worker_tells_of_what_others_may_wait_for(board: LeaseBoard) -> None:
    seen = [board.changes()]

    def changed(row: LeaseRow) -> bool:
        board.write(0, row, worker=WORKERS_MAX - 1)
        seen.append(board.changes())
        return seen[-1] != seen[-2]

    assert changed(ROW)
    assert not changed(ROW._replace(version=13, until_ns=2 * 10**9)), "a renewal"
    assert changed(ROW._replace(version=14)), "its end comes sooner"
    assert changed(ROW._replace(term=14))
    assert changed(ROW._replace(term=14, node=0))


def test_a_word_that_is_wrong_makes_the_row_nobodys(board: LeaseBoard, fd: int) -> None:
    """Each bit of the row, and each row in another's place."""
    board.write(2, ROW, worker=0)
    place = AT + 2 * 64
    good = os.pread(fd, 64, place)
    for bit in range(56 * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        os.pwrite(fd, bad, place)
        assert board.read(2) == NOBODY, f"bit {bit}"
    os.pwrite(fd, good, place)
    assert board.read(2) == ROW
    os.pwrite(fd, good, AT + 3 * 64)
    assert board.read(3) == NOBODY, "a row holds for its group alone"


def test_random_memory_is_nobodys(board: LeaseBoard, fd: int) -> None:
    rng = random.Random("lease board")
    for _ in range(300):
        os.pwrite(fd, rng.randbytes(64 * GROUPS), AT)
        assert {board.read(group) for group in range(GROUPS)} == {NOBODY}


def test_a_row_left_half_written_is_nobodys_until_the_next_writer(board: LeaseBoard, fd: int) -> None:
    board.write(4, ROW, worker=0)
    place = AT + 4 * 64
    sequence = int.from_bytes(os.pread(fd, 8, place), "little")
    os.pwrite(fd, (sequence + 1).to_bytes(8, "little"), place)
    assert board.read(4) == NOBODY
    board.write(4, ROW._replace(version=99), worker=1)
    assert board.read(4) == ROW._replace(version=99)


def test_a_reader_gives_up_after_so_many_looks(
    board: LeaseBoard, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def unpack(copy: bytes) -> tuple[int, ...]:
        looks.append(copy)
        return struct.unpack(copy)

    class Struct:
        def __init__(self) -> None:
            self.unpack = unpack

    struct = lease_board._ROW
    monkeypatch.setattr(lease_board, "_ROW", Struct())
    os.pwrite(fd, (1).to_bytes(8, "little"), AT)
    assert board.read(0) == NOBODY
    assert len(looks) == lease_board.READ_TRIES


def _write_for_ever(fd: int) -> None:
    board, number = LeaseBoard(fd, GROUPS), 0
    while True:
        number += 1
        board.write(0, LeaseRow(number, number, number, number, number), worker=0)


def test_a_reader_never_sees_two_writes_mixed(fd: int, board: LeaseBoard) -> None:
    process = get_context("fork").Process(target=_write_for_ever, args=(fd,), daemon=True)
    process.start()
    try:
        seen: set[int] = set()
        last = 0
        deadline = time.monotonic() + DEADLINE_S
        while len(seen) < 3000:
            assert time.monotonic() < deadline, "the writer does not write"
            row = board.read(0)
            assert len(set(row)) == 1 or row == NOBODY, row
            if row != NOBODY:
                assert row.node >= last
                last = row.node
                seen.add(last)
    finally:
        process.kill()
        process.join(DEADLINE_S)


def test_a_board_of_another_size_is_refused(fd: int) -> None:
    with pytest.raises(PaxmuxError, match="a lease board of 6 groups has"):
        LeaseBoard(fd, GROUPS + 1)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(fd, 0)


def test_no_lease_board_outlives_the_processes_that_have_it() -> None:
    """It has no name in any file system."""
    code = "from paxmux.shards.lease_board import LeaseBoard; import os; LeaseBoard.create(3); os._exit(1)"
    before = set(os.listdir("/dev/shm"))
    subprocess.run([sys.executable, "-c", code], check=False, timeout=DEADLINE_S)
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "paxmux" in name}
