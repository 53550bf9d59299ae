"""A node process, seen from the tool that drives it (see tools/driven_node.py for the other end).

Decides how such a process is started, asked, killed and reaped. It is always reaped: whoever starts
one calls `stop` or `kill` in the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from paxmux.engine.errors import PaxmuxError, error_for
from paxmux.shards.child import absolute
from paxmux.tools import node_wire, processes

ASK_S = 30.0
REAP_S = 10.0
_POLL_S = 0.01
_LOG_TAIL_BYTES = 2000

OnEvent = Callable[["NodeHandle", dict[str, Any]], None]


class NodeGone(PaxmuxError):
    """The process has ended, or was never started."""


class NodeHandle:
    """One place in a cluster; its process may die and be started again. Used in one event loop only."""

    def __init__(
        self,
        name: str,
        config: Path,
        data_dir: Path,
        mark: str,
        on_event: OnEvent | None,
        environment: dict[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """`mark`: see tools/processes.py; `environment`: beside this process's own; `command`: what begins
        its command line, and becomes it (exec) somewhere else."""
        self.name = name
        self.config = config
        self.data_dir = data_dir
        self.log_file = config.with_suffix(".log")
        self._mark = f"{mark}/{name}"
        self._on_event = on_event
        self._environment = environment or {}
        self._command = tuple(command)
        self._popen: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asks: dict[int, asyncio.Future[Any]] = {}
        self._ask = 0
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int | None:
        """Its process id; None unless it runs."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    @property
    def died(self) -> int | None:
        """Its exit code, if it has ended and nobody made it end."""
        return self._popen.poll() if self._popen is not None else None

    def children(self) -> list[psutil.Process]:
        """The node's own child processes, in the order of their ids."""
        pid = self.pid
        return sorted(
            (process for process in processes.marked(self._mark) if process.pid != pid),
            key=lambda process: process.pid,
        )

    async def start(self) -> None:
        """Start the process; `ready` waits for its node."""
        if self._popen is not None:
            raise PaxmuxError(f"{self.name} runs already")
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {
            **os.environ,
            **self._environment,
            processes.MARK: self._mark,
            "PYTHONPATH": _python_path(),
        }
        with theirs, open(self.log_file, "ab") as log:
            program = (sys.executable, "-P", "-m", "paxmux.tools.driven_node")
            self._popen = subprocess.Popen(
                [*self._command, *program, str(theirs.fileno()), str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                env=environment,
                # A session of its own: Ctrl-C reaches the tool alone, which then stops its nodes.
                start_new_session=True,
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=mine)
        self._ready = asyncio.get_running_loop().create_future()
        self._reading = asyncio.create_task(self._read(reader))

    async def ready(self, timeout_s: float) -> None:
        """Wait until the node serves.

        Raises:
            PaxmuxError: it cannot start; the message has its reason and the end of its log.
        """
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), timeout_s)
        except PaxmuxError as error:
            raise PaxmuxError(f"{self.name} did not start: {error}\n{self.log_tail()}") from error
        except TimeoutError:
            raise PaxmuxError(
                f"{self.name} did not serve within {timeout_s:.0f} s\n{self.log_tail()}"
            ) from None

    async def ask(self, op: str, *, within_s: float = ASK_S, **arguments: Any) -> Any:
        """Have an operation done.

        Raises:
            NodeGone: the process ended before it had answered.
            PaxmuxError: the operation's own error, or no answer within `within_s`.
        """
        if self._writer is None:
            raise NodeGone(f"{self.name} does not run")
        self._ask += 1
        number = self._ask
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asks[number] = answer
        self._writer.write(node_wire.pack({"ask": number, "op": op, **arguments}))
        try:
            return await asyncio.wait_for(answer, within_s)
        except PaxmuxError:
            # The operation's own outcome; its timeout is a TimeoutError as well.
            raise
        except TimeoutError:
            raise PaxmuxError(f"{self.name} did not answer {op!r} within {within_s:.0f} s") from None
        finally:
            self._asks.pop(number, None)

    def send_signal(self, number: signal.Signals) -> None:
        """Send the node's own process a signal, if it runs."""
        if self._popen is not None:
            self._popen.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL; returns once the node and its children are gone. No-op if it does not run."""
        if self._popen is not None:
            self._popen.kill()
            await self._reap()

    async def stop(self, drain_s: float) -> int:
        """Stop it cleanly, or kill it if it does not; returns its exit code."""
        if self._popen is None or self._writer is None:
            raise NodeGone(f"{self.name} does not run")
        self._writer.write(node_wire.pack({"op": "stop", "drain_s": drain_s}))
        deadline = time.monotonic() + drain_s + REAP_S
        while self._popen.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
        if self._popen.poll() is None:
            self._popen.kill()
        return await self._reap()

    def log_tail(self) -> str:
        """The end of what the node and its workers have logged."""
        try:
            with open(self.log_file, "rb") as file:
                file.seek(max(0, self.log_file.stat().st_size - _LOG_TAIL_BYTES))
                return file.read().decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""

    async def _reap(self) -> int:
        popen, self._popen = self._popen, None
        assert popen is not None
        deadline = time.monotonic() + REAP_S
        while (code := popen.poll()) is None and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
        left = await processes.wait_gone(self._mark, REAP_S)
        if self._reading is not None:
            # What the process had said before it died is read to its end first.
            await asyncio.wait([self._reading], timeout=REAP_S)
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if code is None or left:
            raise PaxmuxError(f"{self.name} was killed, and processes of it are still there: {left}")
        return code

    async def _read(self, reader: asyncio.StreamReader) -> None:
        reason: PaxmuxError = NodeGone(f"the process of {self.name} has ended")
        while (document := await node_wire.receive(reader)) is not None:
            match document.get("event"):
                case None:
                    self._answered(document)
                case "ready":
                    self._ready.set_result(None)
                case "failed":
                    reason = error_for(document["code"], document["error"])
                case _ if self._on_event is not None:
                    self._on_event(self, document)
        for answer in self._asks.values():
            if not answer.done():
                answer.set_exception(NodeGone(f"the process of {self.name} has ended"))
        if not self._ready.done():
            self._ready.set_exception(reason)
            # Nobody need be waiting for it: a node may be killed before it serves.
            self._ready.exception()

    def _answered(self, document: dict[str, Any]) -> None:
        answer = self._asks.get(document["ask"])
        if answer is None or answer.done():
            return  # whoever asked has stopped waiting
        if "error" in document:
            answer.set_exception(error_for(document["code"], document["error"]))
        else:
            answer.set_result(document["result"])


def _python_path() -> str:
    """Children find state machines where this process would."""
    return os.pathsep.join(entry for entry in absolute(sys.path) if entry)
