"""A process of another system, which reads and writes lines of JSON or nothing at all.

Decides that none outlives the comparison: each dies with it, however that ends, and carries the mark by which
tools/processes.py finds it. What it logs is in a file, whose end is in every error.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson

from paxmux.engine.errors import PaxmuxError
from paxmux.tools import processes
from paxmux.tools.driven_node import die_with_parent

_LOG_TAIL_BYTES = 2000


class ForeignProcess:
    """Used in one event loop; whoever starts one calls `kill`."""

    def __init__(self, name: str, words: list[str], log: Path, mark: str) -> None:
        """`words`: the command; `mark`: see tools/processes.py."""
        self.name = name
        self._words = words
        self._log = log
        self._mark = mark
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it. What its environment says about Python is not handed on."""
        environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        with open(self._log, "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**environment, processes.MARK: f"{self._mark}/{self.name}"},
                # Ctrl-C is the comparison's to hear.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    async def ask(self, within_s: float, **request: Any) -> Any:
        """Send a line, unless it would be empty, and return what the next line says.

        Raises:
            PaxmuxError: it has ended, or says nothing in time.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if request:
            self._process.stdin.write(orjson.dumps(request) + b"\n")
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within_s)
        except TimeoutError:
            raise PaxmuxError(f"{self.name} said nothing within {within_s:.0f} s\n{self._tail()}") from None
        if not line:
            raise PaxmuxError(f"{self.name} has ended\n{self._tail()}")
        return orjson.loads(line)

    async def kill(self) -> None:
        """SIGKILL; returns once it is gone. No-op if it was not started."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    def _tail(self) -> str:
        with open(self._log, "rb") as file:
            file.seek(max(0, self._log.stat().st_size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
