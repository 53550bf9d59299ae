"""Inputs that reach new code in whatever reads bytes of others, found by what they make run.

    python -m tests.fuzz_decoders --count 1000000 --seed 1

An input is changed, at random, and run with every line traced of the modules that decode; one that makes a
step run that none did before is kept, and changed further. A decoder may refuse, by the error that its
contract names. Anything else that it raises is a find, and so is an answer that contradicts itself (each
target says how). The exit code is 0 only without one; each is printed with what repeats it.
"""

from __future__ import annotations

import argparse
import logging
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

INPUT_MAX = 4096
SLOW_S = 1.0
"""An input of a few KB that takes so long is a find."""
KEPT_MAX = 2000
ROOT = Path(__file__).parent.parent

Step = tuple[str, int, int]
"""(file, line before, line)"""


class Target(NamedTuple):
    """A decoder."""

    files: tuple[str, ...]
    """Whose lines are traced."""
    seeds: Sequence[bytes]
    run: Callable[[bytes], None]
    """Decodes; raises for a find alone."""
    mend: Callable[[bytearray], None] | None = None
    """Makes checksums right, so that more than their check is reached."""


class Find(NamedTuple):
    """An input that a decoder did not take as it should."""

    target: str
    data: bytes
    words: str


class Result(NamedTuple):
    """What a search came to."""

    runs: int
    kept: int
    steps: int
    steps_of_seeds: int
    find: Find | None


def search(name: str, target: Target, count: int, seed: int) -> Result:
    """Run `count` inputs, or until the first find."""
    rng = random.Random(f"{seed}/{name}")
    kept = list(target.seeds)
    seen: set[Step] = set()
    for data in kept:
        found = _run(name, target, data, seen)
        if found is not None:
            return Result(0, len(kept), len(seen), len(seen), found)
    of_seeds = len(seen)
    for number in range(count):
        data = changed(rng, kept)
        if target.mend is not None and rng.random() < 0.8:
            mended = bytearray(data)
            target.mend(mended)
            data = bytes(mended)
        before = len(seen)
        found = _run(name, target, data, seen)
        if found is not None:
            return Result(number + 1, len(kept), len(seen), of_seeds, found)
        if len(seen) > before and len(kept) < KEPT_MAX:
            kept.append(data)
    return Result(count, len(kept), len(seen), of_seeds, None)


def _run(name: str, target: Target, data: bytes, seen: set[Step]) -> Find | None:
    start = time.perf_counter()
    try:
        with traced(target.files, seen):
            target.run(data)
    except Exception as error:  # noqa: BLE001 - any that a decoder lets out is what is looked for
        return Find(name, data, f"{type(error).__name__}: {error}")
    if time.perf_counter() - start > SLOW_S:
        return Find(name, data, "it takes too long")
    return None


@contextmanager
def traced(files: tuple[str, ...], seen: set[Step]) -> Iterator[None]:
    """Note every step that is made in these files."""
    before = 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal before
        if event == "line":
            seen.add((frame.f_code.co_filename, before, frame.f_lineno))
            before = frame.f_lineno
        return line

    def call(frame: FrameType, _: str, __: Any) -> Any:
        return line if frame.f_code.co_filename in files else None

    outer = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(outer)


NUMBERS = (0, 1, 2, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)


def changed(rng: random.Random, kept: Sequence[bytes]) -> bytes:
    """One of the inputs, with a few changes."""
    data = bytearray(rng.choice(kept))
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.choice((1, 2, 4, 8, 50))]
            case 3:
                data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 50)))
            case 4:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
                data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 5:
                other = rng.choice(kept)
                start = rng.randrange(len(other) + 1)
                data[at:at] = other[start : start + rng.randrange(100)]
            case 6:
                data[at:at] = data[at : at + rng.randrange(64)]
            case _:
                del data[at:]
    return bytes(data[:INPUT_MAX])


def targets() -> dict[str, Target]:
    """Every decoder of what others say."""
    from tests.fuzz_targets import TARGETS

    return TARGETS


def mend_frame(data: bytearray) -> None:
    """Make length and CRC of a frame right, whatever else is wrong."""
    start = 224 if len(data) > 4 and data[4] == 2 else 128
    if len(data) >= start:
        data[8:12] = struct.pack("<I", len(data) - start)
        crc = zlib.crc32(data[start:], zlib.crc32(data[: start - 4]))
        data[start - 4 : start] = crc.to_bytes(4, "little")


def main(argv: list[str] | None = None) -> int:
    """Search in each target, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_decoders", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs, shared by all targets")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--only", choices=sorted(targets()))
    args = parser.parse_args(argv)
    chosen = {name: one for name, one in targets().items() if args.only in (None, name)}
    print(f"seed {args.seed}")
    # What is refused is told in warnings, and nearly everything is refused here.
    logging.disable(logging.CRITICAL)
    good = True
    for name, target in chosen.items():
        start = time.monotonic()
        result = search(name, target, args.count // len(chosen), args.seed)
        print(
            f"{name}: {result.runs:,} inputs in {time.monotonic() - start:.0f} s, {result.steps} steps "
            f"({result.steps_of_seeds} by the seeds), {result.kept} inputs kept",
            flush=True,
        )
        if result.find is not None:
            good = False
            print(f"FOUND in {name}: {result.find.words}\n  {result.find.data.hex()}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
