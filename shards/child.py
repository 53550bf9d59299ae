"""Child processes: how they are started, how they begin, and how both ends talk.

Decides how a fresh interpreter becomes a worker or a router without forking a process that has
threads, and what every child does before anything else: it dies with its parent, leaves Ctrl-C to
it, and takes SIGTERM as a request for a clean stop. Never pickles, and never blocks on the control
socket once the child runs.

Messages are JSON documents of the types in shards/boot.py, one per packet, so that none is ever half
there; descriptors travel beside them.
"""

from __future__ import annotations

import array
import ctypes
import faulthandler
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from paxmux.engine.errors import ExitCode, PaxmuxError
from paxmux.shards.boot import Boot, FromChild, Stop, ToChild

MAX_MESSAGE_BYTES = 192 * 1024
"""What one packet of a Unix socket holds whatever the machine's settings are."""
MAX_FDS = 32
TERM_DRAIN_S = 5.0
"""The drain time of a SIGTERM that comes without a `Stop`."""

_PR_SET_PDEATHSIG = 1
_INT_BYTES = array.array("i").itemsize
_BOOTSTRAP = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "import sys, json; sys.path[:] = json.loads(sys.argv[2]); "
    "from {module} import main; main()"
)

_encode = msgspec.json.Encoder().encode
In = TypeVar("In")
Out = TypeVar("Out")


class ControlError(PaxmuxError):
    """A message could not be sent: it is too large, or the other end does not read."""


class ControlClosed(PaxmuxError):
    """The other end of a control socket is gone."""


class ParentGone(ControlClosed):
    """The process that started this one is gone: leave with `ExitCode.PARENT_GONE`."""


class ControlSocket(Generic[In, Out]):
    """One end of a control socket. `In` comes from the other end, `Out` goes there."""

    closed: type[ControlClosed] = ControlClosed

    def __init__(self, sock: socket.socket, decoder: msgspec.json.Decoder[In]) -> None:
        """Own `sock`, which becomes non-blocking."""
        sock.setblocking(False)
        self.socket = sock
        self._decode = decoder.decode

    def fileno(self) -> int:
        """Readable while a message waits, or the other end is gone."""
        return self.socket.fileno()

    def send(self, message: Out, fds: Iterable[int] = ()) -> None:
        """Send one message, and copies of descriptors with it.

        Raises:
            ControlError: larger than `MAX_MESSAGE_BYTES`, or the other end has not read for long.
            ControlClosed: the other end is gone.
        """
        data = _encode(message)
        name = type(message).__name__
        if len(data) > MAX_MESSAGE_BYTES:
            raise ControlError(
                f"a {name} message of {len(data)} bytes, at most {MAX_MESSAGE_BYTES} fit the control "
                "socket: are arguments of a state machine in the options that large?"
            )
        rights = array.array("i", fds)
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        try:
            self.socket.sendmsg([data], beside)
        except BlockingIOError as error:
            raise ControlError(f"cannot send {name}: the other end does not read its socket") from error
        except (BrokenPipeError, ConnectionError) as error:
            raise self.closed(f"cannot send {name}: the other end is gone") from error

    def receive_with_fds(self) -> list[tuple[In, list[int]]]:
        """All messages that are there, and the descriptors of each, which are the caller's to close.

        Raises:
            ControlClosed: the other end is gone. What it had sent before was returned by earlier
                calls.
        """
        messages: list[tuple[In, list[int]]] = []
        try:
            while (message := self.receive_one()) is not None:
                messages.append(message)
        except ControlClosed:
            # It is raised by the next call too: an end of file stays.
            if not messages:
                raise
        return messages

    def receive_one(self) -> tuple[In, list[int]] | None:
        """The next message; None if none is there. Else as `receive_with_fds`."""
        try:
            data, fds = self._receive()
        except BlockingIOError:
            return None
        except ConnectionError:
            data, fds = b"", []
        if not data:
            raise self.closed("the other end of the control socket is gone")
        try:
            return self._decode(data), fds
        except msgspec.MsgspecError:
            _close_all(fds)
            raise

    def receive_all(self) -> list[In]:
        """As `receive_with_fds`, where no descriptors are expected; any that come are closed."""
        messages = []
        for message, fds in self.receive_with_fds():
            _close_all(fds)
            messages.append(message)
        return messages

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until there is something to receive; False after the time."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def close(self) -> None:
        """Close this end; the other one notices."""
        self.socket.close()

    def _receive(self) -> tuple[bytes, list[int]]:
        data, beside, flags, _ = self.socket.recvmsg(
            MAX_MESSAGE_BYTES, socket.CMSG_SPACE(MAX_FDS * _INT_BYTES), socket.MSG_CMSG_CLOEXEC
        )
        fds = array.array("i")
        for level, kind, rights in beside:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(rights[: len(rights) - len(rights) % _INT_BYTES])
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            _close_all(fds)
            raise ControlError("a control message was cut: too large, or no descriptor is left")
        return data, list(fds)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


