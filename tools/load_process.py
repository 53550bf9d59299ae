"""A process of open loads, seen from the tool that starts it (tools/load_client.py is the other end).

Decides how it is started, told when to begin, and reaped. Whoever makes one calls `close` in the end: no
process is left then.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from paxmux.engine.errors import PaxmuxError
from paxmux.shards.child import absolute
from paxmux.tools import node_wire, processes
from paxmux.tools.open_load import OpenResult

READY_S = 60.0
_LOG_TAIL_BYTES = 2000


class LoadProcess:
    """One process. Used in one event loop only."""

    def __init__(self, name: str, folder: Path, mark: str) -> None:
        """`folder`: where its log goes; `mark`: see tools/processes.py."""
        self.name = name
        self._log_file = folder / f"{name}.log"
        self._mark = f"{mark}/{name}"
        self._popen: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int | None:
        """Its process id, once it is started."""
        return self._popen.pid if self._popen is not None else None

    async def start(self, loads: list[dict[str, Any]]) -> None:
        """Start it; returns once it is connected to its nodes.

        Args:
            loads: for each load its `socket` and its `spec`.

        Raises:
            PaxmuxError: it cannot begin; with its reason.
        """
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {
            **os.environ,
            processes.MARK: self._mark,
            "PYTHONPATH": os.pathsep.join(entry for entry in absolute(sys.path) if entry),
        }
        with theirs, open(self._log_file, "ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "paxmux.tools.load_client", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env=environment,
                start_new_session=True,
            )
        self._reader, self._writer = await asyncio.open_unix_connection(sock=mine)
        self._writer.write(node_wire.pack({"loads": loads}))
        await self._hear("ready", READY_S)

    async def run(self, start_ns: int, within_s: float) -> list[OpenResult]:
        """Let the loads begin at `start_ns` (CLOCK_MONOTONIC); returns what came of each of them.

        Raises:
            PaxmuxError: it failed, died, or has not answered within `within_s`.
        """
        assert self._writer is not None, "it is not started"
        self._writer.write(node_wire.pack({"start_ns": start_ns}))
        document = await self._hear("done", within_s)
        return msgspec.convert(document["results"], list[OpenResult])

    async def close(self) -> None:
        """Kill it, if it still runs, and reap it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        popen, self._popen = self._popen, None
        if popen is not None:
            popen.kill()
            await asyncio.to_thread(popen.wait)

    async def _hear(self, event: str, within_s: float) -> dict[str, Any]:
        try:
            document = await asyncio.wait_for(node_wire.receive(self._reader), within_s)
        except TimeoutError:
            raise PaxmuxError(f"{self.name} said nothing for {within_s:.0f} s{self._log_tail()}") from None
        if document is None:
            raise PaxmuxError(f"the process of {self.name} has ended{self._log_tail()}")
        if document["event"] != event:
            raise PaxmuxError(f"{self.name}: {document['error']}{self._log_tail()}")
        return document

    def _log_tail(self) -> str:
        text = self._log_file.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
        return f"\n{text}" if text else ""
