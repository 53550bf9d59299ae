"""What a process had the disk do to the data file of a log in plain LMDB, call by call, seen by strace; and
what a power cut after any of those calls may leave of the file."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path

from tests.disk_model import Event, File, put

CALLS = "openat,lseek,write,pwrite64,writev,fdatasync,fallocate,ftruncate"

_CALL = re.compile(r"^\d+ +(\w+)\((\d+)<([^>]*)>(.*)$")
_OPENED = re.compile(r"^\d+ +openat\(.*(?:O_RDONLY|O_RDWR|O_WRONLY)(.*)\) = (\d+)<")
_DATA = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_NUMBERS = re.compile(r", (\d+)")


def record(command: list[str], folder: Path, trace: Path) -> list[Event]:
    """Run a program to its end; what it did to the data file that has its final name, and what it said.

    The first event is a write of all that was there when the file got that name, all of it durable.
    """
    traced = [
        "strace",
        "-f",
        "-qq",
        "-y",
        "-xx",
        "-s",
        str(1 << 24),
        "-o",
        str(trace),
        "-e",
        f"trace={CALLS}",
    ]
    done = subprocess.run(traced + command, cwd=folder, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return parsed(trace.read_text(encoding="ascii").splitlines())


def parsed(lines: list[str]) -> list[Event]:
    events: list[Event] = []
    synchronous: set[int] = set()
    at: dict[int, int] = {}
    made = bytearray()
    for line in lines:
        opened = _OPENED.match(line)
        if opened:
            # A number is given again after it was closed.
            (synchronous.add if "O_DSYNC" in opened[1] else synchronous.discard)(int(opened[2]))
        call = _CALL.match(line)
        if call is None:
            continue
        name, fd, path, rest = call[1], int(call[2]), _bytes(call[3]), call[4]
        if name == "write" and fd == 1:
            events.append(Event("said", data=b"".join(map(_bytes, _DATA.findall(rest)))))
        if not path.endswith(b"/data.mdb"):
            continue
        final = not path.endswith(b"/lmdb.new/data.mdb")
        data = b"".join(map(_bytes, _DATA.findall(rest)))
        numbers = [int(number) for number in _NUMBERS.findall(rest)]
        if name == "lseek":
            at[fd] = numbers[0]
        elif name == "writev":
            written, at[fd] = at[fd], at[fd] + len(data)
            _write(events, made, Event("write", offset=written, data=data), final)
        elif name == "pwrite64":
            kind = "durable" if fd in synchronous else "write"
            _write(events, made, Event(kind, offset=numbers[1], data=data), final)
        elif name == "fdatasync" and final:
            events.append(Event("sync"))
        elif name in ("fallocate", "ftruncate") and final:
            events.append(Event("length", length=sum(numbers[-2:] if name == "fallocate" else numbers)))
    return events


def _write(events: list[Event], made: bytearray, event: Event, final: bool) -> None:
    if final:
        if not events:
            events.append(Event("durable", data=bytes(made)))
        events.append(event)
    else:
        put(made, event.offset, event.data)


def images(events: list[Event], rng: random.Random, each: int) -> list[tuple[bytes, bytes]]:
    """(file, said so far) that a power cut after each event may leave, `each` of them at random."""
    found = []
    file, end, said = File(), 0, b""
    for event in events:
        end = max(end, event.offset + len(event.data), event.length)
        if event.kind == "said":
            said = event.data
        elif event.kind == "sync":
            file.sync()
        elif event.kind == "length":
            file.pending.append(event._replace(length=end))
        elif event.kind == "write":
            file.pending.append(event)
        else:
            # While it was under way it may have been cut off; once it returned it is there.
            file.pending.append(event)
            found.append((file.cut(rng), said))
            file.pending.pop()
            put(file.durable, event.offset, event.data)
        found += [(file.cut(rng), said) for _ in range(each)]
    return found[1:]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def can_trace() -> bool:
    """Whether strace is there, and may trace."""
    try:
        done = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
