"""Lives that end early: each is lived in a child of its own, forked from a process that has no threads and
has loaded everything, so that hundreds of them are cheap.

As a program it is that process: each line of standard input asks for a life, each line of standard output
says how it went.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests import identity_life, log_life
from tests.disk_calls import Calls, Fault
from tests.source_tree import ROOT

DEADLINE_S = 60.0
LIVES: dict[str, tuple[Any, Any]] = {
    "log": (log_life.LogLife, log_life.Said),
    "identity": (identity_life.IdentityLife, identity_life.Said),
}


class Ended(NamedTuple):
    """How a life ended."""

    status: int
    """Exit code of its process; minus the signal that killed it."""
    said: Any
    """The last that was said."""
    struck: bool
    """The fault happened, and the process lived to say so."""


class CrashServer:
    """The process, for as long as it is entered."""

    def __enter__(self) -> CrashServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def live(self, life: str, path: Path, fault: Fault | None) -> Ended:
        """Live one life at `path`, with a fault in it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([life, str(path), fault]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["broken"] is None, answer["broken"]
        said = LIVES[life][1]()
        if answer["said"] is not None:
            said = type(said)(*(tuple(each) if isinstance(each, list) else each for each in answer["said"]))
        return Ended(answer["status"], said, answer["struck"])


def main() -> None:
    """Answer until nobody asks any more."""
    with log_life.quickened():
        for line in sys.stdin:
            life, path, fault = json.loads(line)
            answer = _in_child(life, Path(path), Fault(*fault) if fault is not None else None)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def _in_child(life: str, path: Path, fault: Fault | None) -> dict[str, Any]:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _live(life, path, fault, writer)
    os.close(writer)
    heard = b""
    end = time.monotonic() + DEADLINE_S
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
        data = os.read(reader, 65536)
        if not data:
            break
        heard += data
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    answer: dict[str, Any] = {"status": status, "said": None, "struck": False, "broken": None}
    for word in heard.splitlines():
        answer |= json.loads(word)
    if time.monotonic() >= end:
        answer["broken"] = f"it hung: {fault}"
    return answer


def _live(life: str, path: Path, fault: Fault | None, writer: int) -> None:
    write = os.write
    try:
        calls = Calls(path.parent, fault)

        def say(said: Any) -> None:
            write(writer, json.dumps({"said": said}).encode() + b"\n")

        with calls.entered():
            LIVES[life][0](path, calls, say).live()
        write(writer, json.dumps({"struck": calls.struck}).encode() + b"\n")
        os._exit(0)
    except BaseException:
        write(writer, json.dumps({"broken": f"{fault}: {traceback.format_exc()}"}).encode() + b"\n")
        raise
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
