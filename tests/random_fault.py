"""One fault, at random, in a copy of a known data directory: a file or a block of it is changed, lost,
exchanged or doubled. The same seed makes the same fault."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

BLOCKS = (512, 4096)
GARBAGE_BYTES = 10_000
USED = 0.7
"""So often a place is taken from what of a file is not zero at its end."""


class Done(NamedTuple):
    """What was done."""

    kind: str
    files: tuple[str, ...]
    """Relative to the directory."""
    detail: str


class _Hand:
    """Does it."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root = root
        self.rng = rng
        files = sorted(each for each in root.rglob("*") if each.is_file())
        sorts = {
            "segment": [each for each in files if each.suffix == ".seg"],
            "index": [each for each in files if each.name == "data.mdb"],
            "other": [each for each in files if each.suffix != ".seg" and each.name != "data.mdb"],
        }
        self._sorts = {name: found for name, found in sorts.items() if found}

    def file(self, *, filled: bool = True) -> Path:
        """Any file; one with bytes in it, if it must be `filled`."""
        while True:
            sort = self.rng.choices(list(self._sorts), [{"segment": 5}.get(name, 3) for name in self._sorts])
            found = self.rng.choice(self._sorts[sort[0]])
            if found.stat().st_size or not filled:
                return found

    def place(self, file: Path, length: int) -> int:
        """Where in a file so many bytes are."""
        data = file.read_bytes()
        used = len(data.rstrip(b"\0")) if self.rng.random() < USED else len(data)
        return self.rng.randrange(max(1, min(used, len(data) - length + 1)))

    def block(self, file: Path) -> tuple[int, int]:
        """(offset, length) of a block of a file."""
        size = self.rng.choice(BLOCKS)
        start = self.place(file, 1) // size * size
        return start, min(size, file.stat().st_size - start)

    def name(self, *files: Path) -> tuple[str, ...]:
        return tuple(str(each.relative_to(self.root)) for each in files)


def flip(hand: _Hand) -> Done:
    """Some bits, near to each other; mostly one."""
    file = hand.file()
    data = bytearray(file.read_bytes())
    start = hand.place(file, 1)
    count = 1 if hand.rng.random() < 0.6 else hand.rng.randrange(2, 17)
    for _ in range(count):
        at = min(len(data) - 1, start + hand.rng.randrange(64 if count > 1 else 1))
        data[at] ^= 1 << hand.rng.randrange(8)
    file.write_bytes(data)
    return Done("flip", hand.name(file), f"{count} bits from {start} on")


def zero(hand: _Hand) -> Done:
    file = hand.file()
    start, length = hand.block(file)
    _put(file, start, bytes(length))
    return Done("zero", hand.name(file), f"{length} bytes at {start}")


def scribble(hand: _Hand) -> Done:
    file = hand.file()
    start, length = hand.block(file)
    _put(file, start, hand.rng.randbytes(length))
    return Done("scribble", hand.name(file), f"{length} bytes at {start}")


def truncate(hand: _Hand) -> Done:
    file = hand.file()
    length = hand.place(file, 1)
    file.write_bytes(file.read_bytes()[:length])
    return Done("truncate", hand.name(file), f"to {length} bytes")


def append(hand: _Hand) -> Done:
    file = hand.file(filled=False)
    garbage = hand.rng.randbytes(hand.rng.randrange(1, GARBAGE_BYTES))
    file.write_bytes(file.read_bytes() + garbage)
    return Done("append", hand.name(file), f"{len(garbage)} bytes")


def remove(hand: _Hand) -> Done:
    file = hand.file(filled=False)
    file.unlink()
    return Done("remove", hand.name(file), "")


def swap_files(hand: _Hand) -> Done:
    one, other = hand.file(filled=False), hand.file(filled=False)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return Done("swap files", hand.name(one, other), "")


def swap_blocks(hand: _Hand) -> Done:
    one = hand.file()
    other = one if hand.rng.random() < 0.5 else hand.file()
    (first, length), (second, more) = hand.block(one), hand.block(other)
    length = min(length, more)
    data, others = _get(one, first, length), _get(other, second, length)
    _put(one, first, others)
    _put(other, second, data)
    return Done("swap blocks", hand.name(one, other), f"{length} bytes at {first} and {second}")


def duplicate(hand: _Hand) -> Done:
    """A file stands a second time under another name: a new one, or one that it takes from another file."""
    file = hand.file(filled=False)
    if hand.rng.random() < 0.5:
        other = hand.file(filled=False)
    else:
        number = hand.rng.randrange(100)
        names = (
            f"{number:010d}.seg",
            f"{number:010d}.seg.tmp",
            "index.bad",
            "index.opening",
            "CLEAN",
            "copy",
        )
        other = file.with_name(hand.rng.choice(names))
    if other != file:
        shutil.copyfile(file, other)
    return Done("duplicate", hand.name(file, other), "")


KINDS: tuple[Callable[[_Hand], Done], ...] = (
    flip,
    flip,
    flip,
    zero,
    scribble,
    truncate,
    append,
    remove,
    swap_files,
    swap_blocks,
    duplicate,
)


def strike(root: Path, rng: random.Random) -> Done:
    """Do one fault to the directory."""
    return rng.choice(KINDS)(_Hand(root, rng))


def _get(file: Path, start: int, length: int) -> bytes:
    return file.read_bytes()[start : start + length]


def _put(file: Path, start: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.write(data)
