"""Stands between a process and every call by which it changes the files below one folder.

It numbers the calls of each thread, so that a run can be recorded once and then be disturbed at each of
them: the process is killed there, or the call fails. What LMDB writes it writes by itself: its calls count
where the program makes them (opening, a commit), and what they wrote is told from the file.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from paxmux.plugins.storage import index
from paxmux.shards import durable_file
from tests.disk_model import Event
from tests.lmdb_disk import NO_SYNC, NO_WRITE, broken, descriptors_of

PAGE_BYTES = 4096
META_PAGES = 2
REAL_OPEN = os.open
REAL_PWRITE = os.pwrite
WITHIN_COMMIT = {"pages": (0, NO_WRITE), "sync": (0, NO_SYNC), "meta": (1, NO_WRITE)}
"""Each system call that a commit of LMDB's makes: which of its descriptors, and what it writes to instead."""
_WRITES = frozenset({"write", "pwrite"})
_ON_DESCRIPTORS = ("write", "pwrite", "fsync", "fdatasync", "posix_fallocate", "ftruncate")
_ON_NAMES = ("unlink", "remove", "mkdir", "rmdir", "rename", "replace", "truncate", "link", "symlink")


class Call(NamedTuple):
    """A call that changes the disk."""

    thread: str
    number: int
    """Of this thread's calls, from 0 on."""
    name: str
    path: str
    """Relative to the folder."""


class Fault(NamedTuple):
    """What happens at one call."""

    thread: str
    number: int
    kind: str
    """`kill` or `error`."""
    when: str = "before"
    """`before` the call, `half` of a write, `after` it; or one of `WITHIN_COMMIT`."""
    errno: int = 0
    lasting: bool = False
    """Each later call of the same thread fails as well, until it is lifted."""


