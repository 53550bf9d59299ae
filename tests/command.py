"""A `paxmux` command as a process, for tests of whole commands: run it, talk to it, end it."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

DEADLINE_S = 90.0


def run_command(
    *words: object, folder: Path, program: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; temporary folders that it makes are in `folder`.

    Args:
        words: its arguments.
        folder: where it runs.
        program: Python source that runs in its stead, with `words` as its arguments.
        environment: more of it.
    """
    start = ["-m", "paxmux"] if program is None else ["-c", program]
    return subprocess.run(
        [sys.executable, *start, *map(str, words)],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


class Command:
    """A command that runs while the test goes on; a context manager that leaves no process behind."""

    def __init__(self, *words: object, folder: Path, python: str | Path = sys.executable) -> None:
        """`words`: its arguments; `folder`: where it runs; `python`: the interpreter, and so the
        environment, that it is run from."""
        environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        self.process = subprocess.Popen(
            [python, "-m", "paxmux", *map(str, words)],
            cwd=folder,
            env={**environment, "TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.lines: list[str] = []
        """What it has printed and `line` has taken."""
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def type(self, text: str) -> None:
        """A line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def line(self) -> str | None:
        """Its next line; None once its output has ended."""
        line = self._queue.get(timeout=DEADLINE_S)
        if line is not None:
            self.lines.append(line)
        return line

    def until(self, wanted: str) -> list[str]:
        """Its lines up to the next one that is `wanted`, which is the last."""
        found: list[str] = []
        while not found or found[-1] != wanted:
            line = self.line()
            assert line is not None, f"{wanted!r} expected, the output ended after {found}; {self.errors()}"
            found.append(line)
        return found

    def family(self) -> list[psutil.Process]:
        """Itself and its children."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def kill(self) -> None:
        """SIGKILL; returns when its children are gone too."""
        family = self.family()
        self.process.kill()
        self.process.wait(DEADLINE_S)
        wait_gone(family)

    def end(self) -> int:
        """End its input; returns its exit code."""
        assert self.process.stdin is not None
        family = self.family() if self.process.poll() is None else []
        self.process.stdin.close()
        code = self.process.wait(DEADLINE_S)
        wait_gone(family)
        while self.line() is not None:
            pass
        return code

    def errors(self) -> str:
        """What it has written to standard error."""
        return "".join(self._errors)

    def until_error(self, words: str) -> None:
        """Wait until it has written `words` to standard error."""
        deadline = time.monotonic() + DEADLINE_S
        while words not in self.errors():
            assert time.monotonic() < deadline, self.errors()
            time.sleep(0.02)

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._errors.append(line)

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        for thread in self._threads:
            thread.join(DEADLINE_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                stream.close()


def wait_gone(processes: list[psutil.Process]) -> None:
    """Wait until none of them lives; fails after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while alive := [process for process in processes if _lives(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
