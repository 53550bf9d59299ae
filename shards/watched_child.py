"""One running child process: its messages, its end, and how it is made to end.

Decides nothing about what follows. Reading, watching and reaping never block the event loop; the end
of a child is told once, after everything that it had said, and after it was reaped: only then may a
successor open the same files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable

import msgspec

from paxmux.engine.clock import clock_ns
from paxmux.engine.errors import ExitCode
from paxmux.shards.boot import Boot, FromChild, Stop, ToChild
from paxmux.shards.child import Child, ControlClosed, ControlError

POLL_S = 0.05
"""Without process descriptors (old kernels, some sandboxes) a child is looked at so often."""
ABORT_S = 1.0
"""Time between SIGABRT, at which a child says where it hangs, and SIGKILL."""
REAP_S = 10.0
"""A killed process that is not gone after this hangs in the kernel: it is left alone and reported."""

log = logging.getLogger("paxmux")


class WatchedChild:
    """Watches a child until it is reaped. Used in the node's event loop only."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        child: Child,
        name: str,
        on_message: Callable[[FromChild], None],
        on_exit: Callable[[int], None],
    ) -> None:
        """Own `child`. `on_exit` takes the exit code as `subprocess` has it: negative for a signal."""
        self.name = name
        self.pid = child.pid
        self.started_ns = clock_ns()
        self.gone: asyncio.Future[int] = loop.create_future()
        """Its exit code, once it is reaped and `on_exit` was called."""
        self._loop = loop
        self._child = child
        self._on_message = on_message
        self._on_exit = on_exit
        self._reading = True
        self._poll: asyncio.TimerHandle | None = None
        loop.add_reader(child.fileno(), self._read)
        try:
            self._pidfd = os.pidfd_open(child.pid)
        except OSError as error:
            log.debug("no process descriptor for %s (%s): it is polled", name, error)
            self._pidfd = -1
            self._poll = loop.call_later(POLL_S, self._look)
        else:
            loop.add_reader(self._pidfd, self._look)

    def boot(self, message: Boot, fds: Iterable[int]) -> None:
        """Send the boot message. A child that is gone already is no error here: its end is told soon.

        Raises:
            ControlError: it is too large for the control socket.
        """
        with contextlib.suppress(ControlClosed):
            self._child.send(message, fds)

    def send(self, message: ToChild, fds: Iterable[int] = ()) -> bool:
        """Send a message; False if the child is about to be gone. A child that does not read is killed."""
        try:
            self._child.send(message, fds)
        except ControlClosed:
            return False
        except ControlError as error:
            log.error("%s is killed: %s", self.name, error)
            self.kill()
            return False
        return True

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send it a signal. Its id is its own until it is reaped, so no other process is hit."""
        self._child.popen.send_signal(signal_number)

    def abort(self) -> None:
        """Kill it, after it had a moment to say where it hangs; its end is told as any other."""
        self.kill(signal.SIGABRT)
        self._loop.call_later(ABORT_S, self.kill)

    async def end(self, drain_s: float, grace_s: float) -> None:
        """Ask it to stop within `drain_s`, and make it stop `grace_s` later; returns once it is gone."""
        if self.send(Stop(drain_s=drain_s)) and await self._gone_within(drain_s + grace_s):
            return
        if not self.gone.done():
            log.warning("%s did not stop within %.1f s: it is killed", self.name, drain_s + grace_s)
            self.kill(signal.SIGABRT)
        if await self._gone_within(ABORT_S):
            return
        self.kill()
        if not await self._gone_within(REAP_S):
            log.error("%s (process %d) was killed and does not go away", self.name, self.pid)

    async def _gone_within(self, timeout_s: float) -> bool:
        done, _ = await asyncio.wait([self.gone], timeout=timeout_s)
        return bool(done)

    def _read(self) -> bool:
        """Take what is there; whether there was anything."""
        try:
            messages = self._child.receive_all()
            for message in messages:
                self._on_message(message)
            return bool(messages)
        except ControlClosed:
            self._stop_reading()
        except (ControlError, msgspec.MsgspecError) as error:
            log.error("%s is killed, it said what makes no sense: %s", self.name, error)
            self._stop_reading()
            self.kill()
        return False

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._child.fileno())

    def _look(self) -> None:
        code = self._child.popen.poll()
        if code is None:
            if self._poll is not None:
                self._poll = self._loop.call_later(POLL_S, self._look)
            return
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        # Its last words may still wait in the socket. An end of file need not follow them: a process
        # that the child had forked may hold the socket too.
        while self._reading and self._read():
            pass
        self._stop_reading()
        self._child.close()
        self._on_exit(code)
        self.gone.set_result(code)


def exit_text(code: int) -> str:
    """An exit code of `subprocess` in words."""
    if code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    try:
        return f"exit code {code}, {ExitCode(code).name.lower().replace('_', ' ')}"
    except ValueError:
        return f"exit code {code}"
