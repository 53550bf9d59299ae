"""Large writes past the page cache: the same bytes at the same places, whatever length and alignment."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from paxmux.plugins.storage import direct_write
from paxmux.plugins.storage.direct_write import ALIGN_BYTES, BUFFER_BYTES, DIRECT_BYTES, DirectWrites

FILE_BYTES = 8 << 20


class File:
    """A file full of one byte, and what should be in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"\xaa" * FILE_BYTES)
        self.expected = bytearray(b"\xaa" * FILE_BYTES)
        self.fd = os.open(path, os.O_RDWR)
        self.direct = DirectWrites()
        self.direct.open(path)

    def write(self, offset: int, pieces: list[bytes]) -> None:
        data = b"".join(pieces)
        self.direct.write(self.fd, pieces, len(data), offset)
        self.expected[offset : offset + len(data)] = data

    def check(self) -> None:
        os.fdatasync(self.fd)
        assert self.path.read_bytes() == self.expected

    def close(self) -> None:
        self.direct.close()
        os.close(self.fd)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "file")


@pytest.mark.parametrize("offset", [0, 1, ALIGN_BYTES - 1, ALIGN_BYTES, ALIGN_BYTES + 1, 10_000])
@pytest.mark.parametrize(
    "size",
    [
        1,
        DIRECT_BYTES - 1,
        DIRECT_BYTES,
        DIRECT_BYTES + 1,
        BUFFER_BYTES,
        BUFFER_BYTES + 1,
        3 * BUFFER_BYTES - 1,
    ],
)
def test_any_length_at_any_offset(file: File, offset: int, size: int) -> None:
    file.write(offset, [os.urandom(size)])
    file.check()
    file.close()


@pytest.mark.parametrize("seed", range(5))
def test_batches_behind_each_other_in_many_pieces(file: File, seed: int) -> None:
    rng = random.Random(seed)
    offset = rng.randrange(5000)
    while offset < FILE_BYTES - 3 * BUFFER_BYTES:
        sizes = [rng.choice((0, 4, 40, 4096, 100_000, 300_000)) for _ in range(rng.randrange(1, 8))]
        file.write(offset, [rng.randbytes(size) for size in sizes])
        offset += sum(sizes)
        if rng.random() < 0.3:
            # What was read before must not be what is read afterwards.
            assert os.pread(file.fd, offset, 0) == file.expected[:offset]
    file.check()
    file.close()


def test_a_file_system_without_it_gets_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refusing(path: Path, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "not here")
        return opened(path, flags, *rest)

    monkeypatch.setattr(direct_write.os, "open", refusing)
    file = File(tmp_path / "file")
    file.write(77, [os.urandom(1 << 20), b"end"])
    file.check()
    file.close()


def test_an_error_of_the_disk_is_not_swallowed(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int, data: memoryview, offset: int) -> int:
        raise OSError(5, "as asked")

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OSError, match="as asked"):
        file.write(0, [bytes(DIRECT_BYTES)])
    monkeypatch.undo()
    file.close()
