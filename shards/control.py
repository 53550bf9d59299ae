"""The control socket: how the command line asks a running node.

A unix stream socket `control.sock` in the data directory, for its owner alone: the file's mode says so
(0600), and the kernel says who connects. A request is one line of JSON with an `op`, the answer one line of
JSON: `{"ok": true, "result": ...}` or `{"ok": false, "error": "...", "code": N}`. Requests, connections
and idle time are bounded. It decides nothing about the node: it only hands operations to their handlers.

Only the holder of the data directory's lock binds the socket, so a file found there is one that a
killed node left behind, and is replaced. Both sides reach it through a descriptor of the directory:
a unix socket's path may have 107 bytes, a data directory's may have more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from struct import Struct
from typing import Any

import orjson

from paxmux.engine.errors import Code, DataDirError, NodeStopped, PaxmuxError

SOCKET_NAME = "control.sock"
REQUEST_MAX_BYTES = 64 * 1024
ANSWER_MAX_BYTES = 64 * 1024 * 1024
CONNECTIONS_MAX = 32
IDLE_S = 60.0
ACCEPT_AGAIN_S = 1.0

_CREDENTIALS = Struct("iII")
"""pid, uid, gid"""

Handler = Callable[[dict[str, Any]], Awaitable[Any]]
"""Takes the request, returns what JSON can say. A `PaxmuxError` becomes an error answer."""

log = logging.getLogger("paxmux")


class ControlServer:
    """The node's side. Used in the node's event loop only."""

    def __init__(self, data_dir: Path, handlers: Mapping[str, Handler]) -> None:
        self._data_dir = data_dir
        self._handlers = handlers
        self._dir_fd = -1
        self._listener: socket.socket | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.refused = 0
        """Connections closed at once: there were too many, or another user's."""

    def start(self) -> None:
        """Bind, listen and serve in the running loop.

        Raises:
            DataDirError: the socket's place is taken by something that is no socket.
        """
        loop = asyncio.get_running_loop()
        self._dir_fd = _open_dir(self._data_dir)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._remove()
            # The mode that the descriptor has at bind becomes the file's: never open to others.
            os.fchmod(listener.fileno(), stat.S_IRUSR | stat.S_IWUSR)
            listener.bind(_path(self._dir_fd))
            listener.listen(CONNECTIONS_MAX)
        except BaseException:
            listener.close()
            os.close(self._dir_fd)
            self._dir_fd = -1
            raise
        self._listener = listener
        loop.add_reader(listener, self._accept, loop, listener)

    async def stop(self) -> None:
        """Close everything and remove the socket."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._listener = None
        self._remove()
        os.close(self._dir_fd)
        self._dir_fd = -1
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _remove(self) -> None:
        try:
            mode = os.stat(SOCKET_NAME, dir_fd=self._dir_fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise DataDirError(
                f"{self._data_dir / SOCKET_NAME}: expected nothing or a socket, found another file"
            )
        os.unlink(SOCKET_NAME, dir_fd=self._dir_fd)

    def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return  # whoever knocked has left
        except OSError as error:
            # No descriptor is left: to try again at once would only keep the loop busy.
            log.warning("the control socket cannot accept: %s", error)
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_AGAIN_S, self._accept_again, loop, listener)
            return
        if not _is_ours(connection):
            log.warning("a process of another user was refused at the control socket")
            self.refused += 1
            connection.close()
            return
        if len(self._connections) >= CONNECTIONS_MAX:
            self.refused += 1
            connection.close()
            return
        connection.setblocking(False)
        task = loop.create_task(self._on_connection(connection))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    def _accept_again(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        if listener is self._listener:
            loop.add_reader(listener, self._accept, loop, listener)

    async def _on_connection(self, connection: socket.socket) -> None:
        with connection:
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=REQUEST_MAX_BYTES)
            try:
                await self._serve(reader, writer)
            except (ConnectionError, TimeoutError) as error:
                log.debug("control connection ended: %s", error or type(error).__name__)
            finally:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await asyncio.wait_for(reader.readline(), IDLE_S)
            except ValueError:
                await _answer(writer, _error(f"a request has at most {REQUEST_MAX_BYTES} bytes"))
                return
            if not line.endswith(b"\n"):
                return
            await _answer(writer, await self._handle(line))

    async def _handle(self, line: bytes) -> bytes:
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return _error(f"expected a line of JSON: {error}")
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            return _error('expected an object with the key "op"')
        handler = self._handlers.get(request["op"])
        if handler is None:
            return _error(
                f"unknown op {request['op']!r}, expected one of {', '.join(sorted(self._handlers))}"
            )
        try:
            return orjson.dumps(
                {"ok": True, "result": await handler(request)}, option=orjson.OPT_NON_STR_KEYS
            )
        except PaxmuxError as error:
            return _error(str(error), error.code)
        except Exception as error:
            log.exception("control op %r failed", request["op"])
            return _error(f"internal error: {type(error).__name__}: {error}")


def _is_ours(connection: socket.socket) -> bool:
    """Whether the other end is a process of this user, or of root."""
    size = _CREDENTIALS.size
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return uid in (os.geteuid(), 0)


def request(data_dir: str | Path, message: dict[str, Any], timeout_s: float = 5.0) -> Any:
    """Ask the node that runs on a data directory; blocks.

    Args:
        data_dir: the node's data directory.
        message: the request, with its `op`.
        timeout_s: for the whole exchange.

    Returns:
        The `result` of the answer.

    Raises:
        NodeStopped: no node runs there.
        PaxmuxError: the node says no, or does not answer in time; the message has its words.
    """
    deadline = time.monotonic() + timeout_s
    line = orjson.dumps(message) + b"\n"
    try:
        dir_fd = _open_dir(Path(data_dir))
    except DataDirError as error:
        raise NodeStopped(str(error)) from None
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
            connection.settimeout(timeout_s)
            try:
                connection.connect(_path(dir_fd))
            except (FileNotFoundError, ConnectionRefusedError):
                raise NodeStopped(f"no node runs on {data_dir}") from None
            connection.sendall(line)
            answer = _read_line(connection, deadline)
    except TimeoutError:
        raise PaxmuxError(f"the node on {data_dir} did not answer within {timeout_s} s") from None
    except OSError as error:
        raise PaxmuxError(f"the node on {data_dir} hung up: {error}") from None
    finally:
        os.close(dir_fd)
    return _result(answer, data_dir)


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    answer = bytearray()
    while not answer.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        part = connection.recv(1 << 16)
        if not part:
            raise ConnectionError("it closed the connection before its answer was whole")
        answer += part
        if len(answer) > ANSWER_MAX_BYTES:
            raise ConnectionError(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
    return bytes(answer)


def _result(line: bytes, data_dir: str | Path) -> Any:
    try:
        answer = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise PaxmuxError(f"the node on {data_dir} answered with no JSON: {error}") from None
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        words = answer.get("error") if isinstance(answer, dict) else None
        raise PaxmuxError(f"the node on {data_dir} answered: {words or answer!r}")
    return answer.get("result")


async def _answer(writer: asyncio.StreamWriter, line: bytes) -> None:
    writer.write(line + b"\n")
    await asyncio.wait_for(writer.drain(), IDLE_S)


def _error(words: str, code: int = Code.SYSTEM_ERROR) -> bytes:
    return orjson.dumps({"ok": False, "error": words, "code": int(code)})


def _open_dir(data_dir: Path) -> int:
    try:
        return os.open(data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise DataDirError(
            f"{data_dir}: expected a directory that can be opened ({error.strerror})"
        ) from None


def _path(dir_fd: int) -> str:
    return f"/proc/self/fd/{dir_fd}/{SOCKET_NAME}"