class Calls:
    """While it is entered, all calls pass here."""

    def __init__(self, root: Path, fault: Fault | None = None, *, record: bool = False) -> None:
        """
        Args:
            root: changes below it count.
            fault: happens once, if its call is made.
            record: keep what was written, for a `Disk`.
        """
        self.made: list[Call] = []
        self.events: list[Event] = []
        self.struck = False
        """The fault has happened."""
        self.within_commit: str | None = None
        """Which of the system calls of the commit under way fails."""
        self._root = os.path.realpath(root)
        self._fault = fault
        self._record = record
        self._numbers: dict[str, int] = {}
        self._lock = threading.RLock()
        self._main = threading.current_thread()
        self._data: dict[str, bytes] = {}

    @contextmanager
    def entered(self) -> Iterator[Calls]:
        """Put it in place for a while."""
        with ExitStack() as stack:
            for name in (*_ON_DESCRIPTORS, *_ON_NAMES):
                real = getattr(os, name)
                stack.enter_context(mock.patch.object(os, name, functools.partial(self._call, name, real)))
            stack.enter_context(mock.patch.object(os, "open", functools.partial(self._open, os.open)))
            stack.enter_context(mock.patch.object(index, "lmdb", _Lmdb(self, index.lmdb)))
            wrapped = functools.partial(_Written, self)
            stack.enter_context(mock.patch.object(durable_file, "open", wrapped, create=True))
            yield self

    def lift(self) -> None:
        """Nothing fails any more."""
        self._fault = None

    def said(self, word: bytes) -> None:
        """The process says something to the world outside."""
        with self._lock:
            self.events.append(Event("said", data=word))

    def outside(self, path: Path, offset: int, data: bytes) -> None:
        """Somebody else changes a file, or makes it; the bytes are durable."""
        below = self._below(str(path))
        if not path.exists():
            self._event("make", below)
        fd = REAL_OPEN(path, os.O_RDWR | os.O_CREAT, 0o644)
        REAL_PWRITE(fd, data, offset)
        os.close(fd)
        self._event("durable", below, offset, data)

    def around(self, name: str, path: str, work: Callable[[], Any], *, data: bytes | None = None) -> Any:
        """Make a call that changes the file at `path`, or what the fault makes of it."""
        with self._lock:
            call = self._next(name, path)
            fault = self._strikes(call)
            if fault is None:
                return work()
            if fault.when in WITHIN_COMMIT:
                self.within_commit = fault.when
                try:
                    return work()
                finally:
                    self.within_commit = None
            if fault.when == "half" and data is not None:
                REAL_PWRITE(self._half[0], data[: len(data) // 2], self._half[1])
            try:
                if fault.when == "after":
                    work()
            finally:
                if fault.kind == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(fault.errno, os.strerror(fault.errno), path)

    _half: tuple[int, int] = (-1, 0)
    """Where the write under way would go: descriptor and offset."""

    def _next(self, name: str, path: str) -> Call:
        thread = threading.current_thread()
        its = "main" if thread is self._main else thread.name
        number = self._numbers.get(its, 0)
        self._numbers[its] = number + 1
        call = Call(its, number, name, path)
        self.made.append(call)
        return call

    def _strikes(self, call: Call) -> Fault | None:
        fault = self._fault
        if fault is None:
            return None
        if (call.thread, call.number) == (fault.thread, fault.number):
            self.struck = True
            return fault
        return fault if fault.lasting and self.struck and call.thread == fault.thread else None

    def _open(self, real: Callable[..., int], path: Any, flags: int, *args: Any, **more: Any) -> int:
        below = self._below(self._full(path, more.get("dir_fd")))
        if below is None or not flags & (os.O_CREAT | os.O_TRUNC):
            return real(path, flags, *args, **more)
        full = os.path.join(self._root, below)
        made, cut = not os.path.lexists(full), flags & os.O_TRUNC
        if not made and not (cut and os.stat(full).st_size):
            return real(path, flags, *args, **more)

        def work() -> int:
            fd = real(path, flags, *args, **more)
            self._event(*(("make", below) if made else ("length", below)))
            return fd

        return int(self.around("open", below, work))

    def _call(self, name: str, real: Callable[..., Any], *args: Any, **more: Any) -> Any:
        on_name = name in _ON_NAMES
        full = self._full(args[0], more.get("dir_fd")) if on_name else _path_of(args[0])
        below = self._below(full)
        if below is None or (name == "mkdir" and os.path.isdir(full)):
            return real(*args, **more)

        def work() -> Any:
            result = real(*args, **more)
            self._happened(name, below, args, result)
            return result

        data = None
        if name in _WRITES:
            data = bytes(args[1])
            with self._lock:
                # A descriptor without an offset is one that a file is written through from its start.
                self._half = (args[0], args[2] if name == "pwrite" else os.lseek(args[0], 0, os.SEEK_CUR))
                return self.around(name, below, work, data=data)
        return self.around(name, below, work)

    def _happened(self, name: str, below: str, args: tuple[Any, ...], result: Any) -> None:
        if not self._record:
            return
        if name in _WRITES:
            offset = args[2] if name == "pwrite" else os.lseek(args[0], 0, os.SEEK_CUR) - result
            self._event("write", below, offset, bytes(args[1])[:result])
        elif name in ("fsync", "fdatasync"):
            folder = os.path.isdir(os.path.join(self._root, below))
            self._event("sync folder" if folder else "sync", below)
        elif name == "posix_fallocate":
            length = os.fstat(args[0]).st_size
            self.events.append(Event("length", below, length=length))
        elif name in ("ftruncate", "truncate"):
            self.events.append(Event("length", below, length=args[1]))
        elif name in ("rename", "replace"):
            to = self._below(os.fspath(args[1]))
            assert to is not None
            self.events.append(Event("rename", below, to=to))
        elif name in ("unlink", "remove", "rmdir"):
            self._event("remove", below)
        else:
            assert name == "mkdir", name
            self._event("mkdir", below)

    def _event(self, kind: str, below: str | None, offset: int = 0, data: bytes = b"") -> None:
        if self._record:
            assert below is not None
            self.events.append(Event(kind, below, offset, data))

    def lmdb_wrote(self, folder: str) -> None:
        """Take in what LMDB has written: pages, their sync, then a meta page that is synced by itself."""
        if not self._record:
            return
        below = self._below(folder)
        assert below is not None
        for path in (below, f"{below}/data.mdb"):
            if path not in self._data:
                self._data[path] = b""
                self._event("mkdir" if path == below else "make", path)
        file = f"{below}/data.mdb"
        with open(os.path.join(self._root, file), "rb") as data:
            now = data.read()
        before, self._data[file] = self._data[file], now
        pages = [
            n for n in range(0, len(now), PAGE_BYTES) if now[n : n + PAGE_BYTES] != before[n : n + PAGE_BYTES]
        ]
        for kind, chosen in (
            ("write", [n for n in pages if n >= META_PAGES * PAGE_BYTES]),
            ("durable", [n for n in pages if n < META_PAGES * PAGE_BYTES]),
        ):
            for offset in chosen:
                self._event(kind, file, offset, now[offset : offset + PAGE_BYTES])
            if kind == "write" and chosen:
                self._event("sync", file)

    def forget(self, folder: str) -> None:
        """The files of an LMDB environment may be others when it is opened again."""
        below = self._below(folder)
        assert below is not None
        if not os.path.exists(os.path.join(self._root, below)):
            self._data = {path: data for path, data in self._data.items() if not path.startswith(below)}

    def _full(self, path: Any, dir_fd: int | None) -> str:
        text = os.fspath(path)
        return os.path.join(_path_of(dir_fd), text) if dir_fd is not None else os.path.abspath(text)

    def _below(self, path: str) -> str | None:
        if path == self._root:
            return "."
        return path[len(self._root) + 1 :] if path.startswith(self._root + "/") else None


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


class _Written:
    """What `open` of a descriptor returns, as far as it is used: it writes."""

    def __init__(self, calls: Calls, file: Any, mode: str = "r", **more: Any) -> None:
        self._file = open(file, mode, **more)  # noqa: SIM115
        self._writes = "w" in mode
        self._fd = file

    def __enter__(self) -> Any:
        return self if self._writes else self._file

    def __exit__(self, *about: Any) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        return os.write(self._fd, data)


class _Lmdb:
    """The module `lmdb`, whose environments are watched."""

    def __init__(self, calls: Calls, real: Any) -> None:
        self._calls = calls
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def open(self, path: str, **more: Any) -> _Environment:
        self._calls.forget(path)
        env = _failing(self._real, self._calls, "lmdb.open", path, lambda: self._real.open(path, **more))
        return _Environment(self._calls, self._real, path, env)


class _Environment:
    """An environment whose commits are calls."""

    def __init__(self, calls: Calls, real: Any, path: str, env: Any) -> None:
        self._calls, self._real, self._path, self._env = calls, real, path, env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def open_db(self, key: bytes) -> Any:
        before = self._env.info()["last_txnid"]

        def work() -> Any:
            return self._env.open_db(key)

        with self._env.begin() as txn:
            made = txn.get(key) is None
        found = _failing(self._real, self._calls, "lmdb.open_db", self._path, work) if made else work()
        assert made == (self._env.info()["last_txnid"] > before), "a database was made, or it was not"
        return found

    @contextmanager
    def begin(self, *, write: bool = False, db: Any = None) -> Iterator[Any]:
        if not write:
            with self._env.begin(db=db) as txn:
                yield txn
            return
        txn = self._env.begin(write=True, db=db)
        try:
            yield txn
            _failing(self._real, self._calls, "lmdb.commit", self._path, functools.partial(self._commit, txn))
        except BaseException:
            txn.abort()
            raise

    def _commit(self, txn: Any) -> None:
        """Commit; where the fault is one of the system calls within, LMDB meets it there."""
        broken_call = self._calls.within_commit
        if broken_call is None:
            txn.commit()
            return
        which, device = WITHIN_COMMIT[broken_call]
        with broken(descriptors_of(Path(self._path) / "data.mdb")[which], device):
            txn.commit()


def _failing(real: Any, calls: Calls, name: str, path: str, work: Callable[[], Any]) -> Any:
    """A call of LMDB's: its errors are LMDB's own, and what it wrote is taken in."""

    def done() -> Any:
        result = work()
        calls.lmdb_wrote(path)
        return result

    try:
        return calls.around(name, os.path.relpath(path, calls._root), done)
    except real.Error:
        raise
    except OSError as error:
        raise real.Error(f"{path}: {error.strerror}") from error