class Child(ControlSocket[FromChild, ToChild]):
    """A child process, seen from its parent. Closing the socket makes it leave."""

    def __init__(self, popen: subprocess.Popen[bytes], sock: socket.socket) -> None:
        super().__init__(sock, msgspec.json.Decoder(FromChild))
        self.popen = popen

    @property
    def pid(self) -> int:
        """Its process id; it stays taken until `popen` was waited for."""
        return self.popen.pid


def spawn_child(module: str, *, sys_path: Sequence[str] | None = None) -> Child:
    """Start a fresh interpreter that runs `main()` of a module. Its boot message is the caller's to send.

    The child is killed when the *thread* that calls this ends: call it in a thread that lives as
    long as the node, such as the one of its event loop.

    Args:
        module: dotted name.
        sys_path: where the child imports from; this process's own by default.

    Raises:
        PaxmuxError: this interpreter has no executable.
        OSError: the process cannot be started.
    """
    if not sys.executable:
        raise PaxmuxError("sys.executable is not set: child processes cannot be started")
    path = list(sys.path) if sys_path is None else list(sys_path)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        popen = subprocess.Popen(
            [
                sys.executable,
                *_flags(),
                # The current directory is no place to import from, unless the path says so.
                "-P",
                "-c",
                _BOOTSTRAP.format(module=module),
                str(theirs.fileno()),
                json.dumps(absolute(path)),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    except BaseException:
        mine.close()
        raise
    finally:
        theirs.close()
    return Child(popen, mine)


def absolute(sys_path: Iterable[str]) -> list[str]:
    """A module search path that means the same in every directory."""
    # What does not exist may be the mark of an import hook, which must keep its name.
    return [os.path.abspath(entry) if not entry or os.path.exists(entry) else entry for entry in sys_path]


def _flags() -> list[str]:
    """Options of this interpreter that its children must share to find the same modules."""
    flags = sys.flags
    return [
        *(["-E"] if flags.ignore_environment else []),
        *(["-s"] if flags.no_user_site else []),
        *(["-S"] if flags.no_site else []),
        *(["-" + "O" * flags.optimize] if flags.optimize else []),
    ]


class Parent(ControlSocket[ToChild, FromChild]):
    """The parent process, seen from its child."""

    closed = ParentGone

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, msgspec.json.Decoder(ToChild))
        self._terminate = False

    def receive_one(self) -> tuple[ToChild, list[int]] | None:
        """As in the base class; a SIGTERM shows as one `Stop`. It does not make the socket readable:
        look at least twice a second."""
        message = super().receive_one()
        if message is None and self._terminate:
            self._terminate = False
            return Stop(drain_s=TERM_DRAIN_S), []
        return message

    def terminate(self, *_: Any) -> None:
        """The handler of SIGTERM."""
        self._terminate = True


def be_child() -> tuple[Parent, Boot, list[int]]:
    """What a child does first.

    Returns:
        The parent, its boot message, and the descriptors that came along.

    Raises:
        SystemExit: with `ExitCode.PARENT_GONE`.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.stderr is not None:
        # A worker that hangs is ended by SIGABRT, and says where it hung.
        faulthandler.enable()
    parent = Parent(socket.socket(fileno=int(sys.argv[1])))
    os.set_inheritable(parent.fileno(), False)
    signal.signal(signal.SIGTERM, parent.terminate)
    # The supervisor's question where it is: who has no answer to it must not die of it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        if os.getppid() != _creator(parent.socket):
            raise ParentGone("the parent is gone already")
        while (message := parent.receive_one()) is None:
            parent.wait(0.5)
    except ParentGone:
        raise SystemExit(ExitCode.PARENT_GONE) from None
    boot, fds = message
    if isinstance(boot, Stop):
        raise SystemExit(ExitCode.OK)
    if not isinstance(boot, Boot):
        raise ControlError(f"expected a boot message first, got {type(boot).__name__}")
    sys.path[:] = boot.sys_path
    return parent, boot, fds


def _creator(sock: socket.socket) -> int:
    """Process that made the pair of sockets. It tells a parent that died before the death signal was
    asked for: this process then already has another one."""
    size = struct.calcsize("iII")
    pid: int = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    return pid
